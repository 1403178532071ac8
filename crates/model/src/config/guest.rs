//! `[guest.NAME]`

use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::grammar::{self, Bandwidth};
use super::lan::user;
use super::reader::{Bad, Section, any_text, count, flag, text, word};
use super::{List, Spanned};
use crate::address::{IfName, Mac};

/// What a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// An LXC container.
    Lxc,
    /// A virtual machine behind a tap.
    Vm,
    /// A network namespace.
    Netns,
    /// Something that plugs itself in.
    Reserved,
}

impl GuestKind {
    /// The word of the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Lxc => "lxc",
            Self::Vm => "vm",
            Self::Netns => "netns",
            Self::Reserved => "reserved",
        }
    }
}

/// Bandwidth as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Towards the guest.
    pub inward: Option<Spanned<Bandwidth>>,
    /// From the guest.
    pub outward: Option<Spanned<Bandwidth>>,
}

/// `[guest.NAME]` as written.
#[derive(Clone, Debug)]
pub struct Guest {
    /// NAME; the place of the guest as a whole.
    pub name: Spanned<String>,
    /// What it is.
    pub kind: Option<Spanned<GuestKind>>,
    /// Its LAN.
    pub lan: Option<Spanned<String>>,
    /// Its fixed addresses.
    pub address: Option<List<IpAddr>>,
    /// Further networks that it may use.
    pub allowed_addresses: Option<List<IpNet>>,
    /// Its hardware address.
    pub mac: Option<Spanned<Mac>>,
    /// Further DNS names in the zone.
    pub aliases: Option<List<String>>,
    /// The public address that it leaves by.
    pub snat: Option<Spanned<IpAddr>>,
    /// Its bandwidth.
    pub limit: Option<Spanned<Limit>>,
    /// Tracked connections that it may hold at once.
    pub max_connections: Option<Spanned<u64>>,
    /// Start it when the network comes up.
    pub autostart: Option<Spanned<bool>>,
    /// lxc: the template.
    pub template: Option<Spanned<String>>,
    /// lxc: the template's arguments.
    pub args: Option<List<String>>,
    /// lxc: a root file system to start from.
    pub rootfs: Option<Spanned<String>>,
    /// lxc: root in it is root here.
    pub privileged: Option<Spanned<bool>>,
    /// lxc: public keys put in for root.
    pub ssh_keys: Option<List<String>>,
    /// lxc: further lines for its configuration.
    pub config: Option<List<String>>,
    /// vm: the tap's name.
    pub tap: Option<Spanned<IfName>>,
    /// vm: who may open the tap, name or number.
    pub owner: Option<Spanned<String>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

impl Guest {
    /// What it is, the default where nothing is written.
    #[must_use]
    pub fn kind(&self) -> GuestKind {
        self.kind.as_ref().map_or(GuestKind::Lxc, |kind| kind.value)
    }
}

pub(super) fn read(section: &mut Section<'_>, name: Spanned<String>) -> Guest {
    if let Err(bad) = grammar::guest_name(&name.value) {
        section.report(bad.at(name.span.clone()));
    }
    let mut guest = Guest {
        kind: section.one("kind", kind),
        lan: section.one("lan", lan),
        address: section.list("address", grammar::station),
        allowed_addresses: section.list("allowed-addresses", grammar::cidr_or_address),
        mac: section.one("mac", grammar::mac),
        aliases: section.list("aliases", grammar::relative_name),
        snat: section.one("snat", grammar::station),
        limit: read_limit(section),
        max_connections: section.one("max-connections", count),
        autostart: section.one("autostart", flag),
        template: section.one("template", text),
        args: section.one_or_list("args", any_text),
        rootfs: section.one("rootfs", text),
        privileged: section.one("privileged", flag),
        ssh_keys: section.one_or_list("ssh-keys", text),
        config: section.one_or_list("config", any_text),
        tap: section.one("tap", grammar::if_name),
        owner: section.one("owner", user),
        broken: false,
        name,
    };
    guest.broken = section.broken();
    guest
}

fn kind(value: &DeValue<'_>) -> Result<GuestKind, Bad> {
    let kinds = [GuestKind::Lxc, GuestKind::Vm, GuestKind::Netns, GuestKind::Reserved];
    word(value, &kinds.map(|kind| (kind.word(), kind)))
}

fn lan(value: &DeValue<'_>) -> Result<String, Bad> {
    match value {
        DeValue::Array(_) => Err(Bad::reserved("a guest on several LANs").help("name one LAN, without brackets")),
        _ => text(value),
    }
}

fn read_limit(section: &mut Section<'_>) -> Option<Spanned<Limit>> {
    section.with("limit", |section, value| match value.get_ref() {
        DeValue::Table(table) => Some(section.inner("`limit`", value.span(), table, |limit| Limit {
            inward: limit.one("in", grammar::bandwidth),
            outward: limit.one("out", grammar::bandwidth),
        })),
        other => match grammar::bandwidth(other) {
            Ok(bandwidth) => {
                let both = Spanned::new(bandwidth, value.span());
                Some(Limit { inward: Some(both.clone()), outward: Some(both) })
            }
            Err(bad) => {
                section.report(bad.at(value.span()));
                None
            }
        },
    })
}
