//! `warren connect`: a laptop that reaches nothing but the server's sshd; curl, a real Firefox and ssh see the LAN from
//! there, and no resolver of the laptop's is asked.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{lab, tool};
use crate::hosts::own_etc;
use crate::serve::{NETWORK, Serve};
use crate::support::{PATIENCE, Ran, Running, Scene, WARREN, at, lines, listen, seen, serve, settle};

/// The laptop, a neighbour of the server's; all that may leave it is for the server's sshd, and questions to resolvers,
/// so that one that leaks is seen.
fn laptop(scene: &Scene) {
    for line in [
        "ip netns add laptop",
        "ip link add eth0 netns laptop type veth peer name to-laptop netns world",
        "ip -n laptop link set lo up",
        "ip -n laptop link set eth0 up",
        "ip -n world link set to-laptop up",
        "ip -n world link set to-laptop master segment",
        "ip -n laptop address add 203.0.113.88/24 dev eth0",
        "ip -n laptop route add default via 203.0.113.1",
    ] {
        tool(line);
    }
    let rules = "table inet only { chain out { type filter hook output priority 0; policy drop;
        oifname lo accept; ip daddr 203.0.113.2 tcp dport { 22, 2222 } accept; meta l4proto { tcp, udp } th dport 53 accept; }; }";
    let rules = fs::write(scene.folder().join("rules"), rules).map(|()| scene.folder().join("rules")).unwrap();
    assert!(at("laptop", "nft").arg("-f").arg(rules).status().unwrap().success());
}

/// sshd at `place`; with `warren` among its programs where it is told `environment`.
fn sshd(scene: &Scene, place: &str, port: u16, environment: &str) -> Running {
    let folder = scene.folder().join("ssh");
    let config = format!(
        "Port {port}\nListenAddress 0.0.0.0\nHostKey {0}/host\nPidFile none\nAuthorizedKeysFile {0}/client.pub\nStrictModes no\n\
         PermitRootLogin yes\nUsePAM no\nPasswordAuthentication no\nX11UseLocalhost yes\n{environment}",
        folder.display()
    );
    let path = folder.join(format!("{place}-{port}"));
    fs::write(&path, config).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    let mut command = at(place, "/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(path).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut sshd = Running::start(&mut command);
    hears(&lines(sshd.0.stderr.take().unwrap()), "listening on");
    sshd
}

#[track_caller]
fn hears(said: &Receiver<String>, words: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.contains(words) => return line,
            Ok(line) => all.push(line),
            Err(e) => panic!("{words:?} is not said: {e}\n{}", all.join("\n")),
        }
    }
}

