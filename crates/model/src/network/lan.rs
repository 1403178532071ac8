//! What a LAN is: a bridge, the host's addresses on it, and how it meets the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Guest, is_false};
use crate::address::{IfName, Mac};

/// How packets between a LAN and the world are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Private; out with the source rewritten, in by forwards alone.
    Nat,
    /// The outer LAN itself.
    Bridged,
    /// No rewriting.
    Routed,
    /// No way out or in.
    Isolated,
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Bridged => "bridged",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }
}

/// A LAN: a bridge, the host's addresses on it, and its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// The bridge's name.
    pub bridge: IfName,
    /// How it meets the world.
    pub mode: Mode,
    /// The bridge's own hardware address: pinned, since a bridge else takes on its lowest port's (lxc#604).
    pub mac: Mac,
    /// MTU in bytes of the bridge, its taps and guests.
    pub mtu: u32,
    /// The host's own addresses on it, with the LAN's prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Persistent tap devices plugged in.
    pub taps: Vec<Tap>,
    /// DNS zone and search domain.
    pub domain: String,
    /// Resolvers for names outside the zone.
    pub dns: Vec<IpAddr>,
    /// What stations that the file gives no address get one from, by DHCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<LeaseRange>,
    /// The source that IPv4 leaves with.
    pub snat4: Snat,
    /// The source that private (ULA) IPv6 leaves with; global addresses leave as they are, but with `nat66`.
    pub snat6: Snat,
    /// Whether global IPv6 addresses leave rewritten too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nat66: bool,
    /// Whether its guests reach the world only where an [`Allow`] says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub egress_denied: bool,
    /// Whether the world reaches what of it leaves unrewritten (global IPv6, and all of a routed LAN) without an
    /// [`Allow`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub ingress_allowed: bool,
    /// bridged: what of the outer network stands on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// Whether its guests reach one another only where an [`Allow`] says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub port_isolation: bool,
    /// For which of its guests' addresses the host answers on the uplink.
    #[serde(default, skip_serializing_if = "Answers::is_none")]
    pub answers: Answers,
}

/// The outer network that a bridged LAN is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// Whether the bridge is another's: guests are plugged in, and nothing of it is touched.
    #[serde(default, skip_serializing_if = "is_false")]
    pub external: bool,
    /// The interfaces to be plugged in, as far as they are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<IfName>,
    /// The one of them whose addresses, routes and hardware address the bridge bears in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carries: Option<IfName>,
    /// Whether others' rules that name that one get their like for the bridge.
    #[serde(default, skip_serializing_if = "is_false")]
    pub twins: bool,
    /// What of that one's manager is rewritten for the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<crate::manager::Takeover>,
    /// Its prefixes, as far as this host knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<IpNet>,
    /// This host's own addresses on it, as they were when the file was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<IpAddr>,
    /// Its routers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<IpAddr>,
    /// Whether the carried interface forwarded before: IPv4, IPv6.
    #[serde(default)]
    pub forwarded: (bool, bool),
}

/// Whether the host answers on the uplink, by ARP and neighbour discovery, for the addresses of a LAN's guests: where
/// the world takes them for its own segment's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// By ARP.
    pub v4: bool,
    /// By neighbour discovery.
    pub v6: bool,
}

impl Answers {
    /// Whether it does for none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.v4 && !self.v6
    }

    /// Whether it does for addresses of that one's family.
    #[must_use]
    pub fn holds(self, like: IpAddr) -> bool {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Addresses to lease, from the first to the last, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRange {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest.
    pub last: Ipv4Addr,
}

impl LeaseRange {
    /// Whether it holds the address.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// How many addresses it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(u32::from(self.last)) - u64::from(u32::from(self.first)) + 1
    }
}

/// The source address that a LAN leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snat {
    /// Nothing is rewritten.
    Keep,
    /// The uplink's own address at the moment.
    Masquerade,
    /// This one.
    To(IpAddr),
}

/// A persistent tap device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Its name.
    pub name: IfName,
    /// User id that may open it, by number or name as written; root where unset.
    pub owner: Option<String>,
    /// Group that may open it.
    pub group: Option<String>,
}

