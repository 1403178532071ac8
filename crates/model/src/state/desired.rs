//! From a [`Network`] to the [`State`] that carries it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    ALIAS_IN_PLACE_OF, ALIAS_PREFIX, Address, Baseline, IpFamilyWord, Link, LinkKind, PROXY_DELAY, Peer, Place, Port,
    Proxy, Route, Shaper, Side, State, Sysctl, TableState, TakenOver,
};
use crate::address::{IfName, Mac};
use crate::network::{Guest, GuestKind, Ipv6Forwarding, Lan, Mode, Network, Outer, Outward, Tap};
use crate::ruleset;

/// The name of a guest's interface inside the guest.
pub const GUEST_INTERFACE: &str = "eth0";

/// The state that carries `network` on a host of which `baseline` remembers what we change. Users and groups are
/// numbers by now: `ids` looks a name up, and says none where there is no such user.
#[must_use]
pub fn desired(network: &Network, baseline: &Baseline, ids: &Ids) -> State {
    let mut state = without_rules(network, baseline, ids);
    state.tables = ruleset::build(network).into_iter().map(|t| (t.family, TableState::Intact(t))).collect();
    state
}

/// The same without our tables, which are by far the largest part where there are many forwards: for those who ask for
/// links, addresses and switches alone.
#[must_use]
pub fn without_rules(network: &Network, baseline: &Baseline, ids: &Ids) -> State {
    let mut state = nothing(baseline);
    for lan in &network.lans {
        add_lan(&mut state, network, lan, ids);
        if let Some(outer) = &lan.outer {
            add_outer(&mut state, network, lan, outer, baseline);
        }
    }
    // Whom a forward means may ask for itself at the public address. Gathered once: 500 guests times 10,000
    // forwards would be felt.
    let forwarded: BTreeSet<&str> = network.hairpinned().collect();
    for lan in network.lans.iter().filter(|lan| lan.mode != Mode::Bridged) {
        for (guest, net) in network.nested(lan) {
            // A network that hangs on no address of its family cannot be reached, and none is needed to leave.
            let via = guest.addresses.iter().copied().find(|address| address.is_ipv4() == net.addr().is_ipv4());
            if via.is_some() {
                state.routes.insert(Route { at: Place::host(&lan.bridge), to: net, via });
            }
        }
        for (_, address) in network.alone(lan) {
            state.routes.insert(Route { at: Place::host(&lan.bridge), to: address.into(), via: None });
        }
    }
    for guest in &network.guests {
        add_guest(&mut state, network, guest, forwarded.contains(guest.name.as_str()), ids);
    }
    add_forwarding(&mut state, network);
    add_proxies(&mut state, network);
    state.mends = network.mends.iter().cloned().collect();
    state
}

/// The state without any network: nothing of ours, and everything else as `baseline` remembers it.
#[must_use]
pub fn nothing(baseline: &Baseline) -> State {
    let before = |(path, file): (&String, &super::TakenFile)| Some((path.clone(), file.before.clone()?));
    State {
        sysctls: baseline.sysctls.clone(),
        files: baseline.files().filter_map(before).collect(),
        holds: baseline.taken.iter().flat_map(|(port, taken)| taken.holds(port, Side::Port)).collect(),
        ..State::default()
    }
}

/// User and group ids by name, as the host knows them; numbers stand for themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub users: BTreeMap<String, u32>,
    /// Groups.
    pub groups: BTreeMap<String, u32>,
}

impl Ids {
    fn user(&self, name: Option<&String>) -> Option<u32> {
        name.and_then(|n| n.parse().ok().or_else(|| self.users.get(n).copied()))
    }

    fn group(&self, name: Option<&String>) -> Option<u32> {
        name.and_then(|n| n.parse().ok().or_else(|| self.groups.get(n).copied()))
    }
}

