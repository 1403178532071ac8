//! A ruleset evaluated on a packet: netfilter's walk over our [`Table`]s as a pure function, so that thousands of
//! random networks can be held to docs/traffic.md in seconds and without a kernel.
//!
//! What is modelled, and no more: the hooks in the order that a frame meets them (bridge, then inet, with and
//! without br_netfilter), base chains by priority, jump, goto and return, conntrack's states, destination and
//! source rewriting of new flows and of known ones, and the routing decision ([`Place`]). What is not: other tables
//! than the given ones, fragments, rp_filter, and counters.
//!
//! Where the kernel would refuse the ruleset (a missing set, a type that does not fit, `fib … iif` on a hook that
//! has none), the answer is a [`Fault`]: such a ruleset is broken whatever the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Family, HookPoint, Table};
use crate::address::{IfName, Mac, Transport};

mod chain;
mod place;
mod walk;

#[cfg(test)]
mod tests;

pub use place::{Interface, Place};

/// A frame or packet, and what conntrack knows of its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// The hardware address that it was sent from; of no interest where the host itself sends it.
    pub ether_source: Mac,
    /// The hardware address that it was sent to: a bridge gives what is for its own address to the host.
    pub ether_destination: Mac,
    /// What is in it.
    pub body: Body,
    /// What conntrack knows.
    pub flow: Flow,
}

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A socket of the host's.
    Host,
    /// The wire of an interface that is in no bridge.
    Interface(IfName),
    /// The wire of a bridge's port.
    Port(IfName),
}

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// IPv4 or IPv6; both addresses are of one family.
    Ip {
        /// From.
        source: IpAddr,
        /// To.
        destination: IpAddr,
        /// What it carries.
        payload: Payload,
    },
    /// A request or an answer of ARP's.
    Arp {
        /// The hardware address that it claims.
        sender_mac: Mac,
        /// The address that it claims.
        sender: Ipv4Addr,
    },
    /// A frame of another ether type.
    Other(u16),
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP or UDP. Of TCP's segments a new flow's is a SYN, and another's is not.
    Ports {
        /// Which of the two.
        transport: Transport,
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6: its type.
    Icmp(u8),
    /// ICMPv6's neighbour discovery.
    Neighbour {
        /// Whether it says who has an address (136), and not asks (135).
        advertises: bool,
        /// The address that it is about.
        target: Ipv6Addr,
    },
    /// Another protocol, by its number.
    Other(u8),
}

/// What conntrack knows of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The state.
    pub state: CtState,
    /// Whether the flow's destination was rewritten when it was new (IPS_DST_NAT).
    pub dnat: bool,
    /// Of a known flow: the destination (and port) that conntrack puts in before routing.
    pub destination: Option<(IpAddr, Option<u16>)>,
    /// Of a known flow: the source (and port) that conntrack puts in after routing.
    pub source: Option<(IpAddr, Option<u16>)>,
}

/// Conntrack's state of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtState {
    /// The first of its flow.
    New,
    /// Of a flow that was seen both ways.
    Established,
    /// An ICMP error about a known flow.
    Related,
    /// Nothing that conntrack understands.
    Invalid,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Where it ended.
    pub outcome: Outcome,
    /// The packet as it is there: addresses and ports rewritten.
    pub body: Body,
    /// Whether the destination was rewritten by a rule.
    pub dnat: bool,
    /// Whether a bridge gave it to every port besides (a group address).
    pub flooded: bool,
}

/// Where a packet ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At the host's sockets.
    Host,
    /// Out by that interface, routed.
    Sent(IfName),
    /// Within that bridge, from port to port.
    Bridged(IfName),
    /// Dropped.
    Dropped {
        /// The table's family.
        family: Family,
        /// The chain.
        chain: String,
        /// The comment of the rule.
        rule: String,
    },
    /// The host knows no way to its destination.
    NoRoute,
}

