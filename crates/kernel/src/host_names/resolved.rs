//! systemd-resolved over D-Bus (org.freedesktop.resolve1(5)): a resolver for each link, and for which names it is
//! asked.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use model::address::IfName;
use model::services::LanServices;
use zbus::blocking::{Connection, Proxy};

use crate::bus;
use crate::error::{Context as _, Result};
use crate::listen::index;

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const INTERFACE: &str = "org.freedesktop.resolve1.Manager";
const NO_SUCH_LINK: &str = "org.freedesktop.resolve1.NoSuchLink";
/// Where it answers programs that ask by DNS (systemd-resolved.service(8)).
const STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];
/// A link that was just made it may have yet to hear of: how long it is given for that, and how often it is asked.
const HEARD: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(20);
/// So many zones of a subnet that ends within a label are named; beyond, its addresses have no names here.
const ZONES: u32 = 16;

/// One that serves this network namespace.
pub struct Resolved {
    manager: Proxy<'static>,
    /// Its name on the bus, which no other has.
    owner: String,
}

/// What it was told: the same is not told twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    owner: String,
    lans: Vec<(IfName, u32, Vec<IpAddr>, Vec<String>)>,
    /// Whether programs of this host ask it at all.
    pub is_asked: bool,
}

impl Told {
    /// What would be told of `lans`.
    pub fn of(resolved: &Resolved, lans: &[LanServices]) -> Result<Self> {
        let one = |lan: &LanServices| {
            let index = index(&lan.bridge).context("find", lan.bridge.as_str())?;
            Ok((lan.bridge.clone(), index, lan.addresses.iter().map(IpNet::addr).collect(), zones(lan)))
        };
        let lans = lans.iter().map(one).collect::<Result<_>>()?;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let is_asked = asks(&read("/etc/nsswitch.conf"), &read("/etc/resolv.conf"));
        Ok(Self { owner: resolved.owner.clone(), lans, is_asked })
    }

    /// Of which bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &IfName> {
        self.lans.iter().map(|(bridge, ..)| bridge)
    }
}

impl Resolved {
    /// None where none runs; it is never started by being asked.
    pub fn find() -> Result<Option<Self>> {
        let Ok(bus) = bus::system() else { return Ok(None) };
        let find = |bus: &Connection| -> zbus::Result<Option<Self>> {
            let Some(owner) = bus::owner(bus, SERVICE)? else { return Ok(None) };
            Ok(Some(Self { manager: Proxy::new(bus, SERVICE, PATH, INTERFACE)?, owner }))
        };
        find(&bus).map_err(io::Error::other).context("ask for", "systemd-resolved")
    }

    /// For the LAN's names, and its addresses', we are asked, and for nothing else. Our zone has no signatures. Names
    /// that stations of the LAN would answer for themselves (LLMNR, mDNS) are not asked for there: any of them could
    /// take any name.
    pub fn tell(&self, lan: &LanServices) -> Result<()> {
        let index = index(&lan.bridge).context("find", lan.bridge.as_str())?.cast_signed();
        let servers: Vec<(i32, Vec<u8>)> = lan.addresses.iter().map(|net| server(net.addr())).collect();
        let domains: Vec<(String, bool)> = zones(lan).into_iter().map(|zone| (zone, true)).collect();
        for method in ["SetLinkLLMNR", "SetLinkMulticastDNS", "SetLinkDNSSEC", "SetLinkDNSOverTLS"] {
            self.call(method, &lan.bridge, &(index, "no"))?;
        }
        self.call("SetLinkDefaultRoute", &lan.bridge, &(index, false))?;
        self.call("SetLinkDomains", &lan.bridge, &(index, domains))?;
        self.call("SetLinkDNS", &lan.bridge, &(index, servers))
    }

    /// Of that bridge it knows nothing any more.
    pub fn revert(&self, bridge: &IfName) -> Result<()> {
        let index = index(bridge).context("find", bridge.as_str())?.cast_signed();
        self.call("RevertLink", bridge, &(index,))
    }

