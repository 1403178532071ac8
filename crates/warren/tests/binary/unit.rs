//! `warren serve` as a unit of systemd's: what it tells the service manager, and what it brings up when nobody sits
//! before it. The real systemd is in the guests' tests (boot.rs).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::serve::{NETWORK, Serve, short};
use crate::support::{PATIENCE, Running, Scene, at};

/// What a service manager hears.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message; nothing where none comes in time.
    fn hears_within(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// Waits for that, whatever comes before it.
    #[track_caller]
    fn hears(&self, word: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let said = self.hears_within(left).unwrap_or_else(|| panic!("{word} is not said"));
            if said.lines().any(|line| line == word) {
                return said;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_that_it_serves_and_that_it_lives() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let place = scene.folder().join("notify");
        let manager = Manager(UnixDatagram::bind(&place).unwrap());
        let environment = [("NOTIFY_SOCKET", place.to_str().unwrap()), ("WATCHDOG_USEC", "100000")];
        let serve = Serve::start_with(&scene, &environment);
        assert!(manager.hears("READY=1").contains("STATUS=serving 2 LANs"));
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1 +tries=1"), "10.1.1.6", "it serves when it says so");
        (0..3).for_each(|_| drop(manager.hears("WATCHDOG=1")));
        kill_process(serve.pid(), Signal::HUP).unwrap();
        assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
        manager.hears("READY=1");
        manager.hears("WATCHDOG=1");
        // Its thread that changes the network waits for a file that never ends: the loop lives, and yet it is not well.
        fs::remove_file(&scene.config).unwrap();
        mknodat(CWD, &scene.config, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        kill_process(serve.pid(), Signal::HUP).unwrap();
        manager.hears("RELOADING=1");
        let begun = Instant::now();
        while manager.hears_within(Duration::from_millis(1500)).is_some() {
            assert!(begun.elapsed() < PATIENCE, "a thread that hangs is called well");
        }
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        assert!(scene.warren("--json status").ends(0).json()["services"]["pid"].is_u64(), "the loop lives");
        fs::write(&scene.config, NETWORK).unwrap();
        manager.hears("READY=1");
        manager.hears("WATCHDOG=1");
        kill_process(serve.pid(), Signal::TERM).unwrap();
        manager.hears("STOPPING=1");
        drop(serve);
        fs::remove_file(&scene.config).unwrap();
        // A sign of life is for whom it was asked of.
        scene.write(NETWORK);
        let other = [environment[0], environment[1], ("WATCHDOG_PID", "1")];
        let serve = Serve::start_with(&scene, &other);
        manager.hears("READY=1");
        while let Some(said) = manager.hears_within(Duration::from_millis(800)) {
            assert!(!said.contains("WATCHDOG=1"), "{said}");
        }
        drop(serve);
        scene.warren("down").ends(0);
    });
}

#[test]
fn the_journal_is_told_how_bad_it_is_and_nobody_else() {
    lab(|| {
        let scene = Scene::new();
        scene.write("[lan");
        for ours in [true, false] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let stat = rustix::fs::fstat(&writer).unwrap();
            // Another's stream is what a program started from a unit inherits by its environment.
            let number = stat.st_ino + u64::from(!ours);
            let mut command = scene.command();
            command.arg("serve").env("JOURNAL_STREAM", format!("{}:{number}", stat.st_dev)).stderr(writer);
            let status = command.status().unwrap();
            drop(command);
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            assert_eq!(status.code(), Some(2), "{said}");
            assert!(said.contains("this is not TOML"), "{said}");
            assert!(said.lines().all(|line| line.starts_with("<3>") == ours), "{said}");
        }
    });
}

/// It is alive, so nothing but its silence tells.
#[test]
fn a_worker_that_hangs_is_followed_by_another() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6"]);
        let serve = Serve::start(&scene);
        let worker = serve.worker();
        kill_process(worker, Signal::STOP).unwrap();
        serve.hears("the services' process hangs");
        serve.hears("started again");
        assert_ne!(serve.worker(), worker);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
    });
}

