//! Which guest a request goes to, and whether one lives.

use std::net::IpAddr;

use crate::network::{Balance, Health};

/// A guest that a request may go to, at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name: what keeps a client with it.
    pub name: &'a str,
    /// Whether it lives, and was not tried for this request yet.
    pub usable: bool,
    /// Requests that it has open.
    pub busy: usize,
}

/// The place of the one that is chosen; none where none is usable. `turn` grows by one with each request.
pub fn pick<'a>(
    balance: Balance,
    candidates: impl ExactSizeIterator<Item = Candidate<'a>> + Clone,
    turn: usize,
    client: IpAddr,
) -> Option<usize> {
    let count = candidates.len();
    // Who is next by turn comes first.
    let place = move |nth: usize| (nth + count - turn % count) % count;
    let usable = candidates.enumerate().filter(|(_, candidate)| candidate.usable);
    match balance {
        Balance::RoundRobin => usable.min_by_key(|(nth, _)| place(*nth)),
        Balance::LeastConnections => usable.min_by_key(|(nth, candidate)| (candidate.busy, place(*nth))),
        Balance::ClientHash => usable.max_by_key(|(_, candidate)| weight(client, candidate.name)),
    }
    .map(|(nth, _)| nth)
}

/// What a guest weighs for a client (rendezvous hashing): who is the heaviest has it. When one goes, only its own
/// clients move, and they come back with it.
fn weight(client: IpAddr, name: &str) -> u64 {
    // FNV-1a, then the finalizer of MurmurHash3, without which neighbouring addresses stay neighbours.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = match client {
        IpAddr::V4(address) => address.octets().into_iter().fold(hash, step),
        IpAddr::V6(address) => address.octets().into_iter().fold(hash, step),
    };
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Whether a guest lives, by what was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    alive: bool,
    /// How many times in a row the contrary was seen.
    contrary: u64,
}

impl Default for Vitals {
    /// Of whom nothing is known it is believed that it lives.
    fn default() -> Self {
        Self { alive: true, contrary: 0 }
    }
}

impl Vitals {
    /// Whether it lives.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// It answered or did not; whether that makes it live or dead, where it changes.
    pub fn note(&mut self, answered: bool, health: &Health) -> Option<bool> {
        if answered == self.alive {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        let enough = if self.alive { health.failures } else { health.successes };
        if self.contrary < enough {
            return None;
        }
        *self = Self { alive: answered, contrary: 0 };
        Some(answered)
    }
}
