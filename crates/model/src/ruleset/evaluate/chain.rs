//! Chains, rules and statements.

use std::net::IpAddr;

use super::walk::Walk;
use super::{Body, CtState, Fault, Outcome, Payload};
use crate::address::Transport;
use crate::ruleset::{
    Chain, CtStates, Element, Family, Field, HookPoint, IpFamily, KeyPart, Operand, Rule, Set, Statement, Table, Type,
    Value, Verdict,
};

/// The kernel's limit of nested jumps (NFT_JUMP_STACK_SIZE of net/netfilter/nf_tables.h).
const DEEPEST: usize = 16;

/// Where a chain is being called.
#[derive(Clone, Copy)]
struct Site<'a> {
    table: &'a Table,
    chain: &'a Chain,
    at: HookPoint,
    /// Whether conntrack has seen the packet.
    tracked: bool,
}

/// How a chain ended.
enum End {
    /// Its last rule was passed, or it returned.
    Passed,
    Accept,
    Drop(Outcome),
}

/// What a statement said.
enum Step {
    On,
    /// It did not match: the next rule (NFT_BREAK).
    Break,
    Decided(Verdict),
}

/// Calls a base chain; its policy is accept.
pub(super) fn base(
    walk: &mut Walk<'_>,
    table: &Table,
    chain: &Chain,
    at: HookPoint,
    tracked: bool,
) -> Result<Option<Outcome>, Fault> {
    match call(walk, Site { table, chain, at, tracked }, 0)? {
        End::Passed | End::Accept => Ok(None),
        End::Drop(outcome) => Ok(Some(outcome)),
    }
}

fn call(walk: &mut Walk<'_>, site: Site<'_>, depth: usize) -> Result<End, Fault> {
    if depth > DEEPEST {
        return Err(Fault::TooDeep(site.chain.name.clone()));
    }
    for rule in &site.chain.rules {
        match follow(walk, site, rule)? {
            None => {}
            Some(Verdict::Accept) => return Ok(End::Accept),
            Some(Verdict::Return) => return Ok(End::Passed),
            Some(Verdict::Drop) => {
                return Ok(End::Drop(Outcome::Dropped {
                    family: site.table.family,
                    chain: site.chain.name.clone(),
                    rule: rule.comment.clone(),
                }));
            }
            Some(Verdict::Jump(target)) => match call(walk, site.to(&target)?, depth + 1)? {
                End::Passed => {}
                end => return Ok(end),
            },
            // The end of where it went is the end of this chain too: back to whoever jumped here.
            Some(Verdict::Goto(target)) => return call(walk, site.to(&target)?, depth + 1),
        }
    }
    Ok(End::Passed)
}

/// A rule's statements, up to one that does not match or decides.
fn follow(walk: &mut Walk<'_>, site: Site<'_>, rule: &Rule) -> Result<Option<Verdict>, Fault> {
    for statement in &rule.statements {
        match step(walk, site, statement)? {
            Step::On => {}
            Step::Break => return Ok(None),
            Step::Decided(verdict) => return Ok(Some(verdict)),
        }
    }
    Ok(None)
}

