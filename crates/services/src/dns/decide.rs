//! Whose question it is: our zone's, the world's, or nobody's. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::services::{LanServices, Services};

use super::wire::{self, Data, IN, Name, Query, Rcode, Reply, rtype};

/// How long our own names may be remembered, in seconds: a reload is seen within a minute.
const TTL: u32 = 60;

/// What is known of names on a LAN.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// The zone's own name.
    domain: Name,
    /// Full names, in lower case.
    names: HashMap<Name, Vec<IpAddr>>,
    /// The name of an address.
    reverse: HashMap<IpAddr, Name>,
    /// The LAN's subnets: addresses of which nobody else has a name.
    nets: Vec<IpNet>,
    /// Who asks here.
    own: Vec<IpAddr>,
    /// Whether names of the world are looked up.
    recursion: bool,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is answered here.
    Reply(Vec<u8>),
    /// Nobody here may ask it.
    Refuse(Vec<u8>),
    /// It is for the upstream resolvers.
    Forward,
}

/// A name that a client of DHCP's has brought along, and its address.
pub type Lease<'a> = (&'a str, IpAddr);

impl Zone {
    /// The zone of a LAN, with the names that leases bring.
    #[must_use]
    pub fn of<'a>(lan: &LanServices, leases: impl Iterator<Item = Lease<'a>>) -> Self {
        let own: Vec<IpAddr> = lan.addresses.iter().map(IpNet::addr).collect();
        let mut zone = Self {
            domain: wire::name(&lan.domain).unwrap_or_else(|| vec![0]),
            nets: lan.addresses.iter().map(IpNet::trunc).collect(),
            recursion: lan.recursion,
            ..Self::default()
        };
        let full = |label: &str| wire::name(&format!("{label}.{}", lan.domain));
        for host in &lan.hosts {
            for name in [&host.name].into_iter().chain(&host.aliases) {
                if let Some(name) = full(name) {
                    zone.names.entry(name).or_insert_with(|| host.addresses.clone());
                }
            }
            if let Some(name) = full(&host.name) {
                host.addresses.iter().for_each(|address| {
                    zone.reverse.entry(*address).or_insert_with(|| name.clone());
                });
            }
        }
        // Behind the file's own, so that no client takes a name of somebody's.
        for (label, address) in leases {
            if let Some(name) = full(label).filter(|name| !zone.names.contains_key(name)) {
                zone.reverse.entry(address).or_insert_with(|| name.clone());
                zone.names.insert(name, vec![address]);
            }
        }
        // The zone's own name is the host.
        for address in &own {
            zone.reverse.entry(*address).or_insert_with(|| zone.domain.clone());
        }
        zone.names.insert(zone.domain.clone(), own.clone());
        zone.own = own;
        zone
    }

    /// What becomes of a question that came from `source`.
    #[must_use]
    pub fn decide(&self, query: &Query, source: IpAddr, limit: usize) -> Decision {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Decision::Reply(Reply::new(query, Rcode::NoError, self.recursion).bad_version().finish(limit));
        }
        let zones = (rtype::FIRST_OF_ZONES..=rtype::LAST_OF_ZONES).contains(&query.kind);
        if !self.may_ask(source) || query.class != IN || zones {
            return Decision::Refuse(Reply::new(query, Rcode::Refused, self.recursion).finish(limit));
        }
        let name = query.name.to_ascii_lowercase();
        if let Some(reply) = self.ours(query, &name) {
            return Decision::Reply(reply.finish(limit));
        }
        if !self.recursion {
            return Decision::Refuse(Reply::new(query, Rcode::Refused, false).finish(limit));
        }
        Decision::Forward
    }

    /// Stations of the LAN, and this host itself.
    fn may_ask(&self, source: IpAddr) -> bool {
        let link_local = match source {
            IpAddr::V6(a) => a.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        link_local || self.own.contains(&source) || self.nets.iter().any(|net| net.contains(&source))
    }

    fn ours<'q>(&self, query: &'q Query, name: &[u8]) -> Option<Reply<'q>> {
        let reply = |rcode| Reply::new(query, rcode, self.recursion).authoritative();
        if is_within(name, &self.domain) {
            let Some(addresses) = self.names.get(name) else { return Some(self.absent(reply(Rcode::NxDomain))) };
            let mut found = reply(Rcode::NoError);
            let mut any = false;
            if name == self.domain {
                if matches!(query.kind, rtype::SOA | rtype::ANY) {
                    found.answer(TTL, &Data::Start(&self.domain));
                    any = true;
                }
                if matches!(query.kind, rtype::NS | rtype::ANY) {
                    found.answer(TTL, &Data::Server(&self.domain));
                    any = true;
                }
            }
            any |= add(&mut found, query.kind, addresses);
            return Some(if any { found } else { self.absent(found) });
        }
        if let Some(address) = wire::reversed(name).filter(|a| self.nets.iter().any(|net| net.contains(a))) {
            return Some(match self.reverse.get(&address) {
                Some(known) if matches!(query.kind, rtype::PTR | rtype::ANY) => {
                    let mut found = reply(Rcode::NoError);
                    found.answer(TTL, &Data::Pointer(known));
                    found
                }
                Some(_) => reply(Rcode::NoError),
                None => reply(Rcode::NxDomain),
            });
        }
        let labels: Vec<&[u8]> = wire::labels(name).collect();
        // RFC 6761: never asked of anybody.
        if labels.last().is_some_and(|last| *last == b"localhost") {
            let mut found = reply(Rcode::NoError);
            add(&mut found, query.kind, &[IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()]);
            return Some(found);
        }
        if let ([label], rtype::A | rtype::AAAA | rtype::ANY) = (&*labels, query.kind) {
            // A name without a domain is one of the zone's, or nobody's.
            let mut full = vec![name[0]];
            full.extend_from_slice(label);
            full.extend_from_slice(&self.domain);
            return Some(match self.names.get(&full) {
                Some(addresses) => {
                    let mut found = reply(Rcode::NoError);
                    add(&mut found, query.kind, addresses);
                    found
                }
                None => reply(Rcode::NxDomain),
            });
        }
        None
    }

    /// Why there is nothing, and for how long that may be believed (RFC 2308).
    fn absent<'q>(&self, mut reply: Reply<'q>) -> Reply<'q> {
        reply.authority(&self.domain, TTL, &Data::Start(&self.domain));
        reply
    }
}

