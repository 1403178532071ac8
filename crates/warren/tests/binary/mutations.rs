//! A network that works, changed behind warren's back at random: `check` must notice whatever changes what flows, by
//! looking at its own objects or by its packets, on this host and on the replica.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{Scene, serve, settle};

pub const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24"]
[lan.br3]
address = ["10.1.3.1/24"]
egress = "deny"
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.cnx7]
kind = "netns"
lan = "br1"
address = ["10.1.1.7", "fd10:1:1::7"]
[guest.vault]
kind = "netns"
lan = "br2"
address = ["10.1.2.9"]
[guest.far]
kind = "netns"
lan = "br3"
address = ["10.1.3.9"]
[[forward]]
listen = "8080"
to = "cnx6:80"
[[forward]]
listen = "9000-9009/udp"
to = "cnx7:7000-7009"
sources = ["198.51.100.0/24"]
[[allow]]
from = ["far"]
to = ["cnx6"]
ports = ["5432/tcp"]
[check]
reach = ["198.51.100.7:80"]
"#;

pub const GUESTS: [&str; 4] = ["cnx6", "cnx7", "vault", "far"];

/// How many of all are tried by the suite; `WARREN_MUTATIONS` says another number for a longer run by hand, and
/// `WARREN_SEED` another order.
const SAMPLE: usize = 24;

/// What no look of `check` finds, each told in docs/known-issues.md: a switch port's own flags, which hold for the frames
/// of addresses that the bridge has yet to learn; and the uplink's MTU, which LANs follow with the next `up`.
const ESCAPES: [&str; 2] = ["bridge link set dev", "ip link set eth0 mtu"];

/// What somebody does to our objects, or to the host's, and how it is put back where `up` does not.
pub struct Mutation {
    pub what: String,
    pub done: Vec<String>,
    /// Not of warren's objects: what undoes it.
    pub back: Vec<String>,
}

fn ours(lines: &[String]) -> Mutation {
    Mutation { what: lines.join("; "), done: lines.to_vec(), back: Vec::new() }
}

fn theirs(done: &str, back: &str) -> Mutation {
    Mutation { what: done.to_owned(), done: vec![done.to_owned()], back: vec![back.to_owned()] }
}

/// Every rule taken out, one by one; each chain with a first rule that accepts, and one that drops; every element of
/// every map and set that nft lists taken out; and each of our links, addresses, routes and switches.
pub fn mutations() -> Vec<Mutation> {
    let mut all = Vec::new();
    for table in ["inet warren", "bridge warren"] {
        let listed = tool(&format!("nft -a list table {table}"));
        let mut chain = String::new();
        for line in listed.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["chain", name, ..] => {
                    chain = (*name).to_owned();
                    for verdict in ["accept", "drop"] {
                        all.push(ours(&[format!("nft insert rule {table} {chain} {verdict}")]));
                    }
                }
                ["set" | "map", ..] => chain.clear(),
                [.., "#", "handle", handle] if !chain.is_empty() && *handle != "{" => {
                    all.push(ours(&[format!("nft delete rule {table} {chain} handle {handle}")]));
                }
                _ => {}
            }
        }
        all.extend(elements(table));
    }
    for guest in GUESTS {
        all.push(ours(&[format!("ip link set {guest} down")]));
        all.push(ours(&[format!("ip link set {guest} nomaster")]));
        all.push(ours(&[format!("ip -n {guest} link set eth0 down")]));
        all.push(ours(&[format!("ip -n {guest} -4 address flush dev eth0")]));
        all.push(ours(&[format!("ip -n {guest} link set eth0 address 02:00:00:00:00:01")]));
        all.push(theirs(
            &format!("bridge link set dev {guest} isolated on"),
            &format!("bridge link set dev {guest} isolated off"),
        ));
        all.push(theirs(
            &format!("bridge link set dev {guest} learning off flood off"),
            &format!("bridge link set dev {guest} learning on flood on"),
        ));
    }
    for guest in ["cnx6", "cnx7", "far"] {
        all.push(ours(&[format!("ip -n {guest} route del default")]));
    }
    for lan in ["br1", "br2", "br3"] {
        all.push(ours(&[format!("ip link set {lan} down")]));
        all.push(ours(&[format!("ip -4 address flush dev {lan}")]));
        all.push(ours(&[format!("ip link delete {lan}")]));
        if lan != "br2" {
            // Nothing is routed from or to an isolated LAN.
            all.push(ours(&[format!("sysctl -qw net.ipv4.conf.{lan}.forwarding=0")]));
        }
    }
    all.push(ours(&["sysctl -qw net.ipv4.conf.eth0.forwarding=0".to_owned()]));
    all.push(ours(&["nft flush ruleset".to_owned()]));
    all.push(ours(&["nft delete table bridge warren".to_owned()]));
    all.push(theirs("ip rule add priority 5 iif br1 blackhole", "ip rule del priority 5"));
    all.push(theirs("ip rule add priority 5 to 10.1.1.0/24 prohibit", "ip rule del priority 5"));
    all.push(theirs("ip route add blackhole 10.1.1.6/32", "ip route del blackhole 10.1.1.6/32"));
    all.push(theirs("ip route del default", "ip route add default via 203.0.113.1"));
    all.push(theirs("ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500"));
    all.push(theirs(
        "ip neighbour replace 10.1.1.6 lladdr 02:00:00:00:00:66 dev br1 nud permanent",
        "ip neighbour del 10.1.1.6 dev br1",
    ));
    all
}

