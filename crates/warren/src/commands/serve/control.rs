//! The control socket of a running `serve`: commands that change the network go through it, and `status` asks there.
//!
//! One line of JSON in, lines of JSON back. The socket is for its owner alone (0600, in a folder of 0700), so whoever
//! comes may do all of it anyway.

use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use model::session::Session;
use serde::{Deserialize, Serialize};
use services::protocol::Status;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::Event;
use super::watchman::Repairs;
use crate::cli::{Arguments, Command, ForwardCommand};
use crate::context::{Context, Exit, Failure, Outcome};
use crate::output::{self, Stream};

const CONTROL: &str = "control.sock";
const WORKER: &str = "worker.sock";
/// How long a client may take to say what it wants, and a worker to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a `serve` that hangs up without a word is called again, and after how long.
const TRIES: u32 = 20;
const DYING: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// What the services have done.
    Status,
    /// Run a command.
    Run(Asked),
    /// Somebody else is about to change the network: the tables must not be kept from it.
    LetGo,
    /// Somebody else has changed the network: follow what was applied.
    Follow,
}

/// Who asks.
pub struct Asker {
    /// Where it hears what is said.
    pub said: mpsc::UnboundedSender<Said>,
}

/// A command as it was given.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Its words, the program's own name left out.
    words: Vec<String>,
    /// The file, and the folders, as they are called from everywhere.
    config: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// The SSH session that it is given in.
    session: Option<Session>,
}

/// What is answered, one after the other.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// A line for stdout.
    Out(String),
    /// Text for stderr.
    Err(String),
    /// What it has done. The last word.
    Status(Box<Served>),
    /// The command's exit code. The last word.
    End(u8),
}

/// What a `serve` has done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Served {
    /// Its services; nothing where none run at the moment.
    pub services: Option<Status>,
    /// Its watch over the network.
    pub repairs: Repairs,
}

impl Said {
    /// Words for a stream.
    pub fn text(stream: Stream, text: &str) -> Self {
        match stream {
            Stream::Out => Self::Out(text.to_owned()),
            Stream::Err => Self::Err(text.to_owned()),
        }
    }
}

impl Asked {
    /// As a context and a command.
    pub fn parse(self) -> Result<(Context, Command), String> {
        let words = std::iter::once("warren".to_owned()).chain(self.words);
        let mut arguments = read(words).map_err(|e| e.to_string())?;
        (arguments.config, arguments.state_dir, arguments.run_dir) = (self.config, self.state_dir, self.run_dir);
        if !changes_the_network(&arguments.command) {
            return Err("this is no command for a running serve".to_owned());
        }
        Ok((Context::within(&arguments, self.session), arguments.command))
    }
}

thread_local! {
    /// What words there are: to build it takes ten times as long as to read a command by it.
    static GRAMMAR: RefCell<Option<clap::Command>> = const { RefCell::new(None) };
}

fn read(words: impl Iterator<Item = String>) -> Result<Arguments, clap::Error> {
    GRAMMAR.with_borrow_mut(|grammar| {
        let grammar = grammar.get_or_insert_with(Arguments::command);
        Arguments::from_arg_matches(&grammar.try_get_matches_from_mut(words)?)
    })
}

/// Whether a command is for a running `serve` to do.
fn changes_the_network(command: &Command) -> bool {
    match command {
        Command::Up { .. } | Command::Down { .. } | Command::Rollback => true,
        Command::Forward { command } => !matches!(command, ForwardCommand::List),
        _ => false,
    }
}

/// Where the worker is called by the next supervisor.
pub fn worker_path(run_dir: &Path) -> PathBuf {
    run_dir.join(WORKER)
}

/// A listener at `path`, for its owner alone.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes the sockets' names away.
pub fn forget(run_dir: &Path) {
    for name in [CONTROL, WORKER] {
        // A name that stays leads nowhere, and is taken over by the next.
        let _ = fs::remove_file(run_dir.join(name));
    }
}

// ---- in serve ----

