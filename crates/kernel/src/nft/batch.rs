//! Changes as one transaction: all of it or nothing.
//!
//! nfnetlink works a batch off within `sendmsg` and queues its answers before that returns (nfnetlink_rcv_batch in
//! net/netfilter/nfnetlink.c): what cannot be read without waiting afterwards never comes, so nothing here waits.
//! The last message asks for an acknowledgement; BEGIN and END are acknowledged by kernels from 6.10 on only, so
//! they ask for none. Errors come unasked, one for each message that failed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::ruleset::{Element, Family, Set, Table};

use super::dump::RawTable;
use super::elements::Tally;
use super::uapi::*;
use super::{Nft, encode, family_number};
use crate::netlink::{NetlinkError, Writer, ack, flags};

const NLMSG_ERROR: u16 = 2;
/// What a batch of an old generation is refused with (asm-generic/errno.h; libc lacks it).
const ERESTART: i32 = 85;
/// How long a batch is tried again where another's commit came between our look at the tables and it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message with its object's name.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// The message; its sequence number is written when it is sent.
    pub bytes: Vec<u8>,
    /// What it is about, for errors.
    pub what: String,
    /// Whether it may be left to a later batch where the socket does not take all at once.
    pub may_follow: bool,
}

impl Prepared {
    pub fn new(bytes: Vec<u8>, what: String) -> Self {
        Self { bytes, what, may_follow: false }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Messages(Vec<Prepared>),
    /// Deleted if it is there at the time.
    Clear(u8, String),
}

/// Changes to be made together by [`Nft::commit`].
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    steps: Vec<Step>,
    table_flags: u32,
}

/// One thing that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The object, such as `rule 2 of chain inet warren forward: …`.
    pub object: String,
    /// The positive errno.
    pub errno: i32,
    /// The kernel's own words (NLMSGERR_ATTR_MSG), where it had any.
    pub words: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.object, std::io::Error::from_raw_os_error(self.errno))?;
        self.words.as_deref().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

/// Why a transaction did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The kernel refused some of it, and so did nothing of it.
    #[error("the kernel refused {}", list(.0))]
    Refused(Vec<Refusal>),
    /// It was larger than the socket takes (net.core.wmem_max): the rules and a first part of the elements are in
    /// place, the later elements were refused.
    #[error("in place but for {missing} messages of elements: the kernel refused {}", list(.refusals))]
    Torn {
        /// What was refused.
        refusals: Vec<Refusal>,
        /// How many messages are not in place.
        missing: usize,
    },
    /// Rules and chains alone are larger than the socket takes.
    #[error("the ruleset needs {needed} bytes in one message, and the socket takes {limit}: raise net.core.wmem_max")]
    TooLarge {
        /// Bytes without elements.
        needed: usize,
        /// Bytes that the socket takes.
        limit: usize,
    },
    /// The socket failed, or the kernel's answer was not understood.
    #[error("nf_tables: {0}")]
    Netlink(#[from] NetlinkError),
}

impl TransactionError {
    /// The errno of the first refusal, where the kernel answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusals) | Self::Torn { refusals, .. } => refusals.first().map(|r| r.errno),
            Self::Netlink(e) => e.errno(),
            Self::TooLarge { .. } => None,
        }
    }
}

