//! Who answers: asked before the uplink is changed, and again after it.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long one question waits for its answer before it is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// Somebody whose answer says that this host is still on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A default route's router: asked for an ICMP echo.
    Router(IpAddr),
    /// A resolver: asked for the name servers of the root.
    Resolver(IpAddr),
    /// The other end of the SSH session that asks: for an ICMP echo.
    Peer(IpAddr),
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router(address) => write!(f, "the router {address}"),
            Self::Resolver(address) => write!(f, "the resolver {address}"),
            Self::Peer(address) => write!(f, "the other end of this SSH session, {address},"),
        }
    }
}

/// Those of `witnesses` that answer within `patience`, all asked at once. `uplink` is the index of the interface that
/// link-local addresses are asked by. One that cannot be asked does not answer.
#[must_use]
pub fn ask(witnesses: &[Witness], uplink: Option<u32>, patience: Duration) -> Vec<Witness> {
    let deadline = Instant::now() + patience;
    std::thread::scope(|scope| {
        // Threads stand in the network namespace of who starts them.
        let asked: Vec<_> =
            witnesses.iter().map(|witness| (witness, scope.spawn(|| answers(*witness, uplink, deadline)))).collect();
        let answered = asked.into_iter().filter_map(|(witness, thread)| thread.join().ok()?.then_some(*witness));
        answered.collect()
    })
}

fn answers(witness: Witness, uplink: Option<u32>, deadline: Instant) -> bool {
    // What fails while a network is being changed may not fail a moment later.
    let try_once = || match witness {
        Witness::Router(address) | Witness::Peer(address) => echo(address, uplink),
        Witness::Resolver(address) => resolves(address, uplink),
    };
    loop {
        let begun = Instant::now();
        if try_once().unwrap_or(false) {
            return true;
        }
        if begun >= deadline {
            return false;
        }
        std::thread::sleep(AGAIN.saturating_sub(begun.elapsed()).min(deadline.saturating_duration_since(begun)));
    }
}

fn place(address: IpAddr, port: u16, uplink: Option<u32>) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if is_link_local(v6) => SocketAddrV6::new(v6, port, 0, uplink.unwrap_or(0)).into(),
        _ => SocketAddr::new(address, port),
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// One ICMP echo request (RFC 792, RFC 4443) and whether its answer comes.
fn echo(address: IpAddr, uplink: Option<u32>) -> io::Result<bool> {
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let token = token();
    let mut message = [request, 0, 0, 0, token[0], token[1], token[2], token[3]];
    if address.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    socket.send_to(&message, &place(address, 0, uplink).into())?;
    await_answer(&socket, |packet| {
        // IPv4 packets come with their header.
        let header = if address.is_ipv4() { usize::from(packet.first()? & 15) * 4 } else { 0 };
        let answer = packet.get(header..)?;
        Some(answer.first()? == &reply && answer.get(4..8)? == token)
    })
}

/// One question (RFC 1035) for the name servers of the root, and whether any answer to it comes.
fn resolves(address: IpAddr, uplink: Option<u32>) -> io::Result<bool> {
    let socket = Socket::new(Domain::for_address(place(address, 53, uplink)), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&place(address, 53, uplink).into())?;
    let [a, b, ..] = token();
    // Recursion desired, one question: the root, NS, IN.
    socket.send(&[a, b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1])?;
    await_answer(&socket, |packet| Some(packet.get(..2)? == [a, b] && packet.get(2)? & 0x80 != 0))
}

fn await_answer(socket: &Socket, is_ours: impl Fn(&[u8]) -> Option<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + AGAIN;
    let mut buffer = [0; 1500];
    let mut from = socket;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match from.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if buffer.get(..length).and_then(&is_ours) == Some(true) {
            return Ok(true);
        }
    }
}

/// Four bytes that tell our question from others'.
fn token() -> [u8; 4] {
    use std::hash::{BuildHasher as _, Hasher as _};
    let drawn = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let [a, b, c, d, ..] = drawn.to_ne_bytes();
    [a, b, c, d]
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
