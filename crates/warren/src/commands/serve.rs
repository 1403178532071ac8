//! `warren serve`: `up`, then the LAN's services for as long as it runs.
//!
//! Two processes (ARCHITECTURE.md): this one, the supervisor, has the privileges; it binds, applies and supervises, and
//! reads nothing that comes from the network. The other, the worker (`services::worker`), reads what everybody sends,
//! and has no privileges. What changes the network is done one after the other by [`jobs`]; all that happens comes to
//! one loop as an [`Event`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::watch::Seen;
use model::services::Services;
use services::log;
use services::protocol::{FromWorker, Status, ToWorker};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use self::certificates::Certificates;
use self::control::Said;
use self::jobs::{Done, Job, Jobs};
use self::notify::Notify;
use self::plugs::Plugs;
use self::sockets::Held;
use self::watchman::{Repairs, Watchman};
use self::worker::{Gone, Workers};
use super::{boot, status, up};
use crate::cli::Command;
use crate::context::{Context, Exit, Failure, Hook, Outcome};

mod access_log;
pub mod certificates;
pub mod control;
mod jobs;
mod notify;
mod plugs;
mod sockets;
mod token;
pub mod watchman;
mod worker;

pub use jobs::NAME as JOBS;

/// The lock that one `serve` holds in a run folder.
const LOCK: &str = "serve.lock";
/// How long one that is gone may hold it.
const LETTING_GO: Duration = Duration::from_secs(10);
/// How long a job that runs may take to its end once we are told to end.
const LAST_JOB: Duration = Duration::from_secs(20);

/// What happens.
enum Event {
    /// The end is asked for: SIGTERM or SIGINT.
    End,
    /// The file is to be read again: SIGHUP.
    Reload,
    /// Somebody at the control socket.
    Asked(control::Request, control::Asker),
    /// A job has made the network what its file says; who does it waits until the services have followed.
    Applied(oneshot::Sender<()>),
    /// A job has ended.
    Done(Done),
    /// The state that the web page wants; empty where it could not be found out.
    State(String),
    /// The worker speaks.
    Said(FromWorker),
    /// The worker is gone.
    Gone(Gone),
    /// A worker may be started again.
    Again,
    /// The kernel tells of changes.
    Heard(Vec<Seen>),
    /// It is time to look after the network.
    Look,
    /// It is time to look after certificates.
    Certificates,
    /// It is time for a sign of life.
    Sign,
    /// It is time for one of the worker's.
    WorkersSign,
}

/// Serves until it is told to end. The network stays when it ends.
pub fn run(context: &Context, no_guests: bool) -> Outcome {
    context.require_privilege("serve this network")?;
    let _lock = lock(context)?;
    control::end_orphan(&context.run_dir)?;
    // Before the first `up`, which makes them ours.
    let kept = kernel::nft::keep()?;
    let notify = Notify::from_environment();
    let is_up = begin(context, &notify)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot start the runtime: {e}")))?;
    let outcome = runtime.block_on(serve(context, kept, notify, no_guests || !is_up));
    // A job that hangs is left to its journal.
    runtime.shutdown_background();
    outcome
}

/// `up`, but for a file that nobody has confirmed, or that is wrong: nobody may sit before us. Then what is up is served
/// as it is. Where nothing is, a person is told; a service manager, which would only try again, has us wait for the `up`
/// that somebody will run. Says whether a network is up.
fn begin(context: &Context, notify: &Notify) -> Result<bool, Failure> {
    let engine = context.engine()?;
    let own = std::fs::canonicalize(&context.config).unwrap_or_else(|_| context.config.clone());
    let is_up = engine.record()?.is_some_and(|record| record.network.is_some() && record.config == own);
    // Whether what is in the way stays there until somebody does something about it.
    let mut waits = false;
    let failure = if is_up && engine.pending()?.is_some() {
        Failure::new(Exit::Failed, "what is up awaits its confirmation")
    } else {
        match boot::file(context, &engine, &engine.boot()?) {
            Ok(Ok((source, network))) => match up::network(context, &engine, &source, network) {
                // What stands in the way at a boot was passed by there, as far as it could be.
                Err(failure) if failure.exit == Exit::Conflict => failure,
                done => return done.map(|()| true),
            },
            Ok(Err(why)) => {
                waits = true;
                Failure::new(Exit::Failed, why)
            }
            Err(failure) => {
                waits = failure.exit == Exit::Usage;
                failure
            }
        }
    };
    if is_up {
        log::warn(&format!("{}\nwhat is up is served as it is", failure.message));
    } else if waits && notify.is_there() {
        log::warn(&format!("{}\nnothing of it is served until `warren up` brings it up", failure.message));
    } else {
        return Err(failure);
    }
    Ok(is_up)
}

