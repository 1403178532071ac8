//! The LANs: what contradicts itself, what overlaps, and what they become.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Scope, outer};
use crate::address::Mac;
use crate::config::{self, Spanned, elements};
use crate::network::{Answers, Lan, LeaseRange, Mode, Snat, Tap};
use crate::problem::Problem;

/// How many ports a bridge of the kernel's has: BR_MAX_PORTS of net/bridge/br_private.h is 1024, and 0 is none.
const BRIDGE_PORTS: usize = 1023;

pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    for lan in &scope.config.lans {
        if !lan.mode_unknown() {
            check_mode(lan, problems);
        }
        check_addresses(lan, problems);
        check_dhcp(lan, problems);
        check_families(lan, problems);
        check_dns(scope, lan, problems);
    }
    check_overlaps(scope, problems);
    check_port_counts(scope, problems);
}

/// Keys that make no sense in the LAN's mode.
fn check_mode(lan: &config::Lan, problems: &mut Vec<Problem>) {
    let mode = lan.mode();
    let mut wrong = |span: Option<std::ops::Range<usize>>, allowed: bool, message: &str, help: &str| {
        if let Some(span) = span.filter(|_| !allowed) {
            let problem = Problem::config(span, format!("{message}, and this LAN is {}", mode.word())).help(help);
            problems.push(match &lan.mode {
                Some(written) => problem.also(written.span.clone(), "its mode"),
                None => problem,
            });
        }
    };
    let (nat, bridged, routed) = (mode == Mode::Nat, mode == Mode::Bridged, mode == Mode::Routed);
    let help = "leave it out, or set mode = \"nat\"";
    wrong(place(&lan.snat), nat, "only a nat LAN leaves by an address of the host's", help);
    wrong(true_place(&lan.nat66), nat, "only a nat LAN has its source rewritten", help);
    let help = "leave it out, or set mode = \"routed\"";
    wrong(true_place(&lan.proxy_arp), routed, "`proxy-arp` is for routed LANs", help);
    let help = "leave it out, or set mode = \"bridged\"";
    wrong(true_place(&lan.external), bridged, "`external` is for bridged LANs", help);
    wrong(place(&lan.egress), !bridged, "what leaves a bridged LAN does not pass this host", "leave it out");
    let help = "leave it out, or set mode = \"routed\"";
    wrong(place(&lan.ingress), nat || routed, "`ingress` is for LANs that the world can send to", help);
    let ports = lan.ports.as_ref().filter(|list| !list.value.is_empty());
    let help = "leave it out: a physical port is a way out and in";
    wrong(ports.map(|list| list.span.clone()), mode != Mode::Isolated, "an isolated LAN has no way out", help);
    if bridged && ports.is_none() && !is_true(&lan.external) && !lan.broken {
        let message = format!("the bridged LAN \"{}\" has no `ports`", config::shown(&lan.name.value));
        let help = "name the physical interface to plug in: ports = [\"eth0\"]; or external = true where the bridge \
                    exists already";
        problems.push(Problem::config(lan.name.span.clone(), message).help(help));
    }
    if let (Some(ports), true) = (ports, is_true(&lan.external)) {
        let message = "nothing is plugged into an external bridge, which is another's";
        problems.push(Problem::config(ports.span.clone(), message).help("leave `ports` out, or `external`"));
    }
}

fn check_addresses(lan: &config::Lan, problems: &mut Vec<Problem>) {
    let none = elements(lan.address.as_ref()).is_empty();
    if none && lan.mode() != Mode::Bridged && !lan.broken {
        let message = format!("the LAN \"{}\" has no `address`", config::shown(&lan.name.value));
        let help = "add the host's own address on it: address = [\"10.1.1.1/24\"]";
        problems.push(Problem::config(lan.name.span.clone(), message).help(help));
    }
}

fn check_dhcp(lan: &config::Lan, problems: &mut Vec<Problem>) {
    let Some(dhcp) = &lan.dhcp else { return };
    let (first, last) = (IpAddr::V4(dhcp.value.first), IpAddr::V4(dhcp.value.last));
    let nets = elements(lan.address.as_ref());
    let Some(net) = nets.iter().find(|net| net.value.contains(&first) && net.value.contains(&last)) else {
        let unknown = lan.broken || (nets.is_empty() && lan.mode() == Mode::Bridged);
        if !unknown {
            let message = "this range is not inside one of the LAN's IPv4 subnets";
            let problem = Problem::config(dhcp.span.clone(), message);
            problems.push(match nets.iter().find(|net| net.value.addr().is_ipv4()) {
                Some(net) => problem
                    .help(format!("take a range inside {}", net.value.trunc()))
                    .also(net.span.clone(), "the LAN's subnet"),
                None => problem.help("give the LAN an IPv4 address"),
            });
        }
        return;
    };
    let inside = |address: IpAddr| first <= address && address <= last;
    let taken = nets.iter().find(|host| inside(host.value.addr())).map(|host| host.value.addr());
    let ends = [net.value.network(), net.value.broadcast()].into_iter().find(|&end| inside(end));
    if let Some(address) = taken.or(ends) {
        let what = if taken.is_some() { "the host's own address" } else { "the subnet's first or last address" };
        let message = format!("this range holds {address}, {what}");
        problems.push(Problem::config(dhcp.span.clone(), message).help("leave it out of the range"));
    }
}

