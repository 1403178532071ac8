//! The prober against real packets: a guest and a host with a cable between them, v4 and v6.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use lab::{Capture, Outcome, Prober, Vantage};
use model::address::Mac;
use model::probe::{Expect, Packet, PacketKind, Probe, Spot};

mod common;
use common::{must, tool};

fn main() -> ExitCode {
    common::main(&[
        ("packets_that_arrive", packets_that_arrive),
        ("what_listens_answers", what_listens_answers),
        ("blocked_by_a_rule", blocked_by_a_rule),
        ("leaks_are_seen", leaks_are_seen),
        ("wrong_ports_and_guests_are_named", wrong_ports_and_guests_are_named),
        ("delivered_is_behind_the_input_hook", delivered_is_behind_the_input_hook),
        ("rejected_and_refused_are_told_apart", rejected_and_refused_are_told_apart),
        ("who_has_an_address", who_has_an_address),
        ("hairpin_must_come_in_again", hairpin_must_come_in_again),
        ("leaving_counts_as_arrived", leaving_counts_as_arrived),
        ("many_probes_at_once_are_judged_alike", many_probes_at_once_are_judged_alike),
    ])
}

/// A host and a guest `cnx6`, joined by a cable, and the host's lo holding an outside address.
struct Pair {
    host: Netns,
    guest: Netns,
}

const HOST4: &str = "10.1.1.1";
const GUEST4: &str = "10.1.1.6";
const HOST6: &str = "fd00:1::1";
const GUEST6: &str = "fd00:1::6";
const PUBLIC: &str = "203.0.113.2";

fn pair() -> Pair {
    let (host, guest) = (Netns::unnamed("host").unwrap(), Netns::unnamed("cnx6").unwrap());
    plug(&host, &guest, "br1", HOST4, GUEST4, HOST6, GUEST6, "02:00:00:00:00:06");
    must(&host, &format!("ip address add {PUBLIC}/32 dev lo"));
    Pair { host, guest }
}

#[allow(clippy::too_many_arguments)]
fn plug(host: &Netns, guest: &Netns, near: &str, host4: &str, guest4: &str, host6: &str, guest6: &str, mac: &str) {
    // `ip` names namespaces by process or name: the guest's is named for the moment.
    let name = format!("peer-{near}");
    std::fs::create_dir_all("/run/netns").unwrap();
    std::fs::write(format!("/run/netns/{name}"), "").unwrap();
    let target = format!("/run/netns/{name}");
    guest.run(|| rustix::mount::mount_bind("/proc/thread-self/ns/net", target.as_str())).unwrap().unwrap();
    // Linux reports a veth's carrier at once only where both ends have different numbers (linkwatch_urgent_event: it
    // compares them without regard to namespaces), else up to a second later, and IPv6 waits for that.
    let index = 100 + near.bytes().map(u32::from).sum::<u32>();
    must(host, &format!("ip link add {near} index {index} type veth peer name eth0 address {mac} netns {name}"));
    must(host, &format!("ip address add {host4}/24 dev {near}"));
    must(host, &format!("ip address add {host6}/64 dev {near} nodad"));
    must(host, &format!("ip link set {near} up"));
    must(guest, &format!("ip address add {guest4}/24 dev eth0"));
    must(guest, &format!("ip address add {guest6}/64 dev eth0 nodad"));
    must(guest, "ip link set eth0 up");
    must(guest, &format!("ip route add default via {host4}"));
    must(guest, &format!("ip -6 route add default via {host6}"));
    // Addresses serve a moment later than they are there: asked again until answered, at most for 10 s.
    must(guest, &format!("ping -n -q -c 1 -w 10 {host4}"));
    must(guest, &format!("ping -n -q -c 1 -w 10 {host6}"));
    Netns::delete(&name).unwrap();
}

impl Pair {
    fn prober(&self) -> Prober {
        Prober::open(&[
            vantage(Spot::Host, &self.host, Capture::Delivered),
            vantage(cnx6(), &self.guest, Capture::Incoming),
        ])
        .unwrap()
    }
}

fn vantage(spot: Spot, netns: &Netns, capture: Capture) -> Vantage {
    Vantage { spot, netns: netns.try_clone().unwrap(), capture }
}

