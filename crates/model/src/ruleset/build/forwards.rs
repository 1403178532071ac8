//! What the world reaches at public addresses, and who reaches it from inside: destination NAT.
//!
//! Single ports are in maps by hash; a range whose ports stay what they are is one interval of a map of its own, and
//! one whose ports shift is an element a port, since nf_tables adds no numbers. What few forwards have (clients of
//! their own, no hairpin, everything that is left) costs rules and lookups only where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{address_type, daddr, goto, in_set, is, named, rule, saddr, verdict};
use crate::address::Transport;
use crate::network::{Dmz, Forward, Network, Public};
use crate::ruleset::{Chain, Element, Field, IpFamily, KeyPart, Operand, Rule, Set, Statement, Type, Value, Verdict};

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
/// The maps of single ports: of every public address and of one, a family each.
const FORWARDS: [[&str; 2]; 2] = [["forwards4", "forwards6"], ["forwards_at4", "forwards_at6"]];
/// The sets that count what forwards of single ports carry, a protocol each.
const CARRIED: [&str; 2] = ["carried_tcp", "carried_udp"];
/// Protocols of the host's own that no DMZ takes: ICMP and ICMPv6.
const HOSTS_OWN: [u8; 2] = [1, 58];

// ---- sets ----

/// The maps and sets of forwards and DMZs.
pub(super) fn sets(network: &Network) -> BTreeMap<String, Set> {
    let mut sets = Sets::default();
    // Without one, no packet is looked up in what would be empty.
    let of_one = network.forwards.iter().any(|forward| forward.address.is_some());
    for family in FAMILIES {
        let kind = address_type(family);
        for (at, key) in [("", vec![]), ("_at", vec![kind])].into_iter().filter(|(at, _)| at.is_empty() || of_one) {
            let key = [key, vec![Type::Proto, Type::Port]].concat();
            let map = Set { counted: true, ..Set::map(&key, &[kind, Type::Port]) };
            sets.declare(&named(&format!("forwards{at}"), family), &map);
        }
        for transport in TRANSPORTS {
            let counted = |key: &[Type]| Set { counted: true, ..Set::of(key) };
            // Of both families.
            sets.declare(&format!("carried_{transport}"), &counted(&[Type::Port]));
            if of_one {
                sets.declare(&named(&format!("carried_at_{transport}"), family), &counted(&[kind, Type::Port]));
            }
        }
        for forward in &network.forwards {
            sets.forward(forward, family);
        }
        for dmz in &network.dmzs {
            sets.dmz(dmz, family, network.dmzs.iter().any(|dmz| !dmz.sources.is_empty()));
        }
    }
    for kept in network.kept.iter().filter(|_| !network.dmzs.is_empty()) {
        let service = [Value::Proto(kept.transport.number()), Value::Port(kept.port)];
        match kept.address {
            None => sets.add("kept_services", &Set::of(&[Type::Proto, Type::Port]), Element::of(service)),
            Some(address) => {
                let family = IpFamily::of(address);
                let key = [address_type(family), Type::Proto, Type::Port];
                let [proto, port] = service;
                sets.add(&named("kept_at", family), &Set::of(&key), Element::of([address.into(), proto, port]));
            }
        }
    }
    sets.made()
}

/// Sets as they are declared, with what is to be in them. Each is sorted once: ten thousand forwards come in the order
/// of their ports, and put in one by one each would be compared with a dozen others.
#[derive(Default)]
struct Sets(BTreeMap<String, (Set, Vec<Element>)>);

impl Sets {
    /// A set that is there whether anything is in it or not.
    fn declare(&mut self, name: &str, like: &Set) {
        self.of(name, like);
    }

    /// Puts an element into a set that is made when it is first needed.
    fn add(&mut self, name: &str, like: &Set, element: Element) {
        self.add_like(name, || like.clone(), element);
    }

    fn of(&mut self, name: &str, like: &Set) -> &mut Vec<Element> {
        &mut self.0.entry(name.to_owned()).or_insert_with(|| (like.clone(), Vec::new())).1
    }