fn step(walk: &mut Walk<'_>, site: Site<'_>, statement: &Statement) -> Result<Step, Fault> {
    match statement {
        Statement::Match { field, not, with } => {
            let Some(seen) = read(walk, site, *field)? else { return Ok(Step::Break) };
            Ok(on_if(compare(site, *field, &seen, with)? != *not))
        }
        Statement::InSet { fields, not, set } => {
            let set_value = site.set(set)?;
            if set_value.held {
                // A flow alone is never one too many.
                site.no_ct_in_bridge("ct count")?;
                return Ok(Step::Break);
            }
            let Some(key) = key(walk, site, fields, set_value)? else { return Ok(Step::Break) };
            let found = lookup(site, set, set_value, &key)?.is_some();
            Ok(on_if(found != *not))
        }
        Statement::CtState(states) => {
            site.no_ct_in_bridge("ct state")?;
            let state = if site.tracked { walk.flow.state } else { CtState::Invalid };
            Ok(on_if(among(*states, state)))
        }
        Statement::CtDnat => {
            site.no_ct_in_bridge("ct status")?;
            Ok(on_if(site.tracked && walk.flow.state != CtState::Invalid && walk.flow.dnat))
        }
        Statement::FibLocal { of_input, not } => {
            site.only(Family::Inet, "fib")?;
            // nft_fib_validate of net/netfilter/nft_fib.c: `iif` wants a hook that has one.
            if *of_input && matches!(site.at, HookPoint::Output | HookPoint::Postrouting) {
                return Err(site.misplaced("fib daddr . iif"));
            }
            let Some(to) = walk.body.destination() else { return Ok(Step::Break) };
            let on = of_input.then_some(walk.iif.as_str());
            Ok(on_if(walk.place().is_local(to, on) != *not))
        }
        Statement::Counter => Ok(Step::On),
        Statement::DnatMap { family, fields, map, port } => {
            if !site.nat(&[HookPoint::Prerouting, HookPoint::Output]) {
                return Err(site.misplaced("dnat"));
            }
            if !is_of(walk, *family) {
                return Ok(Step::Break);
            }
            let set = site.set(map)?;
            let Some(key) = key(walk, site, fields, set)? else { return Ok(Step::Break) };
            let Some(element) = lookup(site, map, set, &key)? else { return Ok(Step::Break) };
            let to = match (*family, element.data.as_slice(), port) {
                (IpFamily::V4, [Value::Ipv4(a), Value::Port(port)], true) => (IpAddr::V4(*a), Some(*port)),
                (IpFamily::V6, [Value::Ipv6(a), Value::Port(port)], true) => (IpAddr::V6(*a), Some(*port)),
                (IpFamily::V4, [Value::Ipv4(a)], false) => (IpAddr::V4(*a), None),
                (IpFamily::V6, [Value::Ipv6(a)], false) => (IpAddr::V6(*a), None),
                _ => return Err(site.misfit(format!("the data of map {map}"))),
            };
            walk.rewrite_destination(to);
            Ok(Step::Decided(Verdict::Accept))
        }
        Statement::Dnat(address) => {
            if !site.nat(&[HookPoint::Prerouting, HookPoint::Output]) {
                return Err(site.misplaced("dnat"));
            }
            if !is_of(walk, IpFamily::of(*address)) {
                return Ok(Step::Break);
            }
            walk.rewrite_destination((*address, None));
            Ok(Step::Decided(Verdict::Accept))
        }
        Statement::Snat(address) => {
            if !site.nat(&[HookPoint::Postrouting, HookPoint::Input]) {
                return Err(site.misplaced("snat"));
            }
            if !is_of(walk, IpFamily::of(*address)) {
                return Ok(Step::Break);
            }
            walk.rewrite_source(*address);
            Ok(Step::Decided(Verdict::Accept))
        }
        Statement::Masquerade(family) => {
            if !site.nat(&[HookPoint::Postrouting]) {
                return Err(site.misplaced("masquerade"));
            }
            let Some(source) = walk.body.source().filter(|_| is_of(walk, *family)) else { return Ok(Step::Break) };
            match walk.place().address_on(&walk.oif, source) {
                Some(address) => {
                    walk.rewrite_source(address);
                    Ok(Step::Decided(Verdict::Accept))
                }
                // nf_nat_masquerade_ipv4: "unable to determine source address" drops.
                None => Ok(Step::Decided(Verdict::Drop)),
            }
        }
        Statement::Syn | Statement::ClampMss => Ok(on_if(
            walk.flow.state == CtState::New
                && matches!(walk.body, Body::Ip { payload: Payload::Ports { transport: Transport::Tcp, .. }, .. }),
        )),
        Statement::Verdict(verdict) => Ok(Step::Decided(verdict.clone())),
    }
}

impl<'a> Site<'a> {
    /// The same hook, in another chain of the table.
    fn to(self, target: &str) -> Result<Site<'a>, Fault> {
        match self.table.chains.iter().find(|chain| chain.name == target && chain.hook.is_none()) {
            Some(chain) => Ok(Site { chain, ..self }),
            None => Err(Fault::NoChain { chain: self.chain.name.clone(), target: target.to_owned() }),
        }
    }

    fn set(self, name: &str) -> Result<&'a Set, Fault> {
        self.table.sets.get(name).ok_or_else(|| Fault::NoSet { chain: self.chain.name.clone(), set: name.to_owned() })
    }

    /// Whether the base chain that led here is of type nat at one of those hooks. A chain that is jumped to does
    /// not say so itself, so the hook has to do for it.
    fn nat(self, at: &[HookPoint]) -> bool {
        use crate::ruleset::ChainKind;
        self.table.family == Family::Inet
            && at.contains(&self.at)
            && self.chain.hook.is_none_or(|hook| hook.kind == ChainKind::Nat)
    }

    fn misfit(self, what: String) -> Fault {
        Fault::Type { chain: self.chain.name.clone(), what }
    }

    fn misplaced(self, what: &'static str) -> Fault {
        Fault::Misplaced { chain: self.chain.name.clone(), what, at: self.at }
    }

    fn only(self, family: Family, what: &'static str) -> Result<(), Fault> {
        if self.table.family == family { Ok(()) } else { Err(self.misplaced(what)) }
    }

    /// The bridge family has no conntrack of its own (nf_conntrack_bridge) where we run.
    fn no_ct_in_bridge(self, what: &'static str) -> Result<(), Fault> {
        self.only(Family::Inet, what)
    }
}

