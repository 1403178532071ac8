//! What a guest may use of the host: bandwidth.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::stream::Stream;
use crate::support::{NEIGHBOUR, NEIGHBOUR6, PATIENCE, Scene, Talk, all, reaches, serve, silent};

const NETWORK: &str = one_lan!(
    r#"[guest.slow]
kind = "netns"
address = ["10.1.1.6"]
LIMIT
[guest.free]
kind = "netns"
address = ["10.1.1.7"]
[guest.machine]
kind = "vm"
address = ["10.1.1.8"]
LIMIT
"#
);

fn network(limit: &str) -> String {
    NETWORK.replace("LIMIT", limit)
}

#[test]
fn bandwidth_is_what_was_asked_and_changes_while_flows_stand() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.up(&network("limit = { in = \"20mbit\", out = \"10mbit\" }"), &["slow", "free"]);
        scene.warren("plan --exit-code").says(0, &["Nothing to change"]);
        // One at a time: each direction carries the other's acknowledgements, too.
        let inward = Stream::open("server", "slow", "10.1.1.6");
        inward.has(20e6);
        // Other rates, for the same flow.
        scene.write(&network("limit = \"30mbit\""));
        scene.warren("plan").says(0, &["~ limit at slow: at most 20mbit leaves", "-> at most 30mbit leaves"]);
        scene.warren("up").ends(0);
        inward.has(30e6);
        drop(inward);
        let outward = Stream::open("slow", "world", "198.51.100.7");
        outward.has(30e6);
        scene.write(&network("limit = { in = \"30mbit\", out = \"10mbit\" }"));
        scene.warren("up").ends(0);
        outward.has(10e6);
        // The neighbour is held in neither direction.
        Stream::open("server", "free", "10.1.1.7").is_free();
        Stream::open("free", "world", "198.51.100.7").is_free();

        // What somebody takes away or changes is seen, and mended.
        for line in [
            "tc qdisc del dev slow root",
            "tc qdisc del dev slow ingress",
            "tc class change dev ifb-slow classid 7772:1 htb rate 1gbit",
            "tc filter del dev slow ingress",
            "ip link delete ifb-slow",
            "tc qdisc replace dev machine parent 7772:1 handle 7773: bfifo limit 9",
        ] {
            tool(line);
            let said = scene.warren("--json status").json();
            assert!(!said["drift"].as_array().unwrap().is_empty(), "{line}: {said}");
            scene.warren("up").ends(0);
            scene.warren("plan --exit-code").says(0, &["Nothing to change"]);
        }
        outward.has(10e6);

        // Without a limit nothing of it is left, and the flows go on.
        scene.write(&network("limit = { out = \"30mbit\" }"));
        scene.warren("up").ends(0);
        outward.has(30e6);
        Stream::open("server", "slow", "10.1.1.6").is_free();
        scene.write(&network(""));
        scene.warren("up").ends(0);
        outward.is_free();
        let qdiscs = tool("tc qdisc show");
        assert!(!qdiscs.contains("htb") && !qdiscs.contains("ingress"), "{qdiscs}");
        drop(outward);

        scene.write(&network("limit = \"30mbit\""));
        scene.warren("up").ends(0);
        scene.warren("down").ends(0);
        assert_same(&before, &take(), "down");
    });
}

#[test]
fn another_s_qdisc_stays_and_is_told() {
    lab(|| {
        let scene = Scene::new();
        scene.up(&network(""), &["slow"]);
        for (add, place) in [("root handle 1: pfifo limit 9", "root"), ("clsact", "ingress")] {
            tool(&format!("tc qdisc add dev slow {add}"));
            scene.write(&network("limit = \"30mbit\""));
            let remove = format!("tc qdisc del dev slow {place}");
            scene.warren("up").says(5, &[&format!("the {place} qdisc of slow"), &remove]);
            assert!(tool("tc qdisc show dev slow").contains(add.split(' ').next().unwrap()));
            tool(&format!("tc qdisc del dev slow {}", add.split(' ').next().unwrap()));
        }
        scene.warren("up").ends(0);
        scene.warren("down").ends(0);
    });
}

const CAPPED: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.flood]
kind = "netns"
address = ["10.1.1.6", "fd10:1:1::6"]
max-connections = 40
[guest.calm]
kind = "netns"
address = ["10.1.1.7", "fd10:1:1::7"]
[[forward]]
listen = "8080"
to = "flood:80"
[[forward]]
listen = "8081"
to = "calm:80"
"#;

