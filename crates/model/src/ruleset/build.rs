//! From a [`Network`] to the tables that carry it: docs/traffic.md in nf_tables.
//!
//! The order of the house: what is not of a LAN of ours leaves our chains at once; flows that stand go on; then
//! what is granted, each grant a rule; then the rest of what touches a LAN is dropped, and counted. All chains have
//! the policy accept, for other tables' traffic is not ours to judge.
//!
//! Forwards live in maps, so that a packet's cost does not grow with their number. Rules are per LAN, never per
//! guest or forward.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    Chain, ChainKind, CtStates, Element, Family, Field, Hook, HookPoint, IpFamily, Operand, Rule, Set, Statement,
    Table, Type, Value, Verdict,
};
use crate::address::{IfName, Transport};
use crate::network::{Lan, Mode, Network, Public, Snat};

mod allows;
pub(super) mod bridge;
pub(super) mod caps;
pub(super) mod counters;
pub(super) mod forwards;
mod sites;

/// Priority of destination NAT (NF_IP_PRI_NAT_DST, linux/netfilter_ipv4.h).
const DSTNAT: i32 = -100;
/// Priority of source NAT (NF_IP_PRI_NAT_SRC).
const SRCNAT: i32 = 100;
/// Priority of ordinary filters (NF_IP_PRI_FILTER).
const FILTER: i32 = 0;

/// Where cloud providers answer with credentials (pains.md 25).
pub const METADATA4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same, for IPv6 (AWS).
pub const METADATA6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// All DHCP agents (RFC 8415).
const DHCP6_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const ICMP_ECHO_REQUEST: u32 = 8;
const ICMPV6_ECHO_REQUEST: u32 = 128;
const ICMP_REDIRECT: u32 = 5;
const ICMPV6_REDIRECT: u32 = 137;
/// Router solicitation, neighbour solicitation, neighbour advertisement (RFC 4861).
const ND_FOR_US: [u32; 3] = [133, 135, 136];

/// The tables that carry `network`; none where it has no LAN that is ours to filter.
#[must_use]
pub fn build(network: &Network) -> Vec<Table> {
    let routes = network.lans.iter().any(|lan| !lan.is_bridged());
    let tables = routes.then(|| inet(network));
    tables.into_iter().chain(bridge::table(network)).collect()
}

fn inet(network: &Network) -> Table {
    let mut table = Table { family: Family::Inet, sets: sets(network), chains: Vec::new() };
    table.chains.extend(forwards::chains(network, &table.sets));
    table.chains.extend([
        Chain {
            name: "prerouting".into(),
            hook: hook(HookPoint::Prerouting, ChainKind::Nat, DSTNAT),
            rules: vec![
                rule("forwards, from the world", [iif(&network.uplink.name), goto("from_uplink")]),
                rule(
                    "forwards, from guests at the public address",
                    [in_set(&[Field::IifName], "open_lans"), goto("from_inside")],
                ),
            ],
        },
        Chain {
            name: "output".into(),
            hook: hook(HookPoint::Output, ChainKind::Nat, DSTNAT),
            rules: vec![rule("forwards, from this host at the public address", [goto("from_inside")])],
        },
        from_guest(network, &table.sets),
        input(),
    ]);
    table.chains.extend(redirects(network));
    table.chains.extend([forward(network), postrouting(network)]);
    let caps = caps::chains(&table.sets);
    table.chains.extend(caps);
    table.chains.push(counters::with_host());
    table
}

// ---- sets ----

