//! What of an uplink's manager changes: its files, and what it has at work on the uplink.

use std::collections::BTreeSet;

use super::{Planner, Step};
use crate::state::{Hold, Side};

impl Planner<'_> {
    /// What begins anew by its files is at work nowhere while they, and the interface, change.
    pub(super) fn pause(&mut self) {
        for (key, from, to) in self.moving(true) {
            let Some(hold) = from.as_ref().or(to.as_ref()) else { continue };
            let between = Hold { on: Side::Between, ..hold.clone() };
            self.begun.insert(key, to);
            self.push(Step::SetHold { from, to: Some(between) });
        }
    }

    /// What was paused.
    pub(super) fn begin_anew(&mut self) {
        for (key, to) in std::mem::take(&mut self.begun) {
            let from = self.now.holds.get(&key).cloned();
            self.push(Step::SetHold { from, to });
        }
    }

    /// What is to be elsewhere than it is: those that begin anew, or those that move in one step.
    fn moving(&self, anew: bool) -> Vec<(String, Option<Hold>, Option<Hold>)> {
        let keys: BTreeSet<&String> = self.now.holds.keys().chain(self.to.holds.keys()).collect();
        let moves = keys.into_iter().map(|key| (key, self.now.holds.get(key), self.to.holds.get(key)));
        let is_it = |hold: &Hold| hold.holder.begins_anew() == anew;
        moves
            .filter(|(_, from, to)| from != to && from.or(*to).is_some_and(is_it))
            .map(|(key, from, to)| (key.clone(), from.cloned(), to.cloned()))
            .collect()
    }

    /// What goes to a bridge goes once that stands in the interface's place; what leaves one, before it goes.
    pub(super) fn holds(&mut self, to_bridges: bool) {
        for (_, from, to) in self.moving(false) {
            if to.as_ref().is_some_and(|hold| hold.on == Side::Bridge) == to_bridges {
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