/// Values of a family that the LAN has not.
fn check_families(lan: &config::Lan, problems: &mut Vec<Problem>) {
    let nets = elements(lan.address.as_ref());
    let has6 = nets.iter().any(|net| net.value.addr().is_ipv6());
    if let Some(mtu) = lan.mtu.as_ref().filter(|mtu| mtu.value < 1280 && has6) {
        let message = format!("an MTU of {} is too small for IPv6", mtu.value);
        problems.push(Problem::config(mtu.span.clone(), message).help("IPv6 wants 1280 at least (RFC 8200)"));
    }
    let Some(snat) = lan.snat.as_ref().filter(|_| !lan.broken && !nets.is_empty()) else { return };
    if nets.iter().all(|net| net.value.addr().is_ipv4() != snat.value.is_ipv4()) {
        let message = format!("the LAN has no address of {}'s family", snat.value);
        problems.push(Problem::config(snat.span.clone(), message).help("name a public address of the LAN's family"));
    }
}

/// Our own resolver asking itself would never end.
fn check_dns(scope: &Scope<'_>, lan: &config::Lan, problems: &mut Vec<Problem>) {
    for resolver in elements(lan.dns.as_ref()) {
        let own = |net: &&Spanned<IpNet>| net.value.addr() == resolver.value;
        let mut all = scope.config.lans.iter().flat_map(|lan| elements(lan.address.as_ref()));
        if let Some(net) = all.find(own) {
            let message = format!("{} is this host's own address on a LAN", resolver.value);
            let help = "name a resolver beyond it: guests ask the host, and the host asks these";
            problems
                .push(Problem::config(resolver.span.clone(), message).help(help).also(net.span.clone(), "this LAN"));
        }
    }
}

/// Subnets of different LANs that share an address. Two prefixes are nested or apart, so in their order the ones that
/// hold the present one are a stack.
fn check_overlaps(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let lans = scope.config.lans.iter().enumerate();
    let mut nets: Vec<(usize, &Spanned<IpNet>)> =
        lans.flat_map(|(i, lan)| elements(lan.address.as_ref()).iter().map(move |net| (i, net))).collect();
    nets.sort_by_key(|(i, net)| (net.value.network(), net.value.prefix_len(), *i));
    let mut stack: Vec<(usize, &Spanned<IpNet>)> = Vec::new();
    for (lan, net) in nets {
        while stack.last().is_some_and(|(_, outer)| !outer.value.contains(&net.value)) {
            stack.pop();
        }
        if let Some((_, other)) = stack.iter().rev().find(|(other, _)| *other != lan) {
            let (early, late) = if other.span.start < net.span.start { (*other, net) } else { (net, *other) };
            let message = format!("{} overlaps {}", late.value.trunc(), early.value.trunc());
            let problem = Problem::config(late.span.clone(), message).help("give each LAN a subnet of its own");
            problems.push(problem.also(early.span.clone(), "the other LAN's subnet"));
        }
        stack.push((lan, net));
    }
}

fn check_port_counts(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut counts: Vec<usize> = scope
        .config
        .lans
        .iter()
        .map(|lan| elements(lan.taps.as_ref()).len() + elements(lan.ports.as_ref()).len())
        .collect();
    for (guest, lan) in scope.config.guests.iter().zip(&scope.lan_of) {
        if let Some(count) = lan.and_then(|lan| counts.get_mut(lan)) {
            *count += usize::from(guest.kind() != config::GuestKind::Reserved);
        }
    }
    for (lan, count) in scope.config.lans.iter().zip(counts).filter(|(_, count)| *count > BRIDGE_PORTS) {
        let message = format!("\"{}\" would have {count} ports; a bridge has {BRIDGE_PORTS}", lan.name.value);
        problems.push(Problem::config(lan.name.span.clone(), message).help("spread the guests over several LANs"));
    }
}

/// The LANs as they are meant; those without a usable name are left out, which was a problem before.
pub(super) fn build(scope: &Scope<'_>) -> Vec<Lan> {
    scope.config.lans.iter().filter_map(|lan| build_one(scope, lan)).collect()
}

