//! From what is to what should be: one lock, one journal, one plan, done in order; undone where it fails; looked at
//! again when it is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::facts::HostFacts;
use model::network::{GuestKind, Network};
use model::plan::{Plan, Step, plan, undo};
use model::state::{Baseline, Ids, IpFamilyWord, PortWas, State, Sysctl, TableState, nothing, without_rules};

use crate::conntrack;
use crate::error::KernelError;
use crate::execute::Executor;
use crate::journal::{NewJournal, Prior, Record, Store, StoreError, WrittenTable, boot_clock};
use crate::observe::{Conflict, Observation, observe_limits, switches};
use crate::takeover::adopt;
use crate::{carry, nft, tap, unmanaged};

mod add;
mod confirm;
mod recover;
mod repair;
mod rest;
mod survey;
mod taken;
pub use add::Adding;
pub use confirm::{Answer, Confirm, Vigil};
pub use recover::PutBack;
pub use survey::Survey;

/// How long one warren waits for another.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a plan is made and done before what is seen must be what was wanted. Twice is for what the kernel takes
/// along (a secondary address that goes with its primary); more would be a fight.
const ROUNDS: usize = 3;

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Something of another's has a name that we need. Nothing was changed.
    #[error("{}", .0.iter().map(|c| format!("{} is in the way: {}", c.object, c.detail)).collect::<Vec<_>>().join("\n"))]
    Conflicts(Vec<Conflict>),
    /// The kernel could not be looked at. Nothing was changed.
    #[error(transparent)]
    Observe(#[from] KernelError),
    /// A file of ours. Nothing was changed, or all was done.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A step failed.
    #[error("{cause}\nwhile doing: {step}\n{}", restored(.leftovers))]
    Step {
        /// The step.
        step: Box<Step>,
        /// Its place in the plan, from 0.
        index: usize,
        /// Why.
        cause: Box<StepError>,
        /// What could not be put back; empty where all was.
        leftovers: Vec<String>,
    },
    /// The kernel could not be looked at, or a file of ours not be written, on the way.
    #[error("{cause}\n{}", restored(.leftovers))]
    Interrupted {
        /// Why.
        cause: Box<ApplyError>,
        /// What could not be put back.
        leftovers: Vec<String>,
    },
    /// All steps were done, and yet the kernel is not what it should be: somebody else changes it at the same time.
    #[error("somebody changes the network while we do; still to be done after {ROUNDS} rounds:\n{left}\n{}", restored(.leftovers))]
    Unsettled {
        /// What is left.
        left: Plan,
        /// What could not be put back.
        leftovers: Vec<String>,
    },
    /// The network was changed, and then what must hold did not.
    #[error("{why}\n{}", restored(.leftovers))]
    Lost {
        /// What did not hold.
        why: String,
        /// What could not be put back.
        leftovers: Vec<String>,
    },
    /// What would put the network back if nobody confirms could not be started. Nothing was changed.
    #[error("nobody would watch over the change: {0}")]
    Unwatched(String),
    /// The last `up` awaits its confirmation.
    #[error(
        "the last `up` awaits its confirmation for another {left} s\nkeep it by `warren confirm`, or put back what was by `warren rollback`, and try again"
    )]
    Pending {
        /// In seconds.
        left: u64,
    },
    /// What was could not be put back, or not all of it. The journal tells the next run to try again.
    #[error("what was could not be put back:\n{}", .0.join("\n"))]
    NotPutBack(Vec<String>),
    /// Another file's network is up.
    #[error("the network that is up comes from {running}; `warren down` first, or `warren up --replace`")]
    OtherConfig {
        /// That file.
        running: String,
    },
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Whoever watches stopped it.
    #[error("{0}")]
    Stopped(String),
}

fn restored(leftovers: &[String]) -> String {
    if leftovers.is_empty() {
        "restored: the network is as it was before".to_owned()
    } else {
        format!("NOT restored, and left as it is:\n{}", leftovers.join("\n"))
    }
}

/// Is called before each step, with its place in the plan; what it refuses fails as if the kernel had refused.
pub type Watch<'a> = &'a mut dyn FnMut(usize, &Step) -> Result<(), String>;

