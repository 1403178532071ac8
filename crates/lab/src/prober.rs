//! Sends many probes at once and watches, at every spot, what becomes of them.
//!
//! A probe is sent by a raw socket inside its sender's namespace, so that it takes the real way out: that namespace's
//! output hooks, connection tracking, routes and neighbours. It is known again by its token wherever it is seen. One
//! thread polls all the sockets. What must arrive is done as soon as it is seen; silence is believed after a bounded
//! time ([`QUIET`]).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use kernel::netlink;
use kernel::netns::Netns;
use model::address::Mac;
use model::probe::{Expect, PacketKind, Probe, Spot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

pub use crate::judge::Outcome;
use crate::judge::{Evidence, judge};
use crate::packet::{self, Arp, Craft, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Kind};
use crate::sockets::{self, BUFFER, SendSockets};

mod flight;
use flight::{Ear, Flight, Hears, Message, Trial, hear};

/// How long nothing must be seen after the last probe was sent until silence is believed: a packet crosses a lab in
/// well under a millisecond, and a loaded machine may let it wait some tens.
pub const QUIET: Duration = Duration::from_millis(150);
/// When a probe that must arrive and was not seen is sent once more: its neighbour may just have been unknown.
const RESEND: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(700)];
/// When a probe that must arrive is given up.
const GIVE_UP: Duration = Duration::from_millis(1200);
/// How long an answer is waited for after a probe has arrived: it tells whether something listens.
const GRACE: Duration = Duration::from_millis(20);
/// Probes in flight at once: bounds memory, and the packets that wait in sockets and neighbour queues.
const BATCH: usize = 500;
/// Probes that are sent between two looks at what came.
const CHUNK: usize = 64;

/// Somebody who looks out, and (but for [`Capture::Outgoing`]) can send.
#[derive(Debug)]
pub struct Vantage {
    /// Who.
    pub spot: Spot,
    /// Where: the namespace that its sockets are made in.
    pub netns: Netns,
    /// What it sees.
    pub capture: Capture,
}

/// What counts as seen at a vantage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// What comes in by an interface other than loopback, before the namespace's own firewall: for guests and the
    /// outside, whose networks' business ends at their door.
    Incoming,
    /// What is delivered to the namespace itself, behind its input hook: for the server.
    Delivered,
    /// What is seen leaving by an interface: on a live host that counts as arrived at the world, or at a guest whose
    /// inside cannot be entered. Such a vantage sends nothing.
    Outgoing {
        /// The uplink's, bridge's or port's name.
        interface: String,
        /// To these addresses alone; empty: to any.
        addresses: Vec<IpAddr>,
    },
}

/// Why probes could not be sent or watched at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} for probes at {at}: {source}")]
pub struct ProberError {
    what: &'static str,
    at: String,
    #[source]
    source: io::Error,
}

/// Vantages with their sockets open.
pub struct Prober {
    stations: Vec<Station>,
    ears: Vec<Ear>,
    who_has: HashMap<(usize, u32, bool), Asker>,
    next_token: u32,
    next_port: u16,
}

struct Station {
    spot: Spot,
    netns: Netns,
    sender: Option<Sender>,
    addresses: Vec<IpAddr>,
}

struct Sender {
    sockets: SendSockets,
    routes: netlink::Socket,
}

/// Who may be asked on an interface: the place of its socket among the ears, and its own hardware address.
#[derive(Clone, Copy)]
struct Asker {
    ear: usize,
    mac: Mac,
}

impl Prober {
    /// Opens the sockets of all `vantages`.
    pub fn open(vantages: &[Vantage]) -> Result<Self, ProberError> {
        raise_descriptor_limit();
        let seed = RandomState::new().hash_one(std::process::id());
        let mut prober = Self {
            stations: Vec::with_capacity(vantages.len()),
            ears: Vec::new(),
            who_has: HashMap::new(),
            // Random, so that what an earlier run left on its way or in a connection table is not taken for ours.
            next_token: seed as u32,
            next_port: FIRST_PORT + (seed >> 32) as u16 % (LAST_PORT - FIRST_PORT),
        };
        for (index, vantage) in vantages.iter().enumerate() {
            let fail = |what| move |source| ProberError { what, at: vantage.netns.label().to_owned(), source };
            let (ears, sender) = vantage
                .netns
                .run(|| Ok::<_, io::Error>((open_ears(&vantage.capture)?, open_sender(&vantage.capture)?)))
                .map_err(fail("enter the namespace"))?
                .map_err(fail("open raw sockets"))?;
            prober.ears.extend(ears.into_iter().map(|(socket, hears)| Ear { station: index, socket, hears }));
            let addresses = match &vantage.capture {
                Capture::Outgoing { addresses, .. } => addresses.clone(),
                _ => Vec::new(),
            };
            let netns = vantage.netns.try_clone().map_err(fail("hold the namespace"))?;
            prober.stations.push(Station { spot: vantage.spot.clone(), netns, sender, addresses });
        }
        Ok(prober)
    }

