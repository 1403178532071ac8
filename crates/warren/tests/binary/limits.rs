//! What a guest may use of the host: bandwidth.
#![allow(clippy::unwrap_used)]

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::stream::Stream;
use crate::support::Scene;

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2"]
[lan.br1]
address = ["10.1.1.1/24"]
[guest.slow]
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
"#;

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
        let inward = Stream::open("server", "slow", "10.1.1.6");
        let outward = Stream::open("slow", "world", "198.51.100.7");
        inward.has(20e6);
        outward.has(10e6);
        // The neighbour is held in neither direction.
        Stream::open("server", "free", "10.1.1.7").is_free();
        Stream::open("free", "world", "198.51.100.7").is_free();

        // Other rates, for the same flows.
        scene.write(&network("limit = \"30mbit\""));
        scene.warren("plan").says(0, &["~ limit at slow: at most 20mbit leaves", "-> at most 30mbit leaves"]);
        scene.warren("up").ends(0);
        inward.has(30e6);
        outward.has(30e6);

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
        inward.has(30e6);
        outward.has(30e6);

        // Without a limit nothing of it is left, and the flows go on.
        scene.write(&network("limit = { out = \"30mbit\" }"));
        scene.warren("up").ends(0);
        inward.is_free();
        // Without a limit it takes all of the processors.
        drop(inward);
        outward.has(30e6);
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
