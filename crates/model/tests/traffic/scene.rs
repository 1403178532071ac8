//! A network that is up, and packets in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::address::{IfName, Mac, Transport};
use model::network::{Guest, Lan, Network};
use model::ruleset::Table;
use model::ruleset::evaluate::{Body, CtState, Fate, Flow, Origin, Outcome, Packet, Payload, Place, evaluate};

use crate::common;

/// A network, the host that it is on, and the ruleset that is to be held to the document.
pub struct Scene<'a> {
    pub network: &'a Network,
    pub place: Place,
    pub tables: &'a [Table],
}

/// A packet, and what it is for it to pass.
#[derive(Clone, Debug)]
pub struct Case {
    pub packet: Packet,
    pub pass: Pass,
}

/// Where and how a packet arrives that passes.
#[derive(Clone, Debug)]
pub enum Pass {
    /// At the host's sockets, untouched.
    AtHost,
    /// Out by that interface, with this source, to where it was sent.
    Out(IfName, IpAddr),
    /// At the guest that holds the address, on that LAN, with this destination port and source.
    AtGuest { bridge: IfName, address: IpAddr, port: Option<u16>, source: IpAddr },
    /// Back where the question came from, as from whom it was asked.
    Answered { from: IpAddr, to: IpAddr, at: Outcome },
    /// On by the bridge, as it is.
    Bridged(IfName),
    /// Anywhere: no rule drops it.
    Anywhere,
}

impl Case {
    pub fn new(packet: Packet, pass: Pass) -> Self {
        Self { packet, pass }
    }

    /// Whether it is of IPv6; nothing where it is of no IP (ARP counts as IPv4's).
    pub fn is_ipv6(&self) -> Option<bool> {
        match self.packet.body {
            Body::Ip { source, .. } => Some(source.is_ipv6()),
            Body::Arp { .. } => Some(false),
            Body::Other(_) => None,
        }
    }

    fn fate(&self, scene: &Scene<'_>) -> Result<Fate, String> {
        evaluate(scene.tables, &scene.place, &self.packet).map_err(|fault| format!("the ruleset is faulty: {fault}"))
    }

    pub fn must_pass(&self, scene: &Scene<'_>) -> Result<(), String> {
        let fate = self.fate(scene)?;
        let (source, destination) = (fate.body.source(), fate.body.destination());
        let passed = match &self.pass {
            Pass::AtHost => fate.outcome == Outcome::Host && fate.body == self.packet.body,
            Pass::Out(oif, as_source) => {
                fate.outcome == Outcome::Sent(oif.clone())
                    && source == Some(*as_source)
                    && (destination, fate.body.port()) == (self.packet.body.destination(), self.packet.body.port())
            }
            Pass::AtGuest { bridge, address, port, source: as_source } => {
                (fate.outcome == Outcome::Sent(bridge.clone()) || fate.outcome == Outcome::Bridged(bridge.clone()))
                    && (source, destination) == (Some(*as_source), Some(*address))
                    && port.is_none_or(|port| fate.body.port() == Some(port))
            }
            Pass::Answered { from, to, at } => {
                let bridged = matches!((&fate.outcome, at), (Outcome::Bridged(a), Outcome::Sent(b)) if a == b);
                (fate.outcome == *at || bridged) && (source, destination) == (Some(*from), Some(*to))
            }
            Pass::Bridged(bridge) => fate.outcome == Outcome::Bridged(bridge.clone()) && fate.body == self.packet.body,
            Pass::Anywhere => !fate.is_dropped(),
        };
        if passed { Ok(()) } else { Err(format!("must pass, but {fate:?}")) }
    }

    pub fn must_not_pass(&self, scene: &Scene<'_>) -> Result<(), String> {
        let fate = self.fate(scene)?;
        if fate.is_dropped() { Ok(()) } else { Err(format!("must not pass, but {fate:?}")) }
    }