/// Listens at the control socket.
pub(super) fn listen(run_dir: &Path, events: &mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
    let path = run_dir.join(CONTROL);
    let failed = |e: io::Error| Failure::new(Exit::Failed, format!("cannot listen at {}: {e}", path.display()));
    let listener = tokio::net::UnixListener::from_std(bind(&path).map_err(failed)?).map_err(failed)?;
    let events = events.clone();
    spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let events = events.clone();
                    // Who goes away before the end is told no more.
                    spawn_local(async move {
                        let _ = answer(stream, events).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

async fn answer(stream: tokio::net::UnixStream, events: mpsc::UnboundedSender<Event>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader);
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(io::Error::other)??;
    let request: Request = serde_json::from_str(&line)?;
    let (said, mut says) = mpsc::unbounded_channel();
    let _ = events.send(Event::Asked(request, Asker { said }));
    while let Some(said) = says.recv().await {
        let mut line = serde_json::to_vec(&said)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        if matches!(said, Said::End(_) | Said::Status(_)) {
            break;
        }
    }
    Ok(())
}

// ---- in other commands ----

/// Has a running `serve` do the command, and says what it says; nothing where none runs.
pub fn hand_over(arguments: &Arguments) -> Option<Outcome> {
    if !changes_the_network(&arguments.command) {
        return None;
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let request = Request::Run(Asked {
        words: std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect(),
        config: absolute(&arguments.config),
        state_dir: absolute(&arguments.state_dir),
        run_dir: absolute(&arguments.run_dir),
        session: kernel::session::current(),
    });
    let (mut end, mut silent) = (None, true);
    let mut tries = 0;
    let heard = loop {
        let heard = converse(connect(&arguments.run_dir)?, &request, |said| {
            silent = false;
            match said {
                Said::Out(text) => output::line(&text),
                Said::Err(text) => output::drawn(&text),
                Said::End(code) => end = Exit::of(code),
                Said::Status(_) => {}
            }
        });
        tries += 1;
        // One that dies may still be connected to, for a moment; one that lives says at least how it ended.
        if !silent || tries == TRIES {
            break heard;
        }
        std::thread::sleep(DYING);
    };
    Some(match (end, heard) {
        (Some(exit), _) => Ok(exit),
        (None, Err(e)) => Err(Failure::new(Exit::Failed, format!("`warren serve` does not answer: {e}"))),
        (None, Ok(())) => {
            Err(Failure::new(Exit::Failed, "`warren serve` ended on the way: `warren status` says what is up"))
        }
    })
}

/// What a running `serve` says that it has done; nothing where none runs.
pub fn status(run_dir: &Path) -> Option<Served> {
    let stream = connect(run_dir)?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut found = None;
    converse(stream, &Request::Status, |said| {
        if let Said::Status(status) = said {
            found = Some(*status);
        }
    })
    .ok()?;
    found
}

/// Has a running `serve` follow what was applied past it.
pub fn follow(run_dir: &Path) {
    if let Some(stream) = connect(run_dir) {
        // One that does not listen follows when it does.
        let _ = converse(stream, &Request::Follow, |_| {});
    }
}

/// Has a running `serve` let others change our tables, which it takes back when it looks after them the next time.
pub fn let_go(run_dir: &Path) {
    if let Some(stream) = connect(run_dir) {
        // One that does not answer is told by the kernel's refusal.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = converse(stream, &Request::LetGo, |_| {});
    }
}

/// Whether a `serve` answers: one that dies may still be connected to.
pub fn is_served(run_dir: &Path) -> bool {
    let Some(stream) = connect(run_dir) else { return false };
    let mut answers = false;
    let asked = stream.set_read_timeout(Some(PATIENCE));
    asked.is_ok_and(|()| converse(stream, &Request::Status, |_| answers = true).is_ok()) && answers
}

fn connect(run_dir: &Path) -> Option<UnixStream> {
    // Not there, nobody listens, or not for us: then the command does, or refuses, it itself.
    UnixStream::connect(run_dir.join(CONTROL)).ok()
}

fn converse(mut stream: UnixStream, request: &Request, mut hear: impl FnMut(Said)) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        hear(serde_json::from_str(&line?)?);
    }
    Ok(())
}

/// Ends a worker that has outlived its supervisor, so that its sockets are free.
pub fn end_orphan(run_dir: &Path) -> Result<(), Failure> {
    let path = worker_path(run_dir);
    let Ok(mut stream) = UnixStream::connect(&path) else { return Ok(()) };
    let mut rest = Vec::new();
    let ended = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.read_to_end(&mut rest));
    match ended {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Failure::new(
            Exit::Failed,
            "the services' process of an earlier serve does not end: kill it (`ss -lnp sport = 53` says which it is)",
        )),
        _ => Ok(()),
    }
}
