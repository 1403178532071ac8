//! Probes: goldens of networks made by hand, and what holds for random ones: whoever sends the packets of a network
//! that its own ruleset carries sees what the probes expect.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use model::address::{IfName, Mac, Ports, Transport};
use model::network::{Answers, Forward, Guest, GuestKind, Ipv6Forwarding, Lan, Mode, Network, Public, Snat, Uplink};
use model::probe::{Content, Expect, PacketKind, Probe, Spot, View, derive};
use model::ruleset::evaluate::{Body, Flow, Origin, Outcome, Packet, Payload, evaluate};
use model::ruleset::{Table, build};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn lan(bridge: &str, mode: Mode, addresses: &[&str], snat4: Snat, snat6: Snat) -> Lan {
    Lan {
        bridge: name(bridge),
        mode,
        mac: Mac::derived(&[bridge]),
        mtu: 1500,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        taps: Vec::new(),
        domain: format!("{bridge}.internal"),
        dns: Vec::new(),
        dhcp: None,
        snat4,
        snat6,
        nat66: false,
        egress_denied: false,
        ingress_allowed: false,
        outer: None,
        port_isolation: false,
        answers: Answers::default(),
    }
}

fn guest(text: &str, bridge: &str, kind: GuestKind, addresses: &[&str]) -> Guest {
    Guest {
        name: text.to_owned(),
        kind,
        lan: name(bridge),
        mac: Mac::derived(&[bridge, text]),
        port: name(&format!("p-{text}")),
        leased: false,
        aliases: Vec::new(),
        addresses: ips(addresses),
        allowed: Vec::new(),
        snat: None,
        limit: None,
        max_connections: 65536,
    }
}

fn forward(address: Option<&str>, transport: Transport, ports: (u16, u16), to: (&Guest, u16)) -> Forward {
    let address = address.map(ip);
    let of_family = |to: &IpAddr| address.is_none_or(|address| address.is_ipv4() == to.is_ipv4());
    Forward {
        address,
        transport,
        ports: Ports { first: ports.0, last: ports.1 },
        to: to.0.addresses.iter().copied().filter(of_family).collect(),
        to_port: to.1,
        guest: Some(to.0.name.clone()),
        lan: to.0.lan.clone(),
        sources: Vec::new(),
        hairpin: true,
    }
}

fn network(public: Public, lans: Vec<Lan>, guests: Vec<Guest>, forwards: Vec<Forward>) -> Network {
    Network {
        uplink: Uplink { name: name("eth0"), present: true },
        public,
        lans,
        guests,
        forwards,
        allows: Vec::new(),
        dmzs: Vec::new(),
        kept: Vec::new(),
        sites: Vec::new(),
        http: model::network::Http::default(),
        acme: None,
        socks: None,
        hosts_resolver: true,
        web: None,
        ipv6_forwarding: Ipv6Forwarding::PerInterface,
        learners: Vec::new(),
        reach: Vec::new(),
        fix_foreign: false,
        mends: Vec::new(),
    }
}

/// The seed's network: one LAN, two containers, a forward to each.
fn seed() -> Network {
    let public = ip("128.42.169.25");
    let guests =
        ["cnx6", "cnx7"].map(|g| guest(g, "br1", GuestKind::Lxc(Box::default()), &[&format!("10.1.1.{}", &g[3..])]));
    let forwards = vec![
        forward(None, Transport::Tcp, (22210, 22210), (&guests[0], 22)),
        forward(None, Transport::Tcp, (22217, 22217), (&guests[1], 22)),
    ];
    let lans = vec![lan("br1", Mode::Nat, &["10.1.1.1/24"], Snat::To(public), Snat::Masquerade)];
    network(Public::Listed(vec![public]), lans, guests.to_vec(), forwards)
}

/// A nat LAN and an isolated one, both families, several public addresses, one of which the host does not hold.
fn two_lans() -> Network {
    let public = ips(&["203.0.113.2", "203.0.113.3", "2001:db8:ffff::2"]);
    let guests = vec![
        guest("web", "br1", GuestKind::Netns, &["10.1.1.10", "fd00:1::10"]),
        guest("db", "br1", GuestKind::Vm { owner: None }, &["10.1.1.11"]),
        guest("vault", "br2", GuestKind::Netns, &["10.1.2.10", "fd00:2::10"]),
    ];
    let forwards = vec![
        forward(None, Transport::Tcp, (443, 443), (&guests[0], 8443)),
        forward(Some("203.0.113.3"), Transport::Udp, (5000, 5010), (&guests[1], 5000)),
        forward(Some("2001:db8:ffff::2"), Transport::Tcp, (22, 22), (&guests[0], 22)),
    ];
    let to = |which: usize| Snat::To(public[which]);
    let lans = vec![
        lan("br1", Mode::Nat, &["10.1.1.1/24", "fd00:1::1/64"], to(1), to(2)),
        lan("br2", Mode::Isolated, &["10.1.2.1/24", "fd00:2::1/64"], Snat::Keep, Snat::Keep),
    ];
    network(Public::Listed(public), lans, guests, forwards)
}

