//! A network that is up, held to what its file says: what others have changed of it is changed back, by the path of `up`.

use model::facts::HostFacts;
use model::network::Network;
use model::plan::{Step, plan};
use model::state::{Baseline, State};

use super::{ApplyError, Done, Engine, PATIENCE, Prior, Report, run_number, taken};
use crate::conntrack;
use crate::journal::Record;
use crate::seek;

impl Engine {
    /// Makes the kernel carry what was applied last, as `resolve` says that it means now: an uplink may have come, or
    /// have another address, by the facts that are told with it. Nothing where nothing is up. What awaits its confirmation
    /// awaits it still.
    pub fn repair(
        &self,
        resolve: impl FnOnce(&Record) -> Option<(Network, HostFacts)>,
    ) -> Result<Option<Report>, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        let mut report = Report { recovered: self.recover()?, ..Report::default() };
        let Some(record) = self.store.record()? else { return Ok(None) };
        let (network, facts) = resolve(&record).unzip();
        let Some(network) = network.or_else(|| record.network.clone()) else { return Ok(None) };
        let (network, _told_by_up) = self.without_lost_ports(&network)?;
        let baseline = self.baseline_for(&network)?;
        let mut goal = taken::goal_of(&network, &baseline)?;
        let mut found = self.observe(&goal)?;
        if !found.conflicts.is_empty() {
            return Err(ApplyError::Conflicts(found.conflicts));
        }
        if self.quieten(&network, &baseline, &mut report)? {
            found = self.observe(&goal)?;
        }
        // It is told by the next `up`, not by every look.
        taken::leave(&mut goal, &found.state, &baseline);
        if plan(&found.state, &goal).is_empty() {
            // Somebody else's commit, or another listener on the host, is no reason for `plan` to find all of it out anew.
            if record.network.as_ref() == Some(&network) {
                self.note_whole(&network, facts.as_ref(), &baseline, &goal, found.generation)?;
            }
            return Ok(Some(report));
        }
        self.settle()?;
        let before = self.store.baseline()?;
        // A disk may take longer to be sure of a file than all the rest does.
        if before.as_ref() != Some(&baseline) {
            self.store.write_baseline(&baseline)?;
        }
        let now = Record { network: Some(network.clone()), ..record.clone() };
        let prior = Prior { run: run_number(), state: found.state, record: Some(record), baseline: before };
        let mut watch = |_: usize, _: &Step| Ok(());
        let Done { plan, seen } = self.converge(&prior, &goal, Some(&now), &mut watch, &mut None)?;
        report.done = plan;
        self.note_whole(&network, facts.as_ref(), &baseline, &goal, seen)?;
        // What `rollback` returns to is what was before the last `up`, not what somebody had broken.
        self.store.remove_journal()?;
        // What was plugged in again is there; who is behind it was asked for in vain meanwhile.
        let bridges: Vec<_> = network.lans.iter().map(|lan| lan.bridge.clone()).collect();
        let plugs = |step: &Step| matches!(step, Step::CreateLink { .. } | Step::ChangeLink { .. });
        if report.done.steps.iter().any(plugs)
            && let Err(e) = seek::ask_again(&bridges)
        {
            report.kept.push(format!("guests may be out of reach for a second: {e}"));
        }
        report.end_flows(conntrack::reconcile(&network));
        Ok(Some(report))
    }

    /// Notes it where the host was looked at, and nothing awaits its confirmation.
    fn note_whole(
        &self,
        network: &Network,
        facts: Option<&HostFacts>,
        baseline: &Baseline,
        goal: &State,
        generation: Option<u32>,
    ) -> Result<(), ApplyError> {
        if facts.is_some() && self.pending()?.is_none() {
            self.note_rest(network, facts, baseline, goal, generation);
        }
        Ok(())
    }
}
