//! Random valid networks, for every test that wants to hold for all of them.
//!
//! A [`network`] is made from small numbers ([`Sketch`]), each of which shrinks towards the simplest network that
//! there is: one nat LAN with IPv4, no guests, no forwards. Whatever the numbers are, what comes out is valid:
//! names, ports and addresses are counted, not drawn.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // Each test uses a part of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::address::{IfName, Mac, Ports, Transport};
use model::foreign::{Layer, Mend, TRUSTED, Way};
use model::network::{
    Allow, Answers, Balance, Dmz, Entry, Forward, Guest, GuestKind, Health, Ipv6Forwarding, Kept, Lan, Limit, Mode,
    Network, Outer, Outward, ProxyProtocol, Public, Side, Site, Snat, Tap, Tls, Uplink, Upstream, is_ula,
};
use model::ruleset::evaluate::{Interface, Place};
use proptest::prelude::*;

mod lans;
use lans::{build_lan, build_mends};

/// What a network is made from.
#[derive(Clone, Debug)]
pub struct Sketch {
    public: u8,
    lans: Vec<LanSketch>,
    guests: Vec<GuestSketch>,
    forwards: Vec<ForwardSketch>,
    allows: Vec<AllowSketch>,
    uplink_present: bool,
    /// 0 none, 1 on one public address where some are listed, 2 on every one.
    sites: u8,
}

#[derive(Clone, Debug)]
struct LanSketch {
    /// 0 and 1 nat, 2 isolated, 3 routed, 4 bridged.
    mode: u8,
    /// routed: whether the host answers on the uplink for its guests. bridged: whether it has the uplink as its port.
    answers: bool,
    /// 0 only IPv4, 1 both, 2 only IPv6.
    families: u8,
    global6: bool,
    second4: bool,
    /// Which of the public addresses it leaves by; masquerade where there is none so far.
    snat: u8,
    tap: bool,
    nat66: bool,
    egress_denied: bool,
    ingress_allowed: bool,
    apart: bool,
    carved: bool,
}

/// From whom and to whom: 0 to 3 a LAN, 4 to 9 a guest, 10 the world, 11 another network, 12 a part of the world.
#[derive(Clone, Debug)]
struct AllowSketch {
    from: Vec<(u8, prop::sample::Index)>,
    to: Vec<(u8, prop::sample::Index)>,
    ports: u8,
}

#[derive(Clone, Debug)]
struct GuestSketch {
    lan: prop::sample::Index,
    kind: u8,
    /// 0 what the LAN has, 1 without IPv6, 2 without IPv4.
    without: u8,
    second4: bool,
    /// 0 to 2 nothing more, 3 a further address of its LAN's, 4 a network behind it.
    allowed: u8,
    /// Which of the public addresses it leaves by, where it has one of its own.
    snat: u8,
    /// 0 to 2 no limit, 3 inward, 4 outward, 5 both.
    limit: u8,
    /// routed: an address of each family outside of its LAN's prefixes.
    alone: bool,
}

#[derive(Clone, Debug)]
struct ForwardSketch {
    guest: prop::sample::Index,
    udp: bool,
    /// Which of the public addresses it listens on; every one where there is none so far.
    address: u8,
    /// Whether it takes the port of the forward before it, at an address of its own.
    shares_port: bool,
    same_port: bool,
    /// How many ports more than one.
    more: u8,
    /// 0 and 1 everyone, 2 the neighbour's segment, 3 a client of the world's among others.
    sources: u8,
    hairpin: bool,
    /// Everything that is left.
    dmz: bool,
}

