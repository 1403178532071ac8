//! `up` and `down` in a real namespace: idempotent, repairing, all or nothing, and nothing left behind. What is seen
//! is what `ip` and `nft` show, not what we say.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::snapshot::{assert_same, take};
use common::{lab, nft, tool, without_detection};
use kernel::apply::{ApplyError, Engine, Report};
use model::network::Network;
use model::plan::Step;

/// A server with an uplink that has a default route, in the calling thread's namespace, and warren's folders.
struct Server {
    _folder: tempfile::TempDir,
    state: PathBuf,
    run: PathBuf,
}

const SEED: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
taps = ["tap0"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24"]
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
limit = { in = "20mbit", out = "10mbit" }
[guest.cnx7]
kind = "netns"
lan = "br1"
address = ["10.1.1.7"]
[guest.vault]
kind = "netns"
lan = "br2"
address = ["10.1.2.9"]
[guest.win]
kind = "vm"
lan = "br1"
address = ["10.1.1.20"]
[[forward]]
listen = "22210/tcp"
to = "cnx6:22"
[[forward]]
listen = "22217/tcp,udp"
to = "cnx7:22"
"#;

/// The same after an evening's changes: a guest less, one moved, other addresses and forwards, another MTU.
const CHANGED: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.254/24", "fd10:1:1::1/64"]
mtu = 1400
[lan.br3]
address = ["10.1.3.1/24"]
taps = ["tap0"]
[guest.cnx6]
kind = "netns"
lan = "br3"
address = ["10.1.3.6"]
limit = "30mbit"
[guest.vault]
kind = "netns"
lan = "br1"
address = ["10.1.1.9"]
[guest.new]
kind = "netns"
lan = "br1"
address = ["10.1.1.10"]
limit = { in = "1gbit" }
[[forward]]
listen = "22210/tcp"
to = "cnx6:2222"
[[forward]]
listen = "53/udp"
to = "new"
"#;

impl Server {
    fn new() -> Self {
        tool("ip link add eth0 type veth peer name world0");
        tool("ip link set world0 up");
        tool("ip link set eth0 up");
        tool("ip address add 203.0.113.2/24 dev eth0");
        tool("ip -6 address add 2001:db8:113::2/64 dev eth0 nodad");
        tool("ip route add default via 203.0.113.1");
        // The veth's own link-local addresses settle by duplicate address detection, which is not what is compared.
        settle();
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("state"), folder.path().join("run"));
        Self { _folder: folder, state, run }
    }

    fn engine(&self) -> Engine {
        Engine::new(&self.state, &self.run).unwrap()
    }

    fn up(&self, text: &str) -> Result<Report, ApplyError> {
        self.up_watched(text, &mut |_, _| Ok(()))
    }

    fn up_watched(&self, text: &str, watch: kernel::apply::Watch) -> Result<Report, ApplyError> {
        self.engine().up(&network(text), Path::new("/warren.toml"), false, watch)
    }

    fn down(&self) -> Report {
        self.engine().down(&mut |_, _| Ok(())).unwrap()
    }
}

