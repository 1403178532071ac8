//! The frames at each guest's port: nobody is who he is not.
//!
//! Everything here hangs before every other filter of the bridge's and, on the way to the host and beyond, before the
//! whole inet family, so that no later accept of anybody's can pre-empt it. What is right is let through, and the
//! rest is dropped: a frame that a rule cannot read is none that is right. How many rules there are does not depend on
//! how many guests there are.
//!
//! Ports are known by their names, so a port that is made anew under its name is held as it was before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

mod sets;
pub(super) use sets::addresses;
use sets::{Ports, apart, reflecting, sets};

use super::{METADATA4, METADATA6, accept, goto, hook, in_set, is, named, rule, saddr, udp, verdict};
use crate::address::Transport;
use crate::network::Network;
use crate::ruleset::{
    Chain, ChainKind, Family, Field, HookPoint, IpFamily, Operand, Rule, Statement, Table, Value, Verdict,
};

/// Before every other chain of the bridge family's: NF_BR_PRI_NAT_DST_BRIDGED of linux/netfilter_bridge.h.
const FIRST: i32 = -300;
/// After that, and before all others.
const SECOND: i32 = FIRST + 1;
/// Priority of ordinary filters (NF_BR_PRI_FILTER_BRIDGED).
const FILTER: i32 = -200;

/// Ether types (linux/if_ether.h).
const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;

/// What a DHCP server sends to: clients' ports of IPv4 and IPv6.
const CLIENTS: [u16; 2] = [68, 546];
const BOOTPS: u16 = 67;
/// Router advertisement and redirect: what only a router sends.
const ROUTERS_WORDS: [u32; 2] = [134, 137];
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

/// The set that counts what each guest has sent: port and hardware address.
pub const SENT: &str = "guest_macs";
/// The set that counts what each guest was sent: port.
pub const RECEIVED: &str = "guest_received";

/// A sort of what a guest may not do at its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Try {
    /// A frame with another's hardware address.
    HardwareAddress,
    /// A packet with another's IP address.
    Address,
    /// A claim, by ARP or neighbour discovery, to have another's address.
    Claim,
    /// A lease or a route offered.
    Service,
    /// A frame that is none of IPv4, IPv6 and ARP.
    EtherType,
}

/// Every sort.
pub const TRIES: [Try; 5] = [Try::HardwareAddress, Try::Address, Try::Claim, Try::Service, Try::EtherType];

impl Try {
    /// The set that counts them, a port each.
    #[must_use]
    pub fn set(self) -> &'static str {
        match self {
            Self::HardwareAddress => "tried_mac",
            Self::Address => "tried_address",
            Self::Claim => "tried_claim",
            Self::Service => "tried_service",
            Self::EtherType => "tried_ethertype",
        }
    }

    /// What it is, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::HardwareAddress => "frames with another's hardware address",
            Self::Address => "packets with another's address",
            Self::Claim => "claims to another's address",
            Self::Service => "offers of leases or routes",
            Self::EtherType => "frames that are neither IPv4, IPv6 nor ARP",
        }
    }
}