/// Networks of up to so many LANs, guests and forwards.
pub fn networks_up_to(lans: usize, guests: usize, forwards: usize) -> impl Strategy<Value = Network> {
    let lan = (0u8..5, 0u8..3, any::<bool>(), prop::bool::weighted(0.2), 0u8..4, any::<bool>());
    let rare = || prop::bool::weighted(0.2);
    let lan = (lan, (rare(), rare(), rare(), any::<bool>()), (prop::bool::weighted(0.3), any::<bool>()));
    let lan = lan.prop_map(|((mode, families, global6, second4, snat, tap), rest, (apart, carved))| {
        let (nat66, egress_denied, ingress_allowed, answers) = rest;
        LanSketch {
            mode,
            answers,
            families,
            global6,
            second4,
            snat,
            tap,
            nat66,
            egress_denied,
            ingress_allowed,
            apart,
            carved,
        }
    });
    let side = || prop::collection::vec((0u8..13, any::<prop::sample::Index>()), 1..3);
    let allow = (side(), side(), 0u8..4).prop_map(|(from, to, ports)| AllowSketch { from, to, ports });
    let guest = (any::<prop::sample::Index>(), 0u8..3, 0u8..3, rare(), 0u8..5, 0u8..9, any::<bool>());
    let guest = (guest, 0u8..6).prop_map(|((lan, kind, without, second4, allowed, snat, alone), limit)| GuestSketch {
        alone,
        lan,
        kind,
        without,
        second4,
        allowed,
        snat,
        limit,
    });
    let forward = (any::<prop::sample::Index>(), any::<bool>(), 0u8..5, any::<bool>(), any::<bool>());
    let more = (prop_oneof![2 => Just(0u8), 1 => 1u8..5], 0u8..4, prop::bool::weighted(0.8), prop::bool::weighted(0.3));
    let forward =
        (forward, more).prop_map(|((guest, udp, address, shares_port, same_port), (more, sources, hairpin, dmz))| {
            ForwardSketch {
                guest,
                udp,
                address,
                shares_port,
                same_port,
                more,
                sources,
                // Its opposite is the rarer, and shrinks to the usual.
                hairpin,
                dmz,
            }
        });
    let parts = (
        0u8..6,
        prop::collection::vec(lan, 1..=lans),
        prop::collection::vec(guest, 0..=guests),
        prop::collection::vec(forward, 0..=forwards),
        prop::bool::weighted(0.9),
        prop::collection::vec(allow, 0..=3),
        0u8..3,
    );
    parts.prop_map(|(public, lans, guests, forwards, uplink_present, allows, sites)| {
        build(&Sketch { public, lans, guests, forwards, allows, uplink_present, sites })
    })
}

/// Networks of every sort that can be carried now.
pub fn networks() -> impl Strategy<Value = Network> {
    networks_up_to(4, 8, 6)
}

/// The addresses that the uplink of a random network can be given: the world's side.
pub fn uplink_addresses() -> Vec<IpNet> {
    ["203.0.113.2/24", "2001:db8:ffff::2/64"].map(|net| net.parse().unwrap()).to_vec()
}

/// Where the world reaches the server: what is listed, or what the uplink has.
pub fn public_addresses(network: &Network) -> Vec<IpAddr> {
    match &network.public {
        Public::Listed(listed) => listed.clone(),
        Public::Dynamic => uplink_addresses().iter().map(IpNet::addr).collect(),
    }
}

