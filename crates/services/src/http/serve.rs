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
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::sites::Sites;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep, timeout};

use super::decide::Client;
use super::io::{Beside, Patient};
use super::live::Live;
use super::proxy;
use super::record::Log;
use super::tls_keys::Keys;
use super::upstream::Backend;
use super::{tls, tls_accept};
use crate::log;
use crate::protocol::{BackendShown, HttpCounts};

/// Requests that a client of HTTP/2 may have open on a connection: browsers use up to 100.
const MOST_STREAMS: u32 = 128;
/// Header lines of a request.
const MOST_HEADERS: usize = 128;
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
    pub keys: Keys,
    requests: Rc<Log>,
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
    let Ok(hello) = timeout(patience, tls::is_hello(&stream)).await else { return Ok(()) };
    if hello? {
        return tls_accept::accept(http, stream, peer, local, patience).await;
    }
    converse(http, stream, Client { peer, local, secure: None }).await
}

/// Answers a client's requests, one after the other.
pub async fn converse<S>(http: &Rc<Http>, stream: S, client: Client) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = http.live().sites.http.clone();
    let patience = Duration::from_millis(limits.timeout);
    let most = usize::try_from(limits.max_header).unwrap_or(usize::MAX);
    let is_http2 = client.secure.as_ref().is_some_and(|secure| secure.http2);
    let client = Rc::new(client);
    let asked = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        asked.set(true);
        let (http, client) = (Rc::clone(http), Rc::clone(&client));
        async move { Ok::<_, Infallible>(proxy::answer(&http, &client, request).await) }
    });
    let stream = TokioIo::new(Patient::new(stream, patience));
    if is_http2 {
        let mut builder = http2::Builder::new(Beside);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(u32::try_from(most).unwrap_or(u32::MAX))
            .keep_alive_interval(patience)
            .keep_alive_timeout(patience);
        let mut connection = pin!(builder.serve_connection(stream, service));
        let mut clock = interval(patience);
        let mut quiet = 0;
        loop {
            tokio::select! {
                ended = &mut connection => return ended.map_err(io::Error::other),
                _ = clock.tick() => {
                    quiet = if asked.replace(false) { 0 } else { quiet + 1 };
                    // What is open is answered to its end; nothing new begins here.
                    if quiet == 3 {
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(MOST_HEADERS)
        .max_header_size(most)
        .half_close(false);
    let connection = builder.serve_connection(stream, service);
    connection.with_upgrades().await.map_err(io::Error::other)
}
