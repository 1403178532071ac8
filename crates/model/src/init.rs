//! A first configuration for a host, from what it is: text, with a comment on whatever was seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::Digest as _;

use crate::address::IfName;
use crate::facts::{HostFacts, Interface, Medium};
use crate::manager::Manager;
use crate::network::is_ula;

/// What is looked at besides [`HostFacts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sights {
    /// Others' chains that may drop what is forwarded, as people know them; nothing where the firewall may not be read.
    pub chains: Option<Vec<String>>,
    /// Where the SSH session comes from in which this is asked: no LAN may hold it.
    pub peer: Option<IpAddr>,
}

/// What is proposed, besides the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The whole file.
    pub text: String,
    /// The LAN's bridge.
    pub bridge: IfName,
    /// The host's addresses on it.
    pub addresses: Vec<IpNet>,
}

/// A file for this host: one LAN with a subnet that overlaps nothing, and the rest to be uncommented.
#[must_use]
pub fn propose(facts: &HostFacts, sights: &Sights) -> Proposal {
    let uplink = uplink(facts);
    let bridge = bridge(facts);
    let net4 = subnet4(facts, sights);
    let mut addresses = vec![IpNet::V4(net4)];
    addresses.extend(subnet6(facts, uplink).map(IpNet::V6));
    let mut text = String::from(
        "# The private network of this server, as `warren init` found the server. Read it and change what you like, then:\n\
         #   warren validate      the file alone\n\
         #   warren rehearse      its network, with packets, in throwaway namespaces\n\
         #   warren plan          what `warren up` would change here\n\n",
    );
    host(&mut text, facts, sights, uplink);
    lan(&mut text, facts, uplink, &bridge, &addresses);
    guests(&mut text, facts, net4);
    others(&mut text, facts, sights, uplink);
    Proposal { text, bridge, addresses }
}

/// The interface of the default route, else the first that could be one.
fn uplink(facts: &HostFacts) -> Option<&Interface> {
    let found = facts.default_uplink.as_ref().and_then(|name| facts.interface(name));
    found.or_else(|| facts.interfaces.iter().find(|i| is_wire(i)))
}

fn is_wire(interface: &Interface) -> bool {
    interface.medium == Medium::Ethernet
        && interface.name.as_str() != "lo"
        && interface.master.is_none()
        && !interface.bridge
}

#[allow(clippy::expect_used)] // Names that are made here are short and plain.
fn bridge(facts: &HostFacts) -> IfName {
    let free =
        (1u32..).map(|n| format!("br{n}")).find(|name| !facts.interfaces.iter().any(|i| i.name.as_str() == name));
    IfName::new(free.unwrap_or_default()).expect("an interface's name")
}

/// Every network that is somebody's here: those of addresses, routes, and single machines that must stay in reach.
fn taken(facts: &HostFacts, sights: &Sights) -> Vec<IpNet> {
    let addresses = facts.interfaces.iter().flat_map(|interface| &interface.addresses).map(IpNet::trunc);
    let routes = facts.routes.iter().map(|route| route.to);
    let machines = facts.routers.iter().chain(&facts.resolvers).chain(&sights.peer).map(|address| around(*address));
    addresses.chain(routes).chain(machines).filter(|net| !is_half(net)).collect()
}

/// A default route in halves, as VPNs make it, is nobody's network.
fn is_half(net: &IpNet) -> bool {
    net.prefix_len() <= if net.addr().is_ipv4() { 1 } else { 3 }
}

/// A private network that a single machine of it tells of is probably larger than that: a /16 is kept clear of.
fn around(machine: IpAddr) -> IpNet {
    let wide = match machine {
        IpAddr::V4(v4) if v4.is_private() => IpNet::new(machine, 16).ok(),
        _ => None,
    };
    wide.map_or_else(|| IpNet::from(machine), |net| net.trunc())
}

fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first of the private /24 (RFC 1918) that overlaps nothing of the host's, nor what other tools take by default
/// (LXC 10.0.3.0/24, libvirt 192.168.122.0/24, Docker 172.17.0.0/12 on).
#[allow(clippy::expect_used)] // 24 is a prefix length.
fn subnet4(facts: &HostFacts, sights: &Sights) -> Ipv4Net {
    let taken = taken(facts, sights);
    let tens = (1..=255u8).flat_map(|b| (1..=255u8).map(move |c| [10, b, c]));
    let homes = (200..=255u8).map(|c| [192, 168, c]);
    let net = |[a, b, c]: [u8; 3]| Ipv4Net::new(Ipv4Addr::new(a, b, c, 1), 24).expect("a prefix length");
    let is_free = |net: &Ipv4Net| !taken.iter().any(|other| overlaps(IpNet::V4(*net), *other));
    // A host whose routes hold all private networks is left with the carriers' (RFC 6598), and with saying so.
    let carriers = (64..=127u8).map(|b| [100, b, 1]);
    let mut free = tens.chain(homes).chain(carriers).map(net).filter(is_free);
    free.next().unwrap_or_else(|| net([10, 1, 1]))
}