/// The table; none where there are no ports to look after.
pub(super) fn table(network: &Network) -> Option<Table> {
    let ports = Ports::of(network);
    if ports.guests.is_empty() && ports.taps.is_empty() {
        return None;
    }
    let nested = [IpFamily::V4, IpFamily::V6]
        .into_iter()
        .filter(|family| {
            ports.guests.iter().any(|(_, g)| g.allowed.iter().any(|net| IpFamily::of(net.addr()) == *family))
        })
        .collect::<Vec<_>>();
    let mut chains = Vec::new();
    if !ports.guests.is_empty() {
        chains.extend([
            guest_claims(&ports.learns()),
            guest_arp(&nested, &ports.learns()),
            guest_ip4(&nested, &ports.learns()),
            guest_ip6(&nested, &ports.learns()),
            ethertypes("guest_frames", "guest"),
            guest(),
        ]);
    }
    if !ports.taps.is_empty() {
        chains.extend([tap_arp(), tap_ip4(), tap_ip6(), ethertypes("tap_frames", "tap"), tap()]);
    }
    chains.push(prerouting(&ports));
    if ports.apart {
        chains.push(kept_apart());
    }
    if !ports.guests.is_empty() {
        chains.push(postrouting());
    }
    let mut sets = sets(network, &ports, &nested);
    let same = reflecting(network, &ports);
    let reflects = !same.elements.is_empty();
    if reflects {
        sets.insert("same_port".to_owned(), same);
    }
    let apart = apart(network, &ports);
    let answered = apart.contains_key("answered_ports");
    sets.extend(apart);
    if reflects || ports.apart {
        chains.push(forward(reflects, &ports));
    }
    if answered {
        chains.push(input());
    }
    Some(Table { family: Family::Bridge, sets, chains })
}

// ---- a guest's port ----

/// Counts a try where it was tried, and drops it.
fn drop_as(tried: Try, comment: &str) -> [Rule; 2] {
    drop_when(&[], tried, comment)
}

/// The same, of what `when` matches alone.
fn drop_when(when: &[Statement], tried: Try, comment: &str) -> [Rule; 2] {
    let then = |more: Vec<Statement>| when.iter().cloned().chain(more);
    [
        rule("whose try it is", then(vec![in_set(&[Field::IifName], tried.set())])),
        rule(comment, then(vec![Statement::Counter, verdict(Verdict::Drop)])),
    ]
}

fn prerouting(ports: &Ports<'_>) -> Chain {
    let mut rules = Vec::new();
    for metadata in [IpAddr::V4(METADATA4), IpAddr::V6(METADATA6)] {
        if ports.bridged().next().is_some() {
            // Elsewhere it is routed, and stopped there.
            let to = is(super::daddr(IpFamily::of(metadata)), Operand::Value(metadata.into()));
            let port = in_set(&[Field::IifName], "bridged_ports");
            let rest = [port, to, Statement::Counter, verdict(Verdict::Drop)];
            rules.push(rule("cloud metadata is not for guests", rest));
        }
    }
    if !ports.guests.is_empty() {
        rules.push(rule("", [in_set(&[Field::IifName], "guest_ports"), goto("guest")]));
    }
    if !ports.taps.is_empty() {
        rules.push(rule("", [in_set(&[Field::IifName], "tap_ports"), goto("tap")]));
    }
    Chain { name: "prerouting".into(), hook: hook(HookPoint::Prerouting, ChainKind::Filter, FIRST), rules }
}

/// What one may send to a neighbour is addressed to the host. After the tries were counted, for this is none.
fn kept_apart() -> Chain {
    let statements = [
        in_set(&[Field::IifName], "apart_ports"),
        in_set(&[Field::EtherDaddr], "apart_macs"),
        Statement::Counter,
        verdict(Verdict::Drop),
    ];
    let rules = vec![rule("neighbours are kept apart", statements)];
    Chain { name: "kept_apart".into(), hook: hook(HookPoint::Prerouting, ChainKind::Filter, SECOND), rules }
}

fn guest() -> Chain {
    let mut rules = vec![rule(
        "its own hardware address",
        [in_set(&[Field::IifName, Field::EtherSaddr], "guest_macs"), goto("guest_frames")],
    )];
    rules.extend(drop_as(Try::HardwareAddress, "another's hardware address"));
    Chain { name: "guest".into(), hook: None, rules }
}

/// Whatever a tag hides is not looked for: nothing but these three passes.
fn ethertypes(name: &str, whose: &str) -> Chain {
    let to = |kind, chain| rule("", [is(Field::EtherType, Operand::Number(kind)), goto(&format!("{whose}_{chain}"))]);
    let mut rules = vec![to(IPV4, "ip4"), to(IPV6, "ip6"), to(ARP, "arp")];
    rules.extend(drop_as(Try::EtherType, "neither IPv4, IPv6 nor ARP"));
    Chain { name: name.into(), hook: None, rules }
}