/// A changing public address and global IPv6.
fn dynamic() -> Network {
    let guests = vec![
        guest("a", "br1", GuestKind::Netns, &["10.1.1.10", "2001:db8:100::10"]),
        guest("b", "br2", GuestKind::Reserved, &["10.1.2.10"]),
    ];
    let forwards = vec![forward(None, Transport::Udp, (53, 53), (&guests[0], 53))];
    let lans = vec![
        lan("br1", Mode::Nat, &["10.1.1.1/24", "2001:db8:100::1/64"], Snat::Masquerade, Snat::Masquerade),
        lan("br2", Mode::Nat, &["10.1.2.1/24"], Snat::Masquerade, Snat::Masquerade),
    ];
    network(Public::Dynamic, lans, guests, forwards)
}

/// A lab whose uplink holds these addresses.
fn lab(public: &[&str]) -> View {
    View {
        world: ips(&["198.51.100.7", "2001:db8:7::7"]),
        neighbour: ips(&["203.0.113.9", "2001:db8:ffff::9"]),
        outside: true,
        public: ips(public),
        uplink_mac: Some(Mac::derived(&["uplink"])),
    }
}

fn print(probes: &[Probe]) -> String {
    let spot = |spot: &Spot| match spot {
        Spot::Host => "host".to_owned(),
        Spot::Guest(name) => format!("guest {name}"),
        Spot::World => "world".to_owned(),
        Spot::Neighbour => "neighbour".to_owned(),
    };
    let mut text = String::new();
    for probe in probes {
        let to = probe.packet.to;
        let packet = match probe.packet.kind {
            PacketKind::Tcp(port) => format!("tcp {to} port {port}"),
            PacketKind::Udp(port) => format!("udp {to} port {port}"),
            PacketKind::Echo => format!("echo {to}"),
            PacketKind::ArpWhoHas => format!("who has {to}"),
            PacketKind::Frame(frame) => format!("{to} {:?} from {}", frame.content, frame.ether_source),
        };
        let expect = match &probe.expect {
            Expect::Arrives { at, address, port, source } => {
                let mut words = format!("arrives at {}", spot(at));
                for (what, value) in [
                    ("to", address.map(|a| a.to_string())),
                    ("port", port.map(|p| p.to_string())),
                    ("from", source.map(|s| s.to_string())),
                ] {
                    if let Some(value) = value {
                        let _ = write!(words, " {what} {value}");
                    }
                }
                words
            }
            Expect::Blocked { at } => {
                format!("never seen at {}", at.iter().map(&spot).collect::<Vec<_>>().join(", "))
            }
            Expect::AnsweredBy { mac } => {
                format!("answered by {}", mac.map_or("nobody".to_owned(), |mac| mac.to_string()))
            }
        };
        let _ = writeln!(text, "{:18} {}", probe.row, probe.name);
        let _ = writeln!(text, "{:18} {}: {packet} -> {expect}", "", spot(&probe.from));
    }
    text
}

#[test]
#[allow(clippy::disallowed_methods)] // The goldens are files; it is the crate that is pure.
fn goldens() {
    let live = View { outside: false, neighbour: Vec::new(), ..lab(&["203.0.113.2", "2001:db8:ffff::2"]) };
    let cases = [
        ("seed", seed(), lab(&["128.42.169.25"])),
        ("two-lans", two_lans(), lab(&["203.0.113.2", "2001:db8:ffff::2"])),
        ("dynamic", dynamic(), lab(&["203.0.113.2", "2001:db8:ffff::2"])),
        ("two-lans-live", two_lans(), live),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes");
    let mut stale = Vec::new();
    for (case, network, view) in &cases {
        let seen = print(&derive(network, view));
        let file = folder.join(format!("{case}.txt"));
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &seen).unwrap();
        } else if std::fs::read_to_string(&file).ok().as_ref() != Some(&seen) {
            stale.push(format!("{}:\n{seen}", file.display()));
        }
    }
    assert!(stale.is_empty(), "UPDATE_GOLDENS=1 writes them anew:\n{}", stale.join("\n"));
}

