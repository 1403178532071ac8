//! One forward more, without looking at all the others: added to the tables, and noted behind the record.
//!
//! Only where the file, the host and our rules are what they were when all of it was found to be good; in every other
//! case nothing is begun, and the whole way is gone. It is one nf_tables transaction, so the kernel itself sees to it
//! that all of it is done or nothing, and there is no journal: killed before it is noted, it is one element too many
//! in a set, which `check` finds and `up` and `serve` put right.

use std::path::Path;

use model::addition::Addition;
use model::facts::HostFacts;
use model::plan::{Plan, Step, undo};
use model::state::desired;

use super::{ApplyError, Engine, PATIENCE, Report, ids_of, run_number};
use crate::error::KernelError;
use crate::journal::{Added, Ground, Journal, Lock, Prior, Record, TextHash};
use crate::standing::Standing;
use crate::{conntrack, nft};

/// What is asked is one short message.
const COUNTS: usize = 4096;

/// A forward that may be added; nobody else changes the network meanwhile.
pub struct Adding<'a> {
    engine: &'a Engine,
    addition: &'a Addition,
    ground: Ground,
    text: String,
    _lock: Lock,
}

impl Engine {
    /// Whether `addition` may be made to what the file at `config` says, `text` by its hash, on a host of which `facts` are
    /// known. None where the whole way has to be gone.
    pub fn adding<'a>(
        &'a self,
        addition: &'a Addition,
        config: &Path,
        text: &TextHash,
        facts: &HostFacts,
        standing: Option<&mut Standing>,
    ) -> Result<Option<Adding<'a>>, ApplyError> {
        let lock = self.store.lock(PATIENCE)?;
        if self.store.has_unfinished() || self.has_taken_over()? {
            return Ok(None);
        }
        let Some((ground, last)) = self.store.ground() else { return Ok(None) };
        let known = ground.config == config && last == text.hex() && ground.facts == Ground::of_facts(facts);
        if !known || !self.known_to_stand(&ground, standing)? {
            return Ok(None);
        }
        let text = text.and(&addition.tail).hex();
        Ok(Some(Adding { engine: self, addition, ground, text, _lock: lock }))
    }

    /// [`Self::stand`], which who hears of changes looks at once.
    fn known_to_stand(&self, ground: &Ground, standing: Option<&mut Standing>) -> Result<bool, KernelError> {
        let Some(standing) = standing else { return self.stand(ground) };
        let known = standing.has_tables(&ground.tables);
        let stands = known || self.stand(ground)?;
        if stands && !known {
            standing.note_tables(&ground.tables);
        }
        Ok(stands)
    }

    /// Whether our tables are as we wrote them, elements apart.
    fn stand(&self, ground: &Ground) -> Result<bool, KernelError> {
        for (family, fingerprint) in &ground.tables {
            if nft::fingerprint_of(*family)?.as_ref() != Some(fingerprint) || !nft::is_kept(*family)? {
                return Ok(false);
            }
        }
        Ok(!ground.tables.is_empty())
    }

    /// Notes what one forward more may be held against from now on; `facts` are those that the network was found to be
    /// good by. Whatever hinders it, the whole way stays.
    pub(super) fn lay_ground(&self, facts: Option<&HostFacts>) {
        let Some(facts) = facts else { return };
        if let Ok(Some(record)) = self.store.recorded() {
            let _ = self.store.write_ground(&record, &Ground::of_facts(facts));
        }
    }

    /// What has come one by one is written into the record, and the last of it is what `rollback` would take back.
    pub(super) fn settle(&self) -> Result<(), ApplyError> {
        let Some(previous) = self.before_last_addition()? else { return Ok(()) };
        let record = self.store.recorded()?;
        self.store.write_previous(&previous)?;
        if let Some(record) = record {
            self.store.write_record(record)?;
        }
        Ok(())
    }

    /// What was before the last `up`, or before the last forward that came by itself.
    pub(super) fn previous(&self) -> Result<Option<Journal>, ApplyError> {
        match self.before_last_addition()? {
            None => Ok(self.store.previous()?),
            some => Ok(some),
        }
    }

    fn before_last_addition(&self) -> Result<Option<Journal>, ApplyError> {
        let Some(last) = self.store.added().pop() else { return Ok(None) };
        let Some(Record { config, mut text, network: Some(mut network), tables }) = self.store.record()? else {
            return Ok(None);
        };
        text.truncate(text.len().saturating_sub(last.tail.len()));
        network.forwards.truncate(network.forwards.len().saturating_sub(last.forwards.len()));
        let baseline = self.store.baseline()?;
        let state = desired(&network, &baseline.clone().unwrap_or_default(), &ids_of(&network)?);
        let record = Some(Record { config, text, network: Some(network), tables });
        Ok(Some(Journal { prior: Prior { run: run_number(), state, record, baseline }, plan: Plan::default() }))
    }
}

impl Adding<'_> {
    /// Adds it. Where it fails nothing was added.
    pub fn commit(self) -> Result<Report, ApplyError> {
        let Self { engine, addition, ground, text, _lock } = self;
        let mut counts = nft::Nft::open_plain(COUNTS).ok();
        let mut generation = || counts.as_mut().and_then(|nft| nft.generation().ok());
        let before = generation();
        nft::commit(&addition.changes)?;
        let follows = |after: &u32| before.is_some_and(|before| before.checked_add(1) == Some(*after));
        let commit = generation().filter(follows);
        let done = Plan { steps: vec![Step::Rules { changes: addition.changes.clone() }] };
        let added = Added { tail: addition.tail.clone(), forwards: addition.forwards.clone(), text, commit };
        // A boot brings up what the file says, unless that changes the uplink itself: then it has to know that this was
        // kept, whatever happens.
        let synced = !addition.around.uplink_bridges().is_empty();
        if let Err(e) = engine.store.add(&ground, &added, synced) {
            if let Some(Step::Rules { changes }) = undo(&done).steps.first() {
                nft::commit(changes)?;
            }
            return Err(e.into());
        }
        engine.store.write_put_back(None)?;
        let mut report = Report { done, ..Report::default() };
        let concerns = |protocol, port| addition.concerns(protocol, port);
        report.end_flows(conntrack::reconcile_some(&addition.around, concerns));
        Ok(report)
    }
}
