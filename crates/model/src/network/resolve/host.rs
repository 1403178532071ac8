//! The host: its public addresses, and what of its own stands in the file's way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Scope;
use super::claims::{Claim, Claims, words};
use super::management::Settled;
use crate::address::{IfName, Ports, Transport};
use crate::config::{self, Spanned, elements};
use crate::facts::Listener;
use crate::network::Mode;
use crate::problem::Problem;

/// A public address that is listed twice.
pub(super) fn check_public(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut known = HashMap::new();
    for address in scope.listed_public().unwrap_or(&[]) {
        if let Some(other) = known.insert(address.value, &address.span) {
            let problem = Problem::config(address.span.clone(), format!("{} stands there twice", address.value));
            problems.push(problem.help("leave one of them out").also(other.clone(), "the first"));
        }
    }
}

/// LANs' subnets that hold, or stand in, a network that the host reaches otherwise.
pub(super) fn check_networks(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    // A bridged LAN is the outer network itself.
    for lan in scope.config.lans.iter().filter(|lan| lan.mode() != Mode::Bridged && !lan.mode_unknown()) {
        for net in elements(lan.address.as_ref()) {
            if let Some((other, interface, what)) = overlapping(scope, lan, net) {
                let place = interface.map_or_else(String::new, |interface| format!(" on {interface}"));
                let message = format!("{} overlaps {what} {other}{place} of this host's", net.value.trunc());
                let help = if net.value.addr().is_ipv6() && interface.is_some() && interface == scope.uplink {
                    "an IPv6 LAN may be a part of the uplink's subnet, but one that holds neither this host nor its router"
                } else {
                    "take a subnet that nothing of the host's uses"
                };
                problems.push(Problem::conflict(net.span.clone(), message).help(help));
            }
        }
    }
}

/// The first network of the host's that a LAN's subnet overlaps.
fn overlapping<'a>(
    scope: &Scope<'a>,
    lan: &config::Lan,
    net: &Spanned<IpNet>,
) -> Option<(IpNet, Option<&'a IfName>, &'static str)> {
    let addresses = scope.facts.interfaces.iter().flat_map(|interface| {
        interface.addresses.iter().map(move |address| (*address, Some(&interface.name), "the network"))
    });
    let routes = scope.facts.routes.iter().map(|route| (route.to, route.interface.as_ref(), "the route"));
    addresses.chain(routes).find(|(other, interface, _)| {
        overlaps(net.value, *other) && !is_default(*other) && !may_be_inside(scope, lan, net.value, *other, *interface)
    })
}

fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// A default route in halves, as VPNs make it so as not to touch the real one; 2000::/3 is all of IPv6 that is given out.
fn is_default(net: IpNet) -> bool {
    net.prefix_len() <= if net.addr().is_ipv4() { 1 } else { 3 }
}

/// An IPv6 LAN, or a routed one, may be a part of the uplink's own subnet: the longest prefix wins.
fn may_be_inside(scope: &Scope<'_>, lan: &config::Lan, net: IpNet, other: IpNet, interface: Option<&IfName>) -> bool {
    let of_uplink = interface.is_some() && interface == scope.uplink;
    let part = other.contains(&net.network()) && net.prefix_len() > other.prefix_len();
    // But not the part that the host or its router is in, or the longer prefix would lead them into the LAN.
    let holds = |address: &IpAddr| net.contains(address);
    let part = part && !scope.facts.routers.iter().any(holds) && !scope.uplink_addresses().any(|a| holds(&a));
    of_uplink && part && (net.addr().is_ipv6() || lan.mode() == Mode::Routed)
}

/// Ports of forwards on which something of the host's listens already. What management has settled is left alone.
pub(super) fn check_listeners(scope: &Scope<'_>, claims: &Claims, settled: &Settled, problems: &mut Vec<Problem>) {
    let mut listeners: BTreeMap<(Transport, u16), Vec<&Listener>> = BTreeMap::new();
    for listener in scope.facts.listeners.iter().filter(|l| !l.address.is_loopback() && !l.is_ours()) {
        listeners.entry((listener.transport, listener.port)).or_default().push(listener);
    }
    let uplink: Vec<IpAddr> = scope.uplink_addresses().collect();
    for claim in &claims.ports {
        let range = (claim.transport, claim.ports.first)..=(claim.transport, claim.ports.last);
        let mut hit = listeners.range(range).filter_map(|(&(transport, port), on_port)| {
            if settled.contains(&(claim.span.start, transport, port)) {
                return None;
            }
            on_port.iter().copied().find(|listener| covers(scope, claim, &uplink, listener))
        });
        if let Some(listener) = hit.next() {
            problems.push(taken(claim, listener));
        }
    }
}

/// Whether a forward takes packets away from a listener.
fn covers(scope: &Scope<'_>, claim: &Claim, uplink: &[IpAddr], listener: &Listener) -> bool {
    let at = listener.address;
    if at.is_unspecified() {
        // An IPv6 wildcard usually takes IPv4 as well.
        return at.is_ipv6() || claim.address.is_none_or(|address| address.is_ipv4());
    }
    match (claim.address, scope.listed_public()) {
        (Some(address), _) => address == at,
        (None, Some(list)) => list.iter().any(|public| public.value == at),
        (None, None) => uplink.contains(&at),
    }
}

fn taken(claim: &Claim, listener: &Listener) -> Problem {
    let at = (!listener.address.is_unspecified()).then_some(listener.address);
    let port = words(at, Ports::one(listener.port), listener.transport);
    let owner = listener.owner.as_deref().unwrap_or("a process of this host's");
    let message = format!("{owner} listens on {port}, which this forward would take from it");
    Problem::conflict(claim.span.clone(), message).help("listen on another port or address, or stop that process")
}