    /// Sends `probes` and tells, in their order, what became of each.
    pub fn run(&mut self, probes: &[Probe]) -> Result<Vec<Outcome>, ProberError> {
        let mut outcomes = Vec::with_capacity(probes.len());
        for batch in probes.chunks(BATCH) {
            self.run_batch(batch, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    fn run_batch(&mut self, probes: &[Probe], outcomes: &mut Vec<Outcome>) -> Result<(), ProberError> {
        let base = self.next_token;
        self.next_token = base.wrapping_add(probes.len() as u32);
        let mut routes = HashMap::new();
        let mut trials = Vec::with_capacity(probes.len());
        for (token, probe) in (0..).map(|n| base.wrapping_add(n)).zip(probes) {
            trials.push(self.prepare(probe, token, &mut routes));
        }
        let mut flight = Flight::new(base, &trials);
        for start in (0..trials.len()).step_by(CHUNK) {
            for trial in trials.iter_mut().skip(start).take(CHUNK) {
                trial.sent = Instant::now();
                self.send(trial);
            }
            // The first packets to a neighbour have it looked up; those behind wait in a short queue until then.
            self.listen(
                Duration::from_millis(if start + CHUNK < probes.len() { 1 } else { 0 }),
                &mut flight,
                &mut trials,
            )?;
        }
        flight.last_sent = Instant::now();
        loop {
            let now = Instant::now();
            let mut wake: Option<Duration> = None;
            for trial in &mut trials {
                if trial.done {
                    continue;
                }
                match self.next_step(trial, now, flight.last_sent) {
                    Step::Done => {
                        trial.done = true;
                        trial.evidence.waited = now.duration_since(trial.sent);
                    }
                    Step::Resend => {
                        trial.resent += 1;
                        self.send(trial);
                        wake = Some(Duration::ZERO);
                    }
                    Step::Wait(time) => wake = Some(wake.map_or(time, |w| w.min(time))),
                }
            }
            let Some(wake) = wake else { break };
            self.listen(wake, &mut flight, &mut trials)?;
        }
        let watched = |spot: &Spot| self.stations.iter().any(|s| s.spot == *spot);
        outcomes.extend(trials.iter().map(|trial| judge(trial.probe, &trial.evidence, watched)));
        Ok(())
    }

    /// What a trial waits for next.
    fn next_step(&self, trial: &Trial<'_>, now: Instant, last_sent: Instant) -> Step {
        let age = now.duration_since(trial.sent);
        let until = |limit: Duration, age: Duration| {
            if age >= limit { Step::Done } else { Step::Wait(limit - age) }
        };
        if trial.evidence.trouble.is_some() {
            return Step::Done;
        }
        let quiet = now.duration_since(last_sent);
        match &trial.probe.expect {
            Expect::Blocked { .. } => {
                let watched = |spot: &Spot| self.stations.iter().any(|s| s.spot == *spot);
                if trial.evidence.leak(trial.probe, watched).is_some() {
                    Step::Done
                } else if trial.resent > 0 {
                    until(QUIET, quiet)
                } else if quiet >= QUIET / 2 {
                    // Once more: silence because a neighbour was not known yet would prove nothing.
                    Step::Resend
                } else {
                    Step::Wait(QUIET / 2 - quiet)
                }
            }
            Expect::Arrives { .. } => {
                if let Some(arrival) = trial.evidence.arrival(&trial.probe.expect) {
                    return if trial.evidence.replies.is_empty() {
                        until(arrival.after + GRACE, age)
                    } else {
                        Step::Done
                    };
                }
                if !trial.evidence.sightings.is_empty() || !trial.evidence.replies.is_empty() {
                    // It went elsewhere, or was refused; the right sighting may still be under way.
                    return until(QUIET, quiet);
                }
                patience(age, trial.resent)
            }
            Expect::AnsweredBy { mac: Some(_) } if trial.evidence.holders.is_empty() => patience(age, trial.resent),
            // Another holder may answer later than the first.
            Expect::AnsweredBy { .. } => until(QUIET, quiet),
        }
    }

    /// Makes a probe's packet, as far as its sender's routes allow.
    fn prepare<'a>(
        &mut self,
        probe: &'a Probe,
        token: u32,
        routes: &mut HashMap<(usize, IpAddr), Result<sockets::Route, String>>,
    ) -> Trial<'a> {
        let sender = self.stations.iter().position(|s| s.spot == probe.from && s.sender.is_some());
        let sport = self.take_port(probe);
        let mut trial = Trial {
            probe,
            sender,
            sport,
            sent: Instant::now(),
            resent: 0,
            done: false,
            message: Message::None,
            evidence: Evidence::default(),
        };
        let made = match sender {
            None => Err("nobody there can send".to_owned()),
            Some(station) => {
                let to = probe.packet.to;
                let route = routes.entry((station, to)).or_insert_with(|| self.route(station, to)).clone();
                route.and_then(|route| self.message(probe, token, sport, station, route))
            }
        };
        match made {
            Ok(message) => trial.message = message,
            Err(trouble) => trial.evidence.trouble = Some(trouble),
        }
        trial
    }

    /// A port that no probe of this batch has, and not the one that it goes to: an echoed datagram would else look
    /// like the one that was sent.
    fn take_port(&mut self, probe: &Probe) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port >= LAST_PORT { FIRST_PORT } else { port + 1 };
            match probe.packet.kind {
                PacketKind::Tcp(to) | PacketKind::Udp(to) if to == port => {}
                _ => return port,
            }
        }
    }

    fn route(&mut self, station: usize, to: IpAddr) -> Result<sockets::Route, String> {
        let sender = self.stations.get_mut(station).and_then(|s| s.sender.as_mut());
        let sender = sender.ok_or_else(|| "nobody there can send".to_owned())?;
        sockets::route(&mut sender.routes, to).map_err(|e| format!("no way to {to} ({e})"))
    }

    fn message(
        &mut self,
        probe: &Probe,
        token: u32,
        sport: u16,
        station: usize,
        route: sockets::Route,
    ) -> Result<Message, String> {
        let destination = probe.packet.to;
        let (kind, dport) = match probe.packet.kind {
            PacketKind::Tcp(port) => (Kind::Tcp, port),
            PacketKind::Udp(port) => (Kind::Udp, port),
            PacketKind::Echo => (Kind::Echo, 0),
            PacketKind::ArpWhoHas => return self.question(destination, station, route),
            PacketKind::Frame(frame) => {
                let bytes = packet::frame::write(&frame, destination, sport, token);
                let bytes = bytes.ok_or_else(|| format!("no such frame goes to {destination}"))?;
                return Ok(Message::Frame { bytes, interface: route.interface });
            }
        };
        let source = route.source.ok_or_else(|| format!("no source address for {destination}"))?;
        let craft = Craft { source, destination, kind, sport, dport, token };
        packet::craft(&craft).map(Message::Packet).ok_or_else(|| format!("{source} cannot send to {destination}"))
    }

    /// The question who has `target`, on the interface that the routes name.
    fn question(&mut self, target: IpAddr, station: usize, route: sockets::Route) -> Result<Message, String> {
        let interface = if route.local {
            // Whether another has our own address: asked on the interface that holds it, from no address, as
            // duplicate address detection does (RFC 5227).
            let sender = self.stations.get_mut(station).and_then(|s| s.sender.as_mut());
            sender
                .and_then(|s| sockets::interface_of(&mut s.routes, target).ok().flatten())
                .ok_or_else(|| format!("no interface holds {target}"))?
        } else {
            route.interface
        };
        let asker = self.asker(station, interface, target.is_ipv6()).map_err(|e| e.to_string())?;
        let source = route.source.filter(|_| !route.local);
        Ok(match target {
            IpAddr::V4(target) => {
                let sender = match source {
                    Some(IpAddr::V4(a)) => a,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let arp = Arp { asks: true, sender_mac: asker.mac, sender, target_mac: Mac([0; 6]), target };
                Message::Question { bytes: arp.bytes(), to: Mac([0xff; 6]), ethertype: ETHERTYPE_ARP, interface }
            }
            IpAddr::V6(target) => {
                let source = match source {
                    Some(IpAddr::V6(a)) => a,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                let (bytes, to) = packet::neighbour_solicit(source, target, asker.mac);
                Message::Question { bytes, to, ethertype: ETHERTYPE_IPV6, interface }
            }
        })
    }

    /// The socket to ask with on an interface, opened when it is first needed.
    fn asker(&mut self, station: usize, interface: u32, v6: bool) -> io::Result<Asker> {
        if let Some(asker) = self.who_has.get(&(station, interface, v6)) {
            return Ok(*asker);
        }
        let netns = &self.stations[station].netns;
        let socket = netns.run(|| sockets::who_has_socket(v6, interface))??;
        let mac = sockets::hardware_address(&socket)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "the interface has no hardware address to ask from")
        })?;
        let asker = Asker { ear: self.ears.len(), mac };
        self.ears.push(Ear { station, socket, hears: Hears::Holders(interface) });
        self.who_has.insert((station, interface, v6), asker);
        Ok(asker)
    }

    fn send(&self, trial: &mut Trial<'_>) {
        let Some(station) = trial.sender else { return };
        let sent = match &trial.message {
            Message::None => return,
            Message::Packet(bytes) => match &self.stations[station].sender {
                Some(sender) => patiently(|| sender.sockets.send(bytes, trial.probe.packet.to)),
                None => return,
            },
            Message::Frame { bytes, interface } => match &self.stations[station].sender {
                Some(sender) => patiently(|| sender.sockets.send_frame(bytes, *interface)),
                None => return,
            },
            Message::Question { bytes, to, ethertype, interface } => {
                let v6 = *ethertype == ETHERTYPE_IPV6;
                let asker = self.who_has.get(&(station, *interface, v6));
                match asker.and_then(|asker| self.ears.get(asker.ear)) {
                    Some(ear) => {
                        let address = sockets::link_address(*ethertype, *interface, Some(*to));
                        patiently(|| ear.socket.send_to(bytes, &address).map(|_| ()))
                    }
                    None => return,
                }
            }
        };
        if let Err(e) = sent {
            trial.evidence.trouble = Some(match e.raw_os_error() {
                // What an output hook drops, its sender is told so.
                Some(libc::EPERM) => "the sender's own firewall drops it".to_owned(),
                _ => e.to_string(),
            });
        }
    }

    /// Waits for packets, at most `time`, and takes in all that are there.
    fn listen(&self, time: Duration, flight: &mut Flight, trials: &mut [Trial<'_>]) -> Result<(), ProberError> {
        let mut fds: Vec<PollFd<'_>> = self.ears.iter().map(|e| PollFd::new(&e.socket, PollFlags::IN)).collect();
        // Rounded up: woken a moment too early, we would go round idly.
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(ProberError { what: "wait", at: "all spots".to_owned(), source: e.into() }),
        }
        let ready: Vec<usize> = (0..).zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(n, _)| n).collect();
        let mut buffer = [0; BUFFER];
        for index in ready {
            let ear = &self.ears[index];
            let station = &self.stations[ear.station];
            let fail = |source| ProberError { what: "listen", at: station.netns.label().to_owned(), source };
            // Bounded: on a busy live host a socket might never run dry.
            for _ in 0..4096 {
                if !hear(ear, station, flight, trials, &mut buffer).map_err(fail)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // Closing a packet socket waits until no processor is in it (synchronize_net): some milliseconds each, which
        // many closers wait for together.
        std::thread::scope(|scope| {
            for ear in self.ears.drain(..) {
                // Where no thread can be started, the closure and with it the socket is dropped here.
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(ear));
            }
        });
    }
}