#[test]
fn guests_packets_see_nothing_of_what_becomes_of_serve() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6"]);
        let mut ping = at("cnx6", "ping");
        ping.args(["-n", "-q", "-i", "0.002", "198.51.100.7"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut ping = Running::start(&mut ping);
        // Begun, ended, killed with its worker, begun again.
        let serve = Serve::start(&scene);
        kill_process(serve.pid(), Signal::TERM).unwrap();
        drop(serve);
        let serve = Serve::start(&scene);
        let worker = serve.worker();
        kill_process(serve.pid(), Signal::KILL).unwrap();
        kill_process(worker, Signal::KILL).unwrap();
        drop(serve);
        let serve = Serve::start(&scene);
        kill_process(serve.pid(), Signal::HUP).unwrap();
        serve.hears("reading the file again");
        scene.warren("up").ends(0);
        kill_process(Pid::from_child(&ping.0), Signal::INT).unwrap();
        let mut said = String::new();
        ping.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let words = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or(&said);
        // `1234 packets transmitted, 1234 received, …`; the last answer may have been on its way.
        let numbers: Vec<u64> = words.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(numbers[0] > 50 && numbers[0] - numbers[1] <= 1, "{said}");
        drop(serve);
        scene.warren("down").ends(0);
    });
}

#[test]
fn what_nobody_has_confirmed_is_not_brought_up() {
    lab(|| {
        let scene = Scene::new();
        let host = || tool("ip -br address show br1");
        let changed = NETWORK.replace("10.1.1.", "10.9.9.");
        // Nothing is up, and the file is wrong.
        scene.write(&NETWORK.replace("10.1.1.6", "192.0.2.6"));
        scene.warren("serve").says(2, &["outside of the LAN"]);
        scene.up(NETWORK, &[]);
        // It awaits its confirmation, which is no reason to do anything about it.
        scene.write(&changed);
        scene.warren("up --confirm 3000").ends(0);
        let serve = Serve::start(&scene);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.9.9.1"), "10.9.9.6");
        let waits = || scene.warren("--json status").ends(0).json()["confirm_within"].is_u64();
        assert!(waits());
        drop(serve);
        // Nor is a boot that somebody asks for by hand: neither of the same file, nor of what was kept before it.
        for text in [&changed, NETWORK] {
            scene.write(text);
            scene.warren("boot").says(0, &["awaits its confirmation for another", "left as it is"]);
            assert!(host().contains("10.9.9.1/24") && waits(), "{}", host());
        }
        scene.write(&changed);
        // It was put back: nor is it tried again by itself.
        scene.warren("rollback").ends(0);
        let serve = Serve::start(&scene);
        assert!(host().contains("10.1.1.1/24"), "{}", host());
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        // Somebody who sits before it may.
        scene.warren("up --confirm 3000").ends(0);
        scene.warren("confirm").ends(0);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.9.9.1"), "10.9.9.6");
        drop(serve);
        // A file that has become wrong, and one that is fine.
        scene.write("[lan");
        let serve = Serve::start(&scene);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.9.9.1"), "10.9.9.6");
        drop(serve);
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        drop(serve);
        scene.warren("down").ends(0);
    });
}

/// A unit that fails is only tried again: it waits for the `up` that a person will run, and serves then.
#[test]
fn where_nothing_may_come_up_a_unit_waits_for_an_up() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        scene.warren("up --confirm 3000").ends(0);
        scene.warren("rollback").ends(0);
        let nothing = take();
        scene.warren("boot").says(1, &["was never confirmed", "no other configuration was ever kept"]);
        // A person is told.
        scene.warren("serve").says(1, &["was never confirmed"]);
        let place = scene.folder().join("notify");
        for wrong in [false, true] {
            let manager = Manager(UnixDatagram::bind(&place).unwrap());
            let environment = [("NOTIFY_SOCKET", place.to_str().unwrap())];
            if wrong {
                scene.write("[lan");
            }
            let serve = Serve::start_saying(&scene, &environment, "nothing of it is served until");
            assert!(manager.hears("READY=1").contains("STATUS=no network is up: waiting for `warren up`"));
            assert_same(&nothing, &take(), "while it waits");
            scene.write(NETWORK);
            scene.warren("up").says(0, &["The network is up"]);
            assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1 +tries=1"), "10.1.1.6");
            manager.hears("STATUS=serving 2 LANs");
            scene.warren("down").ends(0);
            manager.hears("STOPPING=1");
            drop(serve);
            fs::remove_file(&place).unwrap();
        }
    });
}
