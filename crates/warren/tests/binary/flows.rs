//! Flows that stand while warren works, and when it is killed at its work.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::Netns;

use crate::common::{lab, tool};
use crate::support::{PATIENCE, Ran, Scene, Talk, WARREN, listen, serve_udp};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.cnx7]
kind = "netns"
lan = "br1"
address = ["10.1.1.7", "fd10:1:1::7"]
[[forward]]
listen = "8080"
to = "cnx6:80"
[[forward]]
listen = "5353/udp"
to = "cnx6:53"
[[forward]]
listen = "8087"
to = "cnx7:80"
"#;

const GUESTS: [&str; 2] = ["cnx6", "cnx7"];

/// What takes files away, puts them in their places, or asks the kernel.
const CALLS: &str = "trace=unlink,unlinkat,rename,renameat,renameat2,socket";

/// `warren up` under strace, which prints the system calls that it makes, or kills it as it enters one.
fn traced(scene: &Scene, options: &[&str]) -> (Ran, String) {
    let log = scene.folder().join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&log).args(options).args([WARREN, "up"]);
    scene.tell(&mut command);
    let ran = Ran::of(&mut command);
    (ran, std::fs::read_to_string(log).unwrap())
}

/// The two places between the commit of the rules and the end of flows that they grant no more: as the journal is
/// settled, and thereafter, as the socket for the flows is opened.
#[test]
fn killed_between_the_rules_and_the_flows_the_next_run_ends_what_was_revoked() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _echo = listen("cnx6", "TCP4-LISTEN:80,reuseaddr,fork", "EXEC:cat");
        let _other = listen("cnx7", "TCP4-LISTEN:80,reuseaddr,fork", "EXEC:cat");
        serve_udp("cnx6", 53);
        serve_udp("cnx7", 53);
        let revoked = NETWORK.replace("to = \"cnx6", "to = \"cnx7");

        // Where an `up` of this change does what, by its system calls.
        scene.write(&revoked);
        let (ran, log) = traced(&scene, &["-e", CALLS]);
        ran.ends(0);
        let calls: Vec<&str> = log.lines().filter(|line| line.contains('(')).collect();
        let flows = calls.iter().rposition(|c| c.contains("NETLINK_NETFILTER")).expect(&log);
        let files = calls[..flows].iter().rposition(|c| !c.contains("socket(")).expect(&log);
        // strace counts for each thread, and each system call by itself.
        let kind = |line: &str| {
            let (thread, rest) = line.split_once(' ').unwrap();
            (thread.to_owned(), rest.trim_start().split('(').next().unwrap().to_owned())
        };
        let place = |at: usize| {
            let nth = calls[..=at].iter().filter(|call| kind(call) == kind(calls[at])).count();
            format!("inject={}:signal=KILL:when={nth}", kind(calls[at]).1)
        };
        let places = [place(files), place(flows)];

        for (round, place) in places.iter().enumerate() {
            scene.up(NETWORK, &GUESTS);
            // Ports of their own: what a round before this left half closed is none of this one's.
            let flow = |port: u16| format!("203.0.113.2:{port},bind=198.51.100.7:{}", port + 30000 + round as u16);
            let mut inward = Talk::open("world", &format!("TCP4:{}", flow(8080)));
            let mut datagrams = Talk::open("world", &format!("UDP4:{}", flow(5353)));
            let mut stays = Talk::open("world", &format!("TCP4:{}", flow(8087)));
            assert_eq!(inward.ask("before"), "before");
            assert_eq!(datagrams.ask("before"), "cnx6 198.51.100.7 before");
            assert_eq!(stays.ask("before"), "before");

            scene.write(&revoked);
            let (ran, log) = traced(&scene, &["-e", CALLS, "-e", place]);
            assert_ne!(ran.code, Some(0), "{place}: it was not killed\n{log}");
            assert!(log.contains("killed by SIGKILL"), "{place}\n{log}");
            // The rules are the new ones, the flows are the old ones: just what must not stay.
            let rules = tool("nft list table inet warren");
            assert!(rules.contains("10.1.1.7 . 53"), "{place}: killed before the rules were there\n{rules}");
            assert!(tool("conntrack -L -p tcp --orig-port-dst 8080").contains("src=10.1.1.6"), "{place}");

            scene.warren("up").ends(0);
            inward.is_cut("after the forward went elsewhere");
            assert_eq!(datagrams.ask("after"), "cnx7 198.51.100.7 after", "{place}");
            assert_eq!(stays.ask("after"), "after", "{place}");
            assert!(!tool("conntrack -L -p tcp --orig-port-dst 8080").contains("src=10.1.1.6"), "{place}");
        }
    });
}

const GIGABYTE: u64 = 1 << 30;
const CHANGES: u64 = 100;
/// No longer may a transfer stand still.
const STALL: Duration = Duration::from_secs(1);