    /// As [`Self::add`]; what the set is like is said where it is made.
    fn add_like(&mut self, name: &str, like: impl FnOnce() -> Set, element: Element) {
        match self.0.get_mut(name) {
            Some((_, elements)) => elements.push(element),
            None => {
                self.0.insert(name.to_owned(), (like(), vec![element]));
            }
        }
    }

    fn made(self) -> BTreeMap<String, Set> {
        let with = |(set, elements): (Set, Vec<Element>)| Set { elements: elements.into_iter().collect(), ..set };
        self.0.into_iter().map(|(name, made)| (name, with(made))).collect()
    }

    fn forward(&mut self, forward: &Forward, family: IpFamily) {
        let Some(to) = forward.to.iter().find(|to| IpFamily::of(**to) == family) else { return };
        if forward.address.is_some_and(|address| IpFamily::of(address) != family) {
            return;
        }
        let kind = address_type(family);
        let at = if forward.address.is_some() { "_at" } else { "" };
        let types = || match forward.address {
            Some(_) => vec![kind, Type::Proto, Type::Port],
            None => vec![Type::Proto, Type::Port],
        };
        let with = |port: KeyPart| {
            let proto = KeyPart::One(Value::Proto(forward.transport.number()));
            match forward.address {
                Some(address) => vec![KeyPart::One(address.into()), proto, port],
                None => vec![proto, port],
            }
        };
        let all = range(Value::Port(forward.ports.first), Value::Port(forward.ports.last));
        if forward.ports.is_single() || !forward.keeps_ports() {
            let like = || Set { counted: true, ..Set::map(&types(), &[kind, Type::Port]) };
            let name = FORWARDS[usize::from(forward.address.is_some())][usize::from(family == IpFamily::V6)];
            for port in forward.ports.first..=forward.ports.last {
                let Some(to_port) = forward.to_port_of(port) else { continue };
                let data = vec![(*to).into(), Value::Port(to_port)];
                self.add_like(name, like, Element { key: with(KeyPart::One(Value::Port(port))), data, most: None });
            }
        } else {
            let like = Set { interval: true, counted: true, ..Set::map(&types(), &[kind]) };
            let element = Element { key: with(all.clone()), data: vec![(*to).into()], most: None };
            self.add(&named(&format!("ranges{at}"), family), &like, element);
        }
        self.carried(forward, family, &all);
        if forward.hairpin && forward.sources.is_empty() {
            return;
        }
        let mut types = types();
        let intervals = |types: &[Type]| Set { interval: true, ..Set::of(types) };
        if !forward.hairpin {
            let element = Element { key: with(all.clone()), data: Vec::new(), most: None };
            self.add(&named(&format!("outside_only{at}"), family), &intervals(&types), element);
        }
        if !forward.sources.is_empty() {
            let element = Element { key: with(all.clone()), data: Vec::new(), most: None };
            self.add(&named(&format!("selective{at}"), family), &intervals(&types), element);
            types.insert(0, kind);
            // Where none is of this family, nobody is.
            let name = named(&format!("selected{at}"), family);
            self.declare(&name, &intervals(&types));
            for client in clients(&forward.sources, family) {
                let key = [vec![client], with(all.clone())].concat();
                self.add(&name, &intervals(&types), Element { key, data: Vec::new(), most: None });
            }
        }
    }

    /// What counts the packets of its flows, both ways, by where their first was sent.
    fn carried(&mut self, forward: &Forward, family: IpFamily, ports: &KeyPart) {
        let transport = forward.transport;
        let single = matches!(ports, KeyPart::One(_));
        let key =
            forward.address.iter().map(|address| KeyPart::One((*address).into())).chain([ports.clone()]).collect();
        let element = Element { key, data: Vec::new(), most: None };
        let of_one = forward.address.map(|_| address_type(family));
        let like = || Set {
            interval: !single,
            counted: true,
            ..Set::of(&of_one.into_iter().chain([Type::Port]).collect::<Vec<_>>())
        };
        match (single, of_one) {
            // By far the most are so.
            (true, None) => self.add_like(CARRIED[usize::from(transport == Transport::Udp)], like, element),
            (false, None) => self.add_like(&format!("carried_range_{transport}"), like, element),
            (_, Some(_)) => {
                let word = if single { "carried" } else { "carried_range" };
                self.add_like(&named(&format!("{word}_at_{transport}"), family), like, element);
            }
        }
    }

