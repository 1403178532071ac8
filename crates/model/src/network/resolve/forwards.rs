//! Forwards: where they go.

use std::net::IpAddr;

use super::claims::{Claim, Claims};
use super::{Scope, stations};
use crate::address::{IfName, Ports};
use crate::config::grammar::{Place, What};
use crate::config::{self, Spanned, elements};
use crate::network::{Dmz, Forward, Mode};
use crate::problem::Problem;

/// The forwards and DMZs as they are meant, and the ports that they take.
pub(super) fn resolve(scope: &Scope<'_>, problems: &mut Vec<Problem>) -> (Vec<Forward>, Vec<Dmz>, Claims) {
    let mut forwards = Vec::with_capacity(scope.config.forwards.len());
    let mut dmzs = Vec::new();
    let mut claims = Claims::default();
    for forward in &scope.config.forwards {
        claim(forward, &mut claims);
        if let Some(goal) = find(scope, forward, problems) {
            build(forward, &goal, &mut forwards, &mut dmzs);
        }
    }
    (forwards, dmzs, claims)
}

fn claim(forward: &config::Forward, claims: &mut Claims) {
    let Some(listen) = &forward.listen else { return };
    let (address, span) = (listen.value.address, &listen.span);
    match &listen.value.what {
        What::Everything => claims.everything.push((address, span.clone())),
        What::Ports { ports, transports } => {
            let one = |&transport| Claim { address, ports: *ports, transport, span: span.clone() };
            claims.ports.extend(transports.iter().map(one));
        }
    }
}

/// Where a forward goes.
struct Goal {
    guest: Option<String>,
    lan: IfName,
    to: Vec<IpAddr>,
}

fn find(scope: &Scope<'_>, forward: &config::Forward, problems: &mut Vec<Problem>) -> Option<Goal> {
    let to = forward.to.as_ref()?;
    let (guest, lan, addresses) = match &to.value.place {
        Place::Guest(name) => {
            let Some(&at) = scope.guests.get(name.as_str()) else {
                problems.push(scope.no_guest(name, &to.span));
                return None;
            };
            let guest = scope.config.guests.get(at)?;
            let addresses = scope.addresses_of(at);
            if addresses.is_empty() && !guest.broken {
                let message = format!("\"{name}\" has no fixed address to forward to");
                let problem = Problem::config(to.span.clone(), message).help("give it one: address = [\"…\"]");
                problems.push(problem.also(guest.name.span.clone(), "the guest"));
            }
            (Some(name.clone()), scope.lan_of_guest(at)?, addresses)
        }
        Place::Address(address) => {
            let (guest, lan) = holder(scope, *address, &to.span, problems)?;
            (guest, lan, vec![*address])
        }
    };
    if lan.mode() == Mode::Isolated {
        let message = format!("nothing comes in to \"{}\", which is isolated", lan.name.value);
        let problem = Problem::config(to.span.clone(), message).help("a [[site]] may be on a guest of an isolated LAN");
        problems.push(problem.also(lan.mode.as_ref().map_or(lan.name.span.clone(), |m| m.span.clone()), "its mode"));
    }
    let usable = usable(scope, forward, &addresses);
    if usable.is_empty() {
        if !addresses.is_empty() && forward.listen.is_some() {
            problems.push(no_family(forward, to, &addresses));
        }
        return None;
    }
    Some(Goal { guest, lan: lan.bridge.clone()?, to: usable })
}

/// The LAN that an address is on, and the guest that has it.
fn holder<'a>(
    scope: &Scope<'a>,
    address: IpAddr,
    span: &std::ops::Range<usize>,
    problems: &mut Vec<Problem>,
) -> Option<(Option<String>, &'a config::Lan)> {
    // A guest's address may be outside of its LAN's subnets, so guests come first.
    if let Some(&at) = scope.holders.get(&address) {
        return Some((Some(scope.config.guests.get(at)?.name.value.clone()), scope.lan_of_guest(at)?));
    }
    let found = scope.config.lans.iter().find_map(|lan| {
        let net = elements(lan.address.as_ref()).iter().find(|net| net.value.contains(&address))?;
        Some((lan, net))
    });
    let Some((lan, net)) = found else {
        if !scope.config.lans.iter().any(|lan| lan.broken) {
            let problem = Problem::config(span.clone(), format!("{address} is on none of the LANs"));
            let help = if address.is_ipv6() {
                "forward to a guest, or to an address of a LAN's subnet; a port wants brackets before it: \"[fd00:1::6]:22\""
            } else {
                "forward to a guest, or to an address of a LAN's subnet"
            };
            problems.push(problem.help(help));
        }
        return None;
    };
    let what =
        if net.value.addr() == address { Some("the host's own address") } else { stations::edge(net.value, address) };
    if let Some(what) = what {
        let problem = Problem::config(span.clone(), format!("{address} is {what} on \"{}\"", lan.name.value));
        problems.push(problem.help("forward to a guest").also(net.span.clone(), "the LAN's subnet"));
        return None;
    }
    Some((None, lan))
}

/// The first address of each family that the forward can bring something to.
fn usable(scope: &Scope<'_>, forward: &config::Forward, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let allowed = |address: &&IpAddr| match forward.listen.as_ref().and_then(|listen| listen.value.address) {
        Some(listen) => listen.is_ipv4() == address.is_ipv4(),
        None => scope
            .listed_public()
            .is_none_or(|list| list.is_empty() || list.iter().any(|p| p.value.is_ipv4() == address.is_ipv4())),
    };
    let mut usable: Vec<IpAddr> = Vec::new();
    for &address in addresses.iter().filter(allowed) {
        if usable.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            usable.push(address);
        }
    }
    usable
}

fn no_family(forward: &config::Forward, to: &Spanned<config::grammar::Target>, addresses: &[IpAddr]) -> Problem {
    let has = if addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let other = if has == "IPv4" { "IPv6" } else { "IPv4" };
    let message = format!("this goes to {has} alone, and the world comes in by {other} alone");
    let problem = Problem::config(to.span.clone(), message).help(format!("give the guest an {other} address"));
    match &forward.listen {
        Some(listen) => problem.also(listen.span.clone(), "the world comes in here"),
        None => problem,
    }
}

fn build(forward: &config::Forward, goal: &Goal, forwards: &mut Vec<Forward>, dmzs: &mut Vec<Dmz>) {
    let (Some(listen), Some(to)) = (&forward.listen, &forward.to) else { return };
    let sources: Vec<_> = elements(forward.sources.as_ref()).iter().map(|net| net.value.trunc()).collect();
    let hairpin = forward.hairpin.as_ref().is_none_or(|hairpin| hairpin.value);
    let What::Ports { ports, transports } = &listen.value.what else {
        dmzs.push(Dmz {
            address: listen.value.address,
            to: goal.to.clone(),
            guest: goal.guest.clone(),
            lan: goal.lan.clone(),
            sources,
            hairpin,
        });
        return;
    };
    let to_ports: Ports = to.value.ports.unwrap_or(*ports);
    for &transport in transports {
        forwards.push(Forward {
            address: listen.value.address,
            transport,
            ports: *ports,
            to: goal.to.clone(),
            to_port: to_ports.first,
            guest: goal.guest.clone(),
            lan: goal.lan.clone(),
            sources: sources.clone(),
            hairpin,
        });
    }
}