/// Waits until no address is tentative: an event of the kernel's, bounded.
fn settle() {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while tool("ip -6 address show tentative").contains("inet6") {
        assert!(std::time::Instant::now() < deadline, "addresses stay tentative");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn network(text: &str) -> Network {
    let (config, problems) = model::config::parse(text);
    assert!(problems.is_empty(), "{problems:?}");
    model::network::resolve(&config, &kernel::facts::gather().unwrap()).unwrap()
}

fn steps(report: &Report) -> Vec<String> {
    report.done.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn up_twice_changes_nothing_and_down_leaves_nothing() {
    lab(|| {
        let server = Server::new();
        let before = take();
        let report = server.up(SEED).unwrap();
        assert!(report.done.steps.len() > 10);
        let up = take();
        let ports = tool("bridge link show");
        for port in ["cnx6", "cnx7", "tap0", "win"] {
            assert!(ports.contains(port), "{port} is not plugged in:\n{ports}");
        }
        assert!(tool("ip -netns cnx6 -br address").contains("10.1.1.6/24"));
        assert!(tool("ip -netns cnx6 route").contains("default via 10.1.1.1"));
        assert!(tool("nft list table inet warren").contains("22210"));

        assert_eq!(steps(&server.up(SEED).unwrap()), Vec::<String>::new());
        assert_same(&up, &take(), "after the second up");
        server.down();
        assert_same(&before, &take(), "after down");
        assert_eq!(steps(&server.down()), Vec::<String>::new());
        assert_same(&before, &take(), "after the second down");
        assert_eq!(std::fs::read_dir(&server.state).unwrap().count(), 0, "files are left in the state folder");
    });
}

#[test]
fn a_changed_file_is_carried_through_and_down_leaves_nothing() {
    lab(|| {
        let server = Server::new();
        let before = take();
        server.up(SEED).unwrap();
        server.up(CHANGED).unwrap();
        let changed = take();
        assert_eq!(steps(&server.up(CHANGED).unwrap()), Vec::<String>::new());
        server.up(SEED).unwrap();
        server.up(CHANGED).unwrap();
        assert_same(&changed, &take(), "there and back and there again");
        server.down();
        assert_same(&before, &take(), "after down");
    });
}

/// What somebody may do to a network that is up, and what the repair may touch.
const DISTURBANCES: [(&str, &[&str]); 20] = [
    ("ip link set cnx6 nomaster", &["cable cnx6"]),
    ("ip link set tap0 nomaster", &["tap tap0"]),
    ("ip link set br1 down", &["bridge br1", "address fd10:1:1::1/64 on br1"]),
    ("ip link delete cnx7", &["cable cnx7", "eth0 in cnx7"]),
    ("ip link delete br2", &["bridge br2", "switch net.", "on br2", "cable vault"]),
    ("ip address delete 10.1.1.1/24 dev br1", &["address 10.1.1.1/24 on br1"]),
    ("ip -netns cnx6 address delete 10.1.1.6/24 dev eth0", &["address 10.1.1.6/24 on eth0 in cnx6", "route 0.0.0.0/0"]),
    ("ip -netns cnx6 route delete default", &["route 0.0.0.0/0 via 10.1.1.1 by eth0 in cnx6"]),
    ("ip netns delete cnx6", &["namespace cnx6", "cable cnx6", "eth0 in cnx6", "limit at cnx6"]),
    ("tc qdisc delete dev cnx6 root", &["limit at cnx6"]),
    ("tc qdisc delete dev cnx6 ingress", &["limit at cnx6"]),
    ("tc qdisc delete dev ifb-cnx6 root", &["limit at ifb-cnx6"]),
    ("ip link delete ifb-cnx6", &["queue ifb-cnx6", "limit at ifb-cnx6", "limit at cnx6"]),
    ("ip link set br1 address 02:00:00:00:00:99", &["bridge br1"]),
    ("sysctl -q net.ipv4.conf.eth0.forwarding=0", &["switch net.ipv4.conf.eth0.forwarding"]),
    ("nft insert rule inet warren forward drop", &["table inet warren"]),
    ("nft flush chain inet warren postrouting", &["table inet warren"]),
    ("nft delete table inet warren", &["table inet warren"]),
    ("nft delete element inet warren forwards4 { tcp . 22210 }", &["forwards4 of table inet warren: tcp 22210"]),
    ("nft add element inet warren forwards4 { tcp . 1 : 10.1.1.6 . 1 }", &["forwards4 of table inet warren: tcp 1 "]),
];

#[test]
fn what_somebody_disturbs_is_repaired_and_nothing_else_is_touched() {
    lab(|| {
        let server = Server::new();
        let before = take();
        server.up(SEED).unwrap();
        let whole = take();
        for (disturbance, touched) in DISTURBANCES {
            tool(disturbance);
            assert_ne!(take(), whole, "{disturbance} changed nothing");
            let report = server.up(SEED).unwrap();
            assert!(!report.done.is_empty(), "{disturbance} went unseen");
            for step in steps(&report) {
                assert!(touched.iter().any(|t| step.contains(t)), "{disturbance}: the repair also did: {step}");
            }
            settle();
            assert_same(&whole, &take(), disturbance);
        }
        server.down();
        assert_same(&before, &take(), "after down");
    });
}

#[test]
fn whichever_step_fails_what_was_is_put_back() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let fail_each = |text: &str, when: &str| {
            let before = take();
            let mut tried = 0;
            loop {
                let mut watch = |index: usize, step: &Step| {
                    if index == tried { Err(format!("told to fail at {step}")) } else { Ok(()) }
                };
                match server.up_watched(text, &mut watch) {
                    Ok(_) => break,
                    Err(ApplyError::Step { index, leftovers, .. }) => {
                        assert_eq!(index, tried);
                        assert!(leftovers.is_empty(), "{leftovers:?}");
                    }
                    Err(other) => panic!("step {tried} {when}: {other}"),
                }
                settle();
                assert_same(&before, &take(), &format!("step {tried} failed {when}"));
                tried += 1;
            }
            assert!(tried > 8, "only {tried} steps {when}");
            println!("{tried} steps failed in turn {when}");
        };
        fail_each(SEED, "from nothing");
        fail_each(CHANGED, "from one network to another");
        tool("nft insert rule inet warren forward drop");
        tool("ip link set cnx6 nomaster");
        fail_each(SEED, "over a disturbed network");
    });
}

#[test]
fn down_that_fails_on_the_way_puts_the_network_back() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let before = take();
        server.up(SEED).unwrap();
        let up = take();
        let mut tried = 0;
        loop {
            let mut watch =
                |index: usize, _: &Step| if index == tried { Err("told to fail".to_owned()) } else { Ok(()) };
            if server.engine().down(&mut watch).is_ok() {
                break;
            }
            settle();
            assert_same(&up, &take(), &format!("step {tried} of down failed"));
            assert_eq!(steps(&server.up(SEED).unwrap()), Vec::<String>::new(), "step {tried} of down failed");
            tried += 1;
        }
        assert!(tried > 8);
        assert_same(&before, &take(), "after down");
    });
}

