//! Where a ruleset is evaluated: interfaces, addresses and routes, as far as a packet's way depends on them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{IfName, Mac};
use crate::network::Network;

/// A host: its interfaces and where its default route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Every interface but `lo` and bridge ports.
    pub interfaces: Vec<Interface>,
    /// The interface of the default route, for both families.
    pub default: Option<IfName>,
    /// Whether bridged frames pass the inet hooks too (`net.bridge.bridge-nf-call-*`).
    pub br_netfilter: bool,
}

/// An interface of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// The host's addresses on it, with the prefixes that are reached by it.
    pub addresses: Vec<IpNet>,
    /// Networks that routes of their own lead to by it.
    pub behind: Vec<IpNet>,
    /// Its ports, where it is a bridge.
    pub ports: Vec<IfName>,
}

/// Where the routing table sends a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To the host's own sockets.
    Host,
    /// Out by that interface.
    Out(IfName),
    /// Nowhere.
    None,
}

impl Interface {
    /// Whether the address is the host's own on this interface.
    fn holds(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address) || IpAddr::V6(self.mac.link_local()) == address
    }
}

impl Place {
    /// The host on which `network` is up, its uplink holding `uplink` (addresses with their prefixes).
    #[must_use]
    pub fn of(network: &Network, uplink: &[IpNet]) -> Self {
        let mut interfaces: Vec<Interface> = Vec::new();
        let plays = network.lan(&network.uplink.name).is_some();
        if network.uplink.present && !plays {
            interfaces.push(Interface {
                name: network.uplink.name.clone(),
                mac: Mac::derived(&["uplink"]),
                addresses: uplink.to_vec(),
                behind: Vec::new(),
                ports: Vec::new(),
            });
        }
        for lan in &network.lans {
            let plugged = lan.outer.iter().flat_map(|outer| outer.ports.iter().cloned());
            let taps = lan.taps.iter().map(|tap| tap.name.clone()).chain(plugged);
            interfaces.push(Interface {
                name: lan.bridge.clone(),
                mac: lan.mac,
                addresses: lan.held(),
                behind: network.alone(lan).map(|(_, address)| address.into()).collect(),
                ports: network.guests_of(lan).map(|guest| guest.port.clone()).chain(taps).collect(),
            });
        }
        Self { interfaces, default: network.uplink.present.then(|| network.uplink.name.clone()), br_netfilter: false }
    }

    /// The interface of that name.
    #[must_use]
    pub fn interface(&self, name: &IfName) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| &interface.name == name)
    }

    /// The bridge that the port is plugged into.
    pub(super) fn bridge_of(&self, port: &IfName) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.ports.contains(port))
    }

    /// Whether the routing table calls the address local (`fib daddr type local`), or local to `on` alone.
    pub(super) fn is_local(&self, address: IpAddr, on: Option<&str>) -> bool {
        if address.is_loopback() {
            return on.is_none_or(|name| name == "lo");
        }
        self.interfaces.iter().filter(|i| on.is_none_or(|name| i.name.as_str() == name)).any(|i| i.holds(address))
    }

    /// Whether the address is one to all or to a group: the host takes it and does not route it on.
    fn is_group(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => {
                a.is_broadcast()
                    || a.is_multicast()
                    || self.interfaces.iter().flat_map(|i| &i.addresses).any(|net| match net {
                        // A /31 and a /32 have no broadcast address (RFC 3021).
                        IpNet::V4(net) => net.prefix_len() < 31 && net.broadcast() == a,
                        IpNet::V6(_) => false,
                    })
            }
            IpAddr::V6(a) => a.is_multicast(),
        }
    }

    /// The address that the kernel puts on what leaves by `oif` (masquerade): the first of the family.
    pub(super) fn address_on(&self, oif: &str, like: IpAddr) -> Option<IpAddr> {
        let interface = self.interfaces.iter().find(|i| i.name.as_str() == oif)?;
        interface.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// The routing decision: own addresses, then the longest of the LANs' prefixes, then the default route.
    pub(super) fn route(&self, destination: IpAddr) -> Route {
        if self.is_local(destination, None) || self.is_group(destination) {
            return Route::Host;
        }
        let link_local = matches!(destination, IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80);
        if link_local {
            // Of one link, and never routed (RFC 4291, 2.5.6).
            return Route::None;
        }
        let on_link = self
            .interfaces
            .iter()
            .flat_map(|i| i.addresses.iter().chain(&i.behind).map(move |net| (net, i)))
            .filter(|(net, _)| net.contains(&destination))
            .max_by_key(|(net, _)| net.prefix_len());
        match (on_link, &self.default) {
            (Some((_, interface)), _) => Route::Out(interface.name.clone()),
            (None, Some(default)) => Route::Out(default.clone()),
            (None, None) => Route::None,
        }
    }
}
