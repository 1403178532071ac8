//! What of an interface's own manager is rewritten while a bridge of ours takes the interface's place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Baseline, PortWas, State};
use crate::address::IfName;
use crate::manager::{Holder, Manager};

/// Something at work on an interface that has to be at work on the bridge in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The interface.
    pub port: IfName,
    /// The bridge.
    pub bridge: IfName,
    /// What is at work.
    pub holder: Holder,
    /// Where it is.
    pub on: Side,
}

/// Where a [`Hold`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// On the interface.
    Port,
    /// On the bridge.
    Bridge,
    /// On none, or on both: it was ended on its way, or leaves both alone for as long as they change.
    Between,
}

/// What was taken over of an interface's manager: remembered beyond a boot, since the files outlive it. It is believed
/// of a file only while that is what we wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// The manager.
    pub by: Manager,
    /// The bridge that takes the interface's place.
    pub bridge: IfName,
    /// What the interface was before.
    pub was: PortWas,
    /// Its files, by path.
    pub files: BTreeMap<String, TakenFile>,
    /// What is at work on it, as it was on the interface.
    pub holders: Vec<Holder>,
}

/// A file of a manager's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFile {
    /// Its text before the first touch; nothing where there was no file.
    pub before: Option<String>,
    /// Every text that we wrote, the last one last.
    pub wrote: Vec<String>,
}

impl TakenFile {
    /// Whether the text is one that we know how to put back.
    #[must_use]
    pub fn knows(&self, text: Option<&String>) -> bool {
        text == self.before.as_ref() || text.is_some_and(|text| self.wrote.contains(text))
    }
}

impl TakenOver {
    /// Whether something of it is stopped while it is given to the bridge, or back.
    #[must_use]
    pub fn begins_anew(&self) -> bool {
        self.holders.iter().any(Holder::begins_anew)
    }

    /// How its holders' records are called in a state.
    #[must_use]
    pub fn key(holder: &Holder, port: &IfName) -> String {
        format!("{} of {port}", holder.word())
    }

    /// Its holders on that side.
    pub fn holds(&self, port: &IfName, on: Side) -> impl Iterator<Item = (String, Hold)> {
        self.holders.iter().map(move |holder| {
            let hold = Hold { port: port.clone(), bridge: self.bridge.clone(), holder: holder.clone(), on };
            (Self::key(holder, port), hold)
        })
    }
}

impl Baseline {
    /// Every file that was taken over, by path.
    pub fn files(&self) -> impl Iterator<Item = (&String, &TakenFile)> {
        self.taken.values().flat_map(|taken| &taken.files)
    }
}

/// Leaves in `goal` every file as it was `seen` that somebody else has written since, or that nobody knows; says which of
/// them would have been changed. Where a goal says nothing of a file, it is what it was before the first touch.
pub fn leave_edited<'a>(
    goal: &mut State,
    seen: &State,
    known: impl IntoIterator<Item = (&'a String, &'a TakenFile)>,
) -> BTreeSet<String> {
    let known: BTreeMap<&String, &TakenFile> = known.into_iter().collect();
    let paths: BTreeSet<String> = goal.files.keys().chain(seen.files.keys()).cloned().collect();
    let mut left = BTreeSet::new();
    for path in paths {
        let (now, file) = (seen.files.get(&path), known.get(&path));
        let then = goal.files.get(&path).or_else(|| file.and_then(|file| file.before.as_ref()));
        let is_left = now != then && !file.is_some_and(|file| file.knows(now));
        match if is_left { now.cloned() } else { then.cloned() } {
            Some(text) => goal.files.insert(path.clone(), text),
            None => goal.files.remove(&path),
        };
        if is_left {
            left.insert(path);
        }
    }
    left
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, bridge, holder, on } = self;
        if *on == Side::Between && holder.reads_files() {
            return write!(f, "{} leaves {port} alone meanwhile", holder.words());
        }
        write!(f, "{} ", holder.words())?;
        match on {
            Side::Port => write!(f, "on {port}"),
            Side::Bridge => write!(f, "on {bridge} in place of {port}"),
            Side::Between => write!(f, "on neither or both of {port} and {bridge}"),
        }
    }
}
