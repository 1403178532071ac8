//! `warren serve`: names by dig, from guests, the host and past both; processes that are killed; reloads.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{PATIENCE, Running, Scene, at, lines, settle};

pub const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
domain = "cnx.example"
dns = ["203.0.113.77", "198.51.100.7"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24"]
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
aliases = ["www"]
[guest.alone]
kind = "netns"
lan = "br2"
address = ["10.1.2.6"]
"#;

/// A `serve` beside the test; whatever is left of it ends with this.
pub struct Serve<'a> {
    scene: &'a Scene,
    pub process: Running,
    said: Receiver<String>,
}

impl<'a> Serve<'a> {
    /// Started, and serving.
    pub fn start(scene: &'a Scene) -> Self {
        Self::start_with(scene, &[])
    }

    /// The same, with these in its environment.
    pub fn start_with(scene: &'a Scene, environment: &[(&str, &str)]) -> Self {
        Self::start_saying(scene, environment, "serving")
    }

    /// The same, once it has said `words`.
    pub fn start_saying(scene: &'a Scene, environment: &[(&str, &str)], words: &str) -> Self {
        let mut command = scene.command();
        command.envs(environment.iter().copied());
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Running::start(&mut command);
        let said = lines(process.0.stderr.take().unwrap());
        let serve = Self { scene, process, said };
        serve.hears(words);
        serve
    }

    /// Waits for a line with that in it.
    #[track_caller]
    pub fn hears(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => all.push(line),
                Err(e) => panic!("serve does not say {words:?}: {e}\n{}", all.join("\n")),
            }
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process.0)
    }

    /// The worker, as `status` says.
    #[track_caller]
    pub fn worker(&self) -> Pid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.scene.warren("--json status").ends(0).json();
            if let Some(pid) = status["services"]["pid"].as_i64() {
                return Pid::from_raw(pid.try_into().unwrap()).unwrap();
            }
            assert!(Instant::now() < deadline, "no worker serves");
        }
    }
}

impl Drop for Serve<'_> {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.process.0.wait();
        // Its worker lives on until somebody calls.
        if let Ok(mut worker) = UnixStream::connect(self.scene.folder().join("run/worker.sock")) {
            let _ = worker.set_read_timeout(Some(PATIENCE));
            let _ = worker.read(&mut [0]);
        }
    }
}

/// What dig prints.
pub fn dig(place: &str, words: &str) -> String {
    let mut command = at(place, "dig");
    command.args(["+tries=2", "+timeout=3"]).args(words.split_whitespace());
    String::from_utf8(command.output().expect("dig is needed").stdout).unwrap()
}

/// The answers alone, sorted, in one line.
pub fn short(place: &str, words: &str) -> String {
    let text = dig(place, &format!("+short {words}"));
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join(" ")
}

/// dnsmasq as the world's resolver: names, one that points inside, and one too long for a datagram.
pub fn resolver() -> Running {
    let mut command = at("world", "dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file="]);
    command.args(["--listen-address=198.51.100.7", "--bind-interfaces", "--user=root", "--log-facility=-"]);
    command.args(["--host-record=world.example,198.51.100.80,2001:db8:100::80", "--cname=alias.example,world.example"]);
    command.args(["--host-record=rebind.example,10.1.1.6", "--host-record=rebind6.example,fd10:1:1::6"]);
    command.args(["--local=/example/", "--local-ttl=300"]);
    for nth in 0..20 {
        command.arg(format!("--txt-record=long.example,{nth:02}{}", "x".repeat(120)));
    }
    let running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    let deadline = Instant::now() + PATIENCE;
    while short("world", "world.example @198.51.100.7 +tries=1 +timeout=1") != "198.51.100.80" {
        assert!(Instant::now() < deadline, "dnsmasq does not answer");
    }
    running
}