/// What `up` or `down` did.
#[derive(Debug, Default)]
pub struct Report {
    /// The steps, in order; empty where nothing had to be done.
    pub done: Plan,
    /// What an earlier run, that did not end, had left, and what became of it.
    pub recovered: Option<String>,
    /// How many flows ended that are no longer permitted.
    pub flows_ended: usize,
    /// How long it waits for its confirmation; nothing where it needs none.
    pub confirm: Option<Duration>,
    /// What was left: switches that found another user meanwhile, and why.
    pub kept: Vec<String>,
}

impl Report {
    /// The network stands by now, so flows that could not be looked through are told, and no failure of it.
    fn end_flows(&mut self, ended: Result<usize, KernelError>) {
        match ended {
            Ok(count) => self.flows_ended = count,
            Err(e) => self.kept.push(format!("flows that are no longer permitted may live on: {e}")),
        }
    }
}

/// What `up` is asked for.
pub struct Wish<'a> {
    /// The network.
    pub network: &'a Network,
    /// The file that it comes from.
    pub config: &'a Path,
    /// What the file says; empty where nothing of it shall be remembered for the next boot.
    pub text: &'a str,
    /// What was known of the host when the network was found to be good, where it is remembered for one forward more.
    pub facts: Option<&'a HostFacts>,
    /// Whether another file's network is taken over.
    pub replace: bool,
    /// Whether an interface that cannot be plugged in, for the sake of others' rules that name it, is left out of it all
    /// the same. At a boot nobody is there to mend those, and what they keep open is how one comes to mend them.
    pub lenient: bool,
    /// How it is watched over, where it shall be put back unless it is confirmed.
    pub confirm: Option<Confirm<'a>>,
}

/// The network of one namespace: that of the thread that uses it.
pub struct Engine {
    store: Store,
}

impl Engine {
    /// With its files in these folders.
    pub fn new(state: &Path, run: &Path) -> Result<Self, ApplyError> {
        Ok(Self { store: Store::new(state, run)? })
    }

    /// What was applied last.
    pub fn record(&self) -> Result<Option<Record>, ApplyError> {
        Ok(self.store.record()?)
    }

