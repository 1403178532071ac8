//! From what was seen of a probe to whether it held, and how that is said. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use model::address::Mac;
use model::probe::{Expect, PacketKind, Probe, Spot};
use serde::{Deserialize, Serialize};

use crate::packet::{Answer, Refusal};

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The probe.
    pub probe: Probe,
    /// Whether what was seen is what must be seen.
    pub held: bool,
    /// What was seen, in words.
    pub seen: String,
    /// How long that took: to the sighting, or until silence was believed. In milliseconds when written out.
    #[serde(with = "millis")]
    pub took: Duration,
    /// Whether the packet arrived where nothing listens: the network is right, a service is missing.
    pub nothing_listens: bool,
}

/// A probe seen at a spot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub spot: Spot,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// None for echoes.
    pub port: Option<u16>,
    /// How long after it was sent.
    pub after: Duration,
}

/// An answer that came back to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub source: IpAddr,
    pub answer: Answer,
    pub after: Duration,
}

/// All that was seen of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Why it could not be sent.
    pub trouble: Option<String>,
    pub sightings: Vec<Sighting>,
    pub replies: Vec<Reply>,
    /// Who said to have the address that was asked for, in order.
    pub holders: Vec<(Mac, Duration)>,
    /// How long it was waited.
    pub waited: Duration,
}

impl Evidence {
    /// The sighting that a probe which must arrive is waiting for.
    pub(crate) fn arrival(&self, expect: &Expect) -> Option<&Sighting> {
        let Expect::Arrives { at, address, port, source } = expect else { return None };
        self.sightings.iter().find(|s| {
            s.spot == *at
                && address.is_none_or(|a| a == s.destination)
                && (port.is_none() || s.port.is_none() || s.port == *port)
                && source.is_none_or(|a| a == s.source)
        })
    }

    /// What shows that a probe which must be blocked was not: a sighting where it must not be, or an answer from its
    /// destination.
    pub(crate) fn leak(&self, probe: &Probe, watched: impl Fn(&Spot) -> bool) -> Option<Leak<'_>> {
        let Expect::Blocked { at } = &probe.expect else { return None };
        if let Some(sighting) = self.sightings.iter().find(|s| at.contains(&s.spot)) {
            return Some(Leak::Seen(sighting));
        }
        // A reset may be a firewall's word (reject with tcp reset) as well as the destination's. It is the firewall's
        // where the packet would have been seen but was not, anywhere.
        let unseen = !at.is_empty() && at.iter().all(watched) && self.sightings.is_empty();
        self.replies
            .iter()
            .find(|r| {
                r.source == probe.packet.to
                    && match r.answer {
                        Answer::Accepted => true,
                        Answer::Reset => !unseen,
                        Answer::Error(_) => false,
                    }
            })
            .map(Leak::Answered)
    }
}

/// How a probe got through that must not.
pub(crate) enum Leak<'a> {
    Seen(&'a Sighting),
    Answered(&'a Reply),
}

/// Judges a probe; `watched` tells whether anybody looks out at a spot.
pub(crate) fn judge(probe: &Probe, evidence: &Evidence, watched: impl Fn(&Spot) -> bool) -> Outcome {
    let verdict = match &probe.expect {
        Expect::Arrives { at, .. } => arrives(probe, evidence, at, watched(at)),
        Expect::Blocked { .. } => blocked(probe, evidence, watched),
        Expect::AnsweredBy { mac } => answered_by(evidence, *mac),
    };
    Outcome {
        probe: probe.clone(),
        held: verdict.held,
        seen: verdict.seen,
        took: verdict.took.unwrap_or(evidence.waited),
        nothing_listens: verdict.nothing_listens,
    }
}

struct Verdict {
    held: bool,
    seen: String,
    took: Option<Duration>,
    nothing_listens: bool,
}

impl Verdict {
    fn new(held: bool, seen: impl Into<String>) -> Self {
        Self { held, seen: seen.into(), took: None, nothing_listens: false }
    }

    fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }
}

