//! What flows and what must not, with real packets, beyond what a rehearsal asks: each rule's pair is a packet that
//! gets through where the rule is not.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kernel::apply::Engine;
use kernel::netns::Netns;
use lab::{Capture, Lab, LabPlan, Outcome, Prober, Vantage};
use model::facts::HostFacts;
use model::network::{Network, load};
use model::probe::{Expect, Packet, PacketKind, Probe, Spot, derive};

mod common;
#[path = "boundary/ports.rs"]
mod ports;
use common::must;
use ports::{a_part_of_the_uplinks_own_subnet, neighbours_are_kept_apart, the_host_keeps_its_own_way_out};

fn main() -> ExitCode {
    common::main(&[
        ("forged_frames_stop_at_the_port", forged_frames_stop_at_the_port),
        ("nobody_hears_himself", nobody_hears_himself),
        ("what_was_counted_stays", what_was_counted_stays),
        ("forwards_of_every_sort", forwards_of_every_sort),
        ("allows_open_borders_and_no_more", allows_open_borders_and_no_more),
        ("another_network_of_the_host_s", another_network_of_the_host_s),
        ("a_revoked_allow_ends_its_flows", a_revoked_allow_ends_its_flows),
        ("neighbours_are_kept_apart", neighbours_are_kept_apart),
        ("a_part_of_the_uplinks_own_subnet", a_part_of_the_uplinks_own_subnet),
        ("the_host_keeps_its_own_way_out", the_host_keeps_its_own_way_out),
        ("forwards_on_a_changing_address", forwards_on_a_changing_address),
    ])
}

/// A network that is up in a lab.
struct Stand {
    lab: Lab,
    network: Network,
    folder: tempfile::TempDir,
}

const CONFIG: &str = "/etc/warren/warren.toml";

impl Stand {
    fn up(text: &str) -> Self {
        let network = read(text);
        let lab = Lab::build(LabPlan::of(&network).unwrap()).unwrap();
        let mut stand = Self { lab, network, folder: tempfile::tempdir().unwrap() };
        stand.again(text);
        stand
    }

    /// Brings the file up over what is up.
    fn again(&mut self, text: &str) {
        self.network = read(text);
        Lab::stand_in(&mut self.network);
        let (network, folder) = (&self.network, self.folder.path());
        let up = || {
            let engine = Engine::new(&folder.join("state"), &folder.join("run")).unwrap();
            engine.up(network, Path::new(CONFIG), false, &mut |_, _| Ok(())).unwrap();
        };
        self.lab.server().run(up).unwrap();
    }

    fn down(&self) {
        let folder = self.folder.path();
        let down = || {
            let engine = Engine::new(&folder.join("state"), &folder.join("run")).unwrap();
            engine.down(&mut |_, _| Ok(())).unwrap();
        };
        self.lab.server().run(down).unwrap();
    }

    fn probes(&self) -> Vec<Probe> {
        derive(&self.network, &self.lab.view())
    }

    fn try_all(&self, probes: &[Probe]) -> Vec<Outcome> {
        Prober::open(&self.lab.vantages(&self.network).unwrap()).unwrap().run(probes).unwrap()
    }

    /// Every probe of the network holds.
    fn holds(&self) {
        let outcomes = self.try_all(&self.probes());
        let broken: Vec<_> = outcomes.iter().filter(|o| !o.held).map(|o| (&o.probe.name, &o.seen)).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        println!("     {} probes", outcomes.len());
    }

    fn server(&self, line: &str) -> String {
        must(self.lab.server(), line)
    }

