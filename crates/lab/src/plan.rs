//! What the stand-in world around a network looks like: which addresses everybody in it has. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::address::IfName;
use model::network::{Lan, Network, Public};

use crate::enter::LabError;

/// The server's public addresses where the configuration names none: of documentation ranges (RFC 5737, RFC 3849).
const PUBLIC4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 2);
/// A client beyond the router; the first that lies in nobody's way.
const CLIENTS4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(203, 0, 113, 7)];
const CLIENTS6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 7), Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 7)];

/// One address family's segment: who is on the wire of the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The prefix that all on it share.
    pub prefix: IpNet,
    /// The router towards the world: the server's default gateway.
    pub router: IpAddr,
    /// Another machine on it.
    pub neighbour: IpAddr,
    /// The server's addresses; the first lies in `prefix`, the others may lie anywhere.
    pub server: Vec<IpAddr>,
    /// A client beyond the router.
    pub client: IpAddr,
}

impl Segment {
    /// An address of the segment with the segment's prefix length; one that lies elsewhere stands alone.
    #[must_use]
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        if self.prefix.contains(&address) {
            IpNet::new(address, self.prefix.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
        } else {
            IpNet::from(address)
        }
    }
}

/// Another prefix that machines on the wire of the uplink share: of a bridged LAN whose guests have addresses there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The prefix.
    pub prefix: IpNet,
    /// What the world's router has of it.
    pub router: IpAddr,
    /// The neighbour.
    pub neighbour: IpAddr,
    /// The server.
    pub server: IpAddr,
}

impl Wire {
    /// One of its addresses with its prefix length.
    #[must_use]
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.prefix.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
    }
}

/// A world to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabPlan {
    /// The uplink's name in the server: what holds its addresses.
    pub uplink: IfName,
    /// Bridges that are there already, others'; the uplink may be one of them.
    pub bridges: Vec<IfName>,
    /// A segment for each address family, at most one each; IPv4 first.
    pub segments: Vec<Segment>,
    /// What else bridged LANs share with the uplink's segment.
    pub wires: Vec<Wire>,
    /// Whether guests stand on the uplink's segment.
    pub shared: bool,
    /// What else in the world answers: resolvers, and the addresses of `[check]`.
    pub answering: Vec<IpAddr>,
    /// The LANs' subnets, which everybody outside routes at the server.
    pub lans: Vec<IpNet>,
    /// Where the world reaches the server.
    pub public: Vec<IpAddr>,
    /// The names of the guests, which the lab's own namespaces must not take.
    pub guests: Vec<String>,
}

impl LabPlan {
    /// The world for `network`.
    pub fn of(network: &Network) -> Result<Self, LabError> {
        // A bridged LAN is no network behind the server.
        let behind = || network.lans.iter().filter(|lan| !lan.is_bridged());
        let nets = behind().flat_map(|l| &l.addresses).map(IpNet::trunc);
        let alone = behind().flat_map(|l| network.alone(l)).map(|(_, address)| IpNet::from(address));
        let lans: Vec<IpNet> = nets.chain(alone).collect();
        let outer = network.lan(&network.uplink.name).filter(|lan| lan.is_bridged());
        let stations = stations(network, outer);
        let v6 = lans.iter().any(|net| net.addr().is_ipv6()) || stations.iter().any(IpAddr::is_ipv6);
        let listed: &[IpAddr] = match &network.public {
            Public::Listed(addresses) => addresses,
            Public::Dynamic => &[],
        };
        let mut server: Vec<IpAddr> = listed.to_vec();
        if !server.iter().any(IpAddr::is_ipv4) {
            server.push(PUBLIC4.into());
        }
        if v6 && !server.iter().any(IpAddr::is_ipv6) {
            server.push(PUBLIC6.into());
        }
        let named =
            network.reach.iter().filter_map(|r| r.address).chain(network.lans.iter().flat_map(|l| l.dns.clone()));
        let mut answering: Vec<IpAddr> = Vec::new();
        for address in named {
            let held = lans.iter().any(|lan| lan.contains(&address)) || server.contains(&address);
            let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
            if !held && !special && !answering.contains(&address) {
                answering.push(address);
            }
        }
        let mut segments = Vec::new();
        for of_v6 in [false, true] {
            let own: Vec<IpAddr> = server.iter().copied().filter(|a| a.is_ipv6() == of_v6).collect();
            if !own.is_empty() {
                segments.push(segment(own, &lans, &taken(&answering, &stations), routers(outer))?);
            }
        }
        let wires =
            outer.map(|lan| wires(lan, &stations, &segments, &lans, &answering)).transpose()?.unwrap_or_default();
        let public = if listed.is_empty() { server } else { listed.to_vec() };
        let guests = network.guests.iter().map(|g| g.name.clone()).collect();
        // Where a bridge of warren's will play the uplink, its port is what is there.
        let played = network.lan(&network.uplink.name).and_then(|lan| lan.carries());
        let uplink = played.unwrap_or(&network.uplink.name).clone();
        let bridges = network.lans.iter().filter(|lan| lan.is_external()).map(|lan| lan.bridge.clone()).collect();
        let shared = outer.is_some();
        Ok(Self { uplink, bridges, segments, wires, shared, answering, lans, public, guests })
    }

