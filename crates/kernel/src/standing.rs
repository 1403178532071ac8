//! What was found out of the host and of nf_tables, for a process that runs on: believed for as long as the kernel tells
//! of no change, instead of being found out anew for each forward more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::facts::HostFacts;
use model::ruleset::{Family, TABLE};

use crate::error::Result;
use crate::facts;
use crate::nft;
use crate::watch::{Seen, Watch, What};

/// For so long facts are believed of which nothing tells that they have changed: who manages an interface, which
/// resolvers there are. `serve` looks after the network as often.
const UNHEARD: Duration = Duration::from_secs(30);

/// What is known, in the network namespace in which it was opened.
pub struct Standing {
    watch: Watch,
    /// The name of the thread that changes our tables: what it does to them is no news.
    own: String,
    facts: Option<(Instant, HostFacts)>,
    /// The fingerprints that our tables have, and the socket that they belong to.
    tables: Option<(BTreeMap<Family, String>, Option<u32>)>,
    quiet: bool,
}

impl Standing {
    /// Knows nothing yet. `own` is the name of the thread that changes our tables, as the kernel tells it.
    pub fn open(own: &str) -> Result<Self> {
        // What overruns the buffer is heard as that anything may have changed.
        let watch = Watch::plain()?;
        Ok(Self { watch, own: own.to_owned(), facts: None, tables: None, quiet: false })
    }

    /// Forgets what may have changed since the last time. Whatever is noted after this is heard of the next time. Says
    /// whether somebody else has changed our tables, of which the elements may be others now.
    pub fn hear(&mut self) -> bool {
        let Ok(seen) = self.watch.take() else {
            (self.facts, self.tables, self.quiet) = (None, None, false);
            return false;
        };
        let mut touched = false;
        for Seen { what, by } in seen {
            match what {
                What::Table(name) if name == TABLE && by.is_some_and(|by| by.name == self.own) => {}
                What::Table(name) => {
                    (self.tables, self.quiet) = (None, false);
                    touched |= name == TABLE;
                }
                What::Unknown => (self.facts, self.tables, self.quiet) = (None, None, false),
                _ => self.facts = None,
            }
        }
        touched
    }

    /// The host's facts, by `gather` where they are not known. Sockets come and go untold, so who listens is asked anew.
    ///
    /// # Errors
    /// Those of `gather`, and the kernel's where it does not list sockets.
    pub fn facts<E: From<crate::error::KernelError>>(
        &mut self,
        gather: impl FnOnce() -> std::result::Result<HostFacts, E>,
    ) -> std::result::Result<HostFacts, E> {
        if let Some((_, known)) = self.facts.as_ref().filter(|(at, _)| at.elapsed() < UNHEARD) {
            return Ok(facts::with_listeners(known.clone())?);
        }
        let facts = gather()?;
        self.facts = Some((Instant::now(), facts.clone()));
        Ok(facts)
    }

    /// Whether our tables are known to have these fingerprints, and to belong to whom they should.
    #[must_use]
    pub fn has_tables(&self, tables: &BTreeMap<Family, String>) -> bool {
        self.tables.as_ref().is_some_and(|(known, owner)| known == tables && *owner == nft::owner())
    }

    /// They were found to have these.
    pub fn note_tables(&mut self, tables: &BTreeMap<Family, String>) {
        self.tables = Some((tables.clone(), nft::owner()));
    }

    /// Whether no chain of another's in nf_tables is known to drop anything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// None was found to.
    pub fn note_quiet(&mut self) {
        self.quiet = true;
    }
}