/// The rules that let pass who uses an address of its own, or of networks that were allowed it.
fn own(fields: &[Field], family: IpFamily, nested: &[IpFamily], pass: Verdict) -> Vec<Rule> {
    let mut rules =
        vec![rule("its own address", [in_set(fields, &named("guest_addresses", family)), verdict(pass.clone())])];
    if nested.contains(&family) {
        let fields = in_set(fields, &named("guest_nets", family));
        rules.push(rule("a network that it was allowed", [fields, verdict(pass)]));
    }
    rules
}

/// The rules that let pass who learns its address from the outer network, as whatever is nobody else's that is known.
fn learnt(family: IpFamily, learns: &[IpFamily], source: Field, more: &[Statement], tried: Try) -> Vec<Rule> {
    if !learns.contains(&family) {
        return Vec::new();
    }
    let learns = || in_set(&[Field::IifName], &named("learning", family));
    let known = in_set(&[source], &named("known_addresses", family));
    let mut rules: Vec<Rule> = drop_when(&[learns(), known], tried, "the host's, the router's or a neighbour's").into();
    let nobody: IpAddr = match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let somebody = Statement::Match { field: source, not: true, with: Operand::Value(nobody.into()) };
    let statements = more.iter().cloned().chain([learns(), somebody, accept()]);
    rules.push(rule("what the outer network gave it", statements));
    rules
}

fn guest_arp(nested: &[IpFamily], learns: &[IpFamily]) -> Chain {
    let fields = [Field::IifName, Field::ArpSaddrEther, Field::ArpSaddrIp];
    let mut rules = own(&fields, IpFamily::V4, nested, Verdict::Accept);
    let unspecified = Operand::Value(Value::Ipv4(Ipv4Addr::UNSPECIFIED));
    rules.push(rule(
        "duplicate address detection: a question from no address",
        [in_set(&[Field::IifName, Field::ArpSaddrEther], "guest_macs"), is(Field::ArpSaddrIp, unspecified), accept()],
    ));
    let mac = in_set(&[Field::IifName, Field::ArpSaddrEther], "guest_macs");
    rules.extend(learnt(IpFamily::V4, learns, Field::ArpSaddrIp, &[mac], Try::Claim));
    rules.extend(drop_as(Try::Claim, "claims another's address"));
    Chain { name: "guest_arp".into(), hook: None, rules }
}

fn no_offers() -> [Rule; 2] {
    // Most of what guests send is no UDP, and that is told by a byte of it.
    let by_udp = is(Field::L4Proto, Operand::Value(Value::Proto(Transport::Udp.number())));
    let offers = [by_udp, in_set(&[Field::L4Proto, Field::ThDport], "client_services")];
    drop_when(&offers, Try::Service, "offers leases")
}

fn lease_question() -> Rule {
    let address = |field, address| is(field, Operand::Value(Value::Ipv4(address)));
    let [proto, port] = udp(BOOTPS);
    rule(
        "a client that asks everybody for a lease",
        [
            address(Field::IpSaddr, Ipv4Addr::UNSPECIFIED),
            address(Field::IpDaddr, Ipv4Addr::BROADCAST),
            proto,
            port,
            accept(),
        ],
    )
}

fn guest_ip4(nested: &[IpFamily], learns: &[IpFamily]) -> Chain {
    let mut rules: Vec<Rule> = no_offers().into();
    let fields = [Field::IifName, Field::EtherSaddr, saddr(IpFamily::V4)];
    rules.extend(own(&fields, IpFamily::V4, nested, Verdict::Accept));
    rules.push(lease_question());
    rules.extend(learnt(IpFamily::V4, learns, saddr(IpFamily::V4), &[], Try::Address));
    rules.extend(drop_as(Try::Address, "another's address"));
    Chain { name: "guest_ip4".into(), hook: None, rules }
}