fn add_lan(state: &mut State, network: &Network, lan: &Lan, ids: &Ids) {
    if !lan.is_external() {
        let alias = match lan.carries() {
            Some(port) => format!("{ALIAS_IN_PLACE_OF}{port}"),
            None => format!("{ALIAS_PREFIX}{} LAN", lan.mode.word()),
        };
        let (kind, mac) = (LinkKind::Bridge, Some(lan.mac));
        let bridge = Link { kind, mac, mtu: lan.mtu, up: true, master: None, hairpin: false, isolated: false, alias };
        state.links.insert(lan.bridge.clone(), bridge);
    }
    if !lan.is_bridged() {
        for net in &lan.addresses {
            state.addresses.insert(Address { at: Place::host(&lan.bridge), net: *net });
        }
        bridge_switches(state, network, lan);
    }
    for Tap { name, owner, group } in &lan.taps {
        let kind = LinkKind::Tap { owner: ids.user(owner.as_ref()), group: ids.group(group.as_ref()) };
        let settings = PortSettings { hairpin: false, isolated: lan.isolates(false) };
        state.links.insert(name.clone(), port(kind, lan, name.as_str(), settings, "tap"));
    }
}

/// What is plugged into a bridge that the outer network stands on. Addresses that its carried interface had before are
/// that one's, declared or not.
fn add_outer(state: &mut State, network: &Network, lan: &Lan, outer: &Outer, baseline: &Baseline) {
    if outer.external {
        return;
    }
    let was = |port: &IfName| baseline.ports.get(port).cloned().unwrap_or_default();
    let moved = outer.carries.as_ref().map(was).unwrap_or_default().addresses;
    let own: Vec<IpNet> = lan.addresses.iter().copied().filter(|net| !moved.contains(net)).collect();
    for net in &own {
        state.addresses.insert(Address { at: Place::host(&lan.bridge), net: *net });
    }
    for port in &outer.ports {
        let carries = outer.carries.as_ref() == Some(port);
        let own = if carries { own.clone() } else { Vec::new() };
        state.ports.insert(port.clone(), Port { master: lan.bridge.clone(), carries, own, was: was(port) });
    }
    let Some(port) = &outer.carries else { return };
    add_takeover(state, lan, outer, port, baseline);
    // An address that goes takes no others along (net.ipv4.conf.IF.promote_secondaries).
    let promote = Sysctl::new(IpFamilyWord::Ipv4, lan.bridge.as_str(), "promote_secondaries");
    state.sysctls.insert(promote, "1".to_owned());
    // As the interface forwarded before: others may have come to need it there.
    let mut switch = |family, key: &str, forwarded: bool| {
        let before = baseline.sysctls.get(&Sysctl::new(family, port.as_str(), key));
        let value = before.map_or(forwarded, |value| value == "1");
        state.sysctls.insert(Sysctl::new(family, lan.bridge.as_str(), key), if value { "1" } else { "0" }.to_owned());
    };
    switch(IpFamilyWord::Ipv4, "forwarding", outer.forwarded.0);
    if network.ipv6_forwarding != Ipv6Forwarding::Absent {
        switch(IpFamilyWord::Ipv6, "forwarding", outer.forwarded.1);
        switch(IpFamilyWord::Ipv6, "proxy_ndp", false);
        if network.ipv6_forwarding.is_per_interface() {
            switch(IpFamilyWord::Ipv6, "force_forwarding", false);
        }
    }
}

/// The manager makes the bridge itself from now on, and what was at work on the interface is at work on the bridge.
fn add_takeover(state: &mut State, lan: &Lan, outer: &Outer, port: &IfName, baseline: &Baseline) {
    let Some(takeover) = &outer.takeover else { return };
    state.files.extend(takeover.files.iter().map(|(path, rewrite)| (path.clone(), rewrite.after.clone())));
    let fresh = TakenOver {
        by: takeover.by,
        bridge: lan.bridge.clone(),
        was: super::PortWas::default(),
        files: BTreeMap::new(),
        holders: takeover.holders.clone(),
    };
    let known = baseline.taken.get(port).unwrap_or(&fresh);
    state.holds.extend(known.holds(port, Side::Bridge));
}

