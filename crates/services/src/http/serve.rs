//! Listeners and connections of clients.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::network::Http as Limits;
use model::sites::Sites;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::decide::Client;
use super::io::{Beside, BreakOff, Patient, UnderWay};
use super::live::Live;
use super::pipes::{Bypass, Pipes, Plain};
use super::proxy;
use super::record::Log;
use super::tls::{self, Begins};
use super::tls_accept;
use super::tls_keys::Keys;
use super::upstream::Backend;
use crate::log;
use crate::protocol::{BackendShown, HttpCounts};

/// Requests that a connection of HTTP/2 may have open.
const MOST_STREAMS: u32 = 128;
/// What of an answer waits for a client of HTTP/2, in bytes a stream.
const SEND_BUFFER: usize = 128 << 10;
/// What of an answer waits for a client of HTTP/1.1, in bytes, and with it the longest head that is read: as many slow
/// readers as there may be connections must find room.
const MOST_WAITING: usize = 128 << 10;
/// What may stand behind a head in the same read, in bytes.
const READ_AHEAD: usize = 16 << 10;
/// How long those who are being answered are waited for at the end, and how often they are looked after: well within
/// what the supervisor waits for a worker.
const LAST_ANSWERS: Duration = Duration::from_secs(7);
const PACE: Duration = Duration::from_millis(10);
/// How long nobody is taken when there are no descriptors left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The service, shared by its listeners.
#[derive(Debug, Default)]
pub struct Http {
    live: RefCell<Rc<Live>>,
    away: RefCell<BTreeSet<String>>,
    counts: Cell<HttpCounts>,
    /// Connections to guests that were made.
    pub dialled: Cell<u64>,
    clients: RefCell<HashMap<IpAddr, u64>>,
    /// Certificates.
    pub keys: Rc<Keys>,
    requests: Rc<Log>,
    pipes: Arc<Pipes>,
    /// Requests that are being answered, and connections whose client is waited for to take what was written.
    under_way: Arc<AtomicUsize>,
    ending: Cell<bool>,
    bounded: log::Bounded,
}

impl Http {
    /// Serves these sites from now on. Connections stay; each next request is answered by what holds then.
    pub fn configure(&self, sites: &Sites) {
        let before = self.live();
        if before.sites != *sites {
            *self.live.borrow_mut() = Rc::new(Live::follow(&before, sites, &self.away.borrow()));
        }
    }

    /// Which guests are unplugged.
    pub fn away(&self, guests: BTreeSet<String>) {
        self.live().away(&guests);
        *self.away.borrow_mut() = guests;
    }

    /// Writes requests down in that file.
    pub fn write_to(&self, file: OwnedFd) {
        self.requests.write_to(File::from(file));
    }

    /// What is served now.
    #[must_use]
    pub fn live(&self) -> Rc<Live> {
        Rc::clone(&self.live.borrow())
    }

    /// Where requests are written down.
    #[must_use]
    pub fn log(&self) -> Rc<Log> {
        Rc::clone(&self.requests)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> HttpCounts {
        HttpCounts { dialled: self.dialled.get(), ..self.counts.get() }
    }

    /// The guests, for people.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendShown> {
        let shown = |backend: &Rc<Backend>| BackendShown {
            guest: backend.key.guest.clone(),
            port: backend.key.place.port(),
            alive: backend.is_usable(),
            busy: backend.busy.get(),
            requests: backend.requests.get(),
            failures: backend.failures.get(),
        };
        self.live().backends.iter().map(shown).collect()
    }

    /// Whether the service ends: then no connection is kept for another request.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// A request begins to be answered.
    pub(super) fn begins(&self) -> UnderWay {
        UnderWay::new(&self.under_way)
    }

    /// Waits until those who are being answered are, but not for ever. Connections on which nothing is asked are not
    /// waited for, and neither is what is no HTTP any more.
    pub async fn finish(&self) {
        self.ending.set(true);
        let begun = Instant::now();
        while self.under_way.load(Ordering::Relaxed) > 0 && begun.elapsed() < LAST_ANSWERS {
            sleep(PACE).await;
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut HttpCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(super) fn answered(&self, status: StatusCode) {
        let sort = usize::from(status.as_u16() / 100).saturating_sub(1);
        self.count(|counts| counts.answers.get_mut(sort).into_iter().for_each(|count| *count += 1));
    }

    /// A guest did not take a request.
    pub(super) fn no_answer(&self, backend: &Backend) {
        if backend.note(false) == Some(false) {
            let (guest, port) = (&backend.key.guest, backend.key.place.port());
            self.bounded.warn("guest-dead", || format!("sites: {guest}:{port} does not answer: sites pass it over"));
        }
    }

    /// A place among the connections, where there is one.
    fn admit(self: &Rc<Self>, client: IpAddr) -> Option<Place> {
        let live = self.live();
        let client = counted(client);
        let mut clients = self.clients.borrow_mut();
        let own = clients.get(&client).copied().unwrap_or_default();
        let full = self.counts.get().open >= live.sites.http.max_connections
            || own >= live.sites.http.max_connections_per_client;
        self.count(|counts| {
            counts.connections += 1;
            if full { counts.limited += 1 } else { counts.open += 1 }
        });
        if full {
            self.bounded.warn("http-limited", || format!("sites: {client} has no more connections left: closed"));
            return None;
        }
        clients.insert(client, own + 1);
        Some(Place { http: Rc::clone(self), client })
    }
}

/// Whose connections are counted as one's: of IPv6 a network of 64 bits.
fn counted(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A place among the connections.
#[derive(Debug)]
struct Place {
    http: Rc<Http>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.http.count(|counts| counts.open = counts.open.saturating_sub(1));
        let mut clients = self.http.clients.borrow_mut();
        if let Some(own) = clients.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Takes clients until it is dropped; their connections live on then.
pub async fn listen(http: Rc<Http>, socket: std::net::TcpListener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from_std(socket)?;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = http.admit(peer.ip()) else { continue };
                let http = Rc::clone(&http);
                spawn_local(async move {
                    // Whatever ends a connection is the client's business.
                    let _ = connection(&http, stream, peer).await;
                    drop(place);
                });
            }
            // Of one that went away meanwhile.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(e) => {
                http.bounded.warn("http-accept", || format!("sites: cannot take a connection: {e}"));
                sleep(NO_DESCRIPTORS).await;
            }
        }
    }
}