    fn call<B>(&self, method: &'static str, bridge: &IfName, body: &B) -> Result<()>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        let begun = Instant::now();
        loop {
            let answer: zbus::Result<()> = self.manager.call(method, body);
            match answer {
                // An old one, which does not do what would be switched off.
                Err(zbus::Error::MethodError(name, ..)) if name == "org.freedesktop.DBus.Error.UnknownMethod" => {
                    return Ok(());
                }
                Err(zbus::Error::MethodError(name, ..)) if name == NO_SUCH_LINK && begun.elapsed() < HEARD => {
                    std::thread::sleep(AGAIN);
                }
                other => {
                    let what = "have systemd-resolved ask us for the names of";
                    return other.map_err(io::Error::other).context(what, bridge.as_str());
                }
            }
        }
    }
}

/// Whether names go to it by nss-resolve(8), or by DNS.
fn asks(nsswitch: &str, resolv: &str) -> bool {
    let hosts = nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:")).unwrap_or_default();
    let by_stub = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver") && words.next().is_some_and(|server| STUBS.contains(&server))
    };
    hosts.split_whitespace().any(|word| word == "resolve") || resolv.lines().any(by_stub)
}

fn server(address: IpAddr) -> (i32, Vec<u8>) {
    match address {
        IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    }
}

/// The LAN's zone, and those of its addresses.
fn zones(lan: &LanServices) -> Vec<String> {
    std::iter::once(lan.domain.clone()).chain(lan.addresses.iter().flat_map(reverse_zones)).collect()
}

/// The zones of a subnet's addresses: several where it ends within a label.
fn reverse_zones(net: &IpNet) -> Vec<String> {
    let bits = if net.addr().is_ipv4() { 8 } else { 4 };
    let whole = net.prefix_len().next_multiple_of(bits).max(bits);
    let count = 1u32 << (whole - net.prefix_len());
    if count > ZONES || (net.addr().is_ipv4() && whole == 32 && net.prefix_len() < 32) {
        return Vec::new();
    }
    let Ok(subnets) = net.trunc().subnets(whole) else { return Vec::new() };
    let labels = usize::from(whole / bits);
    subnets
        .map(|net| match net.network() {
            IpAddr::V4(a) => {
                let labels: Vec<String> = a.octets()[..labels].iter().rev().map(u8::to_string).collect();
                format!("{}.in-addr.arpa", labels.join("."))
            }
            IpAddr::V6(a) => {
                let digits = a.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]).take(labels);
                let labels: Vec<String> = digits.map(|digit| format!("{digit:x}")).collect();
                format!("{}.ip6.arpa", labels.into_iter().rev().collect::<Vec<_>>().join("."))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{asks, reverse_zones};

    #[test]
    fn subnets_have_zones_where_they_are_few() {
        let zones = |net: &str| reverse_zones(&net.parse().unwrap()).join(" ");
        assert_eq!(zones("10.1.1.1/24"), "1.1.10.in-addr.arpa");
        assert_eq!(zones("10.1.1.1/16"), "1.10.in-addr.arpa");
        assert_eq!(zones("10.1.5.1/23"), "4.1.10.in-addr.arpa 5.1.10.in-addr.arpa");
        assert_eq!(zones("10.1.1.1/17"), "", "a hundred");
        assert_eq!(zones("10.1.1.1/29"), "", "an address each");
        assert_eq!(zones("10.1.1.1/32"), "1.1.1.10.in-addr.arpa");
        assert_eq!(zones("fd10:1:1::1/48"), "1.0.0.0.1.0.0.0.0.1.d.f.ip6.arpa");
        assert_eq!(zones("fd10:1:1::1/47").split(' ').count(), 2);
    }

    #[test]
    fn whether_programs_ask_it() {
        assert!(asks("passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n", ""));
        assert!(asks("hosts: files dns\n", "# stub\nnameserver 127.0.0.53\n"));
        assert!(!asks("hosts: files dns\n", "nameserver 192.0.2.1\n# nameserver 127.0.0.53\n"));
        assert!(!asks("", ""));
    }
}