fn list(refusals: &[Refusal]) -> String {
    let shown: Vec<String> = refusals.iter().take(8).map(ToString::to_string).collect();
    let more = if refusals.len() > 8 { format!("; and {} more", refusals.len() - 8) } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

impl Transaction {
    /// Nothing to do yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Tables that are created from here on belong to the socket that commits them (NFT_TABLE_F_OWNER, kernels from
    /// 5.12 on) and outlive it (NFT_TABLE_F_PERSIST, from 6.9 on): others' `flush ruleset` passes them by.
    pub fn owned(&mut self) -> &mut Self {
        self.table_flags = NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST;
        self
    }

    pub(super) fn messages(&mut self, messages: Vec<Prepared>) -> &mut Self {
        if !messages.is_empty() {
            self.steps.push(Step::Messages(messages));
        }
        self
    }

    /// Makes the table; what stands under its name already stays, and gets double rules: see [`Self::replace`].
    pub fn create(&mut self, table: &Table) -> &mut Self {
        self.messages(encode::create(table, self.table_flags, &Tally::new()))
    }

    /// Makes the table in the place of whatever stands under its name.
    pub fn replace(&mut self, table: &Table) -> &mut Self {
        self.clear(family_number(table.family), model::ruleset::TABLE).create(table)
    }

    /// The same, and what `tally` has of its counted sets is counted on from there.
    pub fn replace_counting_on(&mut self, table: &Table, tally: &Tally) -> &mut Self {
        let messages = encode::create(table, self.table_flags, tally);
        self.clear(family_number(table.family), model::ruleset::TABLE).messages(messages)
    }

    /// Deletes the table; refused where there is none.
    pub fn delete(&mut self, family: u8, name: &str) -> &mut Self {
        self.messages(vec![encode::delete(family, name)])
    }

    /// Deletes the table if there is one.
    pub fn clear(&mut self, family: u8, name: &str) -> &mut Self {
        self.steps.push(Step::Clear(family, name.to_owned()));
        self
    }

    /// Adds elements to a set or map of ours; those that are in it already are no error if their values are the same.
    pub fn add_elements(&mut self, family: Family, name: &str, set: &Set, elements: &BTreeSet<Element>) -> &mut Self {
        self.messages(encode::elements(NFT_MSG_NEWSETELEM, family, name, set, elements.iter(), None))
    }

    /// Takes elements out of a set or map of ours; refused where one is not in it.
    pub fn delete_elements(
        &mut self,
        family: Family,
        name: &str,
        set: &Set,
        elements: &BTreeSet<Element>,
    ) -> &mut Self {
        self.messages(encode::elements(NFT_MSG_DELSETELEM, family, name, set, elements.iter(), None))
    }

    /// Makes a dumped table again, as it was; what stands under its name already must be cleared before.
    pub fn replay(&mut self, table: &RawTable) -> &mut Self {
        self.messages(table.messages(self.table_flags))
    }
}

impl Nft {
    /// Does all of `transaction`, or nothing.
    ///
    /// What is larger than the socket takes at once (it is enlarged first, but a user namespace's limit is
    /// net.core.wmem_max) is done in several: first everything but the last elements, then these.
    ///
    /// # Errors
    /// [`TransactionError::Refused`] names each object that the kernel refused, with its words; nothing is changed
    /// then. Only [`TransactionError::Torn`] leaves a part in place.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), TransactionError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        loop {
            let done = self
                .resolve(transaction)
                .and_then(|(messages, generation)| self.commit_messages(&messages, generation));
            match done {
                // Another commit came between: what is there must be looked at again.
                Err(TransactionError::Netlink(e))
                    if e.errno() == Some(ERESTART) || matches!(e, NetlinkError::Interrupted) => {}
                other => return other,
            }
            if begin.elapsed() > PATIENCE {
                return Err(NetlinkError::Interrupted.into());
            }
            std::thread::yield_now();
        }
    }

    /// The messages as of now, and the generation that they hold for where that matters.
    fn resolve(&mut self, transaction: &Transaction) -> Result<(Vec<Prepared>, Option<u32>), TransactionError> {
        let clears = transaction.steps.iter().any(|step| matches!(step, Step::Clear(..)));
        let generation = if clears { Some(self.generation()?) } else { None };
        let mut messages = Vec::new();
        for step in &transaction.steps {
            match step {
                Step::Messages(some) => messages.extend_from_slice(some),
                Step::Clear(family, name) => {
                    if self.has_table(*family, name)? {
                        messages.push(encode::delete(*family, name));
                    }
                }
            }
        }
        Ok((messages, generation))
    }

    fn commit_messages(&mut self, messages: &[Prepared], generation: Option<u32>) -> Result<(), TransactionError> {
        if messages.is_empty() {
            return Ok(());
        }
        // BEGIN with a generation has 28 bytes, END 20.
        const FRAME: usize = 48;
        let total = FRAME + messages.iter().map(|m| m.bytes.len()).sum::<usize>();
        if self.grows && total > self.socket.send_limit() {
            self.socket.enlarge(total);
        }
        let limit = self.socket.send_limit();
        if total <= limit {
            return self.send_batch(messages.iter(), generation);
        }
        let (first, rest): (Vec<_>, Vec<_>) = messages.iter().partition(|m| !m.may_follow);
        let mut size = FRAME + first.iter().map(|m| m.bytes.len()).sum::<usize>();
        if size > limit {
            return Err(TransactionError::TooLarge { needed: size, limit });
        }
        let mut batch = first;
        let mut generation = generation;
        let mut left = rest.len();
        let mut begun = false;
        for message in rest {
            if size + message.bytes.len() > limit {
                let missing = batch.len() + left;
                torn(self.send_batch(batch.drain(..), generation), begun, missing)?;
                (begun, generation, size) = (true, None, FRAME);
            }
            size += message.bytes.len();
            batch.push(message);
            left -= 1;
        }
        let count = batch.len();
        torn(self.send_batch(batch.drain(..), generation), begun, count)
    }

    fn send_batch<'a>(
        &mut self,
        messages: impl ExactSizeIterator<Item = &'a Prepared>,
        generation: Option<u32>,
    ) -> Result<(), TransactionError> {
        let mut names = Vec::with_capacity(messages.len());
        let last = messages.len() - 1;
        let begin = self.socket.next_seq();
        let frame = |kind: u16, seq: u32, generation: Option<u32>, out: &mut Vec<u8>| {
            let mut writer = Writer::new();
            writer.begin(kind, 0, seq);
            let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
            writer.raw(&[0, 0, high, low]);
            if let Some(generation) = generation {
                writer.attr_be32(NFNL_BATCH_GENID, generation);
            }
            writer.end();
            out.extend_from_slice(writer.bytes());
        };
        let mut bytes = Vec::new();
        frame(NFNL_MSG_BATCH_BEGIN, begin, generation, &mut bytes);
        for (at, message) in messages.enumerate() {
            let start = bytes.len();
            bytes.extend_from_slice(&message.bytes);
            let seq = self.socket.next_seq();
            bytes[start + 8..start + 12].copy_from_slice(&seq.to_ne_bytes());
            if at == last {
                let word = u16::from_ne_bytes([bytes[start + 6], bytes[start + 7]]) | flags::ACK;
                bytes[start + 6..start + 8].copy_from_slice(&word.to_ne_bytes());
            }
            names.push(message.what.as_str());
        }
        let end = self.socket.next_seq();
        frame(NFNL_MSG_BATCH_END, end, None, &mut bytes);
        self.socket.send(&bytes)?;
        self.answers(begin, &names)
    }

    fn answers(&mut self, begin: u32, names: &[&str]) -> Result<(), TransactionError> {
        let mut refusals = Vec::new();
        let mut acknowledged = false;
        let mut overrun = false;
        loop {
            let messages = match self.socket.receive_ready() {
                Ok(Some(messages)) => messages,
                Ok(None) => break,
                // So many errors that not all had room: those that had are reported.
                Err(NetlinkError::Socket(e)) if e.raw_os_error() == Some(libc::ENOBUFS) && !overrun => {
                    overrun = true;
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            for message in messages.iter().filter(|m| m.kind == NLMSG_ERROR) {
                let at = message.seq.wrapping_sub(begin) as usize;
                match (ack(message), at) {
                    (_, at) if at > names.len() + 1 => {}
                    (Ok(()), at) => acknowledged |= at == names.len(),
                    // On BEGIN: the whole batch, by its generation or for want of CAP_NET_ADMIN.
                    (Err(e), _) if e.errno() == Some(ERESTART) => return Err(e.into()),
                    (Err(NetlinkError::Refused { errno, words, .. }), at) => {
                        let object = match at {
                            0 => "the transaction".to_owned(),
                            at => names.get(at - 1).map_or("the transaction's end", |n| *n).to_owned(),
                        };
                        refusals.push(Refusal { object, errno, words });
                    }
                    (Err(e), _) => return Err(e.into()),
                }
            }
        }
        if !refusals.is_empty() {
            return Err(TransactionError::Refused(refusals));
        }
        if overrun || !acknowledged {
            return Err(NetlinkError::Malformed("the kernel did not acknowledge the transaction").into());
        }
        Ok(())
    }

    fn has_table(&mut self, family: u8, name: &str) -> Result<bool, NetlinkError> {
        Ok(self.tables()?.iter().any(|t| t.family == family && t.name == name))
    }
}

/// A refusal after the first of several batches leaves the earlier ones in place.
fn torn(sent: Result<(), TransactionError>, begun: bool, missing: usize) -> Result<(), TransactionError> {
    match sent {
        Err(TransactionError::Refused(refusals)) if begun => Err(TransactionError::Torn { refusals, missing }),
        other => other,
    }
}