    fn br_netfilter(&self, on: bool) {
        for what in ["ip", "ip6", "arp"] {
            self.server(&format!("sysctl -q -w net.bridge.bridge-nf-call-{what}tables={}", u8::from(on)));
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // The guests' namespaces are no part of the lab, and would stand in the next case's way.
        for guest in &self.network.guests {
            let _ = Netns::delete(&guest.name);
        }
    }
}

fn read(text: &str) -> Network {
    let facts = HostFacts { ipv6: true, ipv6_force_forwarding: force_forwarding(), ..assumed() };
    load(text, &facts).unwrap_or_else(|problems| panic!("{problems:#?}")).1
}

/// The uplink as a lab has it.
fn assumed() -> HostFacts {
    let mut facts = HostFacts::assumed("eth0".parse().unwrap());
    facts.interfaces[0].addresses = ["203.0.113.2/24", "2001:db8:113::2/64"].map(|net| net.parse().unwrap()).to_vec();
    facts
}

fn force_forwarding() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists()
}

fn guest(name: &str) -> Netns {
    Netns::open(name).unwrap()
}

const NEIGHBOURS: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd00:1:1::1/64"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24", "fd00:1:2::1/64"]
[guest.a]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd00:1:1::6"]
allowed-addresses = ["10.1.1.128/25", "10.9.0.0/16", "fd09::/48"]
[guest.b]
kind = "netns"
lan = "br1"
address = ["10.1.1.7", "fd00:1:1::7"]
[guest.c]
kind = "netns"
lan = "br2"
address = ["10.1.2.6", "fd00:1:2::6"]
[guest.d]
kind = "netns"
lan = "br2"
address = ["10.1.2.7", "fd00:1:2::7"]
[[forward]]
listen = "8080"
to = "a:80"
"#;

fn forged_frames_stop_at_the_port() {
    let mut stand = Stand::up(NEIGHBOURS);
    let forged = |probe: &Probe| ["G-spoof-", "G-rogue", "G-ethertype"].iter().any(|row| probe.row.starts_with(row));
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
    }
    for set in ["tried_mac", "tried_address", "tried_claim", "tried_service", "tried_ethertype"] {
        let listed = stand.server(&format!("nft list set bridge warren {set}"));
        for port in stand.network.guests.iter().map(|g| &g.port) {
            let counted = listed.split(&format!("\"{port}\" counter packets ")).nth(1).unwrap();
            assert!(!counted.starts_with("0 "), "{port} tried: {listed}");
        }
    }
    // A port that is made anew under its name is held as before: by the same rules, which nobody touched.
    let before = stand.server("nft -a list chain bridge warren guest");
    stand.server("ip link delete dev a");
    stand.again(NEIGHBOURS);
    assert_eq!(stand.server("nft -a list chain bridge warren guest"), before);
    stand.holds();
    // Everything of it passes where the table is not: the probes see what they are for. The guests believe it, too,
    // so nothing is asked of them afterwards.
    let without: Vec<Probe> = stand.probes().into_iter().filter(forged).collect();
    stand.server("nft delete table bridge warren");
    for outcome in stand.try_all(&without) {
        assert!(!outcome.held, "{}: {}", outcome.probe.name, outcome.seen);
    }
}

