//! SOCKS on sockets: who comes, how many, where to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kernel::sockdiag::SockDiag;
use kernel::ways::Ways;
use model::services::SocksService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::carry;
use super::decide::{Refusal, Rules, Said};
use super::wire::{self, Code, Target};
use crate::crowd::Crowd;
use crate::dns::serve::Dns;
use crate::log::{self, Bounded};
use crate::protocol::SocksCounts;

/// Clients at once: in all, and of one user. Each takes six descriptors.
const CLIENTS: usize = 512;
const CLIENTS_OF_ONE: usize = 256;
/// How long a client may take to say where it wants to go.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long it may take to get there.
const CONNECT: Duration = Duration::from_secs(15);
/// How long one address is waited for before the next is tried, too (RFC 8305).
const NEXT: Duration = Duration::from_millis(250);
/// So many addresses of a name are tried.
const ADDRESSES: usize = 8;
/// A peer that has said nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// Whether a peer is to be asked is looked at this often.
const WHILE: Duration = Duration::from_secs(30);

/// All that the door needs, shared by its sockets.
#[derive(Default)]
pub struct Door {
    service: RefCell<Option<Rc<SocksService>>>,
    rules: RefCell<Rules>,
    crowd: Crowd<Who>,
    standing: RefCell<BTreeMap<u64, Standing>>,
    /// Whether somebody looks after the peers of those.
    watching: Cell<bool>,
    counts: RefCell<SocksCounts>,
    sent: Cell<u64>,
    received: Cell<u64>,
    log: Bounded,
    /// Who is asked of users, and of ways: opened when they are first needed, and again after they failed.
    users: RefCell<Option<SockDiag>>,
    ways: RefCell<Option<Ways>>,
}

/// A stream that stands.
struct Standing {
    /// Where to.
    address: IpAddr,
    task: AbortHandle,
    /// Its peer, as long as nobody has it asked whether it is there.
    unwatched: Option<Weak<TcpStream>>,
}

/// Asks a socket that is kept from one question to the next; one that failed is not.
fn ask<S, T>(
    kept: &RefCell<Option<S>>,
    open: fn() -> kernel::error::Result<S>,
    question: impl FnOnce(&mut S) -> kernel::error::Result<T>,
) -> kernel::error::Result<T> {
    let mut socket = match kept.borrow_mut().take() {
        Some(socket) => socket,
        None => open()?,
    };
    let answer = question(&mut socket);
    if answer.is_ok() {
        *kept.borrow_mut() = Some(socket);
    }
    answer
}

/// Who a client is, as far as its share goes: on loopback every client has the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    Nobody,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Nobody => f.write_str("somebody"),
        }
    }
}

impl Door {
    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> SocksCounts {
        SocksCounts {
            open: self.standing.borrow().len() as u64,
            sent: self.sent.get(),
            received: self.received.get(),
            ..*self.counts.borrow()
        }
    }

    /// Where one may go from now on. Streams to where one may still go stay.
    pub fn configure(&self, service: Option<&SocksService>) {
        let rules = service.map(Rules::of);
        self.standing.borrow_mut().retain(|_, stream| {
            let stays = rules.as_ref().is_some_and(|rules| rules.check(stream.address, Said::Here).is_ok());
            if !stays {
                stream.task.abort();
            }
            stays
        });
        *self.rules.borrow_mut() = rules.unwrap_or_default();
        *self.service.borrow_mut() = service.cloned().map(Rc::new);
    }

    fn count(&self, what: impl FnOnce(&mut SocksCounts)) {
        what(&mut self.counts.borrow_mut());
    }

    fn check(&self, address: IpAddr, said: Said) -> Result<IpAddr, Refusal> {
        let address = self.rules.borrow().check(address, said)?;
        // Whatever else the host holds, the kernel knows; where it knows no way, connecting says so.
        match ask(&self.ways, Ways::open, |ways| ways.is_elsewhere(address)) {
            Ok(false) => Err(Refusal::Host),
            Ok(true) | Err(_) => Ok(address),
        }
    }
}