fn arrives(probe: &Probe, evidence: &Evidence, at: &Spot, is_watched: bool) -> Verdict {
    if let Some(arrival) = evidence.arrival(&probe.expect) {
        let mut seen = format!("arrived at {} from {}", place(&arrival.spot, arrival.port), arrival.source);
        // An answer from another address than was asked is none for the one who asked.
        let strange = evidence.replies.iter().find(|r| r.answer == Answer::Accepted && r.source != probe.packet.to);
        let right = evidence.replies.iter().find(|r| r.source == probe.packet.to);
        if let (Some(reply), None) = (strange, right) {
            let _ = write!(seen, ", but {} answered in place of {}", reply.source, probe.packet.to);
            return Verdict::new(false, seen).took(arrival.after);
        }
        let refuses = |r: &Reply| matches!(r.answer, Answer::Reset | Answer::Error(Refusal::Port));
        let nothing_listens =
            probe.packet.kind != PacketKind::Echo && right.is_some_and(refuses) && !answered(evidence, probe);
        if nothing_listens {
            seen.push_str("; nothing listens there");
        } else if answered(evidence, probe) {
            seen.push_str(", answered");
        }
        return Verdict { nothing_listens, ..Verdict::new(true, seen).took(arrival.after) };
    }
    if let Some(trouble) = &evidence.trouble {
        return Verdict::new(false, format!("not sent: {trouble}"));
    }
    if let Some(sighting) = evidence.sightings.iter().find(|s| s.spot == *at).or(evidence.sightings.first()) {
        return Verdict::new(false, misplaced(&probe.expect, sighting)).took(sighting.after);
    }
    if let Some(reply) = evidence.replies.first() {
        let held = !is_watched && reply.source == probe.packet.to && !matches!(reply.answer, Answer::Error(_));
        let mut seen = answer_words(reply);
        if held {
            let _ = write!(seen, "; nobody looks out at {}", place(at, None));
        } else {
            let _ = write!(seen, "; not seen at {}", place(at, None));
        }
        let nothing_listens = held && reply.answer == Answer::Reset;
        return Verdict { nothing_listens, ..Verdict::new(held, seen).took(reply.after) };
    }
    if !is_watched {
        return Verdict::new(false, format!("silence, and nobody looks out at {}", place(at, None)));
    }
    Verdict::new(false, "silence")
}

/// Where a probe turned up that is not what must be seen.
fn misplaced(expect: &Expect, sighting: &Sighting) -> String {
    let Expect::Arrives { at, address, port, source } = expect else { return String::new() };
    let mut seen = format!("arrived at {}", place(&sighting.spot, sighting.port));
    if sighting.spot != *at {
        let _ = write!(seen, ", not at {}", place(at, *port));
        return seen;
    }
    if let (Some(port), Some(found)) = (port, sighting.port)
        && *port != found
    {
        let _ = write!(seen, ", not at port {port}");
    }
    if let Some(address) = address.filter(|a| *a != sighting.destination) {
        let _ = write!(seen, " as {}, not {address}", sighting.destination);
    }
    if let Some(source) = source.filter(|a| *a != sighting.source) {
        let _ = write!(seen, " from {}, not from {source}", sighting.source);
    }
    seen
}

fn blocked(probe: &Probe, evidence: &Evidence, watched: impl Fn(&Spot) -> bool) -> Verdict {
    match evidence.leak(probe, watched) {
        Some(Leak::Seen(sighting)) => {
            let seen = format!("leaked: seen at {} from {}", place(&sighting.spot, sighting.port), sighting.source);
            return Verdict::new(false, seen).took(sighting.after);
        }
        Some(Leak::Answered(reply)) => {
            return Verdict::new(false, format!("leaked: {}", answer_words(reply))).took(reply.after);
        }
        None => {}
    }
    if let Some(trouble) = &evidence.trouble {
        return Verdict::new(true, format!("not sent: {trouble}"));
    }
    if let Some(reply) = evidence.replies.first() {
        return Verdict::new(true, answer_words(reply));
    }
    match evidence.sightings.first() {
        Some(sighting) => Verdict::new(true, format!("seen at {} alone", place(&sighting.spot, sighting.port))),
        None => Verdict::new(true, "silence"),
    }
}

