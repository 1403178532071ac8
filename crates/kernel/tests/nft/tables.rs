//! Tables written by hand that have every statement, field, operand and type in them.

use std::net::IpAddr;

use ipnet::IpNet;
use model::address::IfName;
use model::ruleset::*;

pub fn v4(text: &str) -> Value {
    Value::Ipv4(text.parse().unwrap())
}

pub fn v6(text: &str) -> Value {
    Value::Ipv6(text.parse().unwrap())
}

pub fn mac(text: &str) -> Value {
    Value::Ether(text.parse().unwrap())
}

pub fn name(text: &str) -> Value {
    Value::IfName(IfName::new(text).unwrap())
}

pub fn is(field: Field, with: impl Into<Operand>) -> Statement {
    Statement::Match { field, not: false, with: with.into() }
}

pub fn is_not(field: Field, with: impl Into<Operand>) -> Statement {
    Statement::Match { field, not: true, with: with.into() }
}

pub fn value(value: Value) -> Operand {
    Operand::Value(value)
}

pub fn net(text: &str) -> Operand {
    Operand::Prefix(text.parse::<IpNet>().unwrap())
}

pub fn number(number: u32) -> Operand {
    Operand::Number(number)
}

pub fn in_set(fields: &[Field], set: &str) -> Statement {
    Statement::InSet { fields: fields.to_vec(), not: false, set: set.into() }
}

pub fn not_in_set(fields: &[Field], set: &str) -> Statement {
    Statement::InSet { fields: fields.to_vec(), not: true, set: set.into() }
}

pub fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule { statements: statements.into_iter().collect(), comment: String::new() }
}

pub const DROP: Statement = Statement::Verdict(Verdict::Drop);
pub const ACCEPT: Statement = Statement::Verdict(Verdict::Accept);
pub const FORWARD_KEY: [Type; 3] = [Type::Ipv4, Type::Proto, Type::Port];
pub const FORWARD_FIELDS: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];

pub fn forward(at: u32) -> Element {
    let outside = Value::Ipv4((0xcb00_7100 + at / 50_000).into());
    let inside = Value::Ipv4((0x0a01_0000 + at % 60_000).into());
    Element::of([outside, Value::Proto(6), Value::Port((at % 50_000) as u16 + 1)]).to([inside, Value::Port(80)])
}

fn base(name: &str, at: HookPoint, kind: ChainKind, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook: Some(Hook { at, kind, priority }), rules }
}

fn range(from: Value, to: Value) -> Element {
    Element { key: vec![KeyPart::Range(from, to)], data: Vec::new(), most: None }
}

