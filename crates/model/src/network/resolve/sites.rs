//! Sites: what contradicts itself or a forward.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::claims::{Claim, Claims, words};
use super::{Scope, management};
use crate::address::{Ports, Transport};
use crate::config::{Site, Spanned, Tls, elements};
use crate::problem::Problem;

pub(super) fn check(scope: &Scope<'_>, claims: &Claims, problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    for site in &scope.config.sites {
        check_backends(scope, site, problems);
        check_tls(scope, site, problems);
        check_names(site, &mut names, problems);
    }
    check_entries(scope, claims, problems);
}

fn check_backends(scope: &Scope<'_>, site: &Site, problems: &mut Vec<Problem>) {
    for backend in elements(site.to.as_ref()) {
        let name = &backend.value.guest;
        let Some(guest) = scope.guests.get(name.as_str()).and_then(|&at| scope.config.guests.get(at)) else {
            problems.push(scope.no_guest(name, &backend.span));
            continue;
        };
        if elements(guest.address.as_ref()).is_empty() && !guest.broken {
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

fn meet(scope: &Scope<'_>, claim: &Claim, entry: Option<IpAddr>) -> bool {
    match (claim.address, entry) {
        (Some(a), Some(b)) => a == b,
        (Some(a), None) | (None, Some(a)) => scope.public_covers(a),
        (None, None) => true,
    }
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