fn cnx6() -> Spot {
    Spot::Guest("cnx6".to_owned())
}

fn probe(from: Spot, to: &str, kind: PacketKind, expect: Expect) -> Probe {
    Probe { name: format!("{kind:?} to {to}"), row: String::new(), from, packet: Packet { to: ip(to), kind }, expect }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn arrives(at: Spot) -> Expect {
    Expect::Arrives { at, address: None, port: None, source: None }
}

fn blocked(at: &[Spot]) -> Expect {
    Expect::Blocked { at: at.to_vec() }
}

fn one(prober: &mut Prober, probe: Probe) -> Outcome {
    prober.run(&[probe]).unwrap().remove(0)
}

const KINDS: [PacketKind; 3] = [PacketKind::Tcp(22), PacketKind::Udp(53), PacketKind::Echo];

fn packets_that_arrive() {
    let pair = pair();
    let mut prober = pair.prober();
    let mut probes = Vec::new();
    for (from, at, to4, to6) in [(Spot::Host, cnx6(), GUEST4, GUEST6), (cnx6(), Spot::Host, HOST4, HOST6)] {
        for (to, source) in
            [(to4, if to4 == GUEST4 { HOST4 } else { GUEST4 }), (to6, if to6 == GUEST6 { HOST6 } else { GUEST6 })]
        {
            for kind in KINDS {
                let port = match kind {
                    PacketKind::Tcp(p) | PacketKind::Udp(p) => Some(p),
                    _ => None,
                };
                let expect = Expect::Arrives { at: at.clone(), address: Some(ip(to)), port, source: Some(ip(source)) };
                probes.push(probe(from.clone(), to, kind, expect));
            }
        }
    }
    let outcomes = prober.run(&probes).unwrap();
    for outcome in &outcomes {
        assert!(outcome.held, "{} {}", outcome.probe.name, outcome.seen);
        let ports = outcome.probe.packet.kind != PacketKind::Echo;
        assert_eq!(outcome.nothing_listens, ports, "{} {}", outcome.probe.name, outcome.seen);
        assert!(outcome.took.as_millis() < 100, "{outcome:?}");
    }
    assert_eq!(outcomes[0].seen, format!("arrived at cnx6:22 from {HOST4}; nothing listens there"));
    assert_eq!(outcomes[2].seen, format!("arrived at cnx6 from {HOST4}, answered"));
    // The other way round, a wrong expectation.
    let wrong = Expect::Arrives { at: cnx6(), address: None, port: None, source: Some(ip("10.1.1.99")) };
    let outcome = one(&mut prober, probe(Spot::Host, GUEST4, PacketKind::Tcp(22), wrong));
    assert!(!outcome.held);
    assert_eq!(outcome.seen, "arrived at cnx6:22 from 10.1.1.1, not from 10.1.1.99");
}

fn what_listens_answers() {
    let pair = pair();
    let mut prober = pair.prober();
    let open = || {
        [GUEST4, GUEST6].map(|a| {
            let udp = UdpSocket::bind(SocketAddr::new(ip(a), 53)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            (TcpListener::bind(SocketAddr::new(ip(a), 22)).unwrap(), udp)
        })
    };
    let listeners = pair.guest.run(open).unwrap();
    std::thread::scope(|scope| {
        for (_, udp) in &listeners {
            scope.spawn(move || {
                let mut buffer = [0; 100];
                let (n, from) = udp.recv_from(&mut buffer).unwrap();
                udp.send_to(&buffer[..n], from).unwrap();
                // A service's own words bear no token.
                let (_, from) = udp.recv_from(&mut buffer).unwrap();
                udp.send_to(b"what?", from).unwrap();
            });
        }
        for _ in 0..2 {
            for to in [GUEST4, GUEST6] {
                for kind in KINDS {
                    let outcome = one(&mut prober, probe(Spot::Host, to, kind, arrives(cnx6())));
                    assert!(outcome.held && !outcome.nothing_listens, "{outcome:?}");
                    assert!(outcome.seen.ends_with(", answered"), "{outcome:?}");
                }
            }
        }
    });
}

const RULE: &str =
    "nft add table inet t ; add chain inet t HOOK { type filter hook HOOK priority 0 ; } ; add rule inet t HOOK RULE";

fn rule(netns: &Netns, hook: &str, rule: &str) {
    let line = RULE.replace("HOOK", hook).replace("RULE", rule);
    must(netns, &line);
}

fn blocked_by_a_rule() {
    let pair = pair();
    let mut prober = pair.prober();
    rule(&pair.host, "output", "tcp dport 22 drop");
    rule(&pair.host, "postrouting", "udp dport 53 drop");
    for to in [GUEST4, GUEST6] {
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::Tcp(22), blocked(&[cnx6()])));
        assert!(outcome.held, "{outcome:?}");
        assert_eq!(outcome.seen, "not sent: the sender's own firewall drops it");
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::Tcp(22), arrives(cnx6())));
        assert!(!outcome.held, "{outcome:?}");
        let outcome = one(&mut prober, probe(cnx6(), "192.0.2.1", PacketKind::Tcp(22), blocked(&[Spot::Host])));
        assert_eq!((outcome.held, outcome.seen.as_str()), (true, "silence"), "{outcome:?}");
    }
    let outcome = one(&mut prober, probe(cnx6(), "192.0.2.1", PacketKind::Echo, arrives(Spot::Host)));
    assert_eq!((outcome.held, outcome.seen.as_str()), (false, "silence"), "{outcome:?}");
}

