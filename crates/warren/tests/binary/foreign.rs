//! Beside other tools' firewalls: with the rules that the real ones write.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, nft, tool};
use crate::support::{PATIENCE, Running, Scene, all, at, reaches, serve, silent};

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

/// Others' rules as their own tools show them, whatever has been counted.
fn others() -> String {
    let all = tool("nft --stateless list ruleset");
    let tables = all.split("\n}\n").filter(|table| !table.contains(" warren {"));
    tables.collect::<Vec<_>>().join("\n}\n") + &legacy()
}

/// Which tables of iptables-legacy's there are. Its programs make a table by looking at it; this does not.
fn legacy_tables() -> [String; 2] {
    ["ip", "ip6"].map(|family| fs::read_to_string(format!("/proc/net/{family}_tables_names")).unwrap())
}

/// What stands in them, without times and counters.
fn legacy() -> String {
    let mut lines = Vec::new();
    for (program, names) in ["iptables-legacy-save", "ip6tables-legacy-save"].into_iter().zip(legacy_tables()) {
        let saved = if names.is_empty() { String::new() } else { tool(program) };
        let kept = saved.lines().filter(|line| !line.starts_with('#'));
        lines.extend(kept.map(|line| line.split(" [").next().unwrap().to_owned()));
    }
    lines.join("\n")
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
    beside_what(says, || flows("without a mend", false), theirs);
}

/// The same where `closed` tells how what they stop looks to who asks.
fn beside_what(says: &[&str], closed: impl FnOnce(), theirs: impl FnOnce()) {
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
    closed();
    scene.warren("check").says(1, says);

    scene.write(&network(true));
    let planned = scene.warren("plan").says(0, &["+ accept br1 to eth0", "+ accept eth0 to br1"]);
    assert!(!planned.err.contains("warning"), "what is to be mended needs no warning:\n{}", planned.err);
    let ran = scene.warren("up").ends(0);
    assert!(!ran.err.contains("warning"), "all is mended:\n{}", ran.err);
    assert!(others().contains("warren: br1 to eth0"), "the mend is marked:\n{}", others());
    if rules.contains("table ip filter {") {
        // Those whose chain it is can read it: a rule in another form would keep iptables from its whole table.
        let listed = tool("iptables-nft -S");
        let ours = r#"-i br1 -o eth0 -m comment --comment "warren: br1 to eth0" -j ACCEPT"#;
        assert!(listed.contains(ours), "{listed}");
    }
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
        assert_eq!(legacy_tables(), ["", ""], "looking makes no table");
    });
}

/// A bus for the lab alone: who is on it may do everything.
const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/></policy></busconfig>"#;

/// The bus, ready for who wants on it.
pub fn bus(scene: &Scene) -> Running {
    fs::create_dir("/run/dbus").unwrap();
    let config = scene.folder().join("bus.conf");
    fs::write(&config, BUS).unwrap();
    let mut bus = Command::new("dbus-daemon");
    bus.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]);
    let bus = Running::start(&mut bus);
    let deadline = Instant::now() + PATIENCE;
    while !PathBuf::from("/run/dbus/system_bus_socket").exists() {
        assert!(Instant::now() < deadline, "there is no bus");
        std::thread::sleep(Duration::from_millis(20));
    }
    bus
}

/// The real firewalld, from Debian's packages as `cargo xtask test` unpacks them, laid over this lab's own view of the
/// machine's files; ready when it is returned.
fn firewalld(scene: &Scene) -> [Running; 2] {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/firewalld").canonicalize();
    let unpacked = unpacked.expect("`cargo xtask test` unpacks firewalld").display().to_string();
    for folder in ["usr", "etc"] {
        tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/{folder}:/{folder} /{folder}"));
    }
    tool("mount -t tmpfs tmpfs /var/log");
    let bus = bus(scene);
    let deadline = Instant::now() + PATIENCE;
    let wait = || {
        assert!(Instant::now() < deadline, "firewalld does not come up");
        std::thread::sleep(Duration::from_millis(20));
    };
    let firewalld = Running::start(Command::new("firewalld").args(["--nofork", "--nopid"]));
    while !Command::new("firewall-cmd").arg("--state").stderr(Stdio::null()).status().unwrap().success() {
        wait();
    }
    [bus, firewalld]
}

