//! What changes in a network namespace, as the kernel tells it: links, addresses, routes, policy rules and switches
//! (rtnetlink(7), linux/rtnetlink.h), and nf_tables (linux/netfilter/nf_tables.h). Who changed it is known of nf_tables
//! alone.

use std::fmt;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{Message, NetlinkError, Socket, be_u32, find_attr, text};

/// RTNLGRP_* of linux/rtnetlink.h.
mod group {
    pub const LINK: u32 = 1;
    pub const IPV4_IFADDR: u32 = 5;
    pub const IPV4_ROUTE: u32 = 7;
    pub const IPV4_RULE: u32 = 8;
    pub const IPV6_IFADDR: u32 = 9;
    pub const IPV6_ROUTE: u32 = 11;
    pub const IPV6_RULE: u32 = 19;
    pub const IPV4_NETCONF: u32 = 24;
    pub const IPV6_NETCONF: u32 = 25;
    /// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
    pub const NFTABLES: u32 = 7;
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;
const IFLA_IFNAME: u16 = 3;
/// struct ifinfomsg.
const IFINFOMSG: usize = 16;
/// struct nfgenmsg.
const NFGENMSG: usize = 4;
/// NFT_MSG_NEWGEN: the end of a transaction.
const NEWGEN: u8 = 15;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and NFTA_SET_ELEM_LIST_TABLE alike.
const NFTA_TABLE: u16 = 1;

/// What ways depend on.
pub(crate) const OF_WAYS: [u32; 7] = [
    group::LINK,
    group::IPV4_IFADDR,
    group::IPV6_IFADDR,
    group::IPV4_ROUTE,
    group::IPV6_ROUTE,
    group::IPV4_RULE,
    group::IPV6_RULE,
];

/// A receive buffer that holds what thousands of changes tell.
pub const BUFFER: usize = 16 << 20;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// A link of this name.
    Link(String),
    /// An address.
    Address,
    /// A route.
    Route,
    /// A rule of policy routing.
    Rule,
    /// A switch of an interface's, or of all (sysctl net.*.conf).
    Switch,
    /// A table of nf_tables.
    Table(String),
    /// More than the buffer held: anything may have changed.
    Unknown,
}

impl What {
    /// Its sort, in a word.
    #[must_use]
    pub fn sort(&self) -> &'static str {
        match self {
            Self::Link(_) => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Switch => "switch",
            Self::Table(_) => "table",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Address => f.write_str("addresses"),
            Self::Route => f.write_str("routes"),
            Self::Rule => f.write_str("routing rules"),
            Self::Switch => f.write_str("switches"),
            Self::Table(name) => write!(f, "nf_tables table {name}"),
            Self::Unknown => f.write_str("more than could be followed"),
        }
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name (comm).
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// A change that was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// Of what.
    pub what: What,
    /// By whom, where the kernel says.
    pub by: Option<Process>,
}

/// Listens to the network namespace in which it was opened.
pub struct Watch {
    route: Socket,
    nft: Socket,
    /// Tables of a transaction whose end, which names the process, was not heard yet.
    tables: Vec<String>,
}

impl Watch {
    /// Opens one in the network namespace of the calling thread, with receive buffers of `buffer` bytes ([`BUFFER`]).
    pub fn open(buffer: usize) -> Result<Self> {
        Self::with(Some(buffer))
    }

    /// The same with the buffers that every socket has: for who is content to hear of much that it was much.
    pub fn plain() -> Result<Self> {
        Self::with(None)
    }

    fn with(buffer: Option<usize>) -> Result<Self> {
        let join = |protocol: libc::c_int, groups: &[u32]| {
            let mut socket = Socket::open(protocol as isize)?;
            if let Some(buffer) = buffer {
                socket.enlarge(buffer);
            }
            for group in groups {
                socket.join(*group)?;
            }
            Ok::<Socket, NetlinkError>(socket)
        };
        let of_switches = [group::IPV4_NETCONF, group::IPV6_NETCONF];
        Ok(Self {
            route: join(libc::NETLINK_ROUTE, &[&OF_WAYS[..], &of_switches].concat())
                .context("watch", "links, addresses and routes")?,
            nft: join(libc::NETLINK_NETFILTER, &[group::NFTABLES]).context("watch", "nf_tables")?,
            tables: Vec::new(),
        })
    }

    /// What has changed, each once, as soon as there is anything; nothing after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<Seen>> {
        let fds = [&self.route, &self.nft].map(|socket| {
            // SAFETY: the sockets live as long as self, which is borrowed until the poll is over.
            unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
        });
        let mut fds = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.take(),
            Err(e) => Err(KernelError::new("wait for", "changes of the network", std::io::Error::from(e))),
        }
    }

    /// What has changed until now, each once.
    pub fn take(&mut self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        while let Some(messages) = ready(&self.route, &mut seen).context("hear", "changes of links and routes")? {
            seen.extend(messages.iter().filter_map(of_route).map(|what| Seen { what, by: None }));
        }
        while let Some(messages) = ready(&self.nft, &mut seen).context("hear", "changes of nf_tables")? {
            for message in &messages {
                self.of_nft(message, &mut seen);
            }
        }
        seen.sort();
        seen.dedup();
        Ok(seen)
    }

    fn of_nft(&mut self, message: &Message, seen: &mut Vec<Seen>) {
        let Some(attributes) = message.payload.get(NFGENMSG..) else { return };
        // The lower byte is the message's type, the upper one the subsystem.
        if message.kind.to_le_bytes()[0] != NEWGEN {
            if let Some(table) = find_attr(attributes, NFTA_TABLE).map(text)
                && !self.tables.contains(&table)
            {
                self.tables.push(table);
            }
            return;
        }
        let by = find_attr(attributes, NFTA_GEN_PROC_PID).zip(find_attr(attributes, NFTA_GEN_PROC_NAME));
        let by = by.map(|(pid, name)| Process { pid: be_u32(pid), name: text(name) });
        seen.extend(self.tables.drain(..).map(|table| Seen { what: What::Table(table), by: by.clone() }));
    }
}

/// The messages of a datagram that is there. An overrun is told as [`What::Unknown`], and reading goes on.
fn ready(socket: &Socket, seen: &mut Vec<Seen>) -> std::result::Result<Option<Vec<Message>>, NetlinkError> {
    loop {
        match socket.receive_ready() {
            Err(NetlinkError::Socket(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                seen.push(Seen { what: What::Unknown, by: None });
            }
            other => return other,
        }
    }
}

fn of_route(message: &Message) -> Option<What> {
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => {
            let name = message.payload.get(IFINFOMSG..).and_then(|attributes| find_attr(attributes, IFLA_IFNAME));
            Some(What::Link(name.map(text).unwrap_or_default()))
        }
        RTM_NEWADDR | RTM_DELADDR => Some(What::Address),
        RTM_NEWROUTE | RTM_DELROUTE => Some(What::Route),
        RTM_NEWRULE | RTM_DELRULE => Some(What::Rule),
        RTM_NEWNETCONF | RTM_DELNETCONF => Some(What::Switch),
        _ => None,
    }
}