fn leaks_are_seen() {
    let pair = pair();
    let mut prober = pair.prober();
    for to in [GUEST4, GUEST6] {
        for kind in KINDS {
            let outcome = one(&mut prober, probe(Spot::Host, to, kind, blocked(&[cnx6()])));
            assert!(!outcome.held, "{outcome:?}");
            assert!(outcome.seen.starts_with("leaked: seen at cnx6"), "{outcome:?}");
            // Nobody looks out where it must not be seen, but it is answered.
            let outcome = one(&mut prober, probe(Spot::Host, to, kind, blocked(&[Spot::World])));
            let errors_alone = matches!(kind, PacketKind::Udp(_));
            assert_eq!(outcome.held, errors_alone, "{outcome:?}");
        }
    }
}

fn wrong_ports_and_guests_are_named() {
    let pair = pair();
    let other = Netns::unnamed("cnx7").unwrap();
    plug(&pair.host, &other, "br2", "10.2.2.1", "10.2.2.7", "fd00:2::1", "fd00:2::7", "02:00:00:00:00:07");
    let cnx7 = Spot::Guest("cnx7".to_owned());
    let mut prober = Prober::open(&[
        vantage(Spot::Host, &pair.host, Capture::Delivered),
        vantage(cnx6(), &pair.guest, Capture::Incoming),
        vantage(cnx7.clone(), &other, Capture::Incoming),
    ])
    .unwrap();
    must(
        &pair.host,
        "nft add table ip n ; add chain ip n o { type nat hook output priority -100 ; } ; \
         add rule ip n o tcp dport 22210 dnat to 10.1.1.6:2222 ; add rule ip n o tcp dport 22217 dnat to 10.2.2.7:22",
    );
    let at = |port| Expect::Arrives { at: cnx6(), address: Some(ip(GUEST4)), port: Some(port), source: None };
    let outcome = one(&mut prober, probe(Spot::Host, PUBLIC, PacketKind::Tcp(22210), at(22)));
    assert_eq!((outcome.held, outcome.seen.as_str()), (false, "arrived at cnx6:2222, not at port 22"));
    let outcome = one(&mut prober, probe(Spot::Host, PUBLIC, PacketKind::Tcp(22210), at(2222)));
    assert!(outcome.held && outcome.nothing_listens, "{outcome:?}");
    let outcome = one(&mut prober, probe(Spot::Host, PUBLIC, PacketKind::Tcp(22217), at(22)));
    assert_eq!((outcome.held, outcome.seen.as_str()), (false, "arrived at cnx7:22, not at cnx6:22"));
}

