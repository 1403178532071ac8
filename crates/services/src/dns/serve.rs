//! Names on sockets: UDP and TCP, each client with so much at a time and no more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use model::address::IfName;
use model::services::Services;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::cache::{Cache, Key};
use super::decide::{self, Decision, Inside, Zone};
use super::upstream::{self, Health};
use super::wire::{self, Answer, NoQuery, Query, Rcode, Reply, rtype};
use crate::crowd::Crowd;
use crate::log::Bounded;
use crate::protocol::DnsCounts;

/// Questions that may wait for upstream resolvers: of all clients, and of one.
const WAITING: usize = 512;
const WAITING_OF_ONE: usize = 128;
/// TCP connections at once: of all clients, and of one.
const STREAMS: usize = 256;
const STREAMS_OF_ONE: usize = 32;
/// How long a TCP client may say nothing, or take to say it.
const IDLE: Duration = Duration::from_secs(10);
/// How many datagrams are read before others have their turn.
const TURN: usize = 64;

/// All that names need, shared by the sockets.
#[derive(Default)]
pub struct Dns {
    lans: RefCell<HashMap<IfName, Rc<Lan>>>,
    inside: RefCell<Inside>,
    /// What was answered to the host's own services.
    remembered: RefCell<Cache>,
    health: Health,
    waiting: Crowd<IpAddr>,
    streams: Crowd<IpAddr>,
    counts: RefCell<DnsCounts>,
    log: Bounded,
}

/// Who waits for an answer of the world's.
type Waits = oneshot::Sender<Option<Rc<Answer>>>;

struct Lan {
    zone: RefCell<Rc<Zone>>,
    upstreams: RefCell<Vec<IpAddr>>,
    cache: RefCell<Cache>,
    /// Questions that are on their way upstream, and who waits for the answer besides the first.
    pending: RefCell<HashMap<Key, Vec<Waits>>>,
}

impl Dns {
    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> DnsCounts {
        *self.counts.borrow()
    }

    /// What is served from now on. What is remembered of a LAN's upstream resolvers stays while they are the same.
    pub fn configure(&self, services: &Services) {
        *self.inside.borrow_mut() = Inside::of(services);
        // Other resolvers may know other names.
        self.remembered.take();
        let mut lans = self.lans.borrow_mut();
        lans.retain(|bridge, _| services.lan(bridge).is_some());
        for lan in &services.lans {
            let zone = Rc::new(Zone::of(lan, std::iter::empty()));
            match lans.get(&lan.bridge).filter(|known| *known.upstreams.borrow() == lan.upstreams) {
                Some(known) => *known.zone.borrow_mut() = zone,
                None => {
                    let new = Lan {
                        zone: RefCell::new(zone),
                        upstreams: RefCell::new(lan.upstreams.clone()),
                        cache: RefCell::default(),
                        pending: RefCell::default(),
                    };
                    lans.insert(lan.bridge.clone(), Rc::new(new));
                }
            }
        }
    }

    /// The zone of a LAN, with other leases.
    pub fn rename(&self, bridge: &IfName, zone: Zone) {
        if let Some(lan) = self.lans.borrow().get(bridge) {
            *lan.zone.borrow_mut() = Rc::new(zone);
        }
    }

    /// The addresses of a name, for a service of the host's own, and whether they are ours to say: by the zones of
    /// `bridges`, those in front first; else `resolvers` are asked.
    pub async fn addresses(&self, bridges: &[IfName], resolvers: &[IpAddr], name: &str) -> (Vec<IpAddr>, bool) {
        let Some(name) = wire::name(name) else { return (Vec::new(), true) };
        let lans: Vec<Rc<Lan>> = bridges.iter().filter_map(|bridge| self.lan(bridge)).collect();
        let zones: Vec<Rc<Zone>> = lans.iter().map(|lan| Rc::clone(&lan.zone.borrow())).collect();
        if let Some(found) = decide::of_ours(&zones, &name) {
            self.count(|counts| counts.local += 1);
            return (found, true);
        }
        let ask = |kind| self.of_world(resolvers, Query::of_host(name.clone(), kind));
        let (six, four) = tokio::join!(ask(rtype::AAAA), ask(rtype::A));
        (six.into_iter().chain(four).collect(), false)
    }