pub fn inet() -> Table {
    let mut table = Table { family: Family::Inet, sets: Default::default(), chains: Vec::new() };
    let sets = &mut table.sets;
    let mut forwards = Set::map(&FORWARD_KEY, &[Type::Ipv4, Type::Port]);
    forwards.elements.extend((0..5).map(forward));
    sets.insert("forward-4".into(), forwards);
    let mut ranges = Set { interval: true, ..Set::map(&FORWARD_KEY, &[Type::Ipv4, Type::Port]) };
    ranges.elements.insert(Element {
        key: vec![
            KeyPart::One(v4("203.0.113.1")),
            KeyPart::One(Value::Proto(17)),
            KeyPart::Range(Value::Port(60000), Value::Port(61000)),
        ],
        data: vec![v4("10.1.1.6"), Value::Port(5000)],
        most: None,
    });
    ranges.elements.insert(forward(7));
    sets.insert("range-4".into(), ranges);
    let mut same = Set { interval: true, ..Set::map(&FORWARD_KEY, &[Type::Ipv4]) };
    same.elements.insert(Element {
        key: vec![
            KeyPart::One(v4("203.0.113.1")),
            KeyPart::One(Value::Proto(6)),
            KeyPart::Range(Value::Port(7000), Value::Port(7999)),
        ],
        data: vec![v4("10.1.1.7")],
        most: None,
    });
    sets.insert("same-4".into(), same);
    let mut six = Set::map(&[Type::Ipv6, Type::Proto, Type::Port], &[Type::Ipv6, Type::Port]);
    let key = [v6("2001:db8::1"), Value::Proto(6), Value::Port(443)];
    six.elements.insert(Element::of(key).to([v6("fd00::6"), Value::Port(8443)]));
    sets.insert("forward-6".into(), six);
    let mut single = Set::map(&[Type::Port], &[Type::Ipv4]);
    single.elements.insert(Element::of([Value::Port(22)]).to([v4("10.1.1.6")]));
    sets.insert("port-to".into(), single);
    let mut interval_map = Set { interval: true, ..Set::map(&[Type::Port], &[Type::Ipv6]) };
    interval_map.elements.insert(Element { data: vec![v6("fd00::1")], ..range(Value::Port(100), Value::Port(65535)) });
    sets.insert("ports-to".into(), interval_map);
    let mut nets = Set { interval: true, ..Set::of(&[Type::Ipv4]) };
    nets.elements.insert(range(v4("10.0.0.0"), v4("10.255.255.255")));
    nets.elements.insert(range(v4("192.168.1.1"), v4("192.168.1.9")));
    nets.elements.insert(Element::of([v4("192.168.1.10")]));
    nets.elements.insert(range(v4("255.255.255.0"), v4("255.255.255.255")));
    sets.insert("private-4".into(), nets);
    let mut nets = Set { interval: true, ..Set::of(&[Type::Ipv6]) };
    nets.elements.insert(range(v6("fc00::"), v6("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
    sets.insert("private-6".into(), nets);
    for (word, kind, one) in [
        ("one-4", Type::Ipv4, v4("192.0.2.1")),
        ("one-6", Type::Ipv6, v6("2001:db8::2")),
        ("one-mac", Type::Ether, mac("02:00:5e:10:00:01")),
        ("one-name", Type::IfName, name("fifteen-bytes-x")),
        ("one-proto", Type::Proto, Value::Proto(6)),
        ("one-port", Type::Port, Value::Port(53)),
    ] {
        let mut set = Set::of(&[kind]);
        set.elements.insert(Element::of([one]));
        sets.insert(word.into(), set);
    }
    let mut allowed = Set { interval: true, ..Set::of(&[Type::IfName, Type::Ipv4, Type::Proto, Type::Port]) };
    allowed.elements.insert(Element {
        key: vec![
            KeyPart::One(name("br1")),
            KeyPart::Range(v4("10.2.0.0"), v4("10.2.0.255")),
            KeyPart::One(Value::Proto(6)),
            KeyPart::Range(Value::Port(1), Value::Port(65535)),
        ],
        data: Vec::new(),
        most: None,
    });
    sets.insert("allowed-4".into(), allowed);
    let mut held = Set { held: true, ..Set::of(&[Type::IfName, Type::Ipv4]) };
    held.elements.insert(Element::of([name("br1"), v4("10.1.1.6")]).at_most(40));
    held.elements.insert(Element::of([name("br1"), v4("10.1.1.7")]).at_most(65536));
    sets.insert("held-4".into(), held);
    let mut held = Set { held: true, interval: true, ..Set::of(&[Type::IfName, Type::Ipv6]) };
    held.elements.insert(Element {
        key: vec![KeyPart::One(name("br1")), KeyPart::Range(v6("fd09::"), v6("fd09::ffff"))],
        data: Vec::new(),
        most: Some(1),
    });
    sets.insert("held-nets-6".into(), held);

    let held = [
        rule([in_set(&[Field::IifName, Field::IpSaddr], "held-4"), DROP]),
        rule([in_set(&[Field::OifName, Field::Ip6Daddr], "held-nets-6"), DROP]),
    ];
    let mut drops = rule([Statement::Counter, DROP]);
    drops.comment = "nobody asked for \"it\"".into();
    table.chains.push(Chain {
        name: "lan-br1".into(),
        hook: None,
        rules: vec![rule([Statement::Verdict(Verdict::Return)])],
    });
    let mut mapped = vec![];
    for (family, fields, map) in [
        (IpFamily::V4, FORWARD_FIELDS.to_vec(), "forward-4"),
        (IpFamily::V6, vec![Field::Ip6Daddr, Field::L4Proto, Field::ThDport], "forward-6"),
    ] {
        mapped.push(rule([Statement::DnatMap { family, fields, map: map.into(), port: true }]));
    }
    mapped.push(rule([
        is(Field::L4Proto, value(Value::Proto(17))),
        Statement::DnatMap { family: IpFamily::V4, fields: FORWARD_FIELDS.to_vec(), map: "range-4".into(), port: true },
    ]));
    let keeps = |map: &str| Statement::DnatMap {
        family: IpFamily::V4,
        fields: FORWARD_FIELDS.to_vec(),
        map: map.into(),
        port: false,
    };
    mapped.push(rule([keeps("same-4")]));
    mapped.push(rule([is(Field::IpDaddr, value(v4("192.0.2.9"))), Statement::Dnat("10.1.1.6".parse().unwrap())]));
    mapped.push(rule([is(Field::Ip6Daddr, value(v6("2001:db8::9"))), Statement::Dnat("fd00::6".parse().unwrap())]));
    mapped.push(rule([is(Field::L4Proto, value(Value::Proto(47))), Statement::Dnat("fd00::6".parse().unwrap())]));
    table.chains.push(base("nat-pre", HookPoint::Prerouting, ChainKind::Nat, -100, mapped.clone()));
    table.chains.push(base("nat-out", HookPoint::Output, ChainKind::Nat, -90, mapped));
    let source = |net_text: &str| is(Field::IpSaddr, net(net_text));
    table.chains.push(base(
        "nat-post",
        HookPoint::Postrouting,
        ChainKind::Nat,
        100,
        vec![
            rule([is(Field::OifName, value(name("eth0"))), source("10.1.1.0/24"), snat("203.0.113.1")]),
            rule([is(Field::Ip6Saddr, net("fd00::/64")), snat("2001:db8::7")]),
            rule([Statement::Masquerade(IpFamily::V4)]),
            rule([Statement::Masquerade(IpFamily::V6)]),
            rule([source("10.0.0.0/9"), Statement::Counter, Statement::Masquerade(IpFamily::V4)]),
            rule([is(Field::NfProto, number(10)), Statement::Masquerade(IpFamily::V6)]),
            rule([is(Field::L4Proto, value(Value::Proto(6))), Statement::Masquerade(IpFamily::V4)]),
        ],
    ));
    let any = CtStates { established: true, related: true, invalid: true, new: true };
    let live = CtStates { established: true, related: true, ..Default::default() };
    let all = vec![
        rule([Statement::ClampMss]),
        rule([Statement::Syn, is(Field::OifName, value(name("eth0"))), Statement::ClampMss]),
        rule([is(Field::L4Proto, value(Value::Proto(6))), Statement::ClampMss]),
        rule([is(Field::OifName, value(name("eth0"))), Statement::ClampMss]),
        rule([Statement::CtState(live), ACCEPT]),
        rule([Statement::CtState(any), Statement::Counter]),
        rule([Statement::CtState(CtStates { invalid: true, ..Default::default() }), DROP]),
        rule([Statement::CtDnat, ACCEPT]),
        rule([Statement::FibLocal { of_input: false, not: false }, ACCEPT]),
        rule([Statement::FibLocal { of_input: false, not: true }, ACCEPT]),
        rule([Statement::FibLocal { of_input: true, not: false }, ACCEPT]),
        rule([Statement::FibLocal { of_input: true, not: true }, ACCEPT]),
        rule([is(Field::IifName, value(name("br1"))), Statement::Verdict(Verdict::Jump("lan-br1".into()))]),
        rule([is_not(Field::OifName, value(name("br1"))), Statement::Verdict(Verdict::Goto("lan-br1".into()))]),
        rule([is(Field::NfProto, number(2)), is(Field::IpDaddr, value(v4("192.0.2.1"))), ACCEPT]),
        rule([is_not(Field::NfProto, number(2)), DROP]),
        rule([is(Field::L4Proto, number(17)), is(Field::ThSport, value(Value::Port(67))), ACCEPT]),
        rule([is_not(Field::L4Proto, value(Value::Proto(132))), ACCEPT]),
        rule([is(Field::ThDport, value(Value::Port(80))), ACCEPT]),
        rule([is(Field::L4Proto, number(6)), is_not(Field::ThDport, number(80)), DROP]),
        rule([is(Field::IpSaddr, value(v4("192.0.2.1"))), is(Field::IpDaddr, net("198.51.100.0/24")), DROP]),
        rule([is(Field::IpSaddr, net("192.0.2.1/32")), DROP]),
        rule([is(Field::IpSaddr, net("0.0.0.0/0")), DROP]),
        rule([is(Field::Ip6Saddr, net("::/0")), DROP]),
        rule([is_not(Field::IpSaddr, net("0.0.0.0/1")), DROP]),
        rule([is_not(Field::IpDaddr, net("172.16.0.0/12")), DROP]),
        rule([is(Field::Ip6Saddr, value(v6("fe80::1"))), is_not(Field::Ip6Daddr, net("ff00::/8")), DROP]),
        rule([is(Field::Ip6Daddr, net("2001:db8::/33")), DROP]),
        rule([is(Field::Ip6Daddr, net("::/3")), DROP]),
        rule([is(Field::IcmpType, number(8)), ACCEPT]),
        rule([is(Field::IcmpType, number(42)), ACCEPT]),
        rule([is(Field::Icmp6Type, number(134)), DROP]),
        rule([is_not(Field::Icmp6Type, number(128)), DROP]),
        rule([is(Field::L4Proto, number(1)), is(Field::IcmpType, number(0)), ACCEPT]),
        rule([is(Field::IpSaddr, net("10.0.0.0/8")), is(Field::IcmpType, number(0)), ACCEPT]),
        rule([is(Field::NfProto, number(10)), is(Field::Icmp6Type, number(136)), ACCEPT]),
        rule([is(Field::EtherSaddr, value(mac("02:00:5e:10:00:01"))), ACCEPT]),
        rule([is(Field::EtherDaddr, Operand::GroupBit), ACCEPT]),
        rule([is_not(Field::EtherDaddr, Operand::GroupBit), ACCEPT]),
        rule([in_set(&[Field::IpSaddr], "private-4"), not_in_set(&[Field::IpDaddr], "private-4"), DROP]),
        rule([in_set(&[Field::Ip6Saddr], "private-6"), DROP]),
        rule([in_set(&[Field::IpSaddr], "one-4"), in_set(&[Field::IifName], "one-name"), DROP]),
        rule([in_set(&[Field::Ip6Daddr], "one-6"), DROP]),
        rule([in_set(&[Field::EtherSaddr], "one-mac"), DROP]),
        rule([not_in_set(&[Field::OifName], "one-name"), DROP]),
        rule([in_set(&[Field::L4Proto], "one-proto"), DROP]),
        rule([is(Field::L4Proto, number(17)), in_set(&[Field::ThDport], "one-port"), DROP]),
        rule([in_set(&[Field::IifName, Field::IpDaddr, Field::L4Proto, Field::ThDport], "allowed-4"), ACCEPT]),
        drops,
    ];
    table.chains.push(base("forward-all", HookPoint::Forward, ChainKind::Filter, 0, all));
    table.chains.push(base("input-all", HookPoint::Input, ChainKind::Filter, -5, vec![]));
    table.chains.push(base("held-forward", HookPoint::Forward, ChainKind::Filter, 200, held.into()));
    table
}

fn snat(address: &str) -> Statement {
    Statement::Snat(address.parse::<IpAddr>().unwrap())
}

pub fn bridge() -> Table {
    let mut table = Table { family: Family::Bridge, sets: Default::default(), chains: Vec::new() };
    let mut pins = Set::of(&[Type::IfName, Type::Ether, Type::Ipv4]);
    for at in 1..9 {
        let hardware = mac(&format!("02:00:5e:10:00:{at:02x}"));
        pins.elements.insert(Element::of([name("tap0"), hardware, v4(&format!("10.1.1.{at}"))]));
    }
    table.sets.insert("pin-4".into(), pins);
    let mut pins = Set::of(&[Type::IfName, Type::Ether, Type::Ipv6]);
    pins.elements.insert(Element::of([name("tap0"), mac("02:00:5e:10:00:01"), v6("fe80::5eff:fe10:1")]));
    table.sets.insert("pin-6".into(), pins);
    let mut ports = Set::of(&[Type::IfName]);
    ports.elements.insert(Element::of([name("tap0")]));
    table.sets.insert("port-names".into(), ports);
    let mut four = Set::of(&[Type::Ipv4]);
    four.elements.insert(Element::of([v4("10.1.1.6")]));
    table.sets.insert("four-only".into(), four);
    let mut counted = Set { counted: true, ..Set::of(&[Type::IfName, Type::Ether]) };
    counted.elements.insert(Element::of([name("tap0"), mac("02:00:5e:10:00:01")]));
    table.sets.insert("counted-ports".into(), counted);
    let mut targets = Set { interval: true, ..Set::of(&[Type::IfName, Type::Ether, Type::NdTarget]) };
    let target = |text: &str| Value::NdTarget(text.parse().unwrap());
    for range in [(target("fe80::1"), target("fe80::1")), (target("fd00::"), target("fd00::ffff"))] {
        let (first, last) = range;
        let last = if first == last { KeyPart::One(first) } else { KeyPart::Range(first, last) };
        let key = vec![KeyPart::One(name("tap0")), KeyPart::One(mac("02:00:5e:10:00:01")), last];
        targets.elements.insert(Element { key, data: Vec::new(), most: None });
    }
    table.sets.insert("pin-targets".into(), targets);
    let mut targets = Set::of(&[Type::NdTarget]);
    targets.elements.insert(Element::of([target("fe80::2")]));
    table.sets.insert("one-target".into(), targets);
    let advertises = || is(Field::Icmp6Type, number(136));
    let ether_type = |n| is(Field::EtherType, number(n));
    let ip = [Field::IifName, Field::EtherSaddr, Field::IpSaddr];
    let ip6 = [Field::IifName, Field::EtherSaddr, Field::Ip6Saddr];
    let arp = [Field::IifName, Field::ArpSaddrEther, Field::ArpSaddrIp];
    let checks = vec![
        rule([ether_type(0x0800), not_in_set(&ip, "pin-4"), Statement::Counter, DROP]),
        rule([not_in_set(&ip, "pin-4"), DROP]),
        rule([not_in_set(&ip6, "pin-6"), DROP]),
        rule([ether_type(0x86dd), not_in_set(&ip6, "pin-6"), DROP]),
        rule([ether_type(0x0806), not_in_set(&arp, "pin-4"), DROP]),
        rule([in_set(&arp, "pin-4"), ACCEPT]),
        rule([is(Field::ArpSaddrIp, value(v4("10.1.1.1"))), DROP]),
        rule([is_not(Field::ArpSaddrIp, net("10.1.1.0/24")), DROP]),
        rule([is(Field::ArpSaddrIp, net("10.1.1.0/25")), DROP]),
        rule([ether_type(0x0806), is(Field::ArpSaddrEther, value(mac("02:00:5e:10:00:01"))), DROP]),
        rule([is_not(Field::EtherType, number(0x0806)), DROP]),
        rule([ether_type(0x8100), DROP]),
        rule([ether_type(0x88cc), DROP]),
        rule([is(Field::IpSaddr, value(v4("10.1.1.1"))), DROP]),
        rule([in_set(&[Field::IpSaddr], "four-only"), in_set(&[Field::IifName], "port-names"), DROP]),
        rule([in_set(&[Field::ArpSaddrIp], "four-only"), DROP]),
        rule([ether_type(0x0800), is(Field::IpDaddr, net("169.254.0.0/16")), DROP]),
        rule([is(Field::Ip6Saddr, net("fe80::/10")), DROP]),
        rule([is(Field::Icmp6Type, number(134)), DROP]),
        rule([is(Field::IcmpType, number(8)), DROP]),
        rule([ether_type(0x86dd), is(Field::Icmp6Type, number(134)), DROP]),
        rule([ether_type(0x86dd), is(Field::L4Proto, number(58)), is(Field::Icmp6Type, number(134)), DROP]),
        rule([is(Field::EtherDaddr, Operand::GroupBit), ACCEPT]),
        rule([is_not(Field::EtherDaddr, Operand::GroupBit), ACCEPT]),
        rule([is(Field::EtherSaddr, value(mac("02:00:5e:10:00:01"))), is(Field::IpSaddr, net("10.0.0.0/8")), DROP]),
        rule([is(Field::IifName, value(name("tap0"))), is(Field::L4Proto, number(17)), dport(67), DROP]),
        rule([is(Field::IpSaddr, net("0.0.0.0/32")), is(Field::L4Proto, number(17)), dport(67), ACCEPT]),
        rule([ether_type(0x86dd), is(Field::L4Proto, number(17)), dport(547), DROP]),
        rule([is(Field::OifName, value(name("tap0"))), Statement::Verdict(Verdict::Return)]),
        rule([in_set(&[Field::IifName, Field::EtherSaddr], "counted-ports"), ACCEPT]),
        rule([advertises(), in_set(&[Field::IifName, Field::EtherSaddr, Field::NdTarget], "pin-targets"), ACCEPT]),
        rule([advertises(), in_set(&[Field::NdTarget], "one-target"), DROP]),
        rule([advertises(), is(Field::NdTarget, net("fe80::/64")), ACCEPT]),
    ];
    table.chains.push(base("port-pre", HookPoint::Prerouting, ChainKind::Filter, -300, checks));
    table.chains.push(base("port-forward", HookPoint::Forward, ChainKind::Filter, 0, vec![]));
    table
}

fn dport(port: u16) -> Statement {
    is(Field::ThDport, value(Value::Port(port)))
}