    /// Whether an earlier run did not end.
    pub fn is_unfinished(&self) -> Result<bool, ApplyError> {
        match self.store.journal() {
            Ok(journal) => Ok(journal.is_some()),
            Err(StoreError::Damaged { .. }) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the kernel carry `network`: all, or nothing. Nothing of it is remembered for the next boot.
    pub fn up(&self, network: &Network, config: &Path, replace: bool, watch: Watch) -> Result<Report, ApplyError> {
        self.carry(Wish { network, config, text: "", facts: None, replace, lenient: false, confirm: None }, watch)
    }

    /// The same, remembered for the next boot, and watched over where that is wished for.
    pub fn carry(&self, wish: Wish, watch: Watch) -> Result<Report, ApplyError> {
        let Wish { network, config, text, facts, replace, lenient, mut confirm } = wish;
        let _lock = self.store.lock(PATIENCE)?;
        let mut report = Report { recovered: self.recover()?, ..Report::default() };
        if let Some(running) =
            self.store.recorded()?.map(|r| r.config.clone()).filter(|running| running != config && !replace)
        {
            return Err(ApplyError::OtherConfig { running: running.display().to_string() });
        }
        self.settle()?;
        let known = self.store.baseline()?;
        let without = if lenient { Some(self.without_lost_ports(network)?) } else { None };
        let network = without.as_ref().map_or(network, |(without, _)| without);
        report.kept.extend(without.iter().flat_map(|(_, notes)| notes.clone()));
        let baseline = self.baseline_for(network)?;
        let mut goal = taken::goal_of(network, &baseline)?;
        let mut found = self.observe(&goal)?;
        if !found.conflicts.is_empty() {
            return Err(ApplyError::Conflicts(found.conflicts));
        }
        if self.quieten(network, &baseline, &mut report)? {
            found = self.observe(&goal)?;
        }
        report.kept.extend(taken::leave(&mut goal, &found.state, &baseline));
        let (config, network_then) = (config.to_owned(), Some(network.clone()));
        let record = Record { config, text: text.to_owned(), network: network_then, ..Record::default() };
        let prior = Prior { run: run_number(), state: found.state, record: self.store.record()?, baseline: known };
        let changes = !plan(&prior.state, &goal).is_empty();
        let vigil = self.begin_vigil(&prior, text, changes, &mut confirm)?;
        if changes && let Err(e) = self.store.write_baseline(&baseline) {
            self.end_vigil(vigil)?;
            self.forget(&prior)?;
            return Err(e.into());
        }
        let Done { plan, seen } =
            self.converge(&prior, &goal, Some(&record), watch, &mut confirm).inspect_err(|_| {
                // The failure is what must be told; a note that stays is found to be about nothing.
                let _ = self.end_vigil(vigil.clone());
            })?;
        report.done = plan;
        if report.done.is_empty() {
            // The file may mean something new without anything to do in the kernel.
            let record = self.with_tables(record, &goal)?;
            if prior.record.as_ref() != Some(&record) {
                self.store.write_record(Arc::new(record))?;
            }
        }
        report.confirm = self.keep(&vigil, text, &report)?;
        let facts = facts.filter(|_| report.confirm.is_none());
        self.lay_ground(facts);
        self.note_rest(network, facts, &baseline, &goal, if changes { seen } else { found.generation });
        // Each time, for an earlier run may have been ended between its rules and this.
        report.end_flows(conntrack::reconcile(network));
        Ok(report)
    }

    /// Gives the port of a guest's that another program has just made its limit, as the network that is up has it.
    pub fn limit_port(&self, guest: &str) -> Result<(), ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        let Some(network) = self.store.record()?.and_then(|record| record.network) else { return Ok(()) };
        let Some(port) = network.guest(guest).map(|guest| &guest.port) else { return Ok(()) };
        let mut wanted = without_rules(&network, &Baseline::default(), &Ids::default());
        wanted.shapers.retain(|name, _| name == port);
        let Observation { state, conflicts, .. } = observe_limits(&wanted)?;
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let (from, to) = (state.shapers.get(port).cloned(), wanted.shapers.remove(port));
        if from == to {
            return Ok(());
        }
        Ok(Executor::new()?.step(&Step::SetShaper { link: port.clone(), from, to })?)
    }

    /// Takes away all that warren made, and puts back all that it changed.
    pub fn down(&self, watch: Watch) -> Result<Report, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        self.take_away(watch)
    }

    fn take_away(&self, watch: Watch) -> Result<Report, ApplyError> {
        let mut report = Report { recovered: self.recover()?, ..Report::default() };
        let known = self.store.baseline()?;
        let baseline = known.clone().unwrap_or_default();
        adopt(&baseline.taken)?;
        let mut goal = nothing(&baseline);
        let found = self.observe(&goal)?;
        report.kept = self.keep_what_others_use(&baseline, &found.state, &mut goal)?;
        report.kept.extend(self.keep_what_others_wrote(&baseline, &found.state, &mut goal)?);
        let prior = Prior { run: run_number(), state: found.state, record: self.store.record()?, baseline: known };
        self.stay_quiet(&prior);
        report.done = self.converge(&prior, &goal, None, watch, &mut None)?.plan;
        self.forget_all()?;
        report.kept.extend(unmanaged::write(&[], &BTreeMap::new()).err().map(|e| e.to_string()));
        if let Some(network) = prior.record.and_then(|record| record.network) {
            report.end_flows(conntrack::end_all(&network));
        }
        Ok(report)
    }

