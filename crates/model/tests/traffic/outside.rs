//! Packets of the rows of docs/traffic.md that begin at the host, in the world or in another network of the host's.

use std::net::IpAddr;

use model::network::{Lan, Snat};
use model::ruleset::evaluate::{Packet, Payload};

use crate::rows::{at_guest, sites};
use crate::scene::{Case, Party, Pass, Scene, container, neighbour, ports, some_of_each, tcp, world};

pub fn from_host(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for (_, to) in scene.sources(lan) {
        let source = lan.host_for(to).unwrap();
        for payload in some_of_each(to) {
            cases.push(Case::new(scene.host_sends(source, to, payload), at_guest(lan, to, source)));
        }
    }
    cases
}

/// An address of each version: for rows that are about no guest.
const VERSIONS: [&str; 2] = ["0.0.0.0", "::"];

pub fn versions() -> impl Iterator<Item = IpAddr> {
    VERSIONS.iter().map(|address| address.parse().unwrap())
}

pub fn host_to_world(scene: &Scene<'_>, _: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for like in versions().filter(|_| scene.network.uplink.present) {
        let source = scene.uplink_address(like);
        let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.first));
        for payload in some_of_each(like).into_iter().chain(forwarded) {
            let pass = Pass::Out(scene.uplink().clone(), source);
            cases.push(Case::new(scene.host_sends(source, world(like), payload), pass));
        }
    }
    cases
}

pub fn host_to_itself(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let loopback = ["127.0.0.1", "127.0.0.53", "::1"].map(|address| address.parse().unwrap());
    let mut cases = Vec::new();
    for address in lan.addresses.iter().map(ipnet::IpNet::addr).chain(loopback) {
        let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.first));
        for payload in some_of_each(address).into_iter().chain(forwarded) {
            cases.push(Case::new(scene.host_sends(address, address, payload), Pass::AtHost));
        }
    }
    // At its own public address, what is forwarded for the world alone and what it keeps.
    for like in versions().filter(|_| scene.network.uplink.present) {
        let address = scene.uplink_address(like);
        let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.last));
        for payload in some_of_each(like).into_iter().chain(forwarded) {
            if scene.taken(address, payload).is_none_or(|way| !way.hairpin) {
                cases.push(Case::new(scene.host_sends(address, address, payload), Pass::AtHost));
            }
        }
    }
    cases
}

pub fn world_to_host(scene: &Scene<'_>, _: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for like in versions().filter(|_| scene.network.uplink.present) {
        let host = scene.uplink_address(like);
        let forwarded = scene
            .network
            .forwards
            .iter()
            .flat_map(|f| [f.ports.first, f.ports.last, f.ports.last + 1].map(|port| ports(f.transport, port)));
        let entered = sites(scene, like).into_iter().map(|(_, port)| tcp(port));
        for payload in some_of_each(like).into_iter().chain(forwarded).chain(entered) {
            for source in [world(like), neighbour(like)] {
                // A forward for other clients is none for this one; and an address of the uplink's that is not listed
                // is no public one.
                if scene.taken(host, payload).is_none_or(|way| !way.lets_in(source)) {
                    let packet = scene.wire_brings(scene.uplink().as_str(), source, host, payload);
                    cases.push(Case::new(packet, Pass::AtHost));
                }
            }
        }
    }
    cases
}

/// From the world, a neighbour and another network to an address.
fn from_beyond(scene: &Scene<'_>, to: IpAddr, payload: Payload) -> Vec<Packet> {
    let uplink = scene.uplink().as_str();
    let mut packets = vec![scene.wire_brings("docker0", container(to), to, payload)];
    if scene.network.uplink.present {
        packets.push(scene.wire_brings(uplink, world(to), to, payload));
        packets.push(scene.wire_brings(uplink, neighbour(to), to, payload));
    }
    packets
}

pub fn world_to_gateway(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for net in &lan.addresses {
        let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.ports.first));
        for payload in some_of_each(net.addr()).into_iter().chain(forwarded) {
            let packets = from_beyond(scene, net.addr(), payload).into_iter();
            cases.extend(packets.map(|packet| Case::new(packet, Pass::AtHost)));
        }
    }
    cases
}

/// From some of [`from_beyond`] to every guest's every address, where that is allowed or where it is not.
fn to_guests(scene: &Scene<'_>, lan: &Lan, may: bool, from: fn(&str) -> bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (_, to) in scene.sources(lan) {
        let forwarded = scene.network.forwards.iter().map(|f| ports(f.transport, f.to_port));
        for payload in some_of_each(to).into_iter().chain(forwarded) {
            for packet in from_beyond(scene, to, payload) {
                let model::ruleset::evaluate::Origin::Interface(name) = &packet.origin else { continue };
                if !from(name.as_str()) {
                    continue;
                }
                let source = packet.body.source().unwrap();
                let allowed = if name.as_str() == "docker0" {
                    scene.allowed(Party::Beyond(source), Party::Inside(to), payload)
                } else {
                    // What leaves rewritten is reached by forwards alone.
                    let rewritten = lan.mode.word() == "nat" && (to.is_ipv4() || lan.snat_for(to) != Snat::Keep);
                    let open = lan.meets_world() && !rewritten;
                    let named = scene.allowed(Party::World(source), Party::Inside(to), payload);
                    open && (lan.ingress_allowed || named)
                };
                if allowed == may {
                    cases.push(Case::new(packet, at_guest(lan, to, source)));
                }
            }
        }
    }
    cases
}

/// From the outer network's wire to a guest on it.
fn from_the_wire(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for port in lan.outer.iter().flat_map(|outer| &outer.ports) {
        for (guest, to) in scene.sources(lan) {
            for payload in some_of_each(to) {
                let mut packet = scene.wire_brings(port.as_str(), world(to), to, payload);
                packet.origin = model::ruleset::evaluate::Origin::Port(port.clone());
                packet.ether_destination = guest.mac;
                cases.push(Case::new(packet, at_guest(lan, to, world(to))));
            }
        }
    }
    cases
}

pub fn inward(scene: &Scene<'_>, lan: &Lan, may: bool) -> Vec<Case> {
    to_guests(scene, lan, may, |_| true)
}

pub fn world_to_guest(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.is_bridged() {
        return from_the_wire(scene, lan);
    }
    to_guests(scene, lan, false, |name| name != "docker0")
}

pub fn container_to_guest(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.is_bridged() {
        return Vec::new();
    }
    to_guests(scene, lan, false, |name| name == "docker0")
}
