//! What the kernel tells of changes by programs that are not ours.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{lab, nft, tool};
use kernel::watch::{BUFFER, Seen, Watch, What};

/// Waits for a change like this; all that was told until then.
fn until(watch: &mut Watch, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    while !all.iter().any(&wanted) {
        assert!(Instant::now() < deadline, "not told: {all:?}");
        all.extend(watch.wait(Duration::from_secs(1)).unwrap());
    }
    all
}

#[test]
fn every_sort_of_change_is_told_and_of_rules_by_whom() {
    lab(|| {
        tool("ip link add eth0 type veth peer name other");
        tool("ip link set eth0 up");
        let mut watch = Watch::open(BUFFER).unwrap();
        assert_eq!(watch.take().unwrap(), []);
        assert_eq!(watch.wait(Duration::from_millis(20)).unwrap(), [], "nothing has changed");
        for (line, what) in [
            ("ip link add br9 type bridge", What::Link("br9".to_owned())),
            ("ip link delete br9", What::Link("br9".to_owned())),
            ("ip address add 203.0.113.2/24 dev eth0", What::Address),
            ("ip -6 address add 2001:db8::2/64 dev eth0 nodad", What::Address),
            ("ip address del 203.0.113.2/24 dev eth0", What::Address),
            ("ip route add blackhole 192.0.2.0/24", What::Route),
            ("ip -6 route add blackhole 2001:db8:9::/64", What::Route),
            ("ip rule add priority 7 table 7", What::Rule),
            ("ip -6 rule add priority 7 table 7", What::Rule),
            ("sysctl -qw net.ipv4.conf.eth0.forwarding=1", What::Switch),
            ("sysctl -qw net.ipv6.conf.eth0.forwarding=1", What::Switch),
        ] {
            tool(line);
            until(&mut watch, |seen| seen.what == what);
        }
        watch.take().unwrap();
        nft("table inet theirs { set s { type ipv4_addr; }; }\n");
        let seen = until(&mut watch, |seen| seen.what == What::Table("theirs".to_owned()));
        assert_eq!(seen.len(), 1, "one transaction, told once: {seen:?}");
        assert_eq!(seen[0].by.as_ref().map(|by| by.name.as_str()), Some("nft"));
        nft("add element inet theirs s { 192.0.2.1 }\n");
        until(&mut watch, |seen| seen.what == What::Table("theirs".to_owned()));
        tool("nft flush ruleset");
        until(&mut watch, |seen| seen.what == What::Table("theirs".to_owned()) && seen.by.is_some());
    });
}

#[test]
fn more_than_the_buffer_holds_is_told_too() {
    lab(|| {
        // The smallest that the kernel gives: a few messages.
        let mut watch = Watch::open(2048).unwrap();
        for n in 0..200 {
            tool(&format!("ip link add br{n} type bridge"));
        }
        until(&mut watch, |seen| seen.what == What::Unknown);
        watch.take().unwrap();
        tool("ip link delete br7");
        until(&mut watch, |seen| seen.what == What::Link("br7".to_owned()));
    });
}
