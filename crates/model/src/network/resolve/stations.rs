//! Addresses and hardware addresses: each belongs to one station, and stands where its LAN is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::{Scope, guests};
use crate::address::Mac;
use crate::config::{self, Spanned, elements};
use crate::network::Mode;
use crate::problem::Problem;

pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut holders = Holders::default();
    check_host_addresses(scope, &mut holders, problems);
    for (i, guest) in scope.config.guests.iter().enumerate() {
        for address in elements(guest.address.as_ref()) {
            let fits = scope.lan_of_guest(i).is_none_or(|lan| check_place(scope, address, lan, problems));
            if fits {
                holders.take(address, format!("\"{}\" has it", guest.name.value), problems);
            }
        }
    }
    check_allowed(scope, problems);
    check_macs(scope, problems);
}

/// A network that a guest may use holds nothing of the host's, and of another LAN's neither.
fn check_allowed(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let lans =
        || scope.config.lans.iter().flat_map(|lan| elements(lan.address.as_ref()).iter().map(move |net| (lan, net)));
    for (i, guest) in scope.config.guests.iter().enumerate() {
        let own = scope.lan_of_guest(i).map(|lan| &lan.name.value);
        for allowed in elements(guest.allowed_addresses.as_ref()) {
            let held = lans().find(|(_, net)| allowed.value.contains(&net.value.addr()));
            let other = lans().find(|(lan, net)| {
                let overlap =
                    allowed.value.contains(&net.value.network()) || net.value.contains(&allowed.value.network());
                overlap && Some(&lan.name.value) != own
            });
            let public =
                scope.listed_public().unwrap_or(&[]).iter().find(|public| allowed.value.contains(&public.value));
            let (what, place) = match (held, public, other) {
                (Some((_, net)), _, _) => (format!("the host's own address {}", net.value.addr()), net.span.clone()),
                (_, Some(public), _) => (format!("the public address {}", public.value), public.span.clone()),
                (_, _, Some((lan, net))) => {
                    (format!("a part of another LAN, \"{}\"", lan.name.value), net.span.clone())
                }
                _ => continue,
            };
            let problem = Problem::config(allowed.span.clone(), format!("{} holds {what}", allowed.value.trunc()));
            problems.push(problem.help("allow a smaller network, without it").also(place, "here"));
        }
    }
}

/// Who has which address.
#[derive(Default)]
struct Holders(HashMap<IpAddr, (Range<usize>, String)>);

impl Holders {
    fn take(&mut self, address: &Spanned<IpAddr>, who: String, problems: &mut Vec<Problem>) {
        if let Some((span, holder)) = self.0.get(&address.value) {
            let problem = Problem::config(address.span.clone(), format!("{} is taken", address.value));
            problems.push(problem.help("every station has an address of its own").also(span.clone(), holder.clone()));
        } else {
            self.0.insert(address.value, (address.span.clone(), who));
        }
    }
}

fn check_host_addresses(scope: &Scope<'_>, holders: &mut Holders, problems: &mut Vec<Problem>) {
    for lan in &scope.config.lans {
        for net in elements(lan.address.as_ref()) {
            let address = Spanned::new(net.value.addr(), net.span.clone());
            holders.take(&address, format!("the host's own address on \"{}\"", lan.name.value), problems);
        }
    }
    let private = scope.config.lans.iter().filter(|lan| matches!(lan.mode(), Mode::Nat | Mode::Isolated));
    for net in private.flat_map(|lan| elements(lan.address.as_ref())).filter(|net| net.value.addr().is_ipv4()) {
        let mut publics = scope.listed_public().unwrap_or(&[]).iter();
        if let Some(public) = publics.find(|public| net.value.contains(&public.value)) {
            let message = format!("{} holds {}, a public address", net.value.trunc(), public.value);
            let problem = Problem::config(net.span.clone(), message)
                .help("take a private subnet that the world has no address in");
            problems.push(problem.also(public.span.clone(), "the public address"));
        }
    }
}

/// Whether a guest's address is one that a station of its LAN can have.
fn check_place(scope: &Scope<'_>, address: &Spanned<IpAddr>, lan: &config::Lan, problems: &mut Vec<Problem>) -> bool {
    let nets = elements(lan.address.as_ref());
    let Some(net) = nets.iter().find(|net| net.value.contains(&address.value)) else {
        // On a routed LAN it is a host route; a bridged one may leave its addresses to the outer network.
        let of_family = nets.iter().any(|net| net.value.addr().is_ipv4() == address.value.is_ipv4());
        let free = lan.mode() == Mode::Routed || (lan.mode() == Mode::Bridged && !of_family);
        let mut others = scope.config.lans.iter().flat_map(|other| elements(other.address.as_ref()));
        if let Some(net) = others.find(|net| free && net.value.contains(&address.value)) {
            let message = format!("{} is in another LAN's subnet", address.value);
            let problem = Problem::config(address.span.clone(), message).help("put the guest on that LAN");
            problems.push(problem.also(net.span.clone(), "the other LAN's subnet"));
        }
        if !free && !lan.broken {
            let message = format!("{} is outside of the LAN \"{}\"", address.value, lan.name.value);
            let problem = Problem::config(address.span.clone(), message);
            let all: Vec<String> = nets.iter().map(|net| net.value.trunc().to_string()).collect();
            let problem = problem.help(format!("take an address of {}", all.join(" or ")));
            problems.push(match nets.first() {
                Some(net) => problem.also(net.span.clone(), "the LAN's subnet"),
                None => problem,
            });
        }
        return free;
    };
    if net.value.addr() == address.value {
        // Told as taken, with its holder.
        return true;
    }
    let what = edge(net.value, address.value);
    if let Some(what) = what {
        let message = format!("{} is {what} of {}, which no guest can have", address.value, net.value.trunc());
        let problem = Problem::config(address.span.clone(), message).help("take another address of the subnet");
        problems.push(problem.also(net.span.clone(), "the LAN's subnet"));
    }
    what.is_none()
}

/// What an address at the edge of a subnet is kept for; /31, /32, /127 and /128 have no edges.
pub(super) fn edge(net: ipnet::IpNet, address: IpAddr) -> Option<&'static str> {
    let roomy = net.max_prefix_len() - net.prefix_len() >= 2;
    if !roomy {
        None
    } else if address == net.network() {
        Some("the network address")
    } else if address == net.broadcast() && address.is_ipv4() {
        Some("the broadcast address")
    } else {
        None
    }
}

fn check_macs(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut holders: HashMap<Mac, (Range<usize>, &str)> = HashMap::new();
    for lan in &scope.config.lans {
        holders.insert(Mac::derived(&["lan", &lan.name.value]), (lan.name.span.clone(), &lan.name.value));
    }
    // Written ones first: one that is made from a name gives way in no case, but the written one is to be changed.
    let made = scope.config.guests.iter().enumerate().filter(|(_, guest)| guest.mac.is_none());
    for (i, guest) in made {
        if let Some(lan) = scope.lan_of_guest(i) {
            holders.insert(guests::mac_of(scope, guest, lan), (guest.name.span.clone(), &guest.name.value));
        }
    }
    for guest in &scope.config.guests {
        let Some(mac) = &guest.mac else { continue };
        if let Some((span, name)) = holders.get(&mac.value) {
            let problem = Problem::config(mac.span.clone(), format!("the hardware address {} is taken", mac.value));
            let problem = problem.help("leave `mac` out, and one is made from the name");
            problems.push(problem.also(span.clone(), format!("\"{name}\" has it")));
        } else {
            holders.insert(mac.value, (mac.span.clone(), &guest.name.value));
        }
    }
}