#[test]
fn big_networks_are_asked_in_proportion() {
    let guests: Vec<Guest> = (0..200)
        .map(|nth| guest(&format!("g{nth}"), "br1", GuestKind::Netns, &[&format!("10.1.1.{}", nth + 10)]))
        .collect();
    let forwards: Vec<Forward> = (0..10_000u16)
        .map(|nth| forward(None, Transport::Tcp, (20_000 + nth, 20_000 + nth), (&guests[usize::from(nth) % 200], 22)))
        .collect();
    let lans = vec![lan("br1", Mode::Nat, &["10.1.1.1/16"], Snat::Masquerade, Snat::Masquerade)];
    let network = network(Public::Dynamic, lans, guests, forwards);
    let view = lab(&["203.0.113.2"]);
    let probes = derive(&network, &view);
    let of_row = |row: &str| probes.iter().filter(|probe| probe.row == row).count();
    assert!(of_row("W-G-forward") >= 10_000, "each forward is tried");
    assert!(of_row("G-W") >= 200 && of_row("H-G") == 200, "and each guest");
    assert!(probes.len() < 12_500, "{}", probes.len());
    assert_names(&probes);
}

fn assert_names(probes: &[Probe]) {
    let names: BTreeSet<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
    let twice = || {
        let mut seen = BTreeSet::new();
        probes.iter().map(|probe| &probe.name).filter(|name| !seen.insert(*name)).collect::<Vec<_>>()
    };
    assert_eq!(names.len(), probes.len(), "names that stand twice: {:?}", twice());
}

/// What the evaluation says of a probe; an error where it is not what the probe expects.
fn holds(network: &Network, tables: &[Table], probe: &Probe) -> Result<(), String> {
    let to = probe.packet.to;
    let (mut frame_source, mut frame_destination, mut frame_body) = (None, None, None);
    let payload = match probe.packet.kind {
        PacketKind::Tcp(port) => Payload::Ports { transport: Transport::Tcp, source: 40000, destination: port },
        PacketKind::Udp(port) => Payload::Ports { transport: Transport::Udp, source: 40000, destination: port },
        PacketKind::Echo => Payload::Icmp(if to.is_ipv4() { 8 } else { 128 }),
        PacketKind::ArpWhoHas => return Ok(()),
        PacketKind::Frame(frame) => {
            let ports = |source, destination| Payload::Ports { transport: Transport::Udp, source, destination };
            let ip = |source, payload| Body::Ip { source, destination: to, payload };
            frame_source = Some(frame.ether_source);
            frame_destination = Some(frame.ether_destination);
            frame_body = Some(match frame.content {
                Content::Datagram { source, port } => ip(source, ports(40000, port)),
                Content::Tagged { .. } => Body::Other(0x8100),
                Content::Claim { address: IpAddr::V4(sender) } => Body::Arp { sender_mac: frame.ether_source, sender },
                Content::Claim { address: IpAddr::V6(target) } => {
                    ip(IpAddr::V6(frame.ether_source.link_local()), Payload::Neighbour { advertises: true, target })
                }
                Content::Lease { source: source @ IpAddr::V4(_) } => ip(source, ports(67, 68)),
                Content::Lease { source } => ip(source, ports(547, 546)),
                Content::Route { source } => ip(source.into(), Payload::Icmp(134)),
            });
            // What it carries stands in the body.
            Payload::Other(0)
        }
    };
    let like = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
    let outside = lab(&[]);
    let (origin, source, ether_destination) = match &probe.from {
        Spot::Host => {
            let held = network.lans.iter().flat_map(Lan::held).filter(|net| net.contains(&to));
            let on_lan = held.max_by_key(IpNet::prefix_len);
            let uplink = common::uplink_addresses().iter().map(IpNet::addr).find(like).unwrap();
            (Origin::Host, on_lan.map_or(uplink, |net| net.addr()), Mac([0; 6]))
        }
        Spot::Guest(name) => {
            let guest = network.guest(name).unwrap();
            let lan = network.lan(&guest.lan).unwrap();
            // Neighbours that are kept apart are reached by the host.
            let mut beside = network.guests_of(lan).filter(|_| !lan.port_isolation || lan.is_bridged());
            let next = beside.find(|other| other.addresses.contains(&to)).map_or(lan.mac, |g| g.mac);
            (Origin::Port(guest.port.clone()), *guest.addresses.iter().find(|a| like(a)).unwrap(), next)
        }
        Spot::World => (
            Origin::Interface(network.uplink.name.clone()),
            *outside.world.iter().find(|a| like(a)).unwrap(),
            Mac([2; 6]),
        ),
        Spot::Neighbour => (
            Origin::Interface(network.uplink.name.clone()),
            *outside.neighbour.iter().find(|a| like(a)).unwrap(),
            Mac([2; 6]),
        ),
    };
    let ether_source = match &probe.from {
        Spot::Guest(name) => network.guest(name).unwrap().mac,
        _ => Mac([2; 6]),
    };
    let ether_source = frame_source.unwrap_or(ether_source);
    let ether_destination = frame_destination.unwrap_or(ether_destination);
    let body = frame_body.unwrap_or(Body::Ip { source, destination: to, payload });
    let packet = Packet { origin, ether_source, ether_destination, body, flow: Flow::NEW };
    let fate = evaluate(tables, &common::place(network, false), &packet).map_err(|fault| fault.to_string())?;
    let seen_at = |spot: &Spot| match (spot, &fate.outcome) {
        (Spot::Host, Outcome::Host) => true,
        (Spot::World | Spot::Neighbour, Outcome::Sent(oif)) => oif == &network.uplink.name,
        (Spot::Guest(name), Outcome::Sent(bridge) | Outcome::Bridged(bridge)) => {
            let guest = network.guest(name).unwrap();
            // A claim of ARP's has no destination of its own: it goes where the frame goes.
            let there = fate.body.destination().is_none_or(|to| guest.addresses.contains(&to));
            bridge == &guest.lan && there
        }
        _ => false,
    };
    let good = match &probe.expect {
        Expect::Arrives { at, address, port, source } => {
            seen_at(at)
                && address.is_none_or(|address| fate.body.destination() == Some(address))
                && port.is_none_or(|port| fate.body.port() == Some(port))
                && source.is_none_or(|source| match fate.body {
                    Body::Arp { sender, .. } => source == IpAddr::V4(sender),
                    Body::Ip { payload: Payload::Neighbour { target, .. }, .. } => source == IpAddr::V6(target),
                    _ => fate.body.source() == Some(source),
                })
        }
        Expect::Blocked { at } => !at.iter().any(seen_at),
        Expect::AnsweredBy { .. } => true,
    };
    if good { Ok(()) } else { Err(format!("{probe:?} is {fate:?}")) }
}

