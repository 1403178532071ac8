//! What an `[[allow]]` lets pass: a rule for each way that it opens, with its addresses in sets of its own, for those of
//! different allows may overlap, and an interval set takes no overlaps.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::forwards::range;
use super::{accept, address_type, daddr, iif, in_set, named, oif, rule, saddr};
use crate::network::{Allow, Mode, Network, Snat};
use crate::ruleset::{Element, Field, IpFamily, KeyPart, Operand, Rule, Set, Statement, Type, Value};

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];
const SERVICE: [Field; 2] = [Field::L4Proto, Field::ThDport];

/// The networks of an allow that sets are made of, by what they are called.
fn sides<'a>(network: &Network, allow: &'a Allow) -> [(&'static str, Vec<&'a IpNet>); 5] {
    // The world cannot reach what leaves rewritten but by a forward, whatever is allowed.
    let open = |net: &&IpNet| network.lans.iter().any(|lan| lan.is_open(net.addr()) && network.is_on(lan, net.addr()));
    [
        ("from", allow.from.inside.iter().collect()),
        ("from_net", allow.from.nets.iter().collect()),
        ("to", allow.to.inside.iter().collect()),
        ("to_net", allow.to.nets.iter().collect()),
        ("to_open", allow.to.inside.iter().filter(open).collect()),
    ]
}

/// The sets of every allow.
pub(super) fn sets(network: &Network) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    for (nth, allow) in network.allows.iter().enumerate() {
        let used: BTreeSet<String> = ways(network, nth, allow).into_iter().flat_map(|(_, sets)| sets).collect();
        for (side, nets) in sides(network, allow) {
            for family in FAMILIES {
                let elements = merged(&nets, family);
                let name = set_name(nth, side, family);
                if used.contains(&name) {
                    let key = [address_type(family)];
                    sets.insert(name, Set { interval: true, elements, ..Set::of(&key) });
                }
            }
        }
        if !allow.ports.is_empty() && !used.is_empty() {
            let set = Set { interval: true, ..Set::of(&[Type::Proto, Type::Port]) };
            sets.insert(ports_name(nth), Set { elements: services(allow), ..set });
        }
    }
    sets
}

/// A family's networks, apart from each other.
fn merged(nets: &[&IpNet], family: IpFamily) -> BTreeSet<Element> {
    let of_family: Vec<IpNet> =
        nets.iter().filter(|net| IpFamily::of(net.addr()) == family).map(|net| net.trunc()).collect();
    let key = |net: &IpNet| range(net.network().into(), net.broadcast().into());
    IpNet::aggregate(&of_family)
        .iter()
        .map(|net| Element { key: vec![key(net)], data: Vec::new(), most: None })
        .collect()
}

/// The ports, those that touch or overlap as one.
fn services(allow: &Allow) -> BTreeSet<Element> {
    let mut sorted: Vec<(u8, u16, u16)> =
        allow.ports.iter().map(|(transport, ports)| (transport.number(), ports.first, ports.last)).collect();
    sorted.sort_unstable();
    let mut apart: Vec<(u8, u16, u16)> = Vec::new();
    for (protocol, first, last) in sorted {
        match apart.last_mut() {
            Some(before) if before.0 == protocol && first <= before.2.saturating_add(1) => {
                before.2 = before.2.max(last)
            }
            _ => apart.push((protocol, first, last)),
        }
    }
    let element = |(protocol, first, last)| Element {
        key: vec![KeyPart::One(Value::Proto(protocol)), range(Value::Port(first), Value::Port(last))],
        data: Vec::new(),
        most: None,
    };
    apart.into_iter().map(element).collect()
}

fn set_name(nth: usize, side: &str, family: IpFamily) -> String {
    named(&format!("allow_{nth}_{side}"), family)
}

fn ports_name(nth: usize) -> String {
    format!("allow_{nth}_ports")
}

/// What the rules that open the way to networks by their addresses are called.
const BY_NETWORK: &str = "allowed to a network";

