//! The kernel's own word on who drops a packet: nf_tables' trace (NFNLGRP_NFTRACE), which `nft monitor trace` shows.
//!
//! Switched on in namespaces made for it alone: a lab's.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use model::foreign::Layer;

use super::batch::Prepared;
use super::dump::{body, number};
use super::encode::message;
use super::uapi::*;
use super::{BUFFER, Nft, Transaction, family_word, kind};
use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{Message, NetlinkError, Socket, Writer, be_u64, find_attr, flags, text};

/// Our table that switches tracing on.
const TABLE: &str = "warren-trace";
/// Before everybody else.
const FIRST: i32 = i32::MIN;
/// How long the listener waits for a message before it looks whether it is to end, in milliseconds.
const TICK: i32 = 20;

/// A packet that a chain dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Whether it was a chain of iptables-legacy's.
    pub legacy: bool,
    /// The table's family.
    pub family: Layer,
    /// The table.
    pub table: String,
    /// The base chain by which the packet came into the table.
    pub base: String,
    /// The chain that it ended in.
    pub chain: String,
    /// The rule's handle, of iptables-legacy its number in the chain; none where it was the base chain's policy.
    pub rule: Option<u64>,
    /// The index of the interface that it came in by.
    pub iif: Option<u32>,
    /// The index of the interface that it was to leave by.
    pub oif: Option<u32>,
    /// The beginning of its IP header, as it was there.
    pub network: Vec<u8>,
    /// The beginning of its transport header.
    pub transport: Vec<u8>,
}

/// Listens until [`Tracer::finish`].
#[derive(Debug)]
pub struct Tracer {
    listener: Listener,
}

impl Tracer {
    /// Has every packet of the calling thread's network namespace traced. For labs: it adds tables.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn start() -> Result<Self> {
        let mut socket = Socket::open(NETLINK_NETFILTER).context("listen to", "the firewall's trace")?;
        socket.enlarge(BUFFER);
        socket.join(NFNLGRP_NFTRACE).context("listen to", "the firewall's trace")?;
        let mut transaction = Transaction::new();
        for family in [NFPROTO_INET, NFPROTO_BRIDGE] {
            transaction.clear(family, TABLE).messages(table(family));
        }
        let mut nft = Nft::open().context("open", "the firewall")?;
        nft.commit(&transaction).map_err(|e| KernelError::new("trace", "packets", e))?;
        Ok(Self { listener: Listener::start(socket, kind(NFT_MSG_TRACE)) })
    }

    /// What was dropped so far, in order.
    ///
    /// # Errors
    /// Where the trace could not be read.
    pub fn finish(self) -> Result<Vec<Dropped>> {
        Ok(dropped(&self.listener.finish().context("read", "the firewall's trace")?))
    }
}

/// Gathers messages of one kind in a thread of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct Listener {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Heard>>,
}

type Heard = std::result::Result<Vec<Message>, NetlinkError>;

impl Listener {
    /// Listens at `socket` to messages of nlmsg_type `kind`.
    pub(crate) fn start(socket: Socket, kind: u16) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        Self { end, thread: Some(std::thread::spawn(move || listen(&socket, kind, &told))) }
    }

    /// What came so far, in order.
    pub(crate) fn finish(mut self) -> Heard {
        self.stop()
    }

    fn stop(&mut self) -> Heard {
        self.end.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        thread.join().unwrap_or_else(|_| Err(NetlinkError::Socket(std::io::Error::other("its listener ended early"))))
    }
}

