//! `warren connect`: a laptop that reaches nothing but the server's sshd; curl, a real Firefox and ssh see the LAN from
//! there, and no resolver of the laptop's is asked.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::lab;
use crate::laptop::{capture, connect, curl, ends, hears, left, page, prepare, running, sshd};
use crate::serve::{NETWORK, Serve};
use crate::support::{Ran, Running, Scene, at, lines, serve, settle};

#[test]
fn a_laptop_sees_the_lan_by_curl_firefox_and_ssh_and_asks_no_resolver() {
    lab(|| {
        let scene = Scene::new();
        let environment = prepare(&scene);
        let folder = scene.folder().display();
        scene.write(&format!("{NETWORK}[socks]\n").replace("[host]", "[host]\nhosts-resolver = false"));
        let _serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let door = sshd(&scene, "server", 22, &environment);
        let _bare = sshd(&scene, "server", 2222, "");
        let _guest = sshd(&scene, "cnx6", 22, "");
        let _web = ["cnx6", "server"].map(|place| serve(&scene, place, 80));
        let (_page, log) = page(&scene);
        let (_tcpdump, questions) = capture();

        // A browser, whose end is the connection's.
        let picture = scene.folder().join("shown.png");
        let shot = picture.display().to_string();
        let words = ["lab", "--browser", "firefox-esr", "--", "--headless", "--screenshot", &shot];
        let mut firefox = connect(&scene, &words);
        firefox.arg("http://cnx6.cnx.example:8080/").stdout(Stdio::null()).stderr(Stdio::null());
        let mut firefox = Running::start(&mut firefox);

        // Without one: the proxy, until it is interrupted.
        let mut command = connect(&scene, &["lab", "--browser", "none", "--listen", "1090"]);
        let mut open = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (said, told) = (lines(open.0.stdout.take().unwrap()), lines(open.0.stderr.take().unwrap()));
        hears(&said, "SOCKS5 proxy at 127.0.0.1:1090");
        hears(&said, "cnx6.cnx.example (10.1.1.6, fd10:1:1::6)");
        let inside = ["cnx6 10.1.1.1", "cnx6 fd10:1:1::1"];
        let sees = |port, host: &str| curl(port, host).is_some_and(|said| inside.contains(&&*said));
        for host in ["cnx6.cnx.example", "www.cnx.example", "cnx6", "10.1.1.6"] {
            assert!(sees(1090, host), "{host}: {:?}", curl(1090, host));
        }
        // By warren's own door: the server itself is not to be had, as it would be by ssh's.
        assert_eq!(curl(1090, "127.0.0.1"), None);
        // Before any line is cut: Firefox takes no picture of a page that does not come, and waits for it.
        ends(&mut firefox, "Firefox");
        let shown = fs::read_to_string(&log).unwrap_or_default();
        assert!(shown.lines().any(|line| line == "/shown-cnx6-guest"), "{shown}");
        assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
        // A line that drops is told, and comes back.
        let sessions = fs::read_to_string(format!("/proc/{0}/task/{0}/children", door.0.id())).unwrap();
        assert!(!sessions.is_empty(), "sshd has no session");
        for pid in sessions.split_whitespace() {
            // One that has ended meanwhile needs none.
            let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL);
        }
        hears(&told, "dropped; trying again in 1 s");
        hears(&told, "is back");
        assert!(sees(1090, "cnx6.cnx.example"));
        kill_process(Pid::from_child(&open.0), Signal::INT).unwrap();
        assert!(open.0.wait().unwrap().success());
        assert_eq!(curl(1090, "cnx6.cnx.example"), None, "it is gone");

        assert_eq!(left(&scene.folder().join("tmp")), Vec::<String>::new());
        assert_eq!(
            running(&folder.to_string())
                .iter()
                .filter(|line| line.contains("firefox") || line.contains("ssh -"))
                .count(),
            0
        );

        // What no warren tells of is as plain `ssh -D`: the server is there, too.
        let refused = connect(&scene, &["bare", "--browser", "none", "--lan-only"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--domain"));
        let mut command = connect(&scene, &["bare", "--browser", "none", "--listen", "1091"]);
        let mut open = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        hears(&lines(open.0.stdout.take().unwrap()), "SOCKS5 proxy at 127.0.0.1:1091");
        hears(&lines(open.0.stderr.take().unwrap()), "plain ssh -D");
        assert!(sees(1091, "10.1.1.6"));
        assert_eq!(curl(1091, "127.0.0.1").as_deref(), Some("server 127.0.0.1"));
        drop(open);

        // ssh by a guest's name.
        let mut printed = connect(&scene, &["lab", "--print", "ssh-config"]);
        let printed = Ran::of(&mut printed).says(0, &["Host cnx6 cnx6.cnx.example www", "ProxyJump lab"]).out;
        fs::write(scene.folder().join("ssh/more"), printed).unwrap();
        let config = fs::read_to_string("/etc/ssh/ssh_config").unwrap();
        fs::write("/etc/ssh/ssh_config", format!("Include {folder}/ssh/more\n{config}")).unwrap();
        let addresses = at("laptop", "ssh").args(["www", "ip -brief address show eth0"]).output().unwrap();
        let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
        assert!(addresses.contains("10.1.1.6/24"), "{addresses}");

        // Nobody was asked for a name; whoever goes without the proxy does ask.
        assert_eq!(questions.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
        let without = at("laptop", "curl").args(["--silent", "http://cnx6.cnx.example/"]).status().unwrap();
        assert!(!without.success());
        hears(&questions, "cnx6.cnx.example");
    });
}
