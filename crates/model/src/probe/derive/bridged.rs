//! Guests that stand on the outer network itself: reached by everybody there under their own addresses, seen there by
//! their own hardware addresses, and held at their ports all the same.

use std::net::IpAddr;

use super::{Asking, HTTPS, METADATA, SSH, Version};
use crate::address::Transport;
use crate::network::{Guest, Lan};
use crate::probe::{Expect, PacketKind, Spot};

impl<'a> Asking<'a> {
    /// Everything that such a guest sends, of the version of `own`.
    pub(super) fn of_bridged(&mut self, guest: &'a Guest, lan: &'a Lan, own: IpAddr, in_full: bool) {
        let version = Version::of(own);
        self.ask_host_beside(guest, lan, own, in_full);
        self.ask_beyond(guest, lan, own, in_full);
        if in_full {
            self.ask_sites(guest, lan, version);
            self.ask_ring(guest, lan, version);
            if let Some(host) = host_beside(lan, own) {
                self.of_forgeries_at(guest, lan, version, host);
            }
        }
    }

    /// The host, which is a neighbour as any other.
    fn ask_host_beside(&mut self, guest: &Guest, lan: &Lan, own: IpAddr, in_full: bool) {
        let Some(host) = host_beside(lan, own) else { return };
        let (name, over) = (&guest.name, Version::of(own).word());
        let own_port = !self.taken(host, Transport::Tcp, SSH);
        let mut ask = |row: &str, what: &str, kind, port| {
            let source = Self::source(guest, Version::of(own));
            let expect = Expect::Arrives { at: Spot::Host, address: Some(host), port, source };
            self.ask(row, format!("{name} to the host{what}{over}"), Spot::Guest(name.clone()), host, kind, expect);
        };
        ask("G-H-gateway", "", PacketKind::Echo, None);
        if in_full && own_port {
            ask("G-H-other", &format!("'s port {SSH}"), PacketKind::Tcp(SSH), Some(SSH));
        }
    }

    /// The world, by the outer network's router; and the cloud's metadata, which the port drops.
    fn ask_beyond(&mut self, guest: &Guest, lan: &Lan, own: IpAddr, in_full: bool) {
        let (name, version) = (&guest.name, Version::of(own));
        // A live host sees such frames by the interface that is plugged in.
        let seen = self.is_outside(lan) && (self.view.outside || lan.carries().is_some());
        if !seen || lan.router_for(own).is_none() {
            return;
        }
        let (from, over) = (|| Spot::Guest(name.clone()), version.word());
        if let Some(world) = self.world(version) {
            let source = Self::source(guest, version);
            let expect = |port| Expect::Arrives { at: Spot::World, address: Some(world), port, source };
            let title = format!("{name} out to the world{over}");
            self.ask("G-W", title, from(), world, PacketKind::Tcp(HTTPS), expect(Some(HTTPS)));
            if in_full {
                let title = format!("{name} echo from the world{over}");
                self.ask("G-W", title, from(), world, PacketKind::Echo, expect(None));
            }
        }
        if in_full && let Some(metadata) = version.first(&METADATA) {
            let title = format!("{name} not to the cloud's metadata{over}");
            let expect = Expect::Blocked { at: vec![Spot::World] };
            self.ask("G-metadata", title, from(), metadata, PacketKind::Tcp(80), expect);
        }
    }

    /// What reaches such a guest: the host, the world and its neighbours out there, who hear of nobody else at its address.
    pub(super) fn at_bridged(&mut self, guest: &Guest, lan: &Lan, to: IpAddr, which: usize, in_full: bool) {
        let over = Self::at_which(guest, to, which);
        let name = &guest.name;
        let host = host_beside(lan, to);
        let arrives = |port, source| Expect::Arrives { at: Spot::Guest(name.clone()), address: Some(to), port, source };
        if host.is_some() {
            let title = format!("the host to {name}{over}");
            self.ask("H-G", title, Spot::Host, to, PacketKind::Echo, arrives(None, host));
            if to.is_ipv4() {
                let title = format!("who answers for {name}{over}");
                let expect = Expect::AnsweredBy { mac: Some(guest.mac) };
                self.ask("A-guest", title, Spot::Host, to, PacketKind::ArpWhoHas, expect);
            }
        }
        if !self.is_outside(lan) {
            return;
        }
        for (spot, who, client) in self.outsiders(Version::of(to)) {
            let beside = spot == Spot::Neighbour;
            let source = if beside { self.neighbour_beside(lan, to) } else { Some(client) };
            let Some(source) = source else { continue };
            let title = format!("{who} to {name}'s port {SSH}{over}");
            self.ask("W-G-direct", title, spot.clone(), to, PacketKind::Tcp(SSH), arrives(Some(SSH), Some(source)));
            if in_full {
                let title = format!("{who} to {name}{over}");
                self.ask("W-G-direct", title, spot.clone(), to, PacketKind::Echo, arrives(None, Some(source)));
            }
            if beside && to.is_ipv4() {
                let title = format!("who answers {who} for {name}{over}");
                let expect = Expect::AnsweredBy { mac: Some(guest.mac) };
                self.ask("A-guest", title, spot, to, PacketKind::ArpWhoHas, expect);
            }
        }
    }

    /// Whether the uplink stands on that LAN: what is known of other outer networks is not enough to ask there.
    fn is_outside(&self, lan: &Lan) -> bool {
        lan.bridge == self.network.uplink.name && self.network.uplink.present
    }

    /// The neighbour's address in the prefix of `to`.
    fn neighbour_beside(&self, lan: &Lan, to: IpAddr) -> Option<IpAddr> {
        self.view.neighbour.iter().copied().find(|neighbour| lan.shares_prefix(*neighbour, to))
    }
}

/// The host's address in the same prefix.
pub(super) fn host_beside(lan: &Lan, own: IpAddr) -> Option<IpAddr> {
    lan.held().iter().map(ipnet::IpNet::addr).find(|held| lan.shares_prefix(*held, own))
}
