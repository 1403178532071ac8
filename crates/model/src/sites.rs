//! What the HTTP service serves: a value that follows from a network alone, and the pure decisions on it: which site a
//! request is for, and (in [`choose`]) which guest it goes to.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::IfName;
use crate::network::{Acme, Backend, Entry, Http, Ipv6Forwarding, Network, Public, Site};

pub mod choose;
pub mod nginx;
pub mod path;

/// All sites, and where they listen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// In the file's order.
    pub sites: Vec<Site>,
    /// Their guests, each once.
    pub guests: Vec<Station>,
    /// The sockets that are bound, whether the host has their addresses yet or not; those of every address are of their
    /// own family alone.
    pub sockets: BTreeSet<SocketAddr>,
    /// What holds for all sites.
    pub http: Http,
    /// Certificates by ACME.
    pub acme: Option<Acme>,
}

/// A guest that sites are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Its name.
    pub name: String,
    /// Its LAN's bridge.
    pub lan: IfName,
    /// The host's end of its cable.
    pub port: IfName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Sites {
    /// Of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        if network.sites.is_empty() {
            return Self::default();
        }
        let named: BTreeSet<&str> =
            network.sites.iter().flat_map(|site| site.to.iter().map(|to| to.guest.as_str())).collect();
        let guests = network.guests.iter().filter(|guest| named.contains(guest.name.as_str()));
        let station = |guest: &crate::network::Guest| Station {
            name: guest.name.clone(),
            lan: guest.lan.clone(),
            port: guest.port.clone(),
            addresses: guest.addresses.clone(),
        };
        Self {
            sites: network.sites.clone(),
            guests: guests.map(station).collect(),
            sockets: sockets(network),
            http: network.http.clone(),
            acme: network.acme.clone(),
        }
    }

    /// Whether there is anything to serve.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Where a site's guest answers: its first address.
    #[must_use]
    pub fn place(&self, backend: &Backend) -> Option<SocketAddr> {
        let station = self.guests.iter().find(|station| station.name == backend.guest)?;
        station.addresses.first().map(|address| SocketAddr::new(*address, backend.port))
    }
}

/// The uplink's addresses may change, so where `public` lists none every address is bound.
fn sockets(network: &Network) -> BTreeSet<SocketAddr> {
    let six = network.ipv6_forwarding != Ipv6Forwarding::Absent;
    let mut sockets = BTreeSet::new();
    for site in &network.sites {
        for entry in site.entries.iter().filter(|entry| site.is_bound(**entry)) {
            let addresses = match (entry.address, &network.public) {
                (Some(address), _) => vec![address],
                (None, Public::Listed(listed)) => listed.clone(),
                (None, Public::Dynamic) => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            };
            let possible = addresses.into_iter().filter(|address| six || address.is_ipv4());
            sockets.extend(possible.map(|address| SocketAddr::new(address, entry.port)));
        }
    }
    // A port of every address has no room for one of a single address beside it.
    let every = |socket: &SocketAddr| {
        let any = if socket.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(any, socket.port())
    };
    let all = sockets.clone();
    sockets.retain(|socket| socket.ip().is_unspecified() || !all.contains(&every(socket)));
    sockets
}

// ---- which site a request is for ----

/// What a look-up finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A site, by its place in [`Sites::sites`].
    Site(usize),
    /// The host is known there, and none of its sites has the path.
    NoPath,
    /// The host is not known there.
    NoHost,
}

/// The sites by name, ready for look-ups whose cost does not grow with their number.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By their whole names.
    exact: HashMap<String, Vec<Route>>,
    /// By what follows the wildcard's dot.
    wild: HashMap<String, Vec<Route>>,
}

/// One host and path of a site; the longest path stands first.
#[derive(Clone, Debug)]
struct Route {
    path: Vec<u8>,
    entries: Vec<Entry>,
    site: usize,
}

impl Table {
    /// Of these sites.
    #[must_use]
    pub fn of(sites: &[Site]) -> Self {
        let mut table = Self::default();
        for (nth, site) in sites.iter().enumerate() {
            let path = path::canonical(&site.path).map_or_else(|| site.path.clone().into_bytes(), |p| p.into_owned());
            for host in &site.hosts {
                let route = Route { path: path.clone(), entries: site.entries.clone(), site: nth };
                match host.strip_prefix("*.") {
                    Some(parent) => table.wild.entry(parent.to_owned()).or_default().push(route),
                    None => table.exact.entry(host.clone()).or_default().push(route),
                }
            }
        }
        let lists = table.exact.values_mut().chain(table.wild.values_mut());
        lists.for_each(|routes| routes.sort_by_key(|route| std::cmp::Reverse(route.path.len())));
        table
    }

    /// The site of a request that came in at `local` for `host` (as [`host_of`] gives it) and `path` (as
    /// [`path::canonical`] gives it). A whole name comes before a wildcard, whatever their paths; then the longest
    /// path wins.
    #[must_use]
    pub fn find(&self, local: SocketAddr, host: &str, path: &[u8]) -> Found {
        let Some(routes) = self.routes(local, host) else { return Found::NoHost };
        let mut here = routes.iter().filter(|route| route.listens(local));
        here.find(|route| path::covers(&route.path, path)).map_or(Found::NoPath, |route| Found::Site(route.site))
    }

    /// A site of that host at `local`, whatever the path: what is known before a request is read.
    #[must_use]
    pub fn host(&self, local: SocketAddr, host: &str) -> Option<usize> {
        self.routes(local, host)?.iter().find(|route| route.listens(local)).map(|route| route.site)
    }

    /// All sites of that host at `local`, those of the longest paths first.
    pub fn hosts(&self, local: SocketAddr, host: &str) -> impl Iterator<Item = usize> {
        let routes = self.routes(local, host).into_iter().flatten();
        routes.filter(move |route| route.listens(local)).map(|route| route.site)
    }

    fn routes(&self, local: SocketAddr, host: &str) -> Option<&Vec<Route>> {
        let known = |routes: &&Vec<Route>| routes.iter().any(|route| route.listens(local));
        let wild = || host.split_once('.').filter(|(label, _)| !label.is_empty()).and_then(|(_, p)| self.wild.get(p));
        self.exact.get(host).filter(known).or_else(|| wild().filter(known))
    }
}

impl Route {
    fn listens(&self, local: SocketAddr) -> bool {
        let here = |entry: &Entry| entry.port == local.port() && entry.address.is_none_or(|at| at == local.ip());
        self.entries.iter().any(here)
    }
}

/// The host of an authority (RFC 9110, 7.2) as sites know it: without port and final dot, in lower case. Nothing where
/// it is no host at all.
#[must_use]
pub fn host_of(authority: &str) -> Option<std::borrow::Cow<'_, str>> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            is_port(port.strip_prefix(':').unwrap_or(port)).then_some(address)?
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            is_port(port).then_some(host)?
        }
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if host.split('.').any(str::is_empty) || host.len() > 253 || !host.bytes().all(fine) {
        return None;
    }
    let lower = host.bytes().all(|byte| !byte.is_ascii_uppercase());
    Some(if lower { host.into() } else { host.to_ascii_lowercase().into() })
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
#[path = "sites/tests.rs"]
mod tests;
