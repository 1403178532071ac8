//! Ten thousand forwards are read and resolved, and so are ten thousand that collide. (How fast is for the benches.)
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

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

#[test]
fn ten_thousand_forwards_are_read() {
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
    let network = network::resolve(&config, &facts).unwrap();
    assert_eq!(network.forwards.len(), 10_000);
    network::load(&good, &facts).unwrap();
}

#[test]
fn ten_thousand_collisions_are_all_told() {
    let facts = HostFacts::assumed("eth0".parse().unwrap());
    for bad in [text(|_| "8080".to_owned()), text(|i| format!("{}-{}/tcp,udp", 1000 + i, 30_000 + i))] {
        let (config, _) = model::config::parse(&bad);
        let problems = network::resolve(&config, &facts).unwrap_err();
        assert!(problems.len() >= 9_999);
    }
}
