//! Network to probes: what must pass beside what must not, row by row of docs/traffic.md.
//!
//! Guests are asked in rings (each its neighbour in the file's order) rather than each by each, and of a big
//! network only the first guests and forwards are asked everything; the others are asked what says that they work
//! at all. The answer depends on nothing but the arguments.

use std::net::IpAddr;

use super::{Expect, Packet, PacketKind, Probe, Spot};
use crate::address::{Mac, Transport};
use crate::network::{Forward, Guest, GuestKind, Kept, Lan, Mode, Network, Public, Snat};
use crate::ruleset::{METADATA4, METADATA6};

mod bridged;
mod forged;
mod forwards;

const METADATA: [IpAddr; 2] = [IpAddr::V4(METADATA4), IpAddr::V6(METADATA6)];

/// So many guests and forwards are asked everything.
const IN_FULL: usize = 32;

/// The port of the host's that guests must not reach: the one that an intruder would try first.
const SSH: u16 = 22;
const DNS: u16 = 53;
const HTTPS: u16 = 443;

/// What the place looks like in which the probes are sent: a lab, or the live host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Addresses of machines beyond the uplink's router that packets may be sent to: at most one a family is used.
    pub world: Vec<IpAddr>,
    /// Addresses of a machine on the uplink's own segment; empty on the live host.
    pub neighbour: Vec<IpAddr>,
    /// Whether packets can be sent FROM the world and the neighbour (in a lab). There every guest is stood in for;
    /// on a live host only those that can be entered are asked, or looked into: containers and namespaces. And
    /// there [`Spot::World`] as a destination means that the packet leaves by the uplink.
    pub outside: bool,
    /// The addresses that the uplink holds, in its own order: the first of a family is what masquerading leaves by.
    /// Without `public` in the file, it is here that the world reaches the server.
    pub public: Vec<IpAddr>,
    /// The uplink's hardware address; where it is not known nobody is asked who answers for the public address.
    pub uplink_mac: Option<Mac>,
}

/// What must flow and what must not in `network`, in a steady order.
#[must_use]
pub fn derive(network: &Network, view: &View) -> Vec<Probe> {
    let mut asking = Asking::new(network, view);
    for (nth, guest) in asking.guests.clone().into_iter().enumerate() {
        asking.of_guest(guest, nth < IN_FULL);
    }
    asking.of_lans();
    asking.of_host();
    asking.of_forwards();
    asking.of_dmzs();
    asking.probes
}

/// An IP version, as far as names go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Four,
    Six,
}

impl Version {
    const BOTH: [Self; 2] = [Self::Four, Self::Six];

    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::Four)
    }

    /// The first address of the version.
    fn first(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().copied().find(|address| self.has(*address))
    }

    /// What a name says of it: IPv4 goes without saying.
    fn word(self) -> &'static str {
        match self {
            Self::Four => "",
            Self::Six => " over IPv6",
        }
    }

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Four } else { Self::Six }
    }
}

/// The probes so far, and what they are made from.
struct Asking<'a> {
    network: &'a Network,
    view: &'a View,
    /// The guests that can send and see, in the file's order.
    guests: Vec<&'a Guest>,
    /// Where the world reaches the server. Of those that the file lists and the uplink does not hold, a lab's world
    /// sends to all the same (a hoster may map them); a live host would only send them back out.
    public: Vec<IpAddr>,
    probes: Vec<Probe>,
}

impl<'a> Asking<'a> {
    fn new(network: &'a Network, view: &'a View) -> Self {
        let enterable = |guest: &Guest| view.outside || matches!(guest.kind, GuestKind::Lxc(_) | GuestKind::Netns);
        let guests = network.guests.iter().filter(|guest| enterable(guest)).collect();
        let public = if !network.uplink.present {
            Vec::new()
        } else {
            match &network.public {
                Public::Listed(listed) => {
                    listed.iter().copied().filter(|a| view.outside || view.public.contains(a)).collect()
                }
                Public::Dynamic => view.public.clone(),
            }
        };
        Self { network, view, guests, public, probes: Vec::new() }
    }

    fn ask(&mut self, row: &str, name: String, from: Spot, to: IpAddr, kind: PacketKind, expect: Expect) {
        self.probes.push(Probe { name, row: row.to_owned(), from, packet: Packet { to, kind }, expect });
    }

