//! The SSH session that a command runs in: who is at its other end, and what would cut it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::IfName;
use crate::plan::{Plan, Step};
use crate::state::State;

/// A TCP connection from somewhere to this host's sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The other end's address.
    pub peer: IpAddr,
    /// The other end's port.
    pub peer_port: u16,
    /// Our own address.
    pub local: IpAddr,
    /// Our own port.
    pub local_port: u16,
}

impl Session {
    /// Of SSH_CONNECTION (ssh(1)): the client's address and port, the server's address and port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        // A link-local address is written with its interface behind it.
        let mut address = || -> Option<(IpAddr, u16)> {
            let address = words.next()?.split('%').next()?.parse::<IpAddr>().ok()?;
            Some((address.to_canonical(), words.next()?.parse().ok()?))
        };
        let ((peer, peer_port), (local, local_port)) = (address()?, address()?);
        Some(Self { peer, peer_port, local, local_port })
    }

    /// Why `plan`, which makes `to` of `from`, would cut this session, where it would: its own address goes, its link
    /// goes or is switched off, or what its other end is reached by leads into a LAN then.
    #[must_use]
    pub fn cut(&self, plan: &Plan, from: &State, to: &State) -> Option<String> {
        // One over loopback hangs on nothing of ours.
        if self.peer.is_loopback() {
            return None;
        }
        self.loses_its_end(plan, from).or_else(|| self.is_led_away(from, to))
    }

    /// The link that bears this end, where it is one of ours.
    fn link<'a>(&self, state: &'a State) -> Option<&'a IfName> {
        let mut here = state.addresses.iter().filter(|address| address.at.namespace.is_none());
        here.find(|address| address.net.addr() == self.local).map(|address| &address.at.link)
    }

    fn loses_its_end(&self, plan: &Plan, from: &State) -> Option<String> {
        let link = self.link(from)?;
        let over = |what: &str| Some(format!("it is with {} of {link}, which {what}", self.local));
        plan.steps.iter().find_map(|step| match step {
            Step::DeleteAddress { address } if address.at.namespace.is_none() && address.net.addr() == self.local => {
                over("goes")
            }
            Step::DeleteLink { name, .. } if name == link => over("is taken away"),
            Step::ChangeLink { name, to, .. } if name == link && !to.up => over("is switched off"),
            _ => None,
        })
    }

    /// Subnets and routes by our links that the other end falls into, and did not before.
    fn is_led_away(&self, from: &State, to: &State) -> Option<String> {
        let nets = |state: &State| {
            let on_links = state.addresses.iter().filter(|a| a.at.namespace.is_none()).map(|a| (a.net.trunc(), &a.at));
            let routes = state.routes.iter().filter(|r| r.at.namespace.is_none()).map(|r| (r.to, &r.at));
            let around = on_links.chain(routes).filter(|(net, _)| net.contains(&self.peer));
            around.map(|(net, at)| (net, at.link.clone())).collect::<Vec<(IpNet, IfName)>>()
        };
        let before = nets(from);
        let (net, link) = nets(to).into_iter().find(|led| !before.contains(led))?;
        Some(format!("its other end, {}, would be looked for in {net} on {link}", self.peer))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::plan;
    use crate::state::{Address, Place, Route};

    fn session(text: &str) -> Session {
        Session::parse(text).unwrap()
    }

    fn address(link: &str, net: &str) -> Address {
        Address { at: Place::host(&link.parse().unwrap()), net: net.parse().unwrap() }
    }

    fn state(addresses: &[(&str, &str)], routes: &[(&str, &str)]) -> State {
        let route = |(link, to): &(&str, &str)| Route {
            at: Place::host(&link.parse().unwrap()),
            to: to.parse().unwrap(),
            via: None,
        };
        State {
            addresses: addresses.iter().map(|(link, net)| address(link, net)).collect(),
            routes: routes.iter().map(route).collect(),
            ..State::default()
        }
    }

    #[test]
    fn ssh_says_who_it_is() {
        let plain = session("198.51.100.7 50000 203.0.113.2 22");
        assert_eq!((plain.peer_port, plain.local_port), (50000, 22));
        assert_eq!(session("::ffff:198.51.100.7 50000 ::ffff:203.0.113.2 22"), plain);
        assert_eq!(session("fe80::7%eth0 1 fe80::1%eth0 22").peer, "fe80::7".parse::<IpAddr>().unwrap());
        for wrong in ["", "198.51.100.7 50000", "198.51.100.7 50000 203.0.113.2", "a b c d", "1.1.1.1 99999 2.2.2.2 22"]
        {
            assert_eq!(Session::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_cuts_a_session_and_what_does_not() {
        let nothing = state(&[], &[]);
        let lan = state(&[("br1", "10.1.1.1/24")], &[]);
        let moved = state(&[("br1", "10.1.1.254/24")], &[]);
        let routed = state(&[("br1", "10.1.1.1/24")], &[("br1", "198.51.100.0/24")]);
        let cut = |text: &str, from: &State, to: &State| session(text).cut(&plan(from, to), from, to);
        let outside = "198.51.100.7 50000 203.0.113.2 22";
        assert_eq!(cut(outside, &nothing, &lan), None);
        assert_eq!(cut(outside, &lan, &nothing), None);
        assert_eq!(
            cut(outside, &lan, &routed).unwrap(),
            "its other end, 198.51.100.7, would be looked for in 198.51.100.0/24 on br1"
        );
        // One that comes from where the LAN is going to be, beyond the uplink.
        let beyond = "10.1.1.50 50000 203.0.113.2 22";
        assert!(cut(beyond, &nothing, &lan).unwrap().contains("10.1.1.0/24 on br1"));
        assert_eq!(cut(beyond, &lan, &nothing), None);
        // One from a guest, to the LAN's own address.
        let inside = "10.1.1.6 50000 10.1.1.1 22";
        assert_eq!(cut(inside, &lan, &lan), None);
        assert!(cut(inside, &lan, &moved).unwrap().contains("10.1.1.1 of br1, which goes"));
        assert!(cut(inside, &lan, &nothing).unwrap().contains("10.1.1.1 of br1"));
        assert_eq!(cut("127.0.0.1 50000 127.0.0.1 22", &nothing, &lan), None);
    }
}