async fn connection(http: &Rc<Http>, stream: TcpStream, peer: std::net::SocketAddr) -> io::Result<()> {
    let local = stream.local_addr()?;
    stream.set_nodelay(true)?;
    let patience = Duration::from_millis(http.live().sites.http.timeout);
    let Ok(begins) = timeout(patience, tls::begins(&stream)).await else { return Ok(()) };
    let begins = begins?;
    if begins == Begins::Tls {
        return tls_accept::accept(http, stream, peer, local, patience).await;
    }
    let client = Client::new(peer, local, None);
    if begins == Begins::Http2 {
        return converse(http, stream, client, true, None).await;
    }
    let bypass = Bypass::new(&http.pipes);
    converse(http, Plain::new(stream, Arc::clone(&bypass)), client, false, Some(bypass)).await
}

/// Answers a client's requests until one of both ends the connection. By `bypass` long answers go past us.
pub async fn converse<S>(
    http: &Rc<Http>,
    stream: S,
    client: Client,
    http2: bool,
    bypass: Option<Arc<Bypass>>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + BreakOff + Unpin + Send + 'static,
{
    let limits = http.live().sites.http.clone();
    let patience = Duration::from_millis(limits.timeout);
    let stream = TokioIo::new(Patient::new(stream, patience, Arc::clone(&http.under_way)));
    let client = Rc::new(client);
    if http2 {
        return streams(http, stream, client, &limits).await;
    }
    let service = service_fn(|request: Request<Incoming>| {
        let (http, client) = (Rc::clone(http), Rc::clone(&client));
        let bypass = bypass.clone();
        async move {
            let mut response = proxy::answer(&http, &client, request).await;
            bypass.iter().for_each(|bypass| response.body_mut().bypasses(bypass));
            Ok::<_, Infallible>(response)
        }
    });
    // A hundred header lines are hyper's own most; another number would be searched room for with each request.
    let longest = usize::try_from(limits.max_header).unwrap_or(usize::MAX);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_header_size(longest)
        .max_buf_size(longest.saturating_add(READ_AHEAD).max(MOST_WAITING))
        .half_close(false)
        // What stands for bytes in a pipe must not be copied.
        .writev(true);
    let connection = builder.serve_connection(stream, service);
    connection.with_upgrades().await.map_err(io::Error::other)
}

/// By HTTP/2, many at a time. A connection on which nothing is asked for a while is ended.
async fn streams<S>(http: &Rc<Http>, stream: TokioIo<S>, client: Rc<Client>, limits: &Limits) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let patience = Duration::from_millis(limits.timeout);
    let busy = Rc::new(Busy::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (http, client, open) = (Rc::clone(http), Rc::clone(&client), Busy::begin(&busy));
        async move {
            let mut response = proxy::answer(&http, &client, request).await;
            response.body_mut().keeps(open);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http2::Builder::new(Beside);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_header).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Some(patience))
        .keep_alive_timeout(patience);
    let mut connection = pin!(builder.serve_connection(stream, service));
    loop {
        let since = busy.asked.get();
        match timeout(patience, connection.as_mut()).await {
            Ok(ended) => return ended.map_err(io::Error::other),
            Err(_) if busy.open.get() == 0 && busy.asked.get() == since => {
                connection.as_mut().graceful_shutdown();
                // Who does not even take the goodbye is left.
                let ended = timeout(patience, connection).await;
                return ended.unwrap_or(Ok(())).map_err(io::Error::other);
            }
            Err(_) => {}
        }
    }
}

/// What is open on a connection.
#[derive(Debug, Default)]
struct Busy {
    open: Cell<usize>,
    asked: Cell<u64>,
}

/// A request that is open on a connection.
#[derive(Debug)]
pub struct Open(Rc<Busy>);

impl Busy {
    fn begin(busy: &Rc<Self>) -> Open {
        busy.open.set(busy.open.get() + 1);
        busy.asked.set(busy.asked.get() + 1);
        Open(Rc::clone(busy))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}