/// The longest that this machine let a thread wait that wanted to run each 5 ms, in milliseconds.
fn hesitation(over: &Arc<AtomicBool>) -> thread::JoinHandle<Duration> {
    let over = Arc::clone(over);
    thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !over.load(Ordering::Relaxed) {
            let began = Instant::now();
            thread::sleep(Duration::from_millis(5));
            longest = longest.max(began.elapsed());
        }
        longest
    })
}

#[test]
fn a_gigabyte_comes_whole_through_a_hundred_changes_without_a_stall() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let over = Arc::new(AtomicBool::new(false));
        let listener = Netns::open("cnx6").unwrap().run(|| TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
        // Sends numbered blocks until all changes are made and a gigabyte is through; then how many there were.
        let sender = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                let mut block = vec![0; 64 * 1024];
                let mut blocks = 0_u64;
                while !over.load(Ordering::Relaxed) || blocks * 64 * 1024 < GIGABYTE {
                    block[..8].copy_from_slice(&blocks.to_be_bytes());
                    stream.write_all(&block).unwrap();
                    blocks += 1;
                }
                blocks
            })
        };
        let mut stream = Netns::open("world").unwrap().run(|| TcpStream::connect("203.0.113.2:8080")).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let receiver = {
            let received = Arc::clone(&received);
            thread::spawn(move || {
                let mut block = vec![0; 64 * 1024];
                let (mut blocks, mut filled, mut longest, mut last) = (0_u64, 0, Duration::ZERO, Instant::now());
                loop {
                    let count = match stream.read(&mut block[filled..]) {
                        Ok(0) => break,
                        Ok(count) => count,
                        Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                        Err(e) => panic!("after {blocks} blocks: {e}"),
                    };
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    filled += count;
                    if filled == block.len() {
                        assert_eq!(block[..8], blocks.to_be_bytes(), "block {blocks}");
                        (blocks, filled) = (blocks + 1, 0);
                        received.store(blocks, Ordering::Relaxed);
                        // A pace at which the changes come all along the gigabyte.
                        thread::sleep(Duration::from_micros(200));
                    }
                }
                assert_eq!(filled, 0);
                (blocks, longest)
            })
        };
        let machine = hesitation(&over);
        let mut at = Vec::new();
        for change in 0..CHANGES {
            let text = format!("{NETWORK}[[forward]]\nlisten = \"{}\"\nto = \"cnx7:9\"\n", 9000 + change);
            scene.write(&text);
            scene.warren("-q up").ends(0);
            at.push(received.load(Ordering::Relaxed));
        }
        over.store(true, Ordering::Relaxed);
        let machine = machine.join().unwrap();
        let sent = sender.join().unwrap();
        let (got, longest) = receiver.join().unwrap();
        assert_eq!(sent, got);
        assert!(got * 64 * 1024 >= GIGABYTE);
        assert!(at[0] < at[99], "nothing came while the changes were made");
        println!("{got} blocks of 64 KiB; the longest wait {longest:?}, of a thread with nothing to do {machine:?}");
        assert!(longest < STALL + machine, "it stood still for {longest:?}");
    });
}

/// The largest segment that a stream sends (TCP_MAXSEG of tcp(7)).
fn segment(stream: &TcpStream) -> i32 {
    let (mut value, mut length) = (0_i32, 4);
    // SAFETY: the pointers are to an integer of that length, and to the length.
    let asked = unsafe {
        let to = (&raw mut value).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, to, &raw mut length)
    };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    value
}

/// Either side's SYN says so, in by a forward and out, in both families.
#[test]
fn a_segment_is_never_longer_than_the_way_carries() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let bound = |place: &str, at: &str| {
            let at = at.to_owned();
            Netns::open(place).unwrap().run(move || TcpListener::bind(at)).unwrap().unwrap()
        };
        let (guest, world) = (bound("cnx6", "[::]:80"), bound("world", "[::]:80"));
        let ends = |from: &str, to: &str, listener: &TcpListener| {
            let to = to.to_owned();
            let begun = Netns::open(from).unwrap().run(move || TcpStream::connect(to)).unwrap().unwrap();
            [segment(&begun), segment(&listener.accept().unwrap().0)]
        };
        let ways = || {
            [
                ends("world", "203.0.113.2:8080", &guest),
                ends("world", "[2001:db8:113::2]:8080", &guest),
                ends("cnx6", "198.51.100.7:80", &world),
                ends("cnx6", "[2001:db8:100::7]:80", &world),
            ]
        };
        let before = ways();
        tool("ip link set eth0 mtu 1400");
        let after = ways();
        assert_eq!(after, before.map(|ends| ends.map(|segment| segment - 100)), "{before:?}");
    });
}
