//! Each statement, verdict and way on small rulesets of their own.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::ruleset::{
    Chain, ChainKind, CtStates, Element, Field, Hook, IpFamily, KeyPart, Operand, Rule, Set, Statement, Type, Value,
    Verdict,
};

const DROP: Statement = Statement::Verdict(Verdict::Drop);
const ACCEPT: Statement = Statement::Verdict(Verdict::Accept);

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// eth0 towards the world, br1 with ports p6 and p7, br2 with p8.
fn place() -> Place {
    let interface = |text: &str, last, addresses: &[&str], ports: &[&str]| Interface {
        name: name(text),
        mac: mac(last),
        behind: Vec::new(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ports: ports.iter().map(|p| name(p)).collect(),
    };
    Place {
        interfaces: vec![
            interface("eth0", 1, &["203.0.113.2/24", "2001:db8::2/64"], &[]),
            interface("br1", 2, &["10.1.1.1/24", "fd00:1::1/64"], &["p6", "p7"]),
            interface("br2", 3, &["10.1.2.1/24"], &["p8"]),
        ],
        default: Some(name("eth0")),
        br_netfilter: false,
    }
}

fn packet(origin: Origin, to_mac: u8, source: &str, destination: &str, payload: Payload) -> Packet {
    Packet {
        origin,
        ether_source: mac(0x10),
        ether_destination: mac(to_mac),
        body: Body::Ip { source: ip(source), destination: ip(destination), payload },
        flow: Flow::NEW,
    }
}

fn tcp(destination: u16) -> Payload {
    Payload::Ports { transport: Transport::Tcp, source: 40000, destination }
}

/// From the guest on p6 of br1 through the host.
fn from_guest(destination: &str, payload: Payload) -> Packet {
    let source = if ip(destination).is_ipv4() { "10.1.1.6" } else { "fd00:1::6" };
    packet(Origin::Port(name("p6")), 2, source, destination, payload)
}

fn from_world(destination: &str, payload: Payload) -> Packet {
    let source = if ip(destination).is_ipv4() { "198.51.100.7" } else { "2001:db8:7::7" };
    packet(Origin::Interface(name("eth0")), 1, source, destination, payload)
}

fn rule(statements: &[Statement]) -> Rule {
    Rule { statements: statements.to_vec(), comment: String::new() }
}

fn chain(text: &str, at: Option<(HookPoint, ChainKind, i32)>, rules: &[&[Statement]]) -> Chain {
    Chain {
        name: text.to_owned(),
        hook: at.map(|(at, kind, priority)| Hook { at, kind, priority }),
        rules: rules.iter().map(|rules| rule(rules)).collect(),
    }
}

fn table(sets: &[(&str, Set)], chains: Vec<Chain>) -> Vec<Table> {
    let sets = sets.iter().map(|(name, set)| ((*name).to_owned(), set.clone())).collect();
    vec![Table { family: Family::Inet, sets, chains }]
}

const FORWARD: Option<(HookPoint, ChainKind, i32)> = Some((HookPoint::Forward, ChainKind::Filter, 0));
const PREROUTING: Option<(HookPoint, ChainKind, i32)> = Some((HookPoint::Prerouting, ChainKind::Nat, -100));
const POSTROUTING: Option<(HookPoint, ChainKind, i32)> = Some((HookPoint::Postrouting, ChainKind::Nat, 100));

/// A forward chain whose one rule drops what these statements match.
fn drops(statements: &[Statement], packet: &Packet) -> bool {
    let rules = [statements, &[DROP]].concat();
    evaluate(&table(&[], vec![chain("f", FORWARD, &[&rules])]), &place(), packet).unwrap().is_dropped()
}

fn is(field: Field, with: Operand) -> Statement {
    Statement::Match { field, not: false, with }
}

fn is_not(field: Field, with: Operand) -> Statement {
    Statement::Match { field, not: true, with }
}

#[test]
fn routing_alone() {
    let at = |packet: &Packet| evaluate(&[], &place(), packet).unwrap().outcome;
    assert_eq!(at(&from_guest("198.51.100.7", tcp(1))), Outcome::Sent(name("eth0")));
    assert_eq!(at(&from_guest("10.1.2.8", tcp(1))), Outcome::Sent(name("br2")));
    assert_eq!(at(&from_guest("203.0.113.2", tcp(1))), Outcome::Host);
    assert_eq!(at(&from_guest("10.1.1.255", tcp(1))), Outcome::Host);
    assert_eq!(at(&from_guest("fe80::99", tcp(1))), Outcome::NoRoute);
    assert_eq!(at(&from_world("10.1.1.6", tcp(1))), Outcome::Sent(name("br1")));
    let neighbour = packet(Origin::Port(name("p6")), 0x20, "10.1.1.6", "10.1.1.7", tcp(1));
    assert_eq!(at(&neighbour), Outcome::Bridged(name("br1")));
    let flood = Packet { ether_destination: Mac([0xff; 6]), ..neighbour };
    assert!(evaluate(&[], &place(), &flood).unwrap().flooded);
    let lost = Place { default: None, ..place() };
    assert_eq!(evaluate(&[], &lost, &from_guest("192.0.2.1", tcp(1))).unwrap().outcome, Outcome::NoRoute);
}

#[test]
fn fields_and_operands() {
    let p = from_guest("198.51.100.7", tcp(443));
    let value = |value: Value| Operand::Value(value);
    for (field, with) in [
        (Field::IifName, value(Value::IfName(name("br1")))),
        (Field::OifName, value(Value::IfName(name("eth0")))),
        (Field::NfProto, Operand::Number(2)),
        (Field::L4Proto, value(Value::Proto(6))),
        (Field::IpSaddr, value(Value::Ipv4("10.1.1.6".parse().unwrap()))),
        (Field::IpDaddr, Operand::Prefix("198.51.100.0/24".parse().unwrap())),
        (Field::ThSport, value(Value::Port(40000))),
        (Field::ThDport, value(Value::Port(443))),
        (Field::EtherSaddr, value(Value::Ether(mac(0x10)))),
        (Field::EtherDaddr, value(Value::Ether(mac(2)))),
        (Field::EtherType, Operand::Number(0x800)),
    ] {
        assert!(drops(&[is(field, with.clone())], &p), "{field:?}");
        assert!(!drops(&[is_not(field, with)], &p), "not {field:?}");
    }
    assert!(!drops(&[is(Field::EtherDaddr, Operand::GroupBit)], &p));
    let ping = from_guest("2001:db8:7::7", Payload::Icmp(128));
    assert!(drops(&[is(Field::Icmp6Type, Operand::Number(128))], &ping));
    assert!(drops(&[is(Field::NfProto, Operand::Number(10)), is(Field::L4Proto, Operand::Number(58))], &ping));
    assert!(drops(&[is(Field::Ip6Daddr, Operand::Prefix("2001:db8::/32".parse().unwrap()))], &ping));
    // A field that the packet does not have matches neither way: its dependency stands in front.
    for absent in [is(Field::IcmpType, Operand::Number(128)), is_not(Field::IcmpType, Operand::Number(8))] {
        assert!(!drops(&[absent], &ping));
    }
    assert!(!drops(&[is_not(Field::IpSaddr, Operand::Prefix("10.0.0.0/8".parse().unwrap()))], &ping));
}

#[test]
fn conntrack_states() {
    let new_or_related = Statement::CtState(CtStates { new: true, related: true, ..CtStates::default() });
    for (state, dropped) in
        [(CtState::New, true), (CtState::Related, true), (CtState::Established, false), (CtState::Invalid, false)]
    {
        let mut p = from_guest("198.51.100.7", tcp(1));
        p.flow.state = state;
        assert_eq!(drops(std::slice::from_ref(&new_or_related), &p), dropped, "{state:?}");
    }
    // Before conntrack nothing has a state, or rather: the state of what is not tracked.
    let raw = Some((HookPoint::Prerouting, ChainKind::Filter, -300));
    let rules = [new_or_related, DROP];
    let tables = table(&[], vec![chain("raw", raw, &[&rules])]);
    assert!(!evaluate(&tables, &place(), &from_guest("198.51.100.7", tcp(1))).unwrap().is_dropped());
}

#[test]
fn local_addresses() {
    let local = |of_input, not, to: &str| {
        let hook = Some((HookPoint::Prerouting, ChainKind::Filter, 0));
        let rules = [Statement::FibLocal { of_input, not }, DROP];
        let tables = table(&[], vec![chain("p", hook, &[&rules])]);
        evaluate(&tables, &place(), &from_world(to, tcp(1))).unwrap().is_dropped()
    };
    assert!(local(false, false, "203.0.113.2"));
    assert!(local(true, false, "203.0.113.2"));
    assert!(local(false, false, "10.1.1.1"));
    assert!(!local(true, false, "10.1.1.1"));
    assert!(!local(false, false, "10.1.1.6"));
    assert!(local(false, true, "10.1.1.6"));
    let output = Some((HookPoint::Output, ChainKind::Filter, 0));
    let tables = table(&[], vec![chain("o", output, &[&[Statement::FibLocal { of_input: true, not: false }]])]);
    let p = packet(Origin::Host, 0, "203.0.113.2", "192.0.2.1", tcp(1));
    assert!(matches!(evaluate(&tables, &place(), &p), Err(Fault::Misplaced { .. })));
}

#[test]
fn sets_of_values_and_ranges() {
    let mut single = Set::of(&[Type::IfName, Type::Ipv4]);
    single.elements.insert(Element::of([Value::IfName(name("br1")), Value::Ipv4("192.0.2.1".parse().unwrap())]));
    let mut ranges = Set::of(&[Type::Port]);
    ranges.interval = true;
    let range = KeyPart::Range(Value::Port(1000), Value::Port(2000));
    ranges.elements.insert(Element { key: vec![range], data: vec![], most: None });
    let hit = |set: &Set, fields: &[Field], not: bool, p: &Packet| {
        let rules = [Statement::InSet { fields: fields.to_vec(), not, set: "s".to_owned() }, DROP];
        evaluate(&table(&[("s", set.clone())], vec![chain("f", FORWARD, &[&rules])]), &place(), p)
    };
    let both = [Field::IifName, Field::IpDaddr];
    assert!(hit(&single, &both, false, &from_guest("192.0.2.1", tcp(1))).unwrap().is_dropped());
    assert!(!hit(&single, &both, false, &from_guest("192.0.2.2", tcp(1))).unwrap().is_dropped());
    assert!(hit(&single, &both, true, &from_guest("192.0.2.2", tcp(1))).unwrap().is_dropped());
    assert!(!hit(&single, &both, true, &from_guest("2001:db8:7::7", tcp(1))).unwrap().is_dropped());
    for (port, inside) in [(999, false), (1000, true), (1500, true), (2000, true), (2001, false)] {
        let fate = hit(&ranges, &[Field::ThDport], false, &from_guest("192.0.2.1", tcp(port))).unwrap();
        assert_eq!(fate.is_dropped(), inside, "{port}");
    }
    let p = from_guest("192.0.2.1", tcp(1));
    assert!(matches!(hit(&single, &[Field::IpDaddr], false, &p), Err(Fault::Type { .. })));
    ranges.interval = false;
    assert!(matches!(hit(&ranges, &[Field::ThDport], false, &p), Err(Fault::Type { .. })));
}

#[test]
fn jumps_gotos_and_returns() {
    let jump = |to: &str| [Statement::Verdict(Verdict::Jump(to.to_owned()))];
    let goto = |to: &str| [Statement::Verdict(Verdict::Goto(to.to_owned()))];
    let back = [Statement::Verdict(Verdict::Return)];
    let run = |base: &[&[Statement]], middle: &[&[Statement]], last: &[&[Statement]]| {
        let chains = vec![chain("last", None, last), chain("middle", None, middle), chain("base", FORWARD, base)];
        evaluate(&table(&[], chains), &place(), &from_guest("192.0.2.1", tcp(1))).map(|fate| fate.is_dropped())
    };
    let drop: &[Statement] = &[DROP];
    let accept: &[Statement] = &[ACCEPT];
    assert_eq!(run(&[&jump("middle"), drop], &[&back, accept], &[]), Ok(true), "a return goes on after the jump");
    assert_eq!(run(&[&jump("middle"), drop], &[accept], &[]), Ok(false), "an accept ends the base chain");
    assert_eq!(run(&[&goto("middle"), drop], &[], &[]), Ok(false), "a goto does not come back");
    assert_eq!(run(&[&jump("middle"), drop], &[&goto("last"), accept], &[]), Ok(true), "but its caller's does");
    assert_eq!(run(&[&back, drop], &[], &[]), Ok(false), "a return from a base chain is its policy");
    assert_eq!(run(&[&jump("middle")], &[&jump("last")], &[drop]), Ok(true));
    assert!(matches!(run(&[&jump("middle")], &[&jump("last")], &[&jump("middle")]), Err(Fault::TooDeep(_))));
    assert!(matches!(run(&[&jump("nowhere")], &[], &[]), Err(Fault::NoChain { .. })));
    assert!(matches!(run(&[&jump("base")], &[], &[]), Err(Fault::NoChain { .. })), "no jump to a base chain");
}

#[test]
fn chains_of_a_hook_by_priority() {
    let late = Some((HookPoint::Forward, ChainKind::Filter, 10));
    let chains = vec![chain("late", late, &[&[DROP]]), chain("first", FORWARD, &[&[ACCEPT]])];
    let fate = evaluate(&table(&[], chains), &place(), &from_guest("192.0.2.1", tcp(1))).unwrap();
    assert!(matches!(fate.outcome, Outcome::Dropped { ref chain, .. } if chain == "late"), "accept is this chain's");
}

fn forwards() -> Vec<Table> {
    let mut map = Set::map(&[Type::Proto, Type::Port], &[Type::Ipv4, Type::Port]);
    let guest = [Value::Ipv4("10.1.1.6".parse().unwrap()), Value::Port(22)];
    map.elements.insert(Element::of([Value::Proto(6), Value::Port(22210)]).to(guest));
    let dnat = Statement::DnatMap {
        family: IpFamily::V4,
        fields: vec![Field::L4Proto, Field::ThDport],
        map: "m".to_owned(),
        port: true,
    };
    let hairpin = [
        is(Field::OifName, Operand::Value(Value::IfName(name("br1")))),
        is(Field::IpSaddr, Operand::Prefix("10.1.1.0/24".parse().unwrap())),
        Statement::CtDnat,
        Statement::Snat(ip("10.1.1.1")),
    ];
    let out = [is(Field::OifName, Operand::Value(Value::IfName(name("eth0")))), Statement::Masquerade(IpFamily::V4)];
    let output = Some((HookPoint::Output, ChainKind::Nat, -100));
    table(
        &[("m", map)],
        vec![
            chain("pre", PREROUTING, &[std::slice::from_ref(&dnat)]),
            chain("out", output, &[std::slice::from_ref(&dnat)]),
            chain("post", POSTROUTING, &[&hairpin, &out]),
        ],
    )
}

#[test]
fn destinations_and_sources_are_rewritten_and_answers_turned_round() {
    let asked = from_world("203.0.113.2", tcp(22210));
    let fate = evaluate(&forwards(), &place(), &asked).unwrap();
    assert_eq!(fate.outcome, Outcome::Sent(name("br1")));
    assert_eq!((fate.body.destination(), fate.body.port()), (Some(ip("10.1.1.6")), Some(22)));
    assert_eq!(fate.body.source(), Some(ip("198.51.100.7")));
    let answer = fate.reply(&asked, Origin::Port(name("p6")), mac(0x10), mac(2));
    let back = evaluate(&forwards(), &place(), &answer).unwrap();
    assert_eq!(back.outcome, Outcome::Sent(name("eth0")));
    assert_eq!((back.body.source(), back.body.source_port()), (Some(ip("203.0.113.2")), Some(22210)));
    assert_eq!((back.body.destination(), back.body.port()), (Some(ip("198.51.100.7")), Some(40000)));

    let asked = from_guest("192.0.2.1", Payload::Icmp(8));
    let fate = evaluate(&forwards(), &place(), &asked).unwrap();
    assert_eq!(fate.body.source(), Some(ip("203.0.113.2")));
    let answer = fate.reply(&asked, Origin::Interface(name("eth0")), mac(9), mac(1));
    let back = evaluate(&forwards(), &place(), &answer).unwrap();
    assert_eq!((back.outcome, back.body.destination()), (Outcome::Sent(name("br1")), Some(ip("10.1.1.6"))));
    // Another port is in no map, and no rule rewrites what conntrack calls established.
    assert_eq!(evaluate(&forwards(), &place(), &from_world("203.0.113.2", tcp(22))).unwrap().outcome, Outcome::Host);
    let stray = Packet { flow: Flow::ESTABLISHED, ..from_world("203.0.113.2", tcp(22210)) };
    assert_eq!(evaluate(&forwards(), &place(), &stray).unwrap().outcome, Outcome::Host);
}

#[test]
fn hairpins_with_and_without_br_netfilter() {
    for br_netfilter in [false, true] {
        let place = Place { br_netfilter, ..place() };
        let fate = evaluate(&forwards(), &place, &from_guest("203.0.113.2", tcp(22210))).unwrap();
        let there = if br_netfilter { Outcome::Bridged(name("br1")) } else { Outcome::Sent(name("br1")) };
        assert_eq!((fate.outcome, fate.body.source()), (there, Some(ip("10.1.1.1"))), "{br_netfilter}");
    }
    let fate = evaluate(&forwards(), &place(), &packet(Origin::Host, 0, "203.0.113.2", "203.0.113.2", tcp(22210)));
    let fate = fate.unwrap();
    assert_eq!((fate.outcome, fate.body.destination()), (Outcome::Sent(name("br1")), Some(ip("10.1.1.6"))));
    let fate = evaluate(&forwards(), &place(), &packet(Origin::Host, 0, "203.0.113.2", "203.0.113.2", tcp(1)));
    assert_eq!(fate.unwrap().outcome, Outcome::Host);
}

#[test]
fn rewriting_stands_only_in_nat_chains() {
    for statement in [Statement::Snat(ip("10.1.1.1")), Statement::Masquerade(IpFamily::V4)] {
        let tables = table(&[], vec![chain("f", FORWARD, &[&[statement]])]);
        let fate = evaluate(&tables, &place(), &from_guest("192.0.2.1", tcp(1)));
        assert!(matches!(fate, Err(Fault::Misplaced { .. })));
    }
    // An interface without an address of the family cannot be masqueraded by: the kernel drops.
    let tables = table(&[], vec![chain("post", POSTROUTING, &[&[Statement::Masquerade(IpFamily::V4)]])]);
    let mut bare = place();
    bare.interfaces[0].addresses.clear();
    assert!(evaluate(&tables, &bare, &from_guest("192.0.2.1", tcp(1))).unwrap().is_dropped());
}

#[test]
fn two_values_for_one_key_are_a_fault() {
    let mut tables = forwards();
    let map = tables[0].sets.get_mut("m").unwrap();
    map.interval = true;
    let key = vec![KeyPart::One(Value::Proto(6)), KeyPart::Range(Value::Port(22000), Value::Port(23000))];
    let data = vec![Value::Ipv4("10.1.1.7".parse().unwrap()), Value::Port(22)];
    map.elements.insert(Element { key, data, most: None });
    let fate = evaluate(&tables, &place(), &from_world("203.0.113.2", tcp(22210)));
    assert_eq!(fate, Err(Fault::Ambiguous { map: "m".to_owned() }));
    let fate = evaluate(&tables, &place(), &from_world("203.0.113.2", tcp(22500))).unwrap();
    assert_eq!(fate.body.destination(), Some(ip("10.1.1.7")), "a range's element");
}

#[test]
fn frames_are_judged_at_their_port() {
    let mut pinned = Set::of(&[Type::IfName, Type::Ether, Type::Ipv4]);
    let address = Value::Ipv4("10.1.1.6".parse().unwrap());
    pinned.elements.insert(Element::of([Value::IfName(name("p6")), Value::Ether(mac(0x10)), address]));
    let claims =
        |fields: &[Field]| [Statement::InSet { fields: fields.to_vec(), not: true, set: "pinned".to_owned() }, DROP];
    let hook = Some((HookPoint::Prerouting, ChainKind::Filter, -300));
    let rules = [
        claims(&[Field::IifName, Field::EtherSaddr, Field::IpSaddr]),
        claims(&[Field::IifName, Field::ArpSaddrEther, Field::ArpSaddrIp]),
    ];
    let chains = vec![chain("ports", hook, &[&rules[0], &rules[1]])];
    let mut tables = table(&[("pinned", pinned)], chains);
    tables[0].family = Family::Bridge;
    let dropped = |packet: &Packet| evaluate(&tables, &place(), packet).unwrap().is_dropped();
    let good = from_guest("192.0.2.1", tcp(1));
    assert!(!dropped(&good));
    assert!(dropped(&Packet { ether_source: mac(0x11), ..good.clone() }));
    assert!(dropped(&Packet { origin: Origin::Port(name("p7")), ..good.clone() }));
    let arp = |sender: &str| Packet {
        body: Body::Arp { sender_mac: mac(0x10), sender: sender.parse().unwrap() },
        ..good.clone()
    };
    assert!(!dropped(&arp("10.1.1.6")));
    assert!(dropped(&arp("10.1.1.1")));
    assert!(!dropped(&Packet { body: Body::Other(0x8100), ..good.clone() }), "neither rule is about it");
}

#[test]
fn clamping_is_of_syns_and_goes_on() {
    let p = from_guest("192.0.2.1", tcp(1));
    assert!(drops(&[Statement::Counter, Statement::ClampMss], &p));
    assert!(!drops(&[Statement::ClampMss], &Packet { flow: Flow::ESTABLISHED, ..p.clone() }));
    assert!(!drops(&[Statement::ClampMss], &from_guest("192.0.2.1", Payload::Icmp(8))));
}
