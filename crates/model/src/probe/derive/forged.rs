//! Frames that a guest writes by hand at its own door: with its own name they pass, with another's they must not.

use std::net::IpAddr;

use super::{Asking, DNS, Version};
use crate::address::{Mac, Transport};
use crate::network::{Guest, Lan};
use crate::probe::{Content, Expect, Frame, PacketKind, Spot};

/// The last port that is tried at the host where those before it are handed on.
const LAST_TRIED: u16 = DNS + 32;

/// Who would see such a frame.
struct Victim {
    spot: Spot,
    name: String,
    mac: Mac,
    address: IpAddr,
    /// The UDP port that it is sent to.
    port: u16,
    /// Whether every frame that comes in is seen there: at the host only what its sockets get.
    sees_frames: bool,
}

impl<'a> Asking<'a> {
    /// Only a lab's guests can be made to lie.
    pub(super) fn of_forgeries(&mut self, guest: &'a Guest, lan: &'a Lan, version: Version) {
        if let Some(gateway) = Self::gateway(lan, version) {
            self.of_forgeries_at(guest, lan, version, gateway);
        }
    }

    /// The same, where the host has the address `gateway` on the LAN.
    pub(super) fn of_forgeries_at(&mut self, guest: &'a Guest, lan: &'a Lan, version: Version, gateway: IpAddr) {
        let Some(own) = version.first(&guest.addresses).filter(|_| self.view.outside) else { return };
        let neighbour = self.neighbour_of(guest, lan, version);
        let mut beside = neighbour.and_then(|other| Some((other, version.first(&other.addresses)?)));
        // Of neighbours that are kept apart nothing is seen, not even what is right.
        if let Some((other, to)) = beside.take_if(|_| lan.port_isolation) {
            let content = Content::Datagram { source: own, port: DNS };
            let frame = Frame { ether_source: guest.mac, ether_destination: other.mac, content };
            let title = format!("{} not to {} by a frame of its own{}", guest.name, other.name, version.word());
            let expect = Expect::Blocked { at: vec![Spot::Guest(other.name.clone())] };
            self.ask("G-G-apart", title, Spot::Guest(guest.name.clone()), to, PacketKind::Frame(frame), expect);
        }
        let Some(host) = self.mac_of(lan) else { return };
        // On the outer network a forward or DMZ may hand on what comes to the host; a gateway answers for names itself.
        let handed_on = |port: &u16| lan.is_bridged() && self.taken(gateway, Transport::Udp, *port);
        let free = (DNS..=LAST_TRIED).find(|port| !handed_on(port));
        let victim = match (beside, free) {
            (Some((other, address)), _) => Victim {
                spot: Spot::Guest(other.name.clone()),
                name: other.name.clone(),
                mac: other.mac,
                address,
                port: DNS,
                sees_frames: true,
            },
            (None, Some(port)) => Victim {
                spot: Spot::Host,
                name: if lan.is_bridged() { "the host" } else { "its gateway" }.to_owned(),
                mac: host,
                address: gateway,
                port,
                sees_frames: false,
            },
            (None, None) => return,
        };
        let (name, over) = (&guest.name, version.word());
        let mut send = |row: &str, what: &str, ether_source: Mac, content: Content, passes: bool| {
            let frame = Frame { ether_source, ether_destination: victim.mac, content };
            let expect = if passes {
                Expect::Arrives { at: victim.spot.clone(), address: None, port: None, source: Some(own) }
            } else {
                Expect::Blocked { at: vec![victim.spot.clone()] }
            };
            let title = format!("{name} to {} {what}{over}", victim.name);
            self.ask(row, title, Spot::Guest(name.clone()), victim.address, PacketKind::Frame(frame), expect);
        };
        let port = victim.port;
        let datagram = Content::Datagram { source: own, port };
        let from = |source| Content::Datagram { source, port };
        let row = if victim.sees_frames { "G-G-same" } else { "G-H-gateway" };
        send(row, "by a frame of its own", guest.mac, datagram, true);
        // The gateway's own address is never taken in by the gateway, whoever sends it.
        let anothers = if victim.sees_frames { gateway } else { victim_like(own) };
        send("G-spoof-ip", &format!("not from {anothers}"), guest.mac, from(anothers), false);
        send("G-spoof-mac", "not with another's hardware address", victim_mac(&victim, lan, host), datagram, false);
        let tagged = Content::Tagged { source: own, port };
        send("G-ethertype", "not behind a tag", guest.mac, tagged, false);
        if !victim.sees_frames {
            return;
        }
        send("A-guest", "says where it is", guest.mac, Content::Claim { address: own }, true);
        let claim = Content::Claim { address: gateway };
        let whose = if lan.is_bridged() { "host" } else { "gateway" };
        send("G-spoof-arp", &format!("does not say that it is the {whose}"), guest.mac, claim, false);
        if let Some(router) = lan.router_for(own).filter(|router| lan.is_bridged() && version.has(*router)) {
            let claim = Content::Claim { address: router };
            send("G-spoof-arp", "does not say that it is the outer router", guest.mac, claim, false);
        }
        send("G-rogue", "offers no leases", guest.mac, Content::Lease { source: own }, false);
        if version == Version::Six {
            let source = guest.mac.link_local();
            send("G-rogue", "offers no routes", guest.mac, Content::Route { source }, false);
            let claim = Content::Claim { address: host.link_local().into() };
            send("G-spoof-arp", "does not say that it is the router", guest.mac, claim, false);
        }
    }
}

/// A hardware address that is not the sender's.
fn victim_mac(victim: &Victim, lan: &Lan, host: Mac) -> Mac {
    if victim.sees_frames { host } else { Mac::derived(&["nobody", lan.bridge.as_str()]) }
}

/// An address on the same LAN that is not the sender's.
fn victim_like(own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(a) => IpAddr::V4((a.to_bits() ^ 1).into()),
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() ^ 1).into()),
    }
}
