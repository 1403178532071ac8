//! x_tables' own word on who drops a packet: for a packet that is traced (nf_tables' trace marks it, as `-j TRACE`
//! would) each table logs the rules that match it and the policy that it ends with (trace_packet of
//! net/ipv4/netfilter/ip_tables.c). nfnetlink_log hands that on.
//!
//! Switched on in namespaces made for it alone: a lab's.

use model::foreign::Layer;
use model::foreign::saved::Saved;

use crate::error::{Context as _, Result};
use crate::netlink::{Message, Socket, be_u32, find_attr, text};
use crate::nft::uapi::{NETLINK_NETFILTER, NFPROTO_IPV4, NFPROTO_IPV6};
use crate::nft::{Dropped, Listener};

/// A receive buffer that holds what hundreds of packets leave behind.
const BUFFER: usize = 8 << 20;
/// NFNL_SUBSYS_ULOG of linux/netfilter/nfnetlink.h, with NFULNL_MSG_* of linux/netfilter/nfnetlink_log.h.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = (4 << 8) | 1;
/// What the kernel logs without a rule's own group comes to this one (default_loginfo of nfnetlink_log.c).
const GROUP: u16 = 0;
/// NFULA_CFG_*, NFULNL_CFG_CMD_* and NFULNL_COPY_* of linux/netfilter/nfnetlink_log.h.
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CMD_BIND: u8 = 1;
const CMD_PF_BIND: u8 = 3;
const COPY_PACKET: u8 = 2;
/// So much of each packet: its headers.
const COPIED: u32 = 128;
/// NFULA_* of the same.
const PACKET_HDR: u16 = 1;
const IFINDEX_INDEV: u16 = 4;
const IFINDEX_OUTDEV: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// x_tables' chains by the hook that they hang at (enum nf_inet_hooks of linux/netfilter.h).
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Listens until [`Tracer::finish`].
#[derive(Debug)]
pub struct Tracer {
    listener: Listener,
}

impl Tracer {
    /// Listens in the calling thread's network namespace, to packets that [`crate::nft::Tracer`] has traced.
    ///
    /// # Errors
    /// The kernel's refusal, such as of one without nfnetlink_log.
    pub fn start() -> Result<Self> {
        const WHAT: &str = "x_tables' trace";
        let mut socket = Socket::open(NETLINK_NETFILTER).context("listen to", WHAT)?;
        socket.enlarge(BUFFER);
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            configure(&mut socket, family, CFG_CMD, &[CMD_PF_BIND]).context("listen to", WHAT)?;
        }
        configure(&mut socket, 0, CFG_CMD, &[CMD_BIND]).context("listen to", WHAT)?;
        // struct nfulnl_msg_config_mode
        let [a, b, c, d] = COPIED.to_be_bytes();
        configure(&mut socket, 0, CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]).context("listen to", WHAT)?;
        Ok(Self { listener: Listener::start(socket, PACKET) })
    }

    /// What was dropped so far by what `tables` hold, in order. A rule is told by its place in its chain, from 1.
    ///
    /// # Errors
    /// Where the trace could not be read.
    pub fn finish(self, tables: &[Saved]) -> Result<Vec<Dropped>> {
        let heard = self.listener.finish().context("read", "x_tables' trace")?;
        let ends = |drop: &Dropped| {
            let of = tables.iter().find(|saved| saved.family == drop.family);
            of.is_some_and(|saved| saved.culprit(&drop.table, &drop.chain, drop.rule).is_some())
        };
        Ok(heard.iter().filter_map(event).filter(ends).collect())
    }
}

fn configure(
    socket: &mut Socket,
    family: u8,
    attribute: u16,
    value: &[u8],
) -> std::result::Result<(), crate::netlink::NetlinkError> {
    let [high, low] = GROUP.to_be_bytes();
    // struct nfgenmsg: family, version, the group.
    socket.request(CONFIG, 0, |w| {
        w.raw(&[family, 0, high, low]).attr(attribute, value);
    })
}

/// A rule that a packet matched, or a policy that it came to: it is not told yet whether that ended it.
fn event(message: &Message) -> Option<Dropped> {
    let family = match *message.payload.first()? {
        NFPROTO_IPV4 => Layer::Ip,
        NFPROTO_IPV6 => Layer::Ip6,
        _ => return None,
    };
    let attrs = message.payload.get(4..)?;
    // `TRACE: filter:FORWARD:rule:2 `
    let prefix = find_attr(attrs, PREFIX).map(text)?;
    let mut words = prefix.strip_prefix("TRACE: ")?.trim_end().rsplitn(3, ':');
    let (number, kind) = (words.next()?.parse().ok()?, words.next()?);
    let (table, chain) = words.next()?.split_once(':')?;
    let rule = match kind {
        "rule" => Some(number),
        "policy" => None,
        _ => return None,
    };
    let hook = find_attr(attrs, PACKET_HDR)?.get(2).copied()?;
    let index = |kind| find_attr(attrs, kind).map(be_u32);
    let packet = find_attr(attrs, PAYLOAD)?;
    let header = match packet.first()? >> 4 {
        4 => usize::from(packet.first()? & 0xf) * 4,
        _ => 40,
    };
    let (network, transport) = packet.split_at_checked(header)?;
    Some(Dropped {
        legacy: true,
        family,
        table: table.to_owned(),
        base: (*HOOKS.get(usize::from(hook))?).to_owned(),
        chain: chain.to_owned(),
        rule,
        iif: index(IFINDEX_INDEV),
        oif: index(IFINDEX_OUTDEV),
        network: network.to_vec(),
        transport: transport.to_vec(),
    })
}
