//! Bridged LANs: what is plugged in, what of the host's stands in the way, and what the outer network is.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Scope;
use crate::address::IfName;
use crate::config::{self, Spanned, elements};
use crate::facts::{Interface, Medium};
use crate::network::{Mode, Outer};
use crate::problem::Problem;

/// Whether the bridge of a bridged LAN is warren's to make.
fn is_made(lan: &config::Lan) -> bool {
    lan.mode() == Mode::Bridged && !lan.external.as_ref().is_some_and(|external| external.value)
}

/// The LAN whose bridge plays the interface of that name: it is plugged in there, or is that bridge itself.
pub(super) fn playing<'a>(config: &'a config::Config, name: &IfName) -> Option<&'a config::Lan> {
    config.lans.iter().filter(|lan| is_made(lan)).find(|lan| {
        lan.bridge.as_ref() == Some(name) || elements(lan.ports.as_ref()).iter().any(|port| &port.value == name)
    })
}

/// The port whose place a bridge takes: the uplink where it is one of them, else the first.
pub(super) fn carried<'a>(lan: &'a config::Lan, uplink: Option<&IfName>) -> Option<&'a IfName> {
    let ports = elements(lan.ports.as_ref());
    let is_uplink = |port: &&Spanned<IfName>| uplink == Some(&port.value);
    ports.iter().find(is_uplink).or(ports.first()).map(|port| &port.value)
}

pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    for lan in scope.config.lans.iter().filter(|lan| lan.mode() == Mode::Bridged) {
        if is_made(lan) {
            for port in elements(lan.ports.as_ref()) {
                check_port(scope, lan, port, problems);
            }
        } else {
            check_external(scope, lan, problems);
        }
    }
    for (i, guest) in scope.config.guests.iter().enumerate() {
        let Some(lan) = scope.lan_of_guest(i).filter(|lan| lan.mode() == Mode::Bridged) else { continue };
        let outer = build(scope, lan);
        for address in elements(guest.address.as_ref()) {
            let whose = if outer.held.contains(&address.value) {
                "this host's own address"
            } else if outer.routers.contains(&address.value) {
                "the router's address"
            } else {
                continue;
            };
            let message = format!("{} is {whose} on the outer network", address.value);
            problems.push(Problem::conflict(address.span.clone(), message).help("take one that nobody there has"));
        }
    }
}

fn takes_over(scope: &Scope<'_>) -> bool {
    scope.config.host.take_over.as_ref().is_some_and(|on| on.value)
}

fn check_external(scope: &Scope<'_>, lan: &config::Lan, problems: &mut Vec<Problem>) {
    let Some(bridge) = lan.bridge.as_ref().filter(|_| !scope.facts.assumed) else { return };
    let (message, help) = match scope.facts.interface(bridge) {
        None => (
            format!("there is no bridge {bridge} on this host"),
            "make it, or let warren: `ports` in place of `external`",
        ),
        Some(interface) if !interface.bridge => {
            (format!("{bridge} is no bridge"), "name the bridge to plug guests into")
        }
        Some(_) => return,
    };
    problems.push(Problem::conflict(lan.name.span.clone(), message).help(help));
}

fn check_port(scope: &Scope<'_>, lan: &config::Lan, port: &Spanned<IfName>, problems: &mut Vec<Problem>) {
    let name = &port.value;
    let carried = carried(lan, scope.uplink) == Some(name);
    let mut say = |message: String, help: &str| problems.push(Problem::conflict(port.span.clone(), message).help(help));
    let Some(interface) = scope.facts.interface(name) else {
        // An uplink may come later.
        if !scope.facts.assumed && scope.uplink != Some(name) {
            say(format!("there is no interface {name} on this host"), "name one of those that `ip link` shows");
        }
        return;
    };
    let routed = "guests can stand behind it all the same: mode = \"routed\", or \"nat\", in place of `ports`";
    match interface.medium {
        Medium::Wireless => {
            say(format!("{name} is Wi-Fi, whose access point takes no frames of other stations'"), routed)
        }
        Medium::Other => say(format!("{name} carries no Ethernet frames (PPP or a tunnel)"), routed),
        Medium::Ethernet => {}
    }
    if let (Some(manager), true, Some(bridge)) = (&interface.manager, carried, &lan.bridge) {
        let by = manager.by.word();
        let refused = match takes_over(scope) {
            true => manager
                .take_over(name, bridge, interface.mac)
                .err()
                .map(|why| format!("take-over cannot rewrite that: {why}; ")),
            false => {
                Some("set take-over = true in [host] to have that rewritten, and put back by `down`; or ".to_owned())
            }
        };
        if let Some(how) = refused {
            let message = format!("{name} is configured by {by}, which would go on doing so");
            let write = manager.what_to_write(name, bridge, interface.mac);
            let help = format!(
                "{how}let {by} make the bridge, and plug guests in there with external = true in place of `ports`; \
                 write\n{write}"
            );
            say(message, help.trim_end());
        }
    }
    if interface.bridge {
        let help = "plug guests into it: external = true, and its name in [lan.NAME]";
        say(format!("{name} is a bridge itself"), help);
    } else if let Some(master) = &interface.master {
        let help = format!("plug guests in there: [lan.{master}] with external = true; or name {master} as the port");
        say(format!("{name} is a part of {master} already"), &help);
    } else if !carried && let Some(held) = interface.addresses.first() {
        let message = format!("{name} holds {held}, and only the first port's addresses move to the bridge");
        say(message, "take the address off it, or give it a LAN of its own");
    }
}

/// What of the outer network is known.
pub(super) fn build(scope: &Scope<'_>, lan: &config::Lan) -> Outer {
    let there = |name: &IfName| scope.facts.interface(name);
    let ports = elements(lan.ports.as_ref()).iter().map(|port| &port.value).filter(|port| there(port).is_some());
    let carries = carried(lan, scope.uplink).filter(|_| is_made(lan));
    let held_by: Option<&Interface> = if is_made(lan) { carries } else { lan.bridge.as_ref() }.and_then(there);
    let declared = elements(lan.address.as_ref()).iter().map(|net| net.value);
    let all: Vec<IpNet> = held_by.iter().flat_map(|i| i.addresses.iter().copied()).chain(declared).collect();
    let mut nets: Vec<IpNet> = all.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    let on_it = |router: &&IpAddr| {
        // A link-local router is on the uplink's link, and an IPv4 one that no prefix holds is told to be.
        let uplink = held_by
            .is_some_and(|i| Some(&i.name) == scope.uplink || Some(&i.name) == scope.facts.default_uplink.as_ref());
        uplink || nets.iter().any(|net| net.contains(*router))
    };
    Outer {
        external: !is_made(lan),
        ports: if is_made(lan) { ports.cloned().collect() } else { Vec::new() },
        carries: carries.filter(|port| there(port).is_some()).cloned(),
        twins: takes_over(scope) && carries.filter(|port| there(port).is_some()).is_some(),
        takeover: carries
            .filter(|_| takes_over(scope))
            .and_then(there)
            .zip(lan.bridge.as_ref())
            .and_then(|(port, bridge)| port.manager.as_ref()?.take_over(&port.name, bridge, port.mac).ok()),
        held: all.iter().map(IpNet::addr).collect(),
        routers: scope.facts.routers.iter().filter(on_it).copied().collect(),
        forwarded: held_by.map(|interface| interface.forwards).unwrap_or_default(),
        nets,
    }
}
