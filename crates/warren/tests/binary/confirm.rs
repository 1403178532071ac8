//! `up --confirm`, `confirm` and `rollback`: whatever happens to who brought a network up, what was comes back, whole.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::snapshot::{Snapshot, assert_same, take};
use crate::common::{lab, tool};
use crate::support::{PATIENCE, Running, Scene, WARREN, at, settle};

const ONE: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
[[forward]]
listen = "22210/tcp"
to = "cnx6:22"
"#;

/// Another LAN, another address, a guest less and one more, another forward.
const TWO: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.254/24"]
mtu = 1400
[lan.br2]
address = ["10.1.2.1/24"]
[guest.cnx7]
kind = "netns"
lan = "br2"
address = ["10.1.2.7"]
[[forward]]
listen = "22217/tcp"
to = "cnx7:22"
"#;

/// Waits until nobody watches any more: then the namespace is what it was.
#[track_caller]
fn comes_back(scene: &Scene, before: &Snapshot, guests: &[&str], when: &str) {
    watchdogs_end(scene);
    settle(guests);
    assert_same(before, &take(), when);
}

/// The watchdogs that look after this scene, by their command lines.
fn watchdogs(scene: &Scene) -> Vec<u32> {
    let folder = scene.folder().display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&folder) && line.trim_end().ends_with("watchdog") {
            found.push(pid);
        }
    }
    found
}

