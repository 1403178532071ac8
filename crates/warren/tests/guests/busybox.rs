//! The note's story with guests that are made in a moment.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::time::Instant;

use crate::common::tool;
use crate::lab::{Place, lab};
use crate::support::{self, PATIENCE, Ran, at, serve};

const CNX6: (&str, &str) = ("cnx6", "address = [\"10.1.1.6\"]\ntemplate = \"busybox\"");
const CNX7: (&str, &str) = ("cnx7", "address = [\"10.1.1.7\"]\ntemplate = \"busybox\"");
const FORWARDS: &str = "[[forward]]\nlisten = \"22210/tcp\"\nto = \"cnx6:80\"\n\n\
                        [[forward]]\nlisten = \"22217/tcp\"\nto = \"cnx7:80\"\n";

fn get(place: &str, url: &str) -> Ran {
    Ran::of(at(place, "curl").args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", url]))
}

/// A page on port 80 of a guest's, that says who it is.
fn publish(place: &Place, guest: &str) {
    let line = format!("mkdir -p /www && echo {guest} > /www/index.html && httpd -p 80 -h /www");
    place.inside(guest, &line).ends(0);
}

fn ports() -> String {
    tool("bridge link")
}

fn is_plugged(guest: &str) -> bool {
    ports().lines().any(|line| line.contains(&format!(" {guest}@")) && line.contains("master br1"))
}

fn state(place: &Place, guest: &str) -> String {
    let list = place.warren("--json guest list").ends(0).json();
    let guests = list["guests"].as_array().unwrap();
    guests.iter().find(|g| g["name"] == guest).unwrap()["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// All that the network gives them, from every side.
#[track_caller]
fn network_works(place: &Place) {
    for guest in ["cnx6", "cnx7"] {
        assert!(is_plugged(guest), "{}", ports());
        place.inside(guest, "ping -c 1 -W 5 10.1.1.1").says(0, &["1 packets received"]);
        let seen = place.inside(guest, "wget -q -O - http://198.51.100.7:8080/").ends(0).out;
        assert_eq!(support::seen(&seen), Some(("world".to_owned(), "203.0.113.2".parse().unwrap())));
    }
    place.inside("cnx6", "ping -c 1 -W 5 10.1.1.7").ends(0);
    // The host asks a guest, as the note has it.
    let page = Ran::of(std::process::Command::new("wget").args(["-q", "-O", "-", "http://10.1.1.7/"])).ends(0).out;
    assert_eq!(page, "cnx7\n");
    assert_eq!(get("world", "http://203.0.113.2:22210/").ends(0).out, "cnx6\n");
    assert_eq!(get("world", "http://203.0.113.2:22217/").ends(0).out, "cnx7\n");
    // A guest asks for itself and its neighbour at the public address.
    place.inside("cnx6", "wget -q -O - http://203.0.113.2:22210/").says(0, &["cnx6"]);
    place.inside("cnx6", "wget -q -O - http://203.0.113.2:22217/").says(0, &["cnx7"]);
}

#[test]
fn two_guests_live_from_up_to_down() {
    lab(|| {
        let place = Place::new();
        let _world = serve(&place.scene, "world", 8080);
        place.write(&[CNX6, CNX7], FORWARDS);
        let before = tool("ip -o link");
        let ran = place.warren("up").says(0, &["The network is up", "cnx6: running", "cnx7: running"]);
        assert!(ran.err.contains("creating it from the template busybox"), "{}", ran.err);
        publish(&place, "cnx6");
        publish(&place, "cnx7");
        network_works(&place);
        // By warren's own packets, from inside each guest.
        let check = place.warren("--json check").ends(0).json();
        let from_inside = |guest: &str| {
            let probes = check["probes"].as_array().unwrap();
            probes.iter().filter(|p| p["from"].as_str().unwrap().contains(guest) && p["held"] == true).count()
        };
        assert!(from_inside("cnx6") > 5 && from_inside("cnx7") > 5, "{check:#}");
        // Root in a guest is nobody here, and each guest's nobody is another.
        let ids = |guest: &str| place.inside(guest, "cat /proc/self/uid_map").ends(0).out;
        assert_ne!(ids("cnx6"), ids("cnx7"));
        assert!(ids("cnx6").split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() >= 0x7000_0000);
        place
            .inside("cnx6", "cat /etc/hostname /etc/hosts /etc/resolv.conf; hostname")
            .says(0, &["10.1.1.6\tcnx6.cnx.rice.edu cnx6", "search cnx.rice.edu", "nameserver 198.51.100.7"]);
        // No other user of the host's comes near what its root may have made setuid.
        let folder = std::fs::metadata(place.lxc.join("cnx6")).unwrap();
        assert_eq!(folder.mode() & 0o777, 0o710);
        place.warren("status").says(0, &["running", "As the file"]);
        // Again: nothing to do, and nobody is disturbed.
        let pid = place.warren("--json guest list").json()["guests"][0]["pid"].clone();
        place.warren("up").says(0, &["Nothing to change"]);
        assert_eq!(place.warren("--json guest list").json()["guests"][0]["pid"], pid);

        // Unplugged, they go on; plugged in again, they are reached again.
        place.warren("down").says(0, &["The network is down"]);
        assert!(!ports().contains("br1"), "{}", ports());
        assert_eq!(state(&place, "cnx6"), "running");
        place.inside("cnx6", "ping -c 1 -W 1 10.1.1.1").ends(1);
        place.warren("up").says(0, &["cnx6: plugged in", "cnx7: plugged in"]);
        assert_eq!(place.warren("--json guest list").json()["guests"][0]["pid"], pid);
        network_works(&place);

        let document = place.warren("--json down --guests").ends(0).json();
        assert_eq!(document["guests"][0]["done"], serde_json::json!(["stop"]));
        assert_eq!((state(&place, "cnx6"), state(&place, "cnx7")), ("stopped".to_owned(), "stopped".to_owned()));
        assert_eq!(tool("ip -o link"), before);
        assert!(place.disk("cnx6").join("www/index.html").exists());
        // The disk is what it was: the page is there without being made again.
        let document = place.warren("--json up").ends(0).json();
        assert_eq!(document["guests"][0]["done"], serde_json::json!(["start"]));
        place.inside("cnx6", "cat /www/index.html").says(0, &["cnx6"]);
        place.warren("down --guests").ends(0);
    });
}

/// A container's port is one that LXC plugs in, at its start and whenever it restarts itself, and that warren plugs in
/// again where it runs.
#[test]
fn neighbours_in_containers_are_kept_apart_but_for_what_an_allow_names() {
    lab(|| {
        let place = Place::new();
        let allow = "[[allow]]\nfrom = [\"cnx6\"]\nto = [\"cnx7\"]\nports = [\"80/tcp\"]\n";
        place.write(&[CNX6, CNX7], allow);
        let file = std::fs::read_to_string(place.scene.folder().join("warren.toml")).unwrap();
        place.scene.write(&file.replace("[lan.br1]\n", "[lan.br1]\nport-isolation = true\n"));
        place.warren("up").says(0, &["cnx6: running", "cnx7: running"]);
        publish(&place, "cnx6");
        publish(&place, "cnx7");
        let holds = || {
            for guest in ["cnx6", "cnx7"] {
                let shown = tool(&format!("bridge -details link show dev {guest}"));
                assert!(shown.contains("isolated on"), "{shown}");
                place.inside(guest, "ping -c 1 -W 5 10.1.1.1").ends(0);
            }
            place.inside("cnx6", "wget -q -O - http://10.1.1.7/").says(0, &["cnx7"]);
            place.inside("cnx6", "ping -c 1 -W 1 10.1.1.7").ends(1);
            place.inside("cnx7", "ping -c 1 -W 1 10.1.1.6").ends(1);
        };
        holds();
        place.warren("down").ends(0);
        place.warren("up").says(0, &["cnx6: plugged in", "cnx7: plugged in"]);
        holds();
        place.warren("down --guests").ends(0);
    });
}

#[test]
fn a_guest_is_created_started_restarted_and_destroyed_while_another_serves() {
    lab(|| {
        let place = Place::new();
        let lazy = ("lazy", "address = [\"10.1.1.9\"]\ntemplate = \"busybox\"\nautostart = false");
        let to_lazy = "[[forward]]\nlisten = \"22299/tcp\"\nto = \"lazy:80\"\n";
        place.write(&[CNX6, lazy], &format!("{FORWARDS}{to_lazy}").replace("cnx7:80", "cnx6:81"));
        place.warren("up --no-guests").ends(0);
        place.has_nothing_of("cnx6");
        assert_eq!(state(&place, "cnx6"), "not created");
        place.warren("guest create cnx6").says(0, &["cnx6: created"]);
        place.warren("guest create cnx6").says(1, &["is there already", "warren guest start cnx6"]);
        assert_eq!(state(&place, "cnx6"), "stopped");
        place.warren("guest exec cnx6 true").says(1, &["is not running", "warren guest start cnx6"]);
        place.warren("guest start cnx6").says(0, &["cnx6: running"]);
        place.warren("guest start cnx6").says(0, &["cnx6: running already"]);
        publish(&place, "cnx6");
        // Made, but not started, since the file says so.
        place.warren("up").says(0, &["lazy: created"]);
        assert_eq!(state(&place, "lazy"), "stopped");
        place.warren("guest start lazy").ends(0);
        let pid = |guest: &str| {
            let list = place.warren("--json guest list").json();
            list["guests"].as_array().unwrap().iter().find(|g| g["name"] == guest).unwrap()["pid"].as_u64()
        };
        let before = pid("lazy");
        place.warren("guest restart lazy").says(0, &["lazy: running"]);
        assert!(pid("lazy").is_some() && pid("lazy") != before);
        // By itself: LXC plugs its new cable in, as ours was.
        let before = pid("lazy");
        // The shell may be ended along with the rest before it says so.
        place.inside("lazy", "reboot");
        eventually("lazy restarts", || pid("lazy").is_some_and(|now| Some(now) != before));
        eventually("lazy is plugged in", || is_plugged("lazy"));
        eventually("lazy answers", || {
            Ran::of(std::process::Command::new("ping").args(["-c", "1", "-W", "1", "10.1.1.9"])).code == Some(0)
        });
        // The host does not speak at its cable, and it gets back what it sends to itself.
        assert!(!tool("ip -6 address show dev lazy").contains("inet6"));
        assert!(tool("bridge -d link show dev lazy").contains("hairpin on"));
        place.warren("guest destroy lazy").says(2, &["--yes"]);
        place.warren("guest destroy --yes lazy").says(0, &["lazy: destroyed"]);
        place.has_nothing_of("lazy");
        assert_eq!(state(&place, "lazy"), "not created");
        assert_eq!(get("world", "http://203.0.113.2:22210/").ends(0).out, "cnx6\n");
        place.warren("guest destroy nobody --yes").says(2, &["there is no guest \"nobody\"", "cnx6, lazy"]);
        place.warren("guest stop ../etc").says(2, &["there is no guest"]);
        // One that the file has forgotten is still warren's to stop and destroy.
        place.write(&[lazy], "");
        place.warren("guest stop cnx6").says(0, &["cnx6: stopped"]);
        place.warren("guest list").says(0, &["not in the file"]);
        place.warren("guest destroy --yes cnx6").ends(0);
        place.has_nothing_of("cnx6");
        assert!(!std::fs::read_to_string("/etc/subuid").unwrap().contains("root:"));
    });
}

#[test]
fn exec_passes_everything_through() {
    lab(|| {
        let place = Place::new();
        place.write(&[CNX6], "");
        place.warren("up").ends(0);
        for code in [0, 1, 3, 42, 255] {
            place.inside("cnx6", &format!("exit {code}")).ends(code);
        }
        let ran = place.inside("cnx6", "echo out; echo err >&2");
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
        let mut cat = place.command();
        cat.args(["guest", "exec", "cnx6", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cat.spawn().unwrap();
        let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut stdin = child.stdin.take().unwrap();
        let sent = data.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stdout == data);
        // Nothing of ours is told to the guest but the terminal's name.
        let mut env = place.command();
        env.env("SECRET", "of the host's").args(["guest", "exec", "cnx6", "env"]);
        let said = Ran::of(&mut env).ends(0).out;
        assert!(said.contains("HOME=/root") && !said.contains("SECRET") && !said.contains("WARREN"), "{said}");
        // On a terminal the guest's side is one, too.
        let line = |rest: &str| format!("{} guest {rest}", crate::support::WARREN);
        let on_terminal = |rest: &str, input: &str| {
            let mut script = std::process::Command::new("script");
            script.args(["--quiet", "--return", "--echo", "never", "--command", &line(rest), "/dev/null"]);
            place.scene.tell(&mut script);
            script.env("WARREN_LXC_PATH", &place.lxc).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = script.spawn().expect("script is needed");
            let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let mut said = Vec::new();
            // lxc-attach throws away what was typed before it has the terminal: a person waits for the prompt, too.
            let mut typed = input.is_empty();
            let mut some = [0; 512];
            while let Ok(n @ 1..) = stdout.read(&mut some) {
                said.extend_from_slice(&some[..n]);
                if !typed && String::from_utf8_lossy(&said).contains("# ") {
                    stdin.write_all(input.as_bytes()).unwrap();
                    typed = true;
                }
            }
            (child.wait().unwrap().code(), String::from_utf8_lossy(&said).into_owned())
        };
        let (code, said) = on_terminal("exec cnx6 tty", "");
        assert!(code == Some(0) && said.contains("/dev/pts/"), "{code:?} {said}");
        let (code, said) = on_terminal("shell cnx6", "hostname; exit 9\n");
        assert!(code == Some(9) && said.contains("cnx6"), "{code:?} {said}");
    });
}
