//! The process without privileges that reads what others send. It is handed its sockets, and holds no state that
//! would be missed but the file of leases.
//!
//! When its supervisor goes away without a word it serves on, and ends as soon as the next one calls.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use kernel::confine::{Confined, confine};
use model::address::IfName;
use model::services::Services;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};

use crate::channel::{self, Reader, Writer};
use crate::dhcp::serve::{self as dhcp, Changed, Leases};
use crate::dns::decide::Zone;
use crate::dns::serve::{self as dns, Dns};
use crate::http::serve::{self as http, Http};
use crate::http::tls_acme::Acme;
use crate::log;
use crate::protocol::{FromWorker, Purpose, SocketKey, Status, ToWorker};
use crate::ra::serve::{self as ra, Routers};
use crate::socks::serve::{self as socks, Door};
use crate::web::serve::{self as web, Web};

/// Why the worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not give up its privileges.
    #[error(transparent)]
    Confine(#[from] kernel::error::KernelError),
    /// A system call.
    #[error("the services' process: {0}")]
    Io(#[from] io::Error),
    /// A service ended that never should.
    #[error("the service {0} ended")]
    Ended(String),
}

/// More than this is asked of no kernel.
const MOST_DESCRIPTORS: u64 = 65_536;

/// Serves what the supervisor at the other end of `end` says, until it says that it is enough. The calling process
/// must have one thread.
pub fn run(end: OwnedFd) -> Result<(), WorkerError> {
    // Whoever looks for who listens finds a name; without one the process works as well.
    let _ = rustix::thread::set_name(c"warren");
    let confined = confine()?;
    more_descriptors();
    // Not a LocalSet in a runtime: each task that it wakes makes a system call, to wake a thread that is awake.
    let runtime = Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    let successor = runtime.block_on(serve(end, &confined));
    log::flush();
    let successor = successor?;
    // By its end the successor sees ours, and our sockets are closed before it.
    drop(runtime);
    drop(successor);
    Ok(())
}

/// As many as it may have: each question to the world takes one, each request of a site's two, each client of the door six.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum.map_or(MOST_DESCRIPTORS, |most| most.min(MOST_DESCRIPTORS));
    // Where that is refused, there are fewer questions at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) });
}

struct Worker {
    dns: Rc<Dns>,
    http: Rc<Http>,
    acme: Rc<Acme>,
    /// What is to be kept by the supervisor.
    keep: mpsc::UnboundedSender<FromWorker>,
    leases: Rc<Leases>,
    routers: Rc<Routers>,
    door: Rc<Door>,
    web: Rc<Web>,
    /// Sockets that were sent and are not served yet.
    waiting: BTreeMap<SocketKey, OwnedFd>,
    /// Those that are served.
    served: BTreeMap<SocketKey, JoinHandle<()>>,
    /// What a service says when it ends.
    ended: mpsc::UnboundedSender<String>,
    services: watch::Sender<Rc<Services>>,
}

/// Serves until it is told to end; the connection of who has told it, where that was a successor.
async fn serve(end: OwnedFd, confined: &Confined) -> Result<Option<UnixStream>, WorkerError> {
    let (writer, mut reader) = channel::split(end)?;
    let (ended, mut ends) = mpsc::unbounded_channel();
    let (takeover, mut taken_over) = mpsc::unbounded_channel();
    let (keep, mut keeps) = mpsc::unbounded_channel();
    let (changed, mut changes) = mpsc::unbounded_channel();
    let (wants, mut wanted) = mpsc::unbounded_channel();
    let http = Rc::<Http>::default();
    let mut worker = Worker {
        dns: Rc::default(),
        acme: Rc::new(Acme::new(Rc::clone(&http.keys))),
        http,
        keep,
        leases: Rc::new(Leases::new(changed)),
        routers: Rc::default(),
        door: Rc::default(),
        web: Rc::new(Web::new(wants)),
        waiting: BTreeMap::new(),
        served: BTreeMap::new(),
        ended,
        services: watch::Sender::new(Rc::default()),
    };
    let mut supervised = true;
    loop {
        tokio::select! {
            message = receive(&mut reader), if supervised => match message? {
                Some((ToWorker::End, _)) => return Ok(None),
                Some((ToWorker::Finish, _)) => {
                    worker.finish().await;
                    return Ok(None);
                }
                Some((ToWorker::Takeover, Some(listener))) => await_successor(listener, takeover.clone())?,
                Some((message, along)) => worker.told(message, along, &writer, confined).await?,
                None => {
                    log::warn("the supervisor is gone: names and leases are served on, nothing is repaired");
                    supervised = false;
                    worker.web.alone();
                }
            },
            Some(message) = keeps.recv(), if supervised => writer.send(&message, None).await?,
            Some(change) = changes.recv() => match change {
                Changed::Names(bridge) => worker.rename(&bridge),
                Changed::Long if supervised => writer.send(&FromWorker::LongLeases, None).await?,
                Changed::Long => {}
            },
            Some(()) = wanted.recv(), if supervised => writer.send(&FromWorker::WantsState, None).await?,
            Some(successor) = taken_over.recv() => return Ok(Some(successor)),
            Some(which) = ends.recv() => return Err(WorkerError::Ended(which)),
        }
    }
}

