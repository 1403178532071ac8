//! Probes of forwards: from everybody who may come by one, and from who may not.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Asking, IN_FULL, Version, at, service};
use crate::address::Transport;
use crate::network::{Forward, Guest, Lan};
use crate::probe::{Expect, PacketKind, Spot};

/// The port at which a DMZ is tried, or the next that is free.
const SOME_PORT: u16 = 4711;

/// One packet to a forward, and where it must arrive.
struct Way<'a> {
    /// `forward 22210/tcp`, without who sends.
    name: String,
    /// What stands at the name's end: which address or version, which port of a range.
    suffix: String,
    public: IpAddr,
    kind: PacketKind,
    guest: &'a Guest,
    to: IpAddr,
    to_port: u16,
    /// Clients of the world's that may come; everyone where there are none.
    sources: &'a [IpNet],
    hairpin: bool,
}

impl<'a> Asking<'a> {
    pub(super) fn of_forwards(&mut self) {
        for (nth, forward) in self.network.forwards.iter().enumerate() {
            let full = nth < IN_FULL;
            // Behind an address that is no guest's nobody is there to see what arrives.
            let Some(guest) = self.owner(forward.guest.as_deref(), &forward.to) else { continue };
            let Some(lan) = self.network.lan(&guest.lan) else { continue };
            for version in Version::BOTH {
                let Some(to) = version.first(&forward.to) else { continue };
                for (which, public) in self.listened(forward, version).into_iter().enumerate() {
                    if which > 0 && !full {
                        break;
                    }
                    for way in ways(forward, guest, to, which, public) {
                        self.ask_from_outside(&way, version, full);
                        if full && which == 0 {
                            self.ask_from_inside(&way, lan, version);
                        }
                    }
                }
            }
        }
    }

    fn owner(&self, name: Option<&str>, to: &[IpAddr]) -> Option<&'a Guest> {
        let owner = |guest: &&&Guest| {
            name.map_or_else(|| guest.addresses.iter().any(|a| to.contains(a)), |name| guest.name == name)
        };
        self.guests.iter().find(owner).copied()
    }

    /// Everything that is left at a public address: tried at a port that nothing else takes.
    pub(super) fn of_dmzs(&mut self) {
        for dmz in &self.network.dmzs {
            let Some(guest) = self.owner(dmz.guest.as_deref(), &dmz.to) else { continue };
            let Some(lan) = self.network.lan(&guest.lan) else { continue };
            for version in Version::BOTH {
                let Some(to) = version.first(&dmz.to) else { continue };
                // One that names the address takes it from one of every address.
                let named = |public: &IpAddr| self.network.dmzs.iter().any(|other| other.address == Some(*public));
                let at_it = |public: &IpAddr| dmz.address.map_or(!named(public), |address| address == *public);
                let all: Vec<IpAddr> = match dmz.address {
                    Some(address) if self.view.outside && self.network.uplink.present => vec![address],
                    _ => self.public_of(version).into_iter().filter(at_it).collect(),
                };
                for (nth, public) in all.into_iter().filter(|address| version.has(*address)).enumerate() {
                    for transport in [Transport::Tcp, Transport::Udp] {
                        let free = |port: &u16| {
                            let forwards = &self.network.forwards;
                            !forwards.iter().any(|f| f.transport == transport && f.to_port_of(*port).is_some())
                                && !self.kept(public, transport, *port)
                        };
                        let Some(port) = (SOME_PORT..u16::MAX).find(free) else { continue };
                        let way = Way {
                            name: format!("everything else, {port}/{transport},"),
                            suffix: if self.network.dmzs.len() > 1 { format!(" at {public}") } else { at(nth, public) },
                            public,
                            kind: match transport {
                                Transport::Tcp => PacketKind::Tcp(port),
                                Transport::Udp => PacketKind::Udp(port),
                            },
                            guest,
                            to,
                            to_port: port,
                            sources: &dmz.sources,
                            hairpin: dmz.hairpin,
                        };
                        self.ask_from_outside(&way, version, true);
                        if nth == 0 {
                            self.ask_from_inside(&way, lan, version);
                        }
                    }
                }
            }
        }
    }

    /// The public addresses on which a forward is open.
    fn listened(&self, forward: &Forward, version: Version) -> Vec<IpAddr> {
        match forward.address {
            // A live host sends to it only where it is its own, as `public_of` has it for the others.
            Some(address) if version.has(address) && self.network.uplink.present => {
                if self.view.outside || self.view.public.contains(&address) { vec![address] } else { Vec::new() }
            }
            Some(_) => Vec::new(),
            None => {
                // A forward of this one address comes before those of every one.
                let own = |public: &IpAddr| {
                    !self.network.forwards.iter().any(|other| {
                        other.address == Some(*public)
                            && other.transport == forward.transport
                            && other.ports.overlaps(forward.ports)
                    })
                };
                self.public_of(version).into_iter().filter(own).collect()
            }
        }
    }

    fn ask_from_outside(&mut self, way: &Way<'_>, version: Version, full: bool) {
        // The router sends on what is mapped to a host that does not hold it; a neighbour asks the segment for it in
        // vain.
        let held = self.view.public.contains(&way.public);
        for (spot, who, source) in self.outsiders(version) {
            if spot == Spot::World || full && held {
                let lets_in = way.sources.is_empty() || way.sources.iter().any(|net| net.contains(&source));
                if lets_in {
                    let expect = way.arrives(Some(source));
                    self.ask("W-G-forward", way.title("from", who), spot, way.public, way.kind, expect);
                } else {
                    // It is not there for others: the packet is the host's.
                    let title = way.title("not from", who);
                    self.ask("W-G-forward", title, spot, way.public, way.kind, way.at_host(held));
                }
            }
        }
    }

    fn ask_from_inside(&mut self, way: &Way<'_>, lan: &'a Lan, version: Version) {
        if !way.hairpin {
            let title = way.title("not from", "the host");
            let held = self.view.public.contains(&way.public);
            self.ask("H-G-forward", title, Spot::Host, way.public, way.kind, way.at_host(held));
            if let Some(other) = self.neighbour_of(way.guest, lan, version) {
                let title = way.title("not from", &other.name);
                let from = Spot::Guest(other.name.clone());
                self.ask("G-H-other", title, from, way.public, way.kind, way.blocked());
            }
            return;
        }
        let expect = way.arrives(None);
        self.ask("H-G-forward", way.title("from", "the host"), Spot::Host, way.public, way.kind, expect);
        let gateway = Self::gateway(lan, version);
        let other = self.neighbour_of(way.guest, lan, version);
        for guest in [Some(way.guest), other].into_iter().flatten() {
            let title = way.title("from", &guest.name);
            let from = Spot::Guest(guest.name.clone());
            self.ask("G-H-forward", title, from, way.public, way.kind, way.arrives(gateway));
        }
        let first_of = |other| self.guests_of(other, version).first().copied();
        let strangers: Vec<&Guest> = self.other_lans(lan).filter_map(first_of).collect();
        for stranger in strangers {
            let from = Spot::Guest(stranger.name.clone());
            let own = version.first(&stranger.addresses);
            let inside = match way.kind {
                PacketKind::Tcp(_) => PacketKind::Tcp(way.to_port),
                _ => PacketKind::Udp(way.to_port),
            };
            if own.is_some_and(|own| self.network.lets_across(own, way.to, service(inside, way.to))) {
                let title = way.title("from", &stranger.name);
                self.ask("G-H-forward-other", title, from, way.public, way.kind, way.arrives(own));
                continue;
            }
            let title = way.title("not from", &stranger.name);
            let expect = Expect::Blocked { at: vec![Spot::Guest(way.guest.name.clone()), Spot::Host] };
            self.ask("G-H-forward-other", title, from, way.public, way.kind, expect);
        }
    }
}

