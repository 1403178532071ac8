//! The stand-in world in the kernel, tried with tools that are not ours.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Instant;

use kernel::netns::Netns;
use lab::{Lab, LabPlan, Prober};
use model::address::{IfName, Mac};
use model::network::{
    Backend, Balance, Entry, Guest, GuestKind, Health, Http, Ipv6Forwarding, Lan, Mode, Network, ProxyProtocol, Public,
    Reach, Site, Snat, Tap, Tls, Uplink, Upstream,
};
use model::probe::{Expect, Packet, PacketKind, Probe, Spot};

mod common;
use common::{must, tool};

fn main() -> ExitCode {
    common::main(&[
        ("everybody_reaches_everybody", everybody_reaches_everybody),
        ("addresses_elsewhere_are_reached", addresses_elsewhere_are_reached),
        ("private_subnets_are_sent_at_the_server", private_subnets_are_sent_at_the_server),
        ("nothing_is_left", nothing_is_left),
        ("guests_may_be_called_like_the_lab", guests_may_be_called_like_the_lab),
        ("stand_ins_are_told", stand_ins_are_told),
        ("a_person_can_step_in", a_person_can_step_in),
    ])
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guest(name: &str, kind: GuestKind, addresses: &[&str]) -> Guest {
    Guest {
        name: name.to_owned(),
        kind,
        lan: self::name("br1"),
        mac: Mac::derived(&["br1", name]),
        port: self::name(name),
        leased: false,
        aliases: Vec::new(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        allowed: Vec::new(),
        snat: None,
        limit: None,
        max_connections: 65536,
    }
}

/// The seed's network, with IPv6 beside it where it is asked for.
fn network(public: &[&str], v6: bool) -> Network {
    let mut addresses = vec!["10.1.1.1/24".parse().unwrap()];
    if v6 {
        addresses.push("fd00:1:1::1/64".parse().unwrap());
    }
    let lan = Lan {
        bridge: name("br1"),
        mode: Mode::Nat,
        mac: Mac::derived(&["br1"]),
        mtu: 1500,
        addresses,
        taps: vec![Tap { name: name("tap0"), owner: Some("nobody-of-that-name".to_owned()), group: None }],
        domain: "br1.internal".to_owned(),
        dns: vec![ip("128.42.178.32"), ip("128.42.209.32")],
        dhcp: None,
        snat4: Snat::Masquerade,
        snat6: Snat::Masquerade,
        nat66: false,
        egress_denied: false,
        ingress_allowed: false,
        outer: None,
        port_isolation: false,
        answers: model::network::Answers::default(),
    };
    let listed: Vec<IpAddr> = public.iter().map(|a| ip(a)).collect();
    Network {
        uplink: Uplink { name: name("eth0"), present: true },
        public: if listed.is_empty() { Public::Dynamic } else { Public::Listed(listed) },
        lans: vec![lan],
        guests: vec![
            guest("cnx6", GuestKind::Lxc(Box::default()), &["10.1.1.6"]),
            guest("cnx7", GuestKind::Vm { owner: None }, &[]),
            guest("cnx8", GuestKind::Reserved, &[]),
        ],
        forwards: Vec::new(),
        allows: Vec::new(),
        dmzs: Vec::new(),
        kept: Vec::new(),
        sites: vec![site()],
        http: Http::default(),
        acme: None,
        socks: Some(model::network::Socks {
            listen: vec!["127.0.0.1:1080".parse().unwrap()],
            lans: None,
            resolvers: vec![],
        }),
        hosts_resolver: true,
        web: None,
        ipv6_forwarding: Ipv6Forwarding::Off,
        learners: Vec::new(),
        reach: vec![Reach { host: "198.51.100.7".to_owned(), address: Some(ip("198.51.100.7")), port: None }],
        fix_foreign: false,
        mends: Vec::new(),
    }
}

fn site() -> Site {
    Site {
        hosts: vec!["cnx.example.org".to_owned()],
        path: "/".to_owned(),
        to: vec![Backend { guest: "cnx6".to_owned(), port: 80 }],
        redirect: None,
        balance: Balance::RoundRobin,
        health: Health::default(),
        tls: Tls::Off,
        entries: vec![Entry { address: None, port: 80 }],
        hsts: None,
        maintenance: None,
        proxy_protocol: ProxyProtocol::Off,
        upstream: Upstream::Http1,
    }
}

fn build(network: &Network) -> Lab {
    let start = Instant::now();
    let lab = Lab::build(LabPlan::of(network).unwrap()).unwrap();
    println!("     built in {:.1?}", start.elapsed());
    lab
}

fn ping(from: &Netns, to: &str) {
    must(from, &format!("ping -n -c 1 -W 1 {to}"));
}

fn everybody_reaches_everybody() {
    let lab = build(&network(&["128.42.169.25"], true));
    ping(lab.world(), "128.42.169.25");
    ping(lab.neighbour(), "128.42.169.25");
    for to in ["128.42.178.32", "128.42.209.32", "198.51.100.7", "128.42.169.1", "128.42.169.2"] {
        ping(lab.server(), to);
    }
    ping(lab.world(), "2001:db8:113::2");
    ping(lab.neighbour(), "2001:db8:113::2");
    ping(lab.server(), "2001:db8:100::7");
    ping(lab.neighbour(), "198.51.100.7");
    let view = lab.view();
    assert!(view.outside);
    assert_eq!(view.world, [ip("198.51.100.7"), ip("2001:db8:100::7")]);
    assert_eq!(view.public, [ip("128.42.169.25")]);
    // What the world sends comes from the client beyond the router.
    let expect = |source| Expect::Arrives { at: Spot::Host, address: None, port: None, source: Some(source) };
    let probes =
        [("128.42.169.25", "198.51.100.7"), ("2001:db8:113::2", "2001:db8:100::7")].map(|(to, source)| Probe {
            name: to.to_owned(),
            row: String::new(),
            from: Spot::World,
            packet: Packet { to: ip(to), kind: PacketKind::Tcp(22) },
            expect: expect(ip(source)),
        });
    let mut prober = Prober::open(&lab.vantages(&network(&[], false)).unwrap()).unwrap();
    for outcome in prober.run(&probes).unwrap() {
        assert!(outcome.held && outcome.nothing_listens, "{outcome:?}");
    }
}

fn addresses_elsewhere_are_reached() {
    let lab = build(&network(&["203.0.113.9", "192.0.2.77", "2001:db8:9::1"], true));
    for to in ["203.0.113.9", "192.0.2.77", "2001:db8:9::1"] {
        ping(lab.world(), to);
        ping(lab.neighbour(), to);
    }
    ping(lab.server(), "198.51.100.7");
    let lab_without = {
        drop(lab);
        build(&network(&[], false))
    };
    ping(lab_without.world(), "203.0.113.2");
    assert_eq!(lab_without.view().public, [ip("203.0.113.2")]);
    assert!(!must(lab_without.server(), "ip -6 route").contains("default"));
}

fn private_subnets_are_sent_at_the_server() {
    let network = network(&["128.42.169.25"], true);
    let lab = build(&network);
    // The server would pass them on, were it to forward, and its own address on the LAN is in reach.
    must(lab.server(), "ip link add br1 type bridge");
    must(lab.server(), "ip address add 10.1.1.1/24 dev br1");
    must(lab.server(), "ip address add fd00:1:1::1/64 dev br1 nodad");
    must(lab.server(), "ip link set br1 up");
    let mut prober = Prober::open(&lab.vantages(&network).unwrap()).unwrap();
    let mut probes = Vec::new();
    for from in [Spot::World, Spot::Neighbour] {
        for to in ["10.1.1.1", "fd00:1:1::1"] {
            let packet = Packet { to: ip(to), kind: PacketKind::Udp(53) };
            let expect = Expect::Blocked { at: vec![Spot::Host] };
            probes.push(Probe { name: to.to_owned(), row: String::new(), from: from.clone(), packet, expect });
        }
    }
    for outcome in prober.run(&probes).unwrap() {
        assert!(!outcome.held && outcome.seen.starts_with("leaked: seen at host:53"), "{outcome:?}");
    }
    assert_eq!(must(lab.server(), "sysctl -n net.ipv4.ip_forward").trim(), "0");
}

fn nothing_is_left() {
    let lab = build(&network(&[], true));
    assert_eq!(Netns::list().unwrap(), ["neighbour", "server", "world"]);
    let marked = [lab.server(), lab.world(), lab.neighbour()].map(|n| n.guest().unwrap());
    assert_eq!(marked, [None, None, None], "they must not look like guests");
    assert!(!must(lab.server(), "ip -d link show eth0").contains("alias"));
    assert!(must(lab.server(), "nft list ruleset").is_empty());
    drop(lab);
    assert_eq!(Netns::list().unwrap(), Vec::<String>::new());
    // A failure on the way leaves nothing either: the name is taken.
    let taken = Netns::create("neighbour").unwrap();
    assert!(Lab::build(LabPlan::of(&network(&[], true)).unwrap()).is_err());
    assert_eq!(Netns::list().unwrap(), ["neighbour"]);
    drop(taken);
    Netns::delete("neighbour").unwrap();
}

fn guests_may_be_called_like_the_lab() {
    let mut network = network(&[], false);
    network.guests[0].name = "server".to_owned();
    let lab = build(&network);
    assert_eq!(Netns::list().unwrap(), ["lab-server", "neighbour", "world"]);
    assert!(lab.step_in(1, "server").ends_with("/run/netns/lab-server"));
}

fn stand_ins_are_told() {
    let mut network = network(&[], true);
    let said = Lab::stand_in(&mut network);
    let told = |words: &str| assert!(said.iter().any(|s| s.contains(words)), "{words}: {said:#?}");
    told("cnx6: a network namespace stands in for its container");
    told("cnx7: a network namespace stands in for its machine and tap");
    told("cnx8: a network namespace stands in for what will be plugged in");
    told("cnx7: 10.1.1.2 stands in for the address that it will be leased");
    told("cnx8: 10.1.1.3 stands in");
    told("cnx.example.org");
    told("socks");
    told("tap tap0");
    assert!(network.guests.iter().all(|g| g.kind == GuestKind::Netns));
    assert_eq!(network.guests[1].addresses, [ip("10.1.1.2"), ip("fd00:1:1::2")]);
    assert_eq!(network.guests[0].addresses, [ip("10.1.1.6")]);
    assert!(network.lans[0].taps.iter().all(|t| t.owner.is_none()));
}

fn a_person_can_step_in() {
    let lab = build(&network(&["128.42.169.25"], false));
    let line = lab.step_in(std::process::id(), "server");
    // We are inside already, where a second change of user namespace is refused (setns(2)).
    let line = line.replace(" --user --preserve-credentials", "");
    let (ok, text) = tool(lab.world(), &format!("{line} ip -o address show eth0"));
    assert!(ok && text.contains("128.42.169.25/24"), "{text}");
}