#[test]
fn firewalld_itself() {
    lab(|| {
        let scene = Scene::new();
        let _firewalld = firewalld(&scene);
        let rules = others();
        let says = [
            "the rule \"reject\" (handle",
            "of chain filter_FWD_public of table inet firewalld stops",
            "cnx6 out to the world",
            "of chain filter_IN_public of table inet firewalld stops",
            "cnx6 asks its gateway for names",
            "firewall-cmd --zone=trusted --add-interface=br1",
        ];
        let ran = scene.up(&network(false), &GUESTS);
        assert!(says.iter().all(|word| ran.err.contains(word)), "{}", ran.err);
        assert_eq!(others(), rules, "up leaves firewalld alone");
        let _servers = [serve(&scene, "world", 80), serve(&scene, "cnx6", 80)];
        scene.warren("check").says(1, &says[..2]);

        scene.write(&network(true));
        scene.warren("plan").says(0, &["+ br1 in firewalld's zone trusted"]);
        let ran = scene.warren("up").ends(0);
        assert!(!ran.err.contains("warning"), "{}", ran.err);
        flows("with the mend", true);
        scene.warren("check").ends(0);
        scene.warren("up").says(0, &["Nothing to change"]);
        // A reload takes along what firewalld holds in memory alone.
        tool("firewall-cmd --reload");
        scene.warren("status").says(0, &["+ br1 in firewalld's zone trusted"]);
        scene.warren("up").ends(0);
        flows("after a reload", true);
        scene.warren("down").ends(0);
        assert_eq!(tool("firewall-cmd --get-active-zones"), "");
        // firewalld keeps a zone's chains once it has made them; nothing leads into them, and nothing names our bridge.
        assert!(!others().contains("br1"), "{}", others());
        tool("firewall-cmd --reload");
        assert_eq!(others(), rules, "after down");
    });
}

#[test]
fn legacy_iptables() {
    lab(|| {
        let says = [
            "the rule \"-A FORWARD -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\" (number 2) \
             of chain FORWARD of table ip filter of iptables-legacy stops",
            "forward 8080/tcp from the world",
            "the policy of chain FORWARD of table ip filter of iptables-legacy (drop) stops",
            "cnx6 out to the world",
            "the policy of chain FORWARD of table ip6 filter of iptables-legacy (drop) stops",
            "`iptables-legacy -I FORWARD -i br1 -o eth0 -j ACCEPT`",
            "`iptables-legacy -I FORWARD -i eth0 -o br1 -j ACCEPT`",
            "`ip6tables-legacy -I FORWARD -i br1 -o eth0 -j ACCEPT`",
        ];
        // A rejected one hears of it; IPv6 meets the policy.
        let closed = || {
            for (from, to) in [("cnx6", "198.51.100.7:80"), ("world", "203.0.113.2:8080")] {
                let mut curl = at(from, "curl");
                curl.args(["--silent", "--noproxy", "*", "--max-time", "20"]).arg(format!("http://{to}/"));
                assert_eq!(curl.output().unwrap().status.code(), Some(7), "{from} to {to} is not refused");
            }
            all(
                "without a mend",
                &[
                    reaches("cnx7", "10.1.1.6:80", "cnx6", "10.1.1.7"),
                    silent("neighbour", "10.1.1.6:80"),
                    silent("cnx6", "[2001:db8:100::7]:80"),
                ],
            );
        };
        beside_what(&says, closed, || {
            tool("iptables-legacy -P FORWARD DROP");
            tool("iptables-legacy -A FORWARD -i tun0 -j ACCEPT");
            tool("iptables-legacy -A FORWARD -p tcp --dport 80 -j REJECT");
            tool("ip6tables-legacy -P FORWARD DROP");
        });
        assert_eq!(legacy_tables(), ["filter\n", "filter\n"], "looking makes no table");
    });
}

#[test]
fn docker_on_legacy_iptables() {
    lab(|| {
        let says = [
            "the policy of chain FORWARD of table ip filter of iptables-legacy (drop) stops",
            "cnx6 out to the world",
            "`iptables-legacy -I DOCKER-USER -i br1 -o eth0 -j ACCEPT`",
        ];
        beside(&says, || restore("iptables-legacy-restore", "docker.rules"));
        assert_eq!(legacy_tables()[1], "", "looking makes no table");
    });
}