    /// Plans and does until what is seen is what is wanted; on any failure undoes all of it.
    fn converge(
        &self,
        prior: &Prior,
        goal: &State,
        record: Option<&Record>,
        watch: Watch,
        confirm: &mut Option<Confirm>,
    ) -> Result<Done, ApplyError> {
        let mut executor = match Executor::new() {
            Ok(executor) => executor,
            Err(e) => {
                self.forget(prior)?;
                return Err(e.into());
            }
        };
        let mut plan = Plan::default();
        let trouble = match self.rounds(prior, goal, record, watch, &mut executor, &mut plan) {
            Ok(seen) => {
                match confirm.as_mut().filter(|_| !plan.is_empty()).map_or(Ok(()), |confirm| (confirm.holds)()) {
                    Ok(()) => return Ok(Done { plan, seen }),
                    Err(why) => Trouble::Lost(why),
                }
            }
            Err(trouble) => trouble,
        };
        let mut done = plan;
        // A manager that was told may have begun, and go on with it: it is told back, before the addresses are.
        if let Trouble::Step { step, cause: StepError::Kernel(e), .. } = &trouble
            && (e.is_partial() || matches!(**step, Step::SetHold { .. }))
        {
            done.steps.push((**step).clone());
        }
        let leftovers = self.put_back(&mut executor, &done, prior);
        Err(match trouble {
            Trouble::Step { step, index, cause } => ApplyError::Step { step, index, cause: Box::new(cause), leftovers },
            Trouble::Unsettled(left) => ApplyError::Unsettled { left, leftovers },
            Trouble::Lost(why) => ApplyError::Lost { why, leftovers },
            Trouble::Other(cause) => ApplyError::Interrupted { cause, leftovers },
        })
    }

    /// The rounds themselves; what was done stands in `done`, whether they succeed or not. The number of nf_tables' last
    /// commit when all was found to be as it should be, where it is known.
    fn rounds(
        &self,
        prior: &Prior,
        goal: &State,
        record: Option<&Record>,
        watch: Watch,
        executor: &mut Executor,
        done: &mut Plan,
    ) -> Result<Option<u32>, Trouble> {
        let mut seen = None::<Observation>;
        let left = |seen: Option<&Observation>| plan(seen.map_or(&prior.state, |seen| &seen.state), goal);
        for _ in 0..ROUNDS {
            let next = left(seen.as_ref());
            if next.is_empty() {
                return Ok(seen.and_then(|seen| seen.generation));
            }
            let mut whole = done.clone();
            whole.steps.extend(next.steps.iter().cloned());
            self.store.write_journal(&NewJournal { prior, plan: &whole }).map_err(ApplyError::from)?;
            executor.foresee(&next.steps);
            let mut left = next.steps.as_slice();
            while !left.is_empty() {
                let (now, later) = left.split_at(Executor::together(left));
                left = later;
                do_together(executor, now, done.steps.len(), watch)?;
                done.steps.extend_from_slice(now);
            }
            // What we wrote is only known as ours once its dump's fingerprint is kept.
            if let Some(record) = record {
                let record = self.with_tables(record.clone(), goal)?;
                self.store.write_record(Arc::new(record)).map_err(ApplyError::from)?;
            }
            seen = Some(self.observe(goal)?);
        }
        let left = left(seen.as_ref());
        if left.is_empty() { Ok(seen.and_then(|seen| seen.generation)) } else { Err(Trouble::Unsettled(left)) }
    }

