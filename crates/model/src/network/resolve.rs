//! From the file as written to what it means here.
//!
//! Every check looks at the whole file and goes on after a problem, so that one run tells of all of them. Nothing is
//! built unless nothing is wrong.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use super::{Ipv6Forwarding, Mode, Network, Public, Reach, Uplink};
use crate::address::IfName;
use crate::config::{self, Config, Spanned, elements};
use crate::facts::HostFacts;
use crate::problem::{self, Problem};

mod allows;
mod claims;
mod containers;
mod forwards;
mod guests;
mod host;
mod lans;
mod leases;
mod links;
mod management;
mod outer;
mod services;
mod sites;
mod stations;
mod web;

/// What `config` means on a host of which `facts` are known, or every problem with it, in the file's order: what the
/// file's lines contradict in each other ([`problem::Kind::Config`]), and what of the host's stands in the way
/// ([`problem::Kind::Conflict`]).
///
/// What [`config::parse`] could not read is not held against the file again; a `config` with problems of its own must
/// not be put to use, whatever comes back from here. [`load`] does both.
pub fn resolve(config: &Config, facts: &HostFacts) -> Result<Network, Vec<Problem>> {
    let mut problems = Vec::new();
    let scope = Scope::new(config, facts);
    let uplink = find_uplink(&scope, &mut problems);
    host::check_public(&scope, &mut problems);
    lans::check(&scope, &mut problems);
    leases::check(&scope, &mut problems);
    guests::check(&scope, &mut problems);
    stations::check(&scope, &mut problems);
    outer::check(&scope, &mut problems);
    let ports = links::assign(&scope, &mut problems);
    let (forwards, dmzs, claims) = forwards::resolve(&scope, &mut problems);
    claims::check_each_other(&scope, &claims, &mut problems);
    sites::check(&scope, &claims, &mut problems);
    services::check(&scope, &mut problems);
    allows::check(&scope, &mut problems);
    host::check_networks(&scope, &mut problems);
    let free = management::check(&scope, &claims, &mut problems);
    host::check_listeners(&scope, &claims, &free, &mut problems);
    let Some(uplink) = uplink.filter(|_| problems.is_empty()) else {
        problem::sort(&mut problems);
        return Err(problems);
    };
    let lans = lans::build(&scope);
    let web = web::build(config, &lans);
    Ok(Network {
        uplink,
        web,
        public: build_public(config),
        ipv6_forwarding: ipv6_forwarding(&lans, facts),
        learners: learners(&lans, facts),
        guests: guests::build(&scope, ports),
        socks: services::build_socks(config, &lans, facts),
        lans,
        kept: if dmzs.is_empty() { Vec::new() } else { management::kept(&scope) },
        allows: allows::build(&scope),
        forwards,
        dmzs,
        sites: sites::build(config),
        http: sites::build_http(config),
        acme: sites::build_acme(config),
        hosts_resolver: config.host.hosts_resolver.as_ref().is_none_or(|on| on.value),
        reach: build_reach(config, facts),
        fix_foreign: config.host.fix_foreign.as_ref().is_some_and(|fix| fix.value),
        mends: Vec::new(),
    })
}

/// Reads `text`, resolves it on a host of which `facts` are known, and looks for what this version does not build
/// ([`super::unsupported`]). All problems of the three come back at once, in the file's order. While the text is not
/// TOML throughout, only the reading speaks: what is missing then may be missing for that reason.
pub fn load(text: &str, facts: &HostFacts) -> Result<(Config, Network), Vec<Problem>> {
    let (config, mut problems) = config::parse(text);
    if config.torn {
        return Err(problems);
    }
    problems.extend(super::unsupported(&config));
    let network = resolve(&config, facts).map_err(|more| problems.extend(more)).ok();
    match network {
        Some(network) if problems.is_empty() => Ok((config, network)),
        _ => {
            problem::sort(&mut problems);
            Err(problems)
        }
    }
}

