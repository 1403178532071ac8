//! The packets of each row of docs/traffic.md, for a LAN of whatever mode: the document says what becomes of them.

use std::net::IpAddr;

use model::network::{Lan, Snat};
use model::ruleset::evaluate::{Body, CtState, Flow, Packet, Payload};

use crate::common;
use crate::forged::{
    arp_for_gateway, arp_for_public, arp_of_guest, ether_types, rogue, spoofed_arp, spoofed_ip, spoofed_mac, taps,
};
use crate::on_link::{asked_for_guests, asks_for_its_own, redirects, to_everybody};
use crate::outside::{
    container_to_guest, from_host, host_to_itself, host_to_world, inward, versions, world_to_gateway, world_to_guest,
    world_to_host,
};
use crate::scene::{Case, Party, Pass, Scene, container, echo, neighbour, ports, some_of_each, tcp, udp, world};
use crate::ways::{forwards, hairpin, hairpin_from_host, hairpin_from_other_lan, world_with_our_source};

type Packets = fn(&Scene<'_>, &Lan) -> Vec<Case>;

/// Each row's packets, in the document's order.
pub const ROWS: &[(&str, Packets)] = &[
    ("G-G-same", same_lan),
    ("G-G-apart", kept_apart),
    ("G-G-other", other_lan),
    ("G-W", to_world),
    ("G-W-denied", denied_world),
    ("allow", allowed),
    ("G-X", to_container),
    ("G-metadata", to_metadata),
    ("G-H-gateway", to_gateway),
    ("G-H-lease", to_everybody),
    ("G-H-dad", asks_for_its_own),
    ("G-H-other", to_host),
    ("G-H-gateway-other", to_other_gateway),
    ("G-H-forward", hairpin),
    ("G-H-forward-other", hairpin_from_other_lan),
    ("G-H-site", to_site),
    ("H-G", from_host),
    ("H-G-forward", hairpin_from_host),
    ("H-G-redirect", redirects),
    ("H-W", host_to_world),
    ("H-H", host_to_itself),
    ("W-H", world_to_host),
    ("W-H-gateway", world_to_gateway),
    ("W-G-forward", forwards),
    ("W-G-direct", world_to_guest),
    ("W-G-spoofed", world_with_our_source),
    ("X-G", container_to_guest),
    ("G-W-spoofed", foreign_source),
    ("reply", replies),
    ("error", errors),
    ("invalid", invalid),
    ("other", others),
    ("A-guest", arp_of_guest),
    ("A-gateway", arp_for_gateway),
    ("A-public", arp_for_public),
    ("N-uplink", asked_for_guests),
    ("G-spoof-ip", spoofed_ip),
    ("G-spoof-mac", spoofed_mac),
    ("G-spoof-arp", spoofed_arp),
    ("G-rogue", rogue),
    ("G-ethertype", ether_types),
];

pub fn at_guest(lan: &Lan, address: IpAddr, source: IpAddr) -> Pass {
    Pass::AtGuest { bridge: lan.bridge.clone(), address, port: None, source }
}

/// Every pair of a guest's address here and one there, of one version.
pub fn pairs<'a>(
    scene: &'a Scene<'_>,
    here: &'a Lan,
    there: &'a Lan,
) -> Vec<(&'a model::network::Guest, IpAddr, IpAddr)> {
    let mut pairs = Vec::new();
    for (guest, source) in scene.sources(here) {
        for (other, to) in scene.sources(there) {
            if other.name != guest.name && to.is_ipv4() == source.is_ipv4() {
                pairs.push((guest, source, to));
            }
        }
    }
    pairs
}

/// Between neighbours that are kept apart, where an allow says so: by the host.
fn neighbours(scene: &Scene<'_>, lan: &Lan, allowed: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source, to) in pairs(scene, lan, lan).into_iter().filter(|_| lan.port_isolation) {
        for payload in some_of_each(to).into_iter().chain([tcp(31), udp(30)]) {
            if scene.allowed(Party::Inside(source), Party::Inside(to), payload) == allowed {
                let packet = scene.guest_sends(guest, source, to, payload);
                cases.push(Case::new(packet, at_guest(lan, to, source)));
            }
        }
    }
    cases
}

/// By the host where no allow says so, and straight from port to port whatever they say.
fn kept_apart(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if !lan.port_isolation {
        return Vec::new();
    }
    // On a bridged LAN what is sent to a router is the outer network's.
    let mut cases = if lan.is_bridged() { Vec::new() } else { neighbours(scene, lan, false) };
    for (guest, source, to) in pairs(scene, lan, lan) {
        for payload in some_of_each(to) {
            let ether_destination = scene.guest_at(to).unwrap().mac;
            let packet = Packet { ether_destination, ..scene.guest_sends(guest, source, to, payload) };
            cases.push(Case::new(packet, at_guest(lan, to, source)));
        }
    }
    for tap in taps(scene, lan) {
        for (other, to) in scene.sources(lan) {
            let packet = scene.tap_sends(&tap, free(lan, to), to, tcp(22));
            let packet = Packet { ether_destination: other.mac, ..packet };
            cases.push(Case::new(packet, at_guest(lan, to, free(lan, to))));
        }
    }
    cases
}