/// Keys, and the laptop's configuration of ssh.
fn keys(scene: &Scene) {
    let folder = scene.folder().join("ssh");
    fs::create_dir(&folder).unwrap();
    for key in ["host", "client"] {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key));
        assert!(command.status().unwrap().success());
    }
    let host = fs::read_to_string(folder.join("host.pub")).unwrap();
    fs::write(folder.join("known"), format!("* {host}")).unwrap();
    let config = format!(
        "Host lab\n  HostName 203.0.113.2\nHost bare\n  HostName 203.0.113.2\n  Port 2222\n  LocalForward 1080 127.0.0.1:9\n\
         Host *\n  User root\n  IdentityFile {0}/client\n  UserKnownHostsFile {0}/known\n  LogLevel ERROR\n",
        folder.display()
    );
    fs::write("/etc/ssh/ssh_config", config).unwrap();
    for (key, mode) in [("client", 0o600), ("host", 0o600)] {
        fs::set_permissions(folder.join(key), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// `warren connect` on the laptop, with a folder for what it leaves.
fn connect(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = at("laptop", WARREN);
    command.arg("connect").args(arguments).env("TMPDIR", scene.folder().join("tmp")).env("HOME", scene.folder());
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").stdin(Stdio::null());
    command
}

/// What a web server of the LAN's says to the laptop by the proxy, and whom it sees.
fn curl(port: u16, host: &str) -> Option<String> {
    let mut curl = at("laptop", "curl");
    curl.args(["--silent", "--max-time", "20", "--socks5-hostname", &format!("127.0.0.1:{port}")]);
    let output = curl.arg(format!("http://{host}/")).output().unwrap();
    let (name, peer) = seen(&String::from_utf8_lossy(&output.stdout))?;
    Some(format!("{name} {peer}"))
}

fn left(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Every process that has `word` among its words.
fn running(word: &str) -> Vec<String> {
    let all = tool("ps -eo pid,args");
    all.lines().filter(|line| line.contains(word) && !line.contains("ps -eo")).map(str::to_owned).collect()
}

/// What a resolver would be asked from the laptop, as it leaves.
fn capture() -> (Running, Receiver<String>) {
    let mut command = at("laptop", "tcpdump");
    command.args(["-l", "-n", "-i", "eth0", "port 53 or port 853 or port 5353 or port 5355"]);
    let mut tcpdump = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    hears(&lines(tcpdump.0.stderr.take().unwrap()), "listening on");
    let said = lines(tcpdump.0.stdout.take().unwrap());
    (tcpdump, said)
}

/// A page that says, once it is shown, what it shows.
const PAGE: &str = r#"#!/bin/sh
read -r verb path rest
while read -r line && [ ${#line} -gt 1 ]; do :; done
echo "$path" >> LOG
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n'
[ "$path" = / ] && printf '<!doctype html><title>cnx6</title><h1 id=h>guest</h1><script>fetch("/shown-" + document.title + "-" + document.getElementById("h").innerText)</script>'
exit 0
"#;

#[test]
fn a_laptop_sees_the_lan_by_curl_firefox_and_ssh_and_asks_no_resolver() {
    lab(|| {
        let scene = Scene::new();
        let own = tool("uname -n");
        own_etc(&format!("127.0.0.1 localhost {own}"), "nameserver 203.0.113.1\noptions attempts:1 timeout:1\n");
        laptop(&scene);
        keys(&scene);
        let folder = scene.folder().display();
        fs::create_dir(scene.folder().join("bin")).unwrap();
        fs::create_dir(scene.folder().join("tmp")).unwrap();
        std::os::unix::fs::symlink(WARREN, scene.folder().join("bin/warren")).unwrap();
        scene.write(&format!("{NETWORK}[socks]\n").replace("[host]", "[host]\nhosts-resolver = false"));
        let _serving = Serve::start(&scene);
        settle(&["cnx6"]);
        let environment = format!(
            "SetEnv PATH={folder}/bin:/usr/bin:/bin WARREN_CONFIG={} WARREN_STATE_DIR={folder}/state WARREN_RUN_DIR={folder}/run WARREN_LXC_PATH={folder}/lxc\n",
            scene.config.display()
        );
        let door = sshd(&scene, "server", 22, &environment);
        let _bare = sshd(&scene, "server", 2222, "");
        let _guest = sshd(&scene, "cnx6", 22, "");
        let _web = ["cnx6", "server"].map(|place| serve(&scene, place, 80));
        let log = scene.folder().join("log");
        let page = scene.folder().join("page");
        fs::write(&page, PAGE.replace("LOG", &log.display().to_string())).unwrap();
        fs::set_permissions(&page, fs::Permissions::from_mode(0o755)).unwrap();
        let _page = listen("cnx6", "TCP4-LISTEN:8080,reuseaddr,fork", &format!("EXEC:{}", page.display()));
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
        let deadline = Instant::now() + 3 * PATIENCE;
        let ended = loop {
            if let Some(ended) = firefox.0.try_wait().unwrap() {
                break ended;
            }
            assert!(Instant::now() < deadline, "Firefox does not end");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(ended.success(), "{ended}");
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
