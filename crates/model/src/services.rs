//! What the LANs' own services are to say: names, leases, router advertisements; and the sites. A value that follows
//! from a network alone; the services hold it and nothing else of the file's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac};
use crate::network::{Guest, Lan, LeaseRange, Mode, Network, Public};
use crate::picture::Pictures;
use crate::sites::Sites;
use crate::web::Web;

/// The services of all LANs, in the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// A LAN each; bridged ones have an outer network's services and none of ours.
    pub lans: Vec<LanServices>,
    /// Whether the host itself resolves guests' names.
    pub hosts_resolver: bool,
    /// The page for a browser on this host.
    pub web: Option<Web>,
    /// What it shows, where there is one.
    pub pictures: Option<Pictures>,
    /// The web by name.
    pub sites: Sites,
    /// The developers' door.
    pub socks: Option<SocksService>,
}

/// The services of a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanServices {
    /// Its bridge.
    pub bridge: IfName,
    /// The bridge's hardware address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// The host's own addresses on it: where names are asked for, and the gateways.
    pub addresses: Vec<IpNet>,
    /// The zone, without a dot at its end.
    pub domain: String,
    /// Who is in the zone, the host itself left out.
    pub hosts: Vec<NamedHost>,
    /// Resolvers for all other names; nothing where the LAN has no way out: then there is no recursion.
    pub upstreams: Vec<IpAddr>,
    /// Whether names of the world are looked up at all.
    pub recursion: bool,
    /// What stations without an address of their own get one from.
    pub dhcp: Option<Dhcp>,
    /// What routers tell: none where the LAN has no IPv6.
    pub advertised: Option<Advertised>,
}

/// The developers' door (RFC 1928).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocksService {
    /// Where it listens, on loopback.
    pub listen: Vec<SocketAddr>,
    /// The bridges whose zones names are looked up in, one after the other.
    pub zones: Vec<IfName>,
    /// Who knows names of the world.
    pub resolvers: Vec<IpAddr>,
    /// Addresses that are the host's whether it holds them at the moment or not.
    pub own: Vec<IpAddr>,
    /// All LANs' subnets and what lies behind their guests: no name of the world's stands for one of these.
    pub inside: Vec<IpNet>,
    /// Those of them that may not be entered.
    pub closed: Vec<IpNet>,
}

/// A guest as the zone and the leases know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedHost {
    /// Its host name, a label.
    pub name: String,
    /// Further names in the zone.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: Mac,
}

/// What is leased on a LAN (RFC 2131).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// The host's first IPv4 address on the LAN: server and resolver, and the router where there is a way out.
    pub server: Ipv4Addr,
    /// The subnet of that address.
    pub subnet: Ipv4Net,
    /// Whether the server is a default router too: not on an isolated LAN.
    pub router: bool,
    /// Addresses for stations that the file does not know; none where only those get one that it knows.
    pub range: Option<LeaseRange>,
    /// Addresses that are somebody's already, and leased to nobody else.
    pub taken: BTreeSet<Ipv4Addr>,
    /// Routes besides the default one, to networks behind guests: network and router (RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// What router advertisements say (RFC 4861, RFC 8106).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// On-link prefixes; those of 64 bits are for addresses that stations make themselves (RFC 4862).
    pub prefixes: Vec<Ipv6Net>,
    /// Whether this host is a default router for them.
    pub router: bool,
    /// The resolver.
    pub resolver: Ipv6Addr,
}

impl Services {
    /// Of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let ours = network.lans.iter().filter(|lan| lan.mode != Mode::Bridged);
        Self {
            lans: ours.map(|lan| of_lan(network, lan)).collect(),
            hosts_resolver: network.hosts_resolver,
            web: network.web.clone(),
            pictures: network.web.as_ref().map(|_| Pictures::of(network)),
            sites: Sites::of(network),
            socks: socks(network),
        }
    }

    /// The LAN of a bridge.
    #[must_use]
    pub fn lan(&self, bridge: &IfName) -> Option<&LanServices> {
        self.lans.iter().find(|lan| &lan.bridge == bridge)
    }
}

impl LanServices {
    /// The host of a hardware address.
    #[must_use]
    pub fn host_of(&self, mac: Mac) -> Option<&NamedHost> {
        self.hosts.iter().find(|host| host.mac == mac)
    }
}

