//! Sites: what contradicts itself or a forward.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::claims::{Claim, Claims, words};
use super::{Scope, management};
use crate::address::{Ports, Transport};
use crate::config::{self, Config, Hsts, Maintenance, Site, Spanned, Tls, elements};
use crate::network::{self, AccessLog, Acme, Backend, Entry, Health, Http};
use crate::problem::Problem;

pub(super) fn check(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    for site in &scope.config.sites {
        check_backends(scope, site, problems);
        check_tls(scope, site, problems);
        check_names(site, &mut names, problems);
    }
    check_passed(scope, problems);
    check_entries(scope, claims, problems);
    check_listeners(scope, problems);
}

fn check_backends(scope: &Scope<'_>, site: &Site, problems: &mut Vec<Problem>) {
    for backend in elements(site.to.as_ref()) {
        let name = &backend.value.guest;
        let found = scope.guests.get(name.as_str()).and_then(|&at| Some((at, scope.config.guests.get(at)?)));
        let Some((at, guest)) = found else {
            problems.push(scope.no_guest(name, &backend.span));
            continue;
        };
        if scope.addresses_of(at).is_empty() && !guest.broken {
            let message = format!("\"{name}\" has no fixed address for a site to be on");
            let problem = Problem::config(backend.span.clone(), message).help("give it one: address = [\"…\"]");
            problems.push(problem.also(guest.name.span.clone(), "the guest"));
        }
    }
}

fn check_tls(scope: &Scope<'_>, site: &Site, problems: &mut Vec<Problem>) {
    let tls = site.tls.as_ref().map(|tls| &tls.value);
    let place = || site.tls.as_ref().map_or(site.span.clone(), |tls| tls.span.clone());
    if tls == Some(&Tls::Acme) && scope.config.acme.is_none() {
        let problem = Problem::config(place(), "certificates by ACME want an [acme] table, and there is none");
        problems.push(problem.help("add [acme] with your `email`"));
    }
    let acme = tls == Some(&Tls::Acme) || (tls.is_none() && scope.config.acme.is_some() && !site.broken);
    for host in elements(site.host.as_ref()).iter().filter(|host| acme && host.value.starts_with("*.")) {
        let message = format!("\"{}\" cannot have a certificate by ACME", host.value);
        let help = "name each host, or bring a certificate: tls = { cert = \"…\", key = \"…\" }";
        let problem = Problem::config(host.span.clone(), message).help(help);
        problems.push(match (&site.tls, &scope.config.acme) {
            (Some(tls), _) => problem.also(tls.span.clone(), "its certificate"),
            (None, Some(acme)) => problem.also(acme.span.clone(), "the default of every site's `tls`"),
            (None, None) => problem,
        });
    }
    if tls == Some(&Tls::Passthrough) {
        let inside = [
            ("path", site.path.as_ref().filter(|path| path.value != "/").map(|path| &path.span)),
            ("redirect", site.redirect.as_ref().map(|redirect| &redirect.span)),
            ("hsts", site.hsts.as_ref().map(|hsts| &hsts.span)),
        ];
        for (key, span) in inside.into_iter().filter_map(|(key, span)| span.map(|span| (key, span))) {
            let message = format!("`{key}` would have to look inside of what passes untouched");
            let problem = Problem::config(span.clone(), message).help("leave it out, or let warren end the TLS");
            problems.push(problem.also(place(), "passed through"));
        }
    }
}

/// Two sites that answer to the same host and path.
fn check_names<'a>(
    site: &'a Site,
    names: &mut HashMap<(&'a str, &'a str), &'a Range<usize>>,
    problems: &mut Vec<Problem>,
) {
    let path = site.path.as_ref().map_or("/", |path| path.value.as_str());
    for host in elements(site.host.as_ref()) {
        if let Some(other) = names.get(&(host.value.as_str(), path)) {
            let problem = Problem::config(host.span.clone(), format!("another site answers to {}{path}", host.value));
            problems.push(problem.help("give one of them another `path`").also((*other).clone(), "the other site"));
        } else {
            names.insert((&host.value, path), &host.span);
        }
    }
}

/// What passes through untouched has no paths: another site of its host that ends TLS would be asked for nothing, or for
/// all of it.
fn check_passed(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let tls = |site: &Site| build_site(site, scope.config.acme.is_some()).tls;
    let passed: Vec<&Site> = scope.config.sites.iter().filter(|site| tls(site) == network::Tls::Passthrough).collect();
    let same_port = |a: &Site, b: &Site| sockets(a).iter().any(|a| sockets(b).iter().any(|b| a.1 == b.1));
    let others = scope.config.sites.iter().filter(|site| site.path.as_ref().is_some_and(|path| path.value != "/"));
    for site in others.filter(|site| !matches!(tls(site), network::Tls::Off | network::Tls::Passthrough)) {
        for host in elements(site.host.as_ref()) {
            let here = passed.iter().filter(|other| same_port(site, other));
            let mut named = here.flat_map(|other| elements(other.host.as_ref()));
            let Some(other) = named.find(|other| other.value == host.value) else { continue };
            let message = format!("{} passes through untouched, so no path of it can be a site's own", host.value);
            let problem = Problem::config(host.span.clone(), message);
            let help = "let warren end the TLS of both, or give this one another host";
            problems.push(problem.help(help).also(other.span.clone(), "passed through"));
        }
    }
}