#[test]
fn names_of_guests_and_of_the_world_each_where_they_may_be_asked() {
    lab(|| {
        let scene = Scene::new();
        let _world = resolver();
        scene.write(NETWORK);
        let before = take();
        let hosts = fs::read_to_string("/etc/hosts").unwrap();
        let serve = Serve::start(&scene);
        settle(&["cnx6"]);
        // Ours: by both families, by UDP and TCP, to guests and to the host.
        for place in ["cnx6", "server"] {
            assert_eq!(short(place, "cnx6.cnx.example @10.1.1.1"), "10.1.1.6", "{place}");
            assert_eq!(short(place, "www.CNX.example AAAA @fd10:1:1::1"), "fd10:1:1::6", "{place}");
            assert_eq!(short(place, "+tcp cnx6 @10.1.1.1"), "10.1.1.6", "{place}: a name without its domain");
            assert_eq!(short(place, "-x 10.1.1.6 @10.1.1.1"), "cnx6.cnx.example.", "{place}");
            assert_eq!(short(place, "-x fd10:1:1::6 @10.1.1.1"), "cnx6.cnx.example.", "{place}");
        }
        let absent = dig("cnx6", "nobody.cnx.example @10.1.1.1");
        assert!(absent.contains("status: NXDOMAIN") && absent.contains("SOA"), "{absent}");
        let nothing = dig("cnx6", "cnx6.cnx.example MX @10.1.1.1");
        assert!(nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0"), "{nothing}");
        // The world's, past a resolver that is silent.
        assert_eq!(short("cnx6", "world.example @10.1.1.1"), "198.51.100.80");
        assert_eq!(short("cnx6", "alias.example AAAA @10.1.1.1"), "2001:db8:100::80 world.example.");
        assert!(dig("cnx6", "gone.example @10.1.1.1").contains("status: NXDOMAIN"));
        // Too long for a datagram: cut, and whole by TCP, which dig goes over to by itself.
        assert!(dig("cnx6", "+ignore long.example TXT @10.1.1.1").contains(" tc "));
        assert_eq!(dig("cnx6", "+short long.example TXT @10.1.1.1").lines().count(), 20);
        // A name of the world's that points into a LAN is none; the resolver itself tells it.
        assert_eq!(short("world", "rebind.example @198.51.100.7"), "10.1.1.6");
        // However often it is asked for: what is remembered is no better.
        for _ in 0..2 {
            assert_eq!(short("cnx6", "rebind.example @10.1.1.1"), "");
            assert_eq!(short("cnx6", "rebind6.example AAAA @10.1.1.1"), "");
        }
        // An isolated LAN has its zone and nothing else; another LAN's names are none of its business.
        assert_eq!(short("alone", "alone.br2.internal @10.1.2.1"), "10.1.2.6");
        for name in ["world.example", "cnx6.cnx.example"] {
            assert!(dig("alone", &format!("{name} @10.1.2.1")).contains("status: REFUSED"), "{name}");
        }
        let status = scene.warren("--json status").ends(0).json();
        assert_eq!(status["services"]["dns"]["rebinding"], 4, "{}", status["services"]);
        // What is remembered needs nobody: the answer is there when its resolver is gone.
        drop(_world);
        assert_eq!(short("cnx6", "world.example @10.1.1.1"), "198.51.100.80");
        assert!(dig("cnx6", "other.example @10.1.1.1 +timeout=10").contains("status: SERVFAIL"));
        scene.warren("down").says(0, &["The network is down"]);
        drop(serve);
        assert_same(&before, &take(), "served, and taken down");
        // Here it is mounted onto its place, as in a container.
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), hosts);
    });
}

