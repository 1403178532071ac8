//! The file of leases: a line for each that was given or ended, the last of an address counts. A line is appended and
//! synced before its lease is promised, and bears a checksum, so a torn one is seen and passed over.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::address::{IfName, Mac};
use serde::{Deserialize, Serialize};

/// A lease of an address out of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The LAN.
    pub lan: IfName,
    /// The address.
    pub address: Ipv4Addr,
    /// Who has it.
    pub mac: Mac,
    /// What it calls itself, where it may.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970; 0 for one that was given back.
    pub until: u64,
}

/// After so many lines the file is written anew.
pub const LONG: usize = 20_000;

/// A lease as a line.
#[must_use]
pub fn line(lease: &Lease) -> String {
    // A struct of plain values has a JSON form.
    let body = serde_json::to_string(lease).unwrap_or_default();
    format!("{:08x} {body}\n", checksum(body.as_bytes()))
}

/// The leases of a file that hold at `now`.
#[must_use]
pub fn read(text: &str, now: u64) -> Vec<Lease> {
    let mut last = BTreeMap::new();
    for lease in text.lines().filter_map(parse) {
        last.insert((lease.lan.clone(), lease.address), lease);
    }
    last.into_values().filter(|lease| lease.until > now).collect()
}

fn parse(line: &str) -> Option<Lease> {
    let (sum, body) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == checksum(body.as_bytes())).then(|| serde_json::from_str(body).ok()).flatten()
}

/// FNV-1a (of 32 bits): it is to see a torn line, not an enemy's.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lease(last: u8, until: u64) -> Lease {
        Lease {
            lan: IfName::new("br1").unwrap(),
            address: Ipv4Addr::new(10, 1, 1, last),
            mac: Mac([2, 0, 0, 0, 0, last]),
            name: Some("a".to_owned()),
            until,
        }
    }

    #[test]
    fn the_last_line_of_an_address_counts_and_a_torn_one_does_not() {
        let whole: String = [lease(1, 100), lease(2, 100), lease(1, 200), lease(2, 0)].iter().map(line).collect();
        assert_eq!(read(&whole, 50), [lease(1, 200)]);
        assert_eq!(read(&whole, 200), []);
        // Cut anywhere within its third line: the first two hold.
        let two: usize = whole.split_inclusive('\n').take(2).map(str::len).sum();
        let three: usize = whole.split_inclusive('\n').take(3).map(str::len).sum();
        for cut in two..three - 1 {
            assert_eq!(read(&whole[..cut], 50), [lease(1, 100), lease(2, 100)], "cut at {cut}");
        }
    }
}