fn sets(network: &Network) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    let ours = || network.lans.iter().filter(|lan| lan.mode != Mode::Bridged);
    let open = || network.lans.iter().filter(|lan| lan.meets_world());
    let name = |lan: &Lan| Value::IfName(lan.bridge.clone());

    let mut add = |set_name: &str, mut set: Set, elements: BTreeSet<Element>| {
        set.elements = elements;
        sets.insert(set_name.to_owned(), set);
    };
    add("lans", Set::of(&[Type::IfName]), ours().map(|lan| Element::of([name(lan)])).collect());
    add("open_lans", Set::of(&[Type::IfName]), open().map(|lan| Element::of([name(lan)])).collect());
    add(
        "same_lan",
        Set::of(&[Type::IfName, Type::IfName]),
        ours().filter(|lan| !lan.port_isolation).map(|lan| Element::of([name(lan), name(lan)])).collect(),
    );
    if network.keeps_apart() {
        let apart = || ours().filter(|lan| lan.port_isolation);
        let pair = |lan: &Lan| Element::of([name(lan), name(lan)]);
        add("apart_lans", Set::of(&[Type::IfName]), apart().map(|lan| Element::of([name(lan)])).collect());
        let same = apart().filter(|lan| lan.meets_world()).map(pair).collect();
        add("same_apart_lan", Set::of(&[Type::IfName, Type::IfName]), same);
    }
    let dns_and_dhcp = [(Transport::Tcp, 53), (Transport::Udp, 53), (Transport::Udp, 67), (Transport::Udp, 547)];
    add(
        "gateway_services",
        Set::of(&[Type::Proto, Type::Port]),
        dns_and_dhcp.iter().map(|(t, port)| Element::of([Value::Proto(t.number()), Value::Port(*port)])).collect(),
    );
    for family in [IpFamily::V4, IpFamily::V6] {
        let kind = address_type(family);
        let held = || ours().flat_map(|lan| lan.addresses.iter().map(move |net| (lan, net.addr())));
        let own = || held().filter(|(_, address)| IpFamily::of(*address) == family);
        add(
            &named("gateways", family),
            Set::of(&[Type::IfName, kind]),
            own().map(|(lan, address)| Element::of([name(lan), address.into()])).collect(),
        );
        add(
            &named("lan_addresses", family),
            Set::of(&[kind]),
            own().map(|(_, address)| Element::of([address.into()])).collect(),
        );
        if let Public::Listed(addresses) = &network.public {
            let of_family = addresses.iter().filter(|address| IpFamily::of(**address) == family);
            add(
                &named("public", family),
                Set::of(&[kind]),
                of_family.map(|address| Element::of([(*address).into()])).collect(),
            );
        }
    }
    sets.extend(forwards::sets(network));
    sets.extend(allows::sets(network));
    sets.extend(sites::sets(network));
    sets.extend(snat_sets(network));
    sets.extend(caps::sets(network));
    sets.extend(counters::sets(network));
    sets
}

// ---- for the host itself ----

fn from_guest(network: &Network, sets: &BTreeMap<String, Set>) -> Chain {
    let mut rules = Vec::new();
    for kind in ND_FOR_US {
        rules.push(rule("neighbour discovery", [is(Field::Icmp6Type, Operand::Number(kind)), accept()]));
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let gateway = || in_set(&[Field::IifName, daddr(family)], &named("gateways", family));
        rules.push(rule("echo to its own gateway", [gateway(), echo_request(family), accept()]));
        rules.push(rule(
            "names and leases from its own gateway",
            [gateway(), in_set(&[Field::L4Proto, Field::ThDport], "gateway_services"), accept()],
        ));
    }
    let broadcast = Operand::Value(Value::Ipv4(Ipv4Addr::BROADCAST));
    for (field, to, port) in
        [(Field::IpDaddr, broadcast, 67), (Field::Ip6Daddr, Operand::Value(Value::Ipv6(DHCP6_AGENTS)), 547)]
    {
        let [proto, port] = udp(port);
        rules.push(rule("a client that asks everybody for a lease", [is(field, to), proto, port, accept()]));
    }
    rules.extend(sites::rules(network, sets));
    rules.push(rule(
        "guests are kept off this host",
        [in_set(&[Field::IifName], counters::DROPPED_FROM), Statement::Counter, verdict(Verdict::Drop)],
    ));
    Chain { name: "from_guest".into(), hook: None, rules }
}

