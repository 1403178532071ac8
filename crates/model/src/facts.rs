//! What this host is, as far as the meaning of a configuration depends on it. Gathered by the kernel crate, made
//! up by `rehearse` and the tests.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac, Transport};
use crate::manager::Managed;

/// What is known of the host before anything of ours is on it. Objects that bear warren's mark are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The interface of the default route (lowest metric, IPv4 first), if there is one.
    pub default_uplink: Option<IfName>,
    /// Every interface in the namespace that is not warren's.
    pub interfaces: Vec<Interface>,
    /// Every unicast route of the main table that is not warren's and not a default route.
    pub routes: Vec<HostRoute>,
    /// The default routes' gateways: what `check` asks when guests go out.
    pub routers: Vec<IpAddr>,
    /// Sockets on which something listens (TCP) or is bound without a peer (UDP).
    pub listeners: Vec<Listener>,
    /// The ports that sshd is seen to listen on, and the server port of the SSH session that we run in.
    pub ssh_ports: Vec<u16>,
    /// The host's real upstream resolvers (no loopback stub among them).
    pub resolvers: Vec<IpAddr>,
    /// Contents of /etc/machine-id: the salt of derived hardware addresses on bridged LANs.
    pub machine_id: Option<String>,
    /// What the machine's firmware says that it is (DMI: vendor, product, BIOS and asset tag), for those that hosters
    /// mark so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
    /// How many connections the kernel tracks at once (net.netfilter.nf_conntrack_max), where it could be read.
    #[serde(default)]
    pub conntrack_max: Option<u32>,
    /// Whether the kernel has IPv6 at all.
    pub ipv6: bool,
    /// Whether the kernel can forward IPv6 for one interface alone
    /// (`net.ipv6.conf.IF.force_forwarding`, from 6.17 on); else only for the whole host.
    pub ipv6_force_forwarding: bool,
    /// Whether nothing but a name is known of all this ([`HostFacts::assumed`]), so that what is missing here says
    /// nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
}

/// An interface of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: IfName,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses with prefix lengths, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Whether it holds a route learnt from a router advertisement (RTPROT_RA).
    pub learnt_route: bool,
    /// `net.ipv6.conf.IF.accept_ra` as it stands, where the interface has IPv6.
    pub accept_ra: Option<i32>,
    /// What goes over it.
    #[serde(default)]
    pub medium: Medium,
    /// Whether it is a bridge.
    #[serde(default)]
    pub bridge: bool,
    /// What it is plugged into, or a part of, where that is not ours.
    #[serde(default)]
    pub master: Option<IfName>,
    /// Whether it forwards: IPv4, IPv6.
    #[serde(default)]
    pub forwards: (bool, bool),
    /// Who configures it.
    #[serde(default)]
    pub manager: Option<Managed>,
}

/// What goes over an interface, as far as a bridge could carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// Ethernet frames of anybody's.
    #[default]
    Ethernet,
    /// Ethernet frames, but of its own hardware address alone.
    Wireless,
    /// No Ethernet frames: PPP, tunnels, WireGuard.
    Other,
}

/// A route of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// Where to.
    pub to: IpNet,
    /// By which interface.
    pub interface: Option<IfName>,
}

/// A socket that waits for the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// TCP or UDP.
    pub transport: Transport,
    /// The address that it is bound to; unspecified for all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The process that holds it, as `name (pid N)`, where we may see it.
    pub owner: Option<String>,
}

impl Listener {
    /// Whether it is one of our own services: they follow the file.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.owner.as_deref().and_then(|owner| owner.split(" (pid").next()) == Some("warren")
    }
}

impl HostFacts {
    /// The interface of that name.
    #[must_use]
    pub fn interface(&self, name: &IfName) -> Option<&Interface> {
        self.interfaces.iter().find(|i| &i.name == name)
    }

    /// What of it the meaning of a file depends on that plugs none of the host's interfaces into a bridge, to be compared
    /// with another time's: without what `up` itself changes, which is whether interfaces forward and how well they
    /// learn routes, and without our own services.
    #[must_use]
    pub fn lasting(&self) -> Self {
        let mut facts = self.clone();
        for interface in &mut facts.interfaces {
            interface.forwards = (false, false);
            interface.accept_ra = interface.accept_ra.map(|value| i32::from(value > 0));
        }
        facts.listeners.retain(|listener| !listener.is_ours());
        facts
    }

    /// A host of which nothing but an uplink is known: what `validate` looks at a file with, since it must not
    /// depend on the machine that it runs on.
    #[must_use]
    pub fn assumed(uplink: IfName) -> Self {
        Self {
            default_uplink: Some(uplink.clone()),
            interfaces: vec![Interface {
                name: uplink,
                mac: None,
                mtu: 1500,
                addresses: Vec::new(),
                learnt_route: false,
                accept_ra: None,
                medium: Medium::Ethernet,
                bridge: false,
                master: None,
                forwards: (false, false),
                manager: None,
            }],
            ipv6: true,
            ipv6_force_forwarding: true,
            assumed: true,
            ..Self::default()
        }
    }
}
