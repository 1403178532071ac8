//! What changes the network, one after the other, on a thread of its own: none of it waits for packets, and no service
//! waits for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::host_names::HostNames;
use model::services::Services;
use services::log;
use tokio::sync::mpsc;

use super::control::{Asker, Said};
use super::{Event, watchman};
use crate::cli::Command;
use crate::context::{Context, Exit, Failure, Hook, Remembered};
use crate::{commands, output};

/// What is to be done.
pub enum Job {
    /// A command to be run here.
    Command {
        /// In which context.
        context: Context,
        /// The command.
        command: Command,
        /// Who hears what it says; the log does where there is nobody.
        asker: Option<Asker>,
    },
    /// A look after the network, and the repair of what is not as it should be.
    Look(Context),
    /// The host itself resolves guests' names.
    Names(Context),
    /// Nobody answers for them from now on.
    Unname,
}

/// What was done.
pub enum Done {
    /// A command.
    Command {
        /// How it ended.
        exit: Exit,
        /// Whether it took the network away.
        was_down: bool,
        /// Whether the services have to look at what was applied: not after a forward that concerns none of them.
        concerns: bool,
        /// Who is told of its end.
        asker: Option<Asker>,
    },
    /// A look: the steps of the repair, or why there could be none.
    Look(Result<Vec<String>, String>),
    /// What concerns the host's own names.
    Names,
}

/// The name of the thread: what nf_tables tells of who made a change, if it was we.
pub const NAME: &str = "warren-jobs";

/// After so long without a job it is idle: who adds forwards one by one has added the last.
const IDLE: Duration = Duration::from_secs(3);

/// Beyond so many times the service manager's patience a command is taken to hang: one that makes guests takes minutes.
const COMMAND: u32 = 30;

/// The thread's way in.
pub struct Jobs {
    sender: std::sync::mpsc::Sender<Job>,
    open: Arc<AtomicUsize>,
    /// Until when the job that runs is not taken to hang.
    until: Arc<Mutex<Option<Instant>>>,
    thread: JoinHandle<()>,
}

impl Jobs {
    /// Starts the thread. It ends with the process. A job that takes longer than `patience`, or a command that takes
    /// [`COMMAND`] times as long, is taken to hang.
    pub fn start(events: mpsc::UnboundedSender<Event>, patience: Option<Duration>) -> Result<Self, Failure> {
        let (sender, receiver) = std::sync::mpsc::channel::<Job>();
        let open = Arc::new(AtomicUsize::new(0));
        let until = Arc::new(Mutex::new(None));
        let (counted, limit) = (Arc::clone(&open), Arc::clone(&until));
        let work = move || {
            let mut names = HostNames::default();
            let remembered = Remembered::default();
            // Whether something is to be given back once nobody adds any more.
            let mut owes = false;
            loop {
                let next = match owes {
                    true => receiver.recv_timeout(IDLE),
                    false => receiver.recv().map_err(RecvTimeoutError::from),
                };
                let job = match next {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        kernel::memory::give_back();
                        kernel::memory::let_go_of_code();
                        owes = false;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                // A repair is told at once; the host's names are looked after behind it.
                let looked = if let Job::Look(context) = &job { Some(context.clone()) } else { None };
                let is_short = matches!(&job, Job::Command { command: Command::Forward { .. }, .. });
                let times = if matches!(job, Job::Command { .. }) { COMMAND } else { 1 };
                let end = |at: Option<Instant>| *limit.lock().unwrap_or_else(PoisonError::into_inner) = at;
                end(patience.map(|patience| Instant::now() + patience * times));
                let done = run(job, &events, &mut names, &remembered);
                // It took next to no memory, and the next one takes the same.
                let is_light = matches!(done, Done::Command { concerns: false, .. });
                end(None);
                counted.fetch_sub(1, Ordering::SeqCst);
                if events.send(Event::Done(done)).is_err() {
                    return;
                }
                if let Some(context) = looked {
                    name_hosts(&context, &mut names);
                }
                if counted.load(Ordering::SeqCst) == 0 {
                    if !is_light {
                        kernel::memory::give_back();
                    }
                    // Who adds forwards one by one needs the same memory and code again at once.
                    if !is_short {
                        kernel::memory::let_go_of_code();
                    }
                    owes |= is_short;
                }
            }
        };
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(work);
        let thread = thread.map_err(|e| Failure::new(Exit::Failed, format!("cannot start a thread: {e}")))?;
        Ok(Self { sender, open, until, thread })
    }

    /// Whether the job that runs has taken longer than any should.
    pub fn hang(&self) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until < Instant::now())
    }

    /// Whether the thread has ended, which it never should.
    pub fn are_gone(&self) -> bool {
        self.thread.is_finished()
    }

    /// Puts a job behind the others.
    pub fn add(&self, job: Job) {
        self.open.fetch_add(1, Ordering::SeqCst);
        if self.sender.send(job).is_err() {
            self.open.fetch_sub(1, Ordering::SeqCst);
            log::error("the thread that changes the network is gone");
        }
    }

    /// Whether one runs or waits.
    pub fn is_busy(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }
}

fn run(job: Job, events: &mpsc::UnboundedSender<Event>, names: &mut HostNames, remembered: &Remembered) -> Done {
    let (mut context, command, asker) = match job {
        Job::Command { context, command, asker } => (context, command, asker),
        Job::Look(context) => return Done::Look(watchman::look(&context)),
        Job::Names(context) => {
            name_hosts(&context, names);
            return Done::Names;
        }
        Job::Unname => {
            names.rest();
            return Done::Names;
        }
    };
    let (hook, applied) = (super::hook(events.clone()), Arc::new(AtomicBool::new(false)));
    let noted = Arc::clone(&applied);
    context.applied = Some(Hook(Arc::new(move || {
        noted.store(true, Ordering::SeqCst);
        (hook.0)();
    })));
    context.remembered = Some(remembered.clone());
    let was_down = matches!(command, Command::Down { .. });
    let is_forward = matches!(command, Command::Forward { .. });
    let json = context.json;
    let work = || match commands::dispatch(&context, command) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.report(json);
            failure.exit
        }
    };
    let exit = match &asker {
        Some(asker) => {
            let said = asker.said.clone();
            // Who went away hears no more.
            let hear = move |stream, text: &str| drop(said.send(Said::text(stream, text)));
            kernel::session::on_behalf_of(context.session, || output::within(hear, work))
        }
        None => work(),
    };
    let concerns = !(is_forward && exit == Exit::Done && !applied.load(Ordering::SeqCst));
    if !was_down && concerns {
        name_hosts(&context, names);
    }
    Done::Command { exit, was_down, concerns, asker }
}

/// Lets the host itself resolve what the network that is up names.
fn name_hosts(context: &Context, names: &mut HostNames) {
    let record = context.engine().and_then(|engine| Ok(engine.record()?));
    let Ok(Some(network)) = record.map(|record| record.and_then(|record| record.network)) else { return };
    match names.follow(&Services::of(&network)) {
        Ok(None) => {}
        Ok(Some(note)) => log::warn(&note),
        Err(e) => log::warn(&e.to_string()),
    }
}
