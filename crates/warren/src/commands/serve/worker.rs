//! The worker's process: started, told what to serve, started again when it dies.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::services::Services;
use services::channel::{self, Writer};
use services::log;
use services::protocol::{Pair, SocketKey, ToWorker};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::certificates::{Acme, Certificates};
use super::sockets::Held;
use super::{Event, access_log, control, token};
use crate::context::{Exit, Failure};

/// The file of leases, in the state folder.
const LEASES: &str = "leases";
/// How long the worker may take to read a message, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// A worker that dies at once is started again after this, then after twice that, and so on.
const SOON: Duration = Duration::from_millis(50);
/// And at the latest after this.
const LATE: Duration = Duration::from_secs(10);
/// One that lived so long is started again at once.
const HEALTHY: Duration = Duration::from_secs(60);

/// How often the worker is asked for a sign of life.
const SIGN: Duration = Duration::from_secs(2);
/// One that has not said anything when it was asked so often hangs.
const SILENT: u32 = 4;

/// That a worker is gone.
pub struct Gone {
    /// Which one.
    generation: u64,
}

/// The worker, and those that it will be followed by.
pub struct Workers {
    folder: PathBuf,
    events: mpsc::UnboundedSender<Event>,
    /// Where the next supervisor calls the worker.
    takeover: OwnedFd,
    current: Option<Worker>,
    generation: u64,
    /// When the next may be started.
    not_before: Option<Instant>,
    wait: Duration,
}

struct Worker {
    child: Child,
    writer: Writer,
    generation: u64,
    since: Instant,
    sent: BTreeSet<SocketKey>,
    told: Option<(Services, Vec<SocketKey>)>,
    /// The token that it lets in to the web page.
    token: Option<String>,
    /// The access log that it has.
    log: Option<access_log::Which>,
    /// The certificates that it has.
    pairs: Vec<Pair>,
    /// The directory whose account it knows.
    acme: Option<String>,
    /// The guests that it knows to be away.
    away: BTreeSet<String>,
    /// When it is asked for a sign of life next, and how often it was since it gave one.
    sign: Instant,
    silent: u32,
}

fn failed(doing: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {doing}: {error}"))
}

impl Workers {
    /// Nobody yet.
    pub fn new(run_dir: &Path, state_dir: &Path, events: mpsc::UnboundedSender<Event>) -> Result<Self, Failure> {
        let takeover: UnixListener =
            control::bind(&control::worker_path(run_dir)).map_err(|e| failed("make the worker's socket", &e))?;
        Ok(Self {
            folder: state_dir.to_owned(),
            events,
            takeover: takeover.into(),
            current: None,
            generation: 0,
            not_before: None,
            wait: SOON,
        })
    }

