//! What a guest is: a container, a machine, a namespace, or a place kept for one.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::is_false;
use crate::address::{IfName, Mac};

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