impl Drop for Listener {
    /// Its socket is closed when this returns: the kernel has room for one listener at some places.
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Gathers messages; once it is to end, those that are there by then.
fn listen(socket: &Socket, kind: u16, end: &AtomicBool) -> Heard {
    let mut messages = Vec::new();
    loop {
        let last = end.load(Ordering::Acquire);
        loop {
            match socket.receive_ready() {
                Ok(Some(some)) => messages.extend(some.into_iter().filter(|m| m.kind == kind)),
                Ok(None) => break,
                // Some were lost; who drops is seen from those that were not.
                Err(NetlinkError::Socket(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(e) => return Err(e),
            }
        }
        if last {
            return Ok(messages);
        }
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one live pollfd, and the socket is open for as long as it is borrowed.
        unsafe { libc::poll(&raw mut poll, 1, TICK) };
    }
}

/// `chain prerouting { type filter hook prerouting priority …; meta nftrace set 1 }`, and the same of what is sent.
fn table(family: u8) -> Vec<Prepared> {
    let named = |what: &str| format!("{what} of table {} {TABLE}", family_word(family));
    let mut out = vec![Prepared::new(
        message(NFT_MSG_NEWTABLE, flags::CREATE, family, |w| {
            w.attr_str(NFTA_TABLE_NAME, TABLE);
        }),
        named("all"),
    )];
    for (chain, hook) in [("prerouting", 0), ("output", 3)] {
        let made = message(NFT_MSG_NEWCHAIN, flags::CREATE, family, |w| {
            w.attr_str(NFTA_CHAIN_TABLE, TABLE);
            w.attr_str(NFTA_CHAIN_NAME, chain);
            w.nest(NFTA_CHAIN_HOOK, |w| {
                w.attr_be32(NFTA_HOOK_HOOKNUM, hook);
                w.attr_be32(NFTA_HOOK_PRIORITY, FIRST.cast_unsigned());
            });
            w.attr_str(NFTA_CHAIN_TYPE, "filter");
        });
        let rule = message(NFT_MSG_NEWRULE, flags::CREATE | flags::APPEND, family, |w| {
            w.attr_str(NFTA_RULE_TABLE, TABLE);
            w.attr_str(NFTA_RULE_CHAIN, chain);
            w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                expression(w, "immediate", |w| {
                    w.attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG32_00);
                    w.nest(NFTA_IMMEDIATE_DATA, |w| {
                        w.attr(NFTA_DATA_VALUE, &[1]);
                    });
                });
                expression(w, "meta", |w| {
                    w.attr_be32(NFTA_META_KEY, NFT_META_NFTRACE);
                    w.attr_be32(NFTA_META_SREG, NFT_REG32_00);
                });
            });
        });
        out.extend([Prepared::new(made, named(chain)), Prepared::new(rule, named(chain))]);
    }
    out
}

fn expression(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.attr_str(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, fill);
    });
}

/// Only the first message of a packet's way through a base chain tells its headers and interfaces
/// (nft_trace_notify of net/netfilter/nf_tables_trace.c).
fn dropped(messages: &[Message]) -> Vec<Dropped> {
    let mut ways: HashMap<(u32, u8, String), Dropped> = HashMap::new();
    let mut out: Vec<Dropped> = Vec::new();
    for message in messages {
        let attrs = body(message);
        let number_of = |kind| find_attr(attrs, kind).map(|_| number(attrs, kind));
        let family = message.payload.first().copied().unwrap_or(0);
        let Some(layer) = Layer::of(family_word(family)) else { continue };
        let table = find_attr(attrs, NFTA_TRACE_TABLE).map(text).unwrap_or_default();
        let chain = find_attr(attrs, NFTA_TRACE_CHAIN).map(text).unwrap_or_default();
        let key = (number(attrs, NFTA_TRACE_ID), family, table.clone());
        if let Some(network) = find_attr(attrs, NFTA_TRACE_NETWORK_HEADER) {
            let begun = Dropped {
                legacy: false,
                family: layer,
                table,
                base: chain.clone(),
                chain: chain.clone(),
                rule: None,
                iif: number_of(NFTA_TRACE_IIF),
                oif: number_of(NFTA_TRACE_OIF),
                network: network.to_vec(),
                transport: find_attr(attrs, NFTA_TRACE_TRANSPORT_HEADER).unwrap_or(&[]).to_vec(),
            };
            ways.insert(key.clone(), begun);
        }
        let Some(way) = ways.get(&key) else { continue };
        let drops = |code: u32| code & NF_VERDICT_MASK == NF_DROP;
        let verdict = find_attr(attrs, NFTA_TRACE_VERDICT).and_then(|v| find_attr(v, NFTA_VERDICT_CODE));
        let rule = match number(attrs, NFTA_TRACE_TYPE) {
            NFT_TRACETYPE_RULE if verdict.map(crate::netlink::be_u32).is_some_and(drops) => {
                find_attr(attrs, NFTA_TRACE_RULE_HANDLE).map(be_u64)
            }
            NFT_TRACETYPE_POLICY if number_of(NFTA_TRACE_POLICY).is_some_and(drops) => None,
            _ => continue,
        };
        let chain = if rule.is_some() { chain } else { way.base.clone() };
        out.push(Dropped { chain, rule, ..way.clone() });
    }
    out
}