async fn receive(reader: &mut Reader) -> io::Result<Option<(ToWorker, Option<OwnedFd>)>> {
    reader.receive().await
}

/// Whoever may connect there is the next supervisor: the socket's folder is root's alone.
fn await_successor(listener: OwnedFd, said: mpsc::UnboundedSender<UnixStream>) -> io::Result<()> {
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    spawn_local(async move {
        loop {
            match listener.accept().await.and_then(|(connection, _)| connection.into_std()) {
                Ok(connection) => drop(said.send(connection)),
                // Gone before it was accepted, or no descriptor is left: both pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(())
}

impl Worker {
    async fn told(
        &mut self,
        message: ToWorker,
        along: Option<OwnedFd>,
        writer: &Writer,
        confined: &Confined,
    ) -> Result<(), WorkerError> {
        match (message, along) {
            (ToWorker::Socket(key), Some(socket)) => {
                self.waiting.insert(key, socket);
            }
            (ToWorker::Serve { services, sockets }, _) => {
                self.serve(*services, &sockets.into_iter().collect())?;
                writer.send(&FromWorker::Serving, None).await?;
                // Most of what has run by now ran for the first and the last time.
                kernel::memory::let_go_of_code();
            }
            (ToWorker::Ask, _) => {
                let status = Status {
                    pid: std::process::id(),
                    uid: confined.uid,
                    landlock: confined.landlock,
                    dns: self.dns.counts(),
                    dhcp: self.leases.counts(),
                    ra: self.routers.counts(),
                    leases: self.leases.shown(),
                    socks: self.door.counts(),
                    http: self.http.counts(),
                    backends: self.http.backends(),
                    certificates: self.http.keys.shown(),
                };
                writer.send(&FromWorker::Status(Box::new(status)), None).await?;
            }
            (ToWorker::Token(token), _) => self.web.let_in(token),
            (ToWorker::State(document), _) => self.web.told(document),
            (ToWorker::Leases, Some(file)) => self.leases.remember_in(file)?,
            (ToWorker::AccessLog, Some(file)) => self.http.write_to(file),
            (ToWorker::Acme { account, roots }, _) => self.acme.known(account, roots),
            (ToWorker::Certificates(pairs), _) => self.http.keys.configure(pairs),
            (ToWorker::Away(guests), _) => self.http.away(guests),
            (ToWorker::Leases | ToWorker::AccessLog | ToWorker::Takeover | ToWorker::Socket(_), _)
            | (ToWorker::End | ToWorker::Finish, _) => {}
        }
        Ok(())
    }

    /// Takes no new client of a site's, and waits for those who are being answered.
    async fn finish(&mut self) {
        self.served.iter().filter(|(key, _)| key.purpose == Purpose::Http).for_each(|(_, task)| task.abort());
        self.http.finish().await;
    }

    /// First what is served, then by whom: no socket answers with what is not there yet.
    fn serve(&mut self, services: Services, sockets: &BTreeSet<SocketKey>) -> io::Result<()> {
        let services = Rc::new(services);
        self.dns.configure(&services);
        self.leases.configure(&services);
        self.door.configure(services.socks.as_ref());
        self.web.configure(&services);
        self.http.configure(&services.sites);
        let resolvers: BTreeSet<IpAddr> = services.lans.iter().flat_map(|lan| lan.upstreams.clone()).collect();
        self.acme.configure(&services.sites, resolvers.into_iter().collect(), &self.keep);
        self.services.send_replace(Rc::clone(&services));
        services.lans.iter().for_each(|lan| self.rename(&lan.bridge));
        self.served.retain(|key, task| {
            let stays = sockets.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
        self.waiting.retain(|key, _| sockets.contains(key));
        let new: Vec<SocketKey> = self.waiting.keys().cloned().collect();
        for key in new {
            if let Some(task) = self.begin(&key) {
                self.served.insert(key, task);
            }
        }
        Ok(())
    }

    /// The names of a LAN, those of its clients behind the file's.
    fn rename(&self, bridge: &IfName) {
        let services = Rc::clone(&self.services.borrow());
        let Some(lan) = services.lan(bridge) else { return };
        let names = self.leases.names(bridge);
        let names = names.iter().map(|(name, address)| (name.as_str(), *address));
        self.dns.rename(bridge, Zone::of(lan, names));
    }

    /// Begins to serve a socket; those that belong to another one's service go with it.
    fn begin(&mut self, key: &SocketKey) -> Option<JoinHandle<()>> {
        if key.purpose == Purpose::Socks {
            let socket = TcpListener::from(self.waiting.remove(key)?);
            return Some(self.watch(key, socks::serve(Rc::clone(&self.door), Rc::clone(&self.dns), socket)));
        }
        if key.purpose == Purpose::Web {
            let socket = TcpListener::from(self.waiting.remove(key)?);
            return Some(self.watch(key, web::serve(Rc::clone(&self.web), socket)));
        }
        if key.purpose == Purpose::Http {
            let socket = TcpListener::from(self.waiting.remove(key)?);
            return Some(self.watch(key, http::listen(Rc::clone(&self.http), socket)));
        }
        let bridge = key.bridge.clone()?;
        match key.purpose {
            Purpose::DnsUdp => {
                let socket = UdpSocket::from(self.waiting.remove(key)?);
                Some(self.watch(key, dns::udp(Rc::clone(&self.dns), bridge, socket)))
            }
            Purpose::DnsTcp => {
                let socket = TcpListener::from(self.waiting.remove(key)?);
                Some(self.watch(key, dns::tcp(Rc::clone(&self.dns), bridge, socket)))
            }
            Purpose::DhcpFrames => {
                let arp = SocketKey { purpose: Purpose::Arp, ..key.clone() };
                let (arp, frames) = (self.waiting.remove(&arp)?, self.waiting.remove(key)?);
                Some(self.watch(key, dhcp::serve(Rc::clone(&self.leases), bridge, frames, arp)))
            }
            Purpose::Router => {
                let (socket, index) = (self.waiting.remove(key)?, key.index?);
                let services = self.services.subscribe();
                Some(self.watch(key, ra::serve(Rc::clone(&self.routers), bridge, index, socket, services)))
            }
            // The former only stands there; the latter belongs to DHCP's.
            Purpose::DhcpPort | Purpose::Arp | Purpose::Http | Purpose::Web | Purpose::Socks => None,
        }
    }

    /// A service that ends, by an error or a panic, ends the worker: the supervisor begins anew.
    fn watch(&self, key: &SocketKey, service: impl Future<Output = io::Result<()>> + 'static) -> JoinHandle<()> {
        let ended = self.ended.clone();
        let what = match (&key.bridge, key.address, key.port) {
            (None, Some(address), Some(port)) => format!("{:?} at {}", key.purpose, SocketAddr::new(address, port)),
            (bridge, ..) => format!("{:?} of {}", key.purpose, bridge.as_ref().map_or("all", IfName::as_str)),
        };
        let task = spawn_local(service);
        let stop = task.abort_handle();
        spawn_local(async move {
            let _stop = Stop(stop);
            let why = match task.await {
                Ok(Ok(())) => what,
                Ok(Err(e)) => format!("{what}: {e}"),
                Err(e) => format!("{what}: {e}"),
            };
            let _ = ended.send(why);
        })
    }
}

/// Ends a service with who watches it.
struct Stop(tokio::task::AbortHandle);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
