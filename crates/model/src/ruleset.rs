//! nf_tables rulesets as values. A [`Table`] has two renderings: nft's text ([`text`], for people, goldens and
//! `export`) and netlink (in the kernel crate); tests prove them equal by what `nft list` prints of either. It can
//! also be evaluated ([`evaluate`]), which is how random networks are held to docs/traffic.md.
//!
//! The language is the part of nft that warren needs and no more: no anonymous sets, no arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac};

mod build;
pub mod evaluate;
pub mod text;

pub use build::bridge::{RECEIVED, SENT, TRIES, Try};
pub use build::caps::REFUSED;
pub use build::counters::{BEGUN, DROPPED_FROM, DROPPED_TO, TAKEN};
pub use build::forwards::counted_by;
pub use build::{METADATA4, METADATA6, build};

/// What every table of ours bears as its comment: whoever has our name without it is not ours.
pub const MARK: &str = "warren: made by warren up, changes here are undone";

/// The name of our tables, one a family.
pub const TABLE: &str = "warren";

/// A table's family, as NFPROTO_* of linux/netfilter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 and IPv6 (NFPROTO_INET).
    Inet,
    /// Frames in a bridge (NFPROTO_BRIDGE).
    Bridge,
}

impl Family {
    /// nft's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// One table of ours, whole; its name is [`TABLE`], its comment [`MARK`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains in order of creation; a chain stands before those that jump to it.
    pub chains: Vec<Chain>,
}

/// A named set, or a map where `data` is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The types of the key; several are a concatenation.
    pub key: Vec<Type>,
    /// The types of the value of a map; empty for a set.
    pub data: Vec<Type>,
    /// Whether keys may be ranges (NFT_SET_INTERVAL).
    pub interval: bool,
    /// Whether each element counts the packets and bytes that found it; what it has counted is no part of the value.
    #[serde(default)]
    pub counted: bool,
    /// Whether an element is found only by flows beyond the [`Element::most`] that it takes (`ct count over`). What it
    /// holds at the moment is no part of the value.
    #[serde(default)]
    pub held: bool,
    /// What is in it.
    pub elements: BTreeSet<Element>,
}

/// A data type of nft's (src/datatype.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Type {
    /// `ipv4_addr`, 4 bytes
    Ipv4,
    /// `ipv6_addr`, 16 bytes
    Ipv6,
    /// `ether_addr`, 6 bytes
    Ether,
    /// `ifname`, 16 bytes, zero padded
    IfName,
    /// `inet_proto`, 1 byte
    Proto,
    /// `inet_service`, 2 bytes, network order
    Port,
    /// What a neighbour solicitation or advertisement is about, 16 bytes. nft 1.0.6 has no name for the field, so it
    /// is to it the plain number `@th,64,128`.
    NdTarget,
}

/// A value of one of the [`Type`]s.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// Of [`Type::Ipv4`]
    Ipv4(Ipv4Addr),
    /// Of [`Type::Ipv6`]
    Ipv6(Ipv6Addr),
    /// Of [`Type::Ether`]
    Ether(Mac),
    /// Of [`Type::IfName`]
    IfName(IfName),
    /// Of [`Type::Proto`]: an IANA protocol number
    Proto(u8),
    /// Of [`Type::Port`]
    Port(u16),
    /// Of [`Type::NdTarget`]
    NdTarget(Ipv6Addr),
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::Ipv4(a),
            IpAddr::V6(a) => Self::Ipv6(a),
        }
    }
}

impl Value {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> Type {
        match self {
            Self::Ipv4(_) => Type::Ipv4,
            Self::Ipv6(_) => Type::Ipv6,
            Self::Ether(_) => Type::Ether,
            Self::IfName(_) => Type::IfName,
            Self::Proto(_) => Type::Proto,
            Self::Port(_) => Type::Port,
            Self::NdTarget(_) => Type::NdTarget,
        }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Element {
    /// Its key, a part for each of the set's types.
    pub key: Vec<KeyPart>,
    /// Its value, for a map.
    pub data: Vec<Value>,
    /// How many flows at once it takes, in a set that is `held`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
}

/// One part of an element's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyPart {
    /// Exactly this.
    One(Value),
    /// From the first to the last, both included; only in interval sets. A prefix is a range.
    Range(Value, Value),
}

/// A chain; a base chain where it has a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel calls it; the policy is always accept: a drop of ours is always a rule, and counted.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Which hook.
    pub at: HookPoint,
    /// The chain's type.
    pub kind: ChainKind,
    /// Lower comes first.
    pub priority: i32,
}

