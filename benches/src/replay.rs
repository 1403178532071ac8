//! The netlink bytes of an `up`, recorded by strace and sent again by nothing but system calls: what the kernel's own
//! work takes, and nobody can be faster than.

use std::fs;
use std::process::Command;
use std::time::Instant;

use kernel::netlink::Socket;
use kernel::netns::Netns;
use kernel::nft::Nft;

use crate::scene::{Outcome, Scene, inside, run, told};

/// NFNL_MSG_BATCH_BEGIN of linux/netfilter/nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;

/// What was sent, in order: the protocol of the socket, and the bytes.
pub struct Recording {
    scene: Scene,
    sent: Vec<(isize, Vec<u8>)>,
}

impl Recording {
    /// Of an `up` of the scene's file, which is taken down again; to be replayed in another scene just like it.
    pub fn of(scene: &Scene) -> Outcome<Self> {
        let folder = scene.folder().join("strace");
        told(fs::create_dir_all(&folder), "a folder")?;
        let mut plain = scene.warren(&["-q", "up"]);
        let mut command = Command::new("strace");
        // It knows netlink and prints what it means; what was sent stands below, in hexadecimal. Each thread has a file of
        // its own, or their lines would stand in each other's.
        command.args(["-ff", "-ttt", "-s", "0", "-e", "trace=socket,sendto", "-e", "write=all", "-o"]);
        command.arg(folder.join("of"));
        command.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let output = told(command.output(), "strace")?;
        if !output.status.success() {
            return Err(format!("up under strace: {}", String::from_utf8_lossy(&output.stderr)));
        }
        plain.env_clear();
        scene.warren_done(&["down"])?;
        let mut sent = Vec::new();
        for file in told(fs::read_dir(&folder), "what strace saw")? {
            let log = told(file.and_then(|file| fs::read_to_string(file.path())), "what strace saw")?;
            sent.extend(parse(&log)?);
        }
        if sent.is_empty() {
            return Err("strace saw nothing sent".to_owned());
        }
        sent.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let sent = sent.into_iter().map(|(_, protocol, bytes)| (protocol, bytes)).collect();
        Ok(Self { scene: Scene::new("rpl")?, sent })
    }

    /// Milliseconds of sending it all again, answers read.
    pub fn replayed(&self) -> Outcome<f64> {
        let place = told(Netns::open(&self.scene.server), "the replay's server")?;
        let took = told(place.run(|| self.send()), "a thread")??;
        // Refusals are read and not looked at: what was to be made must be there.
        let made = told(inside(&self.scene.server, &["nft", "list", "ruleset"]).output(), "nft")?;
        if !String::from_utf8_lossy(&made.stdout).contains("29999") {
            return Err("what was sent again did not make the rules".to_owned());
        }
        run(&self.scene.server, &["nft", "flush", "ruleset"])?;
        run(&self.scene.server, &["ip", "link", "delete", "br1"])?;
        Ok(took)
    }

    fn send(&self) -> Outcome<f64> {
        // A batch names the commit that it follows (NFNL_BATCH_GENID), and here that is another.
        let mut commit = told(Nft::open().and_then(|mut nft| nft.generation()), "the last commit's number")?;
        let began = Instant::now();
        let sockets = told(Socket::open(libc::NETLINK_ROUTE as isize), "rtnetlink").and_then(|route| {
            Ok([
                (libc::NETLINK_ROUTE as isize, route),
                (libc::NETLINK_NETFILTER as isize, told(Socket::open(libc::NETLINK_NETFILTER as isize), "nfnetlink")?),
            ])
        })?;
        for (_, socket) in &sockets {
            socket.set_send_buffer(32 << 20);
            socket.enlarge(32 << 20);
        }
        for (protocol, bytes) in &self.sent {
            let Some((_, socket)) = sockets.iter().find(|(p, _)| p == protocol) else { continue };
            let mut bytes = bytes.clone();
            if bytes.get(4..6) == Some(&BATCH_BEGIN.to_ne_bytes()) && bytes.get(22..24) == Some(&1u16.to_ne_bytes()) {
                bytes[24..28].copy_from_slice(&commit.to_be_bytes());
                commit += 1;
            }
            told(socket.send(&bytes), "sending again")?;
            // Dumps answer in several; what is there is read, and what comes later with the next.
            while told(socket.receive_ready(), "the answers")?.is_some() {}
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

/// What a thread sent: when, the protocol of the socket, and the bytes.
type Sent = (f64, isize, Vec<u8>);

/// `TIME socket(AF_NETLINK, SOCK_RAW|…, NETLINK_ROUTE) = FD`, `TIME sendto(FD, …`, and below that its bytes:
/// ` | 00010  sixteen in hexadecimal, in two groups  as text |`. A thread of ours sends by sockets that it has opened.
fn parse(log: &str) -> Outcome<Vec<Sent>> {
    let mut protocols = std::collections::BTreeMap::new();
    let mut sent: Vec<Sent> = Vec::new();
    let mut heard = false;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix(" | ") {
            let Some((.., bytes)) = sent.last_mut().filter(|_| heard) else { continue };
            // The place has more digits behind the first MiB.
            let bytes_of = rest.split_once("  ").and_then(|(_, rest)| rest.get(..49)).unwrap_or_default();
            for byte in bytes_of.split_whitespace() {
                bytes.push(told(u8::from_str_radix(byte, 16), "what strace saw")?);
            }
        } else if let Some((call, descriptor)) = line.split_once("socket(").and_then(|(_, r)| r.rsplit_once("= ")) {
            let word = |protocol: &str| call.contains("AF_NETLINK") && call.contains(protocol);
            let descriptor = descriptor.trim().to_owned();
            if word("NETLINK_NETFILTER") {
                protocols.insert(descriptor, libc::NETLINK_NETFILTER as isize);
            } else if word("NETLINK_ROUTE") {
                protocols.insert(descriptor, libc::NETLINK_ROUTE as isize);
            } else {
                protocols.remove(&descriptor);
            }
        } else if let Some((time, call)) = line.split_once(" sendto(") {
            let protocol = call.split(',').next().and_then(|descriptor| protocols.get(descriptor.trim()));
            heard = protocol.is_some();
            let when = told(time.trim().parse(), "what strace saw")?;
            sent.extend(protocol.map(|protocol| (when, *protocol, Vec::new())));
        }
    }
    Ok(sent)
}