#[test]
fn what_is_another_s_is_a_conflict_and_stays() {
    lab(|| {
        let server = Server::new();
        for (make, remove, named) in [
            ("ip link add br1 type bridge", "ip link delete br1", "the interface br1"),
            ("ip link add cnx6 type veth peer name other0", "ip link delete cnx6", "the interface cnx6"),
            ("ip tuntap add dev tap0 mode tap", "ip link delete tap0", "the interface tap0"),
            ("ip netns add cnx7", "ip netns delete cnx7", "the network namespace cnx7"),
            ("nft add table inet warren", "nft delete table inet warren", "the table inet warren"),
        ] {
            let clean = take();
            tool(make);
            settle();
            let with = take();
            match server.up(SEED) {
                Err(ApplyError::Conflicts(conflicts)) => assert_eq!(conflicts[0].object, named, "{make}"),
                other => panic!("{make}: {other:?}"),
            }
            assert_same(&with, &take(), make);
            tool(remove);
            assert_same(&clean, &take(), remove);
        }
    });
}

#[test]
fn others_tables_are_left_alone() {
    lab(|| {
        let server = Server::new();
        nft(
            "table inet theirs { chain forward { type filter hook forward priority 0; policy accept; tcp dport 1 drop; }; };",
        );
        let before = take();
        server.up(SEED).unwrap();
        assert!(tool("nft list table inet theirs").contains("tcp dport 1 drop"));
        server.down();
        assert_same(&before, &take(), "after down");
    });
}

#[test]
fn down_leaves_switches_that_found_another_user() {
    lab(|| {
        let server = Server::new();
        server.up(SEED).unwrap();
        // As Docker does when it starts.
        tool("sysctl -q net.ipv4.ip_forward=1");
        let report = server.down();
        assert!(report.kept.iter().any(|k| k.contains("net.ipv4.conf.eth0.forwarding stays 1")), "{:?}", report.kept);
        assert_eq!(tool("sysctl -n net.ipv4.conf.eth0.forwarding").trim(), "1");
    });
}

#[test]
fn two_at_once_wait_for_each_other() {
    lab(|| {
        let server = Server::new();
        let reports = std::thread::scope(|scope| {
            let ups: Vec<_> = (0..3).map(|_| scope.spawn(|| server.up(SEED).unwrap())).collect();
            ups.into_iter().map(|up| up.join().unwrap()).collect::<Vec<_>>()
        });
        let worked = reports.iter().filter(|r| !r.done.is_empty()).count();
        assert_eq!(worked, 1, "one did it, the others found it done");
    });
}

#[test]
fn another_file_s_network_is_not_taken_over_unasked() {
    lab(|| {
        let server = Server::new();
        server.up(SEED).unwrap();
        let up = take();
        let other = Path::new("/other.toml");
        let refused = server.engine().up(&network(CHANGED), other, false, &mut |_, _| Ok(())).unwrap_err();
        assert!(matches!(refused, ApplyError::OtherConfig { .. }), "{refused}");
        assert_same(&up, &take(), "refused");
        server.engine().up(&network(CHANGED), other, true, &mut |_, _| Ok(())).unwrap();
    });
}

/// Where the kernel forwards IPv6 for the whole host alone (before 6.17): everything that it turns along is put back.
#[test]
fn forwarding_for_the_whole_host_is_put_back_whole() {
    lab(|| {
        let server = Server::new();
        tool("ip link add eth1 type veth peer name other0");
        tool("sysctl -q net.ipv6.conf.eth1.forwarding=1");
        tool("sysctl -q net.ipv6.conf.eth0.accept_ra=1");
        settle();
        let before = take();
        let mut facts = kernel::facts::gather().unwrap();
        facts.ipv6_force_forwarding = false;
        for interface in &mut facts.interfaces {
            interface.learnt_route = interface.name.as_str() == "eth0";
        }
        let (config, _) = model::config::parse(SEED);
        let network = model::network::resolve(&config, &facts).unwrap();
        server.engine().up(&network, Path::new("/warren.toml"), false, &mut |_, _| Ok(())).unwrap();
        assert_eq!(tool("sysctl -n net.ipv6.conf.all.forwarding").trim(), "1");
        assert_eq!(tool("sysctl -n net.ipv6.conf.eth0.accept_ra").trim(), "2");
        // By now accept_ra is 2, and the route may be lost for a moment.
        facts.interfaces.iter_mut().for_each(|interface| interface.learnt_route = false);
        let network = model::network::resolve(&config, &facts).unwrap();
        let again = server.engine().up(&network, Path::new("/warren.toml"), false, &mut |_, _| Ok(())).unwrap();
        assert_eq!(steps(&again), Vec::<String>::new());
        server.down();
        assert_same(&before, &take(), "after down");
    });
}