/// Every switch that we ever set on a bridge of ours is always set: a LAN that changes its mode takes nothing along.
/// Nothing of it needs remembering, since it goes with the link.
fn bridge_switches(state: &mut State, network: &Network, lan: &Lan) {
    // Nobody else answers for a LAN's own guests, so nobody has to be waited for.
    let families: &[IpFamilyWord] = match network.ipv6_forwarding {
        Ipv6Forwarding::Absent => &[IpFamilyWord::Ipv4],
        _ => &[IpFamilyWord::Ipv4, IpFamilyWord::Ipv6],
    };
    for family in families {
        state.sysctls.insert(Sysctl::new(*family, lan.bridge.as_str(), PROXY_DELAY), "0".to_owned());
    }
    let mut switch = |family, key: &str, value: bool| {
        let value = if value { "1" } else { "0" };
        state.sysctls.insert(Sysctl::new(family, lan.bridge.as_str(), key), value.to_owned());
    };
    let ways_out = lan.mode != Mode::Isolated;
    switch(IpFamilyWord::Ipv4, "forwarding", ways_out && lan.gateway4().is_some());
    // Neighbours that may reach one another send to the host, which hands it on by the link that it came by, and must
    // not tell them to send it there themselves (RFC 3069).
    let within = network.routes_within(lan);
    switch(IpFamilyWord::Ipv4, "proxy_arp_pvlan", within);
    switch(IpFamilyWord::Ipv4, "send_redirects", false);
    if network.ipv6_forwarding == Ipv6Forwarding::Absent {
        return;
    }
    // A guest's router advertisement must not move the host (CVE-2020-13401).
    switch(IpFamilyWord::Ipv6, "accept_ra", false);
    // Neighbour advertisements of a router say that it is one, or guests drop it from their router lists.
    let router = ways_out && lan.gateway6().is_some();
    switch(IpFamilyWord::Ipv6, "forwarding", router);
    switch(IpFamilyWord::Ipv6, "proxy_ndp", within);
    if network.ipv6_forwarding.is_per_interface() {
        switch(IpFamilyWord::Ipv6, "force_forwarding", router);
    }
}

/// A guest's bandwidth: what goes to it waits at its port, what it sends in a device of its own.
fn add_limit(state: &mut State, lan: &Lan, guest: &Guest) {
    let Some(limit) = &guest.limit else { return };
    let through = limit.outward.as_ref().map(|outward| outward.through.clone());
    if let Some(Outward { rate, through }) = &limit.outward {
        let what = format!("what guest {} sends", guest.name);
        // Its hardware address is on no frame and cannot be changed, so it depends on the name alone.
        let mac = Some(Mac::derived(&["ifb", through.as_str()]));
        let queue =
            Link { master: None, mac, ..port(LinkKind::Ifb, lan, through.as_str(), PortSettings::default(), &what) };
        state.links.insert(through.clone(), queue);
        let rate = Some(*rate);
        state.shapers.insert(through.clone(), Shaper { rate, through: None, whole: true });
    }
    state.shapers.insert(guest.port.clone(), Shaper { rate: limit.inward, through, whole: true });
}

fn add_guest(state: &mut State, network: &Network, guest: &Guest, hairpin: bool, ids: &Ids) {
    let Some(lan) = network.lan(&guest.lan) else { return };
    add_limit(state, lan, guest);
    let what = format!("guest {}", guest.name);
    let settings = PortSettings { hairpin, isolated: lan.isolates(hairpin) };
    match &guest.kind {
        GuestKind::Lxc(_) | GuestKind::Reserved => {}
        GuestKind::Vm { owner } => {
            let kind = LinkKind::Tap { owner: ids.user(owner.as_ref()), group: None };
            state.links.insert(guest.port.clone(), port(kind, lan, &guest.name, settings, &what));
        }
        GuestKind::Netns => {
            let Ok(inner) = IfName::new(GUEST_INTERFACE) else { return };
            let peer =
                Peer { namespace: guest.name.clone(), name: inner.clone(), mac: guest.mac, mtu: lan.mtu, up: true };
            state.namespaces.insert(guest.name.clone());
            state.links.insert(guest.port.clone(), port(LinkKind::Veth(peer), lan, &guest.name, settings, &what));
            let at = Place::guest(&guest.name, &inner);
            // A leased address is for the guest to ask for.
            for address in guest.addresses.iter().filter(|_| !guest.leased) {
                state.addresses.insert(Address { at: at.clone(), net: lan.net_of(*address) });
            }
            for family in [IpAddr::V4([0; 4].into()), IpAddr::V6([0; 16].into())] {
                let own = guest.addresses.iter().filter(|_| !guest.leased).find(|a| a.is_ipv4() == family.is_ipv4());
                if let Some(gateway) = own.and_then(|own| lan.router_for(*own)) {
                    let to = if family.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() };
                    state.routes.insert(Route { at: at.clone(), to, via: Some(gateway) });
                    // Who has no address of the LAN's prefixes must be told that the gateway is on the link.
                    if !guest.addresses.iter().any(|address| lan.shares_prefix(*address, gateway)) {
                        state.routes.insert(Route { at: at.clone(), to: gateway.into(), via: None });
                    }
                }
            }
        }
    }
}