fn on_if(matched: bool) -> Step {
    if matched { Step::On } else { Step::Break }
}

fn among(states: CtStates, state: CtState) -> bool {
    match state {
        CtState::New => states.new,
        CtState::Established => states.established,
        CtState::Related => states.related,
        CtState::Invalid => states.invalid,
    }
}

fn is_of(walk: &Walk<'_>, family: IpFamily) -> bool {
    walk.body.source().is_some_and(|source| IpFamily::of(source) == family)
}

/// A field's bytes as they are in the kernel's register, network order; none where the packet has no such field
/// (the dependency that the renderings put in front does not match, whether the match is negated or not).
fn read(walk: &Walk<'_>, site: Site<'_>, field: Field) -> Result<Option<Vec<u8>>, Fault> {
    let ip = |v4: bool, address: Option<IpAddr>| address.filter(|a| a.is_ipv4() == v4).map(octets);
    let is_v4 = walk.body.source().map(|source| source.is_ipv4());
    let payload = match walk.body {
        Body::Ip { payload, .. } => Some(payload),
        Body::Arp { .. } | Body::Other(_) => None,
    };
    Ok(match field {
        Field::IifName => Some(padded(&walk.iif)),
        Field::OifName => Some(padded(&walk.oif)),
        Field::NfProto => {
            site.only(Family::Inet, "meta nfproto")?;
            // NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
            is_v4.map(|v4| vec![if v4 { 2 } else { 10 }])
        }
        Field::L4Proto => payload.map(|payload| {
            vec![match payload {
                Payload::Ports { transport, .. } => transport.number(),
                Payload::Icmp(_) if is_v4 == Some(true) => 1,
                Payload::Icmp(_) | Payload::Neighbour { .. } => 58,
                Payload::Other(number) => number,
            }]
        }),
        Field::IpSaddr => ip(true, walk.body.source()),
        Field::IpDaddr => ip(true, walk.body.destination()),
        Field::Ip6Saddr => ip(false, walk.body.source()),
        Field::Ip6Daddr => ip(false, walk.body.destination()),
        Field::ThSport => walk.body.source_port().map(|port| port.to_be_bytes().to_vec()),
        // What is only counted by: the evaluation keeps no tuples.
        Field::CtDaddr | Field::CtDaddr6 | Field::CtDport => {
            site.no_ct_in_bridge("ct original")?;
            None
        }
        Field::ThDport => walk.body.port().map(|port| port.to_be_bytes().to_vec()),
        Field::IcmpType | Field::Icmp6Type => match payload {
            Some(Payload::Icmp(kind)) if is_v4 == Some(field == Field::IcmpType) => Some(vec![kind]),
            Some(Payload::Neighbour { advertises, .. }) if is_v4 == Some(field == Field::IcmpType) => {
                Some(vec![if advertises { 136 } else { 135 }])
            }
            _ => None,
        },
        Field::NdTarget => {
            site.only(Family::Bridge, "@th,64,128")?;
            match payload {
                Some(Payload::Neighbour { target, .. }) => Some(target.octets().to_vec()),
                _ => None,
            }
        }
        Field::EtherSaddr => walk.has_ether().then(|| walk.ether_source.0.to_vec()),
        Field::EtherDaddr => walk.has_ether().then(|| walk.ether_destination.0.to_vec()),
        Field::EtherType => walk.has_ether().then(|| walk.body.ether_type().to_be_bytes().to_vec()),
        Field::ArpSaddrEther => {
            site.only(Family::Bridge, "arp")?;
            match walk.body {
                Body::Arp { sender_mac, .. } => Some(sender_mac.0.to_vec()),
                Body::Ip { .. } | Body::Other(_) => None,
            }
        }
        Field::ArpSaddrIp => {
            site.only(Family::Bridge, "arp")?;
            match walk.body {
                Body::Arp { sender, .. } => Some(sender.octets().to_vec()),
                Body::Ip { .. } | Body::Other(_) => None,
            }
        }
    })
}

