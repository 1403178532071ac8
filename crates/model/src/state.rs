//! The objects in the kernel that are warren's: one type for what should be and for what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac};
use crate::foreign::Mend;
use crate::ruleset::{Family, Table};

mod desired;
mod taken;
pub use desired::{GUEST_INTERFACE, Ids, desired, nothing, without_rules};
pub use taken::{Hold, Side, TakenFile, TakenOver, leave_edited};

/// Everything of ours in a network namespace, and in the namespaces of guests that hang on it. No counters,
/// lifetimes or leases: two states are equal when nothing needs doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Network namespaces made for guests, by name.
    pub namespaces: BTreeSet<String>,
    /// Links in the server's own namespace. A veth's other end is told within it.
    pub links: BTreeMap<IfName, Link>,
    /// Interfaces of the host's that are plugged into bridges of ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<IfName, Port>,
    /// Addresses on our links and on their ends in guests.
    pub addresses: BTreeSet<Address>,
    /// Routes in guests' namespaces, and host routes by our links.
    pub routes: BTreeSet<Route>,
    /// Addresses for which we answer on a link, ours or another's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proxies: BTreeSet<Proxy>,
    /// Switches that we set, on our links and on others'.
    #[serde(with = "as_pairs")]
    pub sysctls: BTreeMap<Sysctl, String>,
    /// What waits at interfaces, by the interface's name: ports that others make too.
    #[serde(default)]
    pub shapers: BTreeMap<IfName, Shaper>,
    /// Our tables by family.
    pub tables: BTreeMap<Family, TableState>,
    /// What of ours stands in others' firewalls.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mends: BTreeSet<Mend>,
    /// Files of managers' that are rewritten, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// What is at work on interfaces whose place a bridge takes, by [`TakenOver::key`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<String, Hold>,
}

/// A link of ours. What is not written here (queue lengths, generated link-local addresses) is the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Its hardware address where we set it.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on (IFF_UP).
    pub up: bool,
    /// The bridge that it is plugged into.
    pub master: Option<IfName>,
    /// Whether frames may leave by the port that they came in by (IFLA_BRPORT_MODE): a guest that asks for itself
    /// at the public address needs it where br_netfilter is on.
    pub hairpin: bool,
    /// Whether it talks only to ports that are not isolated, and to the host (IFLA_BRPORT_ISOLATED).
    #[serde(default)]
    pub isolated: bool,
    /// Our mark (IFLA_IFALIAS), which also says what the link is for.
    pub alias: String,
}

/// What begins every mark on a link.
pub const ALIAS_PREFIX: &str = "warren: ";

/// What the mark of a bridge says that takes an interface's place, before the interface's name.
pub const ALIAS_IN_PLACE_OF: &str = "warren: bridged LAN in place of ";

/// The interface whose place the bridge with that mark takes.
#[must_use]
pub fn in_place_of(alias: &str) -> Option<IfName> {
    IfName::new(alias.strip_prefix(ALIAS_IN_PLACE_OF)?).ok()
}

/// An interface of the host's, plugged into a bridge of ours. What the bridge bears in its place (addresses, routes,
/// rules, neighbours) is nobody's record: whatever is on the bridge when it is pulled out goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The bridge.
    pub master: IfName,
    /// Whether the bridge bears all that the interface bore. False where that was begun and not finished, too.
    pub carries: bool,
    /// The bridge's addresses that did not come from the interface, and do not go there.
    pub own: Vec<IpNet>,
    /// What the interface was.
    pub was: PortWas,
}

/// What of an interface is changed by plugging it in, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortWas {
    /// Whether it was switched on.
    pub up: bool,
    /// How IPv6 made its link-local address (IN6_ADDR_GEN_MODE_* of linux/if_link.h), with IPv6.
    pub addr_gen: Option<u8>,
    /// Its addresses, when it was plugged in first.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

impl Default for PortWas {
    fn default() -> Self {
        Self { up: true, addr_gen: None, addresses: Vec::new() }
    }
}

/// The kinds of links that we make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// A bridge: no spanning tree, no forward delay.
    Bridge,
    /// A persistent tap device.
    Tap {
        /// Who may open it, by user id; nobody but a process with CAP_NET_ADMIN where unset.
        owner: Option<u32>,
        /// Which group may.
        group: Option<u32>,
    },
    /// A cable into a guest's namespace.
    Veth(Peer),
    /// An intermediate functional block: what comes in by a port waits in it.
    Ifb,
}

/// How much passes an interface at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaper {
    /// What leaves by it, in bits a second of IP packets.
    pub rate: Option<u64>,
    /// What comes in by it passes this device of ours first.
    pub through: Option<IfName>,
    /// Whether all of it is as we make it; only ever false of what was found.
    pub whole: bool,
}

/// The guest's end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The guest's namespace.
    pub namespace: String,
    /// Its name there.
    pub name: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
}

/// An interface: in the server's namespace, or in a guest's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The guest's namespace; none for the server's own.
    pub namespace: Option<String>,
    /// The interface.
    pub link: IfName,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Where.
    pub at: Place,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// By which interface.
    pub at: Place,
    /// Where to.
    pub to: IpNet,
    /// Through which router; on the link where there is none.
    pub via: Option<IpAddr>,
}

