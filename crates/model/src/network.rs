//! What a configuration means on a host: every default filled in, every name resolved.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::IfName;
use crate::foreign::Mend;

mod border;
mod guest;
mod lan;
mod resolve;
mod site;
mod unsupported;
pub use border::{Allow, Dmz, Forward, Kept, Side};
pub use guest::{Container, Guest, GuestKind, Limit, Outward, Source};
pub use lan::{Answers, Lan, LeaseRange, Mode, Outer, Snat, Tap, is_ula};
pub use resolve::{load, resolve};
pub use site::{AccessLog, Acme, Backend, Balance, Entry, Health, Http, LogFormat, ProxyProtocol, Site, Tls, Upstream};
pub use unsupported::unsupported;

/// A whole warren, ready to be turned into a [`crate::state::State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The interface towards the world.
    pub uplink: Uplink,
    /// The addresses that the world reaches this server on.
    pub public: Public,
    /// The LANs, in the file's order.
    pub lans: Vec<Lan>,
    /// The guests, in the file's order.
    pub guests: Vec<Guest>,
    /// What the world may reach, in the file's order; a forward of two protocols is two.
    pub forwards: Vec<Forward>,
    /// What may pass where a border says no, in the file's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allows: Vec<Allow>,
    /// Guests that get everything that nothing else takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dmzs: Vec<Dmz>,
    /// Services of the host's own that no DMZ takes: what `management` keeps, and what the host listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// The web by name, in the file's order.
    pub sites: Vec<Site>,
    /// What holds for all sites.
    #[serde(default, skip_serializing_if = "Http::is_default")]
    pub http: Http,
    /// Certificates by ACME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// The developers' door. Records of earlier versions have a truth value as "socks".
    #[serde(default, rename = "socks5", skip_serializing_if = "Option::is_none")]
    pub socks: Option<Socks>,
    /// The page for a browser on this host, and what programs read beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web: Option<crate::web::Web>,
    /// Whether the host itself resolves guests' names.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub hosts_resolver: bool,
    /// How IPv6 forwarding is switched on.
    pub ipv6_forwarding: Ipv6Forwarding,
    /// Interfaces that hold a route learnt from a router advertisement. Each goes from accept_ra 1 to 2 before
    /// anything is switched to forward IPv6: with any such switch the kernel forgets learnt routes, the host's own
    /// default route among them (rt6_purge_dflt_routers of net/ipv6/route.c).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<IfName>,
    /// What the world should answer when guests go out.
    pub reach: Vec<Reach>,
    /// Whether what others' firewalls stop is mended there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fix_foreign: bool,
    /// The mends that were found to be needed on this host; only ever with `fix_foreign`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mends: Vec<Mend>,
}

/// `[socks]`: from where one comes, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socks {
    /// Where it listens, on loopback.
    pub listen: Vec<SocketAddr>,
    /// The bridges of the LANs that may be entered; all where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lans: Option<Vec<IfName>>,
    /// Who knows names of the world: the resolvers of the first LAN of those that asks any, else the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<IpAddr>,
}

/// The interface towards the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// Whether it is there now. While it is missing the LANs come up without it, and NAT attaches when it appears.
    pub present: bool,
}

/// The addresses that the world reaches this server on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Public {
    /// Exactly these, whether the host holds them or not.
    Listed(Vec<IpAddr>),
    /// Whatever local addresses the uplink has at the moment.
    Dynamic,
}

// serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

fn yes() -> bool {
    true
}

// serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_true(value: &bool) -> bool {
    *value
}

/// How IPv6 forwarding is switched on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipv6Forwarding {
    /// The kernel has no IPv6 (left out, or switched off at boot): it has no switches for it either.
    Absent,
    /// No LAN has a way out for IPv6.
    Off,
    /// For uplink and LANs alone (kernel 6.17 and later).
    PerInterface,
    /// The same, and the uplink is a router by its own switch too: the kernel answers neighbour discovery for others by
    /// no other.
    PerInterfaceAnswering,
    /// For the whole host, since the kernel knows nothing finer.
    Global {
        /// Every interface of the host's, each of whose own switch the kernel turns along.
        interfaces: Vec<IfName>,
    },
}