/// A netfilter hook, as NF_INET_* of linux/netfilter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPoint {
    /// Everything that comes in, before routing.
    Prerouting,
    /// For the host itself.
    Input,
    /// Through the host.
    Forward,
    /// From the host itself.
    Output,
    /// Everything that goes out, after routing.
    Postrouting,
}

/// A base chain's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainKind {
    /// `filter`
    Filter,
    /// `nat`: sees the first packet of a flow only
    Nat,
}

/// A rule: statements, done in order until one does not match or decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The statements.
    pub statements: Vec<Statement>,
    /// What it is for; kept in the kernel as the rule's comment (at most 127 bytes).
    pub comment: String,
}

/// A statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// Goes on if the field compares.
    Match {
        /// What is looked at.
        field: Field,
        /// Goes on if it does NOT compare.
        not: bool,
        /// With what.
        with: Operand,
    },
    /// Goes on if the concatenated fields are (`not`: are not) in the named set.
    InSet {
        /// What is looked at, in the set's order of types.
        fields: Vec<Field>,
        /// Goes on if they are not in it.
        not: bool,
        /// The set's name.
        set: String,
    },
    /// Goes on if conntrack's state of the packet is one of these.
    CtState(CtStates),
    /// Goes on if the flow's destination was rewritten (IPS_DST_NAT): `ct status dnat`.
    CtDnat,
    /// Goes on if (`not`: if not) the destination is a local address, asked of the routing table. With `of_input`
    /// only the addresses of the interface that the packet came in by count.
    FibLocal {
        /// `fib daddr . iif type local` instead of `fib daddr type local`.
        of_input: bool,
        /// Goes on if it is NOT local.
        not: bool,
    },
    /// Counts packets and bytes.
    Counter,
    /// Rewrites the destination to what the map has for the fields (address, and with `port` the port behind it); goes
    /// on to the next rule where the map has nothing. `family` tells which packets it is for.
    DnatMap {
        /// IPv4 or IPv6.
        family: IpFamily,
        /// What is looked up.
        fields: Vec<Field>,
        /// The map's name: data is address . port, or the address alone.
        map: String,
        /// Whether the port is rewritten too.
        port: bool,
    },
    /// Rewrites the destination to this address; the port stays.
    Dnat(IpAddr),
    /// Rewrites the source to this address.
    Snat(IpAddr),
    /// Rewrites the source to the address of the interface that it leaves by. `family` tells which packets it is for.
    Masquerade(IpFamily),
    /// Matches TCP that begins a connection, either side's: `tcp flags syn / syn,rst`.
    Syn,
    /// Lowers a TCP SYN's maximum segment size to what the route carries: `tcp flags syn / syn,rst … rt mtu`.
    ClampMss,
    /// Decides.
    Verdict(Verdict),
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl IpFamily {
    /// The version of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// This chain lets it pass (others on the hook may yet drop it).
    Accept,
    /// Gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On to that chain, and back.
    Jump(String),
    /// On to that chain, and not back.
    Goto(String),
}

/// Something of a packet that can be looked at. Where nft needs a dependency (`meta nfproto`, `meta l4proto`),
/// the renderings add it, as nft itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Field {
    /// `iifname`
    IifName,
    /// `oifname`
    OifName,
    /// `meta nfproto` (inet only)
    NfProto,
    /// `meta l4proto`
    L4Proto,
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `th sport`
    ThSport,
    /// `th dport`
    ThDport,
    /// `icmp type`
    IcmpType,
    /// `icmpv6 type`
    Icmp6Type,
    /// `ether saddr`
    EtherSaddr,
    /// `ether daddr`
    EtherDaddr,
    /// `ether type`
    EtherType,
    /// `arp saddr ether`
    ArpSaddrEther,
    /// `arp saddr ip`
    ArpSaddrIp,
    /// `@th,64,128`: of neighbour discovery, what it is about. A match of `icmpv6 type` must stand before it.
    NdTarget,
    /// `ct original ip daddr`: where the flow's first packet was sent, before any rewriting.
    CtDaddr,
    /// `ct original ip6 daddr`
    CtDaddr6,
    /// `ct original proto-dst`: the port that it was sent to. A match of `meta l4proto` with one protocol must stand
    /// before it.
    CtDport,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// An address, a name, a port, a protocol.
    Value(Value),
    /// A network: address bits and prefix length.
    Prefix(ipnet::IpNet),
    /// A plain number: icmp type (1 byte), ether type (2 bytes), nfproto (1 byte).
    Number(u32),
    /// The group bit of a hardware address is set: `ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00`.
    GroupBit,
}