    /// The answer to a packet that passes, as it must come back; none where there is nobody to answer to.
    pub fn answer(&self, scene: &Scene<'_>, error: bool) -> Option<Case> {
        let (from, to) = (self.packet.body.source()?, self.packet.body.destination()?);
        let group = |address: IpAddr| address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if from.is_unspecified() || group(to) || self.packet.flow != Flow::NEW {
            return None;
        }
        let fate = self.fate(scene).ok()?;
        let there = fate.body.destination()?;
        let back_to = fate.body.source()?;
        let origin = match &fate.outcome {
            Outcome::Host => Origin::Host,
            Outcome::Sent(name) | Outcome::Bridged(name) => match scene.network.lan(name) {
                Some(_) => Origin::Port(scene.guest_at(there)?.port.clone()),
                None => Origin::Interface(name.clone()),
            },
            Outcome::Dropped { .. } | Outcome::NoRoute => return None,
        };
        let (ether_source, ether_destination) = match &origin {
            Origin::Port(_) => {
                let guest = scene.guest_at(there)?;
                (guest.mac, scene.next_hop(scene.network.lan(&guest.lan)?, back_to))
            }
            _ => (Mac::derived(&["far"]), Mac::derived(&["uplink"])),
        };
        let mut packet = fate.reply(&self.packet, origin, ether_source, ether_destination);
        if error {
            // Destination unreachable, of either version.
            let kind = if from.is_ipv4() { 3 } else { 1 };
            let Body::Ip { source, destination, .. } = packet.body else { return None };
            packet.body = Body::Ip { source, destination, payload: Payload::Icmp(kind) };
            packet.flow.state = CtState::Related;
            packet.flow.destination = Some((from, None));
            packet.flow.source = Some((to, None));
        }
        let pass = match &self.packet.origin {
            // The address that was asked is the one that answers.
            Origin::Host => Pass::Answered { from: to, to: from, at: Outcome::Host },
            Origin::Interface(name) => Pass::Answered { from: to, to: from, at: Outcome::Sent(name.clone()) },
            Origin::Port(_) => {
                Pass::Answered { from: to, to: from, at: Outcome::Sent(scene.guest_at(from)?.lan.clone()) }
            }
        };
        Some(Case { packet, pass })
    }
}