/// What belongs to a port of a bridge's: see [`Link`].
#[derive(Clone, Copy, Default)]
struct PortSettings {
    hairpin: bool,
    isolated: bool,
}

/// The host's end of a cable. Its own address is on no frame of the machine's behind it, but it is pinned all the same:
/// what is made anew is then what it was.
fn port(kind: LinkKind, lan: &Lan, whose: &str, settings: PortSettings, what: &str) -> Link {
    Link {
        kind,
        mac: Some(Mac::derived(&["port", lan.bridge.as_str(), whose])),
        mtu: lan.mtu,
        up: true,
        master: Some(lan.bridge.clone()),
        hairpin: settings.hairpin,
        isolated: settings.isolated,
        alias: format!("{ALIAS_PREFIX}{what}"),
    }
}

/// For whom the uplink's own segment takes guests for its own, and on a LAN whose guests reach one another by the host,
/// each of them. IPv4's entries hold wherever the link forwards; IPv6's want a switch.
fn add_proxies(state: &mut State, network: &Network) {
    for lan in network.lans.iter().filter(|lan| network.routes_within(lan) && lan.gateway6().is_some()) {
        let own = network.guests_of(lan).flat_map(|guest| lan.addresses_of(guest));
        let on_link = own.filter(|address| address.is_ipv6() && lan.prefix_of(*address).is_some());
        state.proxies.extend(on_link.map(|address| Proxy { link: lan.bridge.clone(), address }));
    }
    if !network.uplink.present {
        return;
    }
    let link = &network.uplink.name;
    let mut six = false;
    for address in network.answered() {
        six |= address.is_ipv6();
        state.proxies.insert(Proxy { link: link.clone(), address });
    }
    if six && network.ipv6_forwarding != Ipv6Forwarding::Absent {
        state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, link.as_str(), "proxy_ndp"), "1".into());
        state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, link.as_str(), PROXY_DELAY), "0".into());
    }
}

/// Forwarding, for the uplink and the LANs alone wherever the kernel lets us.
fn add_forwarding(state: &mut State, network: &Network) {
    let out = |lan: &&Lan| matches!(lan.mode, Mode::Nat | Mode::Routed);
    let uplink = network.uplink.name.as_str();
    if network.uplink.present && network.lans.iter().filter(out).any(|lan| lan.gateway4().is_some()) {
        state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv4, uplink, "forwarding"), "1".into());
    }
    if !matches!(network.ipv6_forwarding, Ipv6Forwarding::Absent | Ipv6Forwarding::Off) {
        keep_learnt_routes(state, network);
    }
    match &network.ipv6_forwarding {
        Ipv6Forwarding::Absent | Ipv6Forwarding::Off => {}
        Ipv6Forwarding::PerInterface => {
            if network.uplink.present {
                state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, uplink, "force_forwarding"), "1".into());
            }
        }
        Ipv6Forwarding::PerInterfaceAnswering => {
            for key in ["force_forwarding", "forwarding"] {
                if network.uplink.present {
                    state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, uplink, key), "1".into());
                }
            }
        }
        Ipv6Forwarding::Global { interfaces } => {
            // The kernel turns each interface's own switch, and the default for new ones, along with `all`.
            let turned = interfaces.iter().map(IfName::as_str).chain(["all", "default"]);
            for scope in turned {
                state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, scope, "forwarding"), "1".into());
            }
        }
    }
}

fn keep_learnt_routes(state: &mut State, network: &Network) {
    for interface in &network.learners {
        state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, interface.as_str(), "accept_ra"), "2".into());
    }
    // Once we had to, it stays: a route that is lost for a moment must be learnt again.
    for (sysctl, value) in &mut state.sysctls {
        let foreign = !state.links.keys().any(|name| name.as_str() == sysctl.scope);
        if sysctl.family == IpFamilyWord::Ipv6 && sysctl.key == "accept_ra" && foreign {
            *value = "2".into();
        }
    }
}
