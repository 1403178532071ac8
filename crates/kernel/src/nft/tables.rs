//! Our tables as parts of a state: looked at, and changed by the steps of a plan.

use model::plan::TableChange;
use model::ruleset::{Family, MARK, TABLE};
use model::state::TableState;

use super::dump::number;
use super::uapi::{NFT_SET_ANONYMOUS, NFTA_SET_FLAGS};
use super::{Nft, RawTable, Tally, Transaction, TransactionError, family_number, fingerprint, keeper};
use crate::error::{Cause, Context as _, KernelError, Result};
use crate::journal::WrittenTable;
use crate::netlink::NetlinkError;

fn what(family: Family) -> String {
    format!("the table {} {TABLE}", family.word())
}

/// What stands under the name of a table of ours.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Ours, by its mark.
    Ours(TableState),
    /// A table without our mark.
    Anothers,
}

/// Looks at our table of that family; `written` is what it was when it was written. It is intact where rules, chains
/// and sets are what they were then: elements are told as they are.
pub fn look(family: Family, written: Option<&WrittenTable>) -> Result<Found> {
    let what = || format!("the table {} {TABLE}", family.word());
    let mut nft = Nft::open().context("look at", what())?;
    let Some(rules) = rules_of(&mut nft, family)? else { return Ok(Found::Nothing) };
    if rules.comment.as_deref() != Some(MARK) {
        return Ok(Found::Anothers);
    }
    if let Some(written) = written.filter(|written| written.fingerprint == fingerprint(&rules)) {
        let mut table = written.skeleton.clone();
        let mut readable = true;
        for (name, set) in &mut table.sets {
            match nft.elements(family, name, set) {
                Ok(elements) => set.elements = elements,
                // An element that is none of ours, or a set that has gone since: not as we wrote it. A failed look
                // is no finding.
                Err(e) if matches!(e, NetlinkError::Malformed(_)) || e.is_absent() => readable = false,
                Err(e) => {
                    return Err(KernelError::new(
                        "read the elements of",
                        format!("{} {TABLE} {name}", family.word()),
                        e,
                    ));
                }
            }
        }
        if readable && keeper::is_kept(family)? {
            return Ok(Found::Ours(TableState::Intact(table)));
        }
    }
    let whole = nft.dump_table(family_number(family), TABLE).context("read", what())?;
    // Gone between the two looks.
    Ok(whole.map_or(Found::Nothing, |whole| Found::Ours(TableState::Disturbed(whole.to_dump()))))
}

/// What the counted sets of our table of that family have counted, as `table` declares them.
pub fn tally(table: &model::ruleset::Table) -> Result<super::Tally> {
    let what = || format!("the counters of {} {TABLE}", table.family.word());
    Nft::open().context("read", what())?.tally(table.family, &table.sets).context("read", what())
}

/// The number of the last commit in the calling thread's network namespace, whoever made it: for as long as it stays, no
/// rule, chain, set or element of anybody's has changed but by the packets' own doing.
pub fn generation() -> Result<u32> {
    const WHAT: &str = "nf_tables' last commit";
    Nft::open().context("look at", WHAT)?.generation().context("look at", WHAT)
}

/// The fingerprint of our table of that family as it is now; none where there is no such table.
pub fn fingerprint_of(family: Family) -> Result<Option<String>> {
    let mut nft = Nft::open().context("look at", format!("the table {} {TABLE}", family.word()))?;
    Ok(rules_of(&mut nft, family)?.map(|rules| fingerprint(&rules)))
}

/// The table without the elements of its named sets, which may be many and are no part of its fingerprint.
fn rules_of(nft: &mut Nft, family: Family) -> Result<Option<RawTable>> {
    let anonymous = |set: &[u8]| number(set, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS != 0;
    let rules = nft.dump_with(family_number(family), TABLE, anonymous);
    rules.context("read", format!("the table {} {TABLE}", family.word()))
}

/// Does the changes in one transaction: all of them, or none.
pub fn commit(changes: &[TableChange]) -> Result<()> {
    keeper::by_owner(|nft, transaction| commit_by(nft, transaction, changes))
}

fn commit_by(nft: &mut Nft, mut transaction: Transaction, changes: &[TableChange]) -> Result<()> {
    for change in changes {
        match change {
            TableChange::Replace { family, to, .. } => {
                match to {
                    Some(TableState::Intact(table)) => {
                        let tally = match nft.tally(*family, &table.sets) {
                            Ok(tally) => tally,
                            // No table yet, or one whose sets are others: nothing was counted.
                            Err(e) if matches!(e, NetlinkError::Malformed(_)) || e.is_absent() => Tally::new(),
                            Err(e) => return Err(KernelError::new("read the counters of", what(*family), e)),
                        };
                        transaction.replace_counting_on(table, &tally)
                    }
                    Some(TableState::Disturbed(dump)) => {
                        let raw = RawTable::from_dump(dump)
                            .map_err(std::io::Error::other)
                            .context("put back", format!("the table {} {TABLE}", family.word()))?;
                        transaction.clear(family_number(*family), TABLE).replay(&raw)
                    }
                    None => transaction.clear(family_number(*family), TABLE),
                };
            }
            TableChange::Elements { family, set, declared, remove, add } => {
                if !remove.is_empty() {
                    transaction.delete_elements(*family, set, declared, remove);
                }
                if !add.is_empty() {
                    transaction.add_elements(*family, set, declared, add);
                }
            }
        }
    }
    nft.commit(&transaction).map_err(|e| KernelError::new("change", "the ruleset", e))
}

impl From<TransactionError> for Cause {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Netlink(e) => Self::Netlink(e),
            other => Self::Rules(Box::new(other)),
        }
    }
}