    /// Has `services` served by the sockets that are held, by a new worker where there is none. One that cannot be
    /// told is ended, and the next is told.
    pub async fn serve(
        &mut self,
        services: &Services,
        held: &Held,
        certificates: &Certificates,
    ) -> Result<(), Failure> {
        if self.current.is_none() {
            if self.not_before.is_some_and(|at| Instant::now() < at) {
                return Ok(());
            }
            self.current = Some(self.start().map_err(|e| failed("start the services' process", &e))?);
        }
        // Before who asks for them.
        self.acme(certificates.acme()).await;
        self.certificates(certificates.pairs()).await;
        let Some(worker) = &mut self.current else { return Ok(()) };
        match timeout(PATIENCE, tell(worker, &self.takeover, &self.folder, services, held)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                log::error(&format!("cannot tell the services' process what to serve: {e}"));
                worker.kill();
            }
            Err(_) => {
                log::error("the services' process does not listen");
                worker.kill();
            }
        }
        Ok(())
    }

    fn start(&mut self) -> io::Result<Worker> {
        let (ours, theirs) = channel::pair()?;
        let mut command = Command::new("/proc/self/exe");
        // Whatever file lies there by now: this is the program that runs.
        command.arg0("warren").arg("worker").stdin(Stdio::from(theirs)).stdout(Stdio::null()).current_dir("/");
        for name in super::notify::OURS {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let (writer, mut reader) = channel::split(ours)?;
        self.generation += 1;
        let (events, generation) = (self.events.clone(), self.generation);
        spawn_local(async move {
            loop {
                match reader.receive().await {
                    Ok(Some((message, _))) => {
                        let _ = events.send(Event::Said(message));
                    }
                    Ok(None) => break,
                    Err(e) => {
                        log::error(&format!("the services' process speaks nonsense: {e}"));
                        break;
                    }
                }
            }
            let _ = events.send(Event::Gone(Gone { generation }));
        });
        let since = Instant::now();
        Ok(Worker {
            child,
            writer,
            generation,
            since,
            sent: BTreeSet::new(),
            told: None,
            token: None,
            log: None,
            pairs: Vec::new(),
            acme: None,
            away: BTreeSet::new(),
            sign: since + SIGN,
            silent: 0,
        })
    }

    /// A worker is gone: the next one is started soon, or later where that happens again and again.
    pub fn lost(&mut self, gone: Gone) {
        let Some(mut worker) = self.current.take_if(|worker| worker.generation == gone.generation) else { return };
        worker.kill();
        let how = worker.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        self.wait = if worker.since.elapsed() >= HEALTHY { SOON } else { (self.wait * 2).min(LATE) };
        let wait = self.wait;
        log::error(&format!("the services' process ended ({how}); it is started again in {} ms", wait.as_millis()));
        self.not_before = Some(Instant::now() + wait);
        let events = self.events.clone();
        spawn_local(async move {
            sleep(wait).await;
            let _ = events.send(Event::Again);
        });
    }

    /// When the worker is to be asked for a sign of life.
    pub fn due(&self) -> Option<Instant> {
        self.current.as_ref().map(|worker| worker.sign)
    }

    /// The worker has said something.
    pub fn lives(&mut self) {
        if let Some(worker) = &mut self.current {
            worker.silent = 0;
        }
    }

    /// Asks the worker for a sign of life; one that hangs is ended, and the next takes its place. Questions are counted,
    /// and not time: it is not the worker that hangs where we were held up ourselves.
    pub async fn sign(&mut self) {
        let Some(worker) = &mut self.current else { return };
        worker.sign = Instant::now() + SIGN;
        worker.silent += 1;
        if worker.silent > SILENT {
            log::error("the services' process hangs");
            worker.kill();
        } else if !self.ask().await {
            log::error("the services' process does not listen");
            if let Some(worker) = &mut self.current {
                worker.kill();
            }
        }
    }

    /// Asks the worker what there is to tell; false where nobody can be asked.
    pub async fn ask(&mut self) -> bool {
        let Some(worker) = &self.current else { return false };
        matches!(timeout(PATIENCE, worker.writer.send(&ToWorker::Ask, None)).await, Ok(Ok(())))
    }

    /// Tells the worker what is kept of a directory of ACME, once.
    async fn acme(&mut self, known: Option<&Acme>) {
        let Some(known) = known else { return };
        let Some(worker) = self.current.as_mut() else { return };
        if worker.acme.as_ref() == Some(&known.directory) {
            return;
        }
        let message = ToWorker::Acme { account: known.account.clone(), roots: known.roots.clone() };
        match timeout(PATIENCE, worker.writer.send(&message, None)).await {
            Ok(Ok(())) => worker.acme = Some(known.directory.clone()),
            // One that was interrupted within a message understands no other.
            _ => worker.kill(),
        }
    }

    /// Gives the worker the certificates, where they are others than it has.
    pub async fn certificates(&mut self, pairs: Vec<Pair>) {
        let Some(worker) = self.current.as_mut().filter(|worker| worker.pairs != pairs) else { return };
        match timeout(PATIENCE, worker.writer.send(&ToWorker::Certificates(pairs.clone()), None)).await {
            Ok(Ok(())) => worker.pairs = pairs,
            // One that was interrupted within a message understands no other.
            _ => worker.kill(),
        }
    }

    /// Tells the worker the state that it wants; an empty one where it could not be found out.
    pub async fn state(&mut self, document: String) {
        let Some(worker) = &mut self.current else { return };
        let sent = timeout(PATIENCE, worker.writer.send(&ToWorker::State(document), None)).await;
        if !matches!(sent, Ok(Ok(()))) {
            // One that was interrupted within a message understands no other.
            worker.kill();
        }
    }

    /// How many were started after the first.
    pub fn restarts(&self) -> u64 {
        self.generation.saturating_sub(1)
    }

    /// Tells the worker which guests are unplugged.
    pub async fn away(&mut self, guests: BTreeSet<String>) {
        let Some(worker) = self.current.as_mut().filter(|worker| worker.away != guests) else { return };
        let sent = timeout(PATIENCE, worker.writer.send(&ToWorker::Away(guests.clone()), None)).await;
        match sent {
            Ok(Ok(())) => worker.away = guests,
            // One that was interrupted within a message understands no other.
            _ => worker.kill(),
        }
    }

    /// Gives the worker its leases in a file that holds no more than those.
    pub async fn leases_anew(&mut self) {
        let Some(worker) = &self.current else { return };
        let sent = match leases(&self.folder) {
            Ok(file) => timeout(PATIENCE, worker.writer.send(&ToWorker::Leases, Some(file.as_fd()))).await,
            Err(e) => {
                log::error(&format!("cannot write the leases anew: {e}"));
                return;
            }
        };
        // One that does not listen is seen when it is told what to serve.
        drop(sent);
    }

    /// Ends the worker by `how`: asks it, and kills it where it does not listen.
    pub async fn end(&mut self, how: ToWorker) {
        let Some(mut worker) = self.current.take() else { return };
        let asked = timeout(PATIENCE, worker.writer.send(&how, None)).await;
        let begun = Instant::now();
        while matches!(asked, Ok(Ok(()))) && begun.elapsed() < PATIENCE {
            if !matches!(worker.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        worker.kill();
        // It is killed, and nobody else waits for it.
        let _ = worker.child.wait();
    }
}

async fn tell(
    worker: &mut Worker,
    takeover: &OwnedFd,
    folder: &Path,
    services: &Services,
    held: &Held,
) -> io::Result<()> {
    if let Some(web) = &services.web {
        let path = token::path(web, folder);
        match token::read(&path) {
            Ok(token) if worker.token.as_ref() != Some(&token) => {
                worker.writer.send(&ToWorker::Token(token.clone()), None).await?;
                worker.token = Some(token);
            }
            Ok(_) => {}
            Err(e) => log::error(&format!("cannot use the web page's token {}: {e}", path.display())),
        }
    }
    match access_log::open(&services.sites, worker.log) {
        Ok(None) => {}
        Ok(Some((file, which))) => {
            worker.writer.send(&ToWorker::AccessLog, Some(file.as_fd())).await?;
            worker.log = Some(which);
        }
        Err(e) => log::error(&format!("cannot open the access log: {e}")),
    }
    let keys: Vec<SocketKey> = held.0.keys().cloned().collect();
    let is_told = worker.told.as_ref().is_some_and(|(told, sockets)| told == services && *sockets == keys);
    if is_told {
        return Ok(());
    }
    if worker.told.is_none() {
        worker.writer.send(&ToWorker::Takeover, Some(takeover.as_fd())).await?;
        worker.writer.send(&ToWorker::Leases, Some(leases(folder)?.as_fd())).await?;
    }
    for (key, socket) in &held.0 {
        if worker.sent.insert(key.clone()) {
            worker.writer.send(&ToWorker::Socket(key.clone()), Some(socket.as_fd())).await?;
        }
    }
    worker.sent.retain(|key| held.0.contains_key(key));
    let message = ToWorker::Serve { services: Box::new(services.clone()), sockets: keys.clone() };
    worker.writer.send(&message, None).await?;
    worker.told = Some((services.clone(), keys));
    Ok(())
}

impl Worker {
    fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
    }
}

/// The file of leases, open for reading and appending, with no more lines than leases. The new one is put in the old
/// one's place whole: whatever happens, one of the two is there.
fn leases(folder: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (path, beside) = (folder.join(LEASES), folder.join(format!("{LEASES}.new")));
    let text = match fs::read(&path) {
        // What is no text is a torn line, and passed over as one.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let lines: String = services::dhcp::leases::read(&text, now).iter().map(services::dhcp::leases::line).collect();
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(&beside)?;
    // One that an earlier attempt has left.
    file.set_len(0)?;
    file.write_all(lines.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(file.into())
}