fn input() -> Chain {
    let mut rules = vec![
        rule("flows that stand", [Statement::CtState(standing()), accept()]),
        rule("", [in_set(&[Field::IifName], "lans"), goto("from_guest")]),
    ];
    for family in [IpFamily::V4, IpFamily::V6] {
        rules.push(rule(
            "a LAN's own address answers nobody else",
            [
                Statement::Match { field: Field::IifName, not: true, with: Operand::Value(Value::IfName(loopback())) },
                in_set(&[daddr(family)], &named("lan_addresses", family)),
                Statement::Counter,
                verdict(Verdict::Drop),
            ],
        ));
    }
    Chain { name: "input".into(), hook: hook(HookPoint::Input, ChainKind::Filter, FILTER), rules }
}

/// Who is kept apart from its neighbours is not told to send to them past the host, which hands on what one may send to
/// another. IPv6 has no switch for it.
fn redirects(network: &Network) -> Option<Chain> {
    let redirect = |field, kind| {
        let statements = [
            in_set(&[Field::OifName], "apart_lans"),
            is(field, Operand::Number(kind)),
            Statement::Counter,
            verdict(Verdict::Drop),
        ];
        rule("neighbours are reached by this host alone", statements)
    };
    let rules = vec![redirect(Field::IcmpType, ICMP_REDIRECT), redirect(Field::Icmp6Type, ICMPV6_REDIRECT)];
    network.keeps_apart().then(|| Chain {
        name: "redirects".into(),
        hook: hook(HookPoint::Output, ChainKind::Filter, FILTER),
        rules,
    })
}

// ---- through the host ----

fn forward(network: &Network) -> Chain {
    let not_in = |field| Statement::InSet { fields: vec![field], not: true, set: "lans".into() };
    let mut rules = vec![
        rule("not of our LANs", [not_in(Field::IifName), not_in(Field::OifName), accept()]),
        // MTU black holes (pains.md 17).
        rule("never promise more than the way carries", [Statement::ClampMss]),
    ];
    // Past a forward such a packet would look like a neighbour's to its guest.
    for net in network.lans.iter().filter(|lan| lan.mode != Mode::Bridged).flat_map(|lan| nets(network, lan)) {
        rules.push(rule(
            "a LAN's own source does not come from the world",
            [iif(&network.uplink.name), from(net), Statement::Counter, verdict(Verdict::Drop)],
        ));
    }
    rules.extend([
        rule("what forwards carry", [Statement::CtDnat, verdict(Verdict::Jump("carried_by_forwards".into()))]),
        rule("flows that stand", [Statement::CtState(standing()), accept()]),
        // With br_netfilter on, frames between two ports of a bridge pass here; so do hairpins, without it too.
        rule("within one LAN", [in_set(&[Field::IifName, Field::OifName], "same_lan"), accept()]),
    ]);
    if network.keeps_apart() {
        let same = in_set(&[Field::IifName, Field::OifName], "same_apart_lan");
        rules.push(rule("neighbours at the public address", [same, Statement::CtDnat, accept()]));
    }
    rules.extend([
        // NAT does not touch them: they would leave with the guest's private source.
        rule(
            "of no flow that conntrack knows",
            [
                Statement::CtState(CtStates { invalid: true, ..CtStates::default() }),
                in_set(&[Field::IifName], counters::DROPPED_FROM),
                Statement::Counter,
                verdict(Verdict::Drop),
            ],
        ),
    ]);
    let (to_networks, allowed) = allows::rules(network);
    rules.extend(to_networks);
    for metadata in [IpAddr::V4(METADATA4), IpAddr::V6(METADATA6)] {
        rules.push(rule(
            "cloud metadata is not for guests",
            [
                is(daddr(IpFamily::of(metadata)), Operand::Value(metadata.into())),
                in_set(&[Field::IifName], counters::DROPPED_FROM),
                Statement::Counter,
                verdict(Verdict::Drop),
            ],
        ));
    }
    rules.extend(allowed);
    for lan in network.lans.iter().filter(|lan| lan.meets_world() && lan.ingress_allowed) {
        for net in open_nets(network, lan) {
            let to = is(daddr(IpFamily::of(net.addr())), Operand::Prefix(net.trunc()));
            rules.push(rule(
                &format!("{} is open to the world", lan.bridge),
                [iif(&network.uplink.name), oif(&lan.bridge), to, accept()],
            ));
        }
    }
    for lan in network.lans.iter().filter(|lan| lan.meets_world() && !lan.egress_denied) {
        for net in nets(network, lan) {
            rules.push(rule(
                &format!("{} out to the world", lan.bridge),
                [iif(&lan.bridge), oif(&network.uplink.name), from(net), accept()],
            ));
        }
    }
    rules.push(rule(
        "in by a forward",
        [iif(&network.uplink.name), in_set(&[Field::OifName], "open_lans"), Statement::CtDnat, accept()],
    ));
    for field in [Field::IifName, Field::OifName] {
        let dropped = if field == Field::IifName { counters::DROPPED_FROM } else { counters::DROPPED_TO };
        rules.push(rule("nothing else", [in_set(&[field], dropped), Statement::Counter, verdict(Verdict::Drop)]));
    }
    Chain { name: "forward".into(), hook: hook(HookPoint::Forward, ChainKind::Filter, FILTER), rules }
}