fn same_lan(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    if lan.port_isolation {
        return cases;
    }
    // From what it was allowed besides, to a neighbour.
    for guest in scene.guests(lan) {
        for net in &guest.allowed {
            for to in [net.network(), net.broadcast()].into_iter().filter_map(|source| {
                let other = scene.sources(lan).find(|(g, a)| g.name != guest.name && a.is_ipv4() == source.is_ipv4());
                Some((source, other?.1))
            }) {
                let (source, to) = to;
                cases.push(Case::new(scene.guest_sends(guest, source, to, tcp(22)), at_guest(lan, to, source)));
            }
        }
    }
    // Who learns its addresses from the outer network has one of nobody else's.
    for guest in scene.guests(lan).filter(|_| lan.is_bridged()) {
        for (other, to) in scene.sources(lan).filter(|(other, _)| other.name != guest.name) {
            if guest.addresses.iter().all(|own| own.is_ipv4() != to.is_ipv4()) {
                let source = free(lan, to);
                let mut claim = scene.guest_sends(guest, source, to, tcp(22));
                cases.push(Case::new(claim.clone(), at_guest(lan, to, source)));
                claim.body = match source {
                    IpAddr::V4(sender) => Body::Arp { sender_mac: guest.mac, sender },
                    IpAddr::V6(target) => Body::Ip {
                        source: guest.mac.link_local().into(),
                        destination: to,
                        payload: Payload::Neighbour { advertises: true, target },
                    },
                };
                claim.ether_destination = other.mac;
                cases.push(Case::new(claim, Pass::Anywhere));
            }
        }
    }
    // Whoever is behind a tap has an address of nobody else's.
    for tap in taps(scene, lan) {
        for (_, to) in scene.sources(lan) {
            let source = free(lan, to);
            for payload in some_of_each(to) {
                cases.push(Case::new(scene.tap_sends(&tap, source, to, payload), at_guest(lan, to, source)));
            }
        }
    }
    for (guest, source, to) in pairs(scene, lan, lan) {
        for payload in some_of_each(to) {
            cases.push(Case::new(scene.guest_sends(guest, source, to, payload), at_guest(lan, to, source)));
        }
    }
    cases
}

/// An address of the LAN's that nobody has, of that one's family.
pub fn free(lan: &Lan, like: IpAddr) -> IpAddr {
    match lan.host_for(like).unwrap() {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            IpAddr::from([x, y, z, 250])
        }
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() | 0xfa00).into()),
    }
}

/// From the guests of a LAN to those of the others, where an allow says so, or where none does.
fn across(scene: &Scene<'_>, lan: &Lan, allowed: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    // To and from an outer network its own router decides; to the other LANs it is the world.
    for other in scene.other_lans(lan).filter(|other| !lan.is_bridged() && !other.is_bridged()) {
        for (guest, source, to) in pairs(scene, lan, other) {
            for payload in some_of_each(to).into_iter().chain([tcp(31), udp(30)]) {
                if scene.allowed(Party::Inside(source), Party::Inside(to), payload) == allowed {
                    let packet = scene.guest_sends(guest, source, to, payload);
                    cases.push(Case::new(packet, at_guest(other, to, source)));
                }
            }
        }
    }
    cases
}

fn other_lan(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    across(scene, lan, false)
}

/// Everything that a border stops unless an allow names it.
fn allowed(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = across(scene, lan, true);
    cases.extend(neighbours(scene, lan, true));
    if lan.egress_denied {
        cases.extend(out(scene, lan, true));
    }
    cases.extend(beyond(scene, lan, true));
    cases.extend(inward(scene, lan, true));
    cases
}

/// From every guest's every address to one address of its version.
fn from_all(scene: &Scene<'_>, lan: &Lan, to: fn(IpAddr) -> IpAddr, oif: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        for payload in some_of_each(source) {
            let pass = Pass::Out(oif.parse().unwrap(), source);
            cases.push(Case::new(scene.guest_sends(guest, source, to(source), payload), pass));
        }
    }
    cases
}

