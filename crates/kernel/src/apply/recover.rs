//! Back to what a journal says was there before: after a run that did not end, after one that nobody confirmed, and
//! because somebody asks for it. One way for all: `plan(observe(), what was)`.

use std::collections::BTreeMap;

use model::network::Network;
use model::plan::{Plan, Step, plan};
use model::state::{Baseline, State, TakenFile, TakenOver, leave_edited};

use super::{ApplyError, Engine, PATIENCE, ROUNDS};
use crate::conntrack;
use crate::execute::Executor;
use crate::journal::{Journal, NewJournal, Pending, Prior, Record, StoreError};

/// What putting back did.
#[derive(Debug, Default)]
pub struct PutBack {
    /// The steps.
    pub done: Plan,
    /// What an earlier run, that did not end, had left, and what became of it.
    pub recovered: Option<String>,
    /// What is up again; nothing where nothing was.
    pub record: Option<Record>,
    /// What was up until then.
    pub undone: Option<Network>,
    /// How many flows ended that are no longer permitted.
    pub flows_ended: usize,
    /// What could not be looked through or noted; the network is put back all the same.
    pub notes: Vec<String>,
}

impl Engine {
    /// Puts back what was before the last `up`. Nothing where there is no `up` to be put back.
    pub fn rollback(&self) -> Result<Option<PutBack>, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        let recovered = self.recover()?;
        let Some(previous) = self.previous()? else {
            // An `up` that did not end, or whose time was over, was the last one, and is put back by now.
            let record = self.store.record()?;
            let put_back = recovered.is_some();
            return Ok(put_back.then_some(PutBack { recovered, record, ..PutBack::default() }));
        };
        let back = self.return_to(&previous)?;
        Ok(Some(PutBack { recovered, ..back }))
    }

    /// Undoes what a run that did not end had begun, and what nobody has confirmed in time; says so.
    pub(super) fn recover(&self) -> Result<Option<String>, ApplyError> {
        crate::takeover::adopt(&self.store.taken()?)?;
        let unfinished = self.recover_journal()?;
        let overdue = match self.pending()? {
            Some(pending) => self.judge(&pending)?,
            None => None,
        };
        Ok(match (unfinished, overdue) {
            (Some(a), Some(b)) => Some(format!("{a}; {b}")),
            (a, b) => a.or(b),
        })
    }

    fn recover_journal(&self) -> Result<Option<String>, ApplyError> {
        let journal = match self.store.journal() {
            Ok(None) => return Ok(None),
            Ok(Some(journal)) => journal,
            Err(StoreError::Damaged { path, why }) => {
                // It is written before the first step: torn, nothing was done.
                self.store.remove_journal()?;
                return Ok(Some(format!(
                    "{} was torn ({why}): an earlier run was ended before its first step",
                    path.display()
                )));
            }
            Err(e) => return Err(e.into()),
        };
        let done = self.converge_back(&journal)?;
        self.forget(&journal.prior)?;
        if self.pending()?.is_some_and(|pending| pending.prior.run == journal.prior.run) {
            // Whoever was to confirm it has nothing to confirm any more.
            self.store.write_pending(None)?;
        }
        Ok(Some(format!("an earlier run was ended on its way; undone, in {} steps", done.steps.len())))
    }

    /// Puts back what was before the `up` that was not confirmed in time, if its time is over.
    fn judge(&self, pending: &Pending) -> Result<Option<String>, ApplyError> {
        if self.store.previous()?.is_none_or(|previous| previous.prior.run != pending.prior.run) {
            // It was ended before its first step, or undone: there is nothing to be put back.
            self.store.write_pending(None)?;
            return Ok(None);
        }
        if pending.left().is_some() {
            return Ok(None);
        }
        self.put_back_unconfirmed(pending).map(Some)
    }

    /// The same, whatever has become of our files.
    pub(super) fn put_back_unconfirmed(&self, pending: &Pending) -> Result<String, ApplyError> {
        let back = self.return_to(&Journal { prior: pending.prior.clone(), plan: Plan::default() })?;
        let why = format!(
            "the last `up` was not confirmed within {} s: what was before it is back, by {} steps",
            pending.seconds,
            back.done.steps.len()
        );
        self.store.write_put_back(Some(&why))?;
        Ok(why)
    }

    /// The kernel, and our files, as they were before the run of `previous`.
    fn return_to(&self, previous: &Journal) -> Result<PutBack, ApplyError> {
        let undone = self.store.record()?;
        let mut notes = Vec::new();
        // Killed on the way, the next run goes on. A disk that takes no writing must not keep the network from coming
        // back.
        if let Err(e) = self.store.write_journal(&NewJournal { prior: &previous.prior, plan: &previous.plan }) {
            notes.push(e.to_string());
        }
        let done = self.converge_back(previous)?;
        let files = [self.refuse(undone.as_ref(), &previous.prior), self.forget(&previous.prior)];
        let files = files.into_iter().chain([self.store.remove_previous(), self.store.write_pending(None)]);
        notes.extend(files.filter_map(|result| result.err().map(|e| e.to_string())));
        let undone = undone.and_then(|record| record.network);
        let record = previous.prior.record.clone();
        let ended = match (record.as_ref().and_then(|record| record.network.as_ref()), &undone) {
            (Some(network), _) => conntrack::reconcile(network),
            (None, Some(network)) => conntrack::end_all(network),
            (None, None) => Ok(0),
        };
        let flows_ended = ended.unwrap_or_else(|e| {
            notes.push(format!("flows that are no longer permitted may live on: {e}"));
            0
        });
        Ok(PutBack { done, recovered: None, record, undone, flows_ended, notes })
    }

    /// What was put back does not come up at the next boot, and what was before it does.
    fn refuse(&self, undone: Option<&Record>, prior: &Prior) -> Result<(), StoreError> {
        let mut boot = self.store.boot()?;
        let Some(undone) = undone.filter(|record| !record.text.is_empty()) else { return Ok(()) };
        boot.refused = Some(crate::journal::fingerprint(&undone.text));
        if boot.has_confirmed(&undone.text) {
            boot.confirmed = prior.record.as_ref().and_then(super::confirm::kept);
        }
        self.store.write_boot(&boot)
    }

    /// What was, with every switch that has to be looked at: those that the run changed, and those that runs after it
    /// did.
    fn wanted(&self, journal: &Journal) -> Result<State, ApplyError> {
        let mut wanted = journal.prior.state.clone();
        for step in &journal.plan.steps {
            if let Step::SetSysctl { sysctl, from: Some(from), .. } = step {
                wanted.sysctls.entry(sysctl.clone()).or_insert_with(|| from.clone());
            }
        }
        let known = [self.store.baseline()?, journal.prior.baseline.clone()].into_iter().flatten();
        for (sysctl, value) in known.flat_map(|baseline| baseline.sysctls) {
            wanted.sysctls.entry(sysctl).or_insert(value);
        }
        Ok(wanted)
    }

    /// Every file that was taken over, by then or since.
    fn taken_by(&self, journal: &Journal) -> Result<BTreeMap<String, TakenFile>, StoreError> {
        let known = [journal.prior.baseline.clone(), self.store.baseline()?];
        let all = known.iter().flatten().flat_map(Baseline::files);
        Ok(all.map(|(path, file)| (path.clone(), file.clone())).collect())
    }

    /// Goes on past what fails: as much as can be is put back, and what is left is told.
    fn converge_back(&self, journal: &Journal) -> Result<Plan, ApplyError> {
        let mut wanted = self.wanted(journal)?;
        let look = &look(&wanted, journal);
        let taken = self.taken_by(journal)?;
        // Once put back, our tables are known by what the record of then says of them.
        let then = journal.prior.record.clone().unwrap_or_default();
        let mut record = self.store.record()?.unwrap_or_default();
        let mut executor = Executor::new()?;
        let mut done = Plan::default();
        let mut troubles = Vec::new();
        for _ in 0..ROUNDS {
            let seen = self.observe_by(look, Some(&record))?.state;
            leave_edited(&mut wanted, &seen, &taken);
            let back = plan(&seen, &wanted);
            record.clone_from(&then);
            if back.is_empty() {
                return Ok(done);
            }
            troubles.clear();
            executor.foresee(&back.steps);
            let mut left = back.steps.as_slice();
            while !left.is_empty() {
                let (now, later) = left.split_at(Executor::together(left));
                left = later;
                match executor.steps(now) {
                    Ok(()) => done.steps.extend_from_slice(now),
                    Err(e) => troubles.push(format!("{}: {e}", now[0])),
                }
            }
        }
        let left = plan(&self.observe_by(look, Some(&record))?.state, &wanted);
        if left.is_empty() {
            return Ok(done);
        }
        if troubles.is_empty() {
            troubles = left.steps.iter().map(|step| format!("somebody changes it at the same time: {step}")).collect();
        }
        Err(ApplyError::NotPutBack(troubles))
    }
}

/// What the run had plugged in, and given to a bridge, is told from what stands there otherwise by its plan alone.
fn look(wanted: &State, journal: &Journal) -> State {
    let mut look = wanted.clone();
    for step in &journal.plan.steps {
        match step {
            Step::PlugPort { name, port } | Step::UnplugPort { name, port } => {
                look.ports.entry(name.clone()).or_insert_with(|| port.clone());
            }
            Step::AddAddress { address } | Step::DeleteAddress { address } => {
                look.addresses.insert(address.clone());
            }
            // A zone of another's is only looked at by name.
            Step::SetFile { path, .. } => {
                look.files.entry(path.clone()).or_default();
            }
            Step::SetHold { from, to } => {
                if let Some(hold) = from.as_ref().or(to.as_ref()) {
                    look.holds.entry(TakenOver::key(&hold.holder, &hold.port)).or_insert_with(|| hold.clone());
                }
            }
            Step::AddMend { mend } | Step::DeleteMend { mend } => {
                look.mends.insert(mend.clone());
            }
            _ => {}
        }
    }
    look
}
