//! Frames at a guest's port, and who says what of whom.

use std::net::{IpAddr, Ipv4Addr};

use model::address::{Mac, Transport};
use model::network::Lan;
use model::ruleset::evaluate::{Body, Packet, Payload};

use crate::rows::{free, pairs};
use crate::scene::{Case, Pass, Scene, neighbour, tcp, udp, world};

/// Every ARP frame in which a guest claims an address that `claims` picks for it.
fn arp(scene: &Scene<'_>, lan: &Lan, own: bool, claims: fn(&Scene<'_>, &Lan, &str) -> Vec<IpAddr>) -> Vec<Case> {
    let mut cases = Vec::new();
    for guest in scene.guests(lan) {
        for sender in claims(scene, lan, &guest.name) {
            let IpAddr::V4(sender) = sender else { continue };
            let mut packet = scene.guest_sends(guest, sender.into(), Ipv4Addr::BROADCAST.into(), tcp(0));
            packet.body = Body::Arp { sender_mac: guest.mac, sender };
            cases.push(Case::new(packet, Pass::Anywhere));
        }
        for net in guest.allowed.iter().filter(|_| own) {
            let IpAddr::V4(sender) = net.broadcast() else { continue };
            let mut packet = scene.guest_sends(guest, sender.into(), Ipv4Addr::BROADCAST.into(), tcp(0));
            packet.body = Body::Arp { sender_mac: guest.mac, sender };
            cases.push(Case::new(packet, Pass::Anywhere));
        }
    }
    cases
}

pub fn arp_of_guest(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    // And no address yet.
    let mut cases = arp(scene, lan, true, |scene, _, name| scene.network.guest(name).unwrap().addresses.clone());
    cases.extend(arp(scene, lan, false, |_, _, _| vec![Ipv4Addr::UNSPECIFIED.into()]));
    cases
}

/// The question reaches the host, and no guest holds the address.
pub fn arp_for_gateway(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.is_bridged() {
        return Vec::new();
    }
    assert!(lan.addresses.iter().all(|net| scene.guest_at(net.addr()).is_none()));
    let mut cases = arp_of_guest(scene, lan);
    for case in &mut cases {
        case.pass = Pass::AtHost;
    }
    cases
}

pub fn arp_for_public(scene: &Scene<'_>, _: &Lan) -> Vec<Case> {
    if !scene.network.uplink.present {
        return Vec::new();
    }
    let any = Ipv4Addr::UNSPECIFIED.into();
    let mut packet = scene.wire_brings(scene.uplink().as_str(), any, any, tcp(0));
    let IpAddr::V4(sender) = neighbour(any) else { return Vec::new() };
    packet.body = Body::Arp { sender_mac: Mac::derived(&["far"]), sender };
    vec![Case::new(packet, Pass::AtHost)]
}

/// The addresses of others on a guest's LAN: the host's and its neighbours'.
fn of_others(scene: &Scene<'_>, lan: &Lan, name: &str) -> Vec<IpAddr> {
    let neighbours = scene.sources(lan).filter(|(guest, _)| guest.name != name).map(|(_, address)| address);
    let routers = lan.outer.iter().flat_map(|outer| outer.routers.iter().copied());
    lan.held().iter().map(ipnet::IpNet::addr).chain(neighbours).chain(routers).collect()
}

pub fn spoofed_ip(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for guest in scene.guests(lan) {
        for source in of_others(scene, lan, &guest.name) {
            let mut to = vec![world(source)];
            to.extend(lan.host_for(source));
            to.extend(scene.sources(lan).map(|(_, address)| address).find(|a| a.is_ipv4() == source.is_ipv4()));
            for destination in to {
                cases.push(Case::new(scene.guest_sends(guest, source, destination, udp(53)), Pass::Anywhere));
            }
        }
        let beside = scene.sources(lan).filter(|(other, a)| other.name != guest.name && a.is_ipv6());
        for to in beside.map(|(_, address)| address).chain(["ff02::1".parse().unwrap()]) {
            for source in link_locals(scene, lan, guest) {
                cases.push(Case::new(scene.guest_sends(guest, source, to, udp(53)), Pass::Anywhere));
            }
        }
        // Before it has an address it asks everybody, and for nothing else.
        let none = Ipv4Addr::UNSPECIFIED.into();
        cases.push(Case::new(scene.guest_sends(guest, none, Ipv4Addr::BROADCAST.into(), udp(68)), Pass::Anywhere));
        let none = std::net::Ipv6Addr::UNSPECIFIED.into();
        cases.push(Case::new(scene.guest_sends(guest, none, world(none), udp(53)), Pass::Anywhere));
    }
    for tap in taps(scene, lan) {
        for source in of_others(scene, lan, "").into_iter().chain([lan.mac.link_local().into()]) {
            cases.push(Case::new(scene.tap_sends(&tap, source, world(source), udp(53)), Pass::Anywhere));
        }
    }
    cases
}