#[test]
fn either_process_may_die_and_a_reload_is_whole_or_not_at_all() {
    lab(|| {
        let scene = Scene::new();
        // Without IPv6, for which stations make addresses when they are told of a router: some time or other.
        let network = NETWORK.replace(", \"fd10:1:1::1/64\"", "").replace(", \"fd10:1:1::6\"", "");
        scene.write(&network);
        let serve = Serve::start(&scene);
        let up = take();
        let asks = || short("cnx6", "cnx6.cnx.example @10.1.1.1");
        assert_eq!(asks(), "10.1.1.6");
        // The worker has given up what it could do harm with.
        let worker = serve.worker();
        let status = fs::read_to_string(format!("/proc/{}/status", worker.as_raw_nonzero())).unwrap();
        let is = |key: &str, value: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            assert_eq!(line.split_whitespace().next().unwrap_or_default(), value, "{key} in\n{status}");
        };
        for sort in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            is(sort, "0000000000000000");
        }
        is("NoNewPrivs:", "1");
        if crate::common::is_real_root() {
            assert!(!status.lines().any(|line| line.starts_with("Uid:\t0")), "{status}");
        }
        // One serve at a time.
        scene.warren("serve").says(1, &["runs here already"]);
        // A worker that is killed is followed by another.
        kill_process(worker, Signal::KILL).unwrap();
        serve.hears("started again");
        assert_eq!(asks(), "10.1.1.6");
        assert_ne!(serve.worker(), worker);
        // A file that is wrong is refused, and what runs goes on.
        scene.write(&network.replace("10.1.1.6", "10.9.9.9"));
        kill_process(serve.pid(), Signal::HUP).unwrap();
        serve.hears("outside of the LAN");
        scene.warren("up").says(2, &["outside of the LAN"]);
        assert_eq!(asks(), "10.1.1.6");
        // One that is right is served when `up` returns.
        scene.write(&network.replace("aliases = [\"www\"]", "aliases = [\"www\", \"new\"]"));
        scene.warren("up").says(0, &["Nothing to change"]);
        assert_eq!(short("cnx6", "new.cnx.example @10.1.1.1"), "10.1.1.6");
        let grown = format!("{network}[guest.cnx8]\nkind = \"netns\"\nlan = \"br1\"\naddress = [\"10.1.1.8\"]\n");
        scene.write(&grown);
        kill_process(serve.pid(), Signal::HUP).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while short("cnx6", "cnx8.cnx.example @10.1.1.1") != "10.1.1.8" {
            assert!(Instant::now() < deadline, "a reload is not served");
        }
        scene.write(&network);
        scene.warren("up").ends(0);
        assert_same(&up, &take(), "reloaded");
        // A supervisor that is killed leaves the worker, and the next one takes over.
        let left = serve.worker();
        kill_process(serve.pid(), Signal::KILL).unwrap();
        serve.hears("the supervisor is gone");
        assert_eq!(asks(), "10.1.1.6");
        let next = Serve::start(&scene);
        assert_eq!(asks(), "10.1.1.6");
        assert_ne!(next.worker(), left);
        assert_same(&up, &take(), "taken over");
        // Told to end, both do, and the network stays.
        let worker = next.worker();
        kill_process(next.pid(), Signal::TERM).unwrap();
        let mut next = next;
        assert!(next.process.0.wait().unwrap().success());
        assert!(!std::path::Path::new(&format!("/proc/{}", worker.as_raw_nonzero())).exists());
        assert_same(&up, &take(), "ended");
        drop(serve);
        scene.warren("down").ends(0);
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_its_owner() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &[]);
        let mut other = Command::new("dnsmasq");
        other.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv"]);
        other.args(["--listen-address=10.1.1.1", "--bind-interfaces", "--address=/taken.example/192.0.2.1"]);
        let other = Running::start(other.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let deadline = Instant::now() + PATIENCE;
        while short("server", "taken.example @10.1.1.1 +tries=1 +timeout=1") != "192.0.2.1" {
            assert!(Instant::now() < deadline, "dnsmasq does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        let before = take();
        let owner = format!("dnsmasq (pid {})", other.0.id());
        scene.warren("serve").says(5, &["port 53 of 10.1.1.1", &owner, "the network is up"]);
        assert_same(&before, &take(), "refused");
        drop(other);
        let serve = Serve::start(&scene);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        drop(serve);
        tool("ip link show br1");
        scene.warren("down").ends(0);
    });
}