fn delivered_is_behind_the_input_hook() {
    let pair = pair();
    let mut prober = pair.prober();
    rule(&pair.host, "input", "meta l4proto { tcp, udp, icmp } drop");
    rule(&pair.host, "input", "icmpv6 type echo-request drop");
    for to in [HOST4, HOST6, PUBLIC] {
        for kind in KINDS {
            let outcome = one(&mut prober, probe(cnx6(), to, kind, blocked(&[Spot::Host])));
            assert_eq!((outcome.held, outcome.seen.as_str()), (true, "silence"), "{outcome:?}");
        }
    }
    must(&pair.host, "nft delete table inet t");
    for to in [HOST4, HOST6] {
        for kind in KINDS {
            let outcome = one(&mut prober, probe(cnx6(), to, kind, blocked(&[Spot::Host])));
            assert!(!outcome.held && outcome.seen.starts_with("leaked: seen at host"), "{outcome:?}");
        }
    }
}

fn rejected_and_refused_are_told_apart() {
    let pair = pair();
    let mut prober = pair.prober();
    rule(&pair.host, "input", "tcp dport 22 reject with icmpx admin-prohibited");
    rule(&pair.host, "input", "tcp dport 23 reject with tcp reset");
    for to in [HOST4, HOST6] {
        let outcome = one(&mut prober, probe(cnx6(), to, PacketKind::Tcp(22), blocked(&[Spot::Host])));
        assert_eq!((outcome.held, outcome.seen), (true, format!("{to} says: prohibited")));
        let outcome = one(&mut prober, probe(cnx6(), to, PacketKind::Tcp(22), arrives(Spot::Host)));
        assert_eq!((outcome.held, outcome.seen), (false, format!("{to} says: prohibited; not seen at host")));
        let outcome = one(&mut prober, probe(cnx6(), to, PacketKind::Tcp(23), blocked(&[Spot::Host])));
        assert_eq!((outcome.held, outcome.seen), (true, format!("refused by {to} with a reset")));
    }
}

fn who_has_an_address() {
    let pair = pair();
    let mut prober = pair.prober();
    let mac: Mac = "02:00:00:00:00:06".parse().unwrap();
    let by = |mac| Expect::AnsweredBy { mac };
    for to in [GUEST4, GUEST6] {
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::ArpWhoHas, by(Some(mac))));
        assert_eq!((outcome.held, outcome.seen), (true, format!("answered by {mac}")));
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::ArpWhoHas, by(None)));
        assert!(!outcome.held, "{outcome:?}");
    }
    for to in ["10.1.1.7", "fd00:1::7"] {
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::ArpWhoHas, by(None)));
        assert_eq!((outcome.held, outcome.seen.as_str()), (true, "silence"));
        let outcome = one(&mut prober, probe(Spot::Host, to, PacketKind::ArpWhoHas, by(Some(mac))));
        assert_eq!((outcome.held, outcome.seen.as_str()), (false, "silence"));
    }
    // Another has the host's own address: seen by the host that asks for it.
    must(&pair.guest, &format!("ip address add {HOST4}/32 dev lo"));
    let outcome = one(&mut prober, probe(Spot::Host, HOST4, PacketKind::ArpWhoHas, by(None)));
    assert_eq!((outcome.held, outcome.seen), (false, format!("answered by {mac}")));
    must(&pair.guest, &format!("ip address delete {HOST4}/32 dev lo"));
    // A second machine with the guest's address: both answer.
    let twin = Netns::unnamed("twin").unwrap();
    must(&pair.host, "ip link add sw type bridge");
    must(&pair.host, "ip address flush dev br1");
    must(&pair.host, &format!("ip address add {HOST4}/24 dev sw"));
    must(&pair.host, "ip link set br1 master sw");
    must(&pair.host, "ip link set sw up");
    plug(&pair.host, &twin, "br2", "10.9.9.1", "10.9.9.6", "fd00:9::1", "fd00:9::6", "02:00:00:00:00:66");
    must(&pair.host, "ip address flush dev br2");
    must(&twin, &format!("ip address add {GUEST4}/24 dev eth0"));
    must(&pair.host, "ip link set br2 master sw");
    let outcome = one(&mut prober, probe(Spot::Host, GUEST4, PacketKind::ArpWhoHas, by(Some(mac))));
    assert!(!outcome.held, "{outcome:?}");
    assert!(outcome.seen.contains("02:00:00:00:00:66") && outcome.seen.contains("and by"), "{outcome:?}");
}

