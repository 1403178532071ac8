//! Leases on sockets: frames in, frames out, and the file in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::address::{IfName, Mac};
use model::services::{LanServices, Services};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::decide::{Action, Count, Table};
use super::leases::{self, LONG, Lease};
use super::wire::{self, Kind, Told};
use crate::log::{self, Bounded};
use crate::protocol::{DhcpCounts, LeaseShown};

/// How many frames are read before others have their turn, and before the file is synced for all of them.
const TURN: usize = 64;
/// How long an answer to an ARP question may take, and how often it is asked.
const PROBE: Duration = Duration::from_millis(150);
const PROBES: usize = 2;

/// All that leases need, shared by the LANs.
pub struct Leases {
    services: RefCell<Rc<Services>>,
    tables: RefCell<BTreeMap<IfName, Table>>,
    file: RefCell<Option<Arc<File>>>,
    /// How many lines the file has.
    lines: RefCell<usize>,
    counts: RefCell<DhcpCounts>,
    log: Bounded,
    /// Told which LAN's leases are others now.
    changed: mpsc::UnboundedSender<Changed>,
}

/// What somebody should know.
#[derive(Debug)]
pub enum Changed {
    /// The names of a LAN.
    Names(IfName),
    /// The file has grown long.
    Long,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Leases {
    /// None yet; `changed` hears of those that come and go.
    #[must_use]
    pub fn new(changed: mpsc::UnboundedSender<Changed>) -> Self {
        Self {
            services: RefCell::default(),
            tables: RefCell::default(),
            file: RefCell::default(),
            lines: RefCell::default(),
            counts: RefCell::default(),
            log: Bounded::default(),
            changed,
        }
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> DhcpCounts {
        *self.counts.borrow()
    }

    /// The file, to be read and appended to. Where leases are known already, they are written into it.
    pub fn remember_in(&self, file: OwnedFd) -> io::Result<()> {
        let mut file = File::from(file);
        let first = self.file.borrow().is_none();
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        if first {
            let mut tables = self.tables.borrow_mut();
            for lease in leases::read(&text, now()) {
                tables.entry(lease.lan.clone()).or_default().restore(lease);
            }
        } else {
            let lines: String = self.all().iter().map(leases::line).collect();
            file.write_all(lines.as_bytes())?;
            file.sync_data()?;
        }
        *self.lines.borrow_mut() = text.lines().count();
        *self.file.borrow_mut() = Some(Arc::new(file));
        Ok(())
    }

    /// What is served from now on.
    pub fn configure(&self, services: &Rc<Services>) {
        *self.services.borrow_mut() = Rc::clone(services);
        let mut tables = self.tables.borrow_mut();
        for lan in &services.lans {
            tables.entry(lan.bridge.clone()).or_default().keep_within(lan);
        }
    }

    fn all(&self) -> Vec<Lease> {
        let now = now();
        self.tables.borrow().values().flat_map(|table| table.leases(now).cloned().collect::<Vec<_>>()).collect()
    }

    /// The names that clients of a LAN have brought along.
    #[must_use]
    pub fn names(&self, bridge: &IfName) -> Vec<(String, IpAddr)> {
        let tables = self.tables.borrow();
        let leases = tables.get(bridge).into_iter().flat_map(|table| table.leases(now()));
        leases.filter_map(|lease| Some((lease.name.clone()?, IpAddr::V4(lease.address)))).collect()
    }

    /// The leases that hold, for people.
    #[must_use]
    pub fn shown(&self) -> Vec<LeaseShown> {
        let show = |lease: Lease| LeaseShown {
            lan: lease.lan,
            address: lease.address.into(),
            mac: lease.mac,
            name: lease.name,
            until: lease.until,
        };
        self.all().into_iter().map(show).collect()
    }

    fn lan(&self, bridge: &IfName) -> Option<(Rc<Services>, usize)> {
        let services = Rc::clone(&self.services.borrow());
        let at = services.lans.iter().position(|lan| &lan.bridge == bridge)?;
        Some((services, at))
    }

    fn count(&self, what: impl FnOnce(&mut DhcpCounts)) {
        what(&mut self.counts.borrow_mut());
    }

    /// Writes leases down before they are promised, without holding others up.
    async fn record(&self, records: &[Lease]) -> io::Result<()> {
        let Some(file) = self.file.borrow().clone().filter(|_| !records.is_empty()) else { return Ok(()) };
        let text: String = records.iter().map(leases::line).collect();
        *self.lines.borrow_mut() += records.len();
        if *self.lines.borrow() == LONG {
            let _ = self.changed.send(Changed::Long);
        }
        let written = tokio::task::spawn_blocking(move || {
            (&*file).write_all(text.as_bytes())?;
            file.sync_data()
        });
        written.await.map_err(io::Error::other)?
    }
}

/// A LAN's sockets. Both are packet sockets, of which the runtime only wants to know when they can be read.
struct Sockets {
    frames: UdpSocket,
    arp: UdpSocket,
}

fn watched(socket: OwnedFd) -> io::Result<UdpSocket> {
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    socket.try_io(Interest::READABLE, || Ok(rustix::net::recv(socket.as_fd(), &mut *buffer, RecvFlags::empty())?.0))
}

fn send(socket: &UdpSocket, frame: &[u8]) {
    // A frame that the interface does not take is one that is lost: clients ask again.
    let _ = rustix::net::send(socket.as_fd(), frame, SendFlags::empty());
}

/// Answers what is sent to the DHCP server on a LAN, until it is dropped.
pub async fn serve(leases: Rc<Leases>, bridge: IfName, frames: OwnedFd, arp: OwnedFd) -> io::Result<()> {
    let sockets = Rc::new(Sockets { frames: watched(frames)?, arp: watched(arp)? });
    let (probe, mut probed) = mpsc::unbounded_channel::<(Ipv4Addr, Option<Mac>)>();
    let mut waiting: BTreeMap<Ipv4Addr, Option<Mac>> = BTreeMap::new();
    let mut buffer = [0; 2048];
    loop {
        let mut actions = Vec::new();
        tokio::select! {
            ready = sockets.frames.readable() => {
                ready?;
                for _ in 0..TURN {
                    match receive(&sockets.frames, &mut buffer) {
                        Ok(length) => actions.extend(heard(&leases, &bridge, &buffer[..length])),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        // The bridge is gone, or down: the supervisor sees it.
                        Err(_) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            break;
                        }
                    }
                }
            }
            ready = sockets.arp.readable() => {
                ready?;
                for _ in 0..TURN {
                    let Ok(length) = receive(&sockets.arp, &mut buffer) else { break };
                    if let Some((mac, address)) = wire::claim(&buffer[..length])
                        && let Some(holder) = waiting.get_mut(&address)
                    {
                        *holder = Some(mac);
                    }
                }
            }
            Some((address, _)) = probed.recv() => {
                let holder = waiting.remove(&address).flatten();
                if let Some((services, at)) = leases.lan(&bridge) {
                    let mut tables = leases.tables.borrow_mut();
                    let table = tables.entry(bridge.clone()).or_default();
                    actions.extend(table.probed(&services.lans[at], address, holder, now()));
                }
            }
        }
        for address in act(&leases, &bridge, &sockets, actions).await {
            waiting.insert(address, None);
            if let Some((services, at)) = leases.lan(&bridge) {
                ask_around(&sockets, services.lans[at].mac, address, probe.clone());
            }
        }
        tokio::task::yield_now().await;
    }
}

fn heard(leases: &Leases, bridge: &IfName, frame: &[u8]) -> Vec<Action> {
    leases.count(|counts| counts.requests += 1);
    let Ok(ask) = wire::ask(frame) else {
        leases.count(|counts| counts.malformed += 1);
        leases.log.warn("dhcp-malformed", || format!("dhcp: {bridge}: a message that cannot be read"));
        return Vec::new();
    };
    let Some((services, at)) = leases.lan(bridge) else { return Vec::new() };
    let mut tables = leases.tables.borrow_mut();
    let actions = tables.entry(bridge.clone()).or_default().asked(&services.lans[at], &ask, now());
    if actions.contains(&Action::Count(Count::WrongMac)) {
        leases.log.warn("dhcp-wrong-mac", || {
            format!("dhcp: {bridge}: {} says that it is {}: dropped", ask.sender, ask.client)
        });
    }
    actions
}

/// Asks the LAN for an address a few times, and says when that is over.
fn ask_around(
    sockets: &Rc<Sockets>,
    mac: Mac,
    address: Ipv4Addr,
    over: mpsc::UnboundedSender<(Ipv4Addr, Option<Mac>)>,
) {
    let sockets = Rc::clone(sockets);
    spawn_local(async move {
        for _ in 0..PROBES {
            send(&sockets.arp, &wire::probe(mac, address));
            tokio::time::sleep(PROBE).await;
        }
        let _ = over.send((address, None));
    });
}

/// Does them: first what is written, then what is said. Returns the addresses that the LAN is to be asked for.
async fn act(leases: &Leases, bridge: &IfName, sockets: &Sockets, actions: Vec<Action>) -> Vec<Ipv4Addr> {
    let mut records = Vec::new();
    let mut answers = Vec::new();
    let mut probes = Vec::new();
    for action in actions {
        match action {
            Action::Record(lease) => records.push(lease),
            Action::Answer(answer) => answers.push(answer),
            Action::Probe(address) => probes.push(address),
            Action::Count(count) => counted(leases, bridge, count),
        }
    }
    let promised = leases.record(&records).await;
    if !records.is_empty() {
        let _ = leases.changed.send(Changed::Names(bridge.clone()));
    }
    if let Err(e) = &promised {
        log::error(&format!("dhcp: leases cannot be written down, and are not given: {e}"));
    }
    let Some((services, at)) = leases.lan(bridge) else { return probes };
    let lan = &services.lans[at];
    for answer in answers {
        let of_range = lan.host_of(answer.to.client).is_none();
        if answer.kind == Kind::Ack && of_range && promised.is_err() {
            continue;
        }
        leases.count(|counts| match answer.kind {
            Kind::Offer => counts.offers += 1,
            Kind::Nak => counts.naks += 1,
            _ => counts.acks += 1,
        });
        if let Some(told) = told(lan, answer.to.client) {
            send(&sockets.frames, &wire::frame(&answer, &told));
        }
    }
    probes
}

fn counted(leases: &Leases, bridge: &IfName, count: Count) {
    let (sort, words) = match count {
        // Told where its two addresses are known.
        Count::WrongMac => {
            leases.count(|counts| counts.wrong_mac += 1);
            return;
        }
        Count::Exhausted => {
            leases.count(|counts| counts.exhausted += 1);
            ("dhcp-exhausted", "no address of the range is left")
        }
        Count::Limited => {
            leases.count(|counts| counts.limited += 1);
            ("dhcp-limited", "too many new clients at once: they must ask again")
        }
        Count::Declined => {
            leases.count(|counts| counts.declines += 1);
            ("dhcp-declined", "a client found its address taken")
        }
        Count::Conflict => {
            leases.count(|counts| counts.conflicts += 1);
            ("dhcp-conflict", "an address of the range is taken by somebody who was not given it")
        }
    };
    leases.log.warn(sort, || format!("dhcp: {bridge}: {words}"));
}

fn told(lan: &LanServices, client: Mac) -> Option<Told> {
    let dhcp = lan.dhcp.as_ref()?;
    Some(Told {
        mac: lan.mac,
        server: dhcp.server,
        subnet: dhcp.subnet,
        router: dhcp.router,
        domain: lan.domain.clone(),
        mtu: u16::try_from(lan.mtu).unwrap_or(u16::MAX),
        routes: dhcp.routes.clone(),
        name: lan.host_of(client).map(|host| host.name.clone()),
    })
}