/// Link-local addresses are drawn in many ways, so one that nobody is known to have may be a guest's. What it says of
/// its own neighbours' addresses is held the same.
fn guest_ip6(nested: &[IpFamily], learns: &[IpFamily]) -> Chain {
    let mut rules = no_routes();
    rules.extend(no_offers());
    rules.push(rule("", [is(Field::Icmp6Type, Operand::Number(ADVERTISEMENT)), jump("guest_claims")]));
    let solicitation = is(Field::Icmp6Type, Operand::Number(SOLICITATION));
    rules.push(rule("", [is(Field::Ip6Saddr, unspecified6()), solicitation, jump("guest_claims")]));
    let fields = [Field::IifName, Field::EtherSaddr, saddr(IpFamily::V6)];
    rules.extend(own(&fields, IpFamily::V6, nested, Verdict::Accept));
    rules.push(nobody_yet());
    rules.extend(drop_when(&[in_set(&[Field::Ip6Saddr], "known_link_locals")], Try::Address, "another's link-local"));
    rules.push(rule("a link-local address of nobody else's", [is(Field::Ip6Saddr, link_local()), accept()]));
    rules.extend(learnt(IpFamily::V6, learns, saddr(IpFamily::V6), &[], Try::Address));
    rules.extend(drop_as(Try::Address, "another's address"));
    Chain { name: "guest_ip6".into(), hook: None, rules }
}

/// Neighbour discovery about an address of one's own goes back to where it came from.
fn guest_claims(learns: &[IpFamily]) -> Chain {
    let own = in_set(&[Field::IifName, Field::EtherSaddr, Field::NdTarget], "guest_targets");
    let mut rules = vec![rule("its own address", [nd(), own, verdict(Verdict::Return)])];
    let known = [nd(), in_set(&[Field::NdTarget], "known_targets")];
    rules.extend(drop_when(&known, Try::Claim, "claims another's link-local"));
    let free = [nd(), is(Field::NdTarget, link_local()), verdict(Verdict::Return)];
    rules.push(rule("a link-local address of nobody else's", free));
    if learns.contains(&IpFamily::V6) {
        let learns = in_set(&[Field::IifName], &named("learning", IpFamily::V6));
        let given = [nd(), learns, verdict(Verdict::Return)];
        rules.push(rule("what the outer network gave it", given));
    }
    rules.extend(drop_as(Try::Claim, "claims another's address"));
    Chain { name: "guest_claims".into(), hook: None, rules }
}

fn no_routes() -> Vec<Rule> {
    let of_router = |kind| is(Field::Icmp6Type, Operand::Number(kind));
    ROUTERS_WORDS.iter().flat_map(|kind| drop_when(&[of_router(*kind)], Try::Service, "offers routes")).collect()
}

/// Multicast from no address is what a station says of itself before it has one: solicitations (held above to be
/// about an address of its own) and reports of groups (RFC 3590).
fn nobody_yet() -> Rule {
    let groups = Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16);
    rule(
        "duplicate address detection: from no address",
        [
            is(Field::Ip6Saddr, unspecified6()),
            is(Field::Ip6Daddr, Operand::Prefix(groups.into())),
            is(Field::L4Proto, Operand::Value(Value::Proto(58))),
            accept(),
        ],
    )
}

fn unspecified6() -> Operand {
    Operand::Value(Value::Ipv6(Ipv6Addr::UNSPECIFIED))
}

fn link_local() -> Operand {
    Operand::Prefix(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64).into())
}

/// That there is a target at all: nft would read the same bytes of any other packet.
fn nd() -> Statement {
    is(Field::L4Proto, Operand::Value(Value::Proto(58)))
}

fn jump(chain: &str) -> Statement {
    verdict(Verdict::Jump(chain.to_owned()))
}