/// Whether what was read compares with the operand.
fn compare(site: Site<'_>, field: Field, seen: &[u8], with: &Operand) -> Result<bool, Fault> {
    let misfit = || site.misfit(format!("{field:?} against {with:?}"));
    match with {
        Operand::Value(value) => {
            if type_of(field) == Some(value.kind()) {
                Ok(seen == bytes(value))
            } else {
                Err(misfit())
            }
        }
        Operand::Prefix(net) => {
            let fits = match type_of(field) {
                Some(Type::Ipv4) => net.addr().is_ipv4(),
                Some(Type::Ipv6 | Type::NdTarget) => net.addr().is_ipv6(),
                _ => false,
            };
            if !fits {
                return Err(misfit());
            }
            Ok(address(seen).is_some_and(|address| net.contains(&address)))
        }
        Operand::Number(number) => match (seen.len(), type_of(field)) {
            (1, _) | (2, None) => Ok(seen.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) == *number),
            _ => Err(misfit()),
        },
        Operand::GroupBit => match seen {
            [first, _, _, _, _, _] => Ok(first & 1 == 1),
            _ => Err(misfit()),
        },
    }
}

/// The concatenated key of a lookup, checked against the set's types.
fn key(walk: &Walk<'_>, site: Site<'_>, fields: &[Field], set: &Set) -> Result<Option<Vec<Vec<u8>>>, Fault> {
    let types: Option<Vec<Type>> = fields.iter().map(|field| type_of(*field)).collect();
    if types.as_ref() != Some(&set.key) {
        return Err(site.misfit(format!("{fields:?} looked up by {:?}", set.key)));
    }
    fields.iter().map(|field| read(walk, site, *field)).collect()
}

/// The element that holds the key.
fn lookup<'s>(site: Site<'_>, name: &str, set: &'s Set, key: &[Vec<u8>]) -> Result<Option<&'s Element>, Fault> {
    let mut found: Option<&Element> = None;
    for element in &set.elements {
        if element.key.len() != set.key.len() || element.data.iter().map(Value::kind).ne(set.data.iter().copied()) {
            return Err(site.misfit(format!("an element of {name}")));
        }
        let mut holds = true;
        for ((part, kind), seen) in element.key.iter().zip(&set.key).zip(key) {
            holds &= match part {
                KeyPart::One(value) if value.kind() == *kind => *seen == bytes(value),
                KeyPart::Range(first, last) if set.interval && first.kind() == *kind && last.kind() == *kind => {
                    bytes(first) <= *seen && *seen <= bytes(last)
                }
                _ => return Err(site.misfit(format!("an element of {name}"))),
            };
        }
        if holds {
            if found.is_some_and(|other| other.data != element.data) {
                return Err(Fault::Ambiguous { map: name.to_owned() });
            }
            found = Some(element);
        }
    }
    Ok(found)
}

/// The type that a field has in a set; none where it can only be compared with a number.
fn type_of(field: Field) -> Option<Type> {
    match field {
        Field::IifName | Field::OifName => Some(Type::IfName),
        Field::L4Proto => Some(Type::Proto),
        Field::IpSaddr | Field::IpDaddr | Field::ArpSaddrIp | Field::CtDaddr => Some(Type::Ipv4),
        Field::Ip6Saddr | Field::Ip6Daddr | Field::CtDaddr6 => Some(Type::Ipv6),
        Field::ThSport | Field::ThDport | Field::CtDport => Some(Type::Port),
        Field::EtherSaddr | Field::EtherDaddr | Field::ArpSaddrEther => Some(Type::Ether),
        Field::NdTarget => Some(Type::NdTarget),
        Field::NfProto | Field::IcmpType | Field::Icmp6Type | Field::EtherType => None,
    }
}

/// A value's bytes, network order: of one type, they order as nft's intervals do.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Ipv4(a) => a.octets().to_vec(),
        Value::Ipv6(a) | Value::NdTarget(a) => a.octets().to_vec(),
        Value::Ether(mac) => mac.0.to_vec(),
        Value::IfName(name) => padded(name.as_str()),
        Value::Proto(number) => vec![*number],
        Value::Port(port) => port.to_be_bytes().to_vec(),
    }
}

/// An interface's name, zero padded to IFNAMSIZ; of no interface all zero.
fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
