//! `[[allow]]`: names that are there, and LANs that it can be about.

use std::ops::Range;

use ipnet::IpNet;

use super::Scope;
use crate::config::{self, Peer, Spanned, elements};
use crate::network::{Allow, Mode, Side};
use crate::problem::Problem;

pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    for allow in &scope.config.allows {
        let (from, to) = (elements(allow.from.as_ref()), elements(allow.to.as_ref()));
        for peer in from.iter().chain(to) {
            if let Peer::Name(name) = &peer.value {
                check_name(scope, name, &peer.span, problems);
            }
        }
        let world = |side: &[Spanned<Peer>]| !side.is_empty() && side.iter().all(|peer| peer.value == Peer::World);
        if world(from) && world(to) {
            let problem = Problem::config(allow.span.clone(), "from the world to the world nothing passes this host");
            problems.push(problem.help("name a guest or a LAN on one side"));
        }
    }
}

/// The allows as they are meant.
pub(super) fn build(scope: &Scope<'_>) -> Vec<Allow> {
    let one = |allow: &config::Allow| Allow {
        from: side(scope, elements(allow.from.as_ref())),
        to: side(scope, elements(allow.to.as_ref())),
        ports: elements(allow.ports.as_ref())
            .iter()
            .flat_map(|ports| ports.value.1.iter().map(move |transport| (*transport, ports.value.0)))
            .collect(),
    };
    scope.config.allows.iter().map(one).collect()
}

fn side(scope: &Scope<'_>, peers: &[config::Spanned<Peer>]) -> Side {
    let mut side = Side::default();
    for peer in peers {
        match &peer.value {
            Peer::World => side.world = true,
            Peer::Net(net) => side.nets.push(net.trunc()),
            Peer::Name(name) => {
                let guest = scope.guests.get(name.as_str()).and_then(|&at| Some((at, scope.config.guests.get(at)?)));
                let lan = scope.lans.get(name.as_str()).and_then(|&at| scope.config.lans.get(at));
                if let Some((at, guest)) = guest {
                    side.inside.extend(scope.addresses_of(at).into_iter().map(IpNet::from));
                    side.inside.extend(elements(guest.allowed_addresses.as_ref()).iter().map(|net| net.value.trunc()));
                } else if let Some(lan) = lan {
                    side.inside.extend(elements(lan.address.as_ref()).iter().map(|net| net.value.trunc()));
                }
            }
        }
    }
    side
}

fn check_name(scope: &Scope<'_>, name: &str, span: &Range<usize>, problems: &mut Vec<Problem>) {
    let guest = scope.guests.get(name).copied();
    let lan = scope.lans.get(name).and_then(|&at| scope.config.lans.get(at));
    match (guest, lan) {
        (Some(guest), Some(lan)) => {
            let problem = Problem::config(span.clone(), format!("\"{name}\" is a guest and a LAN"));
            let place = scope.config.guests.get(guest).map_or(lan.name.span.clone(), |guest| guest.name.span.clone());
            problems.push(problem.help("rename the guest").also(place, "the guest"));
        }
        (None, None) => {
            let problem = Problem::config(span.clone(), format!("\"{}\" is no guest and no LAN", config::shown(name)));
            let known = scope.guests.keys().chain(scope.lans.keys()).copied().chain(["world"]);
            let near = scope.nearest(name, known, scope.guests.len() + scope.lans.len() + 1);
            problems.push(match near {
                Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                None => problem.help("write a guest, a LAN, \"world\" or a network such as \"192.0.2.0/24\""),
            });
        }
        (None, Some(lan)) => check_mode(name, lan, span, problems),
        (Some(guest), None) => {
            if let Some(lan) = scope.lan_of_guest(guest) {
                check_mode(name, lan, span, problems);
            }
        }
    }
}

fn check_mode(name: &str, lan: &config::Lan, span: &Range<usize>, problems: &mut Vec<Problem>) {
    let why = match lan.mode() {
        Mode::Isolated => "isolated LAN, which nothing passes the border of",
        Mode::Bridged => "bridged LAN, whose traffic does not pass this host",
        Mode::Nat | Mode::Routed => return,
    };
    let who = if name == lan.name.value { format!("\"{name}\" is an") } else { format!("\"{name}\" is on an") };
    let who = if lan.mode() == Mode::Bridged { who.replace(" an", " a") } else { who };
    let problem = Problem::config(span.clone(), format!("{who} {why}")).help("leave it out");
    let mode = lan.mode.as_ref().map_or(lan.name.span.clone(), |mode| mode.span.clone());
    problems.push(problem.also(mode, "its mode"));
}
