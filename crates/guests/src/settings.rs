//! What a guest is told of its network: everything that is written into it or beside it follows from this value.

use std::net::IpAddr;

use ipnet::IpNet;
use model::address::{IfName, Mac};
use model::network::{Container, Guest, GuestKind, Lan, Mode, Network};
use serde::{Deserialize, Serialize};

/// A guest's network as it is written down, for LXC and for the guest's own tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its host name.
    pub name: String,
    /// The zone that it is in, which is its search domain.
    pub domain: String,
    /// The resolvers that it asks.
    pub dns: Vec<IpAddr>,
    /// Its addresses with the LAN's prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The host on the LAN, one for a family that the guest has an address of.
    pub gateways: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// The LAN's bridge.
    pub lan: IfName,
    /// The host's end of its cable.
    pub port: IfName,
    /// Whether frames may leave by the port that they came in by: it asks for itself at the public address.
    pub hairpin: bool,
    /// Whether its port talks to the host alone, and to ports that are not so (port-isolation).
    #[serde(default)]
    pub isolated: bool,
    /// Whether its bandwidth is limited: its port gets the limit whenever it is made.
    #[serde(default)]
    pub limited: bool,
}

impl Settings {
    /// Of an LXC guest of the network's, with what is a container's alone; nothing for other guests.
    #[must_use]
    pub fn of<'a>(network: &Network, guest: &'a Guest) -> Option<(Self, &'a Container)> {
        let GuestKind::Lxc(container) = &guest.kind else { return None };
        let lan = network.lan(&guest.lan)?;
        // A leased address is for the guest to ask for.
        let fixed = guest.addresses.iter().filter(|_| !guest.leased);
        let addresses: Vec<IpNet> = fixed.map(|address| lan.net_of(*address)).collect();
        let mut gateways: Vec<IpAddr> = Vec::new();
        for gateway in addresses.iter().filter_map(|net| lan.router_for(net.addr())) {
            if !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
        let dns = resolvers(lan, gateways.first().copied());
        let hairpin = network.hairpinned().any(|name| name == guest.name);
        let settings = Self {
            name: guest.name.clone(),
            domain: lan.domain.clone(),
            dns,
            addresses,
            gateways,
            mac: guest.mac,
            mtu: lan.mtu,
            lan: guest.lan.clone(),
            port: guest.port.clone(),
            hairpin,
            isolated: lan.isolates(hairpin),
            limited: guest.limit.is_some(),
        };
        Some((settings, container))
    }

    /// Name and zone.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.name, self.domain)
    }

    /// The gateway of an address's family.
    #[must_use]
    pub fn gateway_for(&self, address: IpAddr) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == address.is_ipv4())
    }

    /// Whether no address of its own says that the gateway is on the link, so that it must be told.
    #[must_use]
    pub fn must_be_told_of(&self, gateway: IpAddr) -> bool {
        !self.addresses.iter().any(|net| net.contains(&gateway))
    }

    /// The first address of each family, then the further ones: the first has the gateway beside it.
    #[must_use]
    pub fn first_of_family(&self, net: &IpNet) -> bool {
        self.addresses.iter().find(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) == Some(net)
    }
}

/// The gateway first, at which `serve` answers; then those that it asks itself, for the time when it does not run: its
/// port refuses then, and the next one is asked at once. On a bridged LAN nobody of ours answers, and from an isolated
/// one nobody else is reached.
fn resolvers(lan: &Lan, gateway: Option<IpAddr>) -> Vec<IpAddr> {
    let own = gateway.or_else(|| lan.addresses.first().map(IpNet::addr)).filter(|_| lan.mode != Mode::Bridged);
    let further = lan.dns.iter().copied().filter(|_| lan.mode != Mode::Isolated);
    own.into_iter().chain(further).collect()
}
