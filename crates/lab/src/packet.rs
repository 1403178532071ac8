//! Packets as bytes: the probes that are sent, and what is read out of those that come by. Pure.
//!
//! Every probe bears a 32-bit token, so that it is known again wherever it is seen, whatever NAT did to its addresses
//! and ports: a TCP SYN as its initial sequence number, a UDP datagram and an echo request in their payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::address::Mac;

pub mod frame;
mod link;
pub use link::{Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, neighbour_advertised, neighbour_solicit};

#[cfg(test)]
mod tests;

/// IANA protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// ICMP and ICMPv6 types that we send or read (RFC 792, RFC 4443).
const ECHO_REPLY_4: u8 = 0;
const UNREACHABLE_4: u8 = 3;
const ECHO_4: u8 = 8;
const TIME_EXCEEDED_4: u8 = 11;
const UNREACHABLE_6: u8 = 1;
const PARAMETER_PROBLEM_6: u8 = 4;
const ECHO_6: u8 = 128;
const ECHO_REPLY_6: u8 = 129;

/// TCP flags.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const MAGIC: [u8; 4] = *b"wrrn";
/// Magic, token, the port (or echo id) that it was sent from, its complement.
const PAYLOAD: usize = 12;

/// A sort of packet that crosses routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 echo.
    Echo,
    /// What stays on its segment: ARP, neighbour discovery, router advertisement. The token stands behind it.
    Local,
}

/// A probe to be sent: all that its bytes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Craft {
    /// Its source; of the same family as `destination`.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// What sort.
    pub kind: Kind,
    /// The source port, or an echo's identifier.
    pub sport: u16,
    /// The destination port; of no meaning for an echo.
    pub dport: u16,
    /// What it is known by.
    pub token: u32,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Somebody is there and talks: a SYN-ACK, a datagram back, an echo reply.
    Accepted,
    /// A TCP reset: nothing listens there (or a firewall says so).
    Reset,
    /// An ICMP error about the probe.
    Error(Refusal),
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing listens on that UDP port (ICMP 3/3, ICMPv6 1/4).
    Port,
    /// Forbidden by a rule (ICMP 3/9, 3/10, 3/13; ICMPv6 1/1, 1/5, 1/6).
    Prohibited,
    /// There is no way there, or nobody (other codes of unreachable).
    Unreachable,
    /// Its hops ran out.
    TimeExceeded,
    /// Another error.
    Other,
}

impl Refusal {
    /// What it means, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Port => "port unreachable",
            Self::Prohibited => "prohibited",
            Self::Unreachable => "unreachable",
            Self::TimeExceeded => "its hops ran out",
            Self::Other => "an ICMP error",
        }
    }
}

/// What was read out of a packet that came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who sent this packet; of an ICMP error, who sent the error.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its sort; of an ICMP error, the sort of the packet that it quotes.
    pub kind: Kind,
    /// The token of the probe that it is or answers; none where it bears none (a datagram of somebody's own).
    pub token: Option<u32>,
    /// The source port, or an echo's identifier; of an ICMP error, that of the packet that it quotes.
    pub sport: u16,
    /// The destination port; likewise.
    pub dport: u16,
    /// What it says, where it is an answer to a probe and not one itself.
    pub answer: Option<Answer>,
}

impl Seen {
    /// Whether it answers a probe.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.answer.is_some()
    }
}

/// The probe as an IP packet with its header and checksums. A destination of the other family than the source gives
/// no packet.
#[must_use]
pub fn craft(probe: &Craft) -> Option<Vec<u8>> {
    let mut body = match probe.kind {
        Kind::Tcp => tcp_syn(probe),
        Kind::Udp => udp(probe),
        Kind::Echo => echo(probe),
        Kind::Local => return None,
    };
    let (protocol, at) = match (probe.kind, probe.source) {
        (Kind::Tcp, _) => (TCP, 16),
        (Kind::Udp, _) => (UDP, 6),
        (Kind::Echo | Kind::Local, IpAddr::V4(_)) => (ICMP, 2),
        (Kind::Echo | Kind::Local, IpAddr::V6(_)) => (ICMPV6, 2),
    };
    match (probe.source, probe.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let pseudo = if protocol == ICMP { 0 } else { pseudo4(source, destination, protocol, body.len()) };
            put_checksum(&mut body, at, pseudo, protocol == UDP);
            let mut packet = header4(source, destination, protocol, body.len());
            packet.append(&mut body);
            Some(packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let pseudo = pseudo6(source, destination, protocol, body.len());
            put_checksum(&mut body, at, pseudo, protocol == UDP);
            let mut packet = header6(source, destination, protocol, body.len(), 64);
            packet.append(&mut body);
            Some(packet)
        }
        _ => None,
    }
}

