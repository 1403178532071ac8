//! Forwards and DMZs, from outside and from inside.

use model::network::Lan;
use model::ruleset::evaluate::{Body, Payload};

use crate::scene::{Case, Party, Pass, Scene, neighbour, ports, world};

/// A guest of `lan` comes by a forward to a guest of `there`.
fn hairpins(scene: &Scene<'_>, lan: &Lan, there: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for way in scene.ways_in(there).into_iter().filter(|way| way.hairpin) {
        for (guest, source) in scene.sources(lan).filter(|(_, source)| source.is_ipv4() == way.public.is_ipv4()) {
            let pass = Pass::AtGuest {
                bridge: there.bridge.clone(),
                address: way.to,
                port: way.to_port,
                source: lan.gateway_for(source).unwrap(),
            };
            cases.push(Case::new(scene.guest_sends(guest, source, way.public, way.payload), pass));
        }
    }
    cases
}

pub fn hairpin(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    hairpins(scene, lan, lan)
}

pub fn hairpin_from_other_lan(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    if lan.is_bridged() {
        return Vec::new();
    }
    let all = scene.other_lans(lan).flat_map(|there| hairpins(scene, lan, there));
    // Who may reach the guest may reach it here too.
    let denied = |case: &Case| {
        let Pass::AtGuest { address, port, .. } = &case.pass else { return true };
        let payload = match (case.packet.body, port) {
            (Body::Ip { payload: Payload::Ports { transport, .. }, .. }, Some(port)) => ports(transport, *port),
            (Body::Ip { payload, .. }, _) => payload,
            _ => return true,
        };
        let from = case.packet.body.source().unwrap();
        !scene.allowed(Party::Inside(from), Party::Inside(*address), payload)
    };
    all.filter(denied).collect()
}

pub fn hairpin_from_host(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let ways = scene.ways_in(lan).into_iter().filter(|way| way.hairpin);
    ways.map(|way| {
        let source = scene.uplink_address(way.public);
        let pass = Pass::AtGuest { bridge: lan.bridge.clone(), address: way.to, port: way.to_port, source };
        Case::new(scene.host_sends(source, way.public, way.payload), pass)
    })
    .collect()
}

pub fn forwards(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for way in scene.ways_in(lan) {
        for source in [world(way.to), neighbour(way.to)].into_iter().filter(|source| way.lets_in(*source)) {
            let packet = scene.wire_brings(scene.uplink().as_str(), source, way.public, way.payload);
            let pass = Pass::AtGuest { bridge: lan.bridge.clone(), address: way.to, port: way.to_port, source };
            cases.push(Case::new(packet, pass));
        }
    }
    cases
}

/// To every way in, with the source of a guest's or of a gateway of ours.
pub fn world_with_our_source(scene: &Scene<'_>, lan: &Lan) -> Vec<Case> {
    let mut cases = Vec::new();
    for way in scene.ways_in(lan) {
        let lans = std::iter::once(lan).chain(scene.other_lans(lan)).filter(|lan| !lan.is_bridged());
        let ours = lans.flat_map(|lan| scene.sources(lan).map(|(_, source)| source).chain(lan.gateway_for(way.to)));
        // Whom it is not open to, it is not there for: the packet is the host's.
        for source in ours.filter(|source| source.is_ipv4() == way.to.is_ipv4() && way.lets_in(*source)) {
            let packet = scene.wire_brings(scene.uplink().as_str(), source, way.public, way.payload);
            let pass = Pass::AtGuest { bridge: lan.bridge.clone(), address: way.to, port: way.to_port, source };
            cases.push(Case::new(packet, pass));
        }
    }
    cases
}
