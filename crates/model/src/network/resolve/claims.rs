//! Ports that forwards take, and forwards that take the same one.
//!
//! There may be ten thousand forwards, so everything here is sorted and swept once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::Scope;
use crate::address::{Ports, Transport};
use crate::problem::Problem;

/// Ports of one protocol that a forward takes from the world.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// The public address, or every one.
    pub address: Option<IpAddr>,
    /// The ports.
    pub ports: Ports,
    /// Their protocol.
    pub transport: Transport,
    /// Where the forward's `listen` stands.
    pub span: Range<usize>,
}

impl Claim {
    /// How people call it: `203.0.113.5:22/tcp`.
    pub(super) fn words(&self) -> String {
        words(self.address, self.ports, self.transport)
    }
}

/// `ADDRESS:PORTS/PROTOCOL`.
pub(super) fn words(address: Option<IpAddr>, ports: Ports, transport: Transport) -> String {
    match address {
        None => format!("{ports}/{transport}"),
        Some(IpAddr::V4(a)) => format!("{a}:{ports}/{transport}"),
        Some(IpAddr::V6(a)) => format!("[{a}]:{ports}/{transport}"),
    }
}

/// All that the file's forwards take: runs of ports, and DMZs by address.
#[derive(Default)]
pub(super) struct Claims {
    /// Those of ports.
    pub ports: Vec<Claim>,
    /// Those of everything: address and place.
    pub everything: Vec<(Option<IpAddr>, Range<usize>)>,
}

pub(super) fn check_each_other(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) {
    for transport in [Transport::Tcp, Transport::Udp] {
        let mut groups: HashMap<Option<IpAddr>, Vec<&Claim>> = HashMap::new();
        for claim in claims.ports.iter().filter(|claim| claim.transport == transport) {
            groups.entry(claim.address).or_default().push(claim);
        }
        let mut sweeps: HashMap<Option<IpAddr>, Sweep<'_>> = HashMap::new();
        for (address, group) in groups {
            sweeps.insert(address, Sweep::new(group, problems));
        }
        let Some(every) = sweeps.remove(&None) else { continue };
        let named = sweeps.iter().filter(|(address, _)| address.is_some_and(|address| scope.public_covers(address)));
        for claim in named.flat_map(|(_, sweep)| &sweep.sorted) {
            if let Some(other) = every.overlapping(claim.ports) {
                problems.push(collision(claim, other));
            }
        }
    }
    check_everything(scope, claims, problems);
}

/// Claims of one protocol and address, sorted by first port.
struct Sweep<'a> {
    sorted: Vec<&'a Claim>,
    /// For each, the one that reaches farthest among it and those before it.
    farthest: Vec<&'a Claim>,
}

impl<'a> Sweep<'a> {
    /// Sorts them, and reports those that overlap one another.
    fn new(mut sorted: Vec<&'a Claim>, problems: &mut Vec<Problem>) -> Self {
        sorted.sort_by_key(|claim| (claim.ports.first, claim.span.start));
        let mut farthest: Vec<&Claim> = Vec::with_capacity(sorted.len());
        for &claim in &sorted {
            let reach = match farthest.last() {
                Some(&before) => {
                    if before.ports.overlaps(claim.ports) {
                        problems.push(collision(claim, before));
                    }
                    if before.ports.last >= claim.ports.last { before } else { claim }
                }
                None => claim,
            };
            farthest.push(reach);
        }
        Self { sorted, farthest }
    }

    /// One that has a port in common with `ports`.
    fn overlapping(&self, ports: Ports) -> Option<&'a Claim> {
        let begins = self.sorted.partition_point(|claim| claim.ports.first <= ports.last);
        let reach = self.farthest.get(begins.checked_sub(1)?)?;
        (reach.ports.last >= ports.first).then_some(*reach)
    }
}

/// The problem of two forwards, told at the one that stands later in the file.
fn collision(a: &Claim, b: &Claim) -> Problem {
    let (early, late) = if a.span.start <= b.span.start { (a, b) } else { (b, a) };
    let (first, last) = (a.ports.first.max(b.ports.first), a.ports.last.min(b.ports.last));
    let common = words(a.address.or(b.address), Ports { first, last }, a.transport);
    let problem = Problem::config(late.span.clone(), format!("another forward takes {common}"));
    problem.help("listen on another port or address").also(early.span.clone(), "taken here")
}

/// Two DMZs of one address.
fn check_everything(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) {
    let mut by_address: HashMap<Option<IpAddr>, &Range<usize>> = HashMap::new();
    for (address, span) in &claims.everything {
        match by_address.get(address) {
            Some(other) => problems.push(second_dmz(span, other)),
            None => {
                by_address.insert(*address, span);
            }
        }
    }
    let Some(every) = by_address.remove(&None) else { return };
    for (_, span) in by_address.iter().filter(|(address, _)| address.is_some_and(|a| scope.public_covers(a))) {
        problems.push(if span.start > every.start { second_dmz(span, every) } else { second_dmz(every, span) });
    }
}

fn second_dmz(late: &Range<usize>, early: &Range<usize>) -> Problem {
    let problem = Problem::config(late.clone(), "another forward takes everything that is left");
    problem.help("one guest alone can be an address's DMZ").also(early.clone(), "taken here")
}