fn hairpin_must_come_in_again() {
    let pair = pair();
    let mut prober = pair.prober();
    let expect = Expect::Arrives { at: cnx6(), address: Some(ip(GUEST4)), port: Some(22), source: None };
    let asked = probe(cnx6(), PUBLIC, PacketKind::Tcp(22210), expect);
    // It leaves the guest, and that must not count.
    assert!(!one(&mut prober, asked.clone()).held);
    must(
        &pair.host,
        "nft add table ip n ; add chain ip n p { type nat hook prerouting priority -100 ; } ; \
         add chain ip n s { type nat hook postrouting priority 100 ; } ; \
         add rule ip n p tcp dport 22210 dnat to 10.1.1.6:22 ; add rule ip n s ip saddr 10.1.1.0/24 masquerade",
    );
    must(&pair.host, "sysctl -qw net.ipv4.ip_forward=1");
    let outcome = one(&mut prober, asked);
    assert!(outcome.held && outcome.nothing_listens, "{outcome:?}");
    assert_eq!(outcome.seen, format!("arrived at cnx6:22 from {HOST4}; nothing listens there"));
}

fn leaving_counts_as_arrived() {
    let pair = pair();
    let leaving = |addresses| Capture::Outgoing { interface: "br1".to_owned(), addresses };
    let other = Spot::Guest("cnx7".to_owned());
    let mut prober = Prober::open(&[
        vantage(Spot::Host, &pair.host, Capture::Delivered),
        vantage(cnx6(), &pair.host, leaving(vec![ip(GUEST4), ip(GUEST6)])),
        vantage(other.clone(), &pair.host, leaving(vec![ip("10.1.1.7")])),
    ])
    .unwrap();
    for to in [GUEST4, GUEST6] {
        for kind in KINDS {
            let outcome = one(&mut prober, probe(Spot::Host, to, kind, arrives(cnx6())));
            assert!(outcome.held, "{outcome:?}");
            let outcome = one(&mut prober, probe(Spot::Host, to, kind, arrives(other.clone())));
            assert!(!outcome.held && outcome.seen.contains("not at cnx7"), "{outcome:?}");
        }
    }
    // Who cannot be entered cannot be asked to send.
    let outcome = one(&mut prober, probe(cnx6(), HOST4, PacketKind::Echo, arrives(Spot::Host)));
    assert_eq!((outcome.held, outcome.seen.as_str()), (false, "not sent: nobody there can send"));
}

fn many_probes_at_once_are_judged_alike() {
    let pair = pair();
    rule(&pair.host, "input", "udp dport 10000-19999 drop");
    let make = |n: u16| {
        let to = if n.is_multiple_of(2) { GUEST4 } else { GUEST6 };
        match n % 4 {
            0 | 1 => probe(Spot::Host, to, PacketKind::Tcp(20000 + n), arrives(cnx6())),
            _ => {
                let to = if n.is_multiple_of(2) { HOST4 } else { HOST6 };
                probe(cnx6(), to, PacketKind::Udp(10000 + n), blocked(&[Spot::Host]))
            }
        }
    };
    let start = Instant::now();
    let mut prober = pair.prober();
    let opened = start.elapsed();
    let outcomes = prober.run(&(0..60).map(make).collect::<Vec<_>>()).unwrap();
    let ran = start.elapsed() - opened;
    drop(prober);
    let closed = start.elapsed() - ran - opened;
    println!("     opened in {opened:.1?}, ran in {ran:.1?}, closed in {closed:.1?}");
    assert!(outcomes.iter().all(|o| o.held), "{outcomes:#?}");
    let mut prober = pair.prober();
    let start = Instant::now();
    let outcomes = prober.run(&(0..10_000).map(|n| make(n % 9000)).collect::<Vec<_>>()).unwrap();
    println!("     10,000 in {:.1?}", start.elapsed());
    let mut odd: BTreeMap<String, u32> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|o| !o.held) {
        *odd.entry(outcome.seen.clone()).or_default() += 1;
    }
    assert!(odd.is_empty(), "{odd:?}");
    assert_eq!(outcomes.len(), 10_000);
    // In a network namespace there is nothing of ours left but what the tests made.
    assert!(tool(&pair.host, "ip -o link show br1").0);
}
