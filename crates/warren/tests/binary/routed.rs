//! A routed LAN: nothing is rewritten, the world comes in where it is let in, and where the outer segment takes the
//! guests for its own the host answers for them.
#![allow(clippy::unwrap_used)]

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{CLIENT, CLIENT6, NEIGHBOUR, NEIGHBOUR6, Scene, all, reaches, serve, settle, silent};

const ROUTED: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
mode = "routed"
address = ["10.1.1.1/24", "2001:db8:1:1::1/64"]
[lan.br2]
mode = "routed"
address = ["10.1.2.1/24", "2001:db8:1:2::1/64"]
ingress = "allow"
[guest.shy]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "2001:db8:1:1::6"]
[guest.web]
kind = "netns"
lan = "br1"
address = ["192.0.2.50", "2001:db8:1:1::7"]
[guest.open]
kind = "netns"
lan = "br2"
address = ["10.1.2.6", "2001:db8:1:2::6"]
[[allow]]
from = "world"
to = "web"
ports = ["80/tcp"]
[[forward]]
listen = "8080"
to = "shy:80"
"#;

/// The world knows which way the LANs are.
fn routes_from_outside(nets: &[&str], nets6: &[&str]) {
    for place in ["world", "neighbour"] {
        for net in nets {
            tool(&format!("ip -n {place} route add {net} via 203.0.113.2"));
        }
        for net in nets6 {
            tool(&format!("ip -n {place} route add {net} via 2001:db8:113::2"));
        }
    }
}

/// A server whose own address stands alone, with its router on the link beside it: as hosters give it.
fn by_an_on_link_gateway() {
    for line in [
        "ip address delete 203.0.113.2/24 dev eth0",
        "ip address add 203.0.113.2/32 dev eth0",
        "ip route add default via 203.0.113.1 dev eth0 onlink",
    ] {
        tool(line);
    }
}

#[test]
fn sources_are_kept_and_the_world_comes_in_where_it_is_let_in() {
    lab(|| {
        let scene = Scene::new();
        by_an_on_link_gateway();
        routes_from_outside(&["192.0.2.50"], &["2001:db8:1::/48"]);
        let before = take();
        scene.up(ROUTED, &["shy", "web", "open"]);
        let up = take();
        let _servers = ["shy", "web", "open", "world"].map(|place| serve(&scene, place, 80));
        all(
            "routed",
            &[
                reaches("shy", CLIENT, "world", "10.1.1.6"),
                reaches("shy", "[2001:db8:100::7]", "world", "2001:db8:1:1::6"),
                reaches("web", CLIENT, "world", "192.0.2.50"),
                reaches("shy", "192.0.2.50", "web", "10.1.1.6"),
                // In by an allow, by `ingress` and by a forward.
                reaches("world", "192.0.2.50", "web", CLIENT).by(CLIENT),
                reaches("world", "[2001:db8:1:1::7]", "web", CLIENT6).by(CLIENT6),
                reaches("world", "10.1.2.6", "open", CLIENT).by(CLIENT),
                reaches("neighbour", "[2001:db8:1:2::6]", "open", NEIGHBOUR6),
                reaches("world", "203.0.113.2:8080", "shy", CLIENT).by(CLIENT),
                // And nowhere else.
                silent("world", "10.1.1.6").by(CLIENT),
                silent("world", "[2001:db8:1:1::6]").by(CLIENT6),
                silent("neighbour", "10.1.1.6"),
                silent("world", "192.0.2.50:22").by(CLIENT),
                silent("shy", "10.1.2.6"),
                silent("world", "10.1.1.1").by(CLIENT),
            ],
        );
        scene.warren("plan --exit-code").ends(0);
        assert_same(&up, &take(), "after the packets");
        scene.warren("down").ends(0);
        assert_same(&before, &take(), "after down");
    });
}

const ANSWERED: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
mode = "routed"
proxy-arp = true
address = ["203.0.113.129/28", "2001:db8:113:0:1::1/80"]
[guest.web]
kind = "netns"
address = ["203.0.113.134", "2001:db8:113:0:1::6"]
[guest.shy]
kind = "netns"
address = ["203.0.113.135"]
[[allow]]
from = "world"
to = "web"
"#;

#[test]
fn the_host_answers_on_its_uplink_for_its_guests_and_for_nobody_else() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.up(ANSWERED, &["web", "shy"]);
        let _servers = ["web", "shy", "neighbour"].map(|place| serve(&scene, place, 80));
        all(
            "as if on the segment",
            &[
                reaches("neighbour", "203.0.113.134", "web", NEIGHBOUR),
                reaches("neighbour", "[2001:db8:113:0:1::6]", "web", NEIGHBOUR6),
                reaches("web", NEIGHBOUR, "neighbour", "203.0.113.134"),
                reaches("web", "[2001:db8:113::66]", "neighbour", "2001:db8:113:0:1::6"),
                silent("neighbour", "203.0.113.135"),
            ],
        );
        let own = tool("ip -json link show eth0");
        let mac = own.split("\"address\":\"").nth(1).unwrap().split('"').next().unwrap();
        let known = tool("ip -n neighbour neighbour show");
        for address in ["203.0.113.134", "2001:db8:113:0:1::6"] {
            let line =
                known.lines().find(|l| l.starts_with(&format!("{address} "))).unwrap_or_else(|| panic!("{known}"));
            assert!(line.contains(mac), "{line}");
        }
        // Nobody has this one, so nobody answers for it.
        let asked = std::process::Command::new("ip")
            .args(["netns", "exec", "neighbour", "arping", "-c", "1", "-w", "1", "-I", "eth0", "203.0.113.136"])
            .output()
            .unwrap();
        assert!(!asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
        scene.warren("down").ends(0);
        settle(&[]);
        assert_same(&before, &take(), "after down");
    });
}