/// What the worker's process does.
pub fn worker() -> Outcome {
    use std::os::fd::AsFd as _;
    // A terminal's signals are for the supervisor.
    let _ = rustix::process::setsid();
    let end = std::io::stdin().as_fd().try_clone_to_owned();
    let end = end.map_err(|e| Failure::new(Exit::Failed, format!("cannot take the supervisor's channel: {e}")))?;
    services::worker::run(end).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    Ok(Exit::Done)
}

fn lock(context: &Context) -> Result<File, Failure> {
    let path = context.run_dir.join(LOCK);
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("cannot lock {}: {e}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(&context.run_dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // One that was killed lets go a moment after its end is seen.
            Err(rustix::io::Errno::WOULDBLOCK)
                if begun.elapsed() < LETTING_GO && !control::is_served(&context.run_dir) =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let held = path.display();
                let message = format!("`warren serve` runs here already ({held} is held); `warren up` reloads it");
                return Err(Failure::new(Exit::Failed, message));
            }
            Err(e) => return Err(failed(e.into())),
        }
    }
}

/// What the supervisor knows.
struct Supervisor {
    context: Context,
    /// Sockets that are bound.
    held: Held,
    workers: Workers,
    jobs: Jobs,
    notify: Notify,
    watchman: Watchman,
    events: mpsc::UnboundedSender<Event>,
    /// Whether a network is up.
    is_up: bool,
    /// Whether somebody is finding out the state, for the web page.
    looks: bool,
    /// The cables of guests that sites are on.
    plugs: Plugs,
    certificates: Certificates,
    /// Who waits for the worker's words.
    asking: Vec<mpsc::UnboundedSender<Said>>,
}

async fn serve(context: &Context, kept: bool, notify: Notify, no_guests: bool) -> Outcome {
    let (events, mut happens) = mpsc::unbounded_channel();
    signals(&events)?;
    control::listen(&context.run_dir, &events)?;
    watchman::listen(events.clone())?;
    let mut supervisor = Supervisor {
        context: context.clone(),
        held: Held::default(),
        workers: Workers::new(&context.run_dir, &context.state_dir, events.clone())?,
        jobs: Jobs::start(events.clone(), notify.patience())?,
        notify,
        watchman: Watchman::new(kept),
        events: events.clone(),
        is_up: false,
        looks: false,
        plugs: Plugs::default(),
        certificates: Certificates::new(&context.state_dir),
        asking: Vec::new(),
    };
    // At the start, what cannot be served is a reason to end: somebody sits before it, or a unit tells.
    let problems = supervisor.follow().await?;
    if let Some(problem) = problems.first() {
        supervisor.end().await;
        return Err(Failure::new(Exit::Conflict, format!("{problem}\nthe network is up and stays so")));
    }
    if supervisor.is_up {
        log::info("serving");
    }
    supervisor.notify.ready(&supervisor.words());
    supervisor.begin_jobs(no_guests);
    loop {
        let (look, sign) = (supervisor.watchman.due(), supervisor.notify.due());
        let (certificates, workers) = (supervisor.certificates.due(), supervisor.workers.due());
        let event = tokio::select! {
            // Neither is put off by much that happens.
            biased;
            () = until(sign) => Some(Event::Sign),
            event = happens.recv() => event,
            () = until(look) => Some(Event::Look),
            () = until(certificates) => Some(Event::Certificates),
            () = until(workers) => Some(Event::WorkersSign),
        };
        let Some(event) = event else { return Ok(Exit::Done) };
        if let Some(outcome) = supervisor.handle(event).await {
            return outcome;
        }
    }
}

