//! Sites are the host's own listeners: guests that may go out reach them at the public addresses. The world always does.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::{accept, address_type, daddr, in_set, is, named};
use crate::address::Transport;
use crate::network::{Network, Public};
use crate::ruleset::{Element, Field, IpFamily, Operand, Rule, Set, Statement, Type, Value};

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];
/// fe80::/10 (RFC 4291).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
/// Ports of every public address, whatever those are at the moment.
const EVERYWHERE: &str = "sites";

pub(super) fn sets(network: &Network) -> BTreeMap<String, Set> {
    let mut sets: BTreeMap<String, Set> = BTreeMap::new();
    let meets = network.lans.iter().any(crate::network::Lan::meets_world);
    for entry in network.entries().into_iter().filter(|_| meets) {
        let port = Value::Port(entry.port);
        let (name, like, element) = match entry.address {
            None => (EVERYWHERE.to_owned(), Set::of(&[Type::Port]), Element::of([port])),
            Some(address) => {
                let family = IpFamily::of(address);
                let like = Set::of(&[address_type(family), Type::Port]);
                (named("sites_at", family), like, Element::of([address.into(), port]))
            }
        };
        sets.entry(name).or_insert(like).elements.insert(element);
    }
    sets
}

/// What lets guests in to them.
pub(super) fn rules(network: &Network, sets: &BTreeMap<String, Set>) -> Vec<Rule> {
    let tcp = || is(Field::L4Proto, Operand::Value(Value::Proto(Transport::Tcp.number())));
    let open = || in_set(&[Field::IifName], "open_lans");
    let mut rules = Vec::new();
    for family in FAMILIES {
        let set = named("sites_at", family);
        if sets.contains_key(&set) {
            let here = in_set(&[daddr(family), Field::ThDport], &set);
            rules.push(super::rule("sites, at the public address", [open(), tcp(), here, accept()]));
        }
    }
    if sets.contains_key(EVERYWHERE) && network.public == Public::Dynamic {
        // What came to this host came to an address of its own; those of the LANs are no public ones.
        for family in FAMILIES {
            let gateways =
                Statement::InSet { fields: vec![daddr(family)], not: true, set: named("lan_addresses", family) };
            let mut statements = vec![open(), tcp(), in_set(&[Field::ThDport], EVERYWHERE), gateways];
            // Every interface has one, the LANs' too.
            if family == IpFamily::V6 {
                let net = ipnet::Ipv6Net::new_assert(LINK_LOCAL, 10).into();
                statements.push(Statement::Match { field: daddr(family), not: true, with: Operand::Prefix(net) });
            }
            statements.push(accept());
            rules.push(super::rule("sites, at every public address", statements));
        }
    }
    rules
}