/// The rules of ways to networks that the file names by their addresses, the cloud's metadata among them (first), and
/// those of all other ways.
pub(super) fn rules(network: &Network) -> (Vec<Rule>, Vec<Rule>) {
    let allows = network.allows.iter().enumerate();
    let all = allows.flat_map(|(nth, allow)| ways(network, nth, allow)).map(|(rule, _)| rule);
    all.partition(|rule| rule.comment == BY_NETWORK)
}

/// The ways that an allow opens, each a rule with the sets that it looks into.
fn ways(network: &Network, nth: usize, allow: &Allow) -> Vec<(Rule, Vec<String>)> {
    let uplink = &network.uplink.name;
    let of_lans = |field| in_set(&[field], "lans");
    let not_of_lans = |field| Statement::InSet { fields: vec![field], not: true, set: "lans".into() };
    let not_uplink = |field| Statement::Match { field, not: true, with: Operand::Value(Value::IfName(uplink.clone())) };
    let sides = sides(network, allow);
    let mut ways = Vec::new();
    for family in FAMILIES {
        let has = |side: &str| {
            sides.iter().any(|(name, nets)| *name == side && nets.iter().any(|n| IpFamily::of(n.addr()) == family))
        };
        let mut open = |what: &str, links: Vec<Statement>, from: Option<&str>, to: Option<&str>| {
            if !from.is_none_or(has) || !to.is_none_or(has) {
                return;
            }
            let mut statements = links;
            let mut names = Vec::new();
            for (field, side) in [(saddr(family), from), (daddr(family), to)] {
                if let Some(side) = side {
                    names.push(set_name(nth, side, family));
                    statements.push(in_set(&[field], &set_name(nth, side, family)));
                }
            }
            if !allow.ports.is_empty() {
                statements.push(in_set(&SERVICE, &ports_name(nth)));
            }
            statements.push(accept());
            ways.push((rule(what, statements), names));
        };
        let (iifs, oifs) = (|| of_lans(Field::IifName), || of_lans(Field::OifName));
        open("allowed between LANs", vec![iifs(), oifs()], Some("from"), Some("to"));
        if allow.to.world {
            open("allowed out to the world", vec![iifs(), oif(uplink)], Some("from"), None);
        }
        open(BY_NETWORK, vec![iifs(), not_of_lans(Field::OifName)], Some("from"), Some("to_net"));
        if allow.from.world {
            open("allowed in from the world", vec![iif(uplink), oifs()], None, Some("to_open"));
        }
        // Who is not behind the uplink cannot be one of the world's that says it is.
        let elsewhere = || vec![not_of_lans(Field::IifName), not_uplink(Field::IifName), oifs()];
        open("allowed from a network", elsewhere(), Some("from_net"), Some("to"));
        open("allowed in from a network", vec![iif(uplink), oifs()], Some("from_net"), Some("to_open"));
    }
    ways
}

/// What leaves for another network of the host's leaves as the host, which alone is known there. Only what is allowed
/// gets this far.
pub(super) fn masquerade(network: &Network) -> Vec<Rule> {
    if network.allows.iter().all(|allow| allow.to.nets.is_empty()) {
        return Vec::new();
    }
    let uplink = Operand::Value(Value::IfName(network.uplink.name.clone()));
    let lo = Operand::Value(Value::IfName(super::loopback()));
    let mut rules = Vec::new();
    for lan in network.lans.iter().filter(|lan| lan.mode == Mode::Nat) {
        for net in super::nets(network, lan).into_iter().filter(|net| lan.snat_for(net.addr()) != Snat::Keep) {
            rules.push(rule(
                &format!("{} leaves for another network", lan.bridge),
                [
                    Statement::Match { field: Field::OifName, not: true, with: uplink.clone() },
                    // Over the loopback interface the host talks to itself, from its address on the LAN too.
                    Statement::Match { field: Field::OifName, not: true, with: lo.clone() },
                    Statement::InSet { fields: vec![Field::OifName], not: true, set: "lans".into() },
                    super::from(net),
                    Statement::Masquerade(IpFamily::of(net.addr())),
                ],
            ));
        }
    }
    rules
}