    /// The world's address of that version, where the uplink is there to reach it by.
    fn world(&self, version: Version) -> Option<IpAddr> {
        version.first(&self.view.world).filter(|_| self.network.uplink.present)
    }

    /// Who can send from beyond the uplink, by what name, from what address of that version.
    fn outsiders(&self, version: Version) -> Vec<(Spot, &'static str, IpAddr)> {
        if !self.view.outside || !self.network.uplink.present {
            return Vec::new();
        }
        [(Spot::World, "the world", &self.view.world), (Spot::Neighbour, "a neighbour", &self.view.neighbour)]
            .into_iter()
            .filter_map(|(spot, name, addresses)| version.first(addresses).map(|address| (spot, name, address)))
            .collect()
    }

    /// The guests of a LAN that can send and see in that version.
    fn guests_of(&self, lan: &Lan, version: Version) -> Vec<&'a Guest> {
        let speaks = |guest: &&Guest| guest.lan == lan.bridge && version.first(&guest.addresses).is_some();
        self.guests.iter().copied().filter(speaks).collect()
    }

    /// The next guest of the same LAN, round the ring; none where it is alone.
    fn neighbour_of(&self, guest: &Guest, lan: &Lan, version: Version) -> Option<&'a Guest> {
        let own = version.first(&guest.addresses)?;
        // Out of one prefix into another the outer network's router sends on.
        let near = |other: &Guest| version.first(&other.addresses).is_some_and(|to| lan.shares_prefix(own, to));
        let mut ring = self.guests_of(lan, version);
        ring.retain(|other| !lan.is_bridged() || near(other) || other.name == guest.name);
        let at = ring.iter().position(|other| other.name == guest.name)?;
        ring.get((at + 1) % ring.len()).copied().filter(|other| other.name != guest.name)
    }

    /// The LANs after that one, round the ring.
    fn other_lans(&self, lan: &Lan) -> impl Iterator<Item = &'a Lan> + use<'a> {
        let lans = &self.network.lans;
        let at = lans.iter().position(|other| other.bridge == lan.bridge).unwrap_or(0);
        let bridge = lan.bridge.clone();
        let others = (1..=lans.len()).map(move |step| &lans[(at + step) % lans.len()]);
        // What is beside a bridged LAN is the outer network's business.
        others.filter(move |other| other.bridge != bridge && !other.is_bridged())
    }

    /// Everything that a guest sends, but for what forwards are about.
    fn of_guest(&mut self, guest: &'a Guest, in_full: bool) {
        let Some(lan) = self.network.lan(&guest.lan) else { return };
        for version in Version::BOTH {
            let Some(own) = version.first(&guest.addresses) else { continue };
            if lan.is_bridged() {
                self.of_bridged(guest, lan, own, in_full);
                continue;
            }
            self.ask_gateway(guest, lan, version, in_full);
            self.ask_world(guest, lan, version, own, in_full);
            if in_full {
                self.ask_host(guest, lan, version);
                self.ask_ring(guest, lan, version);
                self.of_forgeries(guest, lan, version);
            }
        }
    }

    /// The source that a guest's packets bear on its own LAN, where there can be no doubt.
    fn source(guest: &Guest, version: Version) -> Option<IpAddr> {
        let mut own = guest.addresses.iter().copied().filter(|address| version.has(*address));
        let first = own.next();
        if own.next().is_none() { first } else { None }
    }

    fn ask_gateway(&mut self, guest: &Guest, lan: &Lan, version: Version, in_full: bool) {
        let Some(gateway) = Self::gateway(lan, version) else { return };
        let from = || Spot::Guest(guest.name.clone());
        let arrives = |port| Expect::Arrives {
            at: Spot::Host,
            address: Some(gateway),
            port,
            source: Self::source(guest, version),
        };
        let (name, over) = (&guest.name, version.word());
        let row = "G-H-gateway";
        self.ask(row, format!("{name} to its gateway{over}"), from(), gateway, PacketKind::Echo, arrives(None));
        if in_full {
            let title = format!("{name} asks its gateway for names{over}");
            self.ask(row, title, from(), gateway, PacketKind::Udp(DNS), arrives(Some(DNS)));
        }
    }

    fn ask_host(&mut self, guest: &Guest, lan: &Lan, version: Version) {
        let from = || Spot::Guest(guest.name.clone());
        let blocked = || Expect::Blocked { at: vec![Spot::Host] };
        let (name, over) = (&guest.name, version.word());
        if let Some(gateway) = Self::gateway(lan, version) {
            let title = format!("{name} not to its gateway's port {SSH}{over}");
            self.ask("G-H-other", title, from(), gateway, PacketKind::Tcp(SSH), blocked());
        }
        for (nth, public) in self.public_of(version).into_iter().enumerate() {
            if self.taken(public, Transport::Tcp, SSH) {
                continue;
            }
            let title = format!("{name} not to the host's port {SSH} at its public address{}", at(nth, public));
            self.ask("G-H-other", title, from(), public, PacketKind::Tcp(SSH), blocked());
        }
        self.ask_sites(guest, lan, version);
        let other = self.other_lans(lan).find_map(|other| Some((other, Self::gateway(other, version)?)));
        if let Some((other, gateway)) = other {
            let row = "G-H-gateway-other";
            let title = format!("{name} not to the gateway of {}{over}", other.bridge);
            self.ask(row, title, from(), gateway, PacketKind::Echo, blocked());
            let title = format!("{name} not to ask the gateway of {} for names{over}", other.bridge);
            self.ask(row, title, from(), gateway, PacketKind::Udp(DNS), blocked());
        }
    }

    /// Address and first port of the sites at each public address that the host holds.
    fn sites_of(&self, version: Version) -> Vec<(usize, IpAddr, u16)> {
        let entries = self.network.entries();
        let first = |public: IpAddr| {
            entries.iter().find(|entry| entry.address.is_none_or(|at| at == public)).map(|entry| entry.port)
        };
        let held =
            self.public_of(version).into_iter().enumerate().filter(|(_, public)| self.view.public.contains(public));
        held.filter_map(|(nth, public)| Some((nth, public, first(public)?))).collect()
    }

    fn ask_sites(&mut self, guest: &Guest, lan: &Lan, version: Version) {
        for (nth, public, port) in self.sites_of(version) {
            let (not, expect) = if lan.meets_world() || lan.is_bridged() {
                let source = Self::source(guest, version);
                ("", Expect::Arrives { at: Spot::Host, address: Some(public), port: Some(port), source })
            } else {
                ("not ", Expect::Blocked { at: vec![Spot::Host] })
            };
            let title = format!("{} {not}to the sites at port {port}{}", guest.name, at(nth, public));
            self.ask("G-H-site", title, Spot::Guest(guest.name.clone()), public, PacketKind::Tcp(port), expect);
        }
    }

    fn ask_world(&mut self, guest: &Guest, lan: &Lan, version: Version, own: IpAddr, in_full: bool) {
        if !self.network.uplink.present {
            return;
        }
        let from = || Spot::Guest(guest.name.clone());
        let (name, over) = (&guest.name, version.word());
        if let Some(world) = self.world(version) {
            let may = |kind| !lan.egress_denied || self.network.lets_out(own, world, service(kind, own));
            if lan.mode == Mode::Isolated || !may(PacketKind::Tcp(HTTPS)) {
                let expect = || Expect::Blocked { at: vec![Spot::World] };
                let title = format!("{name} not out to the world{over}");
                self.ask("G-W", title, from(), world, PacketKind::Tcp(HTTPS), expect());
                if in_full && !may(PacketKind::Echo) {
                    let title = format!("{name} no echo from the world{over}");
                    self.ask("G-W", title, from(), world, PacketKind::Echo, expect());
                }
            } else if let Some(source) = self.leaves_by(guest, lan, version, own) {
                let expect =
                    |port| Expect::Arrives { at: Spot::World, address: Some(world), port, source: source.address() };
                let title = format!("{name} out to the world{over}");
                self.ask("G-W", title, from(), world, PacketKind::Tcp(HTTPS), expect(Some(HTTPS)));
                if in_full && may(PacketKind::Echo) {
                    let title = format!("{name} echo from the world{over}");
                    self.ask("G-W", title, from(), world, PacketKind::Echo, expect(None));
                }
            }
        }
        let named = |metadata: IpAddr| self.network.allows.iter().any(|allow| allow.to.has_net(metadata));
        if in_full && let Some(metadata) = version.first(&METADATA).filter(|metadata| !named(*metadata)) {
            let title = format!("{name} not to the cloud's metadata{over}");
            let expect = Expect::Blocked { at: vec![Spot::World] };
            self.ask("G-metadata", title, from(), metadata, PacketKind::Tcp(80), expect);
        }
    }

    /// The source that the world sees of a guest; none where it cannot leave, for want of an address.
    fn leaves_by(&self, guest: &Guest, lan: &Lan, version: Version, own: IpAddr) -> Option<Seen> {
        match self.network.snat_of(lan, guest, own) {
            Snat::To(address) => Some(Seen::As(address)),
            // The kernel takes the uplink's first of the version, and drops where it has none.
            Snat::Masquerade => version.first(&self.view.public).map(Seen::As),
            Snat::Keep => Some(Self::source(guest, version).map_or(Seen::AsAnything, Seen::As)),
        }
    }

    fn ask_ring(&mut self, guest: &Guest, lan: &Lan, version: Version) {
        let from = || Spot::Guest(guest.name.clone());
        let (name, over) = (&guest.name, version.word());
        if let Some((other, to)) =
            self.neighbour_of(guest, lan, version).and_then(|other| Some((other, version.first(&other.addresses)?)))
        {
            let at = || Spot::Guest(other.name.clone());
            let source = Self::source(guest, version);
            let arrives = |port| Expect::Arrives { at: at(), address: Some(to), port, source };
            let own = version.first(&guest.addresses);
            for (kind, what, port) in
                [(PacketKind::Echo, "", None), (PacketKind::Tcp(SSH), &*format!("'s port {SSH}"), Some(SSH))]
            {
                let may = || own.is_some_and(|own| self.network.lets_across(own, to, service(kind, to)));
                let (row, not, expect) = match lan.port_isolation {
                    false => ("G-G-same", "", arrives(port)),
                    true if lan.meets_world() && may() => ("allow", "", arrives(port)),
                    true => ("G-G-apart", "not ", Expect::Blocked { at: vec![at()] }),
                };
                let title = format!("{name} {not}to {}{what}{over}", other.name);
                self.ask(row, title, from(), to, kind, expect);
            }
        }
        // From a bridged LAN the outer network's router may well find a way.
        let mut strangers = self.other_lans(lan).filter(|_| !lan.is_bridged());
        let stranger = strangers.find_map(|other| self.guests_of(other, version).first().copied());
        if let Some((stranger, to)) = stranger.and_then(|other| Some((other, version.first(&other.addresses)?))) {
            for (kind, what) in [(PacketKind::Echo, String::new()), (PacketKind::Tcp(SSH), format!(" at port {SSH}"))] {
                let own = version.first(&guest.addresses);
                let allowed = own.is_some_and(|own| self.network.lets_across(own, to, service(kind, to)));
                let at = Spot::Guest(stranger.name.clone());
                if allowed {
                    let port = if kind == PacketKind::Echo { None } else { Some(SSH) };
                    let expect = Expect::Arrives { at, address: Some(to), port, source: Self::source(guest, version) };
                    let title = format!("{name} to {} of {}{what}{over}", stranger.name, stranger.lan);
                    self.ask("G-G-other", title, from(), to, kind, expect);
                } else {
                    let expect = Expect::Blocked { at: vec![at] };
                    let title = format!("{name} not to {} of {}{what}{over}", stranger.name, stranger.lan);
                    self.ask("G-G-other", title, from(), to, kind, expect);
                }
            }
        }
    }

    /// What reaches the LANs from outside, and who answers for their addresses.
    fn of_lans(&mut self) {
        for (nth, guest) in self.guests.clone().into_iter().enumerate() {
            let Some(lan) = self.network.lan(&guest.lan) else { continue };
            for (which, to) in guest.addresses.iter().copied().enumerate() {
                if lan.is_bridged() {
                    self.at_bridged(guest, lan, to, which, nth < IN_FULL);
                    continue;
                }
                self.ask_at_guest(guest, lan, to, which, nth < IN_FULL);
            }
        }
        for lan in self.network.lans.iter().filter(|lan| lan.mode != Mode::Bridged) {
            for version in Version::BOTH {
                let Some(gateway) = Self::gateway(lan, version) else { continue };
                for (spot, who, _) in self.outsiders(version) {
                    for (what, kind) in [("", PacketKind::Echo), (" for names", PacketKind::Udp(DNS))] {
                        let title = format!("{who} not to the gateway of {}{what}{}", lan.bridge, version.word());
                        let expect = Expect::Blocked { at: vec![Spot::Host] };
                        self.ask("W-H-gateway", title, spot.clone(), gateway, kind, expect);
                    }
                }
            }
            self.of_gateway_arp(lan);
        }
    }

    /// The gateway's address is asked for by guests, since the host does not answer itself: the first two of the
    /// LAN, so that one that took the address is heard by the other.
    fn of_gateway_arp(&mut self, lan: &Lan) {
        let Some(gateway) = lan.gateway4() else { return };
        for guest in self.guests_of(lan, Version::Four).into_iter().take(2) {
            let title = format!("who answers {} for the gateway of {}", guest.name, lan.bridge);
            let expect = Expect::AnsweredBy { mac: Some(lan.mac) };
            self.ask(
                "A-gateway",
                title,
                Spot::Guest(guest.name.clone()),
                gateway.into(),
                PacketKind::ArpWhoHas,
                expect,
            );
        }
    }

    /// What a name says of a guest's address: its first of a version goes without saying.
    fn at_which(guest: &Guest, to: IpAddr, which: usize) -> String {
        let version = Version::of(to);
        match guest.addresses.iter().position(|address| version.has(*address)) {
            Some(first) if first == which => version.word().to_owned(),
            _ => format!(" at {to}"),
        }
    }

    fn ask_at_guest(&mut self, guest: &Guest, lan: &Lan, to: IpAddr, which: usize, in_full: bool) {
        let version = Version::of(to);
        let over = Self::at_which(guest, to, which);
        let name = &guest.name;
        let source = lan.addresses.iter().find(|net| net.contains(&to)).map(ipnet::IpNet::addr);
        let expect = Expect::Arrives { at: Spot::Guest(name.clone()), address: Some(to), port: None, source };
        self.ask("H-G", format!("the host to {name}{over}"), Spot::Host, to, PacketKind::Echo, expect);
        if to.is_ipv4() {
            // Asked by the host: the question goes to every port of the bridge, and any second owner answers too.
            let title = format!("who answers for {name}{over}");
            let expect = Expect::AnsweredBy { mac: Some(guest.mac) };
            self.ask("A-guest", title, Spot::Host, to, PacketKind::ArpWhoHas, expect);
        }
        let forwarded = |f: &&Forward| f.transport == Transport::Tcp && f.to.contains(&to);
        let port = self.network.forwards.iter().find(forwarded).map_or(SSH, |forward| forward.to_port);
        for (spot, who, client) in self.outsiders(version) {
            let tcp = (PacketKind::Tcp(port), format!("'s port {port}"), Some(port));
            for (kind, what, port) in [tcp, (PacketKind::Echo, String::new(), None)] {
                if port.is_none() && !in_full {
                    continue;
                }
                let open = self.network.lets_in(lan, client, to, service(kind, to));
                let at = Spot::Guest(name.clone());
                let (how, expect) = if open {
                    (" is let in,", Expect::Arrives { at, address: Some(to), port, source: Some(client) })
                } else {
                    ("", Expect::Blocked { at: vec![at] })
                };
                let title = format!("{who}{how} straight to {name}{what}{over}");
                self.ask("W-G-direct", title, spot.clone(), to, kind, expect);
            }
        }
    }

    /// The host itself at its public address: never warren's business.
    fn of_host(&mut self) {
        for version in Version::BOTH {
            for (nth, public) in self.public_of(version).into_iter().enumerate() {
                // One that is mapped elsewhere to the host does not arrive under this address.
                if !self.view.public.contains(&public) {
                    continue;
                }
                for (spot, who, source) in self.outsiders(version) {
                    let expect =
                        |port| Expect::Arrives { at: Spot::Host, address: Some(public), port, source: Some(source) };
                    let at = at(nth, public);
                    let title = format!("{who} to the host{at}");
                    self.ask("W-H", title, spot.clone(), public, PacketKind::Echo, expect(None));
                    if !self.taken(public, Transport::Tcp, SSH) {
                        let title = format!("{who} to the host's port {SSH}{at}");
                        self.ask("W-H", title, spot, public, PacketKind::Tcp(SSH), expect(Some(SSH)));
                    }
                }
                for (spot, who, source) in self.outsiders(version) {
                    for (_, _, port) in self.sites_of(version).into_iter().filter(|(_, address, _)| *address == public)
                    {
                        let title = format!("{who} to the sites at port {port}{}", at(nth, public));
                        let expect = Expect::Arrives {
                            at: Spot::Host,
                            address: Some(public),
                            port: Some(port),
                            source: Some(source),
                        };
                        self.ask("W-H", title, spot.clone(), public, PacketKind::Tcp(port), expect);
                    }
                }
                let neighbour = self.outsiders(version).into_iter().any(|(spot, ..)| spot == Spot::Neighbour);
                if let Some(mac) = self.uplink_mac()
                    && public.is_ipv4()
                    && neighbour
                {
                    let title = format!("who answers a neighbour for the public address{}", at(nth, public));
                    let expect = Expect::AnsweredBy { mac: Some(mac) };
                    self.ask("A-public", title, Spot::Neighbour, public, PacketKind::ArpWhoHas, expect);
                }
            }
        }
    }

    /// The hardware address that the host answers for itself by on the uplink.
    fn uplink_mac(&self) -> Option<Mac> {
        let bridge = self.network.lan(&self.network.uplink.name);
        self.view.uplink_mac.and_then(|mac| bridge.map_or(Some(mac), |bridge| self.mac_of(bridge)))
    }

    /// The host's hardware address on a LAN: of another's bridge it is what the host was found to have there.
    fn mac_of(&self, lan: &Lan) -> Option<Mac> {
        if !lan.is_external() {
            return Some(lan.mac);
        }
        self.view.uplink_mac.filter(|_| lan.bridge == self.network.uplink.name)
    }

    /// Whether a forward or DMZ takes that port of that public address.
    fn taken(&self, address: IpAddr, transport: Transport, port: u16) -> bool {
        let of_family = |to: &[IpAddr]| to.iter().any(|to| to.is_ipv4() == address.is_ipv4());
        let here = |at: Option<IpAddr>| at.is_none_or(|at| at == address);
        let forwards = &self.network.forwards;
        forwards.iter().any(|forward| {
            let takes = forward.transport == transport && forward.to_port_of(port).is_some();
            takes && here(forward.address) && of_family(&forward.to)
        }) || !self.kept(address, transport, port)
            && self.network.dmzs.iter().any(|dmz| here(dmz.address) && of_family(&dmz.to))
    }

    /// Whether the host keeps that service from DMZs.
    fn kept(&self, address: IpAddr, transport: Transport, port: u16) -> bool {
        let kept = |kept: &Kept| {
            kept.address.is_none_or(|at| at == address) && (kept.transport, kept.port) == (transport, port)
        };
        self.network.kept.iter().any(kept)
    }

    fn public_of(&self, version: Version) -> Vec<IpAddr> {
        self.public.iter().copied().filter(|address| version.has(*address)).collect()
    }

    fn gateway(lan: &Lan, version: Version) -> Option<IpAddr> {
        match version {
            Version::Four => lan.gateway4().map(IpAddr::V4),
            Version::Six => lan.gateway6().map(IpAddr::V6),
        }
    }
}

/// A sort of packet's protocol and port, to an address of that version.
fn service(kind: PacketKind, to: IpAddr) -> (u8, u16) {
    match kind {
        PacketKind::Tcp(port) => (Transport::Tcp.number(), port),
        PacketKind::Udp(port) => (Transport::Udp.number(), port),
        _ if to.is_ipv4() => (1, 0),
        _ => (58, 0),
    }
}

/// What the world sees of a guest.
enum Seen {
    As(IpAddr),
    AsAnything,
}

impl Seen {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::As(address) => Some(*address),
            Self::AsAnything => None,
        }
    }
}

/// What a name says of the nth public address of its version: the first goes by the version alone.
fn at(nth: usize, address: IpAddr) -> String {
    if nth == 0 { Version::of(address).word().to_owned() } else { format!(" at {address}") }
}
