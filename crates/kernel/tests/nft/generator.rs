//! Random tables that are valid: fields that their family has, no contradictions within a rule, sets of the types that
//! are looked up in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use model::address::{IfName, Mac};
use model::ruleset::*;

use crate::tables::{FORWARD_FIELDS, FORWARD_KEY, is, number, rule};

pub fn table() -> impl Strategy<Value = Table> {
    prop_oneof![3 => inet(), 1 => bridge()]
}

fn value(kind: Type) -> BoxedStrategy<Value> {
    match kind {
        // Small pools, so that ranges and neighbours come up.
        Type::Ipv4 => {
            prop_oneof![any::<u32>(), 0x0a00_0000..0x0a00_0400_u32].prop_map(|bits| Value::Ipv4(bits.into())).boxed()
        }
        Type::Ipv6 => any::<u128>().prop_map(|bits| Value::Ipv6(Ipv6Addr::from_bits(bits))).boxed(),
        Type::NdTarget => any::<u128>().prop_map(|bits| Value::NdTarget(Ipv6Addr::from_bits(bits))).boxed(),
        Type::Ether => any::<[u8; 6]>().prop_map(|bytes| Value::Ether(Mac(bytes))).boxed(),
        Type::IfName => "[a-z][a-z0-9-]{0,14}".prop_map(|name| Value::IfName(IfName::new(name).unwrap())).boxed(),
        Type::Proto => any::<u8>().prop_map(Value::Proto).boxed(),
        Type::Port => any::<u16>().prop_map(Value::Port).boxed(),
    }
}

fn values(kinds: &[Type]) -> impl Strategy<Value = Vec<Value>> + use<> {
    kinds.iter().map(|kind| value(*kind)).collect::<Vec<_>>()
}

fn plain(key: &'static [Type], data: &'static [Type]) -> impl Strategy<Value = Set> {
    vec((values(key), values(data)), 0..6).prop_map(|all| {
        let unique: BTreeMap<Vec<Value>, Vec<Value>> = all.into_iter().collect();
        let elements = unique.into_iter().map(|(key, data)| Element::of(key).to(data)).collect();
        Set { key: key.to_vec(), data: data.to_vec(), interval: false, counted: false, held: false, elements }
    })
}

/// Disjoint ranges: sorted bounds, two by two.
fn interval(kind: Type, data: &'static [Type]) -> impl Strategy<Value = Set> {
    (btree_set(value(kind), 0..8), vec(values(data), 4)).prop_map(move |(bounds, data_values)| {
        let bounds: Vec<Value> = bounds.into_iter().collect();
        let elements = bounds
            .chunks(2)
            .zip(data_values)
            .map(|(pair, data)| {
                let key = match pair {
                    [a, b] => KeyPart::Range(a.clone(), b.clone()),
                    [a, ..] => KeyPart::One(a.clone()),
                    [] => unreachable!("chunks are never empty"),
                };
                Element { key: vec![key], data, most: None }
            })
            .collect();
        Set { key: vec![kind], data: data.to_vec(), interval: true, counted: false, held: false, elements }
    })
}

/// Ranges of ports apart from each other, at one address.
fn port_ranges() -> impl Strategy<Value = Set> {
    let data: &[Type] = &[Type::Ipv4, Type::Port];
    (interval(Type::Port, data), select(vec![6_u8, 17])).prop_map(|(ports, protocol)| {
        let elements = ports.elements.into_iter().map(|e| {
            let mut key = vec![KeyPart::One(Value::Ipv4([192, 0, 2, 1].into())), KeyPart::One(Value::Proto(protocol))];
            key.extend(e.key);
            Element { key, data: e.data, most: None }
        });
        Set { key: FORWARD_KEY.to_vec(), elements: elements.collect(), ..ports }
    })
}

fn sets() -> impl Strategy<Value = BTreeMap<String, Set>> {
    let fixed = (
        plain(&FORWARD_KEY, &[Type::Ipv4, Type::Port]),
        port_ranges(),
        plain(&[Type::Ipv6, Type::Proto, Type::Port], &[Type::Ipv6, Type::Port]),
        interval(Type::Ipv4, &[]),
        interval(Type::Ipv6, &[]),
        interval(Type::Port, &[Type::Ipv4]),
        plain(&[Type::IfName, Type::Ether, Type::Ipv4], &[]),
        plain(&[Type::IfName, Type::Ether, Type::Ipv6], &[]),
        plain(&[Type::IfName], &[]),
        plain(&[Type::Proto, Type::Port], &[]),
    );
    fixed.prop_map(|(a, b, c, d, e, f, g, h, i, j)| {
        let names =
            ["map-4", "ranges-4", "map-6", "nets-4", "nets-6", "ports-to", "pin-4", "pin-6", "ports-of", "service-in"];
        names.into_iter().map(str::to_owned).zip([a, b, c, d, e, f, g, h, i, j]).collect()
    })
}

