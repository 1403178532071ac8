//! Probes under way, and what is heard of them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use model::address::Mac;
use model::probe::{Content, PacketKind, Probe};
use socket2::Socket;

use super::Station;
use crate::judge::{Evidence, Reply, Sighting};
use crate::packet::{self, Arp, Kind, Seen};
use crate::sockets::{self, BUFFER};

/// A socket that is listened on.
pub(super) struct Ear {
    pub(super) station: usize,
    pub(super) socket: Socket,
    pub(super) hears: Hears,
}

#[derive(Clone, Copy)]
pub(super) enum Hears {
    Incoming,
    /// ARP that comes in.
    IncomingArp,
    Outgoing,
    /// Delivered; for IPv6 the protocol, as no header tells it.
    Delivered(Option<u8>),
    /// ARP or neighbour discovery on one interface.
    Holders(u32),
}

/// A probe under way.
pub(super) struct Trial<'a> {
    pub(super) probe: &'a Probe,
    pub(super) sender: Option<usize>,
    pub(super) sport: u16,
    pub(super) sent: Instant,
    pub(super) resent: usize,
    pub(super) done: bool,
    pub(super) message: Message,
    pub(super) evidence: Evidence,
}

/// What is put on the wire, kept for sending it again.
pub(super) enum Message {
    None,
    Packet(Vec<u8>),
    /// A whole frame, by that interface.
    Frame {
        bytes: Vec<u8>,
        interface: u32,
    },
    Question {
        bytes: Vec<u8>,
        to: Mac,
        ethertype: u16,
        interface: u32,
    },
}

/// A batch under way: which packet belongs to which probe.
pub(super) struct Flight {
    base: u32,
    ports: HashMap<u16, usize>,
    pub(super) last_sent: Instant,
}

impl Flight {
    pub(super) fn new(base: u32, trials: &[Trial<'_>]) -> Self {
        let ports = (0..).zip(trials).map(|(index, trial)| (trial.sport, index)).collect();
        Self { base, ports, last_sent: Instant::now() }
    }

    /// The probe that a packet is, answers or quotes.
    fn find(&self, seen: &Seen, trials: &[Trial<'_>]) -> Option<usize> {
        let index = match seen.token {
            Some(token) => token.wrapping_sub(self.base) as usize,
            // An ICMP error that quotes only ports, or a service's own answer to a datagram.
            None if seen.answer.is_some() => *self.ports.get(&seen.sport)?,
            None => *self.ports.get(&seen.dport)?,
        };
        let kind = match trials.get(index)?.probe.packet.kind {
            PacketKind::Tcp(_) => Kind::Tcp,
            PacketKind::Udp(_) => Kind::Udp,
            PacketKind::Echo => Kind::Echo,
            PacketKind::ArpWhoHas => return None,
            PacketKind::Frame(frame) => match frame.content {
                Content::Datagram { .. } | Content::Tagged { .. } | Content::Lease { .. } => Kind::Udp,
                Content::Claim { .. } | Content::Route { .. } => Kind::Local,
            },
        };
        (kind == seen.kind).then_some(index)
    }
}

/// Takes in one packet; false where none waits.
pub(super) fn hear(
    ear: &Ear,
    station: &Station,
    flight: &Flight,
    trials: &mut [Trial<'_>],
    buffer: &mut [u8; BUFFER],
) -> io::Result<bool> {
    let seen = match ear.hears {
        Hears::Delivered(protocol) => match sockets::next_delivered(&ear.socket, protocol, buffer)? {
            None => return Ok(false),
            Some(seen) => seen,
        },
        Hears::Incoming | Hears::IncomingArp | Hears::Outgoing | Hears::Holders(_) => {
            let Some(frame) = sockets::next_frame(&ear.socket, buffer)? else { return Ok(false) };
            let bytes = buffer.get(..frame.length).unwrap_or(&[]);
            match ear.hears {
                Hears::Holders(interface) if !frame.leaving => {
                    note_holder(bytes, ear.station, interface, trials);
                    None
                }
                Hears::Incoming if frame.to_us && !frame.loopback => packet::read(bytes),
                Hears::IncomingArp if frame.to_us => packet::frame::read_arp(bytes),
                Hears::Outgoing if frame.leaving => packet::read(bytes)
                    .filter(|s| station.addresses.is_empty() || station.addresses.contains(&s.destination)),
                _ => None,
            }
        }
    };
    if let Some(seen) = seen {
        note(&seen, station, flight, trials, !matches!(ear.hears, Hears::Outgoing));
    }
    Ok(true)
}

/// Puts down a packet that was seen at `station`.
fn note(seen: &Seen, station: &Station, flight: &Flight, trials: &mut [Trial<'_>], takes_answers: bool) {
    let Some(trial) = flight.find(seen, trials).and_then(|index| trials.get_mut(index)) else { return };
    let after = trial.sent.elapsed();
    let answer = match (seen.answer, seen.token) {
        (Some(answer), _) => answer,
        // A datagram without token, back to the port that ours was sent from.
        (None, None) => packet::Answer::Accepted,
        (None, Some(_)) => {
            let port = matches!(seen.kind, Kind::Tcp | Kind::Udp).then_some(seen.dport);
            let (source, destination) = (seen.source, seen.destination);
            let known =
                |s: &Sighting| (&s.spot, s.source, s.destination, s.port) == (&station.spot, source, destination, port);
            if !trial.evidence.sightings.iter().any(known) {
                let spot = station.spot.clone();
                trial.evidence.sightings.push(Sighting { spot, source, destination, port, after });
            }
            return;
        }
    };
    // Answers count where they come home; on their way they pass others' eyes.
    if takes_answers && station.spot == trial.probe.from {
        let reply = Reply { source: seen.source, answer, after };
        if !trial.evidence.replies.iter().any(|r| (r.source, r.answer) == (reply.source, reply.answer)) {
            trial.evidence.replies.push(reply);
        }
    }
}

/// Puts down who says to hold an address.
fn note_holder(bytes: &[u8], station: usize, on: u32, trials: &mut [Trial<'_>]) {
    let (address, holder) = match (Arp::read(bytes), packet::neighbour_advertised(bytes)) {
        (Some(arp), _) if !arp.asks => (IpAddr::V4(arp.sender), arp.sender_mac),
        (_, Some((address, mac))) => (IpAddr::V6(address), mac),
        _ => return,
    };
    for trial in trials {
        let asked = matches!(&trial.message, Message::Question { interface, .. } if *interface == on);
        if asked && trial.sender == Some(station) && trial.probe.packet.to == address {
            let after = trial.sent.elapsed();
            if !trial.evidence.holders.iter().any(|(mac, _)| *mac == holder) {
                trial.evidence.holders.push((holder, after));
            }
        }
    }
}