// ---- source NAT ----

fn postrouting(network: &Network) -> Chain {
    let mut rules = counters::through();
    for (nth, (address, _)) in snats(network).iter().enumerate() {
        let family = IpFamily::of(*address);
        rules.push(rule(
            "guests that leave by an address of their own",
            [
                oif(&network.uplink.name),
                in_set(&[saddr(family)], &format!("leave_by_{nth}")),
                Statement::Snat(*address),
            ],
        ));
    }
    rules.extend(allows::masquerade(network));
    for lan in network.lans.iter().filter(|lan| lan.meets_world()) {
        for net in nets(network, lan) {
            // Without it a neighbour would answer the guest directly, past the rewriting. No input interface is
            // looked at: there is none here for a bridged frame under br_netfilter.
            if let Some(gateway) = lan.gateway_for(net.addr()) {
                rules.push(rule(
                    &format!("{}: guests at the public address", lan.bridge),
                    [oif(&lan.bridge), from(net), Statement::CtDnat, Statement::Snat(gateway)],
                ));
            }
            let rewrite = match lan.snat_for(net.addr()) {
                Snat::Keep => continue,
                Snat::Masquerade => Statement::Masquerade(IpFamily::of(net.addr())),
                Snat::To(address) => Statement::Snat(address),
            };
            rules.push(rule(
                &format!("{} leaves by the public address", lan.bridge),
                [oif(&network.uplink.name), from(net), rewrite],
            ));
        }
    }
    Chain { name: "postrouting".into(), hook: hook(HookPoint::Postrouting, ChainKind::Nat, SRCNAT), rules }
}

/// A LAN's networks: its own, those behind its guests, and single addresses that a route of their own leads to.
fn nets(network: &Network, lan: &Lan) -> Vec<IpNet> {
    let behind = network.nested(lan).map(|(_, net)| net);
    let alone = network.alone(lan).map(|(_, address)| IpNet::from(address));
    lan.addresses.iter().copied().chain(behind).chain(alone).collect()
}

/// Those of them that the world may in principle send to.
fn open_nets(network: &Network, lan: &Lan) -> Vec<IpNet> {
    let mut nets = nets(network, lan);
    nets.retain(|net| lan.is_open(net.addr()));
    nets
}