/// Ends at that time; where there is none, never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn signals(events: &mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [(SignalKind::terminate(), false), (SignalKind::interrupt(), false), (SignalKind::hangup(), true)];
    for (kind, reload) in kinds {
        let mut signal =
            signal(kind).map_err(|e| Failure::new(Exit::Failed, format!("cannot wait for signals: {e}")))?;
        let events = events.clone();
        spawn_local(async move {
            while signal.recv().await.is_some() {
                let _ = events.send(if reload { Event::Reload } else { Event::End });
            }
        });
    }
    Ok(())
}

impl Supervisor {
    /// What an event leads to; how `serve` ends, where it does.
    async fn handle(&mut self, event: Event) -> Option<Outcome> {
        if matches!(event, Event::Said(_)) {
            self.workers.lives();
        }
        match event {
            Event::End => {
                self.notify.stopping();
                self.finish_job().await;
                self.jobs.add(Job::Unname);
                self.finish_job().await;
                // The guests live on: who is being answered is answered.
                self.workers.end(ToWorker::Finish).await;
                self.end().await;
                return Some(Ok(Exit::Done));
            }
            Event::Reload => {
                log::info("reading the file again");
                self.notify.reloading();
                self.reload();
            }
            Event::Asked(control::Request::Status, asker) => self.ask(asker.said).await,
            Event::Asked(control::Request::Run(asked), asker) => self.run_for(asked, asker),
            Event::Asked(control::Request::LetGo, asker) => {
                kernel::nft::let_go();
                let _ = asker.said.send(Said::End(Exit::Done.number()));
            }
            Event::Asked(control::Request::Follow, asker) => {
                self.follow_and_tell().await;
                let _ = asker.said.send(Said::End(Exit::Done.number()));
            }
            Event::Applied(followed) => {
                self.follow_and_tell().await;
                let _ = followed.send(());
            }
            Event::Done(Done::Look(result)) => {
                if self.watchman.looked(result) {
                    self.follow_and_tell().await;
                    self.notify.ready(&self.words());
                }
            }
            Event::Done(Done::Command { exit, was_down, concerns, asker }) => {
                if concerns {
                    self.follow_and_tell().await;
                }
                self.notify.ready(&self.words());
                if let Some(asker) = asker {
                    let _ = asker.said.send(Said::End(exit.number()));
                }
                if was_down && exit == Exit::Done {
                    self.notify.stopping();
                    self.end().await;
                    // So that who waits at the control socket reads it.
                    tokio::task::yield_now().await;
                    return Some(Ok(Exit::Done));
                }
            }
            Event::Done(Done::Names) | Event::Said(FromWorker::Serving) => {}
            Event::Said(FromWorker::Status(status)) => self.tell(Some(&status)),
            Event::Said(FromWorker::WantsState) => self.look(),
            Event::State(document) => {
                self.looks = false;
                self.workers.state(document).await;
            }
            Event::Said(FromWorker::Keep(kept)) => self.certificates.keep(*kept),
            Event::Said(FromWorker::LongLeases) => self.workers.leases_anew().await,
            Event::Gone(gone) => {
                self.tell(None);
                self.workers.lost(gone);
            }
            Event::Again => self.follow_and_tell().await,
            Event::Heard(seen) => {
                if self.plugs.concerns(&seen) {
                    self.workers.away(self.plugs.away()).await;
                }
                self.watchman.heard(seen);
            }
            Event::Sign => {
                if self.jobs.are_gone() {
                    self.end().await;
                    let why = "the thread that changes the network is gone";
                    return Some(Err(Failure::new(Exit::Failed, why)));
                }
                self.notify.lives(!self.jobs.hang());
            }
            Event::WorkersSign => self.workers.sign().await,
            Event::Certificates => {
                self.certificates.look(false);
                self.workers.certificates(self.certificates.pairs()).await;
            }
            Event::Look => {
                self.watchman.begins();
                self.jobs.add(Job::Look(self.context.clone()));
            }
        }
        None
    }

    /// Runs `up`, of the file that was applied last.
    fn reload(&mut self) {
        let mut context = self.context.clone();
        context.quiet = true;
        if let Ok(Some(record)) = context.engine().and_then(|engine| Ok(engine.record()?)) {
            context.config = record.config;
        }
        let command = Command::Up { replace: false, no_guests: false, confirm: None };
        self.jobs.add(Job::Command { context, command, asker: None });
    }