/// Where the host has IPv6 that the world reaches: a part of its own fixed /64, which neither the host nor its router is
/// in; else a unique local /64 (RFC 4193), which leaves by NAT66.
fn subnet6(facts: &HostFacts, uplink: Option<&Interface>) -> Option<Ipv6Net> {
    let global = |net: &&Ipv6Net| !is_ula(net.addr()) && net.prefix_len() <= 64;
    let nets: Vec<&Ipv6Net> =
        uplink?.addresses.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None }).collect();
    let own = nets.iter().copied().find(global)?;
    if !facts.ipv6 {
        return None;
    }
    let fixed = own.prefix_len() == 64 && !is_changing(uplink?);
    let part = fixed.then(|| part_of(facts, uplink?, own)).flatten();
    part.or_else(|| unique_local(facts))
}

/// Whether its addresses are somebody's lease, or learnt.
fn is_changing(uplink: &Interface) -> bool {
    let leased = uplink.manager.as_ref().is_some_and(|managed| {
        matches!(managed.by, Manager::DhcpClient | Manager::Somebody)
            || managed.files.iter().any(|(_, text)| text.to_ascii_lowercase().contains("dhcp"))
    });
    uplink.learnt_route || leased
}

/// The first /80 of the /64 in which nobody is.
fn part_of(facts: &HostFacts, uplink: &Interface, own: &Ipv6Net) -> Option<Ipv6Net> {
    let [a, b, c, d, ..] = own.network().segments();
    let machines: Vec<IpAddr> = uplink
        .addresses
        .iter()
        .map(IpNet::addr)
        .chain(facts.routers.iter().copied())
        .chain(facts.resolvers.iter().copied())
        .collect();
    let candidates = (1..=0xfffe).filter_map(|e| Ipv6Net::new(Ipv6Addr::new(a, b, c, d, e, 0, 0, 1), 80).ok());
    let routed = |net: &Ipv6Net| {
        let others = facts.routes.iter().map(|route| route.to).filter(|to| to.prefix_len() > 64);
        others.into_iter().any(|to| overlaps(IpNet::V6(*net), to))
    };
    let holds = |net: &Ipv6Net| machines.iter().any(|machine| IpNet::V6(*net).contains(machine));
    candidates.into_iter().find(|net| !holds(net) && !routed(net))
}

/// Of this machine's own number, so that two servers' do not meet in a tunnel.
fn unique_local(facts: &HostFacts) -> Option<Ipv6Net> {
    let number = facts.machine_id.clone().unwrap_or_else(|| {
        facts.interfaces.iter().filter_map(|interface| interface.mac).map(|mac| mac.to_string()).collect()
    });
    let digest = sha2::Sha256::digest(format!("warren init {number}").as_bytes());
    let word = |i: usize| u16::from_be_bytes([digest[i], digest[i + 1]]);
    let global = [0xfd00 | u16::from(digest[6]), word(0), word(2)];
    let net = |n: u16| Ipv6Net::new(Ipv6Addr::new(global[0], global[1], global[2], n, 0, 0, 0, 1), 64).ok();
    let used: Vec<IpNet> = taken(facts, &Sights::default());
    (1..=u16::MAX).filter_map(net).find(|net| !used.iter().any(|other| overlaps(IpNet::V6(*net), *other)))
}

fn host(text: &mut String, facts: &HostFacts, sights: &Sights, uplink: Option<&Interface>) {
    text.push_str("[host]\n");
    let Some(uplink) = uplink else {
        text.push_str("# No interface has a default route. The LANs come up all the same, and lead out once it is there.\nuplink = \"eth0\"\n\n");
        return;
    };
    let name = &uplink.name;
    let who =
        uplink.manager.as_ref().map(|managed| format!(", configured by {}", managed.by.word())).unwrap_or_default();
    if facts.default_uplink.is_some() {
        let _ = writeln!(text, "# The interface of the default route{who}.");
    } else {
        let _ = writeln!(text, "# No interface has a default route; this one could be it{who}.");
    }
    let _ = writeln!(text, "uplink = \"{name}\"");
    on_link(text, facts, uplink);
    public(text, uplink);
    management(text, facts);
    if let Some(chains) = sights.chains.as_ref().filter(|chains| !chains.is_empty()) {
        let _ = writeln!(text, "# Others' rules may drop what is forwarded here: {}.", chains.join(", "));
        text.push_str("# `warren up` says which rule stops what; with this it adds the smallest one that lets it pass.\n# fix-foreign = true\n");
    } else if sights.chains.is_none() {
        text.push_str(
            "# Others' firewalls could not be read without root: `warren plan` says what stands in the way.\n",
        );
    }
    text.push('\n');
}