/// A set of conntrack states, as `ct state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CtStates {
    /// Of a flow that was seen both ways.
    pub established: bool,
    /// Begun by another flow, such as an ICMP error about it.
    pub related: bool,
    /// Of no flow that conntrack understands.
    pub invalid: bool,
    /// The first of a flow.
    pub new: bool,
}

impl Set {
    /// An empty set of that key.
    #[must_use]
    pub fn of(key: &[Type]) -> Self {
        Self {
            key: key.to_vec(),
            data: Vec::new(),
            interval: false,
            counted: false,
            held: false,
            elements: BTreeSet::new(),
        }
    }

    /// An empty map.
    #[must_use]
    pub fn map(key: &[Type], data: &[Type]) -> Self {
        Self {
            key: key.to_vec(),
            data: data.to_vec(),
            interval: false,
            counted: false,
            held: false,
            elements: BTreeSet::new(),
        }
    }

    /// What it is, without what is in it.
    #[must_use]
    pub fn declared(&self) -> Self {
        let Self { interval, counted, held, .. } = *self;
        Self { interval, counted, held, ..Self::map(&self.key, &self.data) }
    }
}

impl Element {
    /// An element of single values.
    #[must_use]
    pub fn of(key: impl IntoIterator<Item = Value>) -> Self {
        Self { key: key.into_iter().map(KeyPart::One).collect(), data: Vec::new(), most: None }
    }

    /// The same, taking so many flows at once.
    #[must_use]
    pub fn at_most(self, most: u32) -> Self {
        Self { most: Some(most), ..self }
    }

    /// The same, with a value.
    #[must_use]
    pub fn to(mut self, data: impl IntoIterator<Item = Value>) -> Self {
        self.data = data.into_iter().collect();
        self
    }
}

impl Table {
    /// The table with its sets emptied: what the kernel's rules are compared by. Two tables of one skeleton differ
    /// in elements alone.
    #[must_use]
    pub fn skeleton(&self) -> Self {
        let sets = self.sets.iter().map(|(name, set)| (name.clone(), set.declared())).collect();
        Self { family: self.family, sets, chains: self.chains.clone() }
    }

    /// Whether the two differ at most in elements.
    #[must_use]
    pub fn same_skeleton(&self, other: &Self) -> bool {
        self.family == other.family
            && self.chains == other.chains
            && self.sets.len() == other.sets.len()
            && self.sets.iter().zip(&other.sets).all(|((name, a), (other_name, b))| {
                let flags = (a.interval, a.counted, a.held) == (b.interval, b.counted, b.held);
                name == other_name && a.key == b.key && a.data == b.data && flags
            })
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ipv4(a) => a.fmt(f),
            Self::Ipv6(a) | Self::NdTarget(a) => a.fmt(f),
            Self::Ether(mac) => mac.fmt(f),
            Self::IfName(name) => name.fmt(f),
            Self::Proto(6) => f.write_str("tcp"),
            Self::Proto(17) => f.write_str("udp"),
            Self::Proto(number) => number.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

impl std::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(value) => value.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// As people read it: `tcp 22210 to 10.1.1.6 22`.
impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = |parts: Vec<String>| parts.join(" ");
        f.write_str(&words(self.key.iter().map(ToString::to_string).collect()))?;
        if !self.data.is_empty() {
            write!(f, " to {}", words(self.data.iter().map(ToString::to_string).collect()))?;
        }
        if let Some(most) = self.most {
            write!(f, ", at most {most} connections")?;
        }
        Ok(())
    }
}
