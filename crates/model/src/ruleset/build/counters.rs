//! What is counted besides: connections of guests, and what LANs were refused. They are kept when the rules are made
//! anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{address_type, bridge, daddr, hook, in_set, named, rule, saddr};
use crate::network::{Mode, Network};
use crate::ruleset::{Chain, ChainKind, Element, HookPoint, IpFamily, Rule, Set, Type, Value};

/// The sets that count the connections that a guest began, by its address; one a family.
pub const BEGUN: [&str; 2] = ["begun4", "begun6"];
/// The sets that count those that were begun with it.
pub const TAKEN: [&str; 2] = ["taken4", "taken6"];
/// The set that counts what came from a LAN and was dropped.
pub const DROPPED_FROM: &str = "dropped_from";
/// The set that counts what was for a LAN and was dropped.
pub const DROPPED_TO: &str = "dropped_to";

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

pub(super) fn sets(network: &Network) -> BTreeMap<String, Set> {
    let ours = || network.lans.iter().filter(|lan| lan.mode != Mode::Bridged);
    let lans: BTreeSet<Element> = ours().map(|lan| Element::of([Value::IfName(lan.bridge.clone())])).collect();
    let counted = |kind: Type, elements: &BTreeSet<Element>| Set {
        counted: true,
        elements: elements.clone(),
        ..Set::of(&[kind])
    };
    let mut sets = BTreeMap::new();
    for name in [DROPPED_FROM, DROPPED_TO] {
        sets.insert(name.to_owned(), counted(Type::IfName, &lans));
    }
    for family in FAMILIES {
        let guests = ours().flat_map(|lan| network.guests_of(lan).map(move |guest| (lan, guest)));
        let all = guests.flat_map(|(lan, guest)| bridge::addresses(lan, guest).collect::<Vec<_>>());
        let elements = all.filter(|address| IpFamily::of(*address) == family);
        let elements: BTreeSet<Element> = elements.map(|address| Element::of([address.into()])).collect();
        for what in ["begun", "taken"] {
            sets.insert(named(what, family), counted(address_type(family), &elements));
        }
    }
    sets
}

/// At the end of the way out, where a chain for NAT sees each connection once.
pub(super) fn through() -> Vec<Rule> {
    let rules = FAMILIES
        .into_iter()
        .flat_map(|family| [(saddr(family), named("begun", family)), (daddr(family), named("taken", family))]);
    rules.map(|(field, set)| rule("whose connection it is", [in_set(&[field], &set)])).collect()
}

/// The same for those with the host itself.
pub(super) fn with_host() -> Chain {
    let rules =
        FAMILIES.map(|family| rule("whose connection it is", [in_set(&[saddr(family)], &named("begun", family))]));
    Chain {
        name: "begun_input".into(),
        hook: hook(HookPoint::Input, ChainKind::Nat, super::SRCNAT),
        rules: rules.into(),
    }
}
