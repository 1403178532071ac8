//! The guests that sites are on: whether they live, how busy they are, and connections that wait for the next request.
//! Requests without a body go straight to them (`direct`); what has one, an upgrade and HTTP/2 are hyper's.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::network::{Health, ProxyProtocol, Upstream};
use model::sites::choose::Vitals;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::bodies::{Source, Up};
use super::decide::{Client, proxy_header};
use super::direct::{Flow, Loss, Wire};
use super::io::Beside;
use super::wire::write_head;

/// How long a guest may take to take a connection: it is a hop away.
const DIAL: Duration = Duration::from_secs(3);
/// How long a connection waits for the next request: less than what the servers behind are known to wait (Node.js and
/// Apache 5 s), so that none is closed under a request.
const IDLE: Duration = Duration::from_secs(4);
/// Bytes of most requests' heads, and few enough for malloc to have them at hand (tcache of malloc(3)).
const HEAD: usize = 1000;
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
    /// Hyper's, and those that requests without a body go by.
    idle: RefCell<Vec<Idle<http1::SendRequest<Up>>>>,
    wires: RefCell<Vec<Idle<Wire>>>,
    shared: RefCell<Option<http2::SendRequest<Up>>>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
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
    Lost {
        /// What went, where it is here still.
        request: Option<Box<Request<Up>>>,
        /// Whether its own body's end was the cause.
        cut: bool,
    },
}