/// The host on which the network is up, with another network of its own (`docker0`) beside it.
pub fn place(network: &Network, br_netfilter: bool) -> Place {
    let mut place = Place::of(network, &uplink_addresses());
    place.br_netfilter = br_netfilter;
    place.interfaces.push(Interface {
        name: name("docker0"),
        mac: Mac::derived(&["docker0"]),
        addresses: ["172.17.0.1/16", "fd00:d0c::1/64"].map(|net| net.parse().unwrap()).to_vec(),
        behind: Vec::new(),
        ports: Vec::new(),
    });
    place
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// Listed addresses: the first two are the uplink's own, the third is one that the host need not hold.
const LISTED: [&str; 3] = ["203.0.113.2", "2001:db8:ffff::2", "203.0.113.3"];

fn build(sketch: &Sketch) -> Network {
    let listed = |which: &[usize]| Public::Listed(which.iter().map(|i| LISTED[*i].parse().unwrap()).collect());
    let public = match sketch.public {
        0 => listed(&[0]),
        1 => Public::Dynamic,
        2 => listed(&[0, 1]),
        3 => listed(&[0, 1, 2]),
        4 => listed(&[2, 0]),
        _ => listed(&[1]),
    };
    let mut sketches = sketch.lans.clone();
    // The uplink is plugged in once, where it is there at all.
    let mut free = sketch.uplink_present;
    for lan in sketches.iter_mut().filter(|lan| lan.mode == 4) {
        lan.answers &= free;
        free &= !lan.answers;
    }
    let lans: Vec<Lan> = sketches.iter().enumerate().map(|(nth, lan)| build_lan(nth, lan, &public)).collect();
    let plays = lans.iter().find(|lan| lan.carries().is_some_and(|port| port.as_str() == "eth0"));
    let uplink = plays.map_or_else(|| name("eth0"), |lan| lan.bridge.clone());
    let guests: Vec<Guest> =
        sketch.guests.iter().enumerate().map(|(nth, g)| build_guest(nth, g, &lans, &public)).collect();
    let (forwards, dmzs) = build_forwards(&sketch.forwards, &guests, &lans, &public);
    let allows = sketch.allows.iter().filter_map(|allow| build_allow(allow, &lans, &guests)).collect();
    let sites = build_sites(sketch.sites, &public);
    let host_keeps = if dmzs.is_empty() { Vec::new() } else { kept(&public, &sites) };
    let mends = build_mends(&sketch.lans, &lans);
    let six = lans.iter().any(|lan| lan.meets_world() && lan.gateway6().is_some());
    Network {
        uplink: Uplink { name: uplink, present: sketch.uplink_present },
        public,
        lans,
        guests,
        forwards,
        allows,
        kept: host_keeps,
        dmzs,
        sites,
        http: model::network::Http::default(),
        acme: None,
        socks: None,
        hosts_resolver: true,
        web: None,
        ipv6_forwarding: if six { Ipv6Forwarding::PerInterface } else { Ipv6Forwarding::Off },
        learners: Vec::new(),
        reach: Vec::new(),
        fix_foreign: !mends.is_empty(),
        mends,
    }
}

/// Rates that differ from guest to guest, so that a changed file changes some.
fn limit(sketch: &GuestSketch, guest: &str) -> Option<Limit> {
    let rate = 1_000_000 * guest.len() as u64 + 1000 * u64::from(sketch.snat);
    let outward = (sketch.limit > 3).then(|| Outward { rate: 2 * rate, through: name(&format!("i-{guest}")) });
    let inward = matches!(sketch.limit, 3 | 5).then_some(rate);
    let limited = sketch.limit > 2 && sketch.kind < 2;
    limited.then_some(Limit { inward, outward })
}

fn build_guest(nth: usize, sketch: &GuestSketch, lans: &[Lan], public: &Public) -> Guest {
    let lan = sketch.lan.get(lans);
    let own = u8::try_from(nth + 10).unwrap();
    let with_host = |net: &IpNet| match net.addr() {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            IpAddr::from([x, y, z, own])
        }
        IpAddr::V6(a) => {
            let mut segments = a.segments();
            segments[7] = u16::from(own);
            IpAddr::from(segments)
        }
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for net in &lan.held() {
        let another4 = net.addr().is_ipv4() && addresses.iter().any(IpAddr::is_ipv4);
        if !another4 || sketch.second4 {
            addresses.push(with_host(net));
        }
    }
    if sketch.alone && lan.mode == Mode::Routed {
        let six = lan.gateway6().map(|_| IpAddr::from([0x2001, 0xdb8, 0x200, 0, 0, 0, 0, u16::from(own)]));
        let four = lan.gateway4().map(|_| IpAddr::from([198, 51, 200, own]));
        addresses.extend(four.into_iter().chain(six));
    }
    // Only where something is left.
    let keep: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|address| match sketch.without {
            0 => true,
            1 => address.is_ipv4(),
            _ => address.is_ipv6(),
        })
        .collect();
    let guest = format!("g{}", nth + 1);
    Guest {
        kind: match sketch.kind {
            0 => GuestKind::Netns,
            1 => GuestKind::Vm { owner: None },
            _ => GuestKind::Reserved,
        },
        lan: lan.bridge.clone(),
        mac: Mac::derived(&[lan.bridge.as_str(), &guest]),
        port: name(&format!("p-{guest}")),
        leased: false,
        aliases: Vec::new(),
        allowed: match sketch.allowed {
            3 => lan.held().iter().map(|net| further(net.addr(), own)).collect(),
            4 => vec![
                IpNet::new(Ipv4Addr::new(10, 9, own, 0).into(), 24).unwrap(),
                IpNet::new(Ipv6Addr::new(0xfd09, 0, 0, u16::from(own), 0, 0, 0, 0).into(), 64).unwrap(),
            ],
            _ => Vec::new(),
        },
        snat: match public {
            Public::Listed(listed) => listed.get(usize::from(sketch.snat)).copied(),
            Public::Dynamic => None,
        },
        addresses: if keep.is_empty() { addresses } else { keep },
        limit: limit(sketch, &guest),
        max_connections: 1000 + 500 * u32::from(sketch.snat),
        name: guest,
    }
}

