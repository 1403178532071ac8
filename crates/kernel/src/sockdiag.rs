//! Sockets that wait for the world, by NETLINK_SOCK_DIAG (sock_diag(7), linux/inet_diag.h).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use model::address::Transport;
use model::session::Session;

use crate::error::{Context as _, Result};
use crate::netlink::{Socket, find_attr, ne_u32};
use crate::processes;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// The kernel's states of sockets (include/net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// A TCP socket that listens, or a UDP socket that has no peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// TCP or UDP.
    pub transport: Transport,
    /// What it is bound to; unspecified for everything.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether an IPv6 socket takes IPv6 alone (IPV6_V6ONLY); `::` without it takes IPv4 too. True for IPv4 sockets.
    pub own_family_only: bool,
    /// The index of the interface that it is bound to (SO_BINDTODEVICE, or a link-local address's), if any.
    pub interface: Option<u32>,
    /// The user id that opened it.
    pub uid: u32,
    /// Its inode, by which [`owners`] knows it.
    pub inode: u32,
}

/// The sockets of the calling thread's network namespace that wait, ordered by transport, port and address.
pub fn listening() -> Result<Vec<Listening>> {
    let mut socket = Socket::open(libc::NETLINK_SOCK_DIAG as isize).context("open", "a sock_diag socket")?;
    let mut found = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let state = match transport {
                Transport::Tcp => TCP_LISTEN,
                Transport::Udp => TCP_CLOSE,
            };
            let messages = socket.dump(SOCK_DIAG_BY_FAMILY, |w| {
                // struct inet_diag_req_v2: family, protocol, extensions, padding, states, and a sockid of 48 bytes
                // that only a question for one socket reads.
                w.raw(&[family, transport.number(), 0, 0]).raw(&(1u32 << state).to_ne_bytes()).raw(&[0; 48]);
            });
            let what = || format!("the {transport} sockets of address family {family}");
            let messages = messages.context("list", what())?;
            found.extend(
                messages.iter().filter(|m| m.kind == SOCK_DIAG_BY_FAMILY).filter_map(|m| parse(transport, &m.payload)),
            );
        }
    }
    found.sort_by_key(|l| (l.transport, l.port, l.address, l.inode));
    Ok(found)
}

/// Whether the connection of a session stands, on this end, in the calling thread's network namespace.
pub fn is_established(session: &Session) -> Result<bool> {
    let mut socket = Socket::open(libc::NETLINK_SOCK_DIAG as isize).context("open", "a sock_diag socket")?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let messages = socket.dump(SOCK_DIAG_BY_FAMILY, |w| {
            w.raw(&[family, Transport::Tcp.number(), 0, 0]).raw(&(1u32 << TCP_ESTABLISHED).to_ne_bytes()).raw(&[0; 48]);
        });
        let messages = messages.context("list", format!("the connections of address family {family}"))?;
        if messages.iter().any(|m| ends(&m.payload).is_some_and(|found| found == *session)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A socket that is asked many questions.
pub struct SockDiag(Socket);

impl SockDiag {
    /// One in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Socket::open(libc::NETLINK_SOCK_DIAG as isize).context("open", "a sock_diag socket").map(Self)
    }

    /// The user that opened the TCP socket at `local` that is connected to `peer`, both in the socket's network
    /// namespace; none where there is no such socket any more.
    pub fn user_of(&mut self, local: SocketAddr, peer: SocketAddr) -> Result<Option<u32>> {
        user_of(&mut self.0, local, peer)
    }
}

fn user_of(socket: &mut Socket, local: SocketAddr, peer: SocketAddr) -> Result<Option<u32>> {
    let (local, peer) = (canonical(local), canonical(peer));
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let sixteen = |address: IpAddr| match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(a) => a.octets(),
    };
    let found = socket.get(SOCK_DIAG_BY_FAMILY, 0, |w| {
        w.raw(&[family as u8, Transport::Tcp.number(), 0, 0]).raw(&u32::MAX.to_ne_bytes());
        // struct inet_diag_sockid: ports, addresses, any interface, no cookie (INET_DIAG_NOCOOKIE).
        let ([a, b], [c, d]) = (local.port().to_be_bytes(), peer.port().to_be_bytes());
        w.raw(&[a, b, c, d]);
        w.raw(&sixteen(local.ip())).raw(&sixteen(peer.ip())).raw(&[0; 4]).raw(&[0xff; 8]);
    });
    match found {
        Ok(found) => {
            let found = found.iter().find(|m| m.kind == SOCK_DIAG_BY_FAMILY);
            Ok(found.and_then(|m| m.payload.get(64..68)).map(ne_u32))
        }
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e).context("find", format!("the connection of {local} and {peer}")),
    }
}

fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

/// Both ends of a connection, of a struct inet_diag_msg.
fn ends(payload: &[u8]) -> Option<Session> {
    let family = i32::from(*payload.first()?);
    let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let address = |at: usize| {
        let sixteen = <[u8; 16]>::try_from(payload.get(at..at + 16)?).ok()?;
        let [a, b, c, d, ..] = sixteen;
        match family {
            libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
            _ => Some(IpAddr::V6(Ipv6Addr::from(sixteen)).to_canonical()),
        }
    };
    Some(Session { local: address(8)?, local_port: port(4)?, peer: address(24)?, peer_port: port(6)? })
}

/// struct inet_diag_msg: family, state, timer, retransmissions; sockid (ports in network order, addresses of 16 bytes,
/// interface, cookie of 8); expires, queues, uid, inode.
fn parse(transport: Transport, payload: &[u8]) -> Option<Listening> {
    let family = i32::from(*payload.first()?);
    let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let sixteen = <[u8; 16]>::try_from(payload.get(8..24)?).ok()?;
    let [a, b, c, d, ..] = sixteen;
    // A UDP socket in TCP_CLOSE that is bound to no port waits for nothing; one with a peer is TCP_ESTABLISHED.
    let (own, peer) = (port(4)?, port(6)?);
    if own == 0 || peer != 0 {
        return None;
    }
    let address = match family {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(sixteen)).to_canonical(),
        _ => return None,
    };
    let v6only = find_attr(payload.get(72..)?, INET_DIAG_SKV6ONLY).is_some_and(|v| v.first() == Some(&1));
    Some(Listening {
        transport,
        address,
        port: own,
        own_family_only: address.is_ipv4() || v6only,
        interface: Some(ne_u32(payload.get(40..44)?)).filter(|i| *i != 0),
        uid: ne_u32(payload.get(64..68)?),
        inode: ne_u32(payload.get(68..72)?),
    })
}

/// Who was found to hold a socket open: its inode, the process, and its name. Inodes of sockets are counted upwards, so
/// that another socket has the same only when the count has gone round.
static FOUND: Mutex<BTreeMap<u32, (u32, String)>> = Mutex::new(BTreeMap::new());

/// Who holds the sockets of `inodes` open, as `name (pid N)`, as far as /proc lets us see: root sees all. Where
/// several processes hold one, it is the first besides pid 1, which holds what it hands to services.
///
/// All descriptors of all processes are looked through only where somebody holds a socket that was not found before:
/// a server may have tens of thousands, and a running `serve` looks often.
#[must_use]
pub fn owners(inodes: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let mut known = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|inode, (pid, name)| inodes.contains(inode) && comm(*pid) == *name);
    if known.len() < inodes.len() {
        *known = look_through(inodes).into_iter().map(|(inode, pid)| (inode, (pid, comm(pid)))).collect();
    }
    let shown = |pid: u32, name: &str| match name {
        "" => format!("pid {pid}"),
        name => format!("{name} (pid {pid})"),
    };
    known.iter().map(|(inode, (pid, name))| (*inode, shown(*pid, name))).collect()
}

/// The name of a process; empty where it is gone.
fn comm(pid: u32) -> String {
    i32::try_from(pid).ok().and_then(processes::comm).unwrap_or_default()
}

fn look_through(inodes: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
    let mut found: BTreeMap<u32, u32> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // Processes end meanwhile, and others' are closed to us: both are passed over.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|i| inodes.contains(i)) {
                let holder = found.entry(inode).or_insert(pid);
                if *holder == 1 {
                    *holder = pid;
                }
            }
        }
    }
    found
}