/// Routers that are in none of the uplink's own networks, as some hosters have them.
fn on_link(text: &mut String, facts: &HostFacts, uplink: &Interface) {
    let beyond = |router: &&IpAddr| {
        let link_local = matches!(router, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
        !link_local && !uplink.addresses.iter().any(|net| net.prefix_len() < max_prefix(net) && net.contains(*router))
    };
    for router in facts.routers.iter().filter(beyond) {
        let _ = writeln!(
            text,
            "# Its router {router} is in none of its networks: it is reached on the link. That stays as it is."
        );
    }
}

fn max_prefix(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 32 } else { 128 }
}

fn public(text: &mut String, uplink: &Interface) {
    let is_global = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_private() && !v4.is_link_local() && !is_shared(*v4),
        IpAddr::V6(v6) => !is_ula(*v6),
    };
    let all: Vec<IpAddr> = uplink.addresses.iter().map(IpNet::addr).collect();
    let globals: Vec<String> = all.iter().filter(|a| is_global(a)).map(|a| format!("\"{a}\"")).collect();
    if is_changing(uplink) {
        text.push_str("# Its addresses are leased or learnt, so whatever it has is followed.\n");
    } else if all.is_empty() {
        text.push_str("# It has no address yet: whatever it gets is followed.\n");
    } else if globals.len() < all.len() {
        // Listed, they alone would count: whoever comes by a private one would find no forward.
        let own: Vec<String> = all.iter().filter(|a| !is_global(a)).map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "# Private addresses ({}) are reached from the world through somebody's NAT, if at all; all that it has are followed.",
            own.join(", ")
        );
    } else {
        text.push_str("# What the world reaches this server on. Left out, whatever the interface has is followed.\n");
        let _ = writeln!(text, "public = [{}]", globals.join(", "));
    }
}

/// 100.64.0.0/10 (RFC 6598).
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b & 0xc0 == 64
}

fn management(text: &mut String, facts: &HostFacts) {
    let waiting: BTreeSet<String> = facts
        .listeners
        .iter()
        .filter(|listener| !listener.address.is_loopback())
        .map(|listener| {
            let owner = listener.owner.as_deref().and_then(|owner| owner.split(" (pid").next());
            let owner = owner.map(|owner| format!(" {owner}")).unwrap_or_default();
            format!("{:>5}/{}{owner}", listener.port, listener.transport)
        })
        .collect();
    if !waiting.is_empty() {
        let list: Vec<&str> = waiting.iter().map(|w| w.trim_start()).collect();
        let _ = writeln!(text, "# This server itself listens on: {}. No forward takes those from it.", list.join(", "));
    }
    let others: Vec<String> =
        facts.ssh_ports.iter().filter(|port| **port != 22).map(|port| format!("\"{port}/tcp\"")).collect();
    if !others.is_empty() {
        text.push_str("# SSH's own ports, which nothing else may take.\n");
        let _ = writeln!(text, "management = [\"22/tcp\", {}]", others.join(", "));
    }
}