/// Two further addresses beside that gateway's, the nth guest's alone.
fn further(gateway: IpAddr, own: u8) -> IpNet {
    match gateway {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            IpNet::new(Ipv4Addr::new(x, y, z, 100 + own * 2).into(), 31).unwrap()
        }
        IpAddr::V6(a) => {
            let mut segments = a.segments();
            segments[7] = 0x100 + u16::from(own) * 2;
            IpNet::new(Ipv6Addr::from(segments).into(), 127).unwrap()
        }
    }
}

/// What `resolve` would let through: no isolated LAN, and not the world on both sides.
fn build_allow(sketch: &AllowSketch, lans: &[Lan], guests: &[Guest]) -> Option<Allow> {
    let nat: Vec<&Lan> = lans.iter().filter(|lan| lan.meets_world()).collect();
    let inside: Vec<&Guest> = guests.iter().filter(|g| nat.iter().any(|lan| lan.bridge == g.lan)).collect();
    let side = |peers: &[(u8, prop::sample::Index)]| {
        let mut side = Side::default();
        for (kind, which) in peers {
            match kind {
                0..=3 if !nat.is_empty() => side.inside.extend(which.get(&nat).addresses.iter().map(IpNet::trunc)),
                4..=9 if !inside.is_empty() => {
                    let guest = which.get(&inside);
                    side.inside.extend(guest.addresses.iter().map(|a| IpNet::from(*a)));
                    side.inside.extend(&guest.allowed);
                }
                10 => side.world = true,
                11 => side.nets.extend(["172.17.0.0/16", "fd00:d0c::/64"].map(|net| net.parse::<IpNet>().unwrap())),
                12 => side.nets.extend(["198.51.100.0/24", "2001:db8:7::/48"].map(|net| net.parse::<IpNet>().unwrap())),
                _ => {}
            }
        }
        side
    };
    let (from, to) = (side(&sketch.from), side(&sketch.to));
    let ports = |first, last| Ports { first, last };
    let ports = match sketch.ports {
        0 | 1 => vec![],
        2 => vec![(Transport::Tcp, ports(20, 22)), (Transport::Tcp, ports(22, 30)), (Transport::Udp, ports(53, 53))],
        _ => vec![(Transport::Udp, ports(1, 65535))],
    };
    (from != Side::default() && to != Side::default()).then_some(Allow { from, to, ports })
}

/// One on every public address, one on the first that is listed, or none.
fn build_sites(which: u8, public: &Public) -> Vec<Site> {
    let site = |entries: Vec<Entry>| Site {
        hosts: vec!["www.example.org".to_owned()],
        path: "/".to_owned(),
        to: Vec::new(),
        redirect: Some("https://example.org/".to_owned()),
        balance: Balance::RoundRobin,
        health: Health::default(),
        tls: Tls::Off,
        entries,
        hsts: None,
        maintenance: None,
        proxy_protocol: ProxyProtocol::Off,
        upstream: Upstream::Http1,
    };
    let entry = |address, port| Entry { address, port };
    match (which, public) {
        (0, _) => Vec::new(),
        (1, Public::Listed(listed)) => vec![site(vec![entry(Some(listed[0]), 8443)])],
        _ => vec![site(vec![entry(None, 80), entry(None, 443)])],
    }
}

/// What a host keeps: sshd everywhere, a resolver on one address.
fn kept(public: &Public, sites: &[Site]) -> Vec<Kept> {
    let mut kept = vec![Kept { address: None, transport: Transport::Tcp, port: 22 }];
    let entries = sites.iter().flat_map(|site| &site.entries);
    kept.extend(entries.map(|entry| Kept { address: entry.address, transport: Transport::Tcp, port: entry.port }));
    if let Public::Listed(listed) = public {
        kept.push(Kept { address: Some(listed[0]), transport: Transport::Udp, port: 53 });
    }
    kept
}