impl Scene<'_> {
    pub fn guests<'b>(&'b self, lan: &'b Lan) -> impl Iterator<Item = &'b Guest> {
        self.network.guests_of(lan)
    }

    /// Every guest of the LAN with each of its addresses.
    pub fn sources<'b>(&'b self, lan: &'b Lan) -> impl Iterator<Item = (&'b Guest, IpAddr)> {
        self.guests(lan).flat_map(|guest| guest.addresses.iter().map(move |address| (guest, *address)))
    }

    pub fn guest_at(&self, address: IpAddr) -> Option<&Guest> {
        self.network.guests.iter().find(|guest| guest.addresses.contains(&address))
    }

    pub fn other_lans<'b>(&'b self, lan: &'b Lan) -> impl Iterator<Item = &'b Lan> {
        self.network.lans.iter().filter(|other| other.bridge != lan.bridge)
    }

    /// The hardware address that a guest sends to for that destination.
    fn next_hop(&self, lan: &Lan, destination: IpAddr) -> Mac {
        match destination {
            IpAddr::V4(Ipv4Addr::BROADCAST) => Mac([0xff; 6]),
            IpAddr::V6(a) if a.is_multicast() => {
                let [.., w, x, y, z] = a.octets();
                Mac([0x33, 0x33, w, x, y, z])
            }
            _ => match self.guest_at(destination) {
                // Whom it may reach of neighbours that are kept apart, it reaches by the host.
                Some(guest) if guest.lan == lan.bridge && !lan.port_isolation => guest.mac,
                // On an outer network the host is a station, and another one the router.
                _ if lan.is_bridged() && !lan.held().iter().any(|net| net.addr() == destination) => {
                    Mac::derived(&["router"])
                }
                _ => lan.mac,
            },
        }
    }

    pub fn uplink(&self) -> &IfName {
        &self.network.uplink.name
    }

    /// The uplink's own address of the family.
    pub fn uplink_address(&self, like: IpAddr) -> IpAddr {
        let addresses = common::uplink_addresses();
        addresses.iter().map(ipnet::IpNet::addr).find(|address| address.is_ipv4() == like.is_ipv4()).unwrap()
    }

    pub fn guest_sends(&self, guest: &Guest, source: IpAddr, destination: IpAddr, payload: Payload) -> Packet {
        let lan = self.network.lan(&guest.lan).unwrap();
        Packet {
            origin: Origin::Port(guest.port.clone()),
            ether_source: guest.mac,
            ether_destination: self.next_hop(lan, destination),
            body: Body::Ip { source, destination, payload },
            flow: Flow::NEW,
        }
    }

    /// From a tap of whom it is not said who is behind, with a hardware address of nobody else's.
    pub fn tap_sends(&self, tap: &IfName, source: IpAddr, destination: IpAddr, payload: Payload) -> Packet {
        let lan = self.network.lans.iter().find(|lan| lan.taps.iter().any(|t| t.name == *tap)).unwrap();
        Packet {
            origin: Origin::Port(tap.clone()),
            ether_source: Mac::derived(&["behind", tap.as_str()]),
            ether_destination: self.next_hop(lan, destination),
            body: Body::Ip { source, destination, payload },
            flow: Flow::NEW,
        }
    }

    pub fn wire_brings(&self, name: &str, source: IpAddr, destination: IpAddr, payload: Payload) -> Packet {
        Packet {
            origin: Origin::Interface(IfName::new(name).unwrap()),
            ether_source: Mac::derived(&["far"]),
            ether_destination: Mac::derived(&[name]),
            body: Body::Ip { source, destination, payload },
            flow: Flow::NEW,
        }
    }

    pub fn host_sends(&self, source: IpAddr, destination: IpAddr, payload: Payload) -> Packet {
        Packet {
            origin: Origin::Host,
            ether_source: Mac([0; 6]),
            ether_destination: Mac([0; 6]),
            body: Body::Ip { source, destination, payload },
            flow: Flow::NEW,
        }
    }

    /// Whether an allow names it: said by the document.
    pub fn allowed(&self, from: Party, to: Party, payload: Payload) -> bool {
        let covered = |allow: &model::network::Allow| {
            allow.ports.is_empty()
                || matches!(payload, Payload::Ports { transport, destination, .. }
                    if allow.ports.iter().any(|(t, p)| *t == transport && p.first <= destination && destination <= p.last))
        };
        let holds = |nets: &[ipnet::IpNet], address: IpAddr| nets.iter().any(|net| net.contains(&address));
        let on = |side: &model::network::Side, party: Party| match party {
            Party::Inside(address) => holds(&side.inside, address),
            Party::World(address) => side.world || holds(&side.nets, address),
            Party::Beyond(address) => holds(&side.nets, address),
        };
        self.network.allows.iter().any(|allow| on(&allow.from, from) && on(&allow.to, to) && covered(allow))
    }

    /// What takes such a packet to a public address: said by the document, not by the ruleset. A forward on this
    /// address comes before one on every address, and what none takes is a DMZ's.
    pub fn taken(&self, public: IpAddr, payload: Payload) -> Option<Way> {
        let mut public_ones = common::public_addresses(self.network);
        if self.network.public == model::network::Public::Dynamic {
            // From inside, every address of the host's counts but the LANs' and loopback.
            public_ones.extend(["172.17.0.1", "fd00:d0c::1"].map(|a| a.parse::<IpAddr>().unwrap()));
        }
        if !public_ones.contains(&public) {
            return None;
        }
        let of_family = |all: &[IpAddr]| all.iter().copied().find(|to| to.is_ipv4() == public.is_ipv4());
        let service = match payload {
            Payload::Ports { transport, destination, .. } => Some((transport, destination)),
            _ => None,
        };
        if let Some((transport, port)) = service {
            let takes = |address: Option<IpAddr>| {
                self.network.forwards.iter().find_map(|forward| {
                    if (forward.address, forward.transport) != (address, transport) {
                        return None;
                    }
                    let to_port = Some(forward.to_port_of(port)?);
                    let (sources, hairpin) = (forward.sources.clone(), forward.hairpin);
                    Some(Way { public, payload, to: of_family(&forward.to)?, to_port, sources, hairpin })
                })
            };
            if let Some(way) = takes(Some(public)).or_else(|| takes(None)) {
                return Some(way);
            }
            let kept = |kept: &model::network::Kept| {
                kept.address.is_none_or(|a| a == public) && (kept.transport, kept.port) == (transport, port)
            };
            if self.network.kept.iter().any(kept) {
                return None;
            }
        }
        if matches!(payload, Payload::Icmp(_) | Payload::Neighbour { .. }) {
            return None;
        }
        let dmz = self.network.dmzs.iter().find(|dmz| dmz.address.is_none_or(|a| a == public))?;
        let (sources, hairpin) = (dmz.sources.clone(), dmz.hairpin);
        let to_port = service.map(|(_, port)| port);
        Some(Way { public, payload, to: of_family(&dmz.to)?, to_port, sources, hairpin })
    }

    /// Every way in to a guest of the LAN's: first and last port of each forward, and what a DMZ takes.
    pub fn ways_in(&self, lan: &Lan) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        if !self.network.uplink.present {
            return ways;
        }
        let mut payloads: Vec<Payload> = Vec::new();
        for forward in &self.network.forwards {
            payloads.extend([forward.ports.first, forward.ports.last].map(|port| ports(forward.transport, port)));
        }
        if !self.network.dmzs.is_empty() {
            payloads.extend([tcp(4711), udp(53), udp(4711), tcp(80), Payload::Other(47)]);
        }
        for public in common::public_addresses(self.network) {
            for payload in &payloads {
                let Some(way) = self.taken(public, *payload) else { continue };
                if self.guest_at(way.to).is_some_and(|guest| guest.lan == lan.bridge) && !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
        ways
    }
}