pub fn spoofed_mac(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        let others = scene.guests(lan).filter(|other| other.name != guest.name).map(|other| other.mac);
        for ether_source in others.chain([lan.mac, Mac::derived(&["nobody"])]) {
            let gateway = lan.host_for(source).unwrap();
            let packet = scene.guest_sends(guest, source, gateway, udp(53));
            cases.push(Case::new(Packet { ether_source, ..packet }, Pass::Anywhere));
        }
    }
    for tap in taps(scene, lan) {
        for ether_source in scene.guests(lan).map(|guest| guest.mac).chain([lan.mac]) {
            let free = if lan.host_for(Ipv4Addr::UNSPECIFIED.into()).is_some() { "10.1.1.200" } else { "fd00::200" }
                .parse()
                .unwrap();
            let packet = scene.tap_sends(&tap, free, world(free), udp(53));
            cases.push(Case::new(Packet { ether_source, ..packet }, Pass::Anywhere));
        }
    }
    cases
}

pub fn spoofed_arp(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = arp(scene, lan, false, of_others);
    for guest in scene.guests(lan) {
        // Right by one of the two hardware addresses alone.
        for sender in guest.addresses.iter().filter(|a| a.is_ipv4()) {
            let IpAddr::V4(sender) = *sender else { continue };
            let mut packet = scene.guest_sends(guest, sender.into(), Ipv4Addr::BROADCAST.into(), tcp(0));
            packet.body = Body::Arp { sender_mac: lan.mac, sender };
            cases.push(Case::new(packet, Pass::Anywhere));
        }
        let groups = "ff02::1".parse().unwrap();
        let own = IpAddr::V6(guest.mac.link_local());
        for target in link_locals(scene, lan, guest).into_iter().chain(of_others(scene, lan, &guest.name)) {
            let IpAddr::V6(target) = target else { continue };
            let claims = |advertises| Payload::Neighbour { advertises, target };
            cases.push(Case::new(scene.guest_sends(guest, own, groups, claims(true)), Pass::Anywhere));
            let none = std::net::Ipv6Addr::UNSPECIFIED.into();
            cases.push(Case::new(scene.guest_sends(guest, none, groups, claims(false)), Pass::Anywhere));
        }
    }
    for tap in taps(scene, lan) {
        for claimed in of_others(scene, lan, "").into_iter().chain([lan.mac.link_local().into()]) {
            let mut packet = scene.tap_sends(&tap, claimed, claimed, tcp(0));
            packet.body = match claimed {
                IpAddr::V4(sender) => Body::Arp { sender_mac: packet.ether_source, sender },
                IpAddr::V6(target) => Body::Ip {
                    source: "fe80::99".parse().unwrap(),
                    destination: "ff02::1".parse().unwrap(),
                    payload: Payload::Neighbour { advertises: true, target },
                },
            };
            cases.push(Case::new(packet, Pass::Anywhere));
        }
    }
    cases
}

/// The link-local addresses of everybody else's on the LAN.
fn link_locals(scene: &Scene<'_>, lan: &Lan, guest: &model::network::Guest) -> Vec<IpAddr> {
    let others = scene.guests(lan).filter(|other| other.name != guest.name).map(|other| other.mac);
    others.chain([lan.mac]).map(|mac| mac.link_local().into()).collect()
}

/// The taps of whom it is not said who is behind.
pub fn taps(_: &Scene<'_>, lan: &Lan) -> Vec<model::address::IfName> {
    lan.taps.iter().map(|tap| tap.name.clone()).collect()
}

pub fn rogue(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    // Straight to one neighbour, so that nothing else stops them.
    let ports = |source, destination| Payload::Ports { transport: Transport::Udp, source, destination };
    for (guest, source, to) in pairs(scene, lan, lan) {
        let offers: &[Payload] = if source.is_ipv4() {
            &[ports(67, 68)]
        } else {
            &[ports(547, 546), Payload::Icmp(134), Payload::Icmp(137)]
        };
        for offer in offers {
            cases.push(Case::new(scene.guest_sends(guest, source, to, *offer), Pass::Anywhere));
            for tap in taps(scene, lan) {
                cases.push(Case::new(scene.tap_sends(&tap, free(lan, to), to, *offer), Pass::Anywhere));
            }
        }
    }
    for (guest, source) in scene.sources(lan) {
        let offers = |source, destination| Payload::Ports { transport: Transport::Udp, source, destination };
        let frames: &[(&str, Payload)] = if source.is_ipv4() {
            &[("255.255.255.255", offers(67, 68))]
        } else {
            &[("ff02::1", Payload::Icmp(134)), ("ff02::1", Payload::Icmp(137)), ("fe80::99", offers(547, 546))]
        };
        for (to, payload) in frames {
            let packet = scene.guest_sends(guest, source, to.parse().unwrap(), *payload);
            cases.push(Case::new(packet, Pass::Anywhere));
            for tap in taps(scene, lan) {
                let free = if source.is_ipv4() { "10.1.1.200" } else { "fe80::200" }.parse().unwrap();
                let packet = scene.tap_sends(&tap, free, to.parse().unwrap(), *payload);
                cases.push(Case::new(packet, Pass::Anywhere));
            }
        }
    }
    cases
}

pub fn ether_types(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        // 802.1Q, 802.1ad, LLDP.
        for ether_type in [0x8100, 0x88a8, 0x88cc] {
            let packet = scene.guest_sends(guest, source, lan.host_for(source).unwrap(), tcp(0));
            cases.push(Case::new(Packet { body: Body::Other(ether_type), ..packet }, Pass::Anywhere));
            for tap in taps(scene, lan) {
                let packet = scene.tap_sends(&tap, source, source, tcp(0));
                cases.push(Case::new(Packet { body: Body::Other(ether_type), ..packet }, Pass::Anywhere));
            }
        }
    }
    cases
}