impl Way<'_> {
    fn arrives(&self, source: Option<IpAddr>) -> Expect {
        Expect::Arrives {
            at: Spot::Guest(self.guest.name.clone()),
            address: Some(self.to),
            port: Some(self.to_port),
            source,
        }
    }

    fn blocked(&self) -> Expect {
        Expect::Blocked { at: vec![Spot::Guest(self.guest.name.clone())] }
    }

    /// For whom it is not there, the packet is the host's.
    fn at_host(&self, held: bool) -> Expect {
        let port = match self.kind {
            PacketKind::Tcp(port) | PacketKind::Udp(port) => Some(port),
            _ => None,
        };
        if held {
            Expect::Arrives { at: Spot::Host, address: Some(self.public), port, source: None }
        } else {
            self.blocked()
        }
    }

    fn title(&self, how: &str, who: &str) -> String {
        format!("{} {how} {who}{}", self.name, self.suffix)
    }
}

/// The first port of a forward, and the last where it is a range.
fn ways<'a>(forward: &'a Forward, guest: &'a Guest, to: IpAddr, which: usize, public: IpAddr) -> Vec<Way<'a>> {
    let name = match forward.address {
        None => format!("forward {}/{}", forward.ports, forward.transport),
        Some(address) => {
            // An IPv6 address stands in brackets, as in the configuration.
            let listen = SocketAddr::new(address, 0).to_string();
            let bare = listen.strip_suffix('0').unwrap_or(&listen);
            format!("forward {bare}{}/{}", forward.ports, forward.transport)
        }
    };
    let address = if forward.address.is_some() { String::new() } else { at(which, public) };
    let mut ways = vec![(forward.ports.first, address.clone())];
    if !forward.ports.is_single() {
        ways.push((forward.ports.last, format!("{address}, last port")));
    }
    ways.into_iter()
        .map(|(port, suffix)| Way {
            name: name.clone(),
            suffix,
            public,
            kind: match forward.transport {
                Transport::Tcp => PacketKind::Tcp(port),
                Transport::Udp => PacketKind::Udp(port),
            },
            guest,
            to,
            to_port: forward.to_port.saturating_add(port - forward.ports.first),
            sources: &forward.sources,
            hairpin: forward.hairpin,
        })
        .collect()
}
