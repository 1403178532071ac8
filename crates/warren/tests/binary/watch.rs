//! What others change of a served network is changed back, at once and by no more than it takes.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::serve::Serve;
use crate::support::{CLIENT, PATIENCE, Scene, Talk, all, listen, reaches, serve, settle, silent};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6", "fd10:1:1::6"]
[[forward]]
listen = "8080"
to = "cnx6:80"
"#;

/// The count of repairs once it is above `before`.
#[track_caller]
pub fn repaired(scene: &Scene, before: u64) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = scene.warren("--json status").json();
        if status["serve"]["count"].as_u64().unwrap() > before && status["drift"].as_array().unwrap().is_empty() {
            return status["serve"].clone();
        }
        assert!(Instant::now() < deadline, "nothing was repaired: {status}");
    }
}

#[test]
fn what_others_change_is_changed_back_and_told() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write(NETWORK);
        let serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let whole = take();
        let _guest = serve(&scene, "cnx6", 80);
        let mut count = 0;
        for (change, told) in [
            ("ip link set cnx6 nomaster", "cnx6"),
            ("ip link set br1 down", "br1"),
            ("ip address del 10.1.1.1/24 dev br1", "10.1.1.1/24"),
            ("ip link delete cnx6", "cnx6"),
            ("ip link delete br1", "br1"),
            ("sysctl -qw net.ipv4.conf.br1.forwarding=0", "br1"),
        ] {
            tool(change);
            let repairs = repaired(&scene, count);
            count = repairs["count"].as_u64().unwrap();
            let last = repairs["last"].as_array().unwrap().last().unwrap();
            assert!(last["steps"].to_string().contains(told), "{change}: {last}");
            println!("{:4} ms {change}: {}", last["took_ms"], last["steps"]);
            settle(&["cnx6"]);
            assert_same(&whole, &take(), change);
        }
        all(
            "after all that",
            &[reaches("world", "203.0.113.2:8080", "cnx6", CLIENT).by(CLIENT), silent("world", "10.1.1.6").by(CLIENT)],
        );
        // What is others' own is none of its business.
        tool("ip link add theirs type bridge");
        tool("nft add table inet theirs");
        tool("ip link delete theirs");
        tool("nft delete table inet theirs");
        let status = scene.warren("--json status").ends(0).json();
        assert_eq!(status["serve"]["count"], count);
        scene.warren("status").says(0, &["repaired", "times; the last within"]);
        scene.warren("down").ends(0);
        drop(serving);
        assert_same(&before, &take(), "down");
    });
}

#[test]
fn the_rules_are_there_whatever_others_flush() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write(NETWORK);
        let serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let whole = take();
        let kept = scene.warren("--json status").ends(0).json()["serve"]["tables_kept"].as_bool().unwrap();
        let _echo = listen("cnx6", "TCP4-LISTEN:80,reuseaddr,fork", "EXEC:cat");
        let mut flow = Talk::open("world", "TCP4:203.0.113.2:8080,bind=198.51.100.7");
        for round in 0..5 {
            tool("nft flush ruleset");
            assert_eq!(flow.ask(&format!("{round}")), format!("{round}"), "a flow lives on");
        }
        if kept {
            // It passed them by, so there was nothing to repair; and nobody else takes them away.
            assert_eq!(scene.warren("--json status").ends(0).json()["serve"]["count"], 0);
            let deleted =
                std::process::Command::new("nft").args(["delete", "table", "inet", "warren"]).output().unwrap();
            assert!(!deleted.status.success());
        } else {
            let last = repaired(&scene, 0)["last"].clone();
            assert!(last.to_string().contains("by nft (pid"), "{last}");
        }
        assert_same(&whole, &take(), "flushed");
        // Commands of other processes' go through it; so does what comes after it has died.
        scene.warren("forward add 8081 cnx6:80").ends(0);
        let mut more = Talk::open("world", "TCP4:203.0.113.2:8081,bind=198.51.100.7");
        assert_eq!(more.ask("through serve"), "through serve");
        kill_process(serving.pid(), Signal::KILL).unwrap();
        serving.hears("the supervisor is gone");
        assert_eq!(flow.ask("its death"), "its death");
        assert_eq!(more.ask("its death"), "its death");
        scene.warren("forward remove 8081").ends(0);
        more.is_cut("by another process");
        assert_eq!(flow.ask("still"), "still");
        tool("nft flush ruleset");
        scene.warren("up").ends(0);
        assert_same(&whole, &take(), "without serve");
        drop(serving);
        let next = Serve::start(&scene);
        assert_same(&whole, &take(), "the next serve");
        tool("nft flush ruleset");
        let mut anew = Talk::open("world", "TCP4:203.0.113.2:8080,bind=198.51.100.7");
        assert_eq!(anew.ask("the next"), "the next");
        // What is to be confirmed, and is not, is put back past a serve that keeps the tables.
        scene.write(&NETWORK.replace("8080", "8090"));
        scene.warren("up --confirm 2").ends(0);
        let deadline = Instant::now() + PATIENCE;
        while scene.warren("--json status").json()["forwards"][0]["listen"]["ports"] != "8080" {
            assert!(Instant::now() < deadline, "not put back");
        }
        anew = Talk::open("world", "TCP4:203.0.113.2:8080,bind=198.51.100.7");
        assert_eq!(anew.ask("put back"), "put back");
        scene.warren("down").ends(0);
        drop(next);
        assert_same(&before, &take(), "down");
    });
}

#[test]
fn who_fights_back_is_told_of_and_answered_less_often() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let fighter = {
            let over = std::sync::Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    // As soon as it is plugged in, it is pulled out.
                    if tool("ip -br link show master br1").contains("cnx6") {
                        tool("ip link set cnx6 nomaster");
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            })
        };
        let line = serving.hears("undoes what is repaired");
        assert!(line.contains("the next in 1 s"), "{line}");
        serving.hears("the next in 2 s");
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        fighter.join().unwrap();
        // It wins in the end.
        let deadline = Instant::now() + PATIENCE;
        while !scene.warren("--json status").json()["drift"].as_array().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the last repair does not come");
        }
        assert!(tool("ip -br link show master br1").contains("cnx6"));
        let count = scene.warren("--json status").ends(0).json()["serve"]["count"].as_u64().unwrap();
        assert!((5..12).contains(&count), "{count} repairs");
        drop(serving);
        scene.warren("down").ends(0);
    });
}

#[test]
fn an_uplink_that_comes_or_changes_is_followed() {
    lab(|| {
        let scene = Scene::new();
        scene.write(&NETWORK.replace("public = [\"203.0.113.2\", \"2001:db8:113::2\"]\n", ""));
        tool("ip link set eth0 down");
        tool("ip link set eth0 name late");
        let serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let _guest = serve(&scene, "cnx6", 80);
        tool("ip link set late name eth0");
        tool("ip link set eth0 up");
        tool("ip route replace default via 203.0.113.1");
        let deadline = Instant::now() + PATIENCE;
        while tool("sysctl -n net.ipv4.conf.eth0.forwarding").trim() != "1" {
            assert!(Instant::now() < deadline, "the uplink that came is not taken up");
        }
        all("once it is there", &[reaches("world", "203.0.113.2:8080", "cnx6", CLIENT).by(CLIENT)]);
        drop(serving);
        scene.warren("down").ends(0);
    });
}
