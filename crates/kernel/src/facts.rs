//! What this host is: gathers the values of [`model::facts`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use model::address::IfName;
use model::facts::{HostFacts, HostRoute, Interface, Listener, Medium};
use model::state::{ALIAS_PREFIX, IpFamilyWord, Sysctl, in_place_of};

use crate::error::Result;
use crate::processes::Clients;
use crate::rtnl::header::{ARPHRD_ETHER, RT_TABLE_MAIN, RTN_UNICAST, RTPROT_RA};
use crate::rtnl::{AddressInfo, GROUP, LinkInfo, PROTOCOL, RouteInfo, Rtnl};
use crate::session;
use crate::sockdiag::{self, Listening};
use crate::sysctl;
use crate::{carry, manager};

/// Gathers what is known of the host, in the calling thread's network namespace, and of the session that we run in.
/// What bears our mark is left out, as are routes and addresses on it. A fact that cannot be read because the host
/// lacks it (a machine id, a resolver) is empty; one that the kernel refuses to tell is an error.
pub fn gather() -> Result<HostFacts> {
    let mut rtnl = Rtnl::open()?;
    let mut links = rtnl.links()?;
    let played = played(&links);
    let lans: BTreeSet<u32> =
        links.iter().filter(|l| is_ours(l) && !played.contains_key(&l.index)).map(|l| l.index).collect();
    let outer: BTreeMap<u32, IfName> = links
        .iter()
        .filter(|l| !is_ours(l))
        .filter_map(|l| Some((l.index, IfName::new(l.name.as_str()).ok()?)))
        .collect();
    links.retain(|l| !is_ours(l));
    let names: BTreeMap<u32, IfName> =
        links.iter().filter_map(|l| Some((l.index, IfName::new(l.name.as_str()).ok()?))).collect();
    // What a bridge of ours bears in an interface's place is told as the interface's.
    let in_place = |index: u32| played.get(&index).copied().unwrap_or(index);
    let mut addresses = rtnl.addresses()?;
    let on_lans: BTreeSet<IpAddr> =
        addresses.iter().filter(|a| lans.contains(&a.index)).map(|a| a.net.addr()).collect();
    addresses.iter_mut().for_each(|address| address.index = in_place(address.index));
    let mut routes = rtnl.all_routes()?;
    routes.retain(|r| r.protocol != PROTOCOL);
    routes.iter_mut().for_each(|route| route.oif = route.oif.map(in_place));
    // A route without a link is nobody's in particular, so the host's.
    routes.retain(|r| r.kind == RTN_UNICAST && r.oif.is_none_or(|i| names.contains_key(&i)));
    let interfaces = interfaces(&links, &names, &addresses, &routes, &outer)?;
    routes.retain(|r| r.table == u32::from(RT_TABLE_MAIN));

    let (defaults, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(RouteInfo::is_default);
    let (default_uplink, routers) = ways_out(defaults, &names);
    with_listeners(HostFacts {
        default_uplink,
        interfaces,
        routes: others
            .into_iter()
            .map(|r| HostRoute { to: r.to, interface: r.oif.and_then(|i| names.get(&i).cloned()) })
            .collect(),
        routers,
        listeners: Vec::new(),
        ssh_ports: Vec::new(),
        resolvers: resolvers(|path| fs::read_to_string(path).ok(), &on_lans),
        machine_id: fs::read_to_string("/etc/machine-id").ok().and_then(|text| machine_id(&text)),
        firmware: firmware(),
        conntrack_max: conntrack_max(),
        ipv6: sysctl::exists(&Sysctl::new(IpFamilyWord::Ipv6, "default", "forwarding")),
        ipv6_force_forwarding: sysctl::exists(&Sysctl::new(IpFamilyWord::Ipv6, "default", "force_forwarding")),
        assumed: false,
    })
}

/// The same with who listens now.
pub(crate) fn with_listeners(facts: HostFacts) -> Result<HostFacts> {
    let waiting = sockdiag::listening()?;
    let owners = sockdiag::owners(&waiting.iter().map(|w| w.inode).collect());
    let session = session::current().map(|s| s.local_port);
    Ok(HostFacts { listeners: listeners(&waiting, &owners), ssh_ports: ssh_ports(&waiting, &owners, session), ..facts })
}

/// Bridges of ours that take an interface's place, each with that interface, by index.
fn played(links: &[LinkInfo]) -> BTreeMap<u32, u32> {
    let bridges =
        links.iter().filter(|l| is_ours(l)).filter_map(|l| Some((l.index, in_place_of(l.alias.as_deref()?)?)));
    bridges
        .filter_map(|(bridge, port)| {
            let port = links.iter().find(|l| l.name == port.as_str() && l.master == Some(bridge))?;
            Some((bridge, port.index))
        })
        .collect()
}

/// What firmware tells of itself to everybody (Documentation/ABI/testing/sysfs-firmware-dmi-tables has them all); nothing
/// where there is no DMI.
fn firmware() -> Vec<String> {
    let read = |entry: &str| fs::read_to_string(format!("/sys/class/dmi/id/{entry}")).ok();
    let all = ["sys_vendor", "product_name", "bios_vendor", "bios_version", "chassis_asset_tag"];
    let mut told: Vec<String> = Vec::new();
    for text in all.into_iter().filter_map(read) {
        let text = text.trim();
        if !text.is_empty() && !told.iter().any(|known| known == text) {
            told.push(text.to_owned());
        }
    }
    told
}

/// The file is there once the kernel tracks connections at all, which asking for them brings about.
fn conntrack_max() -> Option<u32> {
    let read = || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").ok()?.trim().parse().ok();
    // Whatever is answered: the file tells.
    read().or_else(|| crate::conntrack::available().map_or(None, |()| read()))
}

/// Whether a link is warren's: it bears our mark, or was made in our group by a process that was killed before it
/// could mark it.
#[must_use]
pub fn is_ours(link: &LinkInfo) -> bool {
    link.group == GROUP || link.alias.as_deref().is_some_and(|a| a.starts_with(ALIAS_PREFIX))
}

fn interfaces(
    links: &[LinkInfo],
    names: &BTreeMap<u32, IfName>,
    addresses: &[AddressInfo],
    routes: &[RouteInfo],
    outer: &BTreeMap<u32, IfName>,
) -> Result<Vec<Interface>> {
    let named = links.iter().filter_map(|l| Some((l, names.get(&l.index)?)));
    let running = Clients::default();
    named
        .map(|(link, name)| {
            let accept_ra = sysctl::read(&Sysctl::new(IpFamilyWord::Ipv6, name.as_str(), "accept_ra"))?;
            let own = addresses.iter().filter(|a| a.index == link.index && !a.is_link_local());
            Ok(Interface {
                name: name.clone(),
                // The loopback interface has one of six zeros, which is nobody's.
                mac: link.mac.filter(|m| m.0 != [0; 6]),
                mtu: link.mtu,
                addresses: own.map(|a| a.net).collect(),
                learnt_route: routes.iter().any(|r| r.protocol == RTPROT_RA && r.oif == Some(link.index)),
                accept_ra: accept_ra.and_then(|text| text.parse().ok()),
                medium: medium(link, name),
                bridge: link.kind.as_deref() == Some("bridge"),
                master: link.master.and_then(|master| outer.get(&master).cloned()),
                manager: {
                    let leased = addresses.iter().any(|a| a.index == link.index && is_leased(a));
                    manager::of(name, link.index, leased, &running)
                },
                forwards: (forwards(IpFamilyWord::Ipv4, name)?, forwards(IpFamilyWord::Ipv6, name)?),
            })
        })
        .collect()
}

/// Whether an IPv4 address has an end: a DHCP client's.
fn is_leased(address: &AddressInfo) -> bool {
    address.net.addr().is_ipv4() && !address.is_permanent()
}

fn medium(link: &LinkInfo, name: &IfName) -> Medium {
    if link.hardware != ARPHRD_ETHER {
        Medium::Other
    } else if carry::is_wireless(name) {
        Medium::Wireless
    } else {
        Medium::Ethernet
    }
}

fn forwards(family: IpFamilyWord, name: &IfName) -> Result<bool> {
    Ok(sysctl::read(&Sysctl::new(family, name.as_str(), "forwarding"))?.as_deref() == Some("1"))
}

/// The interface of the best default route (IPv4 first, then the lowest metric), and the routers of all.
fn ways_out(mut defaults: Vec<RouteInfo>, names: &BTreeMap<u32, IfName>) -> (Option<IfName>, Vec<IpAddr>) {
    defaults.sort_by_key(|r| (r.to.addr().is_ipv6(), r.metric));
    let uplink = defaults.iter().find_map(|r| names.get(&r.oif?).cloned());
    let mut routers = Vec::new();
    for router in defaults.iter().filter_map(|r| r.via) {
        if !routers.contains(&router) {
            routers.push(router);
        }
    }
    (uplink, routers)
}

/// What waits, each once; `::` that takes IPv4 too stands for both.
fn listeners(waiting: &[Listening], owners: &BTreeMap<u32, String>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for socket in waiting {
        let owner = owners.get(&socket.inode).cloned();
        let both = socket.address.is_unspecified() && !socket.own_family_only;
        let also = both.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for address in also.into_iter().chain([socket.address]) {
            let listener = Listener { transport: socket.transport, address, port: socket.port, owner: owner.clone() };
            // SO_REUSEPORT: one process with many sockets.
            if !listeners.contains(&listener) {
                listeners.push(listener);
            }
        }
    }
    listeners
}

/// The ports of sshd, and the server's port of the session that we run in.
fn ssh_ports(waiting: &[Listening], owners: &BTreeMap<u32, String>, session: Option<u16>) -> Vec<u16> {
    let is_sshd = |w: &&Listening| {
        let name = owners.get(&w.inode).and_then(|o| o.split(" (pid").next());
        w.transport == model::address::Transport::Tcp && matches!(name, Some("sshd" | "dropbear"))
    };
    // Its X11 and port forwards listen on loopback, and belong to nobody's way in.
    let mut ports: BTreeSet<u16> =
        waiting.iter().filter(is_sshd).filter(|w| !w.address.is_loopback()).map(|w| w.port).collect();
    ports.extend(session);
    ports.into_iter().collect()
}

/// The resolvers that the host asks; where resolv.conf(5) names only stubs on loopback, or ourselves, those that
/// systemd-resolved asks in turn. Our own addresses `on_lans` are none, whoever has named them: we would ask ourselves.
fn resolvers(read: impl Fn(&str) -> Option<String>, on_lans: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let mut named = nameservers(&read(path).unwrap_or_default());
        named.retain(|server| !on_lans.contains(server));
        if !named.is_empty() {
            return named;
        }
    }
    Vec::new()
}