/// Each element of the table's maps and sets, taken out.
fn elements(table: &str) -> Vec<Mutation> {
    let document: serde_json::Value = serde_json::from_str(&tool(&format!("nft -j list table {table}"))).unwrap();
    let mut all = Vec::new();
    for object in document["nftables"].as_array().unwrap() {
        let Some((kind, holder)) = ["set", "map"].into_iter().find_map(|k| object.get(k).map(|o| (k, o))) else {
            continue;
        };
        let name = holder["name"].as_str().unwrap();
        let text = tool(&format!("nft list {kind} {table} {name}"));
        let Some((_, listed)) = text.split_once("elements = {") else { continue };
        for element in listed.split('}').next().unwrap().split(',') {
            // What an element counts is no part of its key.
            let key: Vec<&str> = element.split_whitespace().collect();
            let end = key.iter().position(|w| ["counter", ":", "limit", "timeout"].contains(w)).unwrap_or(key.len());
            if end == 0 {
                continue;
            }
            let (key, value) = (key[..end].join(" "), key.iter().position(|w| *w == ":").map(|at| key[at..].join(" ")));
            all.push(ours(&[format!(
                "nft delete element {table} {name} {{ {key}{} }}",
                value.map_or(String::new(), |v| format!(" {v}"))
            )]));
        }
    }
    all
}

/// A small generator of numbers (splitmix64), for an order that a seed repeats.
pub fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn run(line: &str) -> bool {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    if !output.status.success() {
        println!("refused by the kernel or its tool: {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}

#[test]
fn whatever_is_changed_behind_warren_s_back_is_noticed() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _world = serve(&scene, "world", 80);
        scene.warren("check").ends(0);
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let mut seed = number("WARREN_SEED").unwrap_or(1);
        let sample = number("WARREN_MUTATIONS").map_or(SAMPLE, |n| usize::try_from(n).unwrap());
        let mut all = mutations();
        assert!(all.len() > 100, "{}", all.len());
        for at in (1..all.len()).rev() {
            all.swap(at, usize::try_from(next(&mut seed) % (at as u64 + 1)).unwrap());
        }
        let (mut tried, mut by_packets, mut escaped) = (0, 0, Vec::new());
        for mutation in &all {
            if tried == sample {
                break;
            }
            let whole = take();
            // Handles move as tables are written anew: what cannot be done is not tried.
            if !mutation.done.iter().all(|line| run(&line.replace('{', "'{").replace('}', "}'"))) {
                continue;
            }
            tried += 1;
            let checked = scene.warren("--json check");
            let document = checked.json();
            let broken =
                |probes: &serde_json::Value| probes.as_array().unwrap().iter().filter(|p| p["held"] == false).count();
            let packets = broken(&document["probes"]) + broken(&document["replica"]["probes"]);
            by_packets += usize::from(packets > 0);
            if checked.code == Some(0) && !ESCAPES.iter().any(|e| mutation.what.starts_with(e)) {
                escaped.push(mutation.what.clone());
            }
            println!("{:3} {packets:4} {}", checked.code.unwrap(), mutation.what);
            for line in &mutation.back {
                assert!(run(line), "{line}");
            }
            scene.warren("up").ends(0);
            settle(&GUESTS);
            assert_same(&whole, &take(), &mutation.what);
        }
        println!("{tried} of {} tried, {by_packets} seen by packets too", all.len());
        assert!(tried >= sample.min(all.len() / 2), "only {tried} could be tried");
        assert_eq!(escaped, Vec::<String>::new());
    });
}