fn answered_by(evidence: &Evidence, wanted: Option<Mac>) -> Verdict {
    if let Some(trouble) = &evidence.trouble {
        return Verdict::new(false, format!("not asked: {trouble}"));
    }
    let Some((_, after)) = evidence.holders.first() else { return Verdict::new(wanted.is_none(), "silence") };
    let names: Vec<String> = evidence.holders.iter().map(|(mac, _)| mac.to_string()).collect();
    let mut seen = format!("answered by {}", names.join(" and by "));
    let held = evidence.holders.len() == 1 && wanted == evidence.holders.first().map(|(mac, _)| *mac);
    match wanted {
        Some(mac) if !held => {
            let _ = write!(seen, ", not by {mac} alone");
        }
        _ => {}
    }
    Verdict::new(held, seen).took(*after)
}

fn answered(evidence: &Evidence, probe: &Probe) -> bool {
    evidence.replies.iter().any(|r| r.answer == Answer::Accepted && r.source == probe.packet.to)
}

fn answer_words(reply: &Reply) -> String {
    match reply.answer {
        Answer::Accepted => format!("answered by {}", reply.source),
        Answer::Reset => format!("refused by {} with a reset", reply.source),
        Answer::Error(refusal) => format!("{} says: {}", reply.source, refusal.words()),
    }
}

/// A spot, with its port where it has one: `cnx6:22`.
fn place(spot: &Spot, port: Option<u16>) -> String {
    let name = match spot {
        Spot::Host => "host",
        Spot::Guest(name) => name,
        Spot::World => "world",
        Spot::Neighbour => "neighbour",
    };
    port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// A duration written out as milliseconds with a fraction.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value.as_micros() as f64 / 1000.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let value = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(value / 1000.0).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use model::probe::Packet;

    use super::*;

    const SOON: Duration = Duration::from_micros(80);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn probe(expect: Expect) -> Probe {
        let packet = Packet { to: ip("203.0.113.2"), kind: PacketKind::Tcp(22210) };
        Probe { name: String::new(), row: String::new(), from: Spot::World, packet, expect }
    }

    fn cnx6() -> Spot {
        Spot::Guest("cnx6".to_owned())
    }

    fn arrives() -> Expect {
        Expect::Arrives { at: cnx6(), address: Some(ip("10.1.1.6")), port: Some(22), source: None }
    }

    fn sighting() -> Sighting {
        Sighting { spot: cnx6(), source: ip("198.51.100.7"), destination: ip("10.1.1.6"), port: Some(22), after: SOON }
    }

    fn reply(source: &str, answer: Answer) -> Reply {
        Reply { source: ip(source), answer, after: SOON }
    }

    fn words(expect: Expect, evidence: &Evidence, is_watched: bool) -> (bool, String) {
        let outcome = judge(&probe(expect), evidence, |_| is_watched);
        (outcome.held, outcome.seen)
    }

    #[test]
    fn an_answer_from_elsewhere_is_no_answer() {
        let mut evidence = Evidence { sightings: vec![sighting()], ..Evidence::default() };
        assert_eq!(words(arrives(), &evidence, true), (true, "arrived at cnx6:22 from 198.51.100.7".to_owned()));
        evidence.replies = vec![reply("10.1.1.6", Answer::Accepted)];
        let (held, seen) = words(arrives(), &evidence, true);
        assert!(!held && seen.ends_with("but 10.1.1.6 answered in place of 203.0.113.2"), "{seen}");
        evidence.replies.push(reply("203.0.113.2", Answer::Accepted));
        assert!(words(arrives(), &evidence, true).0);
    }

    #[test]
    fn where_nobody_looks_out_answers_speak() {
        let reset = Evidence { replies: vec![reply("203.0.113.2", Answer::Reset)], ..Evidence::default() };
        let outcome = judge(&probe(arrives()), &reset, |_| false);
        assert!(outcome.held && outcome.nothing_listens, "{outcome:?}");
        assert!(!words(arrives(), &reset, true).0, "it would have been seen");
        // A reset in answer to what must be blocked: the firewall's word, if the packet would have been seen.
        let blocked = || Expect::Blocked { at: vec![cnx6()] };
        assert!(words(blocked(), &reset, true).0);
        assert!(!words(blocked(), &reset, false).0);
        let error =
            Evidence { replies: vec![reply("203.0.113.2", Answer::Error(Refusal::Prohibited))], ..Evidence::default() };
        assert_eq!(words(blocked(), &error, false), (true, "203.0.113.2 says: prohibited".to_owned()));
        assert!(!words(arrives(), &error, false).0);
    }
}