/// The servers of a resolv.conf(5), without loopback ones, each once. One with an interface (`fe80::1%eth0`) cannot be
/// asked from elsewhere and is left out.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|w| w.parse::<IpAddr>().ok());
        if let Some(server) = server.filter(|s| !s.is_loopback() && !s.is_unspecified() && !servers.contains(s)) {
            servers.push(server);
        }
    }
    servers
}

/// machine-id(5): 32 hexadecimal digits; empty or `uninitialized` before the first boot.
fn machine_id(text: &str) -> Option<String> {
    let id = text.trim();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use model::address::Transport;

    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn stubs_are_looked_through() {
        let real =
            "# by DHCP\nsearch example.org\nnameserver 192.0.2.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n";
        let files = |path: &str| match path {
            "/etc/resolv.conf" => Some("nameserver 127.0.0.53\noptions edns0\n".to_owned()),
            _ => Some(real.to_owned()),
        };
        let none = BTreeSet::new();
        assert_eq!(resolvers(files, &none), ips(&["192.0.2.53"]));
        assert_eq!(resolvers(|p| (p == "/etc/resolv.conf").then(|| real.to_owned()), &none), ips(&["192.0.2.53"]));
        assert_eq!(resolvers(|_| None, &none), ips(&[]));
    }

    #[test]
    fn we_are_not_our_own_resolver() {
        let own: BTreeSet<IpAddr> = ips(&["10.1.1.1", "fd10:1:1::1"]).into_iter().collect();
        let by_resolved = "nameserver 192.0.2.53\nnameserver 10.1.1.1\nnameserver fd10:1:1::1\n";
        for first in ["nameserver 127.0.0.53\n", "nameserver 10.1.1.1\n", "nameserver fd10:1:1::1\nnameserver ::1\n"] {
            let files = |path: &str| Some(if path == "/etc/resolv.conf" { first } else { by_resolved }.to_owned());
            assert_eq!(resolvers(files, &own), ips(&["192.0.2.53"]), "{first}");
        }
        let both = |path: &str| (path == "/etc/resolv.conf").then(|| by_resolved.to_owned());
        assert_eq!(resolvers(both, &own), ips(&["192.0.2.53"]));
        assert_eq!(resolvers(|_| Some("nameserver 10.1.1.1\n".to_owned()), &own), ips(&[]));
    }

    #[test]
    fn the_way_out_is_ipv4s_of_the_lowest_metric() {
        let names: BTreeMap<u32, IfName> =
            [(2, "eth0"), (3, "wlan0")].into_iter().map(|(i, n)| (i, IfName::new(n).unwrap())).collect();
        let route = |to: &str, via: &str, oif, metric| RouteInfo {
            to: to.parse().unwrap(),
            via: Some(via.parse().unwrap()),
            oif: Some(oif),
            table: 254,
            protocol: 3,
            metric,
            source: None,
            kind: RTN_UNICAST,
            scope: 0,
        };
        let all = vec![
            route("::/0", "fe80::1", 2, 100),
            route("0.0.0.0/0", "192.0.2.1", 2, 600),
            route("0.0.0.0/0", "198.51.100.1", 3, 200),
        ];
        let (uplink, routers) = ways_out(all.clone(), &names);
        assert_eq!(uplink.unwrap().as_str(), "wlan0");
        assert_eq!(routers, ips(&["198.51.100.1", "192.0.2.1", "fe80::1"]));
        let (uplink, _) = ways_out(all[..1].to_vec(), &names);
        assert_eq!(uplink.unwrap().as_str(), "eth0");
        assert_eq!(ways_out(Vec::new(), &names), (None, Vec::new()));
    }

    #[test]
    fn ssh_is_known_by_its_process_and_by_the_session() {
        let socket = |port, address: &str, inode| Listening {
            transport: Transport::Tcp,
            address: address.parse().unwrap(),
            port,
            own_family_only: false,
            interface: None,
            uid: 0,
            inode,
        };
        let waiting = [socket(2222, "::", 1), socket(6010, "127.0.0.1", 2), socket(80, "::", 3)];
        let owners = [(1, "sshd (pid 7)"), (2, "sshd (pid 9)"), (3, "nginx (pid 8)")];
        let owners: BTreeMap<u32, String> = owners.into_iter().map(|(i, o)| (i, o.to_owned())).collect();
        let session = Some(22);
        assert_eq!(ssh_ports(&waiting, &owners, session), [22, 2222]);
        assert_eq!(ssh_ports(&waiting, &BTreeMap::new(), None), [0u16; 0]);
        let both = listeners(&waiting[..1], &owners);
        assert_eq!(both.iter().map(|l| l.address).collect::<Vec<_>>(), ips(&["0.0.0.0", "::"]));
        assert_eq!(both[0].owner.as_deref(), Some("sshd (pid 7)"));
    }

    #[test]
    fn a_machine_id_before_the_first_boot_is_none() {
        assert_eq!(machine_id("uninitialized\n"), None);
        assert_eq!(machine_id(""), None);
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(machine_id(&format!("{id}\n")).as_deref(), Some(id));
    }
}