/// Who begins, or with whom.
#[derive(Clone, Copy, Debug)]
pub enum Party {
    Inside(IpAddr),
    World(IpAddr),
    Beyond(IpAddr),
}

/// A way in at a public address.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    pub public: IpAddr,
    pub payload: Payload,
    pub to: IpAddr,
    pub to_port: Option<u16>,
    pub sources: Vec<ipnet::IpNet>,
    pub hairpin: bool,
}

impl Way {
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client))
    }
}

pub fn ports(transport: Transport, destination: u16) -> Payload {
    Payload::Ports { transport, source: 40000, destination }
}

pub fn tcp(destination: u16) -> Payload {
    ports(Transport::Tcp, destination)
}

pub fn udp(destination: u16) -> Payload {
    ports(Transport::Udp, destination)
}

/// An echo request of the address's version.
pub fn echo(like: IpAddr) -> Payload {
    Payload::Icmp(if like.is_ipv4() { 8 } else { 128 })
}

/// One of each sort.
pub fn some_of_each(like: IpAddr) -> [Payload; 4] {
    // GRE: a protocol without ports.
    [tcp(22), udp(53), echo(like), Payload::Other(47)]
}

/// A machine of the world's, of the address's version.
pub fn world(like: IpAddr) -> IpAddr {
    pick(like, "198.51.100.7", "2001:db8:7::7")
}

/// A machine on the uplink's segment.
pub fn neighbour(like: IpAddr) -> IpAddr {
    pick(like, "203.0.113.9", "2001:db8:ffff::9")
}

/// A machine on another network of the host's.
pub fn container(like: IpAddr) -> IpAddr {
    pick(like, "172.17.0.5", "fd00:d0c::5")
}

fn pick(like: IpAddr, v4: &str, v6: &str) -> IpAddr {
    if like.is_ipv4() { v4.parse::<Ipv4Addr>().unwrap().into() } else { v6.parse::<Ipv6Addr>().unwrap().into() }
}