/// An address that is elsewhere, for which we answer on a link (ARP, neighbour discovery). It bears our number, so that
/// ours are told from others'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Proxy {
    /// On which link.
    pub link: IfName,
    /// For whom.
    pub address: IpAddr,
}

/// A switch below /proc/sys/net.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sysctl {
    /// `ipv4` or `ipv6`.
    pub family: IpFamilyWord,
    /// The interface, or `all` or `default`.
    pub scope: String,
    /// The last part, such as `forwarding`.
    pub key: String,
}

/// The key of how long the answer for another is held back at most, in hundredths of a second (arp(7)).
pub const PROXY_DELAY: &str = "proxy_delay";

/// The folder below /proc/sys/net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamilyWord {
    /// net.ipv4.conf
    Ipv4,
    /// net.ipv6.conf
    Ipv6,
}

/// A table as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableState {
    /// As we wrote it, with the elements that are in it now.
    Intact(Table),
    /// Ours by its mark, but its rules, chains or sets are not what we wrote. The dump is the kernel crate's own
    /// affair: with it the table can be put back as it was found.
    Disturbed(Dump),
}

/// The netlink messages that make a table again, in hexadecimal; opaque here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump(pub Vec<String>);

/// Prior values of what is changed but was not made by us: persisted before the first touch, put back by `down`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Switches on interfaces that are not ours.
    #[serde(with = "as_pairs")]
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Interfaces that we plugged in.
    #[serde(default)]
    pub ports: BTreeMap<IfName, PortWas>,
    /// What was taken over of interfaces' managers. It lies in a file of its own, which a boot does not end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<IfName, TakenOver>,
    /// Whether IPv4 forwarding was on for the whole host: where it was not and is by the time of `down`, somebody
    /// else has come to need it.
    pub global_forwarding: bool,
}

impl State {
    /// All but our tables, by far the largest part where there are many forwards.
    #[must_use]
    pub fn clone_without_tables(&self) -> Self {
        let Self { namespaces, links, ports, addresses, routes, proxies, sysctls, shapers, mends, .. } = self;
        let Self { tables: _, files, holds, .. } = self;
        Self {
            namespaces: namespaces.clone(),
            links: links.clone(),
            ports: ports.clone(),
            addresses: addresses.clone(),
            routes: routes.clone(),
            proxies: proxies.clone(),
            sysctls: sysctls.clone(),
            shapers: shapers.clone(),
            tables: BTreeMap::new(),
            mends: mends.clone(),
            files: files.clone(),
            holds: holds.clone(),
        }
    }
}

impl Place {
    /// An interface in the server's namespace.
    #[must_use]
    pub fn host(link: &IfName) -> Self {
        Self { namespace: None, link: link.clone() }
    }

    /// An interface in a guest's.
    #[must_use]
    pub fn guest(namespace: &str, link: &IfName) -> Self {
        Self { namespace: Some(namespace.to_owned()), link: link.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} in {namespace}", self.link),
            None => write!(f, "{}", self.link),
        }
    }
}

impl Sysctl {
    /// `net.FAMILY.conf.SCOPE.KEY`, or of the neighbour table's `net.FAMILY.neigh.SCOPE.KEY`.
    #[must_use]
    pub fn new(family: IpFamilyWord, scope: impl Into<String>, key: &str) -> Self {
        Self { family, scope: scope.into(), key: key.to_owned() }
    }

    /// Its file, relative to /proc/sys.
    #[must_use]
    pub fn path(&self) -> String {
        format!("net/{}/{}/{}/{}", self.family.word(), self.folder(), self.scope, self.key)
    }

    /// Switches of the neighbour table are in a folder of their own. Of its keys none is in both.
    fn folder(&self) -> &'static str {
        if self.key == PROXY_DELAY { "neigh" } else { "conf" }
    }
}

impl IpFamilyWord {
    /// `ipv4` or `ipv6`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.{}.{}.{}.{}", self.family.word(), self.folder(), self.scope, self.key)
    }
}

/// JSON has no maps with structured keys: such a map is written as a list of pairs.
mod as_pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter())
    }

    pub fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Tap { .. } => "tap",
            Self::Veth(_) => "cable",
            Self::Ifb => "queue",
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.master)?;
        if self.carries { f.write_str(", which takes its place: addresses, routes, rules, neighbours") } else { Ok(()) }
    }
}

impl fmt::Display for Shaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate.map(|bits| format!("at most {} leaves", Rate(bits)));
        let through = self.through.as_ref().map(|device| format!("what comes in waits in {device}"));
        let words: Vec<String> = [rate, through].into_iter().flatten().collect();
        f.write_str(&words.join(", "))?;
        if self.whole { Ok(()) } else { write!(f, "{}disturbed", if words.is_empty() { "" } else { ", " }) }
    }
}

/// Bits a second, as people write them.
pub struct Rate(pub u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000 == 0 => write!(f, "{}mbit", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}kbit", bits / 1_000),
            bits => write!(f, "{bits}bit"),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answer for {} on {}", self.address, self.link)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " by {}", self.at)
    }
}
