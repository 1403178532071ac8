//! What flows and what must not, with real packets, beyond what a rehearsal asks: each rule's pair is a packet that
//! gets through where the rule is not.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kernel::apply::Engine;
use kernel::netns::Netns;
use lab::{Lab, LabPlan, Outcome, Prober};
use model::facts::HostFacts;
use model::network::{Network, load};
use model::probe::{Probe, derive};

mod common;
use common::must;

fn main() -> ExitCode {
    common::main(&[
        ("forged_frames_stop_at_the_port", forged_frames_stop_at_the_port),
        ("nobody_hears_himself", nobody_hears_himself),
        ("forwards_of_every_sort", forwards_of_every_sort),
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
    load(text, &facts, true).unwrap_or_else(|problems| panic!("{problems:#?}")).1
}

fn assumed() -> HostFacts {
    HostFacts::assumed("eth0".parse().unwrap())
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
            if done || begun.elapsed() > Duration::from_secs(4) {
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
