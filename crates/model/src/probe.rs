//! What must flow and what must not, as packets to be sent: a [`Probe`] each. The lab crate sends them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Mac;

mod derive;
pub use derive::{View, derive};

/// A packet that is sent somewhere, and what must become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// A short steady name, such as `forward 22210/tcp from the world`.
    pub name: String,
    /// The row of docs/traffic.md that it stands for.
    pub row: String,
    /// Who sends it.
    pub from: Spot,
    /// What is sent.
    pub packet: Packet,
    /// What must be seen.
    pub expect: Expect,
}

/// Who sends or sees a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spot {
    /// The server itself.
    Host,
    /// A guest.
    Guest(String),
    /// A machine of the world's, beyond the uplink's router.
    World,
    /// A machine on the uplink's own segment.
    Neighbour,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Where to.
    pub to: IpAddr,
    /// What sort.
    pub kind: PacketKind,
}

/// A sort of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacketKind {
    /// A TCP SYN to that port.
    Tcp(u16),
    /// A UDP datagram to that port.
    Udp(u16),
    /// An ICMP or ICMPv6 echo request.
    Echo,
    /// An ARP request for the address: who answers holds it.
    ArpWhoHas,
    /// A frame that the sender writes by hand, past its own IP stack: what it says need not be true.
    Frame(Frame),
}

/// A frame as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The hardware address that it says it is from.
    pub ether_source: Mac,
    /// Whom it is handed to.
    pub ether_destination: Mac,
    /// What is in it.
    pub content: Content,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A UDP datagram.
    Datagram {
        /// The address that it says it is from.
        source: IpAddr,
        /// Its destination port.
        port: u16,
    },
    /// The same behind a tag of VLAN 0 (802.1Q), which whoever receives it takes off.
    Tagged {
        /// The address that it says it is from.
        source: IpAddr,
        /// Its destination port.
        port: u16,
    },
    /// An answer of ARP's or neighbour discovery's: the sender's hardware has this address.
    Claim {
        /// Which.
        address: IpAddr,
    },
    /// What a DHCP server sends to a client.
    Lease {
        /// The server's address.
        source: IpAddr,
    },
    /// A router advertisement.
    Route {
        /// The router's link-local address.
        source: std::net::Ipv6Addr,
    },
}

/// What must be seen of the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It arrives.
    Arrives {
        /// Where.
        at: Spot,
        /// With this destination address there, where it matters.
        address: Option<IpAddr>,
        /// At this port, where it has one.
        port: Option<u16>,
        /// With this source address, where it matters.
        source: Option<IpAddr>,
    },
    /// It is seen at none of these, and nothing answers from its destination.
    Blocked {
        /// Where it must not be seen.
        at: Vec<Spot>,
    },
    /// Exactly this hardware address answers (ARP); none where it is unset.
    AnsweredBy {
        /// Whose.
        mac: Option<Mac>,
    },
}
