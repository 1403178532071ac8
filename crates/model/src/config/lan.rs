//! `[lan.NAME]`

use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::grammar::{self, AddressRange};
use super::reader::{Bad, Section, flag, number, text, word};
use super::{List, Spanned};
use crate::address::IfName;
use crate::network::Mode;

/// `[lan.NAME]` as written.
#[derive(Clone, Debug)]
pub struct Lan {
    /// NAME as written; the place of the LAN as a whole.
    pub name: Spanned<String>,
    /// NAME as the bridge's name, where it can be one.
    pub bridge: Option<IfName>,
    /// How it meets the world.
    pub mode: Option<Spanned<Mode>>,
    /// The host's own addresses on it.
    pub address: Option<List<IpNet>>,
    /// bridged: the bridge is another's.
    pub external: Option<Spanned<bool>>,
    /// Physical interfaces plugged into the switch.
    pub ports: Option<List<IfName>>,
    /// Persistent tap devices.
    pub taps: Option<List<Tap>>,
    /// DNS zone and search domain.
    pub domain: Option<Spanned<String>>,
    /// Resolvers for names outside the zone.
    pub dns: Option<List<IpAddr>>,
    /// What guests without an address of their own get one from.
    pub dhcp: Option<Spanned<AddressRange>>,
    /// The public address that it leaves by.
    pub snat: Option<Spanned<IpAddr>>,
    /// Also global IPv6 leaves rewritten.
    pub nat66: Option<Spanned<bool>>,
    /// routed: the host answers ARP for the subnet on the uplink.
    pub proxy_arp: Option<Spanned<bool>>,
    /// What comes in from the world beside forwards and allows.
    pub ingress: Option<Spanned<Verdict>>,
    /// What goes out beside allows.
    pub egress: Option<Spanned<Verdict>>,
    /// Guests cannot reach one another.
    pub port_isolation: Option<Spanned<bool>>,
    /// MTU in bytes.
    pub mtu: Option<Spanned<u32>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

/// A persistent tap device as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Its name.
    pub name: Spanned<IfName>,
    /// User that may open it, name or number.
    pub owner: Option<Spanned<String>>,
    /// Group that may open it, name or number.
    pub group: Option<Spanned<String>>,
}

/// `allow` or `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// Only what is declared may.
    Deny,
}

impl Lan {
    /// Its mode, the default where none is written.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.as_ref().map_or(Mode::Nat, |mode| mode.value)
    }
}

pub(super) fn read(section: &mut Section<'_>, name: Spanned<String>) -> Lan {
    let bridge = read_bridge(section, &name);
    let mut lan = Lan {
        bridge,
        mode: section.one("mode", mode),
        address: section.list("address", grammar::host_cidr),
        external: section.one("external", flag),
        ports: section.list("ports", grammar::if_name),
        taps: read_taps(section),
        domain: section.one("domain", grammar::dns_name),
        dns: section.one_or_list("dns", grammar::single),
        dhcp: section.one("dhcp", grammar::address_range),
        snat: section.one("snat", grammar::station),
        nat66: section.one("nat66", flag),
        proxy_arp: section.one("proxy-arp", flag),
        ingress: section.one("ingress", verdict),
        egress: section.one("egress", verdict),
        port_isolation: section.one("port-isolation", flag),
        mtu: section.one("mtu", mtu),
        broken: false,
        name,
    };
    lan.broken = section.broken();
    lan
}

fn read_bridge(section: &mut Section<'_>, name: &Spanned<String>) -> Option<IfName> {
    // The kernel keeps net.ipv4.conf.all and .default for itself; an interface of that name could not be set up.
    let bridge = if matches!(name.value.as_str(), "all" | "default" | "lo") {
        Err(Bad::new(format!("\"{}\" is the kernel's own", name.value)).help("give the LAN another name: br1"))
    } else {
        super::grammar::interface(&name.value)
    };
    bridge.map_err(|bad| section.report(bad.at(name.span.clone()))).ok()
}

fn read_taps(section: &mut Section<'_>) -> Option<List<Tap>> {
    section
        .with("taps", |section, value| {
            let DeValue::Array(array) = value.get_ref() else {
                let bad = Bad::wrong_type(value.get_ref(), "a list");
                section.report(bad.help("put it in brackets: taps = [ … ]").at(value.span()));
                return None;
            };
            let taps = array.iter().filter_map(|element| read_tap(section, element));
            Some(taps.collect::<Vec<_>>())
        })
        .map(|list| Spanned::new(list.value, list.span))
}

fn read_tap<'t>(section: &mut Section<'t>, value: &'t toml::Spanned<DeValue<'t>>) -> Option<Spanned<Tap>> {
    let tap = match value.get_ref() {
        DeValue::Table(table) => section.inner("a tap", value.span(), table, |tap| {
            let name = tap.needed("name", grammar::if_name, "\"tap0\"");
            let owner = tap.one("owner", user);
            let group = tap.one("group", user);
            name.map(|name| Tap { name, owner, group })
        })?,
        other => match grammar::if_name(other) {
            Ok(name) => Tap { name: Spanned::new(name, value.span()), owner: None, group: None },
            Err(bad) => {
                section.report(bad.help("a tap is a name, or { name, owner, group }").at(value.span()));
                return None;
            }
        },
    };
    Some(Spanned::new(tap, value.span()))
}

/// A user or group, by name or number.
pub(super) fn user(value: &DeValue<'_>) -> Result<String, Bad> {
    match value {
        DeValue::Integer(_) => match number(value)? {
            id if id < u64::from(u32::MAX) => Ok(id.to_string()),
            _ => Err(Bad::new("this is no user or group id")),
        },
        _ => text(value),
    }
}

fn mode(value: &DeValue<'_>) -> Result<Mode, Bad> {
    let words = [Mode::Nat, Mode::Bridged, Mode::Routed, Mode::Isolated].map(|mode| (mode.word(), mode));
    word(value, &words)
}

fn verdict(value: &DeValue<'_>) -> Result<Verdict, Bad> {
    word(value, &[("allow", Verdict::Allow), ("deny", Verdict::Deny)])
}

/// IPv4 wants 68 bytes at least (RFC 791); the kernel takes 65535 at most (ETH_MAX_MTU).
fn mtu(value: &DeValue<'_>) -> Result<u32, Bad> {
    match u32::try_from(number(value)?) {
        Ok(mtu) if (68..=65535).contains(&mtu) => Ok(mtu),
        _ => Err(Bad::new("an MTU goes from 68 to 65535 bytes").help("1500 is what Ethernet has")),
    }
}