/// Serves those who connect to a socket, until it is dropped. Streams that stand by then go on.
pub async fn serve(door: Rc<Door>, dns: Rc<Dns>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    // Those who are accepted inherit it (tcp(7)), and that what is to be sent is sent.
    watched(&listener);
    carry::no_delay(&listener);
    let own = listener.local_addr()?;
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Gone before it was accepted, or no descriptor is left: both pass.
            Err(_) => {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (door, dns) = (Rc::clone(&door), Rc::clone(&dns));
        spawn_local(async move {
            door.count(|counts| counts.clients += 1);
            let user = ask(&door.users, SockDiag::open, |users| users.user_of(client, own));
            let who = user.ok().flatten().map_or(Who::Nobody, Who::User);
            let Some(_place) = door.crowd.enter(who, CLIENTS, CLIENTS_OF_ONE) else {
                door.count(|counts| counts.limited += 1);
                door.log.warn("socks-limited", || format!("socks: {who} has too many connections: closed"));
                return;
            };
            if let Some((client, peer, address)) = meet(&door, &dns, stream, who).await {
                stand(&door, client, peer, address).await;
            }
        });
    }
}

/// Has a stream's other end asked now and then whether it is there: one that vanished is held else until somebody
/// speaks.
fn watched(stream: &impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE);
}

/// Has the peers watched of streams that stand for a while, as long as there are any: most streams are over before
/// anybody would have asked.
fn watch_those_who_stay(door: &Rc<Door>) {
    if door.watching.replace(true) {
        return;
    }
    let door = Rc::clone(door);
    spawn_local(async move {
        while !door.standing.borrow().is_empty() {
            sleep(WHILE).await;
            for stream in door.standing.borrow_mut().values_mut() {
                if let Some(peer) = stream.unwatched.take().and_then(|peer| peer.upgrade()) {
                    watched(&*peer);
                }
            }
        }
        door.watching.set(false);
    });
}

/// Carries what the two say to each other, until both have ended, or one may not go there any more.
async fn stand(door: &Rc<Door>, client: TcpStream, peer: TcpStream, address: IpAddr) {
    let own = Rc::clone(door);
    let peer = Rc::new(peer);
    let unwatched = Some(Rc::downgrade(&peer));
    let task = spawn_local(async move {
        // How a stream ends is the two's affair.
        let _ = carry::both(&client, &peer, &own.sent, &own.received).await;
    });
    let key = {
        let mut standing = door.standing.borrow_mut();
        let key = standing.last_key_value().map_or(0, |(last, _)| last + 1);
        standing.insert(key, Standing { address, task: task.abort_handle(), unwatched });
        key
    };
    watch_those_who_stay(door);
    // Whether it ended or was ended.
    let _ = task.await;
    door.standing.borrow_mut().remove(&key);
}

/// The handshake: where the client wants to go, and whether it gets there.
async fn meet(door: &Door, dns: &Dns, mut client: TcpStream, who: Who) -> Option<(TcpStream, TcpStream, IpAddr)> {
    let said = timeout(HANDSHAKE, handshake(&mut client)).await;
    let Ok(Ok((asked, early))) = said else {
        door.count(|counts| counts.malformed += 1);
        door.log.warn("socks-malformed", || format!("socks: {who} does not speak SOCKS5, or not in time: closed"));
        return None;
    };
    let refused = |code| wire::reply(code, None);
    let target = match asked {
        Ok(target) => target,
        Err(code) => {
            door.count(|counts| counts.malformed += 1);
            let _ = timeout(HANDSHAKE, carry::give(&client, &refused(code))).await;
            return None;
        }
    };
    let reached = timeout(CONNECT, reach(door, dns, &target)).await.unwrap_or(Err(Why::Code(Code::HostUnreachable)));
    let Reached { peer, address, first, ended } = match reached {
        Ok(reached) => reached,
        Err(why) => {
            let code = why.code();
            match why {
                Why::Refused(refusal) => {
                    door.count(|counts| counts.refused += 1);
                    door.log.warn("socks-refused", || format!("socks: {who} may not go to {target}: {refusal}"));
                }
                Why::Code(_) => door.count(|counts| counts.unreachable += 1),
            }
            let _ = timeout(HANDSHAKE, carry::give(&client, &refused(code))).await;
            return None;
        }
    };
    door.count(|counts| counts.connected += 1);
    let at = match target {
        Target::Name(..) => format!(" ({address})"),
        Target::Address(_) => String::new(),
    };
    log::soon(&format!("socks: {who} goes to {target}{at}"));
    let mut answer = wire::reply(Code::Succeeded, peer.local_addr().ok());
    // The client is woken once for all of it.
    answer.extend_from_slice(&first);
    let begun = async {
        carry::give_more(&client, &answer, ended && early.is_empty()).await?;
        door.received.set(door.received.get() + first.len() as u64);
        if !early.is_empty() {
            carry::give(&peer, &early).await?;
            carry::no_delay(&peer);
        }
        Ok::<(), io::Error>(())
    };
    matches!(timeout(HANDSHAKE, begun).await, Ok(Ok(()))).then_some((client, peer, address))
}