fn build_one(scope: &Scope<'_>, lan: &config::Lan) -> Option<Lan> {
    let bridge = lan.bridge.clone()?;
    let uplink_mtu = scope.uplink.and_then(|name| scope.facts.interface(name)).map_or(1500, |uplink| uplink.mtu);
    let dns = match &lan.dns {
        Some(list) => list.value.iter().map(|address| address.value).collect(),
        // Where the host itself asks us for guests' names, we stand among its resolvers.
        None => {
            let own = |address: &IpAddr| {
                let mut all = scope.config.lans.iter().flat_map(|lan| elements(lan.address.as_ref()));
                all.any(|net| net.value.addr() == *address)
            };
            scope.facts.resolvers.iter().copied().filter(|address| !own(address)).collect()
        }
    };
    let tap = |tap: &Spanned<config::Tap>| Tap {
        name: tap.value.name.value.clone(),
        owner: tap.value.owner.as_ref().map(|owner| owner.value.clone()),
        group: tap.value.group.as_ref().map(|group| group.value.clone()),
    };
    Some(Lan {
        mode: lan.mode(),
        mac: mac(scope, lan, bridge.as_str()),
        mtu: lan.mtu.as_ref().map_or(uplink_mtu, |mtu| mtu.value),
        addresses: elements(lan.address.as_ref()).iter().map(|net| net.value).collect(),
        taps: elements(lan.taps.as_ref()).iter().map(tap).collect(),
        domain: domain(lan),
        dns,
        dhcp: lan.dhcp.as_ref().map(|range| LeaseRange { first: range.value.first, last: range.value.last }),
        snat4: snat(scope, lan, IpAddr::is_ipv4),
        snat6: snat(scope, lan, IpAddr::is_ipv6),
        nat66: is_true(&lan.nat66),
        egress_denied: lan.egress.as_ref().is_some_and(|egress| egress.value == config::Verdict::Deny),
        ingress_allowed: lan.ingress.as_ref().is_some_and(|ingress| ingress.value == config::Verdict::Allow),
        outer: (lan.mode() == Mode::Bridged).then(|| outer::build(scope, lan)),
        port_isolation: is_true(&lan.port_isolation),
        answers: answers(scope, lan),
        bridge,
    })
}

/// For whom the host answers on the uplink: where the file says so, and for IPv6 where the LAN is a part of the
/// uplink's own subnet, whose router looks for all of it on the link.
fn answers(scope: &Scope<'_>, lan: &config::Lan) -> Answers {
    let uplink = scope.uplink.and_then(|name| scope.facts.interface(name));
    let held = |net: &IpNet| uplink.is_some_and(|uplink| uplink.addresses.iter().any(|own| own.contains(net)));
    let carved =
        elements(lan.address.as_ref()).iter().any(|net| net.value.addr().is_ipv6() && held(&net.value.trunc()));
    Answers { v4: is_true(&lan.proxy_arp), v6: is_true(&lan.proxy_arp) || carved }
}

/// A bridge that takes an interface's place has its hardware address: to the outer network nothing changes.
fn mac(scope: &Scope<'_>, lan: &config::Lan, bridge: &str) -> Mac {
    let carries = (lan.mode() == Mode::Bridged).then(|| outer::build(scope, lan).carries).flatten();
    let carried = carries.and_then(|port| scope.facts.interface(&port)?.mac);
    carried.unwrap_or_else(|| Mac::derived(&["lan", bridge]))
}

/// The LAN's DNS zone, the default where none is written.
pub(super) fn domain(lan: &config::Lan) -> String {
    lan.domain.as_ref().map_or_else(|| format!("{}.internal", lan.name.value), |domain| domain.value.clone())
}

fn snat(scope: &Scope<'_>, lan: &config::Lan, family: fn(&IpAddr) -> bool) -> Snat {
    if lan.mode() != Mode::Nat {
        return Snat::Keep;
    }
    if let Some(snat) = lan.snat.as_ref().filter(|snat| family(&snat.value)) {
        return Snat::To(snat.value);
    }
    let publics = scope.listed_public().unwrap_or(&[]);
    match publics.iter().find(|public| family(&public.value)) {
        Some(public) => Snat::To(public.value),
        None => Snat::Masquerade,
    }
}

fn place<T>(value: &Option<Spanned<T>>) -> Option<std::ops::Range<usize>> {
    value.as_ref().map(|value| value.span.clone())
}

fn true_place(value: &Option<Spanned<bool>>) -> Option<std::ops::Range<usize>> {
    value.as_ref().filter(|value| value.value).map(|value| value.span.clone())
}

fn is_true(value: &Option<Spanned<bool>>) -> bool {
    value.as_ref().is_some_and(|value| value.value)
}
