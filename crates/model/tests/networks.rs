//! The generator itself: what it makes is valid, and it makes everything.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use model::address::Transport;
use model::network::{GuestKind, Mode, Network, Public, Snat};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_network_is_valid(network in common::networks()) {
        common::assert_valid(&network);
    }
}

/// What there is in a network that a test may stand or fall by.
fn traits(network: &Network) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut note = |what: &'static str, holds: bool| {
        if holds {
            found.insert(what);
        }
    };
    note("no uplink", !network.uplink.present);
    note("dynamic", network.public == Public::Dynamic);
    note("three public", matches!(&network.public, Public::Listed(listed) if listed.len() == 3));
    note("four LANs", network.lans.len() == 4);
    note("no guests", network.guests.is_empty());
    note("eight guests", network.guests.len() == 8);
    for lan in &network.lans {
        let six = lan.gateway6();
        note("isolated", lan.mode == Mode::Isolated);
        note("routed", lan.mode == Mode::Routed);
        note("answered", !lan.answers.is_none());
        note("only IPv6", lan.gateway4().is_none());
        note("ULA", six.is_some_and(model::network::is_ula));
        note("global IPv6", six.is_some_and(|a| !model::network::is_ula(a)));
        note("snat", matches!(lan.snat4, Snat::To(_)));
        note("snat6", matches!(lan.snat6, Snat::To(_)));
        note("masquerade of a listed", lan.snat4 == Snat::Masquerade && network.public != Public::Dynamic);
        note("tap", !lan.taps.is_empty());
    }
    for guest in &network.guests {
        let lan = network.lan(&guest.lan).unwrap();
        note("alone", guest.addresses.iter().any(|address| lan.prefix_of(*address).is_none()));
        note("netns", guest.kind == GuestKind::Netns);
        note("vm", matches!(guest.kind, GuestKind::Vm { .. }));
        note("reserved", guest.kind == GuestKind::Reserved);
        let limit = guest.limit.as_ref();
        note("limited inwards", limit.is_some_and(|limit| limit.inward.is_some()));
        note("limited outwards", limit.is_some_and(|limit| limit.outward.is_some()));
        note("allowed addresses", !guest.allowed.is_empty());
        note("two IPv4 addresses", guest.addresses.iter().filter(|a| a.is_ipv4()).count() == 2);
    }
    for dmz in &network.dmzs {
        note("dmz of every address", dmz.address.is_none());
        note("dmz of one address", dmz.address.is_some());
    }
    for forward in &network.forwards {
        note("udp forward", forward.transport == Transport::Udp);
        note("IPv6 forward", forward.to.iter().any(std::net::IpAddr::is_ipv6));
        note("forward of every address", forward.address.is_none());
        note("forward of one address", forward.address.is_some_and(|a| a.is_ipv4()));
        note("forward of one IPv6 address", forward.address.is_some_and(|a| a.is_ipv6()));
        note("range that keeps its ports", !forward.ports.is_single() && forward.keeps_ports());
        note("range that shifts", !forward.ports.is_single() && !forward.keeps_ports());
        note("clients", !forward.sources.is_empty());
        note("no hairpin", !forward.hairpin);
        let twice = network.forwards.iter().filter(|other| other.ports == forward.ports).count() > 1;
        note("a port on two addresses", twice);
    }
    found
}

#[test]
fn every_sort_of_network_comes_up() {
    let mut runner = TestRunner::deterministic();
    let strategy = common::networks();
    let mut found = BTreeSet::new();
    for _ in 0..2000 {
        found.extend(traits(&strategy.new_tree(&mut runner).unwrap().current()));
    }
    assert_eq!(found.len(), 36, "{found:?}");
}

#[test]
fn networks_shrink_to_the_simplest() {
    let mut runner = TestRunner::deterministic();
    let strategy = common::networks();
    for _ in 0..20 {
        let mut tree = strategy.new_tree(&mut runner).unwrap();
        while tree.simplify() {}
        let network = tree.current();
        assert_eq!((network.lans.len(), network.guests.len(), network.forwards.len()), (1, 0, 0));
        assert_eq!(network.lans[0].mode, Mode::Nat);
    }
}