/// Clients of the world's that may come to a forward: with overlaps, as people write them.
pub fn some_clients(which: u8) -> Vec<IpNet> {
    let nets: &[&str] = match which {
        2 => &["203.0.113.0/24", "203.0.113.9/32", "2001:db8:ffff::/64"],
        3 => &["198.51.100.0/25", "192.0.2.1/32", "2001:db8:7::/48"],
        _ => &[],
    };
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn build_forwards(
    sketches: &[ForwardSketch],
    guests: &[Guest],
    lans: &[Lan],
    public: &Public,
) -> (Vec<Forward>, Vec<Dmz>) {
    let inside: Vec<&Guest> =
        guests.iter().filter(|guest| lans.iter().any(|lan| lan.bridge == guest.lan && lan.meets_world())).collect();
    if inside.is_empty() {
        return (Vec::new(), Vec::new());
    }
    // What a dynamic public address is, nobody can listen on by name: a forward of one address lists it.
    let listed: &[IpAddr] = match public {
        Public::Listed(listed) => listed,
        Public::Dynamic => &[],
    };
    let mut forwards: Vec<Forward> = Vec::new();
    let mut dmzs: Vec<Dmz> = Vec::new();
    for (nth, sketch) in sketches.iter().enumerate() {
        let guest = *sketch.guest.get(&inside);
        let first = |v4: bool| guest.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        let mut to: Vec<IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
        let address = usize::from(sketch.address)
            .checked_sub(2)
            .and_then(|which| listed.get(which))
            .copied()
            .filter(|address| to.iter().any(|to| to.is_ipv4() == address.is_ipv4()));
        if let Some(address) = address {
            to.retain(|to| to.is_ipv4() == address.is_ipv4());
        }
        let sources = some_clients(sketch.sources);
        if sketch.dmz {
            // One for every address, or one for each of several.
            let free = dmzs.iter().all(|dmz| dmz.address.is_some() && address.is_some() && dmz.address != address);
            if free {
                let (guest, lan, hairpin) = (Some(guest.name.clone()), guest.lan.clone(), sketch.hairpin);
                dmzs.push(Dmz { address, to, guest, lan, sources, hairpin });
            }
            continue;
        }
        let counted = 20000 + 10 * u16::try_from(nth).unwrap();
        let transport = if sketch.udp { Transport::Udp } else { Transport::Tcp };
        // A port can stand twice: on different addresses.
        let port = match forwards.last() {
            Some(before)
                if sketch.shares_port
                    && before.transport == transport
                    && sketch.more == 0
                    && before.ports.is_single()
                    && !forwards.iter().any(|f| f.ports == before.ports && f.address == address) =>
            {
                before.ports.first
            }
            _ => counted,
        };
        forwards.push(Forward {
            address,
            transport,
            ports: Ports { first: port, last: port + u16::from(sketch.more) },
            to,
            to_port: if sketch.same_port { port } else { 22 },
            guest: Some(guest.name.clone()),
            lan: guest.lan.clone(),
            sources,
            hairpin: sketch.hairpin,
        });
    }
    (forwards, dmzs)
}

/// What must hold of every network that `resolve` lets through, as far as the generator is concerned.
pub fn assert_valid(network: &Network) {
    let mut addresses: Vec<IpAddr> = network.lans.iter().flat_map(|lan| &lan.addresses).map(IpNet::addr).collect();
    addresses.extend(network.guests.iter().flat_map(|guest| &guest.addresses));
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "each address stands once");
    for guest in &network.guests {
        let lan = network.lan(&guest.lan).expect("a guest's LAN is there");
        assert!(!guest.addresses.is_empty());
        let placed = |address: &IpAddr| lan.prefix_of(*address).is_some() || lan.mode == Mode::Routed;
        assert!(guest.addresses.iter().all(placed));
    }
    for lan in &network.lans {
        assert!(!lan.held().is_empty());
        for (snat, six) in [(lan.snat4, false), (lan.snat6, true)] {
            assert!(!matches!(snat, Snat::To(address) if address.is_ipv6() != six));
        }
    }
    for (nth, forward) in network.forwards.iter().enumerate() {
        assert!(network.lan(&forward.lan).is_some_and(Lan::meets_world));
        assert!(!forward.to.is_empty());
        assert!(network.forwards[..nth].iter().all(|other| {
            other.transport != forward.transport
                || other.address != forward.address
                || !other.ports.overlaps(forward.ports)
        }));
    }
}

/// Whether an address leaves by IPv6 as it is.
pub fn is_global6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if !is_ula(a))
}