fn tcp_syn(probe: &Craft) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend_from_slice(&probe.sport.to_be_bytes());
    bytes.extend_from_slice(&probe.dport.to_be_bytes());
    bytes.extend_from_slice(&probe.token.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    // Six words of header, SYN, a window of 64 KiB, and the one option that every real SYN has: MSS 1460.
    bytes.extend_from_slice(&[0x60, SYN, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4]);
    bytes
}

fn udp(probe: &Craft) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + PAYLOAD);
    bytes.extend_from_slice(&probe.sport.to_be_bytes());
    bytes.extend_from_slice(&probe.dport.to_be_bytes());
    bytes.extend_from_slice(&((8 + PAYLOAD) as u16).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&payload(probe));
    bytes
}

fn echo(probe: &Craft) -> Vec<u8> {
    let kind = if probe.source.is_ipv4() { ECHO_4 } else { ECHO_6 };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend_from_slice(&probe.sport.to_be_bytes());
    bytes.extend_from_slice(&(probe.token as u16).to_be_bytes());
    bytes.extend_from_slice(&payload(probe));
    bytes
}

fn payload(probe: &Craft) -> [u8; PAYLOAD] {
    let mut bytes = [0; PAYLOAD];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&probe.token.to_be_bytes());
    bytes[8..10].copy_from_slice(&probe.sport.to_be_bytes());
    bytes[10..12].copy_from_slice(&(!probe.sport).to_be_bytes());
    bytes
}

/// The token in a payload and the port that it was sent from.
fn read_payload(bytes: &[u8]) -> Option<(u32, u16)> {
    let bytes = bytes.get(..PAYLOAD)?;
    let sport = be16(bytes, 8)?;
    (bytes[..4] == MAGIC && be16(bytes, 10)? == !sport).then_some((be32(bytes, 4)?, sport))
}

fn header4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: usize) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&((20 + body) as u16).to_be_bytes());
    // No identification (the kernel fills it in), don't fragment, 64 hops.
    bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend_from_slice(&source.octets());
    bytes.extend_from_slice(&destination.octets());
    put_checksum(&mut bytes, 10, 0, false);
    bytes
}

fn header6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, body: usize, hops: u8) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend_from_slice(&(body as u16).to_be_bytes());
    bytes.extend_from_slice(&[protocol, hops]);
    bytes.extend_from_slice(&source.octets());
    bytes.extend_from_slice(&destination.octets());
    bytes
}

/// The sum of 16-bit words (RFC 1071), not yet folded or complemented.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> u64 {
    sum(&source.octets()) + sum(&destination.octets()) + u64::from(protocol) + length as u64
}

fn pseudo6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> u64 {
    sum(&source.octets()) + sum(&destination.octets()) + u64::from(protocol) + length as u64
}

/// Writes the checksum of `bytes` at `at`, where zeroes stand. UDP has no checksum of zero: that means none.
fn put_checksum(bytes: &mut [u8], at: usize, pseudo: u64, is_udp: bool) {
    let mut value = fold(pseudo + sum(bytes));
    if is_udp && value == 0 {
        value = 0xffff;
    }
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn address4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(bytes, at).map(Ipv4Addr::from)
}

fn address6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets))
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at.checked_add(6)?)?.try_into().ok()?))
}

/// An IP packet's outside: addresses, protocol, and what follows its header.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    body: &'a [u8],
}

/// Reads an IP header. Padding behind the packet is cut off; a body shorter than announced is taken as it is, since
/// ICMP errors quote only the beginning.
fn read_ip(bytes: &[u8]) -> Option<Ip<'_>> {
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 0x0f) * 4;
            let length = usize::from(be16(bytes, 2)?);
            // Later fragments have no transport header.
            if header < 20 || length < header || be16(bytes, 6)? & 0x1fff != 0 {
                return None;
            }
            let body = bytes.get(header..)?;
            Some(Ip {
                source: IpAddr::V4(address4(bytes, 12)?),
                destination: IpAddr::V4(address4(bytes, 16)?),
                protocol: *bytes.get(9)?,
                body: &body[..body.len().min(length - header)],
            })
        }
        6 => {
            let length = usize::from(be16(bytes, 4)?);
            let body = bytes.get(40..)?;
            Some(Ip {
                source: IpAddr::V6(address6(bytes, 8)?),
                destination: IpAddr::V6(address6(bytes, 24)?),
                protocol: *bytes.get(6)?,
                body: &body[..body.len().min(length)],
            })
        }
        _ => None,
    }
}

/// Reads an IP packet: a probe, an answer to one, or a datagram of somebody's own. Checksums are not looked at: a
/// packet that never left this machine may bear an unfinished one.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Seen> {
    let ip = read_ip(bytes)?;
    read_body(ip.source, ip.destination, ip.protocol, ip.body)
}

