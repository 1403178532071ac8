//! What guests without an address are leased: always the same, so that it can be pinned to their ports, named and
//! forwarded to, whether it was asked for yet or not.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest as _, Sha256};

use super::Scope;
use crate::config::{self, Config, elements};
use crate::network::Mode;
use crate::problem::Problem;

/// The lease of each guest that the file gives no address, in the guests' order. It follows from the guest's name, so a
/// guest more moves no other, but where two names fall on one address: then the one that stands later in the file takes
/// the next free one.
pub(super) fn assign(config: &Config, lan_of: &[Option<usize>]) -> Vec<Option<Ipv4Addr>> {
    let mut taken: HashSet<Ipv4Addr> = HashSet::new();
    let held = config.lans.iter().flat_map(|lan| elements(lan.address.as_ref())).map(|net| net.value.addr());
    let fixed = config.guests.iter().flat_map(|guest| elements(guest.address.as_ref())).map(|address| address.value);
    taken.extend(held.chain(fixed).filter_map(|address| match address {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }));
    let guests = config.guests.iter().zip(lan_of);
    guests
        .map(|(guest, lan)| {
            let lan = lan.and_then(|lan| config.lans.get(lan))?;
            let address = free(guest, lan, &taken)?;
            taken.insert(address);
            Some(address)
        })
        .collect()
}

fn free(guest: &config::Guest, lan: &config::Lan, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    if !wants(guest, lan) {
        return None;
    }
    let range = lan.dhcp.as_ref()?.value;
    let (first, count) = (u32::from(range.first), u64::from(u32::from(range.last) - u32::from(range.first)) + 1);
    let digest = Sha256::digest(guest.name.value.to_ascii_lowercase().as_bytes());
    let start = digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) % count;
    let nth = |n: u64| u32::try_from((start + n) % count).ok().map(|offset| Ipv4Addr::from(first + offset));
    // Among one address more than are taken at all, one is free, or the range has no more.
    let look = count.min(taken.len() as u64 + 1);
    (0..look).filter_map(nth).find(|address| !taken.contains(address))
}

/// Whether the guest has its address from the LAN's range. On a bridged LAN the outer network gives it one.
fn wants(guest: &config::Guest, lan: &config::Lan) -> bool {
    let has = !elements(guest.address.as_ref()).is_empty();
    !has && !guest.broken && lan.mode() != Mode::Bridged && lan.dhcp.is_some()
}

/// A range that has not room for those who need it.
pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    for (i, guest) in scope.config.guests.iter().enumerate() {
        let Some(lan) = scope.lan_of_guest(i) else { continue };
        let Some(range) = lan.dhcp.as_ref().filter(|_| wants(guest, lan)) else { continue };
        if scope.leased.get(i).copied().flatten().is_none() {
            let message = format!("no address of the range is left for \"{}\"", guest.name.value);
            let problem = Problem::config(guest.name.span.clone(), message).help("make the range larger");
            problems.push(problem.also(range.span.clone(), "its LAN's range"));
        }
    }
}