impl Lan {
    /// The host's first IPv4 address on it: the guests' gateway.
    #[must_use]
    pub fn gateway4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|net| match net.addr() {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        })
    }

    /// The host's first IPv6 address on it.
    #[must_use]
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|net| match net.addr() {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
    }

    /// The gateway of `address`'s family.
    #[must_use]
    pub fn gateway_for(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => self.gateway4().map(IpAddr::V4),
            IpAddr::V6(_) => self.gateway6().map(IpAddr::V6),
        }
    }

    /// The prefix length that `address` has on this LAN.
    #[must_use]
    pub fn prefix_of(&self, address: IpAddr) -> Option<u8> {
        let outer = self.outer.iter().flat_map(|outer| &outer.nets);
        self.addresses.iter().chain(outer).find(|net| net.contains(&address)).map(IpNet::prefix_len)
    }

    /// The host's own addresses on it, with their prefix lengths.
    #[must_use]
    pub fn held(&self) -> Vec<IpNet> {
        let outer = self.outer.iter().flat_map(|outer| {
            let net_of = |address: &IpAddr| {
                let net = outer.nets.iter().find(|net| net.contains(address));
                net.and_then(|net| IpNet::new(*address, net.prefix_len()).ok())
            };
            outer.held.iter().filter_map(net_of)
        });
        let mut held = self.addresses.clone();
        held.extend(outer.filter(|net| !self.addresses.contains(net)));
        held
    }

    /// The host's first address on it of `like`'s family.
    #[must_use]
    pub fn host_for(&self, like: IpAddr) -> Option<IpAddr> {
        self.held().iter().map(IpNet::addr).find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// The router that a guest with that address leaves by: the host, or on a bridged LAN the outer network's.
    #[must_use]
    pub fn router_for(&self, address: IpAddr) -> Option<IpAddr> {
        match &self.outer {
            Some(outer) => {
                let of_family = |router: &&IpAddr| router.is_ipv4() == address.is_ipv4();
                let near = outer.routers.iter().find(|router| self.shares_prefix(**router, address));
                near.or_else(|| outer.routers.iter().find(of_family)).copied()
            }
            None => self.gateway_for(address),
        }
    }

    /// Whether the bridge is another's.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.outer.as_ref().is_some_and(|outer| outer.external)
    }

    /// The interface whose place the bridge takes.
    #[must_use]
    pub fn carries(&self) -> Option<&IfName> {
        self.outer.as_ref().and_then(|outer| outer.carries.as_ref())
    }

    /// Whether the world stands on it: a bridged LAN's guests are the outer network's business.
    #[must_use]
    pub fn is_bridged(&self) -> bool {
        self.mode == Mode::Bridged
    }

    /// Whether this host routes between it and the world.
    #[must_use]
    pub fn meets_world(&self) -> bool {
        matches!(self.mode, Mode::Nat | Mode::Routed)
    }

    /// Whether the world may in principle send to that address of the LAN's: one that leaves as it is.
    #[must_use]
    pub fn is_open(&self, address: IpAddr) -> bool {
        self.meets_world() && self.snat_for(address) == Snat::Keep
    }

    /// A guest's address as it is set there: with the LAN's prefix length, or alone.
    #[must_use]
    pub fn net_of(&self, address: IpAddr) -> IpNet {
        let length = self.prefix_of(address);
        length.and_then(|length| IpNet::new(address, length).ok()).unwrap_or_else(|| IpNet::from(address))
    }

    /// Whether both addresses are of one of its prefixes.
    #[must_use]
    pub fn shares_prefix(&self, a: IpAddr, b: IpAddr) -> bool {
        let outer = self.outer.iter().flat_map(|outer| &outer.nets);
        self.addresses.iter().chain(outer).any(|net| net.contains(&a) && net.contains(&b))
    }

    /// What a guest of the LAN's may be: its own addresses, and of IPv6 those that it makes itself of its hardware
    /// address, but its link-local one. Others (temporary ones, and those of hosts that draw them) cannot be told from
    /// another's.
    pub fn addresses_of<'a>(&'a self, guest: &'a Guest) -> impl Iterator<Item = IpAddr> + 'a {
        let outer = self.outer.iter().flat_map(|outer| &outer.nets);
        let made = self.addresses.iter().chain(outer).filter_map(|net| match net {
            IpNet::V6(net) if net.prefix_len() == 64 => Some(IpAddr::V6(guest.mac.address_in(net.network()))),
            _ => None,
        });
        guest.addresses.iter().copied().chain(made)
    }

    /// Whether a port of its is isolated in the bridge. Under br_netfilter the kernel hands on what it rewrote to a
    /// neighbour from port to port, and not by the host (br_nf_pre_routing_finish of
    /// net/bridge/br_netfilter_hooks.c): a guest that is reached at the public address (`hairpin`) needs a port that
    /// others' frames may go to, and the rules of the bridge family alone keep its neighbours apart from it.
    #[must_use]
    pub fn isolates(&self, hairpin: bool) -> bool {
        self.port_isolation && !hairpin
    }

    /// The source rewriting for addresses of `address`'s family.
    #[must_use]
    pub fn snat_for(&self, address: IpAddr) -> Snat {
        match address {
            IpAddr::V4(_) => self.snat4,
            IpAddr::V6(a) => {
                if self.mode == Mode::Nat && (is_ula(a) || self.nat66) {
                    self.snat6
                } else {
                    Snat::Keep
                }
            }
        }
    }
}

/// Whether an IPv6 address is a unique local one (fc00::/7, RFC 4193).
#[must_use]
pub fn is_ula(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0xfc
}
