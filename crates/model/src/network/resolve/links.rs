//! Names of interfaces: each is one thing's, and every guest's port gets one.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use sha2::Digest as _;

use super::Scope;
use crate::address::{IFNAME_MAX, IfName};
use crate::config::{self, Spanned, elements};
use crate::network::Mode;
use crate::problem::Problem;

/// Which names are taken, by what, and where that stands.
#[derive(Default)]
struct Known<'a>(HashMap<&'a str, (Range<usize>, String)>);

impl<'a> Known<'a> {
    fn take(&mut self, name: &'a IfName, span: &Range<usize>, what: String, problems: &mut Vec<Problem>) {
        if kernel_own(name.as_str()) {
            let problem = Problem::config(span.clone(), format!("\"{name}\" is the kernel's own"));
            problems.push(problem.help("take another name"));
        } else if let Some((other, holder)) = self.0.get(name.as_str()) {
            let (early, late) = if other.start <= span.start { (other, span) } else { (span, other) };
            let problem = Problem::config(late.clone(), format!("\"{name}\" is the name of two things"));
            let about = if early == other { holder.clone() } else { what };
            problems.push(
                problem
                    .help("an interface has a name of its own; a vm's `tap` does not stand in `taps` again")
                    .also(early.clone(), about),
            );
        } else {
            self.0.insert(name.as_str(), (span.clone(), what));
        }
    }
}

/// The interfaces that are a guest's on the host.
pub(super) struct Names {
    /// Its port.
    pub port: IfName,
    /// The device that what it sends waits in, where that is limited.
    pub through: Option<IfName>,
}

/// Names that mean something else under /proc/sys/net/ipv4/conf, and the loopback device.
fn kernel_own(name: &str) -> bool {
    matches!(name, "lo" | "all" | "default")
}

/// Checks that no two things bear one name, and gives each guest's port its name: for a vm its `tap`; else the
/// guest's own name where that fits and is free, else a shortened one with a piece of its hash. In the guests' order;
/// nothing where the guest's name is not usable, which was told before.
pub(super) fn assign(scope: &Scope<'_>, problems: &mut Vec<Problem>) -> Vec<Option<Names>> {
    let mut names = Known::default();
    let uplink = scope.config.host.uplink.as_ref();
    if let Some(uplink) = uplink {
        names.take(&uplink.value, &uplink.span, "the uplink".to_owned(), problems);
    }
    for lan in &scope.config.lans {
        take_lan(lan, uplink, &mut names, problems);
    }
    for guest in &scope.config.guests {
        if let Some(tap) = &guest.tap {
            names.take(&tap.value, &tap.span, format!("the tap of \"{}\"", guest.name.value), problems);
        }
    }
    let mut taken: HashSet<String> = names.0.keys().map(|name| (*name).to_owned()).collect();
    taken.extend(scope.uplink.map(|uplink| uplink.to_string()));
    let ports = port_names(scope, &mut taken);
    // After all ports: a limit that is new or gone leaves every other name as it was.
    let with_through = scope.config.guests.iter().zip(ports).map(|(guest, port)| {
        let limited = guest.limit.as_ref().is_some_and(|limit| limit.value.outward.is_some());
        let through = if limited { Some(through(&guest.name.value, &mut taken)?) } else { None };
        Some(Names { port: port?, through })
    });
    with_through.collect()
}

/// `ifb-NAME` where that fits and is free, else a shortened one.
fn through(guest: &str, taken: &mut HashSet<String>) -> Option<IfName> {
    let plain = format!("ifb-{guest}");
    let fits = if taken.contains(&plain) { None } else { IfName::new(plain.as_str()).ok() };
    let name = fits.or_else(|| made(&plain, taken))?;
    taken.insert(name.to_string());
    Some(name)
}

fn take_lan<'a>(
    lan: &'a config::Lan,
    uplink: Option<&Spanned<IfName>>,
    names: &mut Known<'a>,
    problems: &mut Vec<Problem>,
) {
    let is_uplink = |name: &IfName| uplink.is_some_and(|uplink| &uplink.value == name);
    // On a bridged LAN the bridge plays the uplink, or the uplink is its first port.
    let bridged = lan.mode() == Mode::Bridged;
    if let Some(bridge) = lan.bridge.as_ref().filter(|bridge| !(bridged && is_uplink(bridge))) {
        names.take(bridge, &lan.name.span, format!("the bridge of [lan.{bridge}]"), problems);
    }
    for port in elements(lan.ports.as_ref()).iter().filter(|port| !(bridged && is_uplink(&port.value))) {
        names.take(&port.value, &port.span, format!("a port of \"{}\"", lan.name.value), problems);
    }
    for tap in elements(lan.taps.as_ref()) {
        let name = &tap.value.name;
        names.take(&name.value, &name.span, format!("a tap of \"{}\"", lan.name.value), problems);
    }
}

fn port_names(scope: &Scope<'_>, taken: &mut HashSet<String>) -> Vec<Option<IfName>> {
    let guests = &scope.config.guests;
    // Taps first, then the names that fit as they are, so that a made name never takes one that a guest has a right to.
    let mut ports: Vec<Option<IfName>> = guests
        .iter()
        .map(|guest| match &guest.tap {
            Some(tap) => Some(tap.value.clone()),
            None => {
                let fits = !kernel_own(&guest.name.value) && !taken.contains(&guest.name.value);
                fits.then(|| IfName::new(guest.name.value.as_str()).ok()).flatten()
            }
        })
        .collect();
    taken.extend(ports.iter().flatten().map(IfName::to_string));
    for (guest, port) in guests.iter().zip(&mut ports).filter(|(_, port)| port.is_none()) {
        *port = made(&guest.name.value, taken);
        taken.extend(port.iter().map(IfName::to_string));
    }
    ports
}

/// A name that fits: the beginning of `name`, and four hexadecimal digits of its hash. The hash goes on to the next
/// digits while the name is taken, so the same file always gives the same names.
fn made(name: &str, taken: &HashSet<String>) -> Option<IfName> {
    let room = IFNAME_MAX - 5;
    let end = (0..=room.min(name.len())).rev().find(|&i| name.is_char_boundary(i)).unwrap_or(0);
    let stem = name[..end].trim_end_matches('-');
    (0u32..1000).find_map(|round| {
        let digest = sha2::Sha256::digest(format!("{round}:{name}").as_bytes());
        let made = format!("{stem}-{:02x}{:02x}", digest[0], digest[1]);
        if taken.contains(&made) { None } else { IfName::new(made).ok() }
    })
}
