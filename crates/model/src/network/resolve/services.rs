//! `[socks]` and `[web]`: what contradicts itself, what of the host's is in their way, and what they mean.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use super::Scope;
use crate::address::Transport;
use crate::config::{Config, elements};
use crate::facts::HostFacts;
use crate::network::{Lan, Socks};
use crate::problem::Problem;

/// Where `[socks]` listens by itself: the port that IANA has for SOCKS.
const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// LANs that are there, and sockets of their own.
pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let config = scope.config;
    let socks = config.socks.as_ref();
    for name in elements(socks.and_then(|socks| socks.lans.as_ref())) {
        if !scope.lans.contains_key(name.value.as_str()) {
            problems.push(scope.no_lan(name));
        }
    }
    let mut known: HashMap<SocketAddr, &Range<usize>> = HashMap::new();
    let all = elements(socks.and_then(|socks| socks.listen.as_ref()))
        .iter()
        .chain(elements(config.web.as_ref().and_then(|web| web.listen.as_ref())));
    for socket in all {
        if let Some(other) = known.insert(socket.value, &socket.span) {
            let (early, late) =
                if other.start < socket.span.start { (other, &socket.span) } else { (&socket.span, other) };
            let problem = Problem::config(late.clone(), format!("{} is listened on twice", socket.value));
            problems.push(problem.help("take another port").also(early.clone(), "the other one"));
        }
    }
    check_listeners(scope, problems);
}

/// Others who listen where `[socks]` would.
fn check_listeners(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let Some(socks) = &scope.config.socks else { return };
    let written = elements(socks.listen.as_ref()).iter().map(|socket| (socket.value, socket.span.clone()));
    // What could not be read is none of the default.
    let default = socks.listen.is_none().then(|| (SOCKS, socks.span.clone()));
    for (socket, span) in written.chain(default) {
        let taken = scope.facts.listeners.iter().find(|other| {
            let meets = other.address == socket.ip() || other.address.is_unspecified();
            other.transport == Transport::Tcp && other.port == socket.port() && meets && !other.is_ours()
        });
        let Some(other) = taken else { continue };
        let owner = other.owner.as_deref().unwrap_or("a process of this host's");
        let problem = Problem::conflict(span, format!("{owner} listens on {socket}, where SOCKS would"));
        problems.push(problem.help("let [socks] `listen` on another port, or stop that process"));
    }
}

/// What `[socks]` means.
pub(super) fn build_socks(config: &Config, lans: &[Lan], facts: &HostFacts) -> Option<Socks> {
    let socks = config.socks.as_ref()?;
    let listen: Vec<SocketAddr> = elements(socks.listen.as_ref()).iter().map(|socket| socket.value).collect();
    let named = |lan: &&Lan| match &socks.lans {
        Some(list) => list.value.iter().any(|name| name.value == lan.bridge.as_str()),
        None => true,
    };
    let entered: Vec<&Lan> = lans.iter().filter(named).collect();
    let asks = entered.iter().find(|lan| lan.mode != crate::network::Mode::Isolated && !lan.dns.is_empty());
    // Our own addresses among the host's resolvers know no more than we do.
    let ours = |address: &IpAddr| lans.iter().any(|lan| lan.addresses.iter().any(|net| net.addr() == *address));
    let of_host = || facts.resolvers.iter().copied().filter(|address| !ours(address)).collect();
    Some(Socks {
        listen: if listen.is_empty() { vec![SOCKS] } else { listen },
        resolvers: asks.map_or_else(of_host, |lan| lan.dns.clone()),
        lans: socks.lans.is_some().then(|| entered.iter().map(|lan| lan.bridge.clone()).collect()),
    })
}