/// Reads what follows an IP header: raw IPv6 sockets hand out only that.
#[must_use]
pub fn read_body(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Option<Seen> {
    match protocol {
        TCP => {
            let flags = *body.get(13)?;
            let (token, answer) = if flags & RST != 0 {
                // What refuses a SYN acknowledges it; a bare reset is the sender's own kernel cutting off an answer.
                if flags & ACK == 0 {
                    return None;
                }
                (be32(body, 8)?.wrapping_sub(1), Some(Answer::Reset))
            } else if flags & (SYN | ACK) == SYN | ACK {
                (be32(body, 8)?.wrapping_sub(1), Some(Answer::Accepted))
            } else if flags & SYN != 0 {
                (be32(body, 4)?, None)
            } else {
                return None;
            };
            let (sport, dport) = (be16(body, 0)?, be16(body, 2)?);
            Some(Seen { source, destination, kind: Kind::Tcp, token: Some(token), sport, dport, answer })
        }
        UDP => {
            let (sport, dport) = (be16(body, 0)?, be16(body, 2)?);
            let found = body.get(8..).and_then(read_payload);
            // An echo service sends the same bytes back: to the port that they were sent from.
            let answer = found.filter(|(_, from)| *from == dport && *from != sport).map(|_| Answer::Accepted);
            Some(Seen { source, destination, kind: Kind::Udp, token: found.map(|f| f.0), sport, dport, answer })
        }
        ICMP | ICMPV6 => read_icmp(source, destination, protocol, body),
        _ => None,
    }
}

fn read_icmp(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Option<Seen> {
    let (kind, code) = (*body.first()?, *body.get(1)?);
    if protocol == ICMPV6 && matches!(kind, link::ROUTER_ADVERTISEMENT | link::NEIGHBOUR_ADVERTISEMENT) {
        // Who it is about is who it says it is from.
        let about = if kind == link::NEIGHBOUR_ADVERTISEMENT { address6(body, 8)?.into() } else { source };
        return frame::read_trailer(body).map(|token| frame::seen(about, destination, token));
    }
    let refusal = match (protocol, kind) {
        (ICMP, ECHO_4) | (ICMPV6, ECHO_6) | (ICMP, ECHO_REPLY_4) | (ICMPV6, ECHO_REPLY_6) => {
            let token = body.get(8..).and_then(read_payload)?.0;
            let answer = matches!((protocol, kind), (ICMP, ECHO_REPLY_4) | (ICMPV6, ECHO_REPLY_6));
            let id = be16(body, 4)?;
            return Some(Seen {
                source,
                destination,
                kind: Kind::Echo,
                token: Some(token),
                sport: id,
                dport: 0,
                answer: answer.then_some(Answer::Accepted),
            });
        }
        (ICMP, UNREACHABLE_4) => match code {
            3 => Refusal::Port,
            9 | 10 | 13 => Refusal::Prohibited,
            _ => Refusal::Unreachable,
        },
        (ICMPV6, UNREACHABLE_6) => match code {
            4 => Refusal::Port,
            1 | 5 | 6 => Refusal::Prohibited,
            _ => Refusal::Unreachable,
        },
        (ICMP, TIME_EXCEEDED_4) | (ICMPV6, 3) => Refusal::TimeExceeded,
        (ICMP, 12) | (ICMPV6, PARAMETER_PROBLEM_6) => Refusal::Other,
        _ => return None,
    };
    let quoted = read_quote(body.get(8..)?)?;
    Some(Seen { source, destination, answer: Some(Answer::Error(refusal)), ..quoted })
}

/// Reads the packet that an ICMP error quotes, of which only eight bytes behind the IP header are sure to be there.
fn read_quote(bytes: &[u8]) -> Option<Seen> {
    let ip = read_ip(bytes)?;
    let (kind, token, sport, dport) = match ip.protocol {
        TCP => (Kind::Tcp, Some(be32(ip.body, 4)?), be16(ip.body, 0)?, be16(ip.body, 2)?),
        UDP => {
            let token = ip.body.get(8..).and_then(read_payload).map(|found| found.0);
            (Kind::Udp, token, be16(ip.body, 0)?, be16(ip.body, 2)?)
        }
        ICMP | ICMPV6 if matches!((ip.protocol, *ip.body.first()?), (ICMP, ECHO_4) | (ICMPV6, ECHO_6)) => {
            let token = ip.body.get(8..).and_then(read_payload).map(|found| found.0);
            (Kind::Echo, token, be16(ip.body, 4)?, 0)
        }
        _ => return None,
    };
    Some(Seen { source: ip.source, destination: ip.destination, kind, token, sport, dport, answer: None })
}