    fn dmz(&mut self, dmz: &Dmz, family: IpFamily, selective: bool) {
        let kind = address_type(family);
        let intervals = |types: &[Type]| Set { interval: true, ..Set::of(types) };
        let Some(address) = dmz.address else {
            if !dmz.sources.is_empty() {
                let name = named("dmz_from", family);
                self.declare(&name, &intervals(&[kind]));
                for client in clients(&dmz.sources, family) {
                    self.add(&name, &intervals(&[kind]), Element { key: vec![client], data: Vec::new(), most: None });
                }
            }
            return;
        };
        let Some(to) = dmz.to.iter().find(|to| IpFamily::of(**to) == family) else { return };
        if IpFamily::of(address) != family {
            return;
        }
        let element = || Element::of([address.into()]).to([(*to).into()]);
        self.add(&named("dmz_at", family), &Set::map(&[kind], &[kind]), element());
        if dmz.hairpin {
            self.add(&named("dmz_inside_at", family), &Set::map(&[kind], &[kind]), element());
        }
        if selective {
            let sources = if dmz.sources.is_empty() { vec![everywhere(family)] } else { dmz.sources.clone() };
            let like = intervals(&[kind, kind]);
            for client in clients(&sources, family) {
                let key = vec![KeyPart::One(address.into()), client];
                self.add(&named("dmz_from_at", family), &like, Element { key, data: Vec::new(), most: None });
            }
        }
    }
}

/// The ranges of a family's clients, apart from each other: an interval set takes no overlaps.
fn clients(sources: &[IpNet], family: IpFamily) -> BTreeSet<KeyPart> {
    let of_family = sources.iter().filter(|net| IpFamily::of(net.addr()) == family).copied().collect();
    let nets: Vec<IpNet> = IpNet::aggregate(&of_family);
    nets.iter().map(|net| range(net.network().into(), net.broadcast().into())).collect()
}

fn everywhere(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => Ipv4Net::default().into(),
        IpFamily::V6 => Ipv6Net::default().into(),
    }
}

pub(super) fn range(first: Value, last: Value) -> KeyPart {
    if first == last { KeyPart::One(first) } else { KeyPart::Range(first, last) }
}

/// The sets that count what a forward does, each with the forward's keys in it: connections in those whose names do not
/// begin with `carried`, packets and bytes in the others.
#[must_use]
pub fn counted_by(forward: &Forward) -> BTreeMap<String, Vec<Vec<KeyPart>>> {
    let mut sets = Sets::default();
    for family in FAMILIES {
        sets.forward(forward, family);
    }
    let counted = sets.made().into_iter().filter(|(_, set)| set.counted);
    counted.map(|(name, set)| (name, set.elements.into_iter().map(|element| element.key).collect())).collect()
}

// ---- chains ----

/// The chains that end in `from_uplink` and `from_inside`; `sets` are those of [`sets`].
pub(super) fn chains(network: &Network, sets: &BTreeMap<String, Set>) -> Vec<Chain> {
    let writer = Chains { network, sets };
    let mut chains = vec![writer.forwards_any()];
    if !network.dmzs.is_empty() {
        chains.push(writer.dmz("dmz_uplink", true));
        chains.push(writer.dmz("dmz_inside", false));
    }
    chains.extend([writer.uplink(), writer.inside(), writer.carried()]);
    chains
}

struct Chains<'a> {
    network: &'a Network,
    sets: &'a BTreeMap<String, Set>,
}

