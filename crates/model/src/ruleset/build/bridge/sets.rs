//! Who is plugged in where, and the sets that this makes: their elements are what grows with the guests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{CLIENTS, RECEIVED, SENT, TRIES};
use crate::address::{IfName, Mac};
use crate::network::{Guest, Lan, Network, Public};
use crate::ruleset::build::forwards::range;
use crate::ruleset::build::{address_type, named};
use crate::ruleset::{Element, IpFamily, KeyPart, Set, Type, Value};

/// Who is plugged in where.
pub(super) struct Ports<'a> {
    /// A guest behind each.
    pub(super) guests: Vec<(&'a Lan, &'a Guest)>,
    /// Of whom it is not said who is behind.
    pub(super) taps: Vec<&'a IfName>,
    /// The LANs that are ours.
    pub(super) lans: Vec<&'a Lan>,
    /// Whether one of them keeps its ports apart.
    pub(super) apart: bool,
}

impl<'a> Ports<'a> {
    pub(super) fn of(network: &'a Network) -> Self {
        let lans: Vec<&Lan> = network.lans.iter().collect();
        let lan_of = |guest: &'a Guest| lans.iter().find(|lan| lan.bridge == guest.lan).map(|lan| (*lan, guest));
        Self {
            guests: network.guests.iter().filter_map(lan_of).collect(),
            taps: lans.iter().flat_map(|lan| &lan.taps).map(|tap| &tap.name).collect(),
            apart: lans.iter().any(|lan| lan.port_isolation),
            lans,
        }
    }

    /// Guests that learn their addresses of that family from an outer network: what they will be is not known.
    pub(super) fn learning(&self, family: IpFamily) -> impl Iterator<Item = &'a Guest> {
        let none = move |guest: &Guest| guest.addresses.iter().all(|a| IpFamily::of(*a) != family);
        self.guests.iter().filter(move |(lan, guest)| lan.is_bridged() && none(guest)).map(|(_, guest)| *guest)
    }

    pub(super) fn learns(&self) -> Vec<IpFamily> {
        let both = [IpFamily::V4, IpFamily::V6].into_iter();
        both.filter(|family| self.learning(*family).next().is_some()).collect()
    }

    /// Every port of a LAN that the outer network stands on.
    pub(super) fn bridged(&self) -> impl Iterator<Item = &'a IfName> {
        let guests = self.guests.iter().filter(|(lan, _)| lan.is_bridged()).map(|(_, guest)| &guest.port);
        let lans = self.lans.iter().filter(|lan| lan.is_bridged());
        guests.chain(lans.flat_map(|lan| lan.taps.iter().map(|tap| &tap.name)))
    }
}

/// The sets that there are whatever else there is, and those that guests and taps make.
pub(super) fn sets(network: &Network, ports: &Ports<'_>, nested: &[IpFamily]) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    let mut add = |name: &str, set: Set, elements: BTreeSet<Element>| {
        sets.insert(name.to_owned(), Set { elements, ..set });
    };
    let names = || ports.guests.iter().map(|(_, guest)| &guest.port);
    let one = |name: &IfName| Element::of([Value::IfName(name.clone())]);
    for tried in TRIES {
        let set = Set { counted: true, ..Set::of(&[Type::IfName]) };
        add(tried.set(), set, names().chain(ports.taps.iter().copied()).map(one).collect());
    }
    let services = CLIENTS.map(|port| Element::of([Value::Proto(17), Value::Port(port)]));
    add("client_services", Set::of(&[Type::Proto, Type::Port]), services.into());
    let link_locals: BTreeSet<Ipv6Addr> = ports
        .lans
        .iter()
        .map(|lan| lan.mac)
        .chain(ports.guests.iter().map(|(_, guest)| guest.mac))
        .map(Mac::link_local)
        .chain(known_addresses(network, ports).filter_map(|address| match address {
            IpAddr::V6(address) => Some(address).filter(Ipv6Addr::is_unicast_link_local),
            IpAddr::V4(_) => None,
        }))
        .collect();
    let elements = link_locals.iter().map(|a| Element::of([Value::Ipv6(*a)]));
    add("known_link_locals", Set::of(&[Type::Ipv6]), elements.collect());
    if !ports.guests.is_empty() {
        add("guest_ports", Set::of(&[Type::IfName]), names().map(one).collect());
        let pinned = |guest: &Guest| [Value::IfName(guest.port.clone()), Value::Ether(guest.mac)];
        let elements = ports.guests.iter().map(|(_, guest)| Element::of(pinned(guest)));
        let counted = Set { counted: true, ..Set::of(&[Type::IfName, Type::Ether]) };
        add(SENT, counted, elements.collect());
        add(RECEIVED, Set { counted: true, ..Set::of(&[Type::IfName]) }, names().map(one).collect());
        let mut targets = BTreeSet::new();
        for family in [IpFamily::V4, IpFamily::V6] {
            let mut own = BTreeSet::new();
            let mut nets = BTreeSet::new();
            for (lan, guest) in &ports.guests {
                let [port, mac] = pinned(guest);
                for address in addresses(lan, guest).filter(|a| IpFamily::of(*a) == family) {
                    own.insert(Element::of([port.clone(), mac.clone(), address.into()]));
                    if let IpAddr::V6(address) = address {
                        targets.insert(Element::of([port.clone(), mac.clone(), Value::NdTarget(address)]));
                    }
                }
                for net in guest.allowed.iter().filter(|net| IpFamily::of(net.addr()) == family) {
                    let key = |range| {
                        let one = |value: &Value| KeyPart::One(value.clone());
                        Element { key: vec![one(&port), one(&mac), range], data: Vec::new(), most: None }
                    };
                    nets.insert(key(range(net.network().into(), net.broadcast().into())));
                    if let IpNet::V6(net) = net {
                        targets.insert(key(range(Value::NdTarget(net.network()), Value::NdTarget(net.broadcast()))));
                    }
                }
            }
            let key = [Type::IfName, Type::Ether, address_type(family)];
            add(&named("guest_addresses", family), Set::of(&key), own);
            if nested.contains(&family) {
                add(&named("guest_nets", family), Set { interval: true, ..Set::of(&key) }, nets);
            }
        }
        let key = [Type::IfName, Type::Ether, Type::NdTarget];
        add("guest_targets", Set { interval: true, ..Set::of(&key) }, targets);
    }
    // A guest's own have been let through when it is looked for in here, so of those they may be all.
    let mut known: BTreeSet<Ipv6Addr> = link_locals;
    if !ports.taps.is_empty() || ports.learns().contains(&IpFamily::V6) {
        known.extend(known_addresses(network, ports).filter_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }));
    }
    let elements = known.into_iter().map(|a| Element::of([Value::NdTarget(a)]));
    add("known_targets", Set::of(&[Type::NdTarget]), elements.collect());
    if !ports.taps.is_empty() {
        add("tap_ports", Set::of(&[Type::IfName]), ports.taps.iter().copied().map(one).collect());
        let macs = ports.lans.iter().map(|lan| lan.mac).chain(ports.guests.iter().map(|(_, guest)| guest.mac));
        add("known_macs", Set::of(&[Type::Ether]), macs.map(|mac| Element::of([Value::Ether(mac)])).collect());
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let learning: BTreeSet<Element> = ports.learning(family).map(|guest| one(&guest.port)).collect();
        if !ports.taps.is_empty() || !learning.is_empty() {
            let all = known_addresses(network, ports);
            let of_family = all.filter(|address| IpFamily::of(*address) == family);
            let elements = of_family.map(|address| Element::of([address.into()])).collect();
            add(&named("known_addresses", family), Set::of(&[address_type(family)]), elements);
        }
        if !learning.is_empty() {
            add(&named("learning", family), Set::of(&[Type::IfName]), learning);
        }
    }
    let bridged: BTreeSet<Element> = ports.bridged().map(one).collect();
    if !bridged.is_empty() {
        add("bridged_ports", Set::of(&[Type::IfName]), bridged);
    }
    sets
}

