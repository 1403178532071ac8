//! How many connections a guest may hold at once: no guest fills the host's table of them.
//!
//! A connection counts for the guest's address, whoever began it, but for those that the host itself begins: it must
//! get in where a guest is at its cap. What is counted is what everybody's rules have let pass, so these chains come
//! after all other filters; and only the first packet of a flow is looked at, so flows that stand do not notice.
//! There are as many rules for one guest as for many.

use std::collections::{BTreeMap, BTreeSet};

use super::{address_type, bridge, daddr, hook, in_set, named, saddr, verdict};
use crate::network::{Guest, Lan, Mode, Network};
use crate::ruleset::{
    Chain, ChainKind, CtStates, Element, Field, HookPoint, IpFamily, KeyPart, Rule, Set, Statement, Type, Value,
    Verdict,
};

/// After every filter of anybody's (NF_IP_PRI_SECURITY of linux/netfilter_ipv4.h is 50).
const LAST: i32 = 200;
const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// The sets that count what was refused: bridge and address, or network, of the guest.
pub const REFUSED: [&str; 4] = ["refused4", "refused6", "refused_nets4", "refused_nets6"];

/// Keys, each with how many connections it may hold.
type Keys = BTreeSet<(Vec<KeyPart>, u32)>;

pub(super) fn sets(network: &Network) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    for family in FAMILIES {
        let kinds = [Type::IfName, address_type(family)];
        let (own, nets) = keys(network, family);
        for (what, keys, interval) in [("", own, false), ("_nets", nets, true)] {
            if keys.is_empty() {
                continue;
            }
            let set = |limited: bool| {
                let element = |(key, most): &(Vec<KeyPart>, u32)| Element {
                    key: key.clone(),
                    data: Vec::new(),
                    most: limited.then_some(*most),
                };
                let elements = keys.iter().map(element).collect();
                Set { interval, held: limited, counted: !limited, elements, ..Set::of(&kinds) }
            };
            sets.insert(named(&format!("held{what}"), family), set(true));
            sets.insert(named(&format!("refused{what}"), family), set(false));
        }
    }
    sets
}

/// The guests' addresses, and the networks behind them.
fn keys(network: &Network, family: IpFamily) -> (Keys, Keys) {
    let lan_of = |guest: &Guest| network.lan(&guest.lan).filter(|lan| lan.mode != Mode::Bridged);
    let with = |lan: &Lan, guest: &Guest, part: KeyPart| {
        (vec![KeyPart::One(Value::IfName(lan.bridge.clone())), part], guest.max_connections)
    };
    let (mut own, mut nets) = (Keys::new(), Keys::new());
    for guest in &network.guests {
        let Some(lan) = lan_of(guest) else { continue };
        let addresses = bridge::addresses(lan, guest).filter(|address| IpFamily::of(*address) == family);
        own.extend(addresses.map(|address| with(lan, guest, KeyPart::One(address.into()))));
        for net in guest.allowed.iter().filter(|net| IpFamily::of(net.addr()) == family) {
            nets.insert(with(lan, guest, super::forwards::range(net.network().into(), net.broadcast().into())));
        }
    }
    (own, nets)
}

/// The chains; `sets` are those of [`sets`].
pub(super) fn chains(sets: &BTreeMap<String, Set>) -> Vec<Chain> {
    let refuse = |link: Field, address: fn(IpFamily) -> Field| {
        let kinds = FAMILIES.into_iter().flat_map(|family| ["", "_nets"].map(|what| (family, what)));
        let rules = kinds.filter_map(|(family, what)| {
            let set = |word: &str| named(&format!("{word}{what}"), family);
            let (held, refused) = (set("held"), set("refused"));
            let new = Statement::CtState(CtStates { new: true, ..CtStates::default() });
            let key = [link, address(family)];
            let statements = [new, in_set(&key, &held), in_set(&key, &refused), verdict(Verdict::Drop)];
            sets.contains_key(&held).then(|| super::rule("more connections than it may hold", statements))
        });
        rules.collect::<Vec<Rule>>()
    };
    let from = refuse(Field::IifName, saddr);
    if from.is_empty() {
        return Vec::new();
    }
    // One question for the many packets that begin nothing, in place of one in each rule.
    let standing = super::rule("only what begins counts", [Statement::CtState(super::standing()), super::accept()]);
    let from = [vec![standing], from].concat();
    let through = [from.clone(), refuse(Field::OifName, daddr)].concat();
    let chain = |name: &str, at, rules| Chain { name: name.into(), hook: hook(at, ChainKind::Filter, LAST), rules };
    vec![chain("held_input", HookPoint::Input, from), chain("held_forward", HookPoint::Forward, through)]
}