impl Chains<'_> {
    /// The family's set or map, where there is one.
    fn has(&self, what: &str, family: IpFamily) -> Option<String> {
        Some(named(what, family)).filter(|name| self.sets.contains_key(name))
    }

    /// The rules that look in the map of either family, each where it is.
    fn dnat(&self, what: &str, fields: fn(IpFamily) -> Vec<Field>, port: bool, comment: &str) -> Vec<Rule> {
        let maps = FAMILIES.into_iter().filter_map(|family| Some((family, self.has(what, family)?)));
        maps.map(|(family, map)| rule(comment, [Statement::DnatMap { family, fields: fields(family), map, port }]))
            .collect()
    }

    /// What makes sure that the destination is a public address: a lookup for each family, or one question for both.
    fn is_public(&self, family: IpFamily, of_input: bool) -> Statement {
        match self.network.public {
            Public::Listed(_) => in_set(&[daddr(family)], &named("public", family)),
            Public::Dynamic => Statement::FibLocal { of_input, not: false },
        }
    }

    /// Counts what flows that came by a forward carry; whoever comes here has made sure that the packet is of one whose
    /// destination was rewritten.
    fn carried(&self) -> Chain {
        let mut rules = Vec::new();
        for transport in TRANSPORTS {
            let mut count = |set: String, key: &[Field]| {
                if self.sets.contains_key(&set) {
                    let of_it = is(Field::L4Proto, Operand::Value(Value::Proto(transport.number())));
                    rules.push(rule("whose traffic it is", [of_it, in_set(key, &set), verdict(Verdict::Return)]));
                }
            };
            for (family, address) in FAMILIES.into_iter().zip([Field::CtDaddr, Field::CtDaddr6]) {
                for word in ["carried", "carried_range"] {
                    count(named(&format!("{word}_at_{transport}"), family), &[address, Field::CtDport]);
                }
            }
            for word in ["carried", "carried_range"] {
                count(format!("{word}_{transport}"), &[Field::CtDport]);
            }
        }
        Chain { name: "carried_by_forwards".into(), hook: None, rules }
    }

    /// Forwards of every public address: the chains that come here have made sure that it is one.
    fn forwards_any(&self) -> Chain {
        let mut rules = Vec::new();
        for (what, port) in [("forwards", true), ("ranges", false)] {
            for family in FAMILIES {
                let Some(map) = self.has(what, family) else { continue };
                let mut statements = Vec::new();
                if matches!(self.network.public, Public::Listed(_)) {
                    statements.push(in_set(&[daddr(family)], &named("public", family)));
                }
                statements.push(Statement::DnatMap { family, fields: SERVICE.to_vec(), map, port });
                rules.push(rule("forwards of every public address", statements));
            }
        }
        Chain { name: "forwards_any".into(), hook: None, rules }
    }

    /// Forwards of one public address come before those of every one.
    fn forwards_at(&self) -> Vec<Rule> {
        let comment = "forwards of one public address";
        let mut rules = self.dnat("forwards_at", service_at, true, comment);
        rules.extend(self.dnat("ranges_at", service_at, false, comment));
        rules
    }

    /// Who comes to a forward that is not for him goes on as if it were not there.
    fn turned_away(&self, from_uplink: bool, at: bool, of_input: bool) -> Vec<Rule> {
        let at_word = if at { "_at" } else { "" };
        let mut rules = Vec::new();
        for family in FAMILIES {
            let fields = if at { service_at(family) } else { SERVICE.to_vec() };
            let mut statements = Vec::new();
            if !at {
                statements.push(self.is_public(family, of_input));
            }
            let comment = if from_uplink {
                let Some(selective) = self.has(&format!("selective{at_word}"), family) else { continue };
                let with_client = [vec![saddr(family)], fields.clone()].concat();
                let set = named(&format!("selected{at_word}"), family);
                statements.push(in_set(&fields, &selective));
                statements.push(Statement::InSet { fields: with_client, not: true, set });
                "a forward for other clients"
            } else {
                let Some(set) = self.has(&format!("outside_only{at_word}"), family) else { continue };
                statements.push(in_set(&fields, &set));
                "a forward for the world alone"
            };
            if !at && matches!(self.network.public, Public::Dynamic) {
                // The question has no version, and neither do protocol and port.
                statements.insert(0, nfproto(family));
            }
            statements.push(verdict(Verdict::Return));
            rules.push(rule(comment, statements));
        }
        rules
    }

    fn uplink(&self) -> Chain {
        let mut rules = self.turned_away(true, true, true);
        rules.extend(self.forwards_at());
        rules.extend(self.turned_away(true, false, true));
        rules.push(match self.network.public {
            Public::Listed(_) => rule("", [jump("forwards_any")]),
            Public::Dynamic => rule(
                "every address that the uplink has now",
                [Statement::FibLocal { of_input: true, not: false }, jump("forwards_any")],
            ),
        });
        if !self.network.dmzs.is_empty() {
            rules.push(rule("", [goto("dmz_uplink")]));
        }
        Chain { name: "from_uplink".into(), hook: None, rules }
    }

    /// From guests and from this host: there is no uplink to have come in by, so the public addresses are the local
    /// ones less the LANs' and loopback.
    fn inside(&self) -> Chain {
        let mut rules = self.turned_away(false, true, false);
        rules.extend(self.forwards_at());
        if matches!(self.network.public, Public::Dynamic) {
            for family in FAMILIES {
                let set = named("lan_addresses", family);
                rules.push(rule(
                    "a LAN's own address is no public one",
                    [in_set(&[daddr(family)], &set), verdict(Verdict::Return)],
                ));
            }
            for loopback in [
                IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
                Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
            ] {
                rules.push(rule(
                    "nor is loopback",
                    [is(daddr(IpFamily::of(loopback.addr())), Operand::Prefix(loopback)), verdict(Verdict::Return)],
                ));
            }
        }
        rules.extend(self.turned_away(false, false, false));
        rules.push(match self.network.public {
            Public::Listed(_) => rule("", [jump("forwards_any")]),
            Public::Dynamic => rule(
                "every other address of this host's",
                [Statement::FibLocal { of_input: false, not: false }, jump("forwards_any")],
            ),
        });
        if !self.network.dmzs.is_empty() {
            rules.push(rule("", [goto("dmz_inside")]));
        }
        Chain { name: "from_inside".into(), hook: None, rules }
    }

    /// What nothing else took: not the host's own services, and not ICMP to it.
    fn dmz(&self, name: &str, from_uplink: bool) -> Chain {
        let mut rules = Vec::new();
        for protocol in HOSTS_OWN {
            let own = is(Field::L4Proto, Operand::Value(Value::Proto(protocol)));
            rules.push(rule("the host's own", [own, verdict(Verdict::Return)]));
        }
        if self.sets.contains_key("kept_services") {
            rules.push(rule("the host's own services", [in_set(&SERVICE, "kept_services"), verdict(Verdict::Return)]));
        }
        for family in FAMILIES {
            if let Some(set) = self.has("kept_at", family) {
                let own = in_set(&service_at(family), &set);
                rules.push(rule("the host's own services", [own, verdict(Verdict::Return)]));
            }
        }
        for family in FAMILIES {
            let Some(map) = self.has(if from_uplink { "dmz_at" } else { "dmz_inside_at" }, family) else { continue };
            let mut statements = Vec::new();
            if let Some(set) = self.has("dmz_from_at", family).filter(|_| from_uplink) {
                statements.push(in_set(&[daddr(family), saddr(family)], &set));
            }
            statements.push(Statement::DnatMap { family, fields: vec![daddr(family)], map, port: false });
            rules.push(rule("everything else at one public address", statements));
        }
        let Some(dmz) = self.network.dmzs.iter().find(|dmz| dmz.address.is_none()) else {
            return Chain { name: name.into(), hook: None, rules };
        };
        for to in dmz.to.iter().filter(|_| from_uplink || dmz.hairpin) {
            let family = IpFamily::of(*to);
            let mut statements = vec![self.is_public(family, from_uplink)];
            if let Some(set) = self.has("dmz_from", family).filter(|_| from_uplink) {
                statements.push(in_set(&[saddr(family)], &set));
            }
            statements.push(Statement::Dnat(*to));
            rules.push(rule("everything else", statements));
        }
        Chain { name: name.into(), hook: None, rules }
    }
}

/// What a forward of every address is found by.
const SERVICE: [Field; 2] = [Field::L4Proto, Field::ThDport];

/// What a forward of one address is found by.
fn service_at(family: IpFamily) -> Vec<Field> {
    vec![daddr(family), Field::L4Proto, Field::ThDport]
}

fn jump(chain: &str) -> Statement {
    verdict(Verdict::Jump(chain.to_owned()))
}

fn nfproto(family: IpFamily) -> Statement {
    is(Field::NfProto, Operand::Number(u32::from(crate::ruleset::text::nfproto(family))))
}