    async fn of_world(&self, resolvers: &[IpAddr], query: Query) -> Vec<IpAddr> {
        let key = Key::of(&query);
        let known = self.remembered.borrow().get(&key, Instant::now());
        if let Some((answer, _)) = known {
            self.count(|counts| counts.cached += 1);
            return answer.answers.clone();
        }
        self.count(|counts| counts.forwarded += 1);
        let Some(answer) = upstream::ask(&self.health, resolvers, &query).await.map(Rc::new) else {
            self.count(|counts| counts.failed += 1);
            return Vec::new();
        };
        self.remembered.borrow_mut().put(key, &answer, Instant::now());
        answer.answers.clone()
    }

    fn lan(&self, bridge: &IfName) -> Option<Rc<Lan>> {
        self.lans.borrow().get(bridge).cloned()
    }

    fn count(&self, what: impl FnOnce(&mut DnsCounts)) {
        what(&mut self.counts.borrow_mut());
    }
}

/// What becomes of a packet.
enum Next {
    /// Nothing is said to it.
    Silence,
    /// This.
    Reply(Vec<u8>),
    /// The world is asked.
    Ask(Box<Query>, Rc<Lan>),
}

fn first(dns: &Dns, bridge: &IfName, packet: &[u8], client: IpAddr, limit: impl Fn(&Query) -> usize) -> Next {
    dns.count(|counts| counts.queries += 1);
    let query = match wire::query(packet) {
        Ok(query) => query,
        Err(no) => {
            dns.count(|counts| counts.malformed += 1);
            dns.log.warn("dns-malformed", || format!("dns: {client} sent what is no question"));
            return match no {
                NoQuery::Silence => Next::Silence,
                NoQuery::Refuse { id, flags, rcode } => Next::Reply(wire::refusal(id, flags, rcode)),
            };
        }
    };
    let Some(lan) = dns.lan(bridge) else { return Next::Silence };
    let limit = limit(&query);
    let zone = Rc::clone(&lan.zone.borrow());
    match zone.decide(&query, client, limit) {
        Decision::Reply(bytes) => {
            dns.count(|counts| counts.local += 1);
            Next::Reply(bytes)
        }
        Decision::Refuse(bytes) => {
            dns.count(|counts| counts.refused += 1);
            Next::Reply(bytes)
        }
        Decision::Forward => {
            let known = lan.cache.borrow().get(&Key::of(&query), Instant::now());
            match known {
                Some((answer, age)) => {
                    dns.count(|counts| counts.cached += 1);
                    Next::Reply(told(dns, &answer, &query, age, client, limit))
                }
                None if !query.recurse => {
                    dns.count(|counts| counts.refused += 1);
                    Next::Reply(Reply::new(&query, Rcode::Refused, true).finish(limit))
                }
                None => Next::Ask(Box::new(query), lan),
            }
        }
    }
}

/// Asks the world, or waits for who asks the same already.
async fn ask(dns: &Dns, lan: &Lan, query: &Query) -> Option<Rc<Answer>> {
    let key = Key::of(query);
    let waits = {
        let mut pending = lan.pending.borrow_mut();
        match pending.get_mut(&key) {
            Some(others) => {
                let (sender, receiver) = oneshot::channel();
                others.push(sender);
                Some(receiver)
            }
            None => {
                pending.insert(key.clone(), Vec::new());
                None
            }
        }
    };
    if let Some(receiver) = waits {
        return receiver.await.ok().flatten();
    }
    // Whoever waits hears of it also where this is ended on its way.
    let _over = Over { lan, key: &key };
    dns.count(|counts| counts.forwarded += 1);
    let upstreams = lan.upstreams.borrow().clone();
    let answer = upstream::ask(&dns.health, &upstreams, query).await.map(Rc::new);
    match &answer {
        Some(answer) => lan.cache.borrow_mut().put(key.clone(), answer, Instant::now()),
        None => {
            dns.count(|counts| counts.failed += 1);
            dns.log.warn("dns-upstream", || {
                let all: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
                format!("dns: no answer from the resolvers {}", all.join(", "))
            });
        }
    }
    let others = lan.pending.borrow_mut().remove(&key).unwrap_or_default();
    for other in others {
        // Who went away needs no answer.
        let _ = other.send(answer.clone());
    }
    answer
}

