//! What stays on one segment: Ethernet frames, ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use model::address::Mac;

use super::{ICMPV6, address4, address6, be16, header6, mac, pseudo6, put_checksum, read_ip};

/// Ethertypes (linux/if_ether.h).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP's.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6's.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
/// Options of neighbour discovery: source and target link-layer address.
const SOURCE_LINK: u8 = 1;
pub(super) const TARGET_LINK: u8 = 2;

/// An Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    /// Where to.
    pub destination: Mac,
    /// Where from.
    pub source: Mac,
    /// What is in it.
    pub ethertype: u16,
    /// That.
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// The frame as bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + self.payload.len());
        bytes.extend_from_slice(&self.destination.0);
        bytes.extend_from_slice(&self.source.0);
        bytes.extend_from_slice(&self.ethertype.to_be_bytes());
        bytes.extend_from_slice(self.payload);
        bytes
    }

    /// Reads a frame.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            destination: mac(bytes, 0)?,
            source: mac(bytes, 6)?,
            ethertype: be16(bytes, 12)?,
            payload: bytes.get(14..)?,
        })
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks; else it answers.
    pub asks: bool,
    /// Who sends it.
    pub sender_mac: Mac,
    /// The address that it says it has.
    pub sender: Ipv4Addr,
    /// Whom it is for; zero in a question.
    pub target_mac: Mac,
    /// The address that is asked for, or of the one that asked.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The packet as bytes, without the Ethernet header.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, if self.asks { 1 } else { 2 }];
        bytes.extend_from_slice(&self.sender_mac.0);
        bytes.extend_from_slice(&self.sender.octets());
        bytes.extend_from_slice(&self.target_mac.0);
        bytes.extend_from_slice(&self.target.octets());
        bytes
    }

    /// Reads what follows the Ethernet header.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let asks = match be16(bytes, 6)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        Some(Self {
            asks,
            sender_mac: mac(bytes, 8)?,
            sender: address4(bytes, 14)?,
            target_mac: mac(bytes, 18)?,
            target: address4(bytes, 24)?,
        })
    }
}

/// Who has `target`? As an IPv6 packet to its solicited-node group, and that group's hardware address.
#[must_use]
pub fn neighbour_solicit(source: Ipv6Addr, target: Ipv6Addr, from: Mac) -> (Vec<u8>, Mac) {
    let [.., x, y, z] = target.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[x, y, z]);
    let group = Ipv6Addr::from(group);
    let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    // Who asks from no address at all (duplicate address detection) does not say its own (RFC 4861, 4.3).
    if !source.is_unspecified() {
        body.extend_from_slice(&[SOURCE_LINK, 1]);
        body.extend_from_slice(&from.0);
    }
    let pseudo = pseudo6(source, group, ICMPV6, body.len());
    put_checksum(&mut body, 2, pseudo, false);
    // Fewer hops than 255 would say that it came from elsewhere.
    let mut packet = header6(source, group, ICMPV6, body.len(), 255);
    packet.append(&mut body);
    (packet, Mac([0x33, 0x33, 0xff, x, y, z]))
}

/// The address that an IPv6 packet advertises and whose it is, where it is a neighbour advertisement.
#[must_use]
pub fn neighbour_advertised(bytes: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    let ip = read_ip(bytes)?;
    if ip.protocol != ICMPV6 || ip.source.is_ipv4() || ip.body.first() != Some(&NEIGHBOUR_ADVERTISEMENT) {
        return None;
    }
    let target = address6(ip.body, 8)?;
    let mut options = ip.body.get(24..)?;
    loop {
        let length = usize::from(*options.get(1)?) * 8;
        if length == 0 {
            return None;
        }
        if options[0] == TARGET_LINK {
            return Some((target, mac(options, 2)?));
        }
        options = options.get(length..)?;
    }
}