    /// What the cable of the uplink is called in the server.
    #[must_use]
    pub fn cable(&self) -> IfName {
        let port = IfName::new("outer0").ok().filter(|_| self.bridges.contains(&self.uplink));
        port.unwrap_or_else(|| self.uplink.clone())
    }

    /// What the neighbour is called by.
    pub fn neighbours(&self) -> impl Iterator<Item = IpAddr> {
        self.segments.iter().map(|s| s.neighbour).chain(self.wires.iter().map(|wire| wire.neighbour))
    }

    /// Every address that somebody in the world has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let segments = self.segments.iter().flat_map(|s| s.server.iter().copied().chain([s.router, s.client]));
        let wires = self.wires.iter().flat_map(|wire| [wire.router, wire.server]);
        segments.chain(wires).chain(self.neighbours()).chain(self.answering.iter().copied())
    }

    /// The segment of `address`'s family.
    #[must_use]
    pub fn segment_for(&self, address: IpAddr) -> Option<&Segment> {
        self.segments.iter().find(|s| s.prefix.addr().is_ipv4() == address.is_ipv4())
    }
}

/// The addresses of guests that stand on the uplink's segment.
fn stations(network: &Network, outer: Option<&Lan>) -> Vec<IpAddr> {
    let on_it = network.guests.iter().filter(|guest| outer.is_some_and(|lan| lan.bridge == guest.lan));
    on_it.flat_map(|guest| guest.addresses.iter().copied()).collect()
}

/// The outer network's routers, as far as they are known.
fn routers(outer: Option<&Lan>) -> &[IpAddr] {
    outer.and_then(|lan| lan.outer.as_ref()).map_or(&[], |outer| outer.routers.as_slice())
}

fn taken(some: &[IpAddr], others: &[IpAddr]) -> Vec<IpAddr> {
    some.iter().chain(others).copied().collect()
}

/// The prefixes of guests' addresses that are not on the segment anyway.
fn wires(
    lan: &Lan,
    stations: &[IpAddr],
    segments: &[Segment],
    lans: &[IpNet],
    answering: &[IpAddr],
) -> Result<Vec<Wire>, LabError> {
    let mut wires: Vec<Wire> = Vec::new();
    for station in stations {
        let of_wires = wires.iter().map(|wire| wire.prefix);
        if segments.iter().map(|segment| segment.prefix).chain(of_wires).any(|net| net.contains(station)) {
            continue;
        }
        let length = lan.prefix_of(*station).unwrap_or(if station.is_ipv4() { 24 } else { 64 });
        let Ok(prefix) = IpNet::new(*station, length).map(|net| net.trunc()) else { continue };
        // On a link of its own there is no room for anybody beside it.
        if prefix.max_prefix_len() - length < 3 {
            continue;
        }
        if lans.iter().any(|lan| lan.contains(&prefix) || prefix.contains(lan)) {
            return Err(LabError::NoRoom("the outer network"));
        }
        let of_segments = segments.iter().flat_map(|s| s.server.iter().copied().chain([s.router, s.neighbour]));
        let taken: Vec<IpAddr> = taken(answering, stations).into_iter().chain(of_segments).collect();
        let held = lan.held().iter().map(IpNet::addr).find(|held| prefix.contains(held));
        let known = routers(Some(lan)).iter().copied().find(|router| prefix.contains(router));
        let mut free = hosts(prefix).filter(|a| !taken.contains(a) && Some(*a) != held && Some(*a) != known);
        let mut next = |one: Option<IpAddr>| one.or_else(|| free.next()).ok_or(LabError::NoRoom("the outer network"));
        let (router, neighbour, server) = (next(known)?, next(None)?, next(held)?);
        wires.push(Wire { prefix, router, neighbour, server });
    }
    Ok(wires)
}

