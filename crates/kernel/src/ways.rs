//! Which addresses are other hosts', remembered from one question to the next.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::{Context as _, Result};
use crate::netlink::{NetlinkError, Socket};
use crate::rtnl::Rtnl;
use crate::watch::OF_WAYS;

/// So many answers are remembered.
const MOST: usize = 1024;

/// Asks the kernel for an address once, and again as soon as it has told of any change that an answer could depend on.
/// It tells before the change is over (rtnetlink(7)): an answer is never older than what a question would get.
pub struct Ways {
    asked: Rtnl,
    told: Socket,
    known: BTreeMap<IpAddr, bool>,
}

impl Ways {
    /// One in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let listen = || {
            let mut told = Socket::open(libc::NETLINK_ROUTE as isize)?;
            OF_WAYS.iter().try_for_each(|group| told.join(*group))?;
            Ok::<Socket, NetlinkError>(told)
        };
        let told = listen().context("watch", "addresses and routes")?;
        Ok(Self { asked: Rtnl::open()?, told, known: BTreeMap::new() })
    }

    /// As [`Rtnl::is_elsewhere`]; a way that is not known is asked for again.
    pub fn is_elsewhere(&mut self, address: IpAddr) -> Result<bool> {
        while self.has_changed()? {
            self.known.clear();
        }
        if let Some(known) = self.known.get(&address) {
            return Ok(*known);
        }
        let found = self.asked.is_elsewhere(address)?;
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(address, found);
        Ok(found)
    }

    /// Whether there is another datagram about changes; that there were too many is one.
    fn has_changed(&self) -> Result<bool> {
        match self.told.receive_ready() {
            Ok(messages) => Ok(messages.is_some()),
            Err(NetlinkError::Socket(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(e) => Err(e).context("hear", "changes of addresses and routes"),
        }
    }
}