impl NamedHost {
    /// What it leases: its first IPv4 address within `subnet`.
    #[must_use]
    pub fn address4(&self, subnet: Ipv4Net) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(a) if subnet.contains(a) => Some(*a),
            _ => None,
        })
    }
}

fn of_lan(network: &Network, lan: &Lan) -> LanServices {
    let recursion = lan.mode != Mode::Isolated;
    LanServices {
        bridge: lan.bridge.clone(),
        mac: lan.mac,
        mtu: lan.mtu,
        addresses: lan.addresses.clone(),
        domain: lan.domain.clone(),
        hosts: network.guests_of(lan).map(host).collect(),
        upstreams: if recursion { lan.dns.clone() } else { Vec::new() },
        recursion,
        dhcp: dhcp(network, lan),
        advertised: advertised(lan),
    }
}

fn host(guest: &Guest) -> NamedHost {
    NamedHost {
        name: guest.name.clone(),
        aliases: guest.aliases.clone(),
        addresses: guest.addresses.clone(),
        mac: guest.mac,
    }
}

fn socks(network: &Network) -> Option<SocksService> {
    let socks = network.socks.as_ref()?;
    let may_enter = |lan: &Lan| socks.lans.as_ref().is_none_or(|lans| lans.contains(&lan.bridge));
    let nets = |lan: &Lan| {
        let outer = lan.outer.iter().flat_map(|outer| outer.nets.iter().copied());
        let guests = network
            .guests_of(lan)
            .flat_map(|guest| guest.addresses.iter().copied().map(IpNet::from).chain(guest.allowed.iter().copied()));
        lan.addresses.iter().copied().chain(outer).chain(guests).map(|net| net.trunc()).collect::<BTreeSet<_>>()
    };
    let listed = match &network.public {
        Public::Listed(addresses) => addresses.clone(),
        Public::Dynamic => Vec::new(),
    };
    let held = network.lans.iter().flat_map(Lan::held).map(|net| net.addr());
    let own: BTreeSet<IpAddr> = listed.into_iter().chain(held).collect();
    let inside = network.lans.iter().filter(|lan| lan.mode != Mode::Bridged).flat_map(nets);
    // Names of those that may not be entered are known, so that they are not asked of the world.
    let open = network.lans.iter().filter(|lan| may_enter(lan));
    let shut = network.lans.iter().filter(|lan| !may_enter(lan));
    Some(SocksService {
        listen: socks.listen.clone(),
        zones: open.chain(shut).filter(|lan| lan.mode != Mode::Bridged).map(|lan| lan.bridge.clone()).collect(),
        resolvers: socks.resolvers.clone(),
        own: own.into_iter().collect(),
        inside: inside.collect(),
        closed: network.lans.iter().filter(|lan| !may_enter(lan)).flat_map(nets).collect(),
    })
}

fn dhcp(network: &Network, lan: &Lan) -> Option<Dhcp> {
    let (server, subnet) = lan.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => Some((net.addr(), net.trunc())),
        IpNet::V6(_) => None,
    })?;
    let four = |address: &IpAddr| match address {
        IpAddr::V4(a) => Some(*a),
        IpAddr::V6(_) => None,
    };
    let held = lan.addresses.iter().map(IpNet::addr);
    let of_guests = network.guests_of(lan).flat_map(|guest| guest.addresses.iter().copied());
    let nested = network.nested(lan).filter_map(|(guest, net)| match net {
        IpNet::V4(net) => Some((net, guest.addresses.iter().find_map(four)?)),
        IpNet::V6(_) => None,
    });
    Some(Dhcp {
        server,
        subnet,
        router: lan.mode != Mode::Isolated,
        range: lan.dhcp,
        taken: held.chain(of_guests).filter_map(|address| four(&address)).collect(),
        routes: nested.collect(),
    })
}

fn advertised(lan: &Lan) -> Option<Advertised> {
    let resolver = lan.gateway6()?;
    let prefixes = lan.addresses.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some(net.trunc()),
        IpNet::V4(_) => None,
    });
    Some(Advertised { prefixes: prefixes.collect(), router: lan.mode != Mode::Isolated, resolver })
}