fn nobody_hears_himself() {
    let stand = Stand::up(NEIGHBOURS);
    let dad = |expected: &str| {
        let a = guest("a");
        must(&a, "ip link set eth0 down");
        // Without the nonce of RFC 7527, as other systems do it.
        must(
            &a,
            "sysctl -q -w net.ipv6.conf.all.enhanced_dad=0 net.ipv6.conf.eth0.enhanced_dad=0 net.ipv6.conf.eth0.accept_dad=1",
        );
        must(&a, "ip link set eth0 up");
        let begun = Instant::now();
        loop {
            let shown = must(&a, "ip -6 -o address show dev eth0 scope link");
            let failed = shown.contains("dadfailed");
            let done = failed || (!shown.is_empty() && !shown.contains("tentative"));
            if done || begun.elapsed() > Duration::from_secs(10) {
                assert!(done, "duplicate address detection does not come to an end: {shown}");
                assert!(shown.contains(expected) && (expected == "dadfailed") == failed, "{shown}");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    assert!(stand.server("bridge -d link show").contains("hairpin on"));
    dad("scope link");
    stand.server("nft delete chain bridge warren forward");
    dad("dadfailed");
}

/// Ranges that keep their ports and that shift, on one of several addresses and on every one; clients of their own; no
/// hairpin; everything that is left, on one address.
const FORWARDS: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "203.0.113.3", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd00:1:1::1/64"]
[lan.br2]
address = ["10.1.2.1/24", "fd00:1:2::1/64"]
[guest.a]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd00:1:1::6"]
[guest.b]
kind = "netns"
lan = "br1"
address = ["10.1.1.7", "fd00:1:1::7"]
[guest.c]
kind = "netns"
lan = "br2"
address = ["10.1.2.6", "fd00:1:2::6"]
[[forward]]
listen = "5000-5400/tcp,udp"
to = "a"
[[forward]]
listen = "6000-6010/udp"
to = "b:7000-7010"
[[forward]]
listen = "203.0.113.3:8000-8100"
to = "b"
[[forward]]
listen = "[2001:db8:113::2]:8000-8002"
to = "a:9000-9002"
[[forward]]
listen = "8443"
to = "a:443"
sources = ["198.51.100.0/24", "198.51.100.7/32", "2001:db8:100::/48"]
[[forward]]
listen = "8444"
to = "a:443"
sources = ["192.0.2.0/24"]
[[forward]]
listen = "8445"
to = "a:443"
hairpin = false
[[forward]]
listen = "203.0.113.3:*"
to = "c"
[[forward]]
listen = "[2001:db8:113::2]:*"
to = "c"
sources = ["2001:db8:100::/48"]
"#;

fn forwards_of_every_sort() {
    let stand = Stand::up(FORWARDS);
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
    }
}

fn forwards_on_a_changing_address() {
    let text = FORWARDS.replace("public = [", "management = [\"22/tcp\"] #").replace("[2001:db8:113::2]:*", "*");
    // What names an address stays as it is; everything that is left is now at every address.
    let at = text.find("[[forward]]\nlisten = \"203.0.113.3:*\"").unwrap();
    let end = at + text[at + 1..].find("[[forward]]").unwrap() + 1;
    let text = format!("{}{}", &text[..at], &text[end..]).replace("203.0.113.3:", "203.0.113.2:");
    let stand = Stand::up(&text);
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
    }
}

/// Borders, and what is allowed across each: between LANs, out of one that is denied, in to global IPv6.
const ALLOWS: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "203.0.113.3", "2001:db8:113::2", "2001:db8:113::3"]
[lan.web]
address = ["10.1.1.1/24", "fd00:1:1::1/64"]
[lan.db]
address = ["10.1.2.1/24", "fd00:1:2::1/64"]
egress = "deny"
[lan.open]
address = ["10.1.3.1/24", "2001:db8:aa::1/64"]
ingress = "allow"
[lan.closed]
address = ["10.1.4.1/24", "2001:db8:bb::1/64"]
[lan.hidden]
address = ["10.1.5.1/24", "2001:db8:cc::1/64"]
nat66 = true
[guest.a]
kind = "netns"
lan = "web"
address = ["10.1.1.6", "fd00:1:1::6"]
snat = "203.0.113.3"
[guest.b]
kind = "netns"
lan = "db"
address = ["10.1.2.6", "fd00:1:2::6"]
snat = "2001:db8:113::3"
[guest.b2]
kind = "netns"
lan = "db"
address = ["10.1.2.7", "fd00:1:2::7"]
[guest.c]
kind = "netns"
lan = "open"
address = ["10.1.3.6", "2001:db8:aa::6"]
[guest.d]
kind = "netns"
lan = "closed"
address = ["10.1.4.6", "2001:db8:bb::6"]
[guest.d2]
kind = "netns"
lan = "closed"
address = ["10.1.4.7", "2001:db8:bb::7"]
[guest.e]
kind = "netns"
lan = "hidden"
address = ["10.1.5.6", "2001:db8:cc::6"]
[[forward]]
listen = "2222"
to = "b:22"
[[allow]]
from = ["web"]
to = ["b"]
ports = ["22/tcp"]
[[allow]]
from = ["b"]
to = ["world"]
ports = ["443/tcp"]
[[allow]]
from = ["world"]
to = ["d"]
[[allow]]
from = ["a"]
to = ["172.17.0.0/16", "fd00:d0c::/64"]
[[allow]]
from = ["172.17.0.0/16"]
to = ["b"]
ports = ["22/tcp"]
"#;