/// To the world and to a neighbour, where that is allowed or where it is not.
fn out(scene: &Scene<'_>, lan: &Lan, may: bool) -> Vec<Case> {
    if lan.is_bridged() {
        // By the outer network's router, in the frames that the guest wrote.
        let mut cases = from_all(scene, lan, world, scene.uplink().as_str());
        cases.iter_mut().for_each(|case| case.pass = Pass::Bridged(lan.bridge.clone()));
        return cases;
    }
    if !scene.network.uplink.present {
        return Vec::new();
    }
    let mut cases = Vec::new();
    for to in [world, neighbour] {
        for mut case in from_all(scene, lan, to, scene.uplink().as_str()) {
            let source = case.packet.body.source().unwrap();
            let Body::Ip { payload, .. } = case.packet.body else { continue };
            let allowed = || scene.allowed(Party::Inside(source), Party::World(to(source)), payload);
            if lan.meets_world() && (!lan.egress_denied || allowed()) != may {
                continue;
            }
            let guest = scene.guest_at(source).unwrap();
            let seen = match scene.network.snat_of(lan, guest, source) {
                Snat::To(address) => address,
                Snat::Masquerade => scene.uplink_address(source),
                Snat::Keep => source,
            };
            assert!(seen != source || common::is_global6(source) || lan.mode.word() != "nat");
            case.pass = Pass::Out(scene.uplink().clone(), seen);
            cases.push(case);
        }
    }
    // Networks behind guests leave as their LAN does.
    for (guest, net) in scene.network.nested(lan) {
        let source = net.broadcast();
        let seen = match lan.snat_for(source) {
            Snat::To(address) => address,
            Snat::Masquerade => scene.uplink_address(source),
            Snat::Keep => source,
        };
        let allowed = || scene.allowed(Party::Inside(source), Party::World(world(source)), tcp(443));
        let here = !lan.meets_world() || (!lan.egress_denied || allowed()) == may;
        if here && lan.host_for(source).is_some() {
            let packet = scene.guest_sends(guest, source, world(source), tcp(443));
            cases.push(Case::new(packet, Pass::Out(scene.uplink().clone(), seen)));
        }
    }
    cases
}

fn to_world(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    out(scene, lan, true)
}

fn denied_world(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.egress_denied { out(scene, lan, false) } else { Vec::new() }
}

/// To another network of the host's, where that is allowed or where it is not.
fn beyond(scene: &Scene<'_>, lan: &Lan, may: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    if lan.is_bridged() {
        return cases;
    }
    for mut case in from_all(scene, lan, container, "docker0") {
        let source = case.packet.body.source().unwrap();
        let Body::Ip { payload, .. } = case.packet.body else { continue };
        if scene.allowed(Party::Inside(source), Party::Beyond(container(source)), payload) != may {
            continue;
        }
        // Private addresses are known to nobody there.
        if lan.snat_for(source) != Snat::Keep && lan.mode.word() == "nat" {
            let here = if source.is_ipv4() { "172.17.0.1" } else { "fd00:d0c::1" };
            case.pass = Pass::Out("docker0".parse().unwrap(), here.parse().unwrap());
        }
        cases.push(case);
    }
    cases
}

fn to_container(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    beyond(scene, lan, false)
}

fn to_metadata(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if !scene.network.uplink.present && !lan.is_bridged() {
        return Vec::new();
    }
    let metadata = |like: IpAddr| if like.is_ipv4() { "169.254.169.254" } else { "fd00:ec2::254" }.parse().unwrap();
    from_all(scene, lan, metadata, scene.uplink().as_str())
}

fn to_gateway(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        let gateway = lan.host_for(source).unwrap();
        let lease = if source.is_ipv4() { udp(67) } else { udp(547) };
        for payload in [udp(53), tcp(53), lease, echo(source)] {
            if lan.is_bridged() && scene.taken(gateway, payload).is_some() {
                continue;
            }
            cases.push(Case::new(scene.guest_sends(guest, source, gateway, payload), Pass::AtHost));
        }
    }
    cases
}

fn to_host(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        let mut to = |destination: IpAddr, payload| {
            cases.push(Case::new(scene.guest_sends(guest, source, destination, payload), Pass::AtHost));
        };
        let gateway = lan.host_for(source).unwrap();
        if lan.is_bridged() {
            // As for any neighbour there.
            for payload in some_of_each(source).into_iter().filter(|p| scene.taken(gateway, *p).is_none()) {
                to(gateway, payload);
            }
            continue;
        }
        // Timestamp requests and redirects are not echo.
        let odd = Payload::Icmp(if source.is_ipv4() { 13 } else { 137 });
        for payload in [tcp(22), tcp(67), udp(123), Payload::Other(47), odd] {
            to(gateway, payload);
        }
        // A site is not one at the gateway's address, whatever address that is.
        let made = IpAddr::V6(lan.mac.link_local());
        for entry in &scene.network.entries() {
            to(gateway, tcp(entry.port));
            if !source.is_ipv4() {
                to(made, tcp(entry.port));
            }
        }
        // What is forwarded at the public address is nothing at the gateway's.
        for forward in &scene.network.forwards {
            to(gateway, ports(forward.transport, forward.ports.first));
        }
        let elsewhere: IpAddr = if source.is_ipv4() { "172.17.0.1" } else { "fd00:d0c::1" }.parse().unwrap();
        let mut held = vec![elsewhere];
        held.extend(scene.network.uplink.present.then(|| scene.uplink_address(source)));
        for address in held {
            // A forward that is not for guests is nothing to them.
            let outside = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.first));
            for payload in some_of_each(source).into_iter().chain(outside) {
                if scene.taken(address, payload).is_none_or(|way| !way.hairpin) {
                    to(address, payload);
                }
            }
        }
    }
    cases
}

