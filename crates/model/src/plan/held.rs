//! What of an uplink's manager changes: its files, and what it has at work on the uplink.

use std::collections::BTreeSet;

use super::{Planner, Step};
use crate::state::Side;

impl Planner<'_> {
    /// What goes to a bridge goes once that stands in the interface's place; what leaves one, before it goes.
    pub(super) fn holds(&mut self, to_bridges: bool) {
        let keys: BTreeSet<String> = self.now.holds.keys().chain(self.to.holds.keys()).cloned().collect();
        for key in keys {
            let (from, to) = (self.now.holds.get(&key).cloned(), self.to.holds.get(&key).cloned());
            if from != to && to.as_ref().is_some_and(|hold| hold.on == Side::Bridge) == to_bridges {
                self.push(Step::SetHold { from, to });
            }
        }
    }

    /// Last, when all stands that they tell of. What merely begins something comes before what it begins, and goes
    /// after it, so that a power cut in between leaves what a boot can follow.
    pub(super) fn files(&mut self) {
        let paths: BTreeSet<String> = self.now.files.keys().chain(self.to.files.keys()).cloned().collect();
        let mut paths: Vec<String> = paths.into_iter().collect();
        if !self.to.holds.values().any(|hold| hold.on == Side::Bridge) {
            paths.reverse();
        }
        for path in paths {
            let (from, to) = (self.now.files.get(&path).cloned(), self.to.files.get(&path).cloned());
            if from != to {
                self.push(Step::SetFile { path, from, to });
            }
        }
    }
}