/// A FORWARD of iptables-legacy's that drops, and bridged frames kept from it.
fn dropping_policy() {
    for family in ["ip", "ip6"] {
        tool(&format!("sysctl -qw net.bridge.bridge-nf-call-{family}tables=0"));
        tool(&format!("{family}tables-legacy -P FORWARD DROP"));
    }
}

const MARKED: [&str; 9] = ["FORWARD", "-i", "br1", "-o", "eth0", "-m", "comment", "--comment", "warren: br1 to eth0"];

#[test]
fn a_lost_legacy_mend_is_drift_and_a_refused_one_undoes_all() {
    lab(|| {
        let scene = Scene::new();
        dropping_policy();
        let (before, rules) = (take(), others());
        scene.up(&network(true), &GUESTS);
        let mended = others();
        let mut delete = Command::new("iptables-legacy");
        assert!(delete.arg("-D").args(MARKED).args(["-j", "ACCEPT"]).status().unwrap().success());
        let lost = "+ accept br1 to eth0 in chain FORWARD of table ip filter of iptables-legacy";
        scene.warren("status").says(0, &[lost]);
        scene.warren("check").says(1, &[lost, "cnx6 out to the world"]);
        scene.warren("up").says(0, &["The network is up: 1 steps."]);
        // First in its chain again; the rest as it was.
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&others()), sorted(&mended));
        scene.warren("down").ends(0);
        assert_eq!(others(), rules);

        // What is refused here alone, behind mends that were made: the real program, but for IPv6's.
        let laid = scene.folder().join("usr/sbin");
        fs::create_dir_all(&laid).unwrap();
        let program = laid.join("ip6tables-legacy-restore");
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let refuses = format!(
            "#!/bin/sh\n[ \"$(readlink /proc/self/ns/net)\" = '{}' ] && {{ echo 'not today' >&2; exit 3; }}\n\
             exec xtables-legacy-multi ip6tables-restore \"$@\"\n",
            here.display()
        );
        fs::write(&program, refuses).unwrap();
        tool(&format!("chmod 755 {}", program.display()));
        tool(&format!("mount -t overlay overlay -o lowerdir={}:/usr /usr", scene.folder().join("usr").display()));
        scene.warren("up").says(1, &["ip6tables-legacy-restore: not today", "restored"]);
        assert_eq!(others(), rules, "the mends that were made are taken back");
        assert_same(&before, &take(), "after what failed");
    });
}

#[test]
fn legacy_iptables_without_their_programs_are_told_and_left_alone() {
    lab(|| {
        let scene = Scene::new();
        dropping_policy();
        let before = (legacy(), take());
        // A system that has the tables and not the programs, in this lab's own view of it.
        let programs = tool("readlink --canonicalize /usr/sbin/iptables-legacy");
        let hide = || tool(&format!("mount --bind /dev/null {programs}"));
        let show = || tool(&format!("umount {programs}"));
        hide();
        let says = [
            "iptables-legacy has tables here (ip filter, ip6 filter)",
            "`iptables-legacy -I FORWARD -i br1 -j ACCEPT`",
        ];
        let ran = scene.up(&network(true), &GUESTS);
        assert!(says.iter().all(|word| ran.err.contains(word)), "{}", ran.err);
        let _servers = [serve(&scene, "world", 80), serve(&scene, "cnx6", 80)];
        flows("without a mend", false);
        scene.warren("check").says(1, &["BROKEN", "cnx6 out to the world", says[0]]);
        show();
        assert_eq!(legacy(), before.0, "warren does not write there");
        // What a person is told to type is a mend.
        for family in ["ip", "ip6"] {
            tool(&format!("{family}tables-legacy -I FORWARD -i br1 -j ACCEPT"));
            tool(&format!("{family}tables-legacy -I FORWARD -o br1 -j ACCEPT"));
        }
        flows("with what was told", true);
        hide();
        scene.warren("check").ends(0);
        scene.warren("down").ends(0);
        show();
        for family in ["ip", "ip6"] {
            tool(&format!("{family}tables-legacy -D FORWARD -i br1 -j ACCEPT"));
            tool(&format!("{family}tables-legacy -D FORWARD -o br1 -j ACCEPT"));
        }
        assert_eq!(legacy(), before.0);
        assert_same(&before.1, &take(), "after down");
    });
}