fn lan(text: &mut String, facts: &HostFacts, uplink: Option<&Interface>, bridge: &IfName, addresses: &[IpNet]) {
    text.push_str(
        "# A LAN of its own: guests go out by the uplink, and are reached by what is declared below alone.\n",
    );
    let _ = writeln!(text, "[lan.{bridge}]");
    let list: Vec<String> = addresses.iter().map(|net| format!("\"{net}\"")).collect();
    text.push_str(
        "# The server's own addresses on it, and so the guests' gateways. Nothing of this server's overlaps them.\n",
    );
    if let Some(IpNet::V6(v6)) = addresses.get(1) {
        if is_ula(v6.addr()) {
            text.push_str("# The IPv6 one is of a private prefix and leaves by NAT66.\n");
        } else {
            text.push_str(
                "# The IPv6 one is a part of the uplink's own /64: unrewritten, and closed but for what is declared.\n",
            );
        }
    }
    let _ = writeln!(text, "address = [{}]\n", list.join(", "));
    let Some(uplink) = uplink else { return };
    if uplink.bridge {
        let name = &uplink.name;
        let _ = writeln!(
            text,
            "# {name} is a bridge of another's. Guests can be plugged into it, and nothing of it is changed:\n\
             # [lan.{name}]\n# mode     = \"bridged\"\n# external = true\n"
        );
    } else if uplink.medium != Medium::Ethernet {
        let _ = writeln!(
            text,
            "# {} cannot be plugged into a bridge; guests that the outer network sees need mode \"routed\".\n",
            uplink.name
        );
    } else if is_office(uplink) {
        let outer = outer_bridge(facts);
        let _ = writeln!(
            text,
            "# Guests can stand on the outer network, too, for everybody on it to see. That plugs {0} into a bridge; what was\n\
             # comes back by itself unless you run `warren confirm`.\n\
             # [lan.{outer}]\n# mode  = \"bridged\"\n# ports = [\"{0}\"]\n",
            uplink.name
        );
    }
}

/// Whether the uplink's own network is a private one.
fn is_office(uplink: &Interface) -> bool {
    uplink.addresses.iter().any(|net| matches!(net.addr(), IpAddr::V4(v4) if v4.is_private()) && net.prefix_len() < 32)
}

fn outer_bridge(facts: &HostFacts) -> &'static str {
    if facts.interfaces.iter().any(|interface| interface.name.as_str() == "br0") { "outer0" } else { "br0" }
}

fn guests(text: &mut String, facts: &HostFacts, net: Ipv4Net) {
    let guest = |n: u8| {
        let [a, b, c, _] = net.addr().octets();
        Ipv4Addr::new(a, b, c, n)
    };
    let port =
        (22210..22300).find(|port| !facts.listeners.iter().any(|listener| listener.port == *port)).unwrap_or(22300);
    let _ = write!(
        text,
        "# A container, made and started by `warren up`; and a virtual machine, which gets a tap.\n\
         # [guest.www]\n# address  = [\"{}\"]\n# template = \"debian\"\n\n\
         # [guest.win]\n# kind    = \"vm\"\n# address = [\"{}\"]\n\n\
         # From the world to a guest.\n\
         # [[forward]]\n# listen = \"{port}/tcp\"\n# to     = \"www:22\"\n",
        guest(6),
        guest(20),
    );
}

/// Other networks of the host's: guests do not reach them, and the subnet keeps clear of them.
fn others(text: &mut String, facts: &HostFacts, sights: &Sights, uplink: Option<&Interface>) {
    let mut lines = Vec::new();
    for interface in &facts.interfaces {
        let is_uplink = uplink.is_some_and(|uplink| uplink.name == interface.name);
        if is_uplink || interface.name.as_str() == "lo" || interface.addresses.is_empty() {
            continue;
        }
        let nets: Vec<String> = interface.addresses.iter().map(|net| net.trunc().to_string()).collect();
        let behind = facts.routes.iter().filter(|route| !is_half(&route.to));
        let behind = behind.filter(|route| route.interface.as_ref() == Some(&interface.name));
        let behind = behind.map(|route| route.to.to_string()).filter(|to| !nets.contains(to));
        let nets = nets.iter().cloned().chain(behind).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        lines.push(format!("#   {}{}: {}", interface.name, kind(interface), nets.join(", ")));
    }
    if let Some(peer) = sights.peer {
        lines.push(format!("#   your SSH session comes from {peer}"));
    }
    if lines.is_empty() {
        return;
    }
    text.push_str("\n# Other networks of this server's. No LAN overlaps them, and no guest reaches them but where an [[allow]] says so:\n");
    lines.iter().for_each(|line| {
        text.push_str(line);
        text.push('\n');
    });
}

/// Whose it seems to be.
fn kind(interface: &Interface) -> &'static str {
    let name = interface.name.as_str();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match interface.medium {
        _ if starts(&["docker", "br-"]) => " (Docker)",
        _ if starts(&["virbr"]) => " (libvirt)",
        _ if starts(&["lxcbr", "lxdbr", "incusbr"]) => " (LXC)",
        _ if starts(&["podman", "cni"]) => " (podman)",
        _ if starts(&["vmbr"]) => " (Proxmox)",
        Medium::Other => " (a tunnel, such as a VPN's)",
        _ if starts(&["wg", "tun", "tap", "tailscale", "zt"]) => " (a VPN)",
        Medium::Wireless => " (Wi-Fi)",
        Medium::Ethernet => "",
    }
}
