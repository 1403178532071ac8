//! `warren connect --x11`: a program of a guest's that is seen on a screen of the laptop's (Xvfb).
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::lab;
use crate::laptop::{connect, hears, prepare, sshd};
use crate::serve::NETWORK;
use crate::support::{PATIENCE, Running, Scene, at, lines, settle};

/// The windows of a screen.
fn windows(display: &str) -> String {
    let output = at("laptop", "xwininfo").args(["-display", display, "-root", "-tree"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_guest_s_program_is_seen_on_the_laptop() {
    lab(|| {
        let scene = Scene::new();
        let environment = prepare(&scene);
        scene.write(&NETWORK.replace("[host]", "[host]\nhosts-resolver = false"));
        scene.warren("up").ends(0);
        settle(&["cnx6"]);
        let _door = sshd(&scene, "server", 22, &environment);
        // Else it would be the machine's own root whose screens are noted.
        let cookies = scene.folder().join("xauthority");
        let forwards =
            format!("XAuthLocation /usr/bin/xauth\nX11Forwarding yes\nSetEnv XAUTHORITY={}\n", cookies.display());
        let _guest = sshd(&scene, "cnx6", 22, &forwards);
        let mut screen = at("laptop", "Xvfb");
        screen.args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]).stdout(Stdio::piped());
        let mut screen = Running::start(screen.stderr(Stdio::null()));
        let number = hears(&lines(screen.0.stdout.take().unwrap()), "");
        let display = format!(":{number}");
        assert!(!windows(&display).contains("from-cnx6"), "{}", windows(&display));

        let show = |words: &[&str]| {
            let mut command = connect(&scene, &[&["lab", "--x11", "cnx6"], words].concat());
            command.env("DISPLAY", &display).stdout(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let mut program = Running::start(&mut show(&["xmessage", "-title", "from-cnx6", "it is here"]));
        let deadline = Instant::now() + PATIENCE;
        while !windows(&display).contains("\"from-cnx6\"") {
            if let Some(how) = program.0.try_wait().unwrap() {
                let said: Vec<String> = lines(program.0.stderr.take().unwrap()).iter().collect();
                panic!("it ended, {how}: {}", said.join("\n"));
            }
            assert!(Instant::now() < deadline, "no window: {}", windows(&display));
            std::thread::sleep(Duration::from_millis(50));
        }
        // It runs in the guest, and its screen is ssh's.
        let of_guest = Command::new("ip").args(["netns", "pids", "cnx6"]).output().unwrap();
        let of_guest = String::from_utf8_lossy(&of_guest.stdout).into_owned();
        let is_there = of_guest.lines().any(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "xmessage")
        });
        assert!(is_there, "{of_guest}");
        drop(program);

        // No screen, no such guest: said, and nothing is begun.
        let mut without = show(&["xmessage", "x"]);
        let without = without.env_remove("DISPLAY").output().unwrap();
        assert_eq!(without.status.code(), Some(1));
        let mut nobody = connect(&scene, &["lab", "--x11", "cnx9", "xmessage", "x"]);
        let nobody = nobody.env("DISPLAY", &display).output().unwrap();
        let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
        assert!(nobody.status.code() == Some(1) && said.contains("it has cnx6, alone"), "{said}");
        scene.warren("down").ends(0);
    });
}
