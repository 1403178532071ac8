//! Our tables as the property of a process that runs on (`serve`): others' `flush ruleset` passes them by, their
//! `delete table` is refused, and they stay when the process ends (NFT_TABLE_F_OWNER with NFT_TABLE_F_PERSIST,
//! linux/netfilter/nf_tables.h; kernels from 6.9 on).
//!
//! A table belongs to a socket, so there is one for the whole process, and every change goes by it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::ruleset::Family;

use super::batch::Prepared;
use super::uapi::{
    NFPROTO_INET, NFT_MSG_NEWTABLE, NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME,
};
use super::{Nft, Transaction, encode, family_number};
use crate::error::{Context as _, KernelError, Result};
use crate::netns::Netns;

static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

/// The socket that our tables belong to.
pub(super) struct Keeper {
    nft: Nft,
    /// Its number, by which the kernel names a table's owner.
    port: u32,
    /// The inode of the network namespace that it is in: in every other this process is like any.
    netns: u64,
}

/// Keeps our tables from now on, in the network namespace of the calling thread, until the process ends. They become
/// this process's with the next `up`. Says whether the kernel can.
pub fn keep() -> Result<bool> {
    if matches!(keeper().as_ref(), Some(keeper) if keeper.netns == here()?) {
        return Ok(true);
    }
    let mut nft = Nft::open().context("open", "a socket for the tables")?;
    // A name that nobody else has, gone with the same transaction.
    let name = format!("warren-keeper-{}", std::process::id());
    let table = encode::message(NFT_MSG_NEWTABLE, crate::netlink::flags::CREATE, NFPROTO_INET, |w| {
        w.attr_str(NFTA_TABLE_NAME, &name);
        w.attr_be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
    });
    let mut trial = Transaction::new();
    trial.messages(vec![Prepared::new(table, format!("table inet {name}"))]).delete(NFPROTO_INET, &name);
    match nft.commit(&trial) {
        Ok(()) => {}
        Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => return Ok(false),
        Err(e) => return Err(KernelError::new("try", "tables that belong to a process", e)),
    }
    let port = nft.port().context("look at", "the socket for the tables")?;
    let netns = here()?;
    *keeper() = Some(Keeper { nft, port, netns });
    Ok(true)
}

/// Whether this process keeps them.
pub fn keeps() -> bool {
    keeper().is_some()
}

/// The number of the socket that keeps them; none where this process does not.
pub(crate) fn owner() -> Option<u32> {
    keeper().as_ref().map(|keeper| keeper.port)
}

/// Keeps them no longer; they stay.
pub fn let_go() {
    *keeper() = None;
}

/// Whether our table of `family` has the owner that it should have: our socket, where this process keeps the tables.
pub(crate) fn is_kept(family: Family) -> Result<bool> {
    let mut keeper = keeper();
    let Some(keeper) = keeper.as_mut() else { return Ok(true) };
    if keeper.netns != here()? {
        return Ok(true);
    }
    let tables = keeper.nft.tables().context("list", "tables")?;
    let family = family_number(family);
    Ok(tables.iter().any(|table| table.family == family && table.is_ours() && table.owner == Some(keeper.port)))
}

/// Does `commit` by the socket that the tables belong to, or by a new one where this process does not keep them.
pub(super) fn by_owner<T>(commit: impl FnOnce(&mut Nft, Transaction) -> Result<T>) -> Result<T> {
    let mut keeper = keeper();
    match keeper.as_mut() {
        Some(keeper) if keeper.netns == here()? => {
            let mut transaction = Transaction::new();
            transaction.owned();
            commit(&mut keeper.nft, transaction)
        }
        _ => {
            drop(keeper);
            commit(&mut Nft::open().context("change", "the ruleset")?, Transaction::new())
        }
    }
}

fn keeper() -> MutexGuard<'static, Option<Keeper>> {
    // What a thread that failed has left is a socket all the same: each transaction stands by itself.
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn here() -> Result<u64> {
    Netns::current()?.inode().map_err(|e| KernelError::new("look at", "the network namespace", e))
}
