//! Which of the flows that conntrack holds the file still grants. What it no longer grants ends (docs/traffic.md),
//! UDP too, which would else go to its old target for as long as the client keeps sending; nothing else's is touched.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::network::{Forward, Kept, Lan, Mode, Network, Public, Snat};

/// Protocols that no DMZ takes from the host: ICMP and ICMPv6.
const HOSTS_OWN: [u8; 2] = [1, 58];

/// One side of a flow: its source and destination, and their ports where it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; 0 for protocols without.
    pub source_port: u16,
    /// Destination port; 0 for protocols without.
    pub destination_port: u16,
}

/// A flow as conntrack holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IANA protocol number.
    pub protocol: u8,
    /// As its first packet came.
    pub original: Tuple,
    /// As its answers come: where the first packet went after rewriting, the other way round.
    pub reply: Tuple,
}

impl Flow {
    fn destination_rewritten(&self) -> bool {
        (self.original.destination, self.original.destination_port) != (self.reply.source, self.reply.source_port)
    }
}

/// Looks up what a network grants; made once for many flows.
pub struct Grants<'a> {
    network: &'a Network,
    local: &'a [IpAddr],
    /// By protocol and address; of each, those that begin at a port. Forwards of one address do not overlap.
    forwards: HashMap<(u8, Option<IpAddr>), BTreeMap<u16, &'a Forward>>,
}

/// Where a flow that is sent to a public address goes.
#[derive(Clone, Copy)]
struct Target<'a> {
    to: &'a [IpAddr],
    /// The port; none where it stays what it was.
    port: Option<u16>,
}

impl<'a> Grants<'a> {
    /// Of `network`, on a host that holds the addresses `local`.
    #[must_use]
    pub fn new(network: &'a Network, local: &'a [IpAddr]) -> Self {
        let mut forwards = HashMap::<_, BTreeMap<u16, &Forward>>::new();
        for forward in &network.forwards {
            let key = (forward.transport.number(), forward.address);
            forwards.entry(key).or_default().insert(forward.ports.first, forward);
        }
        Self { network, local, forwards }
    }

    /// Whether the flow touches one of our LANs at all: other flows are nobody's business here.
    #[must_use]
    pub fn concerns(&self, flow: &Flow) -> bool {
        self.lan_of(flow.original.source).is_some()
            || self.lan_of(flow.reply.source).is_some()
            || self.lan_of(flow.original.destination).is_some()
    }

