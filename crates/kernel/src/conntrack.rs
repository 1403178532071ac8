//! Tracked connections, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::flow::{Flow, Grants, Tuple};
use model::network::Network;

use crate::error::{Context as _, Result, explained};
use crate::netlink::{NetlinkError, Socket, be_u32, find_attr};
use crate::rtnl::Rtnl;

/// NFNL_SUBSYS_CTNETLINK of linux/netfilter/nfnetlink.h, in the upper byte of a message's type.
const CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_NEW: u16 = CTNETLINK;
const IPCTNL_MSG_CT_GET: u16 = CTNETLINK | 1;
const IPCTNL_MSG_CT_DELETE: u16 = CTNETLINK | 2;
const IPCTNL_MSG_CT_GET_STATS: u16 = CTNETLINK | 5;

/// struct nfgenmsg.
const NFGENMSG: usize = 4;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// IPS_* of linux/netfilter/nf_conntrack_common.h.
mod status {
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const SRC_NAT: u32 = 1 << 4;
    pub const DST_NAT: u32 = 1 << 5;
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The transport protocol's number (IPPROTO_*).
    pub transport: u8,
    /// The way that its first packet went, before any rewriting.
    pub original: Tuple,
    /// The way of the answers, before they are written back: what differs from the original's reverse was rewritten.
    pub reply: Tuple,
    /// The kernel's number for it: a hash of its ends and of where it lies in memory, so that a later one between the
    /// same ends has most likely another, but may have the same.
    pub id: u32,
    /// Its zone, 0 if none is used; both directions'.
    pub zone: u16,
    /// Its mark.
    pub mark: u32,
    /// IPS_*.
    pub status: u32,
    /// The original tuple as the kernel wrote it: a protocol's own fields (ICMP's) are kept without knowing them.
    raw: Vec<u8>,
}

impl Entry {
    /// Whether the destination was rewritten.
    #[must_use]
    pub fn is_dnat(&self) -> bool {
        self.status & status::DST_NAT != 0
    }

    /// Whether the source was rewritten.
    #[must_use]
    pub fn is_snat(&self) -> bool {
        self.status & status::SRC_NAT != 0
    }

    /// Whether anything was answered yet.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.status & status::SEEN_REPLY != 0
    }

    /// What the file's grants are held against.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow { protocol: self.transport, original: self.original, reply: self.reply }
    }

    /// Whether it is IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.original.source.is_ipv4()
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tuple { source, destination, source_port, destination_port } = self.original;
        let (from, to) = match (source_port, destination_port) {
            (0, 0) => (source.to_string(), destination.to_string()),
            _ => (
                std::net::SocketAddr::new(source, source_port).to_string(),
                std::net::SocketAddr::new(destination, destination_port).to_string(),
            ),
        };
        let protocol = match i32::from(self.transport) {
            libc::IPPROTO_TCP => "tcp".to_owned(),
            libc::IPPROTO_UDP => "udp".to_owned(),
            libc::IPPROTO_ICMP => "icmp".to_owned(),
            libc::IPPROTO_ICMPV6 => "icmpv6".to_owned(),
            other => format!("protocol {other}"),
        };
        write!(f, "{protocol} {from} -> {to}")
    }
}

/// A ctnetlink socket. It stays in the network namespace in which it was opened.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_NETFILTER as isize).context("open", "a ctnetlink socket")?;
        // A full table is some hundred thousand entries.
        socket.enlarge(4 << 20);
        Ok(Self { socket })
    }

    /// How many there are, in the socket's network namespace.
    pub fn count(&mut self) -> Result<u32> {
        let answer = self.socket.get(IPCTNL_MSG_CT_GET_STATS, 0, |w| {
            w.raw(&nfgenmsg(libc::AF_UNSPEC));
        });
        let answer = answer.map_err(why).context("count", "tracked connections")?;
        let count = answer.iter().find_map(|m| find_attr(m.payload.get(NFGENMSG..)?, CTA_STATS_GLOBAL_ENTRIES));
        count.map(be_u32).ok_or(NetlinkError::Malformed("no count")).context("count", "tracked connections")
    }

    /// Every connection, both families. It is no snapshot: entries come and go while it is written.
    pub fn entries(&mut self) -> Result<Vec<Entry>> {
        let messages = self.socket.dump(IPCTNL_MSG_CT_GET, |w| {
            w.raw(&nfgenmsg(libc::AF_UNSPEC));
        });
        let messages = messages.map_err(why).context("list", "tracked connections")?;
        Ok(messages.iter().filter(|m| m.kind == IPCTNL_MSG_CT_NEW).filter_map(|m| parse(&m.payload)).collect())
    }

    /// Forgets one connection, and no other: its next packet is judged anew. Fails with ENOENT where it is gone, also
    /// if one of another number has come between the same ends.
    pub fn delete(&mut self, entry: &Entry) -> Result<()> {
        let family = if entry.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let result = self.socket.request(IPCTNL_MSG_CT_DELETE, 0, |w| {
            // Without a tuple the kernel would forget everything.
            w.raw(&nfgenmsg(family)).nest(CTA_TUPLE_ORIG, |w| {
                w.raw(&entry.raw);
            });
            w.attr_be32(CTA_ID, entry.id);
            if entry.zone != 0 {
                w.attr(CTA_ZONE, &entry.zone.to_be_bytes());
            }
        });
        result.context("forget the connection", entry.to_string())
    }
}