    /// Undoes `done`, going on past what fails; says what is left. The journal stays where something is.
    fn put_back(&self, executor: &mut Executor, done: &Plan, prior: &Prior) -> Vec<String> {
        let mut leftovers = Vec::new();
        let back = undo(done);
        executor.foresee(&back.steps);
        let mut left = back.steps.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(Executor::together(left));
            left = later;
            if let Err(e) = executor.steps(now) {
                leftovers.push(format!("{}: {e}", now[0]));
            }
        }
        if leftovers.is_empty()
            && let Err(e) = self.forget(prior)
        {
            leftovers.push(e.to_string());
        }
        leftovers
    }

    /// Our files as they were before a run that is undone. Tables that were written anew have the fingerprints that
    /// they had, so the old record is right again.
    fn forget(&self, prior: &Prior) -> Result<(), StoreError> {
        match &prior.record {
            Some(record) => self.store.write_record(Arc::new(record.clone()))?,
            None => self.store.remove_record()?,
        }
        match &prior.baseline {
            Some(baseline) => self.store.write_baseline(baseline)?,
            None => self.store.remove_baseline()?,
        }
        self.stay_quiet(prior);
        self.store.remove_journal()
    }

    /// The record with our tables as the kernel shows them now.
    fn with_tables(&self, mut record: Record, goal: &State) -> Result<Record, ApplyError> {
        for (family, table) in &goal.tables {
            let TableState::Intact(table) = table else { continue };
            if let Some(fingerprint) = nft::fingerprint_of(*family)? {
                record.tables.insert(*family, WrittenTable { skeleton: table.skeleton(), fingerprint });
            }
        }
        Ok(record)
    }

    /// The baseline with what `network` is going to change for the first time added, as it is now.
    fn baseline_for(&self, network: &Network) -> Result<Baseline, ApplyError> {
        let had = self.store.of_this_boot()?.is_some();
        let mut baseline = self.store.baseline()?.unwrap_or_default();
        taken::remember(&mut baseline, network)?;
        let goal = without_rules(network, &Baseline::default(), &Ids::default());
        let ours = |s: &Sysctl| goal.links.keys().any(|name| name.as_str() == s.scope);
        let new = goal.sysctls.keys().filter(|s| !ours(s) && !baseline.sysctls.contains_key(s));
        let values = switches(new)?;
        baseline.sysctls.extend(values);
        for name in goal.ports.keys().filter(|name| !baseline.ports.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let is = carry::as_it_is(&name)?;
            // By now it is as its rewritten configuration has it.
            let was =
                baseline.taken.get(&name).map(|taken| PortWas { addresses: is.addresses.clone(), ..taken.was.clone() });
            baseline.ports.insert(name, was.unwrap_or(is));
        }
        if !had {
            baseline.global_forwarding = switches([&global_forwarding()])?.into_values().next().as_deref() == Some("1");
        }
        Ok(baseline)
    }
}

/// What was done, and the number of nf_tables' last commit when it was found to be so, where it is known.
struct Done {
    plan: Plan,
    seen: Option<u32>,
}

/// Why the rounds did not come to their end.
enum Trouble {
    Step {
        step: Box<Step>,
        index: usize,
        cause: StepError,
    },
    Unsettled(Plan),
    /// All was done, and then what must hold did not.
    Lost(String),
    /// The kernel could not be looked at, or a file of ours not be written.
    Other(Box<ApplyError>),
}

impl From<ApplyError> for Trouble {
    fn from(error: ApplyError) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Does `steps`, which belong together, the first of which is the plan's `index`th.
fn do_together(executor: &mut Executor, steps: &[Step], index: usize, watch: Watch) -> Result<(), Trouble> {
    let failed = |nth: usize, cause| Trouble::Step { step: Box::new(steps[nth].clone()), index: index + nth, cause };
    for (nth, step) in steps.iter().enumerate() {
        watch(index + nth, step).map_err(|why| failed(nth, StepError::Stopped(why)))?;
    }
    executor.steps(steps).map_err(|e| failed(0, e.into()))
}

/// A number that no other run of this boot has.
fn run_number() -> u64 {
    boot_clock() << 22 | u64::from(std::process::id())
}

fn global_forwarding() -> Sysctl {
    Sysctl::new(IpFamilyWord::Ipv4, "all", "forwarding")
}

/// The users and groups that the network names, as this host knows them.
fn ids_of(network: &Network) -> Result<Ids, KernelError> {
    let mut ids = Ids::default();
    let taps = network.lans.iter().flat_map(|lan| &lan.taps).map(|tap| (tap.owner.as_ref(), tap.group.as_ref()));
    let machines = network.guests.iter().filter_map(|guest| match &guest.kind {
        GuestKind::Vm { owner } => Some((owner.as_ref(), None)),
        GuestKind::Lxc(_) | GuestKind::Netns | GuestKind::Reserved => None,
    });
    for (owner, group) in taps.chain(machines) {
        if let Some(owner) = owner {
            ids.users.insert(owner.clone(), tap::user_id(owner)?);
        }
        if let Some(group) = group {
            ids.groups.insert(group.clone(), tap::group_id(group)?);
        }
    }
    Ok(ids)
}