/// What every check looks at.
struct Scope<'a> {
    config: &'a Config,
    facts: &'a HostFacts,
    lans: HashMap<&'a str, usize>,
    guests: HashMap<&'a str, usize>,
    /// The guest that has an address.
    holders: HashMap<IpAddr, usize>,
    /// The LAN of each guest, in the guests' order.
    lan_of: Vec<Option<usize>>,
    /// What each guest without an address is always leased, in the guests' order.
    leased: Vec<Option<Ipv4Addr>>,
    /// The uplink's name, written or found.
    uplink: Option<&'a IfName>,
    /// How many names may yet be compared for a "did you mean".
    comparisons: Cell<usize>,
}

impl<'a> Scope<'a> {
    fn new(config: &'a Config, facts: &'a HostFacts) -> Self {
        let lans: HashMap<&str, usize> =
            config.lans.iter().enumerate().map(|(i, lan)| (lan.name.value.as_str(), i)).collect();
        let guests = config.guests.iter().enumerate().map(|(i, guest)| (guest.name.value.as_str(), i)).collect();
        let only = (config.lans.len() == 1).then_some(0);
        let lan_of = config.guests.iter().map(|guest| match &guest.lan {
            Some(name) => lans.get(name.value.as_str()).copied(),
            None => only,
        });
        let uplink = config.host.uplink.as_ref().map(|name| &name.value).or(facts.default_uplink.as_ref());
        // A bridge that plays the uplink may be named for it.
        let port = uplink.and_then(|name| outer::playing(config, name)).and_then(|lan| outer::carried(lan, uplink));
        let uplink = port.or(uplink);
        let mut holders = HashMap::new();
        for (i, guest) in config.guests.iter().enumerate() {
            for address in elements(guest.address.as_ref()) {
                holders.entry(address.value).or_insert(i);
            }
        }
        let lan_of: Vec<Option<usize>> = lan_of.collect();
        let leased = leases::assign(config, &lan_of);
        for (i, address) in leased.iter().enumerate() {
            if let Some(address) = address {
                holders.entry(IpAddr::V4(*address)).or_insert(i);
            }
        }
        Self { comparisons: Cell::new(500_000), config, facts, holders, lan_of, leased, lans, guests, uplink }
    }

    /// The addresses of a guest: those of the file, or the one that it is leased.
    fn addresses_of(&self, guest: usize) -> Vec<IpAddr> {
        let fixed = self.config.guests.get(guest).and_then(|guest| guest.address.as_ref());
        let leased = self.leased.get(guest).copied().flatten().map(IpAddr::V4);
        elements(fixed).iter().map(|address| address.value).chain(leased).collect()
    }

    /// The LAN of a guest.
    fn lan_of_guest(&self, guest: usize) -> Option<&'a config::Lan> {
        self.lan_of.get(guest).copied().flatten().and_then(|lan| self.config.lans.get(lan))
    }

    /// The place of `[host]`, or the file's end where it is missing.
    fn host_place(&self) -> Range<usize> {
        self.config.host.span.clone().unwrap_or(self.config.end..self.config.end)
    }

    /// The listed public addresses; nothing where they are the uplink's own.
    fn listed_public(&self) -> Option<&'a [Spanned<IpAddr>]> {
        self.config.host.public.as_ref().map(|list| list.value.as_slice())
    }

    /// Whether "every public address" includes `address`, as far as the file tells.
    fn public_covers(&self, address: IpAddr) -> bool {
        self.listed_public().is_none_or(|list| list.iter().any(|public| public.value == address))
    }

    /// The addresses of the uplink's, as far as they are known.
    fn uplink_addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let interface = self.uplink.and_then(|name| self.facts.interface(name));
        interface.into_iter().flat_map(|interface| interface.addresses.iter().map(ipnet::IpNet::addr))
    }

    /// The problem of a guest's name that no guest bears.
    fn no_guest(&self, name: &str, span: &Range<usize>) -> Problem {
        self.dangling("guest", "guest", name, span, &self.guests)
    }

    /// The problem of a LAN's name that no LAN bears.
    fn no_lan(&self, name: &Spanned<String>) -> Problem {
        self.dangling("LAN", "lan", &name.value, &name.span, &self.lans)
    }

    fn dangling(
        &self,
        what: &str,
        key: &str,
        name: &str,
        span: &Range<usize>,
        known: &HashMap<&str, usize>,
    ) -> Problem {
        let shown = config::shown(name);
        let problem = Problem::config(span.clone(), format!("there is no {what} \"{shown}\""));
        match self.nearest(name, known.keys().copied(), known.len()) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem.help(format!("add [{key}.{shown}], or name one that is there")),
        }
    }

    /// The one of `count` known names that was probably meant. Ten thousand forwards to a thousand misspelt guests
    /// would be compared for seconds; who has so many mistakes is helped with the first ones.
    fn nearest<'k>(&self, name: &str, known: impl Iterator<Item = &'k str>, count: usize) -> Option<&'k str> {
        let left = self.comparisons.get().checked_sub(count)?;
        self.comparisons.set(left);
        config::closest(name, known)
    }
}

