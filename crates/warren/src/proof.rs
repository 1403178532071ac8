//! What was proved: probes and their outcomes, as a table for people and as JSON.

use lab::Outcome;
use model::probe::{Content, Expect, Packet, PacketKind, Spot};

use crate::output;

/// The table of everything that was proved: what, from where, to where, expected, seen, how long. Those that did not
/// hold come last, where a person looks first.
pub fn table(outcomes: &[Outcome]) -> String {
    let heading = ["", "WHAT", "FROM", "TO", "EXPECTED", "SEEN", "TOOK"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let (held, broken): (Vec<_>, Vec<_>) = outcomes.iter().partition(|o| o.held);
    for outcome in held.into_iter().chain(broken) {
        let probe = &outcome.probe;
        rows.push(vec![
            if outcome.held { "ok" } else { "BROKEN" }.to_owned(),
            probe.name.clone(),
            spot(&probe.from),
            destination(&probe.packet),
            expected(&probe.expect),
            outcome.seen.clone(),
            format!("{:.1} ms", outcome.took.as_secs_f64() * 1000.0),
        ]);
    }
    let text = output::table(&rows);
    text.lines()
        .map(|line| match line.split_once(' ') {
            Some(("ok", rest)) => format!("{}ok{} {rest}\n", output::GREEN, output::RESET),
            Some(("BROKEN", _)) => format!("{}{line}{}\n", output::RED, output::RESET),
            _ => format!("{line}\n"),
        })
        .collect()
}

/// A line that counts what held and what did not, and names the latter.
pub fn summary(outcomes: &[Outcome]) -> String {
    let broken: Vec<&str> = outcomes.iter().filter(|o| !o.held).map(|o| o.probe.name.as_str()).collect();
    let silent = outcomes.iter().filter(|o| o.held && o.nothing_listens).count();
    let must_pass = |o: &&Outcome| !matches!(o.probe.expect, Expect::Blocked { .. });
    let passing = outcomes.iter().filter(must_pass).count();
    if broken.is_empty() {
        let note = if silent > 0 {
            format!(
                " ({silent} arrived where nothing listens: the network is right, a service is missing or stood in for)"
            )
        } else {
            String::new()
        };
        return format!(
            "{}All {} probes held:{} {passing} that must be seen, {} that must not.{note}",
            output::GREEN,
            outcomes.len(),
            output::RESET,
            outcomes.len() - passing,
        );
    }
    format!(
        "{}{} of {} probes did not hold:{} {}",
        output::RED,
        broken.len(),
        outcomes.len(),
        output::RESET,
        broken.join("; ")
    )
}

/// The outcomes as docs/json.md describes them.
pub fn json(outcomes: &[Outcome]) -> serde_json::Value {
    let probes = outcomes.iter().map(|outcome| {
        serde_json::json!({
            "name": outcome.probe.name,
            "row": outcome.probe.row,
            "from": spot(&outcome.probe.from),
            "to": destination(&outcome.probe.packet),
            "expected": expected(&outcome.probe.expect),
            "seen": outcome.seen,
            "held": outcome.held,
            "nothing_listens": outcome.nothing_listens,
            "took_ms": outcome.took.as_secs_f64() * 1000.0,
        })
    });
    probes.collect::<Vec<_>>().into()
}

fn spot(spot: &Spot) -> String {
    match spot {
        Spot::Host => "this host".to_owned(),
        Spot::Guest(name) => name.clone(),
        Spot::World => "the world".to_owned(),
        Spot::Neighbour => "a neighbour".to_owned(),
    }
}

fn destination(packet: &Packet) -> String {
    let at = |port: u16| std::net::SocketAddr::new(packet.to, port);
    match packet.kind {
        PacketKind::Tcp(port) => format!("{} tcp", at(port)),
        PacketKind::Udp(port) => format!("{} udp", at(port)),
        PacketKind::Echo => format!("{} echo", packet.to),
        PacketKind::ArpWhoHas => format!("{} who has", packet.to),
        PacketKind::Frame(frame) => format!("{} {}", packet.to, content(&frame.content)),
    }
}

fn content(content: &Content) -> &'static str {
    match content {
        Content::Datagram { .. } => "frame",
        Content::Tagged { .. } => "tagged frame",
        Content::Claim { .. } => "claim",
        Content::Lease { .. } => "lease",
        Content::Route { .. } => "route",
    }
}

fn expected(expect: &Expect) -> String {
    match expect {
        Expect::Arrives { at, port, source, .. } => {
            let port = port.map(|p| format!(":{p}")).unwrap_or_default();
            let source = source.map(|s| format!(" from {s}")).unwrap_or_default();
            format!("at {}{port}{source}", spot(at))
        }
        Expect::Blocked { .. } => "nothing".to_owned(),
        Expect::AnsweredBy { mac: Some(mac) } => format!("{mac} alone"),
        Expect::AnsweredBy { mac: None } => "nobody".to_owned(),
    }
}
