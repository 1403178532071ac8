//! What goes wrong is told, leaves nothing half done, and leaves the others alone.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::tool;
use crate::lab::{Place, lab};
use crate::support::PATIENCE;

const GOOD: (&str, &str) = ("good", "address = [\"10.1.1.2\"]\ntemplate = \"busybox\"");

/// A template of our own making.
fn template(place: &Place, name: &str, lines: &str) -> String {
    let path = place.scene.folder().join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A root file system of busybox alone, whose first process is `init`.
fn root(place: &Place, name: &str, init: &str) -> PathBuf {
    let root = place.scene.folder().join(name);
    for folder in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "run"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(crate::support::which("busybox"), root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "ip", "id", "ls", "touch"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("sbin/init"), format!("#!/bin/sh\n{init}\n")).unwrap();
    fs::set_permissions(root.join("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    root
}

const SLEEPER: &str = "trap 'exit 0' TERM PWR USR1; while :; do sleep 1; done";

#[test]
fn a_guest_that_fails_is_told_and_the_rest_stands() {
    lab(|| {
        let place = Place::new();
        let failing = template(
            &place,
            "failing",
            "echo one; i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; echo the reason >&2; exit 3",
        );
        let dying = root(&place, "dying", "echo no such luck; exit 1");
        fs::create_dir(place.scene.folder().join("empty")).unwrap();
        fs::write(place.scene.folder().join("text"), "no archive\n").unwrap();
        let at = |nth: u8, from: &str| format!("address = [\"10.1.1.{nth}\"]\n{from}");
        let folder = place.scene.folder().display();
        place.write(
            &[
                GOOD,
                ("failing", &at(10, &format!("template = \"{failing}\""))),
                ("unknown", &at(11, "template = \"no-such\"")),
                ("dying", &at(12, &format!("rootfs = \"{}\"", dying.display()))),
                ("empty", &at(13, &format!("rootfs = \"{folder}/empty\""))),
                ("text", &at(14, &format!("rootfs = \"{folder}/text\""))),
                ("nowhere", &at(15, "rootfs = \"/no/such/place\"")),
                ("nothing", &at(16, "")),
            ],
            "",
        );
        let ran = place.warren("up").ends(1);
        for words in [
            "good: running",
            "cannot create failing from the template",
            "| line 29",
            "| the reason",
            "there is no template \"no-such\" in /usr/share/lxc/templates",
            "dying was started and ended at once",
            "no such luck",
            "neither /sbin/init nor /bin/sh",
            "cannot create text from",
            "/no/such/place",
            "says neither `template` nor `rootfs`",
            "the network and all other guests are up",
        ] {
            assert!(ran.out.contains(words) || ran.err.contains(words), "{words}:\n{}\n{}", ran.out, ran.err);
        }
        // Its last lines, not all.
        assert!(!ran.err.contains("| one"), "{}", ran.err);
        for guest in ["failing", "unknown", "empty", "text", "nowhere", "nothing"] {
            place.has_nothing_of(guest);
        }
        place.inside("good", "ping -c 1 -W 5 10.1.1.1").ends(0);
        let document = place.warren("--json up").ends(1).json();
        assert_eq!(document["ok"], false);
        let guests = document["guests"].as_array().unwrap();
        assert!(guests[1]["error"].as_str().unwrap().contains("the reason"));
        place.warren("down --guests").ends(0);
    });
}

#[test]
fn a_missing_package_is_named_and_a_full_disk_is_told() {
    lab(|| {
        let place = Place::new();
        place.write(&[GOOD], "");
        // A disk of half a megabyte.
        fs::create_dir(&place.lxc).unwrap();
        tool(&format!("mount -t tmpfs -o size=512k,mode=0711 tmpfs {}", place.lxc.display()));
        place
            .warren("up")
            .says(1, &["cannot create good", "No space left on device", "the network and all other guests"]);
        place.has_nothing_of("good");
        // Without lxc: as on a host where it was never installed.
        tool("mkdir -p /run/bin/upper /run/bin/work");
        tool("mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=/run/bin/upper,workdir=/run/bin/work /usr/bin");
        for program in ["lxc-create", "lxc-info", "lxc-start"] {
            fs::remove_file(Path::new("/usr/bin").join(program)).unwrap();
        }
        place.warren("up").says(1, &["there is no lxc-create on this host", "apt-get install lxc"]);
        place.warren("guest create good").says(1, &["apt-get install lxc"]);
        place.warren("status").says(0, &["not created", "As the file"]);
        place.warren("down --guests").ends(0);
    });
}

#[test]
fn a_killed_creation_leaves_no_half_guest() {
    lab(|| {
        let place = Place::new();
        let pid = place.scene.folder().join("pid");
        let lines =
            format!("mkdir -p \"$LXC_ROOTFS\"; echo half > /run/half; echo $$ > {}; exec sleep 1000", pid.display());
        let slow = template(&place, "slow", &lines);
        place.write(&[("late", &format!("address = [\"10.1.1.9\"]\ntemplate = \"{slow}\""))], "");
        let mut warren = place.command().args(["guest", "create", "late"]).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let template = loop {
            match fs::read_to_string(&pid).unwrap_or_default().trim().parse::<i32>() {
                Ok(pid) => break pid,
                Err(_) => assert!(Instant::now() < deadline, "the template does not run"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        warren.kill().unwrap();
        warren.wait().unwrap();
        // The template goes on: nobody comes between it and its files.
        place.write(&[("late", "address = [\"10.1.1.9\"]\ntemplate = \"busybox\"")], "");
        place.warren("guest create late").says(5, &["that was killed has left running"]);
        tool(&format!("kill -9 {template}"));
        // lxc-create is told, and ends by itself; what it leaves is made anew.
        while place.warren("guest create late").code == Some(5) {
            assert!(Instant::now() < deadline, "the lock is held");
            std::thread::sleep(Duration::from_millis(50));
        }
        place.warren("up").says(0, &["late: running"]);
        place.warren("down --guests").ends(0);
        place.warren("guest destroy --yes late").ends(0);
        place.has_nothing_of("late");
    });
}

#[test]
fn a_guest_cannot_have_anything_of_the_hosts_written() {
    lab(|| {
        let place = Place::new();
        let evil = root(&place, "evil", SLEEPER);
        fs::remove_dir(evil.join("etc")).unwrap();
        symlink("/etc", evil.join("etc")).unwrap();
        let climbing = root(&place, "climbing", SLEEPER);
        fs::remove_dir(climbing.join("etc")).unwrap();
        symlink("../../../../../../../../etc", climbing.join("etc")).unwrap();
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP/written/by/a/guest me@there";
        let keys = root(&place, "keys", SLEEPER);
        fs::remove_dir(keys.join("root")).unwrap();
        symlink("/host-root", keys.join("root")).unwrap();
        fs::create_dir("/run/host-root").unwrap();
        let table = |nth: u8, path: &Path| {
            format!("address = [\"10.1.1.{nth}\"]\nrootfs = \"{}\"\nssh-keys = [\"{key}\"]", path.display())
        };
        place.write(
            &[("evil", &table(20, &evil)), ("climbing", &table(21, &climbing)), ("keys", &table(22, &keys))],
            "",
        );
        let before = tool("find /etc -newer /proc/1/stat -ls");
        let hosts = fs::read_to_string("/etc/hosts").unwrap();
        for guest in ["evil", "climbing"] {
            let ran = place.warren(&format!("guest create {guest}"));
            ran.says(1, &["/etc", "circle"]);
            place.has_nothing_of(guest);
        }
        place.warren("guest create keys").ends(1);
        place.has_nothing_of("keys");
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), hosts);
        assert_eq!(tool("find /etc -newer /proc/1/stat -ls"), before);
    });
}

#[test]
fn folders_and_archives_become_guests_whose_files_are_their_own() {
    lab(|| {
        let place = Place::new();
        let from = root(&place, "image", SLEEPER);
        std::os::unix::fs::chown(from.join("tmp"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(from.join("bin/busybox"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(from.join("bin/busybox"), from.join("bin/again")).unwrap();
        let archive = place.scene.folder().join("image.tar.gz");
        tool(&format!("tar -czf {} -C {} .", archive.display(), from.display()));
        let table = |nth: u8, path: &Path, more: &str| {
            format!("address = [\"10.1.1.{nth}\"]\nrootfs = \"{}\"\n{more}", path.display())
        };
        place.write(
            &[
                ("folder", &table(30, &from, "")),
                ("archive", &table(31, &archive, "")),
                ("rooted", &table(32, &archive, "privileged = true")),
            ],
            "",
        );
        place.warren("up").ends(0);
        let mut firsts = Vec::new();
        for guest in ["folder", "archive", "rooted"] {
            place.inside(guest, "ip addr show eth0").says(0, &["10.1.1.3"]);
            let line = "ls -ldn /tmp / /bin/busybox /bin/again; touch /root/mine";
            let said = place.inside(guest, line).ends(0).out;
            assert!(said.contains(" 1000     1001 "), "{said}");
            assert_eq!(said.matches("-rwsr-xr-x    2 0        0 ").count(), 2, "{said}");
            let map = place.inside(guest, "cat /proc/self/uid_map").ends(0).out;
            let first: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
            let owner = |path: &str| fs::symlink_metadata(place.disk(guest).join(path)).unwrap().uid();
            // Links, too, and what the guest makes itself.
            assert_eq!((owner("root/mine"), owner("bin/sh"), owner("tmp")), (first, first, first + 1000));
            firsts.push(first);
        }
        assert_eq!(firsts[2], 0);
        assert!(firsts[0] != firsts[1] && firsts[0].abs_diff(firsts[1]) >= 65536, "{firsts:?}");
        // Its ids stay its own, whatever comes and goes.
        place.warren("guest destroy --yes folder").ends(0);
        place.warren("guest restart archive").ends(0);
        let map = place.inside("archive", "cat /proc/self/uid_map").ends(0).out;
        assert_eq!(map.split_whitespace().nth(1).unwrap(), firsts[1].to_string());
        place.warren("down --guests").ends(0);
        assert!(from.join("bin/busybox").exists());
        assert_eq!(
            fs::metadata(from.join("tmp")).unwrap().uid(),
            1000,
            "the folder that it was copied from is as it was"
        );
    });
}

#[test]
fn a_guest_that_does_not_stop_is_killed_and_that_is_told() {
    lab(|| {
        let place = Place::new();
        let deaf = root(&place, "deaf", "trap '' TERM PWR USR1 INT; while :; do sleep 1; done");
        place.write(&[("deaf", &format!("address = [\"10.1.1.9\"]\nrootfs = \"{}\"", deaf.display())), GOOD], "");
        place.warren("up").ends(0);
        // A port's name that another has by now: the guest does not take it.
        place
            .warren("guest stop --timeout 1 deaf")
            .says(0, &["did not stop within 1 s, and was killed", "deaf: killed"]);
        tool("ip link add deaf type bridge");
        place.warren("guest start deaf").says(5, &["an interface deaf is there already"]);
        tool("ip link delete deaf");
        place.warren("down").ends(0);
        place.warren("guest start deaf").says(5, &["its LAN br1 is not up", "`warren up` first"]);
        place.warren("up").says(0, &["deaf: running", "good: plugged in"]);
        place.warren("guest stop --timeout 1 deaf").ends(0);
        place.warren("down --guests").says(0, &["good: stopped"]);
    });
}
