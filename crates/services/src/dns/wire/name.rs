//! Names as they are on the wire, and what they stand for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{LONGEST_NAME, Name};

/// A name of the configuration's on the wire, in lower case; none where a label or all of it is too long.
#[must_use]
pub fn name(text: &str) -> Option<Name> {
    let mut name = Vec::with_capacity(text.len() + 2);
    for label in text.trim_end_matches('.').split('.').filter(|_| !text.is_empty() && text != ".") {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        name.push(length);
        name.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    name.push(0);
    (name.len() <= LONGEST_NAME).then_some(name)
}

/// The labels of a name.
pub fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first()?;
        if *length == 0 {
            return None;
        }
        let (label, behind) = behind.split_at_checked(usize::from(*length))?;
        rest = behind;
        Some(label)
    })
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for, where it is a whole one (RFC 1035, RFC 3596).
#[must_use]
pub fn reversed(name: &[u8]) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = labels(name).collect();
    let is = |at: usize, word: &str| labels.get(at).is_some_and(|label| label.eq_ignore_ascii_case(word.as_bytes()));
    match labels.len() {
        6 if is(4, "in-addr") && is(5, "arpa") => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(&labels) {
                *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        34 if is(32, "ip6") && is(33, "arpa") => {
            let mut bits = 0u128;
            for label in labels.get(..32)?.iter().rev() {
                let [digit] = label else { return None };
                bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}