fn net(six: bool) -> BoxedStrategy<Operand> {
    let net = |address: IpAddr, length: u8| Operand::Prefix(IpNet::new(address, length).unwrap().trunc());
    if six {
        (any::<u128>(), 1..=128_u8).prop_map(move |(a, l)| net(Ipv6Addr::from_bits(a).into(), l)).boxed()
    } else {
        (any::<u32>(), 1..=32_u8).prop_map(move |(a, l)| net(std::net::Ipv4Addr::from(a).into(), l)).boxed()
    }
}

fn matching(field: Field, with: impl Strategy<Value = Operand> + 'static) -> BoxedStrategy<Statement> {
    (any::<bool>(), with).prop_map(move |(not, with)| Statement::Match { field, not, with }).boxed()
}

fn of(field: Field, kind: Type) -> BoxedStrategy<Statement> {
    matching(field, value(kind).prop_map(Operand::Value))
}

fn set_of(fields: &[Field], set: &str) -> BoxedStrategy<Statement> {
    let (fields, set) = (fields.to_vec(), set.to_owned());
    any::<bool>().prop_map(move |not| Statement::InSet { fields: fields.clone(), not, set: set.clone() }).boxed()
}

/// One of several, each at most once and in order.
fn some(all: Vec<BoxedStrategy<Statement>>) -> BoxedStrategy<Vec<Statement>> {
    let length = all.len();
    subsequence(all, 0..=length.min(3)).prop_flat_map(|chosen| chosen).boxed()
}

/// Matches of names, then of addresses of one version, then of one transport.
fn matches(family: Family) -> BoxedStrategy<Vec<Statement>> {
    let links = some(vec![
        of(Field::IifName, Type::IfName),
        of(Field::OifName, Type::IfName),
        set_of(&[Field::IifName], "ports-of"),
    ]);
    let mut four =
        vec![matching(Field::IpSaddr, net(false)), of(Field::IpDaddr, Type::Ipv4), set_of(&[Field::IpSaddr], "nets-4")];
    let mut six = vec![
        matching(Field::Ip6Saddr, net(true)),
        of(Field::Ip6Daddr, Type::Ipv6),
        set_of(&[Field::Ip6Saddr], "nets-6"),
    ];
    if family == Family::Bridge {
        four.push(set_of(&[Field::IifName, Field::EtherSaddr, Field::IpSaddr], "pin-4"));
        six.push(set_of(&[Field::IifName, Field::EtherSaddr, Field::Ip6Saddr], "pin-6"));
    }
    let four = (some(four), transport(Field::IcmpType)).prop_map(|(a, b)| [a, b].concat());
    let six = (some(six), transport(Field::Icmp6Type)).prop_map(|(a, b)| [a, b].concat());
    let inner = match family {
        Family::Inet => prop_oneof![
            four,
            six,
            (matching(Field::NfProto, select(vec![number(2), number(10)])), transport(Field::IcmpType))
                .prop_map(|(a, _)| vec![a]),
        ]
        .boxed(),
        Family::Bridge => prop_oneof![
            four,
            six,
            some(vec![of(Field::EtherDaddr, Type::Ether), matching(Field::EtherDaddr, Just(Operand::GroupBit)),]),
            of(Field::EtherSaddr, Type::Ether).prop_map(|one| vec![one]),
            matching(Field::EtherType, any::<u16>().prop_map(|n| number(n.into()))).prop_map(|one| vec![one]),
            some(vec![
                of(Field::ArpSaddrEther, Type::Ether),
                matching(Field::ArpSaddrIp, net(false)),
                set_of(&[Field::IifName, Field::ArpSaddrEther, Field::ArpSaddrIp], "pin-4"),
            ]),
        ]
        .boxed(),
    };
    (links, inner).prop_map(|(a, b)| [a, b].concat()).boxed()
}

fn transport(icmp: Field) -> BoxedStrategy<Vec<Statement>> {
    let port = select(vec![Field::ThSport, Field::ThDport]);
    prop_oneof![
        Just(vec![]),
        matching(icmp, any::<u8>().prop_map(|n| number(n.into()))).prop_map(|one| vec![one]),
        (select(vec![6_u8, 17]), port, any::<u16>(), any::<bool>()).prop_map(|(protocol, field, port, not)| {
            let with = Operand::Value(Value::Port(port));
            vec![is(Field::L4Proto, Operand::Value(Value::Proto(protocol))), Statement::Match { field, not, with }]
        }),
        set_of(&[Field::L4Proto, Field::ThDport], "service-in").prop_map(|one| vec![one]),
    ]
    .boxed()
}