/// Sites at each public address that the host holds, of the guest's version.
fn to_site(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan) {
        let mut places = sites(scene, source);
        if let (true, Some(address)) = (lan.is_bridged(), lan.host_for(source)) {
            // What stands between it and others of the host's addresses is not ours.
            places.iter_mut().for_each(|place| place.0 = address);
            places.retain(|(address, port)| scene.taken(*address, tcp(*port)).is_none());
        }
        for (address, port) in places {
            cases.push(Case::new(scene.guest_sends(guest, source, address, tcp(port)), Pass::AtHost));
        }
    }
    cases
}

/// Address and port of each site's entry that the host holds, of that version.
pub fn sites(scene: &Scene<'_>, like: IpAddr) -> Vec<(IpAddr, u16)> {
    let mut public = common::public_addresses(scene.network);
    public.retain(|address| scene.network.uplink.present && *address == scene.uplink_address(like));
    let entries = scene.network.entries();
    let at = |address: IpAddr| {
        let here = entries.iter().filter(move |entry| entry.address.is_none_or(|at| at == address));
        here.map(move |entry| (address, entry.port)).collect::<Vec<_>>()
    };
    public.into_iter().flat_map(at).collect()
}

fn to_other_gateway(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, source) in scene.sources(lan).filter(|_| !lan.is_bridged()) {
        for net in scene.other_lans(lan).flat_map(|other| &other.addresses) {
            if net.addr().is_ipv4() != source.is_ipv4() {
                continue;
            }
            let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.first));
            for payload in some_of_each(source).into_iter().chain(forwarded) {
                cases.push(Case::new(scene.guest_sends(guest, source, net.addr(), payload), Pass::AtHost));
            }
        }
    }
    cases
}

fn foreign_source(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (guest, own) in scene.sources(lan).filter(|_| scene.network.uplink.present) {
        let mut foreign = vec![neighbour(own), container(own)];
        foreign.extend(scene.other_lans(lan).filter_map(|other| other.host_for(own)));
        for source in foreign {
            for payload in some_of_each(own) {
                let packet = scene.guest_sends(guest, source, world(own), payload);
                cases.push(Case::new(packet, Pass::Out(scene.uplink().clone(), source)));
            }
        }
    }
    cases
}

/// The flows that a LAN of either mode has.
fn flows(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut flows = [
        same_lan as Packets,
        to_gateway,
        hairpin,
        from_host,
        hairpin_from_host,
        host_to_itself,
        world_to_host,
        forwards,
        others,
    ]
    .iter()
    .flat_map(|packets| packets(scene, lan))
    .collect::<Vec<Case>>();
    if lan.meets_world() {
        flows.extend(to_world(scene, lan));
        flows.extend(allowed(scene, lan));
    }
    flows
}

fn replies(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    flows(scene, lan).iter().filter_map(|flow| flow.answer(scene, false)).collect()
}

fn errors(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    flows(scene, lan).iter().filter_map(|flow| flow.answer(scene, true)).collect()
}

fn invalid(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.is_bridged() {
        return Vec::new();
    }
    // Allowed or not.
    let mut cases = to_world(scene, lan);
    cases.extend(other_lan(scene, lan));
    cases.extend(allowed(scene, lan));
    cases.retain(|case| matches!(case.packet.origin, model::ruleset::evaluate::Origin::Port(_)));
    for case in &mut cases {
        case.packet.flow = Flow { state: CtState::Invalid, ..Flow::NEW };
    }
    cases
}

fn others(scene: &Scene<'_>, _: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for like in versions().filter(|_| scene.network.uplink.present) {
        let (uplink, inside) = (scene.uplink().as_str(), container(like));
        for payload in some_of_each(like) {
            let out = scene.wire_brings("docker0", inside, world(like), payload);
            cases.push(Case::new(out, Pass::Out(scene.uplink().clone(), inside)));
            let source = neighbour(like);
            let back = scene.wire_brings(uplink, source, inside, payload);
            cases.push(Case::new(back, Pass::Out("docker0".parse().unwrap(), source)));
        }
    }
    cases
}
