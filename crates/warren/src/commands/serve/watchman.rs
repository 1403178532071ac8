//! The watch over the network: what others change of it is changed back, and told.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use kernel::nft;
use kernel::watch::{BUFFER, Seen, Watch, What};
use model::repair::{Fight, Pace};
use serde::{Deserialize, Serialize};
use services::log;
use tokio::sync::mpsc;

use super::Event;
use super::jobs::NAME;
use crate::context::{Context, Failure, Source};

/// How many of the last repairs are remembered.
const REMEMBERED: usize = 20;
/// A pause in a fight is told in whole seconds, and the thread that listens wakes so often to see whether anybody still
/// wants to hear.
const WAKE: Duration = Duration::from_secs(5);

/// A repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repair {
    /// When: seconds since 1970-01-01 UTC.
    pub at: u64,
    /// How long it took from when the first change was heard, in milliseconds.
    pub took_ms: u64,
    /// What was done.
    pub steps: Vec<String>,
    /// What was heard before it, and of whom where the kernel says.
    pub causes: Vec<String>,
}

/// What the watch has done since `serve` started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Repairs {
    /// How many repairs.
    pub count: u64,
    /// How many of them followed what; one may have followed several.
    pub by_cause: Vec<Cause>,
    /// How often the services' process was started again.
    pub worker_restarts: u64,
    /// Whether others' `nft flush ruleset` passes our tables by.
    pub tables_kept: bool,
    /// The last of them, the latest last.
    pub last: VecDeque<Repair>,
}

/// What repairs followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cause {
    /// What had changed: a link, an address, a route, a rule, a switch, a table; or nothing was heard.
    pub cause: String,
    /// How many repairs.
    pub count: u64,
}

/// The watch.
pub struct Watchman {
    begun: Instant,
    pace: Pace,
    heard: BTreeSet<Seen>,
    since: Option<Instant>,
    /// Whether a look is on its way.
    looks: bool,
    /// The last trouble that was told: the same is not told again and again.
    trouble: Option<String>,
    /// What was done.
    pub repairs: Repairs,
}