/// One whose files go while it looks keeps to its word until its time is over: tests wait for it.
#[track_caller]
pub fn watchdogs_end(scene: &Scene) {
    let deadline = Instant::now() + PATIENCE;
    while !watchdogs(scene).is_empty() {
        assert!(Instant::now() < deadline, "a watchdog stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_confirmation_that_never_comes() {
    lab(|| {
        let scene = Scene::new();
        let nothing = take();
        scene.write(ONE);
        scene.warren("up --confirm 1").says(0, &["comes back in 1 s", "warren confirm"]);
        comes_back(&scene, &nothing, &[], "from nothing");
        scene.warren("confirm").says(1, &["too late", "not confirmed within 1 s"]);

        scene.up(ONE, &["cnx6"]);
        let one = take();
        scene.write(TWO);
        scene.warren("up --confirm 1").ends(0);
        comes_back(&scene, &one, &["cnx6"], "from one network to another");
        // What is remembered is what was, too.
        scene.write(ONE);
        scene.warren("plan --exit-code").says(0, &["Nothing to change"]);
        let state = scene.warren("--json status").ends(0).json();
        assert_eq!((&state["ok"], &state["confirm_within"]), (&true.into(), &serde_json::Value::Null));
        scene.warren("down").ends(0);
        settle(&[]);
        assert_same(&nothing, &take(), "down");
    });
}

#[test]
fn what_is_confirmed_stays() {
    lab(|| {
        let scene = Scene::new();
        let nothing = take();
        scene.write(ONE);
        scene.warren("confirm").says(1, &["no network of warren's is up"]);
        scene.warren("rollback").says(1, &["no `up` to be put back"]);
        scene.warren("up --confirm 30").ends(0);
        let left = scene.warren("--json status").ends(0).json()["confirm_within"].as_u64().unwrap();
        assert!((1..=30).contains(&left), "{left}");
        scene.warren("status").says(0, &["awaits `warren confirm`"]);
        scene.warren("confirm").says(0, &["The network stays"]);
        watchdogs_end(&scene);
        settle(&["cnx6"]);
        let one = take();
        assert_eq!(scene.warren("--json status").ends(0).json()["confirm_within"], serde_json::Value::Null);
        // Beside one that nobody confirms, and that does go.
        scene.write(TWO);
        scene.warren("up --confirm 2").ends(0);
        comes_back(&scene, &one, &["cnx6"], "the second");
        scene.write(ONE);
        scene.warren("confirm").ends(1);
        scene.warren("up --confirm 60").says(0, &["Nothing to change"]);
        assert!(watchdogs(&scene).is_empty(), "there is nothing to be watched over");
        scene.warren("confirm").says(0, &["Nothing awaits"]);
        scene.warren("down").ends(0);
        settle(&[]);
        assert_same(&nothing, &take(), "down");
        scene.warren("up --confirm 0").ends(2);
    });
}

#[test]
fn rollback_puts_back_what_was_before_the_last_up() {
    lab(|| {
        let scene = Scene::new();
        let nothing = take();
        scene.up(ONE, &["cnx6"]);
        let one = take();
        scene.up(TWO, &["cnx7"]);
        // Confirmed or not, disturbed or not.
        tool("ip link set br2 down");
        tool("nft flush chain inet warren postrouting");
        scene.warren("rollback").says(0, &["The network that was is back"]);
        settle(&["cnx6"]);
        assert_same(&one, &take(), "rolled back");
        scene.warren("rollback").says(1, &["no `up` to be put back"]);
        scene.write(TWO);
        scene.warren("up --confirm 60").ends(0);
        let back = scene.warren("--json rollback").ends(0).json();
        assert!(back["changes"].as_u64().unwrap() > 5, "{back}");
        settle(&["cnx6"]);
        assert_same(&one, &take(), "rolled back while it awaits its confirmation");
        watchdogs_end(&scene);
        scene.warren("down").ends(0);
        scene.warren("rollback").ends(1);
        scene.up(ONE, &["cnx6"]);
        scene.warren("rollback").says(0, &["no network of warren's is up"]);
        settle(&[]);
        assert_same(&nothing, &take(), "to nothing");
        let left: Vec<_> =
            fs::read_dir(scene.folder().join("state")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["boot.json"], "only what must not come up unwatched is remembered");
    });
}

#[test]
fn other_commands_while_one_awaits_its_confirmation() {
    lab(|| {
        let scene = Scene::new();
        let nothing = take();
        scene.up(ONE, &["cnx6"]);
        let one = take();
        scene.write(TWO);
        scene.warren("up --confirm 60").ends(0);
        settle(&["cnx7"]);
        let two = take();
        // The same again is no change, and no confirmation.
        scene.warren("up").says(0, &["Nothing to change"]);
        assert!(scene.warren("--json status").json()["confirm_within"].is_u64());
        // Another change would be confirmed by nobody, or confirm what nobody has.
        scene.write(&TWO.replace("22217", "22218"));
        scene.warren("up").says(1, &["awaits its confirmation", "warren confirm", "warren rollback"]);
        scene.warren("forward add 5555 cnx7:55").says(1, &["awaits its confirmation", "as it was"]);
        assert_same(&two, &take(), "refused");
        // One that is to be confirmed, too, replaces it; what was before both comes back.
        scene.warren("up --confirm 1").ends(0);
        comes_back(&scene, &one, &["cnx6"], "two of them");
        // Down takes all away, at once and for good.
        scene.write(TWO);
        scene.warren("up --confirm 1").ends(0);
        scene.warren("down").ends(0);
        watchdogs_end(&scene);
        settle(&[]);
        assert_same(&nothing, &take(), "down");
    });
}

/// Whoever began it dies with everything that is its: the shell, the session's leader, the terminal.
#[test]
fn the_watchdog_survives_the_session_and_warren_itself() {
    lab(|| {
        let scene = Scene::new();
        scene.up(ONE, &["cnx6"]);
        let one = take();
        // On a terminal of its own (script(1)), as the leader of a session; all of it is killed once the network is up.
        let mut script = Command::new("script");
        scene.tell(&mut script);
        scene.write(TWO);
        let line = format!("{WARREN} up --confirm 6; touch {0}/is-up; sleep 1000", scene.folder().display());
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let session = Running::start(script.stdin(Stdio::null()).stdout(Stdio::null()));
        let deadline = Instant::now() + PATIENCE;
        while !scene.folder().join("is-up").exists() {
            assert!(Instant::now() < deadline, "up does not come to its end");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_ne!(take(), one);
        assert_eq!(watchdogs(&scene).len(), 1);
        drop(session);
        // What it needs it has by now.
        fs::remove_dir_all(scene.folder().join("state")).unwrap();
        comes_back(&scene, &one, &["cnx6"], "without its session, and without the files");
    });
}

/// Killed while it works: the watchdog finds the journal. Its program has gone from the disk by then.
#[test]
fn warren_is_killed_on_its_way_and_nobody_comes_to_look() {
    lab(|| {
        let scene = Scene::new();
        scene.up(ONE, &["cnx6"]);
        let one = take();
        scene.write(TWO);
        let program = scene.folder().join("copy-of-warren");
        fs::copy(WARREN, &program).unwrap();
        let mut command = Command::new(&program);
        scene.tell(command.env_clear());
        command.args(["-v", "up", "--confirm", "1"]).process_group(0);
        // It says each step before it does it, into a pipe that nobody reads on from the third line.
        let mut warren = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(warren.stderr.take().unwrap());
        let mut line = String::new();
        for _ in 0..3 {
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        }
        warren.kill().unwrap();
        warren.wait().unwrap();
        fs::remove_file(&program).unwrap();
        assert!(
            fs::exists(scene.folder().join("state/journal.json")).unwrap(),
            "it was not killed on its way:\n{line}"
        );
        scene.warren("confirm").says(1, &["too late"]);
        comes_back(&scene, &one, &["cnx6"], "killed on its way");
    });
}

/// An SSH session from a subnet that the change would lead into a LAN: refused, or put back at once.
#[test]
fn a_change_that_cuts_the_session_that_it_is_made_in() {
    lab(|| {
        let scene = Scene::new();
        tool("ip -n world address add 10.1.1.50/32 dev lo");
        tool("ip -n world route del 10.1.0.0/16");
        let sshd = crate::support::listen("server", "TCP4-LISTEN:2222,reuseaddr,fork", "EXEC:cat");
        let _client = Running::start(
            at("world", "socat")
                .args(["EXEC:sleep 1000", "TCP4:203.0.113.2:2222,bind=10.1.1.50:40000"])
                .stdin(Stdio::null()),
        );
        let deadline = Instant::now() + PATIENCE;
        while !tool("ss -Htn state established").contains("10.1.1.50:40000") {
            assert!(Instant::now() < deadline, "no connection");
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = take();
        scene.write(ONE);
        let inside = |arguments: &str, session: &str| {
            let mut command = scene.command();
            command.env("SSH_CONNECTION", session).args(arguments.split_whitespace());
            crate::support::Ran::of(&mut command)
        };
        let session = "10.1.1.50 40000 203.0.113.2 2222";
        inside("up", session).says(5, &["cut the SSH session", "10.1.1.50", "10.1.1.0/24 on br1", "--confirm"]);
        assert_same(&before, &take(), "refused");
        inside("up --confirm 60", session).says(1, &["the other end of this SSH session, 10.1.1.50", "restored"]);
        settle(&[]);
        assert_same(&before, &take(), "put back at once");
        watchdogs_end(&scene);
        // sudo takes the variable away, and what it runs in is looked for all the same.
        let mut shell = Command::new("sh");
        scene.tell(&mut shell);
        let line = format!("env -u SSH_CONNECTION {WARREN} up; echo ended $?");
        shell.env("SSH_CONNECTION", session).args(["-c", &line]);
        crate::support::Ran::of(&mut shell).says(0, &["ended 5", "cut the SSH session"]);
        // One that is over long ago, in a terminal that was left, is nobody's.
        inside("plan", "10.1.1.50 40001 203.0.113.2 2222").ends(0);
        inside("up", "10.1.1.50 40001 203.0.113.2 2222").ends(0);
        scene.warren("down").ends(0);
        // And one from elsewhere is not cut.
        drop(sshd);
        inside("up --confirm 60", "198.51.100.7 40000 203.0.113.2 2222").ends(0);
        scene.warren("confirm").ends(0);
    });
}

/// A change of the uplink itself awaits its confirmation unasked, until it has had it once; and comes back whole.
#[test]
fn an_uplink_that_nobody_confirms() {
    lab(|| {
        let scene = crate::bridged::office();
        let before = take();
        scene.write(crate::bridged::OFFICE);
        let session = |arguments: &str| {
            let mut command = scene.command();
            command.env("SSH_CONNECTION", "10.0.0.20 40000 10.0.0.100 22").args(arguments.split_whitespace());
            crate::support::Ran::of(&mut command)
        };
        session("up").says(0, &["comes back in 60 s"]);
        assert!(tool("ip -br address show br0").contains("10.0.0.100/24"));
        scene.warren("rollback").ends(0);
        comes_back(&scene, &before, &[], "rolled back");
        session("up --confirm 3").ends(0);
        comes_back(&scene, &before, &[], "nobody confirmed it");
        // Unplugged meanwhile by somebody else, and given another address.
        session("up --confirm 2").ends(0);
        tool("ip link set eth0 nomaster");
        comes_back(&scene, &before, &[], "disturbed, and not confirmed");
        session("up").says(0, &["comes back in 60 s"]);
        scene.warren("confirm").ends(0);
        scene.warren("down").ends(0);
        comes_back(&scene, &before, &[], "down");
        let ran = session("up").ends(0);
        assert!(!ran.out.contains("comes back"), "it was confirmed before: {ran:?}");
        scene.warren("down").ends(0);
        comes_back(&scene, &before, &[], "down");
    });
}

/// Routers, resolvers and the session's other end are asked before a change of the uplink. Whoever answered then must
/// answer after it, else what was comes back at once; whoever did not is not waited for.
#[test]
fn who_answered_before_and_does_not_after_the_change() {
    lab(|| {
        let scene = crate::bridged::office();
        crate::hosts::own_etc("127.0.0.1 localhost\n", "nameserver 198.51.100.7\n");
        let mut dnsmasq = at("router", "dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file="]);
        dnsmasq.args(["--listen-address=198.51.100.7", "--bind-interfaces", "--user=root"]);
        dnsmasq.arg("--host-record=world.example,198.51.100.80");
        dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let resolver = Running::start(&mut dnsmasq);
        let deadline = Instant::now() + PATIENCE;
        while crate::serve::short("server", "world.example @198.51.100.7 +tries=1 +timeout=1") != "198.51.100.80" {
            assert!(Instant::now() < deadline, "dnsmasq does not answer");
        }
        scene.write(&crate::bridged::OFFICE.replace("[host]\n", "[host]\nhosts-resolver = false\n"));
        let _sshd = crate::support::listen("server", "TCP4-LISTEN:2222,reuseaddr,fork", "EXEC:cat");
        let mut client = at("laptop", "socat");
        client.args(["EXEC:sleep 1000", "TCP4:10.0.0.100:2222,bind=10.0.0.20:40000"]).stdin(Stdio::null());
        let _client = Running::start(&mut client);
        while !tool("ss -Htn state established").contains("10.0.0.20:40000") {
            assert!(Instant::now() < deadline, "no connection");
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = take();
        let up = || {
            let mut command = scene.command();
            command.env("SSH_CONNECTION", "10.0.0.20 40000 10.0.0.100 2222").args(["up", "--confirm", "60"]);
            crate::support::Ran::of(&mut command)
        };
        let silence = |what: &[&str]| {
            let file = scene.folder().join("firewall");
            let rules: String = what.iter().map(|what| format!("oifname \"br0\" {what} drop\n")).collect();
            let text = format!("table inet other {{ chain o {{ type filter hook output priority 0; {rules} }}\n}}");
            fs::write(&file, text).unwrap();
            tool(&format!("nft -f {}", file.display()));
        };
        let all =
            ["the router 10.0.0.1", "the router 2001:db8:a::1", "the resolver 198.51.100.7", "SSH session, 10.0.0.20"];
        // Two at a time, so that each is seen to be missed, and not to be where it answers.
        for (what, lost) in [
            (&["ip daddr { 10.0.0.1, 198.51.100.7 }"][..], [true, false, true, false]),
            (&["ip daddr 10.0.0.20", "icmpv6 type echo-request"], [false, true, false, true]),
        ] {
            silence(what);
            let with = take();
            let ran = up().ends(1);
            for (who, lost) in all.iter().zip(lost) {
                assert_eq!(ran.err.contains(who), lost, "{what:?}: {who}: {ran:?}");
            }
            assert!(ran.err.contains("did not answer any more") && ran.err.contains("restored"), "{ran:?}");
            watchdogs_end(&scene);
            settle(&[]);
            assert_same(&with, &take(), &what.join(", "));
            tool("nft delete table inet other");
        }
        // One that is silent before is no witness.
        drop(resolver);
        silence(&["ip daddr 198.51.100.7"]);
        up().ends(0);
        scene.warren("rollback").ends(0);
        tool("nft delete table inet other");
        comes_back(&scene, &before, &[], "rolled back");
    });
}