fn verdict() -> impl Strategy<Value = Option<Verdict>> {
    prop_oneof![
        Just(None),
        Just(Some(Verdict::Accept)),
        Just(Some(Verdict::Drop)),
        Just(Some(Verdict::Return)),
        Just(Some(Verdict::Jump("helper-1".into()))),
        Just(Some(Verdict::Goto("helper-2".into()))),
    ]
}

fn states() -> impl Strategy<Value = Statement> {
    (1..16_u8).prop_map(|bits| {
        Statement::CtState(CtStates {
            established: bits & 1 != 0,
            related: bits & 2 != 0,
            invalid: bits & 4 != 0,
            new: bits & 8 != 0,
        })
    })
}

fn filter_rule(family: Family) -> BoxedStrategy<Rule> {
    let conntrack = match family {
        Family::Bridge => Just(vec![]).boxed(),
        Family::Inet => prop_oneof![
            3 => Just(vec![]),
            1 => states().prop_map(|one| vec![one]),
            1 => Just(vec![Statement::CtDnat]),
            1 => any::<(bool, bool)>().prop_map(|(of_input, not)| vec![Statement::FibLocal { of_input, not }]),
        ]
        .boxed(),
    };
    (conntrack, matches(family), any::<bool>(), verdict(), "[ -~]{0,60}")
        .prop_map(|(first, second, counted, verdict, comment)| {
            let mut statements = [first, second].concat();
            if counted || (statements.is_empty() && verdict.is_none()) {
                statements.push(Statement::Counter);
            }
            statements.extend(verdict.map(Statement::Verdict));
            Rule { statements, comment }
        })
        .boxed()
}

fn nat_pre_rule() -> BoxedStrategy<Rule> {
    let six = vec![Field::Ip6Daddr, Field::L4Proto, Field::ThDport];
    let map = |family, fields: &[Field], map: &str| Statement::DnatMap {
        family,
        fields: fields.to_vec(),
        map: map.into(),
        port: true,
    };
    select(vec![
        rule([map(IpFamily::V4, &FORWARD_FIELDS, "map-4")]),
        rule([is(Field::NfProto, number(2)), Statement::Counter, map(IpFamily::V4, &FORWARD_FIELDS, "map-4")]),
        rule([map(IpFamily::V6, &six, "map-6")]),
        rule([is(Field::L4Proto, number(6)), map(IpFamily::V4, &FORWARD_FIELDS, "ranges-4")]),
    ])
    .boxed()
}

fn nat_post_rule() -> BoxedStrategy<Rule> {
    let source = (
        matching(Field::IpSaddr, net(false)),
        prop_oneof![
            any::<u32>().prop_map(|a| Statement::Snat(IpAddr::V4(a.into()))),
            Just(Statement::Masquerade(IpFamily::V4)),
        ],
    );
    prop_oneof![
        source.prop_map(|(a, b)| rule([a, b])),
        (of(Field::OifName, Type::IfName), select(vec![IpFamily::V4, IpFamily::V6]))
            .prop_map(|(a, family)| rule([a, Statement::Masquerade(family)])),
    ]
    .boxed()
}

fn base(name: &str, at: HookPoint, kind: ChainKind, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook: Some(Hook { at, kind, priority }), rules }
}

fn helpers() -> Vec<Chain> {
    let returns = || vec![rule([Statement::Counter])];
    ["helper-1", "helper-2"].map(|name| Chain { name: name.into(), hook: None, rules: returns() }).into()
}

fn inet() -> impl Strategy<Value = Table> {
    let clamp = rule([Statement::ClampMss]);
    (
        sets(),
        vec(prop_oneof![9 => filter_rule(Family::Inet), 1 => Just(clamp)], 0..8),
        vec(nat_pre_rule(), 0..3),
        vec(nat_post_rule(), 0..3),
        -400..400,
    )
        .prop_map(|(sets, filter, pre, post, priority)| {
            let mut chains = helpers();
            chains.push(base("forward-in", HookPoint::Forward, ChainKind::Filter, priority, filter));
            chains.push(base("nat-pre", HookPoint::Prerouting, ChainKind::Nat, -100, pre));
            chains.push(base("nat-post", HookPoint::Postrouting, ChainKind::Nat, 100, post));
            Table { family: Family::Inet, sets, chains }
        })
}

fn bridge() -> impl Strategy<Value = Table> {
    (sets(), vec(filter_rule(Family::Bridge), 0..8), -400..400).prop_map(|(sets, rules, priority)| {
        let mut chains = helpers();
        chains.push(base("port-pre", HookPoint::Prerouting, ChainKind::Filter, priority, rules));
        let unused: BTreeSet<&str> = ["map-4", "ranges-4", "map-6", "ports-to"].into();
        let sets = sets.into_iter().filter(|(name, _)| !unused.contains(name.as_str())).collect();
        Table { family: Family::Bridge, sets, chains }
    })
}