fn is_within(name: &[u8], zone: &[u8]) -> bool {
    // Whole labels alone: the labels of the longer name are cut one by one.
    let mut rest = name;
    while rest.len() >= zone.len() {
        if rest == zone {
            return true;
        }
        match rest.split_first().and_then(|(length, behind)| behind.get(usize::from(*length)..)) {
            Some(behind) if rest[0] > 0 => rest = behind,
            _ => return false,
        }
    }
    false
}

fn add(reply: &mut Reply<'_>, kind: u16, addresses: &[IpAddr]) -> bool {
    let wanted = |address: &&IpAddr| match kind {
        rtype::A => address.is_ipv4(),
        rtype::AAAA => address.is_ipv6(),
        rtype::ANY => true,
        _ => false,
    };
    let mut any = false;
    for address in addresses.iter().filter(wanted) {
        reply.answer(TTL, &Data::Address(*address));
        any = true;
    }
    any
}

/// The addresses of a name that is ours to answer, of all LANs' zones: by the zone that it is within (the closest one,
/// where one lies in another), or as a bare label of the first that has it. None where it is the world's.
#[must_use]
pub fn of_ours(zones: &[impl std::borrow::Borrow<Zone>], name: &[u8]) -> Option<Vec<IpAddr>> {
    let labels: Vec<&[u8]> = wire::labels(name).collect();
    if labels.last().is_some_and(|last| *last == b"localhost") {
        return Some(vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()]);
    }
    let zones = zones.iter().map(std::borrow::Borrow::borrow);
    if let [label] = &*labels {
        let found = zones.into_iter().find_map(|zone: &Zone| {
            let mut full = vec![name[0]];
            full.extend_from_slice(label);
            full.extend_from_slice(&zone.domain);
            zone.names.get(&full)
        });
        return Some(found.cloned().unwrap_or_default());
    }
    let mut within: Vec<&Zone> = zones.filter(|zone| is_within(name, &zone.domain)).collect();
    within.sort_by_key(|zone| std::cmp::Reverse(zone.domain.len()));
    let found = within.iter().find_map(|zone| zone.names.get(name)).cloned();
    (!within.is_empty()).then(|| found.unwrap_or_default())
}

/// Addresses that no name of the world's may stand for: those of our LANs, and of whoever asks himself. A page of the
/// world's could else make a browser on a LAN its tool (DNS rebinding).
#[derive(Clone, Debug, Default)]
pub struct Inside(Vec<IpNet>);

impl Inside {
    /// Of all LANs.
    #[must_use]
    pub fn of(services: &Services) -> Self {
        Self(services.lans.iter().flat_map(|lan| lan.addresses.iter().map(IpNet::trunc)).collect())
    }

    /// Whether an address is one of those.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified() || self.0.iter().any(|net| net.contains(&address))
    }
}