fn allows_open_borders_and_no_more() {
    let stand = Stand::up(ALLOWS);
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
    }
}

/// A container's network, as docker makes one, and somebody in it.
fn with_container(stand: &Stand) -> Netns {
    let inside = Netns::create("container").unwrap();
    stand.server("ip link add docker0 type bridge");
    stand.server("ip address add 172.17.0.1/16 dev docker0");
    stand.server("ip -6 address add fd00:d0c::1/64 dev docker0 nodad");
    stand.server("ip link set docker0 up");
    stand.server("ip link add veth9 type veth peer name eth0 netns container");
    stand.server("ip link set veth9 master docker0 up");
    stand.server("sysctl -q -w net.ipv4.conf.docker0.forwarding=1");
    if force_forwarding() {
        stand.server("sysctl -q -w net.ipv6.conf.docker0.force_forwarding=1");
    }
    must(&inside, "ip address add 172.17.0.5/16 dev eth0");
    must(&inside, "ip -6 address add fd00:d0c::5/64 dev eth0 nodad");
    must(&inside, "ip link set eth0 up");
    must(&inside, "ip route add default via 172.17.0.1");
    must(&inside, "ip -6 route add default via fd00:d0c::1");
    inside
}

fn another_network_of_the_host_s() {
    let stand = Stand::up(ALLOWS);
    let container = with_container(&stand);
    let spot = || Spot::Guest("container".to_owned());
    let mut vantages = stand.lab.vantages(&stand.network).unwrap();
    vantages.push(Vantage { spot: spot(), netns: container, capture: Capture::Incoming });
    let mut prober = Prober::open(&vantages).unwrap();
    let probe = |from: Spot, to: &str, kind, expect| Probe {
        name: format!("{from:?} to {to} {kind:?}"),
        row: String::new(),
        from,
        packet: Packet { to: to.parse().unwrap(), kind },
        expect,
    };
    let guest = |name: &str| Spot::Guest(name.to_owned());
    let arrives = |at: Spot, source: &str| Expect::Arrives {
        at,
        address: None,
        port: None,
        source: Some(source.parse().unwrap()),
    };
    let blocked = |at: Spot| Expect::Blocked { at: vec![at] };
    let (ssh, echo) = (PacketKind::Tcp(22), PacketKind::Echo);
    let probes = [
        probe(guest("a"), "172.17.0.5", echo, arrives(spot(), "172.17.0.1")),
        probe(guest("a"), "fd00:d0c::5", ssh, arrives(spot(), "fd00:d0c::1")),
        probe(guest("b"), "172.17.0.5", ssh, blocked(spot())),
        probe(guest("c"), "fd00:d0c::5", echo, blocked(spot())),
        probe(spot(), "10.1.2.6", ssh, arrives(guest("b"), "172.17.0.5")),
        probe(spot(), "10.1.2.6", PacketKind::Tcp(23), blocked(guest("b"))),
        probe(spot(), "10.1.2.7", ssh, blocked(guest("b2"))),
        probe(spot(), "10.1.1.6", ssh, blocked(guest("a"))),
        probe(spot(), "fd00:1:2::6", ssh, blocked(guest("b"))),
        // The LANs' own addresses are closed to it, and the host's on its own network are not warren's business.
        probe(spot(), "172.17.0.1", echo, arrives(Spot::Host, "172.17.0.5")),
        probe(spot(), "fd00:d0c::1", PacketKind::Tcp(53), arrives(Spot::Host, "fd00:d0c::5")),
        probe(spot(), "10.1.1.1", echo, blocked(Spot::Host)),
        probe(spot(), "10.1.2.1", PacketKind::Udp(53), blocked(Spot::Host)),
        probe(spot(), "10.1.5.1", PacketKind::Tcp(53), blocked(Spot::Host)),
        probe(spot(), "fd00:1:1::1", PacketKind::Udp(53), blocked(Spot::Host)),
        probe(spot(), "2001:db8:aa::1", echo, blocked(Spot::Host)),
        // Whom the world reaches it does not; and at the public address it finds the host, not the forward.
        probe(spot(), "2001:db8:aa::6", echo, blocked(guest("c"))),
        probe(spot(), "203.0.113.2", PacketKind::Tcp(2222), arrives(Spot::Host, "172.17.0.5")),
        probe(guest("b"), "172.17.0.1", echo, blocked(Spot::Host)),
    ];
    for on in ["1", "0"] {
        stand.server(&format!(
            "sysctl -q -w net.bridge.bridge-nf-call-iptables={on} net.bridge.bridge-nf-call-ip6tables={on}"
        ));
        let outcomes = prober.run(&probes).unwrap();
        let broken: Vec<_> = outcomes.iter().filter(|o| !o.held).map(|o| (&o.probe.name, &o.seen)).collect();
        assert!(broken.is_empty(), "br_netfilter {on}: {broken:#?}");
    }
    Netns::delete("container").unwrap();
}

