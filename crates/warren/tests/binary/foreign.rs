//! Beside other tools' firewalls: with the rules that the real ones write.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, nft, tool};
use crate::support::{Scene, all, reaches, serve, silent};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
FIX
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.cnx7]
kind = "netns"
address = ["10.1.1.7"]
[[forward]]
listen = "8080"
to = "cnx6:80"
[check]
reach = ["198.51.100.7:80"]
"#;

const GUESTS: [&str; 2] = ["cnx6", "cnx7"];

fn network(fix: bool) -> String {
    NETWORK.replace("FIX", if fix { "fix-foreign = true" } else { "" })
}

/// A file of rules that the real tool wrote on Debian 12.
fn written_by(tool: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/binary/foreign").join(tool)
}

/// Has a program of iptables' load such a file, as its tool did.
fn restore(program: &str, file: &str) {
    let rules = fs::read(written_by(file)).unwrap();
    let mut restore = Command::new(program).stdin(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
    restore.stdin.take().unwrap().write_all(&rules).unwrap();
    assert!(restore.wait().unwrap().success(), "{program} refused {file}");
}

/// Others' rules as their own tool shows them, whatever has been counted.
fn others() -> String {
    let all = tool("nft --stateless list ruleset");
    let tables = all.split("\n}\n").filter(|table| !table.contains(" warren {"));
    tables.collect::<Vec<_>>().join("\n}\n")
}

/// The forward from the world, and the way out: whether they work, beside what must not pass in any case.
fn flows(when: &str, open: bool) {
    let mut tries = vec![silent("neighbour", "10.1.1.6:80")];
    let (out, back) = ("198.51.100.7:80", "203.0.113.2:8080");
    if open {
        tries.push(reaches("cnx6", out, "world", "203.0.113.2"));
        tries.push(reaches("world", back, "cnx6", "203.0.113.1"));
        tries.push(reaches("cnx7", back, "cnx6", "10.1.1.1"));
        tries.push(reaches("cnx6", "[2001:db8:100::7]:80", "world", "2001:db8:113::2"));
    } else {
        tries.push(silent("cnx6", out));
        tries.push(silent("world", back));
        // What others do not stop goes on.
        tries.push(reaches("cnx7", "10.1.1.6:80", "cnx6", "10.1.1.7"));
    }
    all(when, &tries);
}

/// `up` beside `theirs`: it is told what stops what, and nothing of theirs changes; with `fix-foreign` it flows; after
/// `down` all is as it was.
fn beside(says: &[&str], theirs: impl FnOnce()) {
    let scene = Scene::new();
    // Frames between guests are nobody's business but the bridge's.
    for family in ["ip", "ip6"] {
        tool(&format!("sysctl -qw net.bridge.bridge-nf-call-{family}tables=0"));
    }
    theirs();
    let before = take();
    let rules = others();
    let ran = scene.up(&network(false), &GUESTS);
    for word in says {
        assert!(ran.err.contains(word), "up does not say {word:?}:\n{}", ran.err);
    }
    assert_eq!(others(), rules, "up leaves others' rules alone");
    let _servers = [serve(&scene, "world", 80), serve(&scene, "cnx6", 80)];
    flows("without a mend", false);
    scene.warren("check").says(1, says);

    scene.write(&network(true));
    let planned = scene.warren("plan").says(0, &["+ accept br1 to eth0", "+ accept eth0 to br1"]);
    assert!(!planned.err.contains("warning"), "what is to be mended needs no warning:\n{}", planned.err);
    let ran = scene.warren("up").ends(0);
    assert!(!ran.err.contains("warning"), "all is mended:\n{}", ran.err);
    assert!(others().contains("warren: br1 to eth0"), "the mend is marked:\n{}", others());
    flows("with the mend", true);
    scene.warren("check").ends(0);
    scene.warren("up").says(0, &["Nothing to change"]);
    scene.warren("status").ends(0);
    scene.warren("down").ends(0);
    assert_eq!(others(), rules, "down takes the mend away");
    assert_same(&before, &take(), "after down");
}

#[test]
fn docker_s_forward_policy() {
    lab(|| {
        let says = [
            "the policy of chain FORWARD of table ip filter (drop) stops",
            "cnx6 out to the world",
            "forward 8080/tcp from the world",
            "iptables -I DOCKER-USER -i br1 -o eth0 -j ACCEPT",
            "iptables -I DOCKER-USER -i eth0 -o br1 -j ACCEPT",
        ];
        beside(&says, || restore("iptables-nft-restore", "docker.rules"));
    });
}

#[test]
fn ufw() {
    lab(|| {
        let says = [
            "the policy of chain FORWARD of table ip filter (drop) stops",
            "the policy of chain FORWARD of table ip6 filter (drop) stops",
            "the policy of chain INPUT of table ip filter (drop) stops",
            "ufw route allow in on br1 out on eth0",
            "ufw allow in on br1",
        ];
        beside(&says, || {
            restore("iptables-nft-restore", "ufw.rules");
            restore("ip6tables-nft-restore", "ufw6.rules");
        });
    });
}

#[test]
fn a_rule_by_hand() {
    lab(|| {
        let says = [
            r#"the rule "iifname "br1" oifname "eth0" drop" (handle"#,
            "of chain forward of table inet theirs stops",
            r#"nft insert rule inet theirs forward iifname "br1" oifname "eth0" accept"#,
        ];
        beside(&says, || {
            nft("table inet theirs { chain forward { type filter hook forward priority 0; \
                 tcp dport 25 drop; iifname \"br1\" oifname \"eth0\" drop; iifname \"eth0\" oifname \"br1\" ct state new drop; }; }\n");
        });
    });
}

#[test]
fn libvirt_s_network_stops_nothing() {
    lab(|| {
        let scene = Scene::new();
        restore("iptables-nft-restore", "libvirt.rules");
        restore("ip6tables-nft-restore", "libvirt6.rules");
        let (before, rules) = (take(), others());
        let ran = scene.up(&network(true), &GUESTS);
        assert!(!ran.err.contains("warning"), "{}", ran.err);
        assert_eq!(others(), rules, "there is nothing to mend");
        let _servers = [serve(&scene, "world", 80), serve(&scene, "cnx6", 80)];
        flows("beside libvirt's", true);
        // What it rejects towards its own bridge is nothing of ours.
        scene.warren("check").ends(0);
        scene.warren("down").ends(0);
        assert_same(&before, &take(), "after down");
    });
}