/// Why a ruleset cannot be: the kernel would refuse it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A rule names a set or map that is not in its table.
    #[error("chain {chain}: there is no set {set}")]
    NoSet {
        /// The chain.
        chain: String,
        /// The missing set.
        set: String,
    },
    /// A rule names a chain that is not in its table, or one that is a base chain.
    #[error("chain {chain}: there is no chain {target} to go to")]
    NoChain {
        /// The chain.
        chain: String,
        /// The missing chain.
        target: String,
    },
    /// Chains that jump in a circle, or deeper than the kernel's 16 (NFT_JUMP_STACK_SIZE).
    #[error("chain {0}: jumps too deep")]
    TooDeep(String),
    /// A field is compared with something of another size or type.
    #[error("chain {chain}: {what} does not fit")]
    Type {
        /// The chain.
        chain: String,
        /// What it is about.
        what: String,
    },
    /// A statement stands where the kernel does not have it.
    #[error("chain {chain}: {what} cannot stand at {at:?}")]
    Misplaced {
        /// The chain.
        chain: String,
        /// The statement.
        what: &'static str,
        /// The hook.
        at: HookPoint,
    },
    /// Two elements of a map hold one key.
    #[error("map {map} has two values for one key")]
    Ambiguous {
        /// The map.
        map: String,
    },
    /// The packet comes in by an interface that the place does not have.
    #[error("there is no interface {0}")]
    NoInterface(IfName),
}

/// What becomes of `packet` at `place` under `tables` alone.
pub fn evaluate(tables: &[Table], place: &Place, packet: &Packet) -> Result<Fate, Fault> {
    walk::Walk::new(tables, place, packet).run()
}

impl Flow {
    /// Of a flow's first packet.
    pub const NEW: Self = Self { state: CtState::New, dnat: false, destination: None, source: None };
    /// Of a flow that was seen both ways and is not rewritten.
    pub const ESTABLISHED: Self = Self { state: CtState::Established, dnat: false, destination: None, source: None };
}

impl Body {
    /// The IP source.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Ip { source, .. } => Some(*source),
            Self::Arp { .. } | Self::Other(_) => None,
        }
    }

    /// The IP destination.
    #[must_use]
    pub fn destination(&self) -> Option<IpAddr> {
        match self {
            Self::Ip { destination, .. } => Some(*destination),
            Self::Arp { .. } | Self::Other(_) => None,
        }
    }

    /// The source port.
    #[must_use]
    pub fn source_port(&self) -> Option<u16> {
        match self {
            Self::Ip { payload: Payload::Ports { source, .. }, .. } => Some(*source),
            _ => None,
        }
    }

    /// The destination port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip { payload: Payload::Ports { destination, .. }, .. } => Some(*destination),
            _ => None,
        }
    }

    /// The ether type of the frame.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        match self {
            Self::Ip { source: IpAddr::V4(_), .. } => 0x0800,
            Self::Ip { source: IpAddr::V6(_), .. } => 0x86dd,
            Self::Arp { .. } => 0x0806,
            Self::Other(kind) => *kind,
        }
    }

    /// Puts another destination in, and another port where there is one.
    fn set_destination(&mut self, (address, new_port): (IpAddr, Option<u16>)) {
        if let Self::Ip { destination, payload, .. } = self {
            *destination = address;
            if let (Payload::Ports { destination: port, .. }, Some(new)) = (payload, new_port) {
                *port = new;
            }
        }
    }

    /// Puts another source in, and another port where there is one.
    fn set_source(&mut self, (address, new_port): (IpAddr, Option<u16>)) {
        if let Self::Ip { source, payload, .. } = self {
            *source = address;
            if let (Payload::Ports { source: port, .. }, Some(new)) = (payload, new_port) {
                *port = new;
            }
        }
    }
}

impl Fate {
    /// Whether a rule dropped it.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        matches!(self.outcome, Outcome::Dropped { .. })
    }

    /// The answer to the packet that had this fate, as it comes back from `origin`: of an established flow, whose
    /// rewritings conntrack turns round.
    #[must_use]
    pub fn reply(&self, asked: &Packet, origin: Origin, ether_source: Mac, ether_destination: Mac) -> Packet {
        let mut body = self.body;
        if let Body::Ip { source, destination, payload } = &mut body {
            std::mem::swap(source, destination);
            match payload {
                Payload::Ports { source, destination, .. } => std::mem::swap(source, destination),
                // Echo requests (8 and 128) have answers (0 and 129); other types are their own.
                Payload::Icmp(8) => *payload = Payload::Icmp(0),
                Payload::Icmp(128) => *payload = Payload::Icmp(129),
                Payload::Neighbour { advertises, .. } => *advertises = !*advertises,
                Payload::Icmp(_) | Payload::Other(_) => {}
            }
        }
        let back_to = asked.body.source().map(|address| (address, asked.body.source_port()));
        let back_from = asked.body.destination().map(|address| (address, asked.body.port()));
        Packet {
            origin,
            ether_source,
            ether_destination,
            body,
            flow: Flow { state: CtState::Established, dnat: self.dnat, destination: back_to, source: back_from },
        }
    }
}