    /// Whether the flow was begun under a mapping or permission that the network does not give (any more), or past a
    /// forward that it gives now.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let target = self.target_of(flow);
        if flow.destination_rewritten() && self.lan_of(flow.reply.source).is_some() {
            let port = |target: &Target<'_>| target.port.unwrap_or(flow.original.destination_port);
            return !target.is_some_and(|t| t.to.contains(&flow.reply.source) && port(&t) == flow.reply.source_port);
        }
        if target.is_some() && !flow.destination_rewritten() {
            return true;
        }
        match (self.lan_of(flow.original.source), self.lan_of(flow.original.destination)) {
            // Within a LAN, and from the host, which may do what it likes.
            (Some(a), Some(b)) => {
                (a.bridge != b.bridge || a.port_isolation)
                    && !self.is_local(flow.original.source)
                    && !self.is_local(flow.original.destination)
                    && !self.is_allowed(flow)
            }
            (Some(from), None) => {
                !self.is_local(flow.original.source)
                    && !self.is_local(flow.original.destination)
                    && !self.leaves(from, flow)
            }
            (None, Some(to)) => {
                let open = to.ingress_allowed && to.is_open(flow.original.destination);
                !self.is_local(flow.original.source)
                    && !self.is_local(flow.original.destination)
                    && !open
                    && !self.is_allowed(flow)
            }
            (None, None) => false,
        }
    }

    /// Where what is sent like the flow goes now; none where the host has it.
    fn target_of(&self, flow: &Flow) -> Option<Target<'a>> {
        let (from, to) = (flow.original.source, flow.original.destination);
        let public = match &self.network.public {
            Public::Listed(listed) => listed.contains(&to),
            Public::Dynamic => self.is_local(to) && self.lan_of(to).is_none() && !to.is_loopback(),
        };
        let inside = self.is_local(from) || self.lan_of(from).is_some();
        let of_family = |all: &[IpAddr]| all.iter().any(|a| a.is_ipv4() == to.is_ipv4());
        let port = flow.original.destination_port;
        let forward = [Some(to), None].into_iter().filter(|address| address.is_some() || public).find_map(|address| {
            let (_, forward) = self.forwards.get(&(flow.protocol, address))?.range(..=port).next_back()?;
            forward.to_port_of(port).filter(|_| of_family(&forward.to)).map(|port| (*forward, port))
        });
        if let Some((forward, port)) = forward {
            let may = if inside { forward.hairpin } else { forward.lets_in(from) };
            return may.then_some(Target { to: &forward.to, port: Some(port) });
        }
        let kept = |kept: &Kept| {
            let here = kept.address.is_none_or(|address| address == to);
            here && (kept.transport.number(), kept.port) == (flow.protocol, port)
        };
        if HOSTS_OWN.contains(&flow.protocol) || self.network.kept.iter().any(kept) {
            return None;
        }
        let dmz = self.network.dmzs.iter().find(|dmz| dmz.address.map_or(public, |address| address == to))?;
        let may = if inside { dmz.hairpin } else { dmz.lets_in(from) };
        (may && of_family(&dmz.to)).then_some(Target { to: &dmz.to, port: None })
    }

    /// Whether an allow of the file's is about the flow, whichever way it leaves.
    fn is_allowed(&self, flow: &Flow) -> bool {
        let (from, to) = (flow.original.source, flow.original.destination);
        self.network.allows.iter().any(|allow| {
            let open = || self.lan_of(to).is_some_and(|lan| lan.is_open(to));
            let begins = allow.from.has_inside(from) || allow.from.has_net(from) || allow.from.world && open();
            let ends = allow.to.has_inside(to) || self.lan_of(to).is_none() && (allow.to.has_net(to) || allow.to.world);
            begins && ends && allow.covers(flow.protocol, flow.original.destination_port)
        })
    }

    /// Whether a guest's flow to the world is one that its LAN lets out, with the source that it gives now.
    fn leaves(&self, lan: &Lan, flow: &Flow) -> bool {
        let source = flow.original.source;
        if lan.mode == Mode::Isolated || lan.egress_denied && !self.is_allowed(flow) {
            return false;
        }
        // To another network of the host's it is masqueraded.
        if self.network.allows.iter().any(|allow| allow.to.has_net(flow.original.destination)) {
            return true;
        }
        let guest = self.network.guests_of(lan).find(|guest| guest.addresses.contains(&source));
        match guest.map_or_else(|| lan.snat_for(source), |guest| self.network.snat_of(lan, guest, source)) {
            Snat::To(address) => flow.reply.destination == address,
            // The kernel itself ends masqueraded flows whose address goes.
            Snat::Masquerade | Snat::Keep => true,
        }
    }

    fn lan_of(&self, address: IpAddr) -> Option<&'a Lan> {
        let ours = |lan: &&Lan| lan.mode != Mode::Bridged;
        self.network.lans.iter().filter(ours).find(|lan| self.network.is_on(lan, address))
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::address::{IfName, Mac, Ports, Transport};
    use crate::network::{Ipv6Forwarding, Uplink};

    fn network() -> Network {
        let lan = |name: &str, net: &str, mode| Lan {
            bridge: IfName::new(name).unwrap(),
            mode,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: vec![net.parse().unwrap()],
            taps: vec![],
            domain: "internal".into(),
            dns: vec![],
            dhcp: None,
            snat4: if mode == Mode::Nat { Snat::To("203.0.113.2".parse().unwrap()) } else { Snat::Keep },
            snat6: Snat::Keep,
            nat66: false,
            egress_denied: false,
            ingress_allowed: false,
            outer: None,
            port_isolation: false,
            answers: crate::network::Answers::default(),
        };
        Network {
            uplink: Uplink { name: IfName::new("eth0").unwrap(), present: true },
            public: Public::Listed(vec!["203.0.113.2".parse().unwrap()]),
            lans: vec![lan("br1", "10.1.1.1/24", Mode::Nat), lan("br2", "10.1.2.1/24", Mode::Isolated)],
            guests: vec![],
            forwards: vec![Forward {
                address: None,
                transport: Transport::Udp,
                ports: Ports::one(5353),
                to: vec!["10.1.1.6".parse().unwrap()],
                to_port: 53,
                guest: None,
                lan: IfName::new("br1").unwrap(),
                sources: vec![],
                hairpin: true,
            }],
            allows: vec![],
            dmzs: vec![],
            kept: vec![],
            sites: vec![],
            http: crate::network::Http::default(),
            acme: None,
            socks: None,
            hosts_resolver: true,
            web: None,
            ipv6_forwarding: Ipv6Forwarding::Off,
            learners: vec![],
            reach: vec![],
            fix_foreign: false,
            mends: vec![],
        }
    }

    fn tuple(src: &str, dst: &str) -> Tuple {
        let end = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
        Tuple {
            source: end(src).ip(),
            destination: end(dst).ip(),
            source_port: end(src).port(),
            destination_port: end(dst).port(),
        }
    }

    fn stale(original: (&str, &str), reply: (&str, &str)) -> bool {
        let network = network();
        let local: Vec<IpAddr> = ["203.0.113.2", "10.1.1.1", "10.1.2.1"].map(|a| a.parse().unwrap()).into();
        let flow = Flow { protocol: 17, original: tuple(original.0, original.1), reply: tuple(reply.0, reply.1) };
        Grants::new(&network, &local).is_stale(&flow)
    }

    const CLIENT: &str = "198.51.100.7:4000";

    #[test]
    fn a_forward_s_own_flows_live() {
        assert!(!stale((CLIENT, "203.0.113.2:5353"), ("10.1.1.6:53", CLIENT)));
    }

    #[test]
    fn flows_of_forwards_that_are_gone_or_changed_end() {
        assert!(stale((CLIENT, "203.0.113.2:5354"), ("10.1.1.6:53", CLIENT)));
        assert!(stale((CLIENT, "203.0.113.2:5353"), ("10.1.1.7:53", CLIENT)));
        assert!(stale((CLIENT, "203.0.113.2:5353"), ("10.1.1.6:54", CLIENT)));
        assert!(stale((CLIENT, "203.0.113.9:5353"), ("10.1.1.6:53", CLIENT)));
    }

    #[test]
    fn a_range_a_client_and_what_is_left() {
        let mut network = network();
        let forward = &mut network.forwards[0];
        forward.ports = Ports { first: 5000, last: 5400 };
        (forward.to_port, forward.hairpin) = (6000, false);
        forward.sources = vec!["198.51.100.0/24".parse().unwrap()];
        network.kept.push(Kept { address: None, transport: Transport::Udp, port: 500 });
        let dmz = crate::network::Dmz {
            address: None,
            to: vec!["10.1.1.9".parse().unwrap()],
            guest: None,
            lan: IfName::new("br1").unwrap(),
            sources: vec![],
            hairpin: true,
        };
        network.dmzs.push(dmz);
        let local: Vec<IpAddr> = ["203.0.113.2", "10.1.1.1", "10.1.2.1"].map(|a| a.parse().unwrap()).into();
        let stale = |from: &str, to: &str, now: &str| {
            let flow = Flow { protocol: 17, original: tuple(from, to), reply: tuple(now, from) };
            Grants::new(&network, &local).is_stale(&flow)
        };
        assert!(!stale(CLIENT, "203.0.113.2:5353", "10.1.1.6:6353"));
        assert!(stale(CLIENT, "203.0.113.2:5353", "10.1.1.6:6354"));
        assert!(stale("192.0.2.7:4000", "203.0.113.2:5353", "10.1.1.6:6353"), "not a client that may");
        assert!(!stale("192.0.2.7:4000", "203.0.113.2:5353", "203.0.113.2:5353"), "it is the host's");
        assert!(stale("10.1.1.7:4000", "203.0.113.2:5353", "10.1.1.6:6353"), "not from inside");
        assert!(!stale(CLIENT, "203.0.113.2:9999", "10.1.1.9:9999"));
        assert!(stale(CLIENT, "203.0.113.2:9999", "203.0.113.2:9999"));
        assert!(!stale(CLIENT, "203.0.113.2:500", "203.0.113.2:500"));
        assert!(stale(CLIENT, "203.0.113.2:500", "10.1.1.9:500"));
    }

    #[test]
    fn flows_past_a_new_forward_end() {
        assert!(stale((CLIENT, "203.0.113.2:5353"), ("203.0.113.2:5353", CLIENT)));
    }

    #[test]
    fn out_to_the_world_with_the_right_source_lives() {
        assert!(!stale(("10.1.1.6:9", "192.0.2.1:53"), ("192.0.2.1:53", "203.0.113.2:9")));
        assert!(stale(("10.1.1.6:9", "192.0.2.1:53"), ("192.0.2.1:53", "203.0.113.3:9")));
        assert!(stale(("10.1.2.6:9", "192.0.2.1:53"), ("192.0.2.1:53", "10.1.2.6:9")));
    }

    #[test]
    fn between_lans_and_from_the_world_to_private_addresses_ends() {
        assert!(stale(("10.1.1.6:9", "10.1.2.6:53"), ("10.1.2.6:53", "10.1.1.6:9")));
        assert!(stale((CLIENT, "10.1.1.6:53"), ("10.1.1.6:53", CLIENT)));
        assert!(!stale(("10.1.1.6:9", "10.1.1.7:53"), ("10.1.1.7:53", "10.1.1.6:9")));
        assert!(!stale(("10.1.1.1:9", "10.1.1.7:53"), ("10.1.1.7:53", "10.1.1.1:9")));
        assert!(!stale(("203.0.113.2:9", "10.1.1.7:53"), ("10.1.1.7:53", "203.0.113.2:9")));
        assert!(!stale(("10.1.1.6:9", "10.1.1.1:53"), ("10.1.1.1:53", "10.1.1.6:9")));
    }

    #[test]
    fn among_neighbours_that_are_kept_apart_lives_what_an_allow_names() {
        let mut network = network();
        network.lans[0].port_isolation = true;
        let side = |net: &str| crate::network::Side { inside: vec![net.parse().unwrap()], ..Default::default() };
        let ports = vec![(Transport::Udp, Ports::one(53))];
        network.allows.push(crate::network::Allow { from: side("10.1.1.6/32"), to: side("10.1.1.7/32"), ports });
        let local: Vec<IpAddr> = ["203.0.113.2", "10.1.1.1"].map(|a| a.parse().unwrap()).into();
        let stale = |from: &str, to: &str| {
            let flow = Flow { protocol: 17, original: tuple(from, to), reply: tuple(to, from) };
            Grants::new(&network, &local).is_stale(&flow)
        };
        assert!(!stale("10.1.1.6:9", "10.1.1.7:53"));
        assert!(stale("10.1.1.6:9", "10.1.1.7:54"));
        assert!(stale("10.1.1.7:9", "10.1.1.6:53"), "the other way round");
        assert!(!stale("10.1.1.1:9", "10.1.1.7:53"), "from the host");
        assert!(!stale("10.1.1.7:9", "10.1.1.1:53"), "to the host");
    }

    #[test]
    fn what_is_nobody_s_here_is_left() {
        assert!(!stale((CLIENT, "203.0.113.2:22"), ("203.0.113.2:22", CLIENT)));
        assert!(!stale(("172.17.0.2:9", "192.0.2.1:53"), ("192.0.2.1:53", "203.0.113.2:9")));
    }
}