/// The rows of the document that probes stand for, beside those that are evaluated alone.
const ROWS: [&str; 23] = [
    "A-gateway",
    "A-guest",
    "A-public",
    "G-G-other",
    "G-G-same",
    "G-H-forward",
    "G-H-forward-other",
    "G-H-gateway",
    "G-H-gateway-other",
    "G-H-other",
    "G-W",
    "G-ethertype",
    "G-metadata",
    "G-rogue",
    "G-spoof-arp",
    "G-spoof-ip",
    "G-spoof-mac",
    "H-G",
    "H-G-forward",
    "W-G-direct",
    "W-G-forward",
    "W-H",
    "W-H-gateway",
];

#[test]
fn every_row_of_probes_is_one_of_the_document() {
    let document = include_str!("../../../docs/traffic.md");
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for network in [seed(), two_lans(), dynamic()] {
        seen.extend(derive(&network, &lab(&["203.0.113.2", "128.42.169.25"])).into_iter().map(|probe| probe.row));
    }
    for row in &seen {
        assert!(document.contains(&format!("\n| `{row}` |")), "docs/traffic.md has no row {row}");
    }
    let wanted: BTreeSet<String> = ROWS.iter().map(|row| (*row).to_owned()).collect();
    assert_eq!(seen, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_ruleset_of_a_network_gives_what_its_probes_expect(network in common::networks()) {
        let tables = build(&network);
        let view = lab(&["203.0.113.2", "2001:db8:ffff::2"]);
        let probes = derive(&network, &view);
        assert_names(&probes);
        prop_assert_eq!(&probes, &derive(&network, &view), "steady");
        for probe in &probes {
            prop_assert_eq!(holds(&network, &tables, probe), Ok(()));
        }
        // Of a live host nobody sends from outside, and nobody looks into machines.
        let live = View { outside: false, neighbour: Vec::new(), ..view };
        for probe in derive(&network, &live) {
            prop_assert!(!matches!(probe.from, Spot::World | Spot::Neighbour));
            if let Spot::Guest(name) = &probe.from {
                prop_assert_eq!(&network.guest(name).unwrap().kind, &GuestKind::Netns);
            }
            prop_assert_eq!(holds(&network, &tables, &probe), Ok(()));
        }
    }
}