/// A place in the world that should answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Name or address as written.
    pub host: String,
    /// The address, where it is one.
    pub address: Option<IpAddr>,
    /// TCP port; an ICMP echo where there is none.
    pub port: Option<u16>,
}

impl Ipv6Forwarding {
    /// Whether single interfaces forward, and not the whole host.
    #[must_use]
    pub fn is_per_interface(&self) -> bool {
        matches!(self, Self::PerInterface | Self::PerInterfaceAnswering)
    }
}

impl Network {
    /// Where sites listen, each place once: those of every public address apart where `public` lists them.
    #[must_use]
    pub fn entries(&self) -> std::collections::BTreeSet<Entry> {
        let all = self.sites.iter().flat_map(|site| site.entries.iter().copied());
        all.flat_map(|entry| match (&self.public, entry.address) {
            (Public::Listed(listed), None) => {
                listed.iter().map(|at| Entry { address: Some(*at), ..entry }).collect::<Vec<_>>()
            }
            _ => vec![entry],
        })
        .collect()
    }

    /// The LAN of that bridge.
    #[must_use]
    pub fn lan(&self, bridge: &IfName) -> Option<&Lan> {
        self.lans.iter().find(|lan| &lan.bridge == bridge)
    }

    /// The bridges that the uplink is plugged into: where they are others than before, the uplink itself changes.
    #[must_use]
    pub fn uplink_bridges(&self) -> Vec<IfName> {
        let ours = self.lans.iter().filter(|lan| lan.mode == Mode::Bridged && !lan.is_external());
        ours.map(|lan| lan.bridge.clone()).collect()
    }

    /// Plugs that interface in nowhere: as while it is not there, its LAN stands without it. The host's own addresses
    /// stay with it.
    pub fn leave_out(&mut self, port: &IfName) {
        for lan in &mut self.lans {
            let Some(outer) = lan.outer.as_mut().filter(|outer| outer.ports.contains(port)) else { continue };
            outer.ports.retain(|other| other != port);
            if outer.carries.as_ref() == Some(port) {
                outer.carries = None;
                outer.takeover = None;
                outer.twins = false;
                lan.addresses.clear();
                if self.uplink.name == lan.bridge {
                    self.uplink = Uplink { name: port.clone(), present: true };
                }
            }
        }
    }

    /// The guest of that name.
    #[must_use]
    pub fn guest(&self, name: &str) -> Option<&Guest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// Whether an allow lets a guest of a LAN begin with one of another: by their addresses, the protocol and the port.
    #[must_use]
    pub fn lets_across(&self, from: IpAddr, to: IpAddr, (protocol, port): (u8, u16)) -> bool {
        let between = |allow: &&Allow| allow.from.has_inside(from) && allow.to.has_inside(to);
        self.allows.iter().filter(between).any(|allow| allow.covers(protocol, port))
    }

    /// Whether an allow lets a guest out to that address of the world's: to all of it, or to a network around it.
    #[must_use]
    pub fn lets_out(&self, from: IpAddr, to: IpAddr, (protocol, port): (u8, u16)) -> bool {
        let out = |allow: &&Allow| allow.from.has_inside(from) && (allow.to.world || allow.to.has_net(to));
        self.allows.iter().filter(out).any(|allow| allow.covers(protocol, port))
    }

    /// Whether a client of the world's may begin with an address of the LAN's, without any forward.
    #[must_use]
    pub fn lets_in(&self, lan: &Lan, client: IpAddr, to: IpAddr, (protocol, port): (u8, u16)) -> bool {
        let named = |allow: &&Allow| (allow.from.world || allow.from.has_net(client)) && allow.to.has_inside(to);
        let allowed = || self.allows.iter().filter(named).any(|allow| allow.covers(protocol, port));
        lan.is_open(to) && (lan.ingress_allowed || allowed())
    }

