//! An uplink plugged into a bridge that takes its place, and pulled out again: all of it moves, nothing is lost, from
//! wherever it was stopped. What is seen is what `ip` shows.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::snapshot::{Snapshot, assert_same, take};
use common::{lab, tool};
use kernel::apply::{ApplyError, Engine, Report};
use model::network::Network;

struct Server {
    _folder: tempfile::TempDir,
    state: PathBuf,
    run: PathBuf,
}

const BRIDGED: &str = r#"
[host]
uplink = "eth0"
[lan.br0]
mode = "bridged"
ports = ["eth0"]
[guest.web]
kind = "netns"
address = ["203.0.113.20", "2001:db8:113::20"]
"#;

/// An uplink that has one of each sort.
const LADEN: [&str; 29] = [
    "ip link add eth0 address 02:00:00:00:01:01 type veth peer name world0",
    "ip link set world0 up",
    "ip link set eth0 up",
    "ip address add 203.0.113.2/24 broadcast 203.0.113.255 dev eth0",
    "ip address add 203.0.113.3/24 dev eth0 label eth0:1",
    "ip address add 198.51.100.9/32 dev eth0 scope link",
    "ip address add 192.0.2.7/24 dev eth0 valid_lft 3600 preferred_lft 1800 noprefixroute",
    "ip address add 10.9.9.1 peer 10.9.9.2/32 dev eth0",
    "ip -6 address add 2001:db8:113::2/64 dev eth0 nodad",
    "ip -6 address add 2001:db8:114::2/64 dev eth0 nodad noprefixroute valid_lft 3600 preferred_lft 1800",
    "ip route add default via 203.0.113.1 dev eth0 metric 100 src 203.0.113.3",
    "ip route add default via 203.0.113.1 dev eth0 metric 1024 proto dhcp",
    "ip route add 172.31.1.1 dev eth0 scope link",
    "ip route add 198.51.100.0/25 via 172.31.1.1 dev eth0 mtu 1400 advmss 1300",
    "ip route add 198.51.100.128/25 via 169.254.7.7 dev eth0 onlink",
    "ip route add 192.0.2.0/24 dev eth0 scope link metric 50 src 192.0.2.7",
    "ip route add default via 203.0.113.254 dev eth0 table 100",
    "ip route add 10.50.0.0/16 nexthop via 203.0.113.5 dev eth0 weight 2 nexthop via 203.0.113.6 dev eth0",
    "ip -6 route add default via 2001:db8:113::1 dev eth0 metric 512",
    "ip -6 route add 2001:db8:5::/48 via fe80::1 dev eth0 proto ra expires 900",
    "ip -6 route add 2001:db8:6::/48 dev eth0 table 100",
    "ip rule add from 203.0.113.3 table 100 priority 1000",
    "ip rule add iif eth0 lookup 100 priority 1001",
    "ip rule add not oif eth0 fwmark 7 lookup 100 priority 1002",
    "ip -6 rule add iif eth0 table 100 priority 1003",
    "ip neighbour add 203.0.113.1 lladdr 02:00:00:00:00:aa dev eth0 nud permanent",
    "ip -6 neighbour add fe80::1 lladdr 02:00:00:00:00:ab dev eth0 nud permanent router",
    "ip neighbour add proxy 203.0.113.77 dev eth0",
    "sysctl -q net.ipv4.conf.eth0.rp_filter=2",
];

impl Server {
    fn laden() -> Self {
        LADEN.iter().for_each(|line| drop(tool(line)));
        settle();
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("state"), folder.path().join("run"));
        Self { _folder: folder, state, run }
    }

    fn engine(&self) -> Engine {
        Engine::new(&self.state, &self.run).unwrap()
    }

    fn up(&self, text: &str) -> Result<Report, ApplyError> {
        self.up_watched(text, &mut |_, _| Ok(()))
    }

    fn up_watched(&self, text: &str, watch: kernel::apply::Watch) -> Result<Report, ApplyError> {
        self.engine().up(&network(text), Path::new("/warren.toml"), false, watch)
    }

    fn down(&self) -> Report {
        self.engine().down(&mut |_, _| Ok(())).unwrap()
    }
}

fn settle() {
    let deadline = Instant::now() + Duration::from_secs(20);
    while tool("ip -6 address show tentative").contains("inet6") {
        assert!(Instant::now() < deadline, "addresses stay tentative");
        std::thread::yield_now();
    }
}

