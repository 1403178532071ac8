//! Ports that reach the host itself whatever the file says: `management` of `[host]`, and sshd's.
//!
//! A rule with an address keeps that port on that address. A bare one keeps it on every public address on which no
//! forward names it explicitly, and always on at least one. "Explicitly" is a forward with an address and exactly that
//! port: neither one without an address, nor a range that happens to hold it, may take it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

use super::Scope;
use super::claims::{Claim, Claims, words};
use crate::address::{Ports, Transport};
use crate::config::elements;
use crate::config::grammar::What;
use crate::network::Kept;
use crate::problem::{Kind, Problem};

/// Who keeps a port.
#[derive(Clone, PartialEq, Eq)]
enum Origin {
    /// `management` as written.
    Written(Range<usize>),
    /// The default of `management`.
    Default,
    /// sshd was seen on it, or our own session uses it.
    Ssh,
}

struct Rule {
    address: Option<IpAddr>,
    transport: Transport,
    port: u16,
    origin: Origin,
}

/// Claims that are settled here: either told of as a problem, or allowed although the host listens on the port.
/// By place of the claim, protocol and port.
pub(super) type Settled = HashSet<(usize, Transport, u16)>;

/// Checks the forwards against the rules. Sites are checked by [`super::sites`].
pub(super) fn check(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) -> Settled {
    let mut settled = Settled::new();
    for rule in rules(scope) {
        let ports = Ports::one(rule.port);
        let on_it = |claim: &&Claim| claim.transport == rule.transport && claim.ports.overlaps(ports);
        let taking: Vec<&Claim> = claims.ports.iter().filter(on_it).collect();
        for claim in &taking {
            if takes(scope, &rule, claim) {
                problems.push(problem(&rule, claim, "and this would take it"));
                settled.insert((claim.span.start, rule.transport, rule.port));
            }
        }
        if rule.address.is_none() {
            check_one_left(scope, &rule, &taking, problems);
            let named = taking.iter().filter(|claim| claim.address.is_some());
            settled.extend(named.map(|claim| (claim.span.start, rule.transport, rule.port)));
        }
    }
    settled
}

/// Whether a claim on the rule's port may not be.
fn takes(scope: &Scope<'_>, rule: &Rule, claim: &Claim) -> bool {
    match (rule.address, claim.address) {
        (Some(kept), Some(taken)) => kept == taken,
        (Some(kept), None) => scope.public_covers(kept),
        (None, None) => true,
        (None, Some(_)) => !claim.ports.is_single(),
    }
}

/// The forwards that name the port on an address may not be on all addresses.
fn check_one_left(scope: &Scope<'_>, rule: &Rule, taking: &[&Claim], problems: &mut Vec<Problem>) {
    let named: Vec<&&Claim> =
        taking.iter().filter(|claim| claim.address.is_some() && claim.ports.is_single()).collect();
    let all_of = |addresses: &[IpAddr]| {
        let taken = |address: &IpAddr| named.iter().any(|claim| claim.address == Some(*address));
        !addresses.is_empty() && addresses.iter().all(taken)
    };
    let (all, kind) = match scope.listed_public() {
        Some(list) => (all_of(&list.iter().map(|a| a.value).collect::<Vec<_>>()), Kind::Config),
        // Which addresses the uplink has is the host's business, and may be another's tomorrow.
        None => (all_of(&scope.uplink_addresses().collect::<Vec<_>>()), Kind::Conflict),
    };
    if let Some(last) = named.iter().max_by_key(|claim| claim.span.start).filter(|_| all) {
        let mut problem = problem(rule, last, "and this would take the last address of it");
        problem.kind = problem.kind.max(kind);
        problems.push(problem);
    }
}

fn problem(rule: &Rule, claim: &Claim, does: &str) -> Problem {
    let kept = words(rule.address, Ports::one(rule.port), rule.transport);
    let why = match rule.origin {
        Origin::Written(_) => "kept for management",
        Origin::Default => "kept for management by default",
        Origin::Ssh => "where sshd, or this very session, listens",
    };
    let message = format!("{kept} is {why}, {does}");
    let kind = if rule.origin == Origin::Ssh { Kind::Conflict } else { Kind::Config };
    let help = match (&rule.origin, rule.address) {
        (Origin::Default, _) => "listen on another port, or say in [host] what to keep: management = [\"2222/tcp\"]",
        (_, Some(_)) => "listen on another port or address",
        (_, None) => "listen on another port, or on one address of several: \"ADDRESS:PORT\"",
    };
    let problem = Problem::new(kind, claim.span.clone(), message).help(help);
    match &rule.origin {
        Origin::Written(span) => problem.also(span.clone(), "kept here"),
        Origin::Default | Origin::Ssh => problem,
    }
}

/// All rules, each once: the file's, else the default; then sshd's.
fn rules(scope: &Scope<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for listen in elements(scope.config.host.management.as_ref()) {
        let What::Ports { ports, transports } = &listen.value.what else { continue };
        for &transport in transports {
            let origin = Origin::Written(listen.span.clone());
            rules.push(Rule { address: listen.value.address, transport, port: ports.first, origin });
        }
    }
    if scope.config.host.management.is_none() {
        rules.push(Rule { address: None, transport: Transport::Tcp, port: 22, origin: Origin::Default });
    }
    for &port in &scope.facts.ssh_ports {
        rules.push(Rule { address: None, transport: Transport::Tcp, port, origin: Origin::Ssh });
    }
    let mut known = HashSet::new();
    rules.retain(|rule| known.insert((rule.address, rule.transport, rule.port)));
    rules
}

/// What no DMZ takes from the host: what is kept for management, and what the host listens on as it is now.
pub(super) fn kept(scope: &Scope<'_>) -> Vec<Kept> {
    let rules = rules(scope);
    let managed = rules.iter().map(|rule| Kept { address: rule.address, transport: rule.transport, port: rule.port });
    let reachable = scope.facts.listeners.iter().filter(|l| !l.address.is_loopback() && !l.is_ours());
    let listening = reachable.map(|listener| Kept {
        // Whoever listens on every address of one version may do so on the other's, too.
        address: (!listener.address.is_unspecified()).then_some(listener.address),
        transport: listener.transport,
        port: listener.port,
    });
    let sites = super::sites::entries(scope.config);
    let sites = sites.map(|(address, port)| Kept { address, transport: Transport::Tcp, port });
    let all: std::collections::BTreeSet<Kept> = managed.chain(listening).chain(sites).collect();
    // What is kept at every address needs no word for one.
    let everywhere = |kept: &Kept| all.contains(&Kept { address: None, ..*kept });
    all.iter().copied().filter(|kept| kept.address.is_none() || !everywhere(kept)).collect()
}

/// What of `management` keeps that TCP port on that address (or on every one): where it stands, and its words.
pub(super) fn keeps(scope: &Scope<'_>, address: Option<IpAddr>, port: u16) -> Option<(Option<Range<usize>>, String)> {
    let claim = Claim { address, ports: Ports::one(port), transport: Transport::Tcp, span: 0..0 };
    let kept = |rule: &Rule| {
        rule.origin != Origin::Ssh
            && rule.transport == Transport::Tcp
            && rule.port == port
            && takes(scope, rule, &claim)
    };
    rules(scope).into_iter().find(kept).map(|rule| {
        let words = words(rule.address, Ports::one(port), Transport::Tcp);
        match rule.origin {
            Origin::Written(span) => (Some(span), words),
            Origin::Default | Origin::Ssh => (None, words),
        }
    })
}