fn find_uplink(scope: &Scope<'_>, problems: &mut Vec<Problem>) -> Option<Uplink> {
    if let Some(name) = scope.uplink {
        let plays = outer::playing(scope.config, name).and_then(|lan| lan.bridge.as_ref());
        let present = scope.facts.interface(name).is_some();
        return Some(Uplink { name: plays.unwrap_or(name).clone(), present });
    }
    // One that could not be read was told of already.
    if !scope.config.host.broken {
        let message = "no uplink is named, and this host has no default route to find it by";
        let help = "name the interface towards the world: uplink = \"eth0\" in [host]";
        problems.push(Problem::conflict(scope.host_place(), message).help(help));
    }
    None
}

fn build_public(config: &Config) -> Public {
    match &config.host.public {
        Some(list) => Public::Listed(list.value.iter().map(|address| address.value).collect()),
        None => Public::Dynamic,
    }
}

fn build_reach(config: &Config, facts: &HostFacts) -> Vec<Reach> {
    if let Some(list) = &config.check.reach {
        let reach = |reach: &Spanned<config::grammar::Reach>| Reach {
            host: reach.value.host.clone(),
            address: reach.value.address,
            port: reach.value.port,
        };
        return list.value.iter().map(reach).collect();
    }
    let mut reach: Vec<Reach> = Vec::new();
    for &address in facts.routers.iter().chain(&facts.resolvers) {
        if reach.iter().all(|known| known.address != Some(address)) {
            reach.push(Reach { host: address.to_string(), address: Some(address), port: None });
        }
    }
    reach
}

fn ipv6_forwarding(lans: &[super::Lan], facts: &HostFacts) -> Ipv6Forwarding {
    let forwards = |lan: &super::Lan| matches!(lan.mode, Mode::Nat | Mode::Routed) && lan.gateway6().is_some();
    if !facts.ipv6 {
        return Ipv6Forwarding::Absent;
    }
    if !lans.iter().any(forwards) {
        return Ipv6Forwarding::Off;
    }
    if facts.ipv6_force_forwarding {
        let answers = lans.iter().any(|lan| forwards(lan) && lan.answers.v6);
        return if answers { Ipv6Forwarding::PerInterfaceAnswering } else { Ipv6Forwarding::PerInterface };
    }
    Ipv6Forwarding::Global { interfaces: facts.interfaces.iter().map(|interface| interface.name.clone()).collect() }
}

fn learners(lans: &[super::Lan], facts: &HostFacts) -> Vec<IfName> {
    if matches!(ipv6_forwarding(lans, facts), Ipv6Forwarding::Absent | Ipv6Forwarding::Off) {
        return Vec::new();
    }
    // accept_ra 0 was somebody's choice. 2 is told too, for it may be so since we made it.
    let learns =
        |interface: &&crate::facts::Interface| interface.learnt_route && interface.accept_ra.is_some_and(|v| v > 0);
    // Where a bridge takes an interface's place, it learns in its stead.
    let played = |interface: &crate::facts::Interface| {
        let lan = lans.iter().find(|lan| lan.carries() == Some(&interface.name));
        lan.map_or(&interface.name, |lan| &lan.bridge).clone()
    };
    facts.interfaces.iter().filter(learns).map(played).collect()
}