fn network(text: &str) -> Network {
    let (config, problems) = model::config::parse(text);
    assert!(problems.is_empty(), "{problems:?}");
    let mut facts = kernel::facts::gather().unwrap();
    // Its leases are nobody's here.
    facts.interfaces.iter_mut().for_each(|interface| interface.manager = None);
    model::network::resolve(&config, &facts).unwrap()
}

fn steps(report: &Report) -> Vec<String> {
    report.done.steps.iter().map(ToString::to_string).collect()
}

/// What a link bears, in the order-less words of `ip`, with the link called LINK.
fn borne(link: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let addresses = tool(&format!("ip -o address show dev {link}"));
    // `ip -o` writes the link first, and lifetimes at the end, which go on.
    let words = |line: &str| line.split("\\").next().unwrap().split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    lines.extend(addresses.lines().map(words));
    for what in
        ["route show table all", "-6 route show table all", "neighbour show nud permanent", "neighbour show proxy"]
    {
        let (options, what) =
            what.rsplit_once("route").map_or(("", what.to_owned()), |(o, w)| (o, format!("route{w}")));
        let all = tool(&format!("ip {options} {what}"));
        let of_it = all.lines().filter(|line| {
            let mut words = line.split_whitespace().skip_while(|w| *w != "dev");
            words.nth(1) == Some(link) && !line.contains("table local") && !line.contains("multicast")
        });
        lines.extend(of_it.map(|line| line.split(" expires").next().unwrap().to_owned()));
    }
    // One for each hop.
    let hops = tool("ip route show 10.50.0.0/16");
    lines.extend(hops.lines().filter(|line| line.contains(&format!("dev {link} "))).map(str::to_owned));
    let rules = [tool("ip rule show"), tool("ip -6 rule show")].concat();
    lines.extend(rules.lines().filter(|line| line.split_whitespace().any(|w| w == link)).map(str::to_owned));
    for line in &mut lines {
        *line = line.split_whitespace().map(|w| w.replace(link, "LINK")).collect::<Vec<_>>().join(" ");
    }
    lines.sort();
    lines.dedup();
    lines
}

