//! Frames written by hand, whoever they say they are from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::probe::{Content, Frame};

use super::link::{NEIGHBOUR_ADVERTISEMENT, ROUTER_ADVERTISEMENT, TARGET_LINK};
use super::{
    Arp, Craft, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, ICMPV6, Kind, PAYLOAD, Seen, craft, header6,
    payload, pseudo6, put_checksum, read_payload,
};

/// 802.1Q's ether type; the tag itself, of VLAN 0; and the ether type within.
const ETHERTYPE_TAG: u16 = 0x8100;
/// An option that nobody knows and so everybody skips (RFC 4727), two units of eight bytes long.
const EXPERIMENT: [u8; 2] = [253, 2];

/// The frame as bytes, bearing the token; none where its addresses are of two families.
#[must_use]
pub fn write(frame: &Frame, to: IpAddr, sport: u16, token: u32) -> Option<Vec<u8>> {
    let ethertype = if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let datagram =
        |source, sport, dport| craft(&Craft { source, destination: to, kind: Kind::Udp, sport, dport, token });
    let trailer = payload(&Craft { source: to, destination: to, kind: Kind::Local, sport, dport: 0, token });
    let (ethertype, body) = match frame.content {
        Content::Datagram { source, port } => (ethertype, datagram(source, sport, port)?),
        Content::Tagged { source, port } => {
            let mut tagged = vec![0, 0];
            tagged.extend_from_slice(&ethertype.to_be_bytes());
            tagged.append(&mut datagram(source, sport, port)?);
            (ETHERTYPE_TAG, tagged)
        }
        Content::Lease { source: source @ IpAddr::V4(_) } => (ethertype, datagram(source, 67, 68)?),
        Content::Lease { source } => (ethertype, datagram(source, 547, 546)?),
        Content::Claim { address: IpAddr::V4(sender) } => {
            let IpAddr::V4(target) = to else { return None };
            let arp = Arp {
                asks: false,
                sender_mac: frame.ether_source,
                sender,
                target_mac: frame.ether_destination,
                target,
            };
            let mut bytes = arp.bytes();
            bytes.extend_from_slice(&trailer);
            (ETHERTYPE_ARP, bytes)
        }
        Content::Claim { address: IpAddr::V6(target) } => {
            let IpAddr::V6(to) = to else { return None };
            // Unasked, and overriding what was known (RFC 4861, 4.4).
            let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
            body.extend_from_slice(&target.octets());
            body.extend_from_slice(&[TARGET_LINK, 1]);
            body.extend_from_slice(&frame.ether_source.0);
            (ethertype, icmp6(body, frame.ether_source.link_local(), to, &trailer))
        }
        Content::Route { source } => {
            let IpAddr::V6(to) = to else { return None };
            // 64 hops, a router for half an hour, nothing else said.
            let body = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            (ethertype, icmp6(body, source, to, &trailer))
        }
    };
    let whole =
        Ethernet { destination: frame.ether_destination, source: frame.ether_source, ethertype, payload: &body };
    Some(whole.bytes())
}

/// An ICMPv6 packet that never crossed a router, with the token in an option at its end.
fn icmp6(mut body: Vec<u8>, source: Ipv6Addr, to: Ipv6Addr, trailer: &[u8; PAYLOAD]) -> Vec<u8> {
    body.extend_from_slice(&EXPERIMENT);
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(trailer);
    let pseudo = pseudo6(source, to, ICMPV6, body.len());
    put_checksum(&mut body, 2, pseudo, false);
    let mut packet = header6(source, to, ICMPV6, body.len(), 255);
    packet.append(&mut body);
    packet
}

/// Reads an ARP packet that bears a token.
#[must_use]
pub fn read_arp(bytes: &[u8]) -> Option<Seen> {
    const ARP: usize = 28;
    let arp = Arp::read(bytes)?;
    let (token, _) = read_payload(bytes.get(ARP..)?)?;
    let v4 = |address: Ipv4Addr| IpAddr::V4(address);
    Some(seen(v4(arp.sender), v4(arp.target), token))
}

/// The token at a packet's end.
pub(super) fn read_trailer(bytes: &[u8]) -> Option<u32> {
    read_payload(bytes.get(bytes.len().checked_sub(PAYLOAD)?..)?).map(|(token, _)| token)
}

/// What is seen of a packet that stays on its segment: whom it is about, and who gets it.
pub(super) fn seen(source: IpAddr, destination: IpAddr, token: u32) -> Seen {
    Seen { source, destination, kind: Kind::Local, token: Some(token), sport: 0, dport: 0, answer: None }
}
