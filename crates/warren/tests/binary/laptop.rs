//! A laptop that reaches nothing but the server's sshd, and what is done there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::common::tool;
use crate::hosts::own_etc;
use crate::support::{PATIENCE, Running, Scene, WARREN, at, lines, listen, seen};

/// The laptop and its keys, and folders for what is left; what a server's sshd is told so that `warren` is found there.
pub fn prepare(scene: &Scene) -> String {
    let own = tool("uname -n");
    own_etc(&format!("127.0.0.1 localhost {own}"), "nameserver 203.0.113.1\noptions attempts:1 timeout:1\n");
    laptop(scene);
    keys(scene);
    let folder = scene.folder().display();
    fs::create_dir(scene.folder().join("bin")).unwrap();
    fs::create_dir(scene.folder().join("tmp")).unwrap();
    std::os::unix::fs::symlink(WARREN, scene.folder().join("bin/warren")).unwrap();
    format!(
        "SetEnv PATH={folder}/bin:/usr/bin:/bin WARREN_CONFIG={} WARREN_STATE_DIR={folder}/state WARREN_RUN_DIR={folder}/run WARREN_LXC_PATH={folder}/lxc\n",
        scene.config.display()
    )
}

/// The guest's page at port 8080, and the file in which what was asked of it stands.
pub fn page(scene: &Scene) -> (Running, PathBuf) {
    let (log, page) = (scene.folder().join("log"), scene.folder().join("page"));
    fs::write(&page, PAGE.replace("LOG", &log.display().to_string())).unwrap();
    fs::set_permissions(&page, fs::Permissions::from_mode(0o755)).unwrap();
    (listen("cnx6", "TCP4-LISTEN:8080,reuseaddr,fork", &format!("EXEC:{}", page.display())), log)
}

/// Waits for the end of what runs.
#[track_caller]
pub fn ends(process: &mut Running, what: &str) {
    let deadline = Instant::now() + 3 * PATIENCE;
    let ended = loop {
        if let Some(ended) = process.0.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline, "{what} does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ended.success(), "{what}: {ended}");
}

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
pub fn sshd(scene: &Scene, place: &str, port: u16, environment: &str) -> Running {
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
pub fn hears(said: &Receiver<String>, words: &str) -> String {
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
pub fn connect(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = at("laptop", WARREN);
    command.arg("connect").args(arguments).env("TMPDIR", scene.folder().join("tmp")).env("HOME", scene.folder());
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").stdin(Stdio::null());
    command
}

/// What a web server of the LAN's says to the laptop by the proxy, and whom it sees.
pub fn curl(port: u16, host: &str) -> Option<String> {
    let mut curl = at("laptop", "curl");
    curl.args(["--silent", "--max-time", "20", "--socks5-hostname", &format!("127.0.0.1:{port}")]);
    let output = curl.arg(format!("http://{host}/")).output().unwrap();
    let (name, peer) = seen(&String::from_utf8_lossy(&output.stdout))?;
    Some(format!("{name} {peer}"))
}

pub fn left(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Every process that has `word` among its words.
pub fn running(word: &str) -> Vec<String> {
    let all = tool("ps -eo pid,args");
    all.lines().filter(|line| line.contains(word) && !line.contains("ps -eo")).map(str::to_owned).collect()
}

/// What a resolver would be asked from the laptop, as it leaves.
pub fn capture() -> (Running, Receiver<String>) {
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
[ "$path" = / ] && printf '<!doctype html><title>cnx6</title><body bgcolor=#2a6b3c><h1 id=h>guest</h1><script>fetch("/shown-" + document.title + "-" + document.getElementById("h").innerText)</script>'
exit 0
"#;
