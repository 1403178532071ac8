//! What is, beside what should be.

use std::collections::BTreeMap;

use model::network::Network;
use model::plan::{Plan, plan};
use model::state::{Baseline, Ids, State, leave_edited, nothing, without_rules};

use super::{ApplyError, Engine, taken};
use crate::journal::Record;
use crate::observe::{Conflict, Look, Observation, observe};

/// What would have to be done.
#[derive(Debug)]
pub struct Survey {
    /// What is ours, as it is.
    pub observed: State,
    /// What should be.
    pub desired: State,
    /// The difference.
    pub plan: Plan,
    /// What stands in the way.
    pub conflicts: Vec<Conflict>,
}

impl Engine {
    /// What `up` would do for `network`; changes nothing.
    pub fn survey(&self, network: &Network) -> Result<Survey, ApplyError> {
        self.survey_beside(network, || self.look())
    }

    /// Looks at the kernel, for [`Self::survey_beside`].
    pub fn look(&self) -> Result<Look, ApplyError> {
        self.look_where(|| true)
    }

    /// As [`Self::survey`], of a kernel that this engine looks at elsewhere meanwhile: `looked` waits for that.
    pub fn survey_beside(
        &self,
        network: &Network,
        looked: impl FnOnce() -> Result<Look, ApplyError>,
    ) -> Result<Survey, ApplyError> {
        let baseline = self.baseline_for(network)?;
        let goal = taken::goal_of(network, &baseline)?;
        self.survey_state(goal, &baseline, looked()?)
    }

    /// What `down` would do; changes nothing.
    pub fn survey_down(&self) -> Result<Survey, ApplyError> {
        let baseline = self.store.baseline()?.unwrap_or_default();
        self.survey_state(nothing(&baseline), &baseline, self.look()?)
    }

    fn survey_state(&self, mut desired: State, baseline: &Baseline, look: Look) -> Result<Survey, ApplyError> {
        let record = self.store.recorded()?;
        let wanted = self.to_look_at(&desired, record.as_deref())?;
        let Observation { state: observed, conflicts, .. } = look.judged(&wanted)?;
        leave_edited(&mut desired, &observed, baseline.files());
        let plan = plan(&observed, &desired);
        Ok(Survey { observed, desired, plan, conflicts })
    }

    /// Looks at what `wanted` names, and at the switches of what was applied last: what goes with a link of ours must
    /// be known to be put back with it.
    pub(super) fn observe(&self, wanted: &State) -> Result<Observation, ApplyError> {
        self.observe_by(wanted, self.store.recorded()?.as_deref())
    }

    /// The same where `record` is what was applied last.
    pub(super) fn observe_by(&self, wanted: &State, record: Option<&Record>) -> Result<Observation, ApplyError> {
        let wanted = self.to_look_at(wanted, record)?;
        Ok(observe(&wanted, record.map_or(&BTreeMap::new(), |record| &record.tables))?)
    }

    /// What `wanted` names, with what `record` had.
    fn to_look_at(&self, wanted: &State, record: Option<&Record>) -> Result<State, ApplyError> {
        let mut wanted = wanted.clone_without_tables();
        let baseline = self.store.baseline()?.unwrap_or_default();
        taken::look_at(&mut wanted, &baseline);
        let Some(network) = record.and_then(|record| record.network.as_ref()) else { return Ok(wanted) };
        let applied = without_rules(network, &baseline, &Ids::default());
        for (sysctl, value) in applied.sysctls {
            wanted.sysctls.entry(sysctl).or_insert(value);
        }
        wanted.mends.extend(applied.mends);
        // What we put on a bridge that an interface's addresses stand on, too.
        wanted.addresses.extend(applied.addresses);
        for (name, port) in applied.ports {
            wanted.ports.entry(name).or_insert(port);
        }
        wanted.files.extend(applied.files);
        for (key, hold) in applied.holds {
            wanted.holds.entry(key).or_insert(hold);
        }
        Ok(wanted)
    }
}