/// Finds a prefix around the first of `server`, and addresses for the others on it; a router that is known has its own.
fn segment(server: Vec<IpAddr>, lans: &[IpNet], answering: &[IpAddr], routers: &[IpAddr]) -> Result<Segment, LabError> {
    let first = *server.first().ok_or(LabError::NoRoom("the server"))?;
    let taken: Vec<IpAddr> = server.iter().chain(answering).copied().collect();
    // IPv4 down to /29: three must find room beside the subnet's own two addresses.
    let lengths: Vec<u8> = if first.is_ipv4() { (24..=29).collect() } else { (64..=124).step_by(4).collect() };
    for length in lengths {
        let Ok(prefix) = IpNet::new(first, length).map(|net| net.trunc()) else { continue };
        // An IPv6 LAN may be a part of the uplink's subnet, and is one here wherever it can be.
        let holds = |lan: &IpNet| prefix.contains(lan) && (first.is_ipv4() || lan.contains(&first));
        let overlaps = lans.iter().any(|lan| lan.contains(&prefix) || holds(lan));
        if overlaps || !is_host(prefix, first) {
            continue;
        }
        let in_lan = |a: &IpAddr| lans.iter().any(|lan| lan.contains(a));
        let known = routers.iter().copied().find(|a| is_host(prefix, *a) && prefix.contains(a) && !server.contains(a));
        let is_free = |a: &IpAddr| is_host(prefix, *a) && !taken.contains(a) && !in_lan(a) && Some(*a) != known;
        let mut free = hosts(prefix).filter(is_free);
        let (Some(router), Some(neighbour)) = (known.or_else(|| free.next()), free.next()) else { continue };
        let client = clients(first.is_ipv4())
            // It may well be one that is to answer anyway.
            .find(|a| !prefix.contains(a) && !server.contains(a) && !lans.iter().any(|lan| lan.contains(a)))
            .ok_or(LabError::NoRoom("a client"))?;
        return Ok(Segment { prefix, router, neighbour, server, client });
    }
    Err(LabError::NoRoom("the uplink's segment"))
}

fn clients(v4: bool) -> Box<dyn Iterator<Item = IpAddr>> {
    if v4 { Box::new(CLIENTS4.into_iter().map(IpAddr::V4)) } else { Box::new(CLIENTS6.into_iter().map(IpAddr::V6)) }
}

/// Whether a machine may have it: not the subnet's own address (of IPv6 the anycast of its routers), nor its broadcast.
fn is_host(prefix: IpNet, address: IpAddr) -> bool {
    address != prefix.network() && (address.is_ipv6() || address != prefix.broadcast())
}

/// The addresses of a prefix from its first machine's on: as many as can ever be needed.
pub(crate) fn hosts(prefix: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match prefix {
        IpNet::V4(net) => Box::new(Ipv4Net::hosts(&net).map(IpAddr::V4)),
        IpNet::V6(net) => Box::new(Ipv6Net::hosts(&net).skip(1).take(1 << 16).map(IpAddr::V6)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_segment_holds_the_public_address_and_gives_way_to_lans() {
        let plain = segment(vec![ip("128.42.169.25")], &[net("10.1.1.0/24")], &[], &[]).unwrap();
        assert_eq!(plain.prefix, net("128.42.169.0/24"));
        assert_eq!((plain.router, plain.neighbour), (ip("128.42.169.1"), ip("128.42.169.2")));
        assert_eq!(plain.client, ip("198.51.100.7"));
        // A LAN in the same /24, and a resolver where the router would be.
        let tight =
            segment(vec![ip("198.51.100.12")], &[net("198.51.100.128/25")], &[ip("198.51.100.1")], &[]).unwrap();
        assert_eq!(tight.prefix, net("198.51.100.0/25"));
        assert_eq!((tight.router, tight.neighbour), (ip("198.51.100.2"), ip("198.51.100.3")));
        assert_eq!(tight.client, ip("192.0.2.7"));
        let v6 = segment(vec![ip("2001:db8:113::2")], &[net("2001:db8:113:0:1::/80")], &[], &[]).unwrap();
        assert_eq!(v6.prefix, net("2001:db8:113::/64"), "a part of the uplink's subnet");
        assert_eq!((v6.router, v6.neighbour), (ip("2001:db8:113::1"), ip("2001:db8:113::3")));
    }

    #[test]
    fn a_public_address_inside_a_lan_leaves_no_room() {
        assert!(segment(vec![ip("10.1.1.9")], &[net("10.1.1.0/24")], &[], &[]).is_err());
    }

    #[test]
    fn addresses_elsewhere_stand_alone() {
        let segment = segment(vec![ip("203.0.113.2"), ip("192.0.2.9")], &[], &[], &[]).unwrap();
        assert_eq!(segment.with_prefix(ip("203.0.113.2")), net("203.0.113.2/24"));
        assert_eq!(segment.with_prefix(ip("192.0.2.9")), net("192.0.2.9/32"));
    }
}
