//! The packets of rows that stay on the link: leases, neighbour discovery, and redirects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::address::Transport;
use model::network::Lan;
use model::ruleset::evaluate::Payload;

use crate::rows::at_guest;
use crate::scene::{Case, Pass, Scene, neighbour};

pub fn to_everybody(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    let asks = |source, destination| Payload::Ports { transport: Transport::Udp, source, destination };
    for guest in scene.guests(lan) {
        let mut to = |source: &str, destination: &str, payload| {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            cases.push(Case::new(scene.guest_sends(guest, source, destination, payload), Pass::AtHost));
        };
        if lan.host_for(Ipv4Addr::UNSPECIFIED.into()).is_some() {
            to("0.0.0.0", "255.255.255.255", asks(68, 67));
        }
        if let Some(gateway) = lan.host_for(Ipv6Addr::UNSPECIFIED.into()) {
            to("fe80::6", "ff02::1:2", asks(546, 547));
            to("fe80::6", "ff02::2", Payload::Icmp(133));
            // Neighbour discovery, and of one's own addresses with no source yet.
            let gateway = &gateway.to_string();
            to("fe80::6", "ff02::1:ff00:1", solicits(gateway));
            to("fe80::6", gateway, solicits(gateway));
            to("fe80::6", gateway, advertises("fe80::6"));
            let made = guest.mac.link_local().to_string();
            to(&made, gateway, solicits(gateway));
            for own in own6(scene, lan, guest) {
                if !scene.network.routes_within(lan) {
                    to("::", "ff02::1:ff00:6", solicits(&own));
                }
                to(&made, gateway, advertises(&own));
                to(&own, gateway, solicits(gateway));
            }
        }
    }
    cases
}

/// Where the host answers for a LAN's guests, it must not answer them for themselves.
pub fn asks_for_its_own(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for guest in scene.guests(lan).filter(|_| scene.network.routes_within(lan) && lan.gateway6().is_some()) {
        for own in own6(scene, lan, guest) {
            let (none, groups) = ("::".parse().unwrap(), "ff02::1:ff00:6".parse().unwrap());
            cases.push(Case::new(scene.guest_sends(guest, none, groups, solicits(&own)), Pass::AtHost));
        }
    }
    cases
}

/// Of the host's, to whom it hands on for.
pub fn redirects(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (_, to) in scene.sources(lan).filter(|_| lan.port_isolation && !lan.is_bridged()) {
        let source = lan.gateway_for(to).unwrap();
        let payload = Payload::Icmp(if to.is_ipv4() { 5 } else { 137 });
        cases.push(Case::new(scene.host_sends(source, to, payload), at_guest(lan, to, source)));
    }
    cases
}

/// By a neighbour, for addresses that the host answers for.
pub fn asked_for_guests(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    let answered: Vec<IpAddr> = scene.network.answered().filter(|_| scene.network.uplink.present).collect();
    for (_, of) in scene.sources(lan).filter(|(_, of)| of.is_ipv6()) {
        if answered.contains(&of) {
            let groups = "ff02::1:ff00:6".parse().unwrap();
            let question = solicits(&of.to_string());
            let packet = scene.wire_brings(scene.uplink().as_str(), neighbour(of), groups, question);
            cases.push(Case::new(packet, Pass::AtHost));
        }
    }
    cases
}

fn solicits(target: &str) -> Payload {
    Payload::Neighbour { advertises: false, target: target.parse().unwrap() }
}

fn advertises(target: &str) -> Payload {
    Payload::Neighbour { advertises: true, target: target.parse().unwrap() }
}

/// The IPv6 addresses that a guest has, makes itself, or was allowed.
fn own6(scene: &Scene<'_>, lan: &Lan, guest: &model::network::Guest) -> Vec<String> {
    let fixed = guest.addresses.iter().copied();
    let held = lan.held();
    let made = held.iter().filter_map(|net| match net.network() {
        IpAddr::V6(made) if net.prefix_len() == 64 => Some(IpAddr::V6(guest.mac.address_in(made))),
        _ => None,
    });
    let nested = scene.network.nested(lan).map(|(_, net)| net).collect::<Vec<_>>();
    let allowed =
        guest.allowed.iter().filter(|net| !nested.contains(net)).flat_map(|net| [net.network(), net.broadcast()]);
    let link_local = IpAddr::V6(guest.mac.link_local());
    let all = fixed.chain(made).chain(allowed).chain([link_local]).filter(IpAddr::is_ipv6);
    all.map(|address| address.to_string()).collect()
}