/// A flow that an allow began ends when the allow goes, though each of its packets is of a flow that stands.
fn a_revoked_allow_ends_its_flows() {
    let mut stand = Stand::up(ALLOWS);
    let server = guest("b").run(|| std::net::TcpListener::bind("10.1.2.6:22").unwrap()).unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&"10.1.2.6:22".parse().unwrap(), Duration::from_secs(2));
    let near = guest("a").run(connect).unwrap().unwrap();
    let far = server.accept().unwrap().0;
    let crosses = |what: &[u8]| {
        use std::io::{Read as _, Write as _};
        (&near).write_all(what).unwrap();
        far.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let mut buffer = [0; 16];
        (&far).read(&mut buffer).is_ok_and(|n| n > 0)
    };
    assert!(crosses(b"one"));
    // A change that is not about it leaves it alone.
    let other = format!("{ALLOWS}\n[[forward]]\nlisten = \"9999\"\nto = \"a\"\n");
    stand.again(&other);
    assert!(crosses(b"two"));
    stand.again(
        &other.replace(
            "ports = [\"22/tcp\"]\n[[allow]]\nfrom = [\"b\"]",
            "ports = [\"23/tcp\"]\n[[allow]]\nfrom = [\"b\"]",
        ),
    );
    assert!(!crosses(b"three"), "it is allowed no more");
}

/// A port's counters outlive an `up` that writes their table anew.
fn what_was_counted_stays() {
    let mut stand = Stand::up(NEIGHBOURS);
    stand.holds();
    let tally = |stand: &Stand| {
        let tables = model::ruleset::build(&stand.network);
        stand.lab.server().run(|| kernel::nft::tally(&tables[1])).unwrap().unwrap()
    };
    let before = tally(&stand);
    for set in ["guest_macs", "guest_received", "tried_claim"] {
        assert!(before[set].values().all(|counts| counts.packets > 0 && counts.bytes > 0), "{set}: {before:?}");
    }
    // Without allowed networks there are fewer rules: the table is another.
    let fewer = NEIGHBOURS.replace("allowed-addresses", "aliases = [] #");
    let rules = model::ruleset::build(&read(&fewer));
    assert!(!rules[1].same_skeleton(&model::ruleset::build(&stand.network)[1]));
    stand.again(&fewer);
    let after = tally(&stand);
    for (set, elements) in &before {
        for (key, counts) in elements {
            let now = after[set][key];
            assert!(now.packets >= counts.packets && now.bytes >= counts.bytes, "{set} {key:?}: {counts:?}, {now:?}");
        }
    }
}
