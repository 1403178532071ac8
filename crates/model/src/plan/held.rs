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
            let reads = to.as_ref().or(from.as_ref()).is_some_and(|hold| hold.holder.reads_files());
            if !reads && to.as_ref().is_some_and(|hold| hold.on == Side::Bridge) == to_bridges {
                self.push(Step::SetHold { from, to });
            }
        }
    }

    /// Who reads the files by itself would plug an interface in again, or take off it what comes back to it: it leaves
    /// that one alone meanwhile.
    pub(super) fn let_go(&mut self) {
        for (key, from) in self.now.holds.clone().into_iter().filter(|(_, hold)| hold.holder.reads_files()) {
            let stays = self.to.holds.get(&key).is_some_and(|hold| hold.on == Side::Bridge);
            let leaves = self.now.ports.contains_key(&from.port) && !self.to.ports.contains_key(&from.port);
            let meanwhile = Hold { on: Side::Between, ..from.clone() };
            if !stays && (from.on == Side::Bridge || leaves) && self.to.holds.get(&key) != Some(&meanwhile) {
                self.push(Step::SetHold { from: Some(from), to: Some(meanwhile) });
            }
        }
    }

    fn each_hold(&mut self, goes: impl Fn(Option<&Hold>, Option<&Hold>) -> bool) {
        let keys: BTreeSet<String> = self.now.holds.keys().chain(self.to.holds.keys()).cloned().collect();
        for key in keys {
            let (from, to) = (self.now.holds.get(&key).cloned(), self.to.holds.get(&key).cloned());
            if goes(from.as_ref(), to.as_ref()) {
                self.push(Step::SetHold { from, to });
            }
        }
    }

    /// Who reads the files by itself is told of them: when they are written, and again when they are written anew.
    pub(super) fn readers(&mut self) {
        let written: BTreeSet<String> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::SetFile { path, .. } => Some(path.clone()),
                _ => None,
            })
            .collect();
        self.each_hold(|from, to| {
            let Some(hold) = to.or(from) else { return false };
            let is_written = || hold.holder.files_of(&hold.bridge).iter().any(|path| written.contains(path));
            hold.holder.reads_files() && (from != to || (hold.on == Side::Bridge && is_written()))
        });
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
