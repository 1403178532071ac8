//! `warren check` on a live server: from inside, and from outside on its replica.
#![allow(clippy::unwrap_used)]

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, nft, tool};
use crate::support::{Scene, serve};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24"]
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.vault]
kind = "netns"
lan = "br2"
address = ["10.1.2.9"]
[[forward]]
listen = "8080"
to = "cnx6:80"
[check]
reach = ["198.51.100.7:80"]
"#;

#[test]
fn a_sound_network_is_proved_and_stays_as_it_is() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6", "vault"]);
        let _world = serve(&scene, "world", 80);
        // The replica's namespaces go with it; what was here must be as before.
        let before = take();
        let words = ["On this host", "On a replica of this network", "probes held", "198.51.100.7", "forward 8080/tcp"];
        scene.warren("check").says(0, &words);
        let document = scene.warren("--json check").ends(0).json();
        assert_eq!(document["ok"], true);
        let probes = document["probes"].as_array().unwrap();
        let replica = document["replica"]["probes"].as_array().unwrap();
        assert!(
            probes.iter().any(|p| p["row"] == "G-W" && p["nothing_listens"] == false),
            "the world's server was heard"
        );
        assert!(replica.iter().any(|p| p["row"] == "W-G-forward") && replica.iter().any(|p| p["row"] == "W-G-direct"));
        assert_same(&before, &take(), "check changes nothing");
    });
}

#[test]
fn it_can_be_asked_from_one_place_alone() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6", "vault"]);
        for (place, from) in [("host", "this host"), ("cnx6", "cnx6"), ("vault", "vault")] {
            let document = scene.warren(&format!("--json check --from {place}")).ends(0).json();
            let probes = document["probes"].as_array().unwrap();
            assert!(!probes.is_empty() && probes.iter().all(|p| p["from"] == from), "{place}: {probes:?}");
            assert!(document["replica"]["probes"].as_array().unwrap().is_empty());
        }
        let document = scene.warren("--json check --from world").ends(0).json();
        assert!(document["probes"].as_array().unwrap().is_empty());
        let replica = document["replica"]["probes"].as_array().unwrap();
        assert!(replica.iter().all(|p| p["from"] == "the world" || p["from"] == "a neighbour"));
    });
}

#[test]
fn another_s_firewall_that_drops_is_found_by_packets_and_named() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6", "vault"]);
        scene.warren("check").ends(0);
        // As Docker's, ufw's and many a hand-made one's.
        nft("table ip theirs { chain forward { type filter hook forward priority 0; policy drop; }; }\n");
        let words = ["BROKEN", "cnx6 out to the world", "forward 8080/tcp from the world", "theirs", "iifname"];
        scene.warren("check").says(1, &words);
        // One that drops what warren does not speak of is nobody's fault.
        nft("delete table ip theirs\n");
        nft("table ip theirs { chain forward { type filter hook forward priority 0; tcp dport 25 drop; }; }\n");
        scene.warren("check").ends(0);
    });
}

#[test]
fn what_is_not_as_it_should_be_is_told() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6", "vault"]);
        tool("ip link set vault nomaster");
        scene.warren("check").says(1, &["not as it should be", "cable vault", "BROKEN"]);
        let document = scene.warren("--json check").ends(1).json();
        assert_eq!(document["drift"].as_array().unwrap().len(), 1);
        let quiet = scene.warren("-q check").says(1, &["did not hold", "vault to its gateway", "cable vault"]);
        assert!(!quiet.out.contains("WHAT"), "{}", quiet.out);
        scene.warren("up").ends(0);
        scene.warren("check").ends(0);
        let quiet = scene.warren("-q check").ends(0);
        assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    });
}