/// Ports that sites' entries hold: forwards may not take them, and they may not take management's.
fn check_entries(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) {
    let mut entries: HashMap<(Option<IpAddr>, u16), Range<usize>> = HashMap::new();
    for site in &scope.config.sites {
        for (address, port, span) in sockets(site) {
            entries.entry((address.filter(|address| !address.is_unspecified()), port)).or_insert(span);
        }
    }
    let mut in_order: Vec<_> = entries.into_iter().collect();
    in_order.sort_by_key(|((address, port), span)| (span.start, *port, *address));
    for ((address, port), span) in in_order {
        if let Some((kept, words)) = management::keeps(scope, address, port) {
            let message = format!("the site's entry would take {words}, kept for management");
            let problem = Problem::config(span.clone(), message).help("listen on another port");
            problems.push(match kept {
                Some(kept) => problem.also(kept, "kept here"),
                None => problem,
            });
        }
        let entry = Ports::one(port);
        let tcp = claims.ports.iter().filter(|claim| claim.transport == Transport::Tcp && claim.ports.overlaps(entry));
        for claim in tcp.filter(|claim| meet(scope, claim, address)) {
            let words = words(claim.address.or(address), entry, Transport::Tcp);
            let problem = Problem::config(claim.span.clone(), format!("a site's entry listens on {words}"));
            let help = "forward another port, or let the site `listen` elsewhere";
            problems.push(problem.help(help).also(span.clone(), "the site"));
        }
    }
}

/// Others' listeners on this host where a site would listen.
fn check_listeners(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let others: Vec<_> =
        scope.facts.listeners.iter().filter(|l| l.transport == Transport::Tcp && !l.is_ours()).collect();
    let mut told = Vec::new();
    for site in &scope.config.sites {
        let bound = build_site(site, scope.config.acme.is_some());
        for (address, port, span) in sockets(site) {
            let address = address.filter(|address| !address.is_unspecified());
            if !bound.is_bound(Entry { address, port }) || told.contains(&(address, port)) {
                continue;
            }
            let hit = others.iter().find(|other| {
                let same = match (address, scope.listed_public()) {
                    _ if other.address.is_unspecified() => true,
                    (Some(address), _) => other.address == address,
                    (None, Some(list)) => list.iter().any(|public| public.value == other.address),
                    // Every address is bound.
                    (None, None) => true,
                };
                other.port == port && same
            });
            let Some(other) = hit else { continue };
            told.push((address, port));
            let at = (!other.address.is_unspecified()).then_some(other.address);
            let words = words(at, Ports::one(port), Transport::Tcp);
            let owner = other.owner.as_deref().unwrap_or("a process of this host's");
            let message = format!("{owner} listens on {words}, where this site would");
            let help = "let the site `listen` elsewhere, or stop that process";
            problems.push(Problem::conflict(span, message).help(help));
        }
    }
}

fn meet(scope: &Scope<'_>, claim: &Claim, entry: Option<IpAddr>) -> bool {
    match (claim.address, entry) {
        (Some(a), Some(b)) => a == b,
        (Some(a), None) | (None, Some(a)) => scope.public_covers(a),
        (None, None) => true,
    }
}

/// Where all sites listen: address (or every public one) and port.
pub(super) fn entries(config: &Config) -> impl Iterator<Item = (Option<IpAddr>, u16)> {
    let all = config.sites.iter().flat_map(sockets);
    all.map(|(address, port, _)| (address.filter(|address| !address.is_unspecified()), port))
}

/// Where a site's entry listens: 80 and 443 of every public address, or what it says.
fn sockets(site: &Site) -> Vec<(Option<IpAddr>, u16, Range<usize>)> {
    let Some(list) = &site.listen else {
        // A `listen` that could not be read says nothing about 80 and 443.
        let ports: &[u16] = if site.broken { &[] } else { &[80, 443] };
        return ports.iter().map(|&port| (None, port, site.span.clone())).collect();
    };
    let of = |entry: &Spanned<crate::config::grammar::EntrySocket>| {
        let ports = entry.value.port.map_or(vec![80, 443], |port| vec![port]);
        let (address, span) = (entry.value.address, entry.span.clone());
        ports.into_iter().map(move |port| (address, port, span.clone())).collect::<Vec<_>>()
    };
    list.value.iter().flat_map(of).collect()
}

