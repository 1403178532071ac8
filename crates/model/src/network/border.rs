//! What may pass between a LAN, the world and the host: forwards, the DMZ, allows, and what the host keeps.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{is_true, yes};
use crate::address::{IfName, Ports, Transport};

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