/// The addresses that single guests leave by, each with theirs.
fn snats(network: &Network) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
    let mut snats = BTreeMap::<IpAddr, BTreeSet<IpAddr>>::new();
    for lan in network.lans.iter().filter(|lan| lan.mode == Mode::Nat) {
        for guest in network.guests_of(lan) {
            for address in &guest.addresses {
                match network.snat_of(lan, guest, *address) {
                    Snat::To(own) if guest.snat == Some(own) => snats.entry(own).or_default().insert(*address),
                    _ => false,
                };
            }
        }
    }
    snats
}

fn snat_sets(network: &Network) -> BTreeMap<String, Set> {
    let sets = snats(network).into_iter().enumerate().map(|(nth, (address, of))| {
        let elements = of.into_iter().map(|address| Element::of([address.into()])).collect();
        let set = Set { elements, ..Set::of(&[address_type(IpFamily::of(address))]) };
        (format!("leave_by_{nth}"), set)
    });
    sets.collect()
}

// ---- words ----

fn rule(comment: &str, statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule { statements: statements.into_iter().collect(), comment: comment.to_owned() }
}

// A function, so that every base chain is made the same way.
#[allow(clippy::unnecessary_wraps)]
fn hook(at: HookPoint, kind: ChainKind, priority: i32) -> Option<Hook> {
    Some(Hook { at, kind, priority })
}

fn verdict(verdict: Verdict) -> Statement {
    Statement::Verdict(verdict)
}

fn accept() -> Statement {
    verdict(Verdict::Accept)
}

fn goto(chain: &str) -> Statement {
    verdict(Verdict::Goto(chain.to_owned()))
}

fn is(field: Field, with: Operand) -> Statement {
    Statement::Match { field, not: false, with }
}

fn iif(name: &IfName) -> Statement {
    is(Field::IifName, Operand::Value(Value::IfName(name.clone())))
}

fn oif(name: &IfName) -> Statement {
    is(Field::OifName, Operand::Value(Value::IfName(name.clone())))
}

/// From that network: the net's host bits are cut.
fn from(net: IpNet) -> Statement {
    is(saddr(IpFamily::of(net.addr())), Operand::Prefix(net.trunc()))
}

/// UDP to that port.
fn udp(port: u16) -> [Statement; 2] {
    [
        is(Field::L4Proto, Operand::Value(Value::Proto(Transport::Udp.number()))),
        is(Field::ThDport, Operand::Value(Value::Port(port))),
    ]
}

fn saddr(family: IpFamily) -> Field {
    match family {
        IpFamily::V4 => Field::IpSaddr,
        IpFamily::V6 => Field::Ip6Saddr,
    }
}

fn in_set(fields: &[Field], set: &str) -> Statement {
    Statement::InSet { fields: fields.to_vec(), not: false, set: set.to_owned() }
}

fn echo_request(family: IpFamily) -> Statement {
    match family {
        IpFamily::V4 => is(Field::IcmpType, Operand::Number(ICMP_ECHO_REQUEST)),
        IpFamily::V6 => is(Field::Icmp6Type, Operand::Number(ICMPV6_ECHO_REQUEST)),
    }
}

fn standing() -> CtStates {
    CtStates { established: true, related: true, ..CtStates::default() }
}

fn daddr(family: IpFamily) -> Field {
    match family {
        IpFamily::V4 => Field::IpDaddr,
        IpFamily::V6 => Field::Ip6Daddr,
    }
}

fn address_type(family: IpFamily) -> Type {
    match family {
        IpFamily::V4 => Type::Ipv4,
        IpFamily::V6 => Type::Ipv6,
    }
}

/// One name a family: `public4`, `public6`.
fn named(what: &str, family: IpFamily) -> String {
    match family {
        IpFamily::V4 => format!("{what}4"),
        IpFamily::V6 => format!("{what}6"),
    }
}

#[allow(clippy::expect_used)] // A constant that the kernel itself uses.
fn loopback() -> IfName {
    IfName::new("lo").expect("lo is an interface name")
}
