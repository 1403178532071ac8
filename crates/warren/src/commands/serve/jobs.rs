//! What changes the network, one after the other, on a thread of its own: none of it waits for packets, and no service
//! waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use services::log;
use tokio::sync::mpsc;

use super::Event;
use super::control::{Asker, Said};
use crate::cli::Command;
use crate::context::{Context, Exit};
use crate::{commands, output};

/// A command to be run here.
pub struct Job {
    /// In which context.
    pub context: Context,
    /// The command.
    pub command: Command,
    /// Who hears what it says; the log does where there is nobody.
    pub asker: Option<Asker>,
}

/// A command that was run.
pub struct Done {
    /// How it ended.
    pub exit: Exit,
    /// Whether it took the network away.
    pub was_down: bool,
    /// Who is told of its end.
    pub asker: Option<Asker>,
}

/// The thread's way in.
pub struct Jobs {
    sender: std::sync::mpsc::Sender<Job>,
    open: Arc<AtomicUsize>,
}

impl Jobs {
    /// Starts the thread. It ends with the process.
    pub fn start(events: mpsc::UnboundedSender<Event>) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel::<Job>();
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        std::thread::spawn(move || {
            for job in receiver {
                let done = run(job, &events);
                counted.fetch_sub(1, Ordering::SeqCst);
                if events.send(Event::Done(done)).is_err() {
                    return;
                }
            }
        });
        Self { sender, open }
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

fn run(mut job: Job, events: &mpsc::UnboundedSender<Event>) -> Done {
    job.context.applied = Some(super::hook(events.clone()));
    let was_down = matches!(job.command, Command::Down { .. });
    let json = job.context.json;
    let work = || match commands::dispatch(&job.context, job.command) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.report(json);
            failure.exit
        }
    };
    let exit = match &job.asker {
        Some(asker) => {
            let said = asker.said.clone();
            // Who went away hears no more.
            let hear = move |stream, text: &str| drop(said.send(Said::text(stream, text)));
            kernel::session::on_behalf_of(asker.pid, || output::within(hear, work))
        }
        None => work(),
    };
    Done { exit, was_down, asker: job.asker }
}