    /// What comes first: the guests, where they are ours to start, and the host's own names.
    fn begin_jobs(&mut self, no_guests: bool) {
        self.jobs.add(Job::Names(self.context.clone()));
        if !no_guests {
            let context = Context { quiet: true, ..self.context.clone() };
            let command = Command::Boot { guests: true, stop: false };
            self.jobs.add(Job::Command { context, command, asker: None });
        }
    }

    /// How it stands, in a line.
    fn words(&self) -> String {
        if !self.is_up {
            return "no network is up: waiting for `warren up`".to_owned();
        }
        let lans = self.held.lans();
        let repairs = self.watchman.repairs.count;
        let word = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let repaired = if repairs > 0 { format!(", {}", word(repairs, "repair", "repairs")) } else { String::new() };
        format!("serving {}{repaired}", word(lans, "LAN", "LANs"))
    }

    fn run_for(&mut self, asked: control::Asked, asker: control::Asker) {
        match asked.parse() {
            Ok((context, command)) => self.jobs.add(Job::Command { context, command, asker: Some(asker) }),
            Err(why) => {
                let _ = asker.said.send(Said::Err(why));
                let _ = asker.said.send(Said::End(Exit::Usage.number()));
            }
        }
    }

    /// Makes sockets and worker follow what was applied last; says what could not.
    async fn follow(&mut self) -> Result<Vec<String>, Failure> {
        let record = self.context.engine()?.record()?;
        let network = record.and_then(|record| record.network);
        self.is_up = network.is_some();
        let services = network.map(|network| Services::of(&network)).unwrap_or_default();
        let problems = self.held.follow(&services);
        self.certificates.follow(&services.sites);
        self.workers.serve(&services, &self.held, &self.certificates).await?;
        self.plugs.follow(&services.sites);
        self.workers.away(self.plugs.away()).await;
        kernel::memory::give_back();
        Ok(problems)
    }

    async fn follow_and_tell(&mut self) {
        match self.follow().await {
            Ok(problems) => problems.iter().for_each(|problem| log::error(problem)),
            Err(failure) => log::error(&failure.message),
        }
    }

    async fn ask(&mut self, said: mpsc::UnboundedSender<Said>) {
        if self.workers.ask().await {
            self.asking.push(said);
        } else {
            let _ = said.send(self.served(None));
        }
    }

    /// Finds out the state, as `warren status` does, beside all else that happens.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looks, true) {
            return;
        }
        let (context, events) = (self.context.clone(), self.events.clone());
        let found = tokio::task::spawn_blocking(move || status::document(&context).map(|found| format!("{found:#}\n")));
        spawn_local(async move {
            let document = match found.await {
                Ok(Ok(document)) => document,
                Ok(Err(failure)) => {
                    log::warn(&format!("the state for the web page: {}", failure.message));
                    String::new()
                }
                Err(_ended) => String::new(),
            };
            let _ = events.send(Event::State(document));
        });
    }

    fn tell(&mut self, status: Option<&Status>) {
        let asking = std::mem::take(&mut self.asking);
        for said in asking {
            let _ = said.send(self.served(status));
        }
    }

    fn served(&self, services: Option<&Status>) -> Said {
        let repairs = Repairs { worker_restarts: self.workers.restarts(), ..self.watchman.repairs.clone() };
        Said::Status(Box::new(control::Served { services: services.cloned(), repairs }))
    }

    /// Waits for the job that runs, as long as is sensible: killed, it would be undone by the next run.
    async fn finish_job(&mut self) {
        let begun = Instant::now();
        while self.jobs.is_busy() && begun.elapsed() < LAST_JOB {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(&mut self) {
        self.workers.end(ToWorker::End).await;
        control::forget(&self.context.run_dir);
    }
}

/// What `up` calls once the network is up, before the guests: the services follow, so that guests find them.
fn hook(events: mpsc::UnboundedSender<Event>) -> Hook {
    Hook(Arc::new(move || {
        let (followed, follows) = oneshot::channel();
        if events.send(Event::Applied(followed)).is_ok() {
            // Whoever ends meanwhile lets go.
            let _ = follows.blocking_recv();
        }
    }))
}