// ---- a tap without a guest ----

/// Who is behind such a tap is not said, so whatever is nobody else's may be its own.
fn tap() -> Chain {
    let mut rules: Vec<Rule> =
        drop_when(&[in_set(&[Field::EtherSaddr], "known_macs")], Try::HardwareAddress, "another's hardware address")
            .into();
    rules.push(rule("", [goto("tap_frames")]));
    Chain { name: "tap".into(), hook: None, rules }
}

fn tap_arp() -> Chain {
    let known = in_set(&[Field::ArpSaddrIp], "known_addresses4");
    let rules = drop_when(&[known], Try::Claim, "claims another's address").into();
    Chain { name: "tap_arp".into(), hook: None, rules }
}

fn tap_ip4() -> Chain {
    let mut rules: Vec<Rule> = no_offers().into();
    let known = in_set(&[saddr(IpFamily::V4)], "known_addresses4");
    rules.extend(drop_when(&[known], Try::Address, "another's address"));
    Chain { name: "tap_ip4".into(), hook: None, rules }
}

fn tap_ip6() -> Chain {
    let mut rules = no_routes();
    rules.extend(no_offers());
    for set in ["known_addresses6", "known_link_locals"] {
        rules.extend(drop_when(&[in_set(&[saddr(IpFamily::V6)], set)], Try::Address, "another's address"));
    }
    let advertises = is(Field::Icmp6Type, Operand::Number(ADVERTISEMENT));
    let known = in_set(&[Field::NdTarget], "known_targets");
    rules.extend(drop_when(&[advertises, known], Try::Claim, "claims another's address"));
    Chain { name: "tap_ip6".into(), hook: None, rules }
}

// ---- between ports ----

fn postrouting() -> Chain {
    let rules = vec![rule("what guests are sent", [in_set(&[Field::OifName], RECEIVED)])];
    Chain { name: "postrouting".into(), hook: hook(HookPoint::Postrouting, ChainKind::Filter, FILTER), rules }
}

/// A port in hairpin mode sends back whatever is flooded, and a guest that hears its own question for an address
/// takes it for another's: duplicate address detection would never end well. What comes back by right is addressed to
/// the guest itself. The same is it between ports that are kept apart: what br_netfilter hands on from one to another
/// (see [`Lan::isolates`]) is addressed to the guest there, and whatever is flooded stops.
fn forward(reflects: bool, ports: &Ports<'_>) -> Chain {
    let own =
        || Statement::InSet { fields: vec![Field::OifName, Field::EtherDaddr], not: true, set: "guest_macs".into() };
    let mut rules = Vec::new();
    if reflects {
        let back = in_set(&[Field::IifName, Field::OifName], "same_port");
        rules.push(rule("nobody hears himself", [back, own(), verdict(Verdict::Drop)]));
    }
    if ports.apart {
        let mut statements = [Field::IifName, Field::OifName].map(|field| in_set(&[field], "apart_ports")).to_vec();
        if !ports.guests.is_empty() {
            statements.push(own());
        }
        statements.push(verdict(Verdict::Drop));
        rules.push(rule("neighbours are not heard", statements));
    }
    Chain { name: "forward".into(), hook: hook(HookPoint::Forward, ChainKind::Filter, FILTER), rules }
}

/// Where the host answers for the guests of a LAN, it would answer a guest that asks whether its own address is free.
/// Nobody else hears the question either, since the LAN's ports are kept apart.
fn input() -> Chain {
    let statements = [
        in_set(&[Field::IifName], "answered_ports"),
        is(Field::Ip6Saddr, unspecified6()),
        is(Field::Icmp6Type, Operand::Number(SOLICITATION)),
        verdict(Verdict::Drop),
    ];
    let rules = vec![rule("duplicate address detection: the host would answer for the guest", statements)];
    Chain { name: "input".into(), hook: hook(HookPoint::Input, ChainKind::Filter, FILTER), rules }
}
