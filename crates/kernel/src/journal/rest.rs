//! What stood when nothing was left to be done: what the file said, what was known of the host, what was wanted, and the
//! number of nf_tables' last commit. For as long as these are the same, a look at the kernel beside what was wanted says
//! that nothing is to be done, without the file being read, the network resolved or tens of thousands of elements told.

use std::path::{Path, PathBuf};

use model::facts::HostFacts;
use model::network::Network;
use model::state::{Baseline, State};
use serde::{Deserialize, Serialize};

use super::additions::first_line;
use super::version::Version;
use super::{BASELINE, Ground, RECORD, Result, Store, fingerprint, remove};

const REST: &str = "rest.json";

/// What stood then.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rest {
    /// Of the record, and of what was before the first touch: their checksums.
    record: String,
    baseline: Option<String>,
    /// Which program found it so: another one may make something else of the same file.
    program: Version,
    config: PathBuf,
    /// The SHA-256 of what the file said, and of what was known of the host.
    text: String,
    facts: String,
    /// The number of nf_tables' last commit.
    pub generation: u32,
    /// What was wanted, but for our tables.
    pub goal: State,
    /// What the file meant, but for its forwards, which are in our tables alone.
    pub network: Network,
}

impl Rest {
    /// Whether the same is known of the host as then, but for what `up` changes of it.
    #[must_use]
    pub fn is_on(&self, facts: &HostFacts) -> bool {
        self.facts == lasting(facts)
    }
}

/// What a [`Rest`] is made of.
pub struct Found<'a> {
    /// What was known of the host when the file was read.
    pub facts: &'a HostFacts,
    /// What the file means.
    pub network: &'a Network,
    /// What was before the first touch, as the goal knows it.
    pub baseline: &'a Baseline,
    /// What is wanted, and is.
    pub goal: &'a State,
    /// The number of nf_tables' last commit before and after that was found.
    pub generation: u32,
}

impl Store {
    /// Whether that is noted already.
    pub fn has_rest(&self, found: &Found) -> Result<bool> {
        let Some(record) = self.recorded()? else { return Ok(false) };
        let rest = self.rest(&record.config, &record.text)?;
        Ok(rest.is_some_and(|rest| rest.generation == found.generation && rest.is_on(found.facts)))
    }

    /// Notes that nothing is left to be done. Nothing is noted where the baseline that is kept is another.
    pub fn write_rest(&self, found: &Found) -> Result<()> {
        let Some(record) = self.recorded()? else { return Ok(()) };
        let (sum, program) = (first_line(&self.run.join(RECORD)), own_program());
        let (Some(sum), Some(program)) = (sum, program) else { return Ok(()) };
        let added = !self.added().is_empty();
        if self.baseline()?.unwrap_or_default() != *found.baseline || record.text.is_empty() || added {
            return Ok(());
        }
        let network = Network { forwards: Vec::new(), ..found.network.clone() };
        let rest = Rest {
            record: sum,
            baseline: first_line(&self.state.join(BASELINE)),
            program,
            config: record.config.clone(),
            text: fingerprint(&record.text),
            facts: lasting(found.facts),
            generation: found.generation,
            goal: found.goal.clone_without_tables(),
            network,
        };
        self.write_passing(REST, &rest)
    }

    /// What stood when nothing was left to be done for the file at `config`, which says `text`; nothing where any of our
    /// files, or the program, is another by now. Forwards that came one by one since, and nothing else meanwhile, are in it.
    pub fn rest(&self, config: &Path, text: &str) -> Result<Option<Rest>> {
        let Some(mut rest): Option<Rest> = self.undamaged(&self.run.join(REST))? else { return Ok(None) };
        for added in self.added() {
            let next = rest.generation.checked_add(1);
            let Some(commit) = added.commit.filter(|commit| next == Some(*commit)) else { return Ok(None) };
            (rest.generation, rest.text) = (commit, added.text);
        }
        let same = rest.config == config
            && Some(&rest.record) == first_line(&self.run.join(RECORD)).as_ref()
            && rest.baseline == first_line(&self.state.join(BASELINE))
            && Some(rest.program) == own_program()
            && !self.has_unfinished()
            && rest.text == fingerprint(text);
        Ok(same.then_some(rest))
    }

    /// Something is to be done, or nothing is up any more.
    pub fn forget_rest(&self) -> Result<()> {
        remove(&self.run.join(REST))
    }
}

fn lasting(facts: &HostFacts) -> String {
    Ground::of_facts(&facts.lasting())
}

fn own_program() -> Option<Version> {
    Version::of(Path::new("/proc/self/exe"))
}
