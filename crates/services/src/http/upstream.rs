//! The guests that sites are on: whether they live, how busy they are, and connections that wait for the next request.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::network::{Health, ProxyProtocol, Upstream};
use model::sites::choose::Vitals;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::bodies::Up;
use super::decide::{Client, proxy_header};
use super::io::Beside;

/// How long a guest may take to take a connection: it is a hop away.
const DIAL: Duration = Duration::from_secs(3);
/// How long a connection waits for the next request: less than what the servers behind are known to wait (Node.js and
/// Apache 5 s), so that none is closed under a request.
const IDLE: Duration = Duration::from_secs(4);
/// Connections that wait, at most.
const MOST_IDLE: usize = 256;

/// What makes a guest another one: where it is, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The guest's name.
    pub guest: String,
    /// Where it answers.
    pub place: SocketAddr,
    /// What is spoken to it.
    pub upstream: Upstream,
    /// How it is told of the client.
    pub proxy_protocol: ProxyProtocol,
    /// When it counts as dead.
    pub health: Health,
}

/// A guest that sites are on.
#[derive(Debug)]
pub struct Backend {
    /// What it is.
    pub key: Key,
    vitals: Cell<Vitals>,
    /// Whether it is known to be unplugged.
    away: Cell<bool>,
    /// Requests that it has open.
    pub busy: Cell<usize>,
    /// Requests that it was sent.
    pub requests: Cell<u64>,
    /// What it did not answer.
    pub failures: Cell<u64>,
    /// Said when its health should be asked at once.
    pub look: Rc<Notify>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Option<http2::SendRequest<Up>>>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Up>,
    since: Instant,
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The guest takes no connection; the request is here.
    Unreachable(Box<Request<Up>>),
    /// A connection that had waited was closed before the request went; it is here.
    Stale(Box<Request<Up>>),
    /// The request went, and nobody knows what became of it.
    Lost(hyper::Error),
}

impl Backend {
    /// Nothing is known of it yet.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self {
            key,
            vitals: Cell::default(),
            away: Cell::new(false),
            busy: Cell::new(0),
            requests: Cell::new(0),
            failures: Cell::new(0),
            look: Rc::new(Notify::new()),
            idle: RefCell::default(),
            shared: RefCell::default(),
        }
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.away.get() && self.vitals.get().alive()
    }

    /// Whether it is known to be unplugged.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.get()
    }

    /// It was unplugged, or plugged in again: then it is asked at once.
    pub fn set_away(&self, away: bool) {
        if self.away.replace(away) != away {
            self.idle.borrow_mut().clear();
            self.shared.borrow_mut().take();
            self.look.notify_one();
        }
    }

    /// It answered, or did not; whether that makes it live or dead.
    pub fn note(&self, answered: bool) -> Option<bool> {
        if !answered {
            self.failures.set(self.failures.get() + 1);
        }
        let mut vitals = self.vitals.get();
        let changed = vitals.note(answered, &self.key.health);
        self.vitals.set(vitals);
        if changed == Some(false) {
            self.look.notify_one();
        }
        changed
    }

    /// Connections that have waited long enough are closed.
    pub fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE);
        }
    }

    /// The connection that waits for the shortest time and is open.
    fn waiting(&self) -> Option<http1::SendRequest<Up>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let one = idle.pop()?;
            if one.sender.is_ready() && one.since.elapsed() < IDLE {
                return Some(one.sender);
            }
        }
    }

    /// A connection to it, that tells of the client where the guest wants that.
    pub async fn dial(&self, client: &Client) -> io::Result<TcpStream> {
        let mut stream = timeout(DIAL, TcpStream::connect(self.key.place)).await??;
        stream.set_nodelay(true)?;
        let version1 = match self.key.proxy_protocol {
            ProxyProtocol::Off => return Ok(stream),
            version => version == ProxyProtocol::V1,
        };
        stream.write_all(&proxy_header(version1, client.peer, client.local)).await?;
        Ok(stream)
    }
}

