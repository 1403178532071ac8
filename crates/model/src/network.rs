//! What a configuration means on a host: every default filled in, every name resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac, Ports, Transport};
use crate::foreign::Mend;

mod resolve;
mod site;
mod unsupported;
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

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Host name, a DNS label.
    pub name: String,
    /// What it is.
    pub kind: GuestKind,
    /// The bridge of its LAN.
    pub lan: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// The host's end of its cable: what stands in `bridge link`. For `reserved` guests the name that it would have.
    pub port: IfName,
    /// Its addresses: those that the file fixes, or the one that it is leased.
    pub addresses: Vec<IpAddr>,
    /// Whether the file gives it no address: it asks for its lease, which is always the same.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leased: bool,
    /// Further names of it in its LAN's zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Further networks that it may use: virtual addresses of its LAN's, or networks that lie behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<IpNet>,
    /// The public address that it leaves by, in place of its LAN's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<IpAddr>,
    /// Its bandwidth, where it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Tracked connections that each of its addresses may hold at once.
    #[serde(default = "any_number")]
    pub max_connections: u32,
}

fn any_number() -> u32 {
    u32::MAX
}

impl Guest {
    /// Whether the address is one that it may use: as written, made of its hardware address, or of a network that it
    /// was allowed.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let made = |address: IpAddr| match address {
            IpAddr::V6(v6) => self.mac.link_local().segments()[4..] == v6.segments()[4..],
            IpAddr::V4(_) => false,
        };
        self.addresses.contains(&address) || made(address) || self.allowed.iter().any(|net| net.contains(&address))
    }
}

/// A guest's bandwidth, in bits a second of IP packets (what carries them on the cable is not counted).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Towards the guest.
    pub inward: Option<u64>,
    /// From the guest.
    pub outward: Option<Outward>,
}

/// What a guest may send. What comes in by a port cannot wait there, so it is led through a device of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outward {
    /// In bits a second.
    pub rate: u64,
    /// The intermediate functional block (ifb) that it waits in.
    pub through: IfName,
}

/// What a guest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// An LXC container.
    Lxc(Box<Container>),
    /// A virtual machine behind a tap.
    Vm {
        /// User that may open the tap.
        owner: Option<String>,
    },
    /// A network namespace with that name.
    Netns,
    /// Something that plugs itself in.
    Reserved,
}

/// What is an LXC container's alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What it is made from, where the file says: a container that is there already needs nothing.
    pub source: Option<Source>,
    /// Whether root in it is root here.
    pub privileged: bool,
    /// Public keys that are put in for root before the first boot.
    pub ssh_keys: Vec<String>,
    /// Further lines for its LXC configuration.
    pub config: Vec<String>,
    /// Whether it is started when the network comes up.
    pub autostart: bool,
}

impl Default for Container {
    fn default() -> Self {
        Self { source: None, privileged: false, ssh_keys: Vec::new(), config: Vec::new(), autostart: true }
    }
}

/// What a container's root file system is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An LXC template.
    Template {
        /// Its name, or the path of its script.
        name: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A copy of a folder, or what a tar archive holds; an absolute path.
    Rootfs(String),
}

/// One declared way in: one protocol, one run of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// The public address, or every one.
    pub address: Option<IpAddr>,
    /// Its protocol.
    pub transport: Transport,
    /// The public ports.
    pub ports: Ports,
    /// Where it goes: the guest's address, one for a family that the guest has.
    pub to: Vec<IpAddr>,
    /// The guest's first port.
    pub to_port: u16,
    /// The guest, where the address is one's.
    pub guest: Option<String>,
    /// The bridge behind which the address is.
    pub lan: IfName,
    /// Clients of the world's that may come; everyone where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
    /// Whether guests and the host reach it at the public address too.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub hairpin: bool,
}

/// What may pass where a border says no: from any of these to any of those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// Who begins.
    pub from: Side,
    /// With whom.
    pub to: Side,
    /// On which ports; all, and every protocol, where there are none.
    pub ports: Vec<(Transport, Ports)>,
}

/// One side of an [`Allow`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Addresses of guests and LANs.
    pub inside: Vec<IpNet>,
    /// Networks that the file names by their addresses, wherever they are.
    pub nets: Vec<IpNet>,
    /// The world: whatever is beyond the uplink.
    pub world: bool,
}

impl Allow {
    /// Whether it is about that protocol and port (0 where it has none).
    #[must_use]
    pub fn covers(&self, protocol: u8, port: u16) -> bool {
        let covers = |(transport, ports): &(Transport, Ports)| {
            transport.number() == protocol && (ports.first..=ports.last).contains(&port)
        };
        self.ports.is_empty() || self.ports.iter().any(covers)
    }
}

impl Side {
    /// Whether the address is one of a guest's or LAN's that it names.
    #[must_use]
    pub fn has_inside(&self, address: IpAddr) -> bool {
        self.inside.iter().any(|net| net.contains(&address))
    }

    /// Whether the address is in one of the networks that it names.
    #[must_use]
    pub fn has_net(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }
}

/// What is at a public address and nothing else takes goes to a guest: every protocol, every port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dmz {
    /// The public address, or every one.
    pub address: Option<IpAddr>,
    /// Where it goes: an address for each family.
    pub to: Vec<IpAddr>,
    /// The guest, where the address is one's.
    pub guest: Option<String>,
    /// The bridge behind which the address is.
    pub lan: IfName,
    /// Clients of the world's that may come; everyone where there are none.
    pub sources: Vec<IpNet>,
    /// Whether guests and the host reach it at the public address too.
    pub hairpin: bool,
}

/// A service of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kept {
    /// At that address, or at every one.
    pub address: Option<IpAddr>,
    /// Its protocol.
    pub transport: Transport,
    /// Its port.
    pub port: u16,
}

impl Forward {
    /// The guest's port that `port` leads to, where it is one of this forward's.
    #[must_use]
    pub fn to_port_of(&self, port: u16) -> Option<u16> {
        let inside = (self.ports.first..=self.ports.last).contains(&port);
        inside.then(|| self.to_port.wrapping_add(port.wrapping_sub(self.ports.first)))
    }

    /// Whether ports stay what they are on their way.
    #[must_use]
    pub fn keeps_ports(&self) -> bool {
        self.to_port == self.ports.first
    }

    /// Whether a client of the world's may come.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client))
    }
}

impl Dmz {
    /// Whether a client of the world's may come.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client))
    }
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
            Some(outer) => outer.routers.iter().copied().find(|router| router.is_ipv4() == address.is_ipv4()),
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