/// Listens, on a thread of its own, until nobody wants to hear any more.
pub(super) fn listen(events: mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
    let mut watch = Watch::open(BUFFER)?;
    std::thread::spawn(move || {
        while !events.is_closed() {
            let event = match watch.wait(WAKE) {
                Ok(seen) if seen.is_empty() => continue,
                Ok(seen) => seen,
                Err(e) => {
                    log::error(&format!("{e}; the network is looked at each half minute all the same"));
                    return;
                }
            };
            if events.send(Event::Heard(event)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Looks, and repairs: on the thread that changes the network. The steps that it took.
pub fn look(context: &Context) -> Result<Vec<String>, String> {
    // They may have been let go for another warren's sake. That they are made anew then is nobody's fault.
    let taken_back = !nft::keeps() && nft::keep().map_err(|e| e.to_string())?;
    let engine = context.engine().map_err(|failure| failure.message)?;
    let mut untold = None;
    let report = engine.repair(|record| {
        if record.text.is_empty() {
            return None;
        }
        // Without a look at the host the file means what it meant.
        let facts = engine.facts().ok()?;
        let source = Source { path: record.config.clone(), text: record.text.clone(), warnings: Vec::new() };
        let network = source.network(&facts).map_err(|failure| untold = Some(failure.message)).ok()?;
        Some((network, facts))
    });
    match (report, untold) {
        (Ok(_), None) if taken_back => {
            log::info("the tables are this process's again");
            Ok(Vec::new())
        }
        (Err(e), _) => Err(e.to_string()),
        (Ok(Some(report)), None) => Ok(report.done.steps.iter().map(ToString::to_string).collect()),
        (Ok(Some(report)), Some(_)) if !report.done.is_empty() => {
            Ok(report.done.steps.iter().map(ToString::to_string).collect())
        }
        (Ok(_), Some(why)) => Err(format!("what the file says does not hold here any more: {why}")),
        (Ok(None), None) => Ok(Vec::new()),
    }
}

impl Watchman {
    /// From now on.
    pub fn new(tables_kept: bool) -> Self {
        Self {
            begun: Instant::now(),
            pace: Pace::default(),
            heard: BTreeSet::new(),
            since: None,
            looks: false,
            trouble: None,
            repairs: Repairs { tables_kept, ..Repairs::default() },
        }
    }

    /// Something has changed.
    pub fn heard(&mut self, seen: Vec<Seen>) {
        // Our own changes are heard as well. Those that the kernel says are ours are no reason to look: at ten thousand
        // forwards a look takes as long as a hundred forwards more.
        let others = seen.into_iter().filter(|seen| seen.by.as_ref().is_none_or(|by| by.name != NAME));
        let others: Vec<Seen> = others.collect();
        if others.is_empty() {
            return;
        }
        let before = self.heard.len();
        self.heard.extend(others);
        if self.heard.len() > before {
            self.since.get_or_insert_with(Instant::now);
        }
        self.pace.disturbed(self.begun.elapsed());
    }

    /// When the next look is due; nothing while one is on its way.
    pub fn due(&self) -> Option<Instant> {
        (!self.looks).then(|| self.begun + self.pace.due())
    }

    /// A look is on its way.
    pub fn begins(&mut self) {
        self.looks = true;
    }

    /// A look has ended. Whether something was repaired.
    pub fn looked(&mut self, result: Result<Vec<String>, String>) -> bool {
        self.looks = false;
        let (heard, since) = (std::mem::take(&mut self.heard), self.since.take());
        let took = since.map_or(Duration::ZERO, |since| since.elapsed());
        let steps = match result {
            Ok(steps) => {
                self.trouble = None;
                steps
            }
            Err(why) => {
                // What cannot be repaired is tried again as seldom as a fight.
                if let Some(Fight { pause, .. }) = self.pace.looked(self.begun.elapsed(), true)
                    && self.trouble.as_ref() != Some(&why)
                {
                    log::error(&format!(
                        "cannot repair the network: {why}\nit is tried again in {} s",
                        pause.as_secs()
                    ));
                    self.trouble = Some(why);
                } else if self.trouble.is_none() {
                    log::error(&format!("cannot repair the network: {why}"));
                    self.trouble = Some(why);
                }
                return false;
            }
        };
        let repaired = !steps.is_empty();
        let fight = self.pace.looked(self.begun.elapsed(), repaired);
        if repaired {
            self.note(steps, &heard, took);
        }
        if let Some(Fight { repairs, pause }) = fight {
            let whom = whom(&heard);
            log::warn(&format!(
                "somebody{whom} undoes what is repaired: {repairs} repairs by now; the next in {} s",
                pause.as_secs()
            ));
        }
        repaired
    }

    fn note(&mut self, steps: Vec<String>, heard: &BTreeSet<Seen>, took: Duration) {
        let causes = causes(heard);
        let why = if causes.is_empty() { String::new() } else { format!(" (heard: {})", causes.join(", ")) };
        log::warn(&format!("repaired within {} ms{why}: {}", took.as_millis(), steps.join("; ")));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.repairs.count += 1;
        let sorts: BTreeSet<&str> = heard.iter().map(|seen| seen.what.sort()).collect();
        let silent = sorts.is_empty().then_some("unheard");
        for sort in sorts.into_iter().chain(silent) {
            match self.repairs.by_cause.iter_mut().find(|cause| cause.cause == sort) {
                Some(cause) => cause.count += 1,
                None => self.repairs.by_cause.push(Cause { cause: sort.to_owned(), count: 1 }),
            }
        }
        self.repairs.last.push_back(Repair { at: now.as_secs(), took_ms: took, steps, causes });
        while self.repairs.last.len() > REMEMBERED {
            self.repairs.last.pop_front();
        }
    }
}

/// What was heard, the more telling first, and not all of it where it is much.
fn causes(heard: &BTreeSet<Seen>) -> Vec<String> {
    let (by, others): (Vec<&Seen>, Vec<&Seen>) = heard.iter().partition(|seen| seen.by.is_some());
    let others = others.into_iter().filter(|seen| !matches!(&seen.what, What::Link(name) if name.is_empty()));
    let tell = |seen: &Seen| match &seen.by {
        Some(by) => format!("{} by {by}", seen.what),
        None => seen.what.to_string(),
    };
    by.into_iter().chain(others).take(8).map(tell).collect()
}

fn whom(heard: &BTreeSet<Seen>) -> String {
    heard.iter().find_map(|seen| seen.by.as_ref()).map(|by| format!(", it may be {by},")).unwrap_or_default()
}