/// Ends the flows that `network` does not grant (any more), and says how many; what another's are stays.
pub fn reconcile(network: &Network) -> Result<usize> {
    let Some(conntrack) = any()? else { return Ok(0) };
    let local: Vec<IpAddr> = Rtnl::open()?.addresses()?.iter().map(|a| a.net.addr()).collect();
    let grants = Grants::new(network, &local);
    end(conntrack, |flow| grants.is_stale(flow))
}

/// The same of flows alone whose protocol and port `concerns` names.
pub fn reconcile_some(network: &Network, concerns: impl Fn(u8, u16) -> bool) -> Result<usize> {
    let Some(conntrack) = any()? else { return Ok(0) };
    let local: Vec<IpAddr> = Rtnl::open()?.addresses()?.iter().map(|a| a.net.addr()).collect();
    let grants = Grants::new(network, &local);
    end(conntrack, |flow| concerns(flow.protocol, flow.original.destination_port) && grants.is_stale(flow))
}

/// Ends every flow of `network`'s LANs, for it is taken away.
pub fn end_all(network: &Network) -> Result<usize> {
    let Some(conntrack) = any()? else { return Ok(0) };
    let grants = Grants::new(network, &[]);
    end(conntrack, |flow| grants.concerns(flow))
}

/// A socket where any connection is tracked. The kernel has one table for all namespaces, and walks all of it to list
/// one's: some milliseconds where there is nothing to be listed.
fn any() -> Result<Option<Conntrack>> {
    let mut conntrack = Conntrack::open()?;
    Ok((conntrack.count()? > 0).then_some(conntrack))
}

fn end(mut conntrack: Conntrack, is_over: impl Fn(&Flow) -> bool) -> Result<usize> {
    let mut ended = 0;
    for entry in conntrack.entries()?.iter().filter(|entry| is_over(&entry.flow())) {
        match conntrack.delete(entry) {
            Ok(()) => ended += 1,
            // It ended by itself.
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(ended)
}

/// Whether connections can be listed and forgotten here; the error says why not.
pub fn available() -> Result<()> {
    let mut socket = Socket::open(libc::NETLINK_NETFILTER as isize).context("use", "ctnetlink")?;
    let answer = socket.get(IPCTNL_MSG_CT_GET_STATS, 0, |w| {
        w.raw(&nfgenmsg(libc::AF_UNSPEC));
    });
    answer.map_err(why).context("use", "ctnetlink").map(drop)
}

/// nfnetlink says EINVAL to requests for a subsystem that it does not have.
fn why(e: NetlinkError) -> crate::error::Cause {
    match e.errno() {
        Some(errno @ libc::EINVAL) => {
            explained(std::io::Error::from_raw_os_error(errno), "this kernel has no nf_conntrack_netlink")
        }
        Some(errno @ libc::EPERM) => {
            explained(std::io::Error::from_raw_os_error(errno), "it needs CAP_NET_ADMIN over this network namespace")
        }
        _ => e.into(),
    }
}

/// struct nfgenmsg: family, version, resource.
fn nfgenmsg(family: i32) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

fn parse(payload: &[u8]) -> Option<Entry> {
    let attributes = payload.get(4..)?;
    let raw = find_attr(attributes, CTA_TUPLE_ORIG)?;
    let (transport, original) = parse_tuple(raw)?;
    let (_, reply) = parse_tuple(find_attr(attributes, CTA_TUPLE_REPLY)?)?;
    let number = |kind| find_attr(attributes, kind).map(be_u32);
    // A zone of one direction alone stands within its tuple (and is handed back with it).
    let zone = find_attr(attributes, CTA_ZONE).or_else(|| find_attr(raw, CTA_TUPLE_ZONE));
    Some(Entry {
        transport,
        original,
        reply,
        id: number(CTA_ID)?,
        zone: zone.and_then(|z| z.try_into().ok()).map_or(0, u16::from_be_bytes),
        mark: number(CTA_MARK).unwrap_or(0),
        status: number(CTA_STATUS).unwrap_or(0),
        raw: raw.to_vec(),
    })
}

fn parse_tuple(tuple: &[u8]) -> Option<(u8, Tuple)> {
    let ip = find_attr(tuple, CTA_TUPLE_IP)?;
    let protocol = find_attr(tuple, CTA_TUPLE_PROTO)?;
    let address = |v4, v6| {
        let four = find_attr(ip, v4).and_then(|v| <[u8; 4]>::try_from(v).ok()).map(|v| Ipv4Addr::from(v).into());
        four.or_else(|| find_attr(ip, v6).and_then(|v| <[u8; 16]>::try_from(v).ok()).map(|v| Ipv6Addr::from(v).into()))
    };
    let port = |kind| find_attr(protocol, kind).and_then(|v| <[u8; 2]>::try_from(v).ok()).map_or(0, u16::from_be_bytes);
    let tuple = Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    };
    Some((*find_attr(protocol, CTA_PROTO_NUM)?.first()?, tuple))
}