/// A guest's connection with a request on it; the guest is busy as long as there is one.
#[derive(Debug)]
pub struct Lease {
    backend: Rc<Backend>,
    sender: Option<http1::SendRequest<Up>>,
}

impl Lease {
    fn new(backend: &Rc<Backend>) -> Self {
        backend.busy.set(backend.busy.get() + 1);
        Self { backend: Rc::clone(backend), sender: None }
    }

    /// The answer is there, and the connection free for the next.
    pub fn give_back(mut self) {
        let Some(sender) = self.sender.take() else { return };
        // A client that the guest is told of has its own connections.
        let shareable = self.backend.key.proxy_protocol == ProxyProtocol::Off;
        let mut idle = self.backend.idle.borrow_mut();
        if shareable && !sender.is_closed() && idle.len() < MOST_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Which guest it is.
    #[must_use]
    pub fn guest(&self) -> &str {
        &self.backend.key.guest
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.busy.set(self.backend.busy.get().saturating_sub(1));
    }
}

/// Sends a request to a guest, by a connection that waits or, where there is none or `fresh` is wanted, by one of its
/// own. `dialled` is told of each that is made.
pub async fn send(
    backend: &Rc<Backend>,
    request: Request<Up>,
    client: &Client,
    fresh: bool,
    dialled: &Cell<u64>,
) -> Result<(Response<Incoming>, Lease), Unanswered> {
    let mut lease = Lease::new(backend);
    backend.requests.set(backend.requests.get() + 1);
    if backend.key.upstream == Upstream::H2c {
        return shared(backend, request, client, lease, dialled).await;
    }
    let waiting = if fresh { None } else { backend.waiting() };
    let had_waited = waiting.is_some();
    let mut sender = match waiting {
        Some(sender) => sender,
        None => {
            dialled.set(dialled.get() + 1);
            let Ok(stream) = backend.dial(client).await else {
                return Err(Unanswered::Unreachable(Box::new(request)));
            };
            let (sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
                Ok(both) => both,
                Err(_) => return Err(Unanswered::Unreachable(Box::new(request))),
            };
            // Its errors are told to who waits for the answer.
            spawn_local(async move { drop(connection.with_upgrades().await) });
            sender
        }
    };
    match sender.try_send_request(request).await {
        Ok(response) => {
            lease.sender = Some(sender);
            Ok((response, lease))
        }
        Err(mut error) => Err(match error.take_message() {
            Some(request) if had_waited => Unanswered::Stale(Box::new(request)),
            Some(request) => Unanswered::Unreachable(Box::new(request)),
            None => Unanswered::Lost(error.into_error()),
        }),
    }
}

/// By the one HTTP/2 connection that a guest has, where it is told of no client.
async fn shared(
    backend: &Rc<Backend>,
    request: Request<Up>,
    client: &Client,
    lease: Lease,
    dialled: &Cell<u64>,
) -> Result<(Response<Incoming>, Lease), Unanswered> {
    let alone = backend.key.proxy_protocol != ProxyProtocol::Off;
    let open = backend.shared.borrow().clone().filter(|sender| !sender.is_closed() && !alone);
    let had_waited = open.is_some();
    let mut sender = match open {
        Some(sender) => sender,
        None => {
            dialled.set(dialled.get() + 1);
            let Ok(stream) = backend.dial(client).await else {
                return Err(Unanswered::Unreachable(Box::new(request)));
            };
            let mut builder = http2::Builder::new(Beside);
            builder.timer(TokioTimer::new()).adaptive_window(true);
            let (sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
                Ok(both) => both,
                Err(_) => return Err(Unanswered::Unreachable(Box::new(request))),
            };
            spawn_local(async move { drop(connection.await) });
            if !alone {
                *backend.shared.borrow_mut() = Some(sender.clone());
            }
            sender
        }
    };
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, lease)),
        Err(mut error) => Err(match error.take_message() {
            Some(request) if had_waited => {
                backend.shared.borrow_mut().take();
                Unanswered::Stale(Box::new(request))
            }
            Some(request) => Unanswered::Unreachable(Box::new(request)),
            None => Unanswered::Lost(error.into_error()),
        }),
    }
}