/// The source ports of probes: above those of services, all of a width.
const FIRST_PORT: u16 = 40000;
const LAST_PORT: u16 = 59999;

enum Step {
    Done,
    Resend,
    Wait(Duration),
}

/// How long a probe that must be seen, and was not, is waited for.
fn patience(age: Duration, resent: usize) -> Step {
    match RESEND.get(resent) {
        _ if age >= GIVE_UP => Step::Done,
        Some(when) if age >= *when => Step::Resend,
        Some(when) => Step::Wait(*when - age),
        None => Step::Wait(GIVE_UP - age),
    }
}

/// Sends again where the queue was full: a packet that was never sent must not pass for one that was dropped.
fn patiently(send: impl Fn() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..50 {
        match send() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
    send()
}

fn open_ears(capture: &Capture) -> io::Result<Vec<(Socket, Hears)>> {
    match capture {
        Capture::Incoming => [ETHERTYPE_IPV4, ETHERTYPE_IPV6]
            .into_iter()
            .map(|ethertype| Ok((sockets::packet_socket(ethertype, 0)?, Hears::Incoming)))
            .chain([sockets::packet_socket(ETHERTYPE_ARP, 0).map(|socket| (socket, Hears::IncomingArp))])
            .collect(),
        Capture::Delivered => {
            let sockets = sockets::delivered_sockets()?;
            Ok(sockets.into_iter().map(|(socket, protocol)| (socket, Hears::Delivered(protocol))).collect())
        }
        Capture::Outgoing { interface, .. } => {
            // Only sockets for every protocol see what leaves.
            let index = sockets::interface_index(interface)?;
            Ok(vec![(sockets::packet_socket(libc::ETH_P_ALL as u16, index)?, Hears::Outgoing)])
        }
    }
}

fn open_sender(capture: &Capture) -> io::Result<Option<Sender>> {
    if matches!(capture, Capture::Outgoing { .. }) {
        return Ok(None);
    }
    let sockets = SendSockets::open()?;
    let routes = netlink::Socket::open(libc::NETLINK_ROUTE as isize).map_err(|e| match e {
        netlink::NetlinkError::Socket(e) => e,
        e => io::Error::other(e),
    })?;
    Ok(Some(Sender { sockets, routes }))
}

/// Each vantage has some six descriptors open, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, opening says what is missing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