// ---- what they mean ----

/// `Strict-Transport-Security` where the file says no more than `true`: a year.
const HSTS: u64 = 31_536_000;
/// What is said of a closed site where the file says no more than `true`.
const CLOSED: &str = "This site is closed for maintenance.";
/// The directory that certificates are had from where the file names none.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

pub(super) fn build(config: &Config) -> Vec<network::Site> {
    config.sites.iter().map(|site| build_site(site, config.acme.is_some())).collect()
}

fn build_site(site: &Site, acme: bool) -> network::Site {
    let backend = |backend: &Spanned<config::Backend>| Backend {
        guest: backend.value.guest.clone(),
        port: backend.value.port.unwrap_or(80),
    };
    let mut entries = Vec::new();
    for (address, port, _) in sockets(site) {
        let entry = Entry { address: address.filter(|address| !address.is_unspecified()), port };
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    network::Site {
        hosts: elements(site.host.as_ref()).iter().map(|host| host.value.clone()).collect(),
        path: site.path.as_ref().map_or("/", |path| path.value.as_str()).to_owned(),
        to: elements(site.to.as_ref()).iter().map(backend).collect(),
        redirect: site.redirect.as_ref().map(|url| url.value.clone()),
        balance: site.balance.as_ref().map(|balance| balance.value).unwrap_or_default(),
        health: build_health(site.health.as_ref().map(|health| &health.value)),
        tls: match site.tls.as_ref().map(|tls| &tls.value) {
            Some(Tls::Acme) => network::Tls::Acme,
            Some(Tls::Files { cert, key }) => network::Tls::Files { cert: cert.value.clone(), key: key.value.clone() },
            Some(Tls::SelfSigned) => network::Tls::SelfSigned,
            Some(Tls::Passthrough) => network::Tls::Passthrough,
            None if acme => network::Tls::Acme,
            Some(Tls::Off) | None => network::Tls::Off,
        },
        entries,
        hsts: site.hsts.as_ref().and_then(|hsts| match hsts.value {
            Hsts::Flag(on) => on.then_some(HSTS),
            Hsts::For(time) => Some(time.millis / 1000),
        }),
        maintenance: site.maintenance.as_ref().and_then(|closed| match &closed.value {
            Maintenance::Flag(on) => on.then(|| CLOSED.to_owned()),
            Maintenance::Text(text) => Some(text.clone()),
        }),
        proxy_protocol: site.proxy_protocol.as_ref().map(|proxy| proxy.value).unwrap_or_default(),
        upstream: site.upstream.as_ref().map(|upstream| upstream.value).unwrap_or_default(),
    }
}

fn build_health(written: Option<&config::Health>) -> Health {
    let default = Health::default();
    let Some(written) = written else { return default };
    Health {
        path: written.path.as_ref().map(|path| path.value.clone()),
        interval: written.interval.as_ref().map_or(default.interval, |time| time.value.millis),
        timeout: written.timeout.as_ref().map_or(default.timeout, |time| time.value.millis),
        failures: written.failures.as_ref().map_or(default.failures, |count| count.value),
        successes: written.successes.as_ref().map_or(default.successes, |count| count.value),
    }
}

pub(super) fn build_http(config: &Config) -> Http {
    let mut http = Http::default();
    let Some(written) = &config.http else { return http };
    http.trusted_proxies = elements(written.trusted_proxies.as_ref()).iter().map(|net| net.value.trunc()).collect();
    http.access_log = written
        .access_log
        .as_ref()
        .filter(|log| log.value.on)
        .map(|log| AccessLog { file: log.value.file.clone(), format: log.value.format });
    if let Some(limits) = written.limits.as_ref().map(|limits| &limits.value) {
        let or = |written: &Option<Spanned<u64>>, default| written.as_ref().map_or(default, |count| count.value);
        http.max_connections = or(&limits.max_connections, http.max_connections);
        http.max_connections_per_client = or(&limits.max_connections_per_client, http.max_connections_per_client);
        http.max_header = or(&limits.max_header, http.max_header);
        http.max_body = limits.max_body.as_ref().map(|count| count.value);
        http.timeout = limits.timeout.as_ref().map_or(http.timeout, |time| time.value.millis);
    }
    http
}

pub(super) fn build_acme(config: &Config) -> Option<Acme> {
    config.acme.as_ref().map(|acme| Acme {
        email: acme.email.as_ref().map(|email| email.value.clone()),
        directory: acme.directory.as_ref().map_or(DIRECTORY, |url| url.value.as_str()).to_owned(),
        storage: acme.storage.as_ref().map(|folder| folder.value.clone()),
    })
}
