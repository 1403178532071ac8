//! Neighbours: who answers to which hardware address, and for whom we answer.

use std::net::IpAddr;

use model::address::{IfName, Mac};

use super::header::*;
use super::{Rtnl, address_of, family_of, octets};
use crate::error::{Context as _, Result};
use crate::netlink::{find_attr, flags, ne_u32};

/// An entry of the neighbour table (ARP, neighbour discovery), or one for which we answer (proxy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The link's index.
    pub index: u32,
    /// Whose.
    pub address: IpAddr,
    /// Where it is; none while it is sought, and for proxy entries.
    pub mac: Option<Mac>,
    /// NUD_* of linux/neighbour.h: 0x02 reachable, 0x04 stale, 0x20 failed, 0x80 permanent.
    pub state: u16,
    /// Whether it says that it is a router (NTF_ROUTER).
    pub router: bool,
    /// Whether we answer for it (NTF_PROXY).
    pub proxy: bool,
    /// Who wrote it down (NDA_PROTOCOL, RTPROT_*); 0 where nobody said.
    pub protocol: u8,
}

impl Rtnl {
    /// The neighbour tables of both families, proxy entries at their end.
    pub fn neighbours(&mut self) -> Result<Vec<NeighbourInfo>> {
        let mut neighbours = Vec::new();
        for flag in [0, NTF_PROXY] {
            neighbours.extend(self.neighbours_with(flag)?);
        }
        Ok(neighbours)
    }

    /// Those for which we answer alone.
    pub fn neighbour_proxies(&mut self) -> Result<Vec<NeighbourInfo>> {
        self.neighbours_with(NTF_PROXY)
    }

    fn neighbours_with(&mut self, flag: u8) -> Result<Vec<NeighbourInfo>> {
        let messages = self.socket.dump(RTM_GETNEIGH, |w| {
            w.raw(&ndmsg(AF_UNSPEC, 0, 0, flag));
        });
        let messages = messages.context("list", "neighbours")?;
        Ok(messages.iter().filter(|m| m.kind == RTM_NEWNEIGH).filter_map(|m| parse(&m.payload)).collect())
    }

    /// Writes down for good where an address is. Replaces what is known of it.
    pub fn set_neighbour(&mut self, link: &IfName, address: IpAddr, mac: Mac) -> Result<()> {
        let what = format!("{address} at {mac} on {link}");
        let index = self.neighbour_link("write down the neighbour", &what, link)?;
        let result = self.socket.request(RTM_NEWNEIGH, flags::CREATE | flags::REPLACE, |w| {
            w.raw(&ndmsg(family_of(address), index, NUD_PERMANENT, 0));
            w.attr(NDA_DST, &octets(address)).attr(NDA_LLADDR, &mac.0);
        });
        result.context("write down the neighbour", what)
    }

    /// Forgets a neighbour. Fails with ENOENT where it is not known.
    pub fn delete_neighbour(&mut self, link: &IfName, address: IpAddr) -> Result<()> {
        self.change_neighbour("forget the neighbour", RTM_DELNEIGH, 0, link, address, 0)
    }

    /// Answers for an address on a link. It takes effect for IPv6 where the link's `proxy_ndp` is on; for IPv4 where
    /// the link's `forwarding` is, its `proxy_arp` or not. It bears our number ([`super::PROTOCOL`]).
    pub fn add_neighbour_proxy(&mut self, link: &IfName, address: IpAddr) -> Result<()> {
        self.change_neighbour("answer for", RTM_NEWNEIGH, flags::CREATE, link, address, NTF_PROXY)
    }

    /// Answers no more for an address on a link. Fails with ENOENT where we did not.
    pub fn delete_neighbour_proxy(&mut self, link: &IfName, address: IpAddr) -> Result<()> {
        self.change_neighbour("stop answering for", RTM_DELNEIGH, 0, link, address, NTF_PROXY)
    }

    fn change_neighbour(
        &mut self,
        operation: &'static str,
        kind: u16,
        flags: u16,
        link: &IfName,
        address: IpAddr,
        flag: u8,
    ) -> Result<()> {
        let what = format!("{address} on {link}");
        let index = self.neighbour_link(operation, &what, link)?;
        let result = self.socket.request(kind, flags, |w| {
            w.raw(&ndmsg(family_of(address), index, 0, flag)).attr(NDA_DST, &octets(address));
            if kind == RTM_NEWNEIGH {
                w.attr_u8(NDA_PROTOCOL, super::PROTOCOL);
            }
        });
        result.context(operation, what)
    }

    fn neighbour_link(&mut self, operation: &'static str, what: &str, link: &IfName) -> Result<u32> {
        self.index_of(link).map_err(|e| e.during(operation, what))
    }
}

/// struct ndmsg of linux/neighbour.h: family, padding, index, state, flags, type.
fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

fn parse(payload: &[u8]) -> Option<NeighbourInfo> {
    let attributes = payload.get(12..)?;
    let flags = *payload.get(10)?;
    Some(NeighbourInfo {
        index: ne_u32(payload.get(4..8)?),
        // Bridges' forwarding entries have none.
        address: find_attr(attributes, NDA_DST).and_then(address_of)?,
        mac: find_attr(attributes, NDA_LLADDR).and_then(|v| v.try_into().ok()).map(Mac),
        state: u16::from_ne_bytes([*payload.get(8)?, *payload.get(9)?]),
        router: flags & NTF_ROUTER != 0,
        proxy: flags & NTF_PROXY != 0,
        protocol: find_attr(attributes, NDA_PROTOCOL).and_then(|v| v.first().copied()).unwrap_or(0),
    })
}
