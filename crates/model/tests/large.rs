//! Ten thousand forwards are read and resolved at once, and so are ten thousand that collide.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Instant;

use model::facts::{HostFacts, Listener};
use model::network;

fn text(listen: impl Fn(u32) -> String) -> String {
    let mut text = "[host]\npublic = [\"203.0.113.5\"]\n[lan.br1]\naddress = [\"10.0.0.1/16\"]\n".to_owned();
    for i in 0..1000u32 {
        let (high, low) = (1 + i / 250, 1 + i % 250);
        write!(text, "[guest.g{i}]\nkind = \"netns\"\naddress = [\"10.0.{high}.{low}\"]\n").unwrap();
    }
    for i in 0..10_000u32 {
        let (listen, guest) = (listen(i), i % 1000);
        let to = if i % 2 == 0 {
            format!("g{guest}:80")
        } else {
            format!("10.0.{}.{}:80", 1 + guest / 250, 1 + guest % 250)
        };
        write!(text, "[[forward]]\nlisten = \"{listen}\"\nto = \"{to}\"\n").unwrap();
    }
    text
}

/// Milliseconds; a debug build on a busy machine gets ten times as many.
fn limit(milliseconds: u128) -> u128 {
    if cfg!(debug_assertions) { milliseconds * 20 } else { milliseconds }
}

#[test]
fn ten_thousand_forwards_are_fast() {
    let mut facts = HostFacts::assumed("eth0".parse().unwrap());
    let listener = |port| Listener {
        transport: model::address::Transport::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port,
        owner: None,
    };
    facts.listeners = (1..1000).map(listener).collect();
    facts.ssh_ports = vec![22];
    let good = text(|i| format!("{}/tcp", 20_000 + i));
    let (config, problems) = model::config::parse(&good);
    assert_eq!(problems, []);
    let begin = Instant::now();
    let network = network::resolve(&config, &facts).unwrap();
    let took = begin.elapsed();
    println!("resolve: {took:?}");
    assert_eq!(network.forwards.len(), 10_000);
    assert!(took.as_millis() < limit(100), "{took:?}");
    let begin = Instant::now();
    network::load(&good, &facts, false).unwrap();
    println!("load: {:?}", begin.elapsed());
}

#[test]
fn ten_thousand_collisions_are_fast() {
    let facts = HostFacts::assumed("eth0".parse().unwrap());
    for bad in [text(|_| "8080".to_owned()), text(|i| format!("{}-{}/tcp,udp", 1000 + i, 30_000 + i))] {
        let (config, _) = model::config::parse(&bad);
        let begin = Instant::now();
        let problems = network::resolve(&config, &facts).unwrap_err();
        let took = begin.elapsed();
        println!("{} problems: {took:?}", problems.len());
        assert!(problems.len() >= 9_999);
        assert!(took.as_millis() < limit(200), "{took:?}");
    }
}