/// Every address that is somebody's: the host's and the guests'.
fn known_addresses<'a>(network: &'a Network, ports: &'a Ports<'_>) -> impl Iterator<Item = IpAddr> + 'a {
    let public: &[IpAddr] = match &network.public {
        Public::Listed(listed) => listed,
        Public::Dynamic => &[],
    };
    let outer = ports.lans.iter().filter_map(|lan| lan.outer.as_ref());
    let routers = outer.clone().flat_map(|outer| outer.held.iter().chain(&outer.routers).copied());
    let held = ports.lans.iter().flat_map(|lan| &lan.addresses).map(IpNet::addr).chain(routers);
    let of_guests = ports.guests.iter().flat_map(|(_, guest)| guest.addresses.iter().copied());
    held.chain(of_guests).chain(public.iter().copied())
}

/// What a guest may be: [`Lan::addresses_of`], and its link-local address.
pub(in crate::ruleset::build) fn addresses<'a>(lan: &'a Lan, guest: &'a Guest) -> impl Iterator<Item = IpAddr> + 'a {
    lan.addresses_of(guest).chain([guest.mac.link_local().into()])
}

/// Ports in hairpin mode, each with itself.
pub(super) fn reflecting(network: &Network, ports: &Ports<'_>) -> Set {
    let mut set = Set::of(&[Type::IfName, Type::IfName]);
    let forwarded: BTreeSet<&str> = network.hairpinned().collect();
    let hairpins = ports.guests.iter().filter(|(_, guest)| forwarded.contains(guest.name.as_str()));
    set.elements.extend(hairpins.map(|(_, guest)| Element::of([1, 2].map(|_| Value::IfName(guest.port.clone())))));
    set
}

/// Of LANs that keep their ports apart: those ports, and whose hardware is behind them.
pub(super) fn apart(network: &Network, ports: &Ports<'_>) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    if !ports.apart {
        return sets;
    }
    let mut add = |name: &str, kind, elements: BTreeSet<Element>| {
        sets.insert(name.to_owned(), Set { elements, ..Set::of(&[kind]) });
    };
    let one = |name: &IfName| Element::of([Value::IfName(name.clone())]);
    let lans = || ports.lans.iter().filter(|lan| lan.port_isolation);
    let guests = || ports.guests.iter().filter(|(lan, _)| lan.port_isolation);
    let taps = lans().flat_map(|lan| &lan.taps).map(|tap| one(&tap.name));
    add("apart_ports", Type::IfName, guests().map(|(_, guest)| one(&guest.port)).chain(taps).collect());
    let macs = guests().map(|(_, guest)| Element::of([Value::Ether(guest.mac)]));
    add("apart_macs", Type::Ether, macs.collect());
    let answered = guests().filter(|(lan, _)| lan.gateway6().is_some() && network.routes_within(lan));
    let answered: BTreeSet<Element> = answered.map(|(_, guest)| one(&guest.port)).collect();
    if !answered.is_empty() {
        add("answered_ports", Type::IfName, answered);
    }
    sets
}