/// What the client asks for, and what it has said behind that.
async fn handshake(client: &mut TcpStream) -> io::Result<(Result<Target, Code>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(wire::LONGEST);
    let welcome = next(client, &mut bytes, wire::greeting).await?;
    carry::give(client, &wire::method(welcome)).await?;
    if !welcome {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let asked = next(client, &mut bytes, wire::request).await?;
    Ok((asked, bytes))
}

/// Reads until `read` has what it wants, and leaves what stands behind that.
async fn next<T>(client: &mut TcpStream, bytes: &mut Vec<u8>, read: fn(&[u8]) -> wire::Read<T>) -> io::Result<T> {
    loop {
        if let Some((value, length)) = read(bytes).map_err(io::Error::other)? {
            bytes.drain(..length.min(bytes.len()));
            return Ok(value);
        }
        if client.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Why somebody did not get where he wants to go.
enum Why {
    /// He may not.
    Refused(Refusal),
    /// He cannot.
    Code(Code),
}

impl Why {
    fn code(&self) -> Code {
        match self {
            Self::Refused(_) => Code::NotAllowed,
            Self::Code(code) => *code,
        }
    }
}

/// Where somebody wanted to go.
struct Reached {
    peer: TcpStream,
    address: IpAddr,
    /// What it has said already: servers of some protocols speak first.
    first: Vec<u8>,
    /// Whether that was all.
    ended: bool,
}

async fn reach(door: &Door, dns: &Dns, target: &Target) -> Result<Reached, Why> {
    let (addresses, said, port) = match target {
        Target::Address(at) => (vec![at.ip()], Said::Here, at.port()),
        Target::Name(name, port) => {
            let service = door.service.borrow().clone().ok_or(Why::Code(Code::Failed))?;
            let (addresses, ours) = dns.addresses(&service.zones, &service.resolvers, name).await;
            (addresses, if ours { Said::Here } else { Said::World }, *port)
        }
    };
    let mut may = Vec::new();
    let mut refusal = None;
    for address in addresses.into_iter().take(ADDRESSES) {
        match door.check(address, said) {
            Ok(address) => may.push(address),
            Err(why) => refusal = Some(Why::Refused(why)),
        }
    }
    if may.is_empty() {
        return Err(refusal.unwrap_or(Why::Code(Code::HostUnreachable)));
    }
    let failed = |e: io::Error| Why::Code(code(&e));
    let (peer, address) = connect(may, port).await.map_err(failed)?;
    let (first, ended) = carry::spoken(&peer).map_err(failed)?;
    Ok(Reached { peer, address, first, ended })
}

/// The first that answers; each is given a head start before the next.
async fn connect(addresses: Vec<IpAddr>, port: u16) -> io::Result<(TcpStream, IpAddr)> {
    if let [only] = *addresses {
        return Ok((TcpStream::connect(SocketAddr::new(only, port)).await?, only));
    }
    let mut tried = JoinSet::new();
    let mut rest = addresses.into_iter();
    let mut error = io::Error::from(io::ErrorKind::HostUnreachable);
    let begin = |tried: &mut JoinSet<_>, address: IpAddr| {
        tried.spawn_local(async move { Ok((TcpStream::connect(SocketAddr::new(address, port)).await?, address)) });
    };
    if let Some(first) = rest.next() {
        begin(&mut tried, first);
    }
    while !tried.is_empty() {
        let more = rest.len() > 0;
        tokio::select! {
            Some(done) = tried.join_next() => {
                match done.map_err(io::Error::other).and_then(|reached| reached) {
                    Ok(reached) => return Ok(reached),
                    Err(e) => error = e,
                }
                if let Some(next) = rest.next() {
                    begin(&mut tried, next);
                }
            }
            () = sleep(NEXT), if more => {
                if let Some(next) = rest.next() {
                    begin(&mut tried, next);
                }
            }
        }
    }
    Err(error)
}

fn code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Code::Refused,
        io::ErrorKind::NetworkUnreachable => Code::NetworkUnreachable,
        io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut => Code::HostUnreachable,
        io::ErrorKind::PermissionDenied => Code::NotAllowed,
        _ => Code::Failed,
    }
}