impl Unanswered {
    fn lost(error: &hyper::Error) -> Self {
        Self::Lost { request: None, cut: error.is_user() || error.is_body_write_aborted() }
    }
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
            wires: RefCell::default(),
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
            self.wires.borrow_mut().clear();
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
        self.idle.borrow_mut().retain(|idle| !idle.connection.is_closed() && idle.since.elapsed() < IDLE);
        self.wires.borrow_mut().retain(|idle| idle.connection.is_quiet() && idle.since.elapsed() < IDLE);
    }

    /// The connection that waits for the shortest time and is open, of hyper's.
    fn waiting(&self) -> Option<http1::SendRequest<Up>> {
        latest(&self.idle, |sender| sender.is_ready())
    }

    /// The same, of those for requests without a body.
    fn waiting_wire(&self) -> Option<Wire> {
        latest(&self.wires, Wire::is_quiet)
    }

    /// Whether its connections are every client's. One that it is told of by the PROXY protocol has its own.
    fn is_shareable(&self) -> bool {
        self.key.proxy_protocol == ProxyProtocol::Off
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

fn latest<C>(idle: &RefCell<Vec<Idle<C>>>, is_open: impl Fn(&C) -> bool) -> Option<C> {
    let mut idle = idle.borrow_mut();
    loop {
        let one = idle.pop()?;
        if is_open(&one.connection) && one.since.elapsed() < IDLE {
            return Some(one.connection);
        }
    }
}

fn wait<C>(idle: &RefCell<Vec<Idle<C>>>, connection: C) {
    let mut idle = idle.borrow_mut();
    if idle.len() < MOST_IDLE {
        idle.push(Idle { connection, since: Instant::now() });
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
        if let Some(sender) = self.sender.take()
            && self.backend.is_shareable()
            && !sender.is_closed()
        {
            wait(&self.backend.idle, sender);
        }
    }

    /// The same, of one that the answer's body had.
    pub fn give_back_wire(self, wire: Wire) {
        if self.backend.is_shareable() {
            wait(&self.backend.wires, wire);
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
    request: Box<Request<Up>>,
    client: &Client,
    fresh: bool,
    dialled: &Cell<u64>,
) -> Result<(Response<Source>, Lease), Unanswered> {
    let lease = Lease::new(backend);
    backend.requests.set(backend.requests.get() + 1);
    if backend.key.upstream == Upstream::H2c {
        return Box::pin(shared(backend, request, client, lease, dialled)).await;
    }
    if is_direct(&request) {
        return direct(backend, request, client, fresh, lease, dialled).await;
    }
    // What is rare takes no room in every request's state.
    Box::pin(by_hyper(backend, request, client, fresh, lease, dialled)).await
}

/// By a connection of hyper's.
async fn by_hyper(
    backend: &Rc<Backend>,
    request: Box<Request<Up>>,
    client: &Client,
    fresh: bool,
    mut lease: Lease,
    dialled: &Cell<u64>,
) -> Result<(Response<Source>, Lease), Unanswered> {
    let waiting = if fresh { None } else { backend.waiting() };
    let had_waited = waiting.is_some();
    let mut sender = match waiting {
        Some(sender) => sender,
        None => {
            dialled.set(dialled.get() + 1);
            let Ok(stream) = backend.dial(client).await else {
                return Err(Unanswered::Unreachable(request));
            };
            let (sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
                Ok(both) => both,
                Err(_) => return Err(Unanswered::Unreachable(request)),
            };
            // Its errors are told to who waits for the answer.
            spawn_local(async move { drop(connection.with_upgrades().await) });
            sender
        }
    };
    match sender.try_send_request(*request).await {
        Ok(mut response) => {
            let headers = response.headers_mut();
            // Who frames an answer in two ways is not asked again by this connection (RFC 9112, 6.3).
            if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
                headers.remove(CONTENT_LENGTH);
            } else {
                lease.sender = Some(sender);
            }
            Ok((response.map(Source::Hyper), lease))
        }
        Err(mut error) => Err(match error.take_message() {
            Some(request) if had_waited => Unanswered::Stale(request.into()),
            Some(request) => Unanswered::Unreachable(request.into()),
            None => Unanswered::lost(&error.into_error()),
        }),
    }
}

/// Whether a request to a guest that speaks HTTP/1.1 is its head alone.
#[must_use]
pub fn is_direct(request: &Request<Up>) -> bool {
    let empty = |length: &http::HeaderValue| length.as_bytes() == b"0";
    let headers = request.headers();
    matches!(request.body(), Up::Nothing)
        && !headers.contains_key(UPGRADE)
        && headers.get_all(CONTENT_LENGTH).iter().all(empty)
}

/// Straight to a guest.
async fn direct(
    backend: &Rc<Backend>,
    request: Box<Request<Up>>,
    client: &Client,
    fresh: bool,
    lease: Lease,
    dialled: &Cell<u64>,
) -> Result<(Response<Source>, Lease), Unanswered> {
    let waiting = if fresh { None } else { backend.waiting_wire() };
    let had_waited = waiting.is_some();
    let mut wire = match waiting {
        Some(wire) => wire,
        None => {
            dialled.set(dialled.get() + 1);
            match Box::pin(backend.dial(client)).await {
                Ok(stream) => Wire::new(stream),
                Err(_) => return Err(Unanswered::Unreachable(request)),
            }
        }
    };
    let mut bytes = Vec::with_capacity(HEAD);
    write_head(&mut bytes, &request);
    match wire.ask(&bytes, request.method()).await {
        Ok(answer) => {
            let flow = Flow::new(wire, answer.framing, answer.keeps);
            let mut response = Response::new(Source::Direct(Box::new(flow)));
            (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
            Ok((response, lease))
        }
        Err(Loss::Unsent) if had_waited => Err(Unanswered::Stale(request)),
        Err(Loss::Unsent) => Err(Unanswered::Unreachable(request)),
        Err(Loss::Sent) => Err(Unanswered::Lost { request: Some(request), cut: false }),
    }
}

/// By the one HTTP/2 connection that a guest has, where it is told of no client.
async fn shared(
    backend: &Rc<Backend>,
    request: Box<Request<Up>>,
    client: &Client,
    lease: Lease,
    dialled: &Cell<u64>,
) -> Result<(Response<Source>, Lease), Unanswered> {
    let alone = backend.key.proxy_protocol != ProxyProtocol::Off;
    let open = backend.shared.borrow().clone().filter(|sender| !sender.is_closed() && !alone);
    let had_waited = open.is_some();
    let mut sender = match open {
        Some(sender) => sender,
        None => {
            dialled.set(dialled.get() + 1);
            let Ok(stream) = backend.dial(client).await else {
                return Err(Unanswered::Unreachable(request));
            };
            let mut builder = http2::Builder::new(Beside);
            builder.timer(TokioTimer::new()).adaptive_window(true);
            let (sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
                Ok(both) => both,
                Err(_) => return Err(Unanswered::Unreachable(request)),
            };
            spawn_local(async move { drop(connection.await) });
            if !alone {
                *backend.shared.borrow_mut() = Some(sender.clone());
            }
            sender
        }
    };
    match sender.try_send_request(*request).await {
        Ok(response) => Ok((response.map(Source::Hyper), lease)),
        Err(mut error) => Err(match error.take_message() {
            Some(request) if had_waited => {
                backend.shared.borrow_mut().take();
                Unanswered::Stale(request.into())
            }
            Some(request) => Unanswered::Unreachable(request.into()),
            None => Unanswered::lost(&error.into_error()),
        }),
    }
}
