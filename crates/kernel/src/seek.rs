//! Neighbours that were sought while nobody could hear it.
//!
//! When the only cable of a bridge goes, the kernel forgets who was behind it (neigh_carrier_down of
//! net/core/neighbour.c), and asks again with the next packet: into a bridge that nobody is plugged into. It asks the
//! next time after a second (`retrans_time_ms` of arp(7), RetransTimer of RFC 4861), however soon the cable is back.
//! So they are asked once more here, in the kernel's place: it takes the answer for its own, and what waited goes out.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use model::address::{IfName, Mac};

use crate::error::{Context as _, Result};
use crate::listen;
use crate::rtnl::{LinkInfo, Rtnl};

/// NUD_INCOMPLETE of linux/neighbour.h: asked for, and not answered yet.
const INCOMPLETE: u16 = 0x01;
/// IF_OPER_UP of linux/if.h.
const UP: u8 = 6;
/// How long ports that have a carrier may take until they forward: the kernel sees to it in a work queue of its own
/// (net/core/link_watch.c).
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

const BROADCAST: [u8; 6] = [0xff; 6];

/// Asks for everyone who is sought on those of the bridges that are there, once their ports forward. Returns how many
/// were asked for.
pub fn ask_again(bridges: &[IfName]) -> Result<usize> {
    let mut rtnl = Rtnl::open()?;
    let bridges = forwarding(&mut rtnl, bridges)?;
    let sought: Vec<_> = rtnl.neighbours()?.into_iter().filter(|n| n.state == INCOMPLETE && !n.proxy).collect();
    if !sought.iter().any(|n| bridges.contains_key(&n.index)) {
        return Ok(0);
    }
    let own = rtnl.addresses()?;
    let mut asked = 0;
    for neighbour in &sought {
        let Some((name, mac)) = bridges.get(&neighbour.index) else { continue };
        let here = own.iter().filter(|one| one.index == neighbour.index && !one.is_unusable()).map(|one| one.net);
        let near = here.clone().find(|net| net.contains(&neighbour.address)).map(|net| net.addr());
        let alike = || here.clone().map(|net| net.addr()).find(|a| a.is_ipv4() == neighbour.address.is_ipv4());
        let frame = match (near.or_else(alike), neighbour.address) {
            (Some(IpAddr::V4(from)), IpAddr::V4(whom)) => arp_request(*mac, from, whom),
            (Some(IpAddr::V6(from)), IpAddr::V6(whom)) => solicitation(*mac, from, whom),
            _ => continue,
        };
        let sent = listen::sender(name).and_then(|mut socket| socket.write_all(&frame));
        sent.context("ask again for", format!("{} on {name}", neighbour.address))?;
        asked += 1;
    }
    Ok(asked)
}

/// Those bridges by their indices, as soon as each of their ports that has a carrier forwards.
fn forwarding(rtnl: &mut Rtnl, names: &[IfName]) -> Result<BTreeMap<u32, (IfName, Mac)>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let links = rtnl.links()?;
        let named = |link: &LinkInfo| names.iter().find(|name| name.as_str() == link.name).cloned();
        let found = |link: &LinkInfo| Some((link.index, (named(link)?, link.mac?)));
        let bridges: BTreeMap<u32, (IfName, Mac)> = links.iter().filter_map(found).collect();
        let port = |link: &&LinkInfo| link.up && link.carrier && link.master.is_some_and(|m| bridges.contains_key(&m));
        let ready = |port: &LinkInfo| {
            let bridge = links.iter().find(|link| Some(link.index) == port.master);
            port.operstate == UP && bridge.is_none_or(|bridge| bridge.operstate == UP)
        };
        if links.iter().filter(port).all(ready) || Instant::now() >= deadline {
            return Ok(bridges);
        }
        std::thread::sleep(LOOK);
    }
}

/// An Ethernet frame that asks by ARP (RFC 826) who has an address.
fn arp_request(mac: Mac, from: Ipv4Addr, whom: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&mac.0);
    // ARP; Ethernet, IPv4, the lengths of their addresses; a request.
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&whom.octets());
    frame
}

/// An Ethernet frame that asks by neighbour solicitation (RFC 4861, 4.3) who has an address.
fn solicitation(mac: Mac, from: Ipv6Addr, whom: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = whom.octets();
    // The solicited-node multicast address (RFC 4291, 2.7.1), and the group of it on Ethernet (RFC 2464).
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&whom.octets());
    // Who asks: source link-layer address.
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&mac.0);
    let checksum = checksum(from, group, &message);
    message[2..4].copy_from_slice(&checksum);
    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend_from_slice(&mac.0);
    // IPv6; no class, no flow; its length, ICMPv6, and the one hop limit that neighbours believe.
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&group.octets());
    frame.extend_from_slice(&message);
    frame
}

/// The Internet checksum of an ICMPv6 message and its pseudo-header (RFC 4443, 2.3; RFC 8200, 8.1). `message` has an even
/// length.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let pseudo = [0, 0, 0, message.len() as u8, 0, 0, 0, 58];
    let all = [&from.octets()[..], &to.octets()[..], &pseudo[..], message].concat();
    let words = all.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