struct Over<'a> {
    lan: &'a Lan,
    key: &'a Key,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.lan.pending.borrow_mut().remove(self.key);
    }
}

/// What a client is told of what the world answered.
async fn answered(dns: &Dns, lan: &Lan, query: &Query, client: IpAddr, limit: usize) -> Vec<u8> {
    let Some(answer) = ask(dns, lan, query).await else {
        return Reply::new(query, Rcode::ServFail, true).finish(limit);
    };
    told(dns, &answer, query, 0, client, limit)
}

/// An answer of the world's, unless it points inside; remembered ones are looked at as well, for a reload may have
/// made an address one of a LAN's.
fn told(dns: &Dns, answer: &Answer, query: &Query, age: u32, client: IpAddr, limit: usize) -> Vec<u8> {
    let inside = answer.addresses.iter().copied().find(|address| dns.inside.borrow().holds(*address));
    if let Some(address) = inside {
        dns.count(|counts| counts.rebinding += 1);
        dns.log.warn("dns-rebinding", || {
            format!("dns: a name of the world's that {client} asked for points at {address} inside: dropped")
        });
        // An error would make the client ask the next resolver, past us.
        return Reply::new(query, Rcode::NoError, true).finish(limit);
    }
    answer.reply(query, age, limit)
}

/// Answers what comes to a UDP socket of a LAN's, until it is dropped.
pub async fn udp(dns: Rc<Dns>, bridge: IfName, socket: std::net::UdpSocket) -> io::Result<()> {
    let socket = Rc::new(UdpSocket::from_std(socket)?);
    let mut buffer = [0; 4096];
    loop {
        socket.readable().await?;
        for _ in 0..TURN {
            let (length, client) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error about an earlier answer.
                Err(_) => continue,
            };
            match first(&dns, &bridge, &buffer[..length], client.ip(), Query::limit) {
                Next::Silence => {}
                Next::Reply(bytes) => send(&socket, &bytes, client).await,
                Next::Ask(query, lan) => later(&dns, &socket, query, lan, client),
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A client whose answer cannot be sent asks again.
async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    let _ = socket.send_to(bytes, client).await;
}

fn later(dns: &Rc<Dns>, socket: &Rc<UdpSocket>, query: Box<Query>, lan: Rc<Lan>, client: SocketAddr) {
    let (dns, socket) = (Rc::clone(dns), Rc::clone(socket));
    spawn_local(async move {
        let Some(_place) = dns.waiting.enter(client.ip(), WAITING, WAITING_OF_ONE) else {
            dns.count(|counts| counts.limited += 1);
            dns.log.warn("dns-limited", || format!("dns: {client} has too many questions open: dropped"));
            return;
        };
        let bytes = answered(&dns, &lan, &query, client.ip(), query.limit()).await;
        send(&socket, &bytes, client).await;
    });
}

/// Answers those who connect to a TCP socket of a LAN's, until it is dropped.
pub async fn tcp(dns: Rc<Dns>, bridge: IfName, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Gone before it was accepted, or no descriptor is left: both pass.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (dns, bridge) = (Rc::clone(&dns), bridge.clone());
        spawn_local(async move {
            let Some(_place) = dns.streams.enter(client.ip(), STREAMS, STREAMS_OF_ONE) else {
                dns.count(|counts| counts.limited += 1);
                dns.log.warn("dns-limited", || format!("dns: {client} has too many connections: closed"));
                return;
            };
            // How a connection ends is the client's affair.
            let _ = converse(&dns, &bridge, stream, client.ip()).await;
        });
    }
}

/// Questions and answers one after the other (RFC 7766).
async fn converse(dns: &Dns, bridge: &IfName, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    let whole = usize::from(u16::MAX);
    loop {
        let question = timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            io::Result::Ok(bytes)
        });
        let Ok(question) = question.await else { return Ok(()) };
        let bytes = match first(dns, bridge, &question?, client, |_| whole) {
            Next::Silence => return Ok(()),
            Next::Reply(bytes) => bytes,
            Next::Ask(query, lan) => answered(dns, &lan, &query, client, whole).await,
        };
        let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        match timeout(IDLE, stream.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_slow) => return Ok(()),
        }
    }
}