/// `ip` shows routes of one metric in the order in which they came, and IPv4 addresses' flags as they are counted.
fn without_order(mut snapshot: Snapshot) -> Snapshot {
    for (name, text) in &mut snapshot {
        if name.starts_with("routes") || name == "addresses" {
            let mut lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches(',')).collect();
            lines.sort_unstable();
            *text = lines.join("\n");
            // What ends some time ends a little sooner by now.
            while let Some((begin, rest)) = text.split_once("\"expires\":") {
                *text = format!("{begin}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            }
        }
    }
    snapshot
}

#[test]
fn all_that_an_uplink_bears_moves_to_the_bridge_and_back() {
    lab(|| {
        let server = Server::laden();
        let (before, bore) = (without_order(take()), borne("eth0"));
        assert!(bore.len() > 22, "{bore:#?}");
        server.up(BRIDGED).unwrap();
        assert_eq!(borne("br0"), bore, "what br0 bears is not what eth0 bore");
        assert_eq!(borne("eth0"), Vec::<String>::new());
        assert!(tool("ip link show br0").contains("02:00:00:00:01:01"));
        assert_eq!(tool("sysctl -n net.ipv4.conf.br0.rp_filter").trim(), "2");
        assert!(tool("bridge link show dev eth0").contains("master br0"));
        // Lifetimes go on, and nobody is asked whether an address is free.
        let leased = tool("ip -json address show dev br0 to 192.0.2.7");
        let lifetime: u32 =
            leased.split("\"valid_life_time\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&lifetime), "{leased}");
        assert!(!tool("ip -6 address show dev br0").contains("tentative"));
        assert_eq!(steps(&server.up(BRIDGED).unwrap()), Vec::<String>::new());
        server.down();
        assert_eq!(borne("eth0"), bore, "what came back is not what went");
        assert_same(&before, &without_order(take()), "after down");
        assert_eq!(std::fs::read_dir(&server.state).unwrap().count(), 0, "files are left in the state folder");
    });
}

#[test]
fn what_came_to_the_bridge_meanwhile_goes_back_and_what_is_declared_does_not() {
    lab(|| {
        let server = Server::laden();
        let own = BRIDGED.replace("ports = ", "address = [\"203.0.113.2/24\", \"203.0.113.99/24\"]\nports = ");
        server.up(&own).unwrap();
        assert!(tool("ip address show dev br0").contains("203.0.113.99/24"));
        // A lease that changed, a route that a person added.
        tool("ip address delete 192.0.2.7/24 dev br0");
        tool("ip address add 192.0.2.8/24 dev br0");
        tool("ip route add 10.60.0.0/16 via 203.0.113.1 dev br0");
        assert_eq!(steps(&server.up(&own).unwrap()), Vec::<String>::new());
        server.down();
        let now = tool("ip address show dev eth0");
        assert!(now.contains("203.0.113.2/24") && now.contains("192.0.2.8/24"), "{now}");
        assert!(!now.contains("192.0.2.7/24") && !now.contains("203.0.113.99/24"), "{now}");
        assert!(tool("ip route show").contains("10.60.0.0/16 via 203.0.113.1 dev eth0"));
    });
}

#[test]
fn stopped_before_any_step_all_is_as_it_was() {
    lab(|| {
        let server = Server::laden();
        let before = without_order(take());
        let count = server.up(BRIDGED).unwrap().done.steps.len();
        server.down();
        assert!(count > 5);
        for stop in 0..count {
            let stopped =
                server.up_watched(BRIDGED, &mut |nth, _| if nth == stop { Err("stopped".into()) } else { Ok(()) });
            assert!(
                matches!(stopped, Err(ApplyError::Step { ref leftovers, .. }) if leftovers.is_empty()),
                "{stopped:?}"
            );
            assert_same(&before, &without_order(take()), &format!("stopped before step {stop}"));
        }
        server.up(BRIDGED).unwrap();
        let up = without_order(take());
        let count = server.down().done.steps.len();
        server.up(BRIDGED).unwrap();
        for stop in 0..count {
            let stopped = server.engine().down(&mut |nth, _| if nth == stop { Err("stopped".into()) } else { Ok(()) });
            assert!(
                matches!(stopped, Err(ApplyError::Step { ref leftovers, .. }) if leftovers.is_empty()),
                "{stopped:?}"
            );
            settle();
            assert_same(&up, &without_order(take()), &format!("down stopped before step {stop}"));
        }
    });
}

/// Runs `up` in a process that is killed before step `at`; says whether it came to its end.
fn survives(server: &Server, text: &str, at: usize) -> bool {
    // SAFETY: the child has one thread, the copy of this one, and glibc keeps its allocator usable over fork; it ends
    // by SIGKILL or _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let mut watch = |index: usize, _: &model::plan::Step| {
            if index == at {
                // SAFETY: plain system calls.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            Ok(())
        };
        let code = i32::from(server.up_watched(text, &mut watch).is_err());
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live integer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) == 0, "up failed in the child");
    libc::WIFEXITED(status)
}

#[test]
fn killed_before_any_step_the_next_run_puts_the_uplink_back() {
    lab(|| {
        let server = Server::laden();
        let text = BRIDGED.replace("ports = ", "address = [\"203.0.113.99/24\"]\nports = ");
        let before = without_order(take());
        let mut tried = 0;
        while !survives(&server, &text, tried) {
            server.down();
            settle();
            assert_same(&before, &without_order(take()), &format!("killed before step {tried}, then down"));
            tried += 1;
        }
        assert!(tried > 6, "{tried}");
        server.down();
        println!("killed before each of {tried} steps");
    });
}

#[test]
fn a_move_that_was_ended_half_way_is_finished() {
    lab(|| {
        let server = Server::laden();
        let (before, bore) = (without_order(take()), borne("eth0"));
        server.up(BRIDGED).unwrap();
        // As a kill in the middle of a move leaves it: some here, some there, some on both.
        for line in [
            "ip address add 203.0.113.2/24 broadcast 203.0.113.255 dev eth0",
            "ip route append default via 203.0.113.1 dev eth0 metric 100",
            "ip -6 address delete 2001:db8:113::2/64 dev br0",
            "ip -6 address add 2001:db8:113::2/64 dev eth0 nodad",
        ] {
            tool(line);
        }
        server.up(BRIDGED).unwrap();
        assert_eq!(borne("eth0"), Vec::<String>::new());
        assert!(tool("ip address show dev br0").contains("203.0.113.2/24"));
        tool("ip address add 203.0.113.2/24 broadcast 203.0.113.255 dev eth0");
        server.down();
        let now = borne("eth0");
        for line in bore.iter().filter(|line| !line.starts_with("default") && !line.contains("2001:db8:113::")) {
            assert!(now.contains(line), "{line} is lost: {now:#?}");
        }
        drop(before);
    });
}
