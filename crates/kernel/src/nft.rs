//! nf_tables on netlink (linux/netfilter/nf_tables.h): our tables written, everybody's read. The `nft` program is
//! never run; `nft list` prints of what is written here what it prints of the text rendering.
//!
//! - [`Transaction`] and [`Nft::commit`]: all of it or nothing.
//! - [`Nft::dump_table`]: a table as messages that make it again, ours or another's; [`fingerprint`] of its rules.
//! - [`Nft::elements`]: what is in a set of ours.
//! - [`Nft::foreign_hooks`]: which other chains see packets, and whether they drop.
//! - [`Nft::foreign_tables`], [`mends`]: others' tables, and rules of ours in them.
//! - [`conditions`]: what others' rules ask of interfaces.
//! - [`Tracer`]: who dropped a packet, as the kernel tells it.

use model::ruleset::{Family, MARK, TABLE};

use crate::netlink::{NetlinkError, Result, Socket, Writer, be_u32, find_attr};

mod batch;
mod dump;
mod elements;
mod encode;
mod except;
mod expressions;
mod fingerprint;
mod hooks;
mod keeper;
mod likes;
mod mends;
mod naming;
mod tables;
mod trace;
pub mod uapi;
mod words;

pub use batch::{Refusal, Transaction, TransactionError};
pub use dump::{DumpError, RawTable};
pub use elements::{Counts, Tally};
pub use except::add as add_except;
pub use fingerprint::fingerprint;
pub use hooks::ForeignChain;
pub(crate) use keeper::{is_kept, owner};
pub use keeper::{keep, keeps, let_go};
pub use likes::{add_element, add_twin};
pub use mends::{ForeignTable, add_mend, delete_mend, handles_of_likes, mends};
pub use naming::conditions;
pub use tables::{Found, commit, fingerprint_of, generation, look, tally};
pub(crate) use trace::Listener;
pub use trace::{Dropped, Tracer};

use uapi::*;

/// What the sockets' buffers are enlarged to: room for a ruleset with 10,000 forwards several times over.
const BUFFER: usize = 8 * 1024 * 1024;

/// A socket that speaks nf_tables, of the network namespace that it was opened in.
pub struct Nft {
    socket: Socket,
    /// Whether the buffers may grow past what they were opened with.
    grows: bool,
}

/// A table that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// NFPROTO_* of linux/netfilter.h.
    pub family: u8,
    /// Its name.
    pub name: String,
    /// Its comment, as nft writes it.
    pub comment: Option<String>,
    /// The number of the socket that it belongs to, if it belongs to one that is open.
    pub owner: Option<u32>,
}

impl TableName {
    /// Whether it is ours: by family, name and mark.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let family = self.family == NFPROTO_INET || self.family == NFPROTO_BRIDGE;
        family && self.name == TABLE && self.comment.as_deref() == Some(MARK)
    }
}

/// NFPROTO_* of linux/netfilter.h.
#[must_use]
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => NFPROTO_INET,
        Family::Bridge => NFPROTO_BRIDGE,
    }
}

/// nft's word for a family's number.
#[must_use]
pub fn family_word(family: u8) -> &'static str {
    match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        3 => "arp",
        5 => "netdev",
        NFPROTO_BRIDGE => "bridge",
        NFPROTO_IPV6 => "ip6",
        _ => "unknown",
    }
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`], such as EPROTONOSUPPORT where the kernel has no nfnetlink.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        socket.enlarge(BUFFER);
        Ok(Self { socket, grows: true })
    }

    /// The same with a send buffer that is set as a plain user sets it, within net.core.wmem_max, and never enlarged:
    /// what it does not take at once is done in several batches.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_plain(send_buffer: usize) -> Result<Self> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        socket.set_send_buffer(send_buffer);
        Ok(Self { socket, grows: false })
    }

    /// The socket's number, by which the kernel names it.
    fn port(&self) -> Result<u32> {
        let mut address = netlink_sys::SocketAddr::new(0, 0);
        self.socket.raw().get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// The number of the last commit in this namespace (NFTA_GEN_ID).
    ///
    /// # Errors
    /// The kernel's refusal, such as EPERM without CAP_NET_ADMIN.
    pub fn generation(&mut self) -> Result<u32> {
        const NFTA_GEN_ID: u16 = 1;
        let answer = self.socket.get(kind(NFT_MSG_GETGEN), 0, |w| header(w, 0))?;
        let message = answer.first().ok_or(NetlinkError::Malformed("no generation"))?;
        let attrs = message.payload.get(4..).unwrap_or(&[]);
        find_attr(attrs, NFTA_GEN_ID).map(be_u32).ok_or(NetlinkError::Malformed("no generation"))
    }
}

fn kind(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

/// struct nfgenmsg
fn header(w: &mut Writer, family: u8) {
    w.raw(&[family, 0, 0, 0]);
}
