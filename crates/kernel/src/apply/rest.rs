//! Whether all is still as it was when nothing was left to be done, found out without the file being read anew.
//!
//! What can be is told by the kernel itself: the number of nf_tables' last commit stays for as long as nobody commits
//! anything, so our tables need not be told with all of their elements. All else is looked at as ever.

use std::collections::BTreeMap;
use std::path::Path;

use model::facts::HostFacts;
use model::network::Network;
use model::plan::plan;
use model::state::{Baseline, Ids, State};

use super::{ApplyError, Engine, ids_of};
use crate::journal::{Found, Rest};
use crate::nft;
use crate::observe::{Look, Observation};

impl Engine {
    /// What stood when nothing was left to be done for the file at `config`, which says `text`. None where that is not
    /// known, or somebody has changed a firewall since.
    pub fn rest(&self, config: &Path, text: &str) -> Result<Option<Rest>, ApplyError> {
        if self.has_taken_over()? {
            return Ok(None);
        }
        let rest = self.store.rest(config, text)?;
        Ok(rest.filter(|rest| nft::generation().is_ok_and(|now| now == rest.generation)))
    }

    /// Looks at the kernel, at our tables only where `tables` says so.
    pub fn look_where(&self, tables: impl FnOnce() -> bool + Send) -> Result<Look, ApplyError> {
        Look::take(|| {
            if !tables() {
                return Ok(None);
            }
            let record = self.store.recorded()?;
            Ok(Some(record.map_or_else(BTreeMap::new, |record| record.tables.clone())))
        })
    }

    /// Whether `look`, which passed our tables by, shows all else as it was then. What is not so, or in the way, is for
    /// [`Self::survey`] to say.
    pub fn is_at_rest(&self, rest: &Rest, look: Look) -> Result<bool, ApplyError> {
        let Observation { state, conflicts, .. } = look.judged(&rest.goal)?;
        let unchanged = conflicts.is_empty() && plan(&state, &rest.goal).is_empty();
        // A commit that came meanwhile may have been about our tables.
        Ok(unchanged && nft::generation().is_ok_and(|now| now == rest.generation))
    }

    /// Notes that nothing is left to be done for `network`, which was found to be good by `facts`. Whatever hinders it, the
    /// whole way stays.
    pub(super) fn note_rest(
        &self,
        network: &Network,
        facts: Option<&HostFacts>,
        baseline: &Baseline,
        goal: &State,
        generation: Option<u32>,
    ) {
        // What others' rules, files and interfaces have to do with it is found out each time.
        let others =
            network.mends.is_empty() && goal.mends.is_empty() && goal.files.is_empty() && goal.holds.is_empty();
        let plain = others && network.lans.iter().all(|lan| lan.outer.is_none());
        let unnamed = ids_of(network).is_ok_and(|ids| ids == Ids::default());
        let noted = match (facts, generation) {
            (Some(facts), Some(generation)) if plain && unnamed && baseline.taken.is_empty() => {
                let found = Found { facts, network, baseline, goal, generation };
                self.store.has_rest(&found).and_then(|has| if has { Ok(()) } else { self.store.write_rest(&found) })
            }
            _ => self.store.forget_rest(),
        };
        // It is believed only beside the very record that it was made with.
        let _ = noted;
    }
}