/// So many tracked connections have that address.
fn tracked(address: &str, family: &str) -> usize {
    let list = tool(&format!("conntrack -L -f {family}"));
    list.lines().filter(|line| line.split(' ').any(|word| word.ends_with(&format!("={address}")))).count()
}

/// A datagram from each of so many ports, to where nobody answers.
fn flood(address: &str, ports: u16) {
    let to: std::net::IpAddr = address.parse().unwrap();
    kernel::netns::Netns::open("flood")
        .unwrap()
        .run(|| {
            for port in 0..ports {
                let any: std::net::IpAddr =
                    if to.is_ipv4() { [0; 4].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
                let socket = std::net::UdpSocket::bind((any, 20_000 + port)).unwrap();
                // The queue to a neighbour that is not known yet is short.
                let _ = socket.send_to(b"x", (to, 9));
            }
        })
        .unwrap();
}

#[test]
fn a_guest_that_floods_stays_at_its_cap_and_harms_nobody() {
    lab(|| {
        let scene = Scene::new();
        scene.up(CAPPED, &["flood", "calm"]);
        let _servers: Vec<_> = ["flood", "calm", "world"].map(|place| serve(&scene, place, 80)).into();
        let _ssh = serve(&scene, "server", 22);
        let mut stands = Talk::open("flood", "TCP:198.51.100.7:80");
        all("before", &[reaches("world", "203.0.113.2:8080", "flood", "203.0.113.1")]);
        for family in ["ipv4", "ipv6"] {
            let (outside, own) = if family == "ipv4" { (NEIGHBOUR, "10.1.1.6") } else { (NEIGHBOUR6, "fd10:1:1::6") };
            let deadline = Instant::now() + PATIENCE;
            while tracked(own, family) < 40 {
                assert!(Instant::now() < deadline, "{}: {family}", tool(&format!("conntrack -L -f {family}")));
                flood(outside, 200);
            }
            flood(outside, 2000);
            // Of its gateway's, too.
            flood(if family == "ipv4" { "10.1.1.1" } else { "fd10:1:1::1" }, 500);
            let held = tracked(own, family);
            assert!((40..=42).contains(&held), "{held} of {family}");
            let guest = |name: &str| {
                let status = scene.warren("--json status").json();
                status["guests"].as_array().unwrap().iter().find(|g| g["name"] == name).unwrap().clone()
            };
            assert!(guest("flood")["refused"].as_u64().unwrap() >= 1500, "{}", guest("flood"));
            assert_eq!(
                (guest("calm")["refused"].as_u64(), guest("flood")["max_connections"].as_u64()),
                (Some(0), Some(40))
            );
        }
        // A flow that stands goes on; the host gets in; the neighbour and the host's own SSH answer, and nobody else
        // gets a new one: neither from the flooding guest nor to it.
        assert!(stands.ask("GET / HTTP/1.0\r\n\r").starts_with("HTTP/1.0 200"));
        all(
            "at its cap",
            &[
                silent("flood", "198.51.100.7"),
                silent("world", "203.0.113.2:8080"),
                silent("world", "[2001:db8:113::2]:8080"),
                reaches("server", "10.1.1.6", "flood", "10.1.1.1"),
                reaches("world", "203.0.113.2:22", "server", "203.0.113.1"),
                reaches("world", "[2001:db8:113::2]:22", "server", "2001:db8:113::1"),
                reaches("world", "203.0.113.2:8081", "calm", "203.0.113.1"),
                reaches("calm", "198.51.100.7", "world", "203.0.113.2"),
            ],
        );
        scene.warren("status").says(0, &["flood is, or was, at its cap of 40 connections"]);
        // Once they have ended it may hold others; and the numbers stay.
        tool("conntrack -D -p udp");
        all("after", &[reaches("flood", "198.51.100.7", "world", "203.0.113.2")]);
        scene.write(&CAPPED.replace("max-connections = 40", "max-connections = 60"));
        scene.warren("plan").says(0, &["held4 of table inet warren: br1 10.1.1.6, at most 60 connections"]);
        scene.warren("up").ends(0);
        scene.warren("plan --exit-code").says(0, &["Nothing to change"]);
        scene.warren("status").says(0, &["at its cap of 60"]);
        scene.warren("down").ends(0);
    });
}