    /// The source that a guest's address leaves by.
    #[must_use]
    pub fn snat_of(&self, lan: &Lan, guest: &Guest, address: IpAddr) -> Snat {
        match guest.snat.filter(|snat| snat.is_ipv4() == address.is_ipv4()) {
            Some(own) if lan.snat_for(address) != Snat::Keep => Snat::To(own),
            _ => lan.snat_for(address),
        }
    }

    /// The guests that may ask for themselves at a public address, some of them more than once.
    pub fn hairpinned(&self) -> impl Iterator<Item = &str> {
        let forwards = self.forwards.iter().filter(|forward| forward.hairpin).filter_map(|f| f.guest.as_deref());
        forwards.chain(self.dmzs.iter().filter(|dmz| dmz.hairpin).filter_map(|dmz| dmz.guest.as_deref()))
    }

    /// Networks that lie behind guests of a LAN, outside its own prefixes, each with the guest that leads there.
    pub fn nested<'a>(&'a self, lan: &'a Lan) -> impl Iterator<Item = (&'a Guest, IpNet)> {
        let outside = |net: &IpNet| !lan.addresses.iter().any(|own| own.contains(net));
        self.guests_of(lan)
            .flat_map(|guest| guest.allowed.iter().map(move |net| (guest, *net)))
            .filter(move |(_, net)| outside(net))
    }

    /// Whether some guests of a LAN that keeps its guests apart may reach one another after all: by the host, which
    /// answers each of them for its neighbours.
    #[must_use]
    pub fn routes_within(&self, lan: &Lan) -> bool {
        let touches = |side: &Side| {
            let mut nets = side.inside.iter();
            nets.any(|net| lan.addresses.iter().any(|own| own.contains(net) || net.contains(own)))
                || self.nested(lan).any(|(_, behind)| side.inside.contains(&behind))
                || self.alone(lan).any(|(_, alone)| side.has_inside(alone))
        };
        lan.port_isolation
            && lan.meets_world()
            && self.allows.iter().any(|allow| touches(&allow.from) && touches(&allow.to))
    }

    /// Whether there is a LAN, of those that are ours, that keeps its guests apart.
    #[must_use]
    pub fn keeps_apart(&self) -> bool {
        self.lans.iter().any(|lan| lan.port_isolation && lan.mode != Mode::Bridged)
    }

    /// Addresses of guests outside of their LAN's prefixes, each with its guest: on a routed LAN a host route leads to
    /// each.
    pub fn alone<'a>(&'a self, lan: &'a Lan) -> impl Iterator<Item = (&'a Guest, IpAddr)> {
        let all = self.guests_of(lan).flat_map(|guest| guest.addresses.iter().map(move |address| (guest, *address)));
        all.filter(move |(_, address)| lan.mode != Mode::Bridged && lan.prefix_of(*address).is_none())
    }

    /// Whether the address is one behind that LAN's bridge, by a prefix or a route of its own.
    #[must_use]
    pub fn is_on(&self, lan: &Lan, address: IpAddr) -> bool {
        lan.prefix_of(address).is_some()
            || self.nested(lan).any(|(_, net)| net.contains(&address))
            || self.alone(lan).any(|(_, alone)| alone == address)
    }

    /// Addresses of guests for which this host answers on the uplink.
    pub fn answered(&self) -> impl Iterator<Item = IpAddr> {
        let lans = self.lans.iter().filter(|lan| lan.meets_world());
        lans.flat_map(|lan| {
            let own = self.guests_of(lan).flat_map(move |guest| lan.addresses_of(guest));
            own.filter(move |address| lan.answers.holds(*address) && lan.is_open(*address))
        })
    }

    /// The guests of a LAN.
    pub fn guests_of<'a>(&'a self, lan: &'a Lan) -> impl Iterator<Item = &'a Guest> {
        self.guests.iter().filter(|guest| guest.lan == lan.bridge)
    }
}
