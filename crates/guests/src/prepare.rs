//! What is written into a guest so that it knows its name, its network and its resolvers: decided here, from what was
//! found in it, and done by whoever has its root file system.
//!
//! One mechanism sets the addresses, the one that the guest has: set twice, by LXC and by the guest's own tools, the
//! second finds the address taken and fails, and systemd calls the guest degraded.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::root::Root;
use crate::settings::Settings;

/// Who sets a guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// Ubuntu's netplan, in front of networkd or NetworkManager.
    Netplan,
    /// systemd-networkd.
    Networkd,
    /// /etc/network/interfaces: Debian's ifupdown, Alpine's ifupdown-ng, BusyBox's ifup.
    Ifupdown,
    /// LXC, before the guest's first process: it has no tool of its own.
    Lxc,
}

/// What was found in a root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// netplan is there.
    pub netplan: bool,
    /// systemd-networkd is switched on.
    pub networkd: bool,
    /// ifup is there, and something that calls it at boot.
    pub ifupdown: bool,
    /// OpenRC's service that calls it is there, but in no runlevel.
    pub openrc_off: bool,
    /// /etc/resolv.conf is systemd-resolved's.
    pub resolved: bool,
    /// The first process is systemd.
    pub systemd: bool,
    /// BusyBox's first script, which may ask for an address by itself.
    pub rcs: Option<String>,
    /// /etc/hosts
    pub hosts: Option<String>,
    /// sshd is there.
    pub sshd: bool,
    /// Root's keys.
    pub authorized_keys: Option<String>,
    /// The host keys of sshd's, as files in /etc/ssh.
    pub host_keys: Vec<String>,
}

/// One change inside a root file system; paths begin at its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A whole file.
    Write {
        /// Where.
        path: String,
        /// What.
        text: String,
        /// Its permissions.
        mode: u32,
        /// Those of its folder where that is made for it.
        folder_mode: u32,
    },
    /// A link.
    Link {
        /// Where.
        path: String,
        /// What it says.
        to: String,
    },
    /// Away with it.
    Remove {
        /// Which.
        path: String,
    },
}

impl Edit {
    fn write(path: &str, text: impl Into<String>) -> Self {
        Self::Write { path: path.to_owned(), text: text.into(), mode: 0o644, folder_mode: 0o755 }
    }

    fn secret(path: String, text: impl Into<String>) -> Self {
        Self::Write { path, text: text.into(), mode: 0o600, folder_mode: 0o700 }
    }

    /// Does it.
    pub fn apply(&self, root: &Root) -> Result<()> {
        match self {
            Self::Write { path, text, mode, folder_mode } => root.write(path, text, *mode, *folder_mode),
            Self::Link { path, to } => root.symlink(path, to),
            Self::Remove { path } => root.remove(path),
        }
    }
}

/// Looks at what the guest has.
pub fn look(root: &Root) -> Result<Found> {
    let any = |paths: &[&str]| paths.iter().any(|path| root.exists(path));
    let named = |paths: &[&str]| paths.iter().any(|path| root.is_named(path));
    let resolv = root.link("etc/resolv.conf").unwrap_or_default();
    let openrc = root.exists("etc/init.d/networking") && root.exists("etc/runlevels");
    let in_runlevel =
        ["boot", "default", "sysinit"].iter().any(|level| root.is_named(&format!("etc/runlevels/{level}/networking")));
    let init = root.link("sbin/init").unwrap_or_default();
    let host_keys =
        root.list("etc/ssh").into_iter().filter(|n| n.starts_with("ssh_host_") && n.contains("_key")).collect();
    Ok(Found {
        netplan: root.exists("etc/netplan") && any(&["usr/sbin/netplan", "sbin/netplan"]),
        networkd: named(&[
            "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "etc/systemd/system/dbus-org.freedesktop.network1.service",
            "etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
        ]),
        ifupdown: any(&["usr/sbin/ifup", "sbin/ifup"])
            && any(&[
                "etc/init.d/networking",
                "lib/systemd/system/networking.service",
                "usr/lib/systemd/system/networking.service",
            ]),
        openrc_off: openrc && !in_runlevel,
        resolved: resolv.contains("/systemd/resolve/"),
        systemd: init.contains("systemd") || root.exists("run/systemd/system"),
        rcs: root.read("etc/init.d/rcS")?.filter(|_| root.exists("bin/busybox")),
        hosts: root.read("etc/hosts")?,
        sshd: any(&["usr/sbin/sshd", "sbin/sshd"]),
        authorized_keys: root.read("root/.ssh/authorized_keys")?,
        host_keys,
    })
}

/// The mechanism that the guest has.
#[must_use]
pub fn mechanism(found: &Found) -> Mechanism {
    if found.netplan {
        Mechanism::Netplan
    } else if found.networkd {
        Mechanism::Networkd
    } else if found.ifupdown {
        Mechanism::Ifupdown
    } else {
        Mechanism::Lxc
    }
}

const HEAD: &str = "# Written by warren from its warren.toml.\n";

/// What a changed network changes in a guest.
#[must_use]
pub fn network(found: &Found, settings: &Settings) -> Vec<Edit> {
    let mechanism = mechanism(found);
    let mut edits = vec![
        Edit::write("etc/hostname", format!("{}\n", settings.name)),
        Edit::write("etc/hosts", hosts(found.hosts.as_deref().unwrap_or_default(), settings)),
    ];
    edits.extend(addresses(found, mechanism, settings));
    // systemd-resolved has the resolvers from networkd, which has them from the files above.
    let through_networkd = matches!(mechanism, Mechanism::Netplan | Mechanism::Networkd);
    if !(found.resolved && through_networkd) {
        edits.push(Edit::write("etc/resolv.conf", resolv_conf(settings)));
    }
    edits
}

/// What of it sets the addresses: all that is written into a container that others made.
#[must_use]
pub fn addresses(found: &Found, mechanism: Mechanism, settings: &Settings) -> Vec<Edit> {
    match mechanism {
        // netplan(5) wants its files closed, since they may hold keys.
        Mechanism::Netplan => vec![Edit::Write {
            path: "etc/netplan/90-warren.yaml".to_owned(),
            text: netplan(settings),
            mode: 0o600,
            folder_mode: 0o755,
        }],
        Mechanism::Networkd => vec![Edit::write("etc/systemd/network/10-warren.network", networkd(settings))],
        Mechanism::Ifupdown => {
            let mut edits = vec![Edit::write("etc/network/interfaces", ifupdown(settings))];
            if found.openrc_off {
                let path = "etc/runlevels/boot/networking".to_owned();
                edits.push(Edit::Link { path, to: "/etc/init.d/networking".to_owned() });
            }
            edits
        }
        Mechanism::Lxc if settings.addresses.is_empty() => Vec::new(),
        Mechanism::Lxc => without_udhcpc(found).into_iter().collect(),
    }
}

/// What makes a copy of a template a guest of its own, before its first boot. `machine_id` is new; host keys are the
/// doing part's.
#[must_use]
pub fn first_boot(found: &Found, ssh_keys: &[String], privileged: bool, machine_id: &str) -> Vec<Edit> {
    let mut edits = Vec::new();
    if found.systemd {
        edits.push(Edit::Write {
            path: "etc/machine-id".to_owned(),
            text: format!("{machine_id}\n"),
            mode: 0o444,
            folder_mode: 0o755,
        });
        // Where it is a file of its own it is a copy of the template's; D-Bus makes it again as a link.
        edits.push(Edit::Remove { path: "var/lib/dbus/machine-id".to_owned() });
        if !privileged {
            // The kernel lets no user namespace mount debugfs, and one failed unit makes the guest degraded.
            let path = "etc/systemd/system/sys-kernel-debug.mount".to_owned();
            edits.push(Edit::Link { path, to: "/dev/null".to_owned() });
        }
    }
    let there = found.authorized_keys.as_deref().unwrap_or_default();
    let new: Vec<&str> =
        ssh_keys.iter().map(|key| key.trim()).filter(|key| there.lines().all(|l| l.trim() != *key)).collect();
    if !new.is_empty() {
        let mut text = there.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        new.iter().for_each(|key| {
            text.push_str(key);
            text.push('\n');
        });
        edits.push(Edit::secret("root/.ssh/authorized_keys".to_owned(), text));
    }
    edits
}

/// One pair of host keys, as ssh-keygen made it.
#[must_use]
pub fn host_key(kind: &str, private: &str, public: &str) -> [Edit; 2] {
    let path = format!("etc/ssh/ssh_host_{kind}_key");
    let secret = Edit::Write { path: path.clone(), text: private.to_owned(), mode: 0o600, folder_mode: 0o755 };
    [secret, Edit::write(&format!("{path}.pub"), public)]
}

/// The busybox template's first script asks for an address by DHCP, and takes the one away that LXC has set.
fn without_udhcpc(found: &Found) -> Option<Edit> {
    let rcs = found.rcs.as_ref()?;
    let asks = |line: &str| line.split_whitespace().next().is_some_and(|word| word.ends_with("udhcpc"));
    if !rcs.lines().any(asks) {
        return None;
    }
    let text: String = rcs.lines().filter(|line| !asks(line)).flat_map(|line| [line, "\n"]).collect();
    Some(Edit::Write { path: "etc/init.d/rcS".to_owned(), text, mode: 0o755, folder_mode: 0o755 })
}

/// What others wrote stays, but for other addresses of this guest's own names.
fn hosts(before: &str, settings: &Settings) -> String {
    let full = settings.full_name();
    let mut text = String::new();
    let others = before.lines().filter(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next();
        // Debian's address for the host name, where it has no fixed one.
        let own = address == Some("127.0.1.1") || words.any(|word| word == settings.name || word == full);
        !(address.is_some() && own)
    });
    for line in others {
        let _ = writeln!(text, "{line}");
    }
    if !text.contains("127.0.0.1") {
        text.insert_str(0, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    if settings.addresses.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{full} {}", settings.name);
    }
    for net in &settings.addresses {
        let _ = writeln!(text, "{}\t{full} {}", net.addr(), settings.name);
    }
    text
}

fn resolv_conf(settings: &Settings) -> String {
    let mut text = format!("{HEAD}search {}\n", settings.domain);
    for server in &settings.dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

fn words(list: &[IpAddr]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// interfaces(5). Netmask and address apart, as BusyBox's ifup wants them too.
fn ifupdown(settings: &Settings) -> String {
    let mut text = format!("{HEAD}auto lo\niface lo inet loopback\n\nauto eth0\n");
    if settings.addresses.is_empty() {
        text.push_str("iface eth0 inet dhcp\n");
    }
    for net in &settings.addresses {
        let family = if net.addr().is_ipv4() { "inet" } else { "inet6" };
        let _ = writeln!(text, "iface eth0 {family} static\n    address {}", net.addr());
        let _ = match net {
            IpNet::V4(net) => writeln!(text, "    netmask {}", net.netmask()),
            IpNet::V6(net) => writeln!(text, "    netmask {}", net.prefix_len()),
        };
        if let Some(gateway) = settings.gateway_for(net.addr()).filter(|_| settings.first_of_family(net)) {
            let _ = if settings.must_be_told_of(gateway) {
                writeln!(
                    text,
                    "    up ip route add {gateway} dev eth0\n    up ip route add default via {gateway} dev eth0"
                )
            } else {
                writeln!(text, "    gateway {gateway}")
            };
        }
        if settings.addresses.first() == Some(net) {
            let _ = writeln!(text, "    dns-search {}", settings.domain);
            if !settings.dns.is_empty() {
                let _ = writeln!(text, "    dns-nameservers {}", words(&settings.dns));
            }
        }
    }
    text
}

/// systemd.network(5).
fn networkd(settings: &Settings) -> String {
    let mut text = format!("{HEAD}[Match]\nName=eth0\n\n[Network]\n");
    if settings.addresses.is_empty() {
        text.push_str("DHCP=yes\n");
    } else {
        // Its addresses are the file's alone: no other router on the LAN is believed.
        text.push_str("IPv6AcceptRA=no\n");
    }
    for net in &settings.addresses {
        let _ = writeln!(text, "Address={net}");
    }
    let (told, plain): (Vec<_>, Vec<_>) = settings.gateways.iter().copied().partition(|g| settings.must_be_told_of(*g));
    for gateway in plain {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for server in &settings.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    let _ = writeln!(text, "Domains={}", settings.domain);
    for gateway in told {
        let _ = writeln!(text, "\n[Route]\nGateway={gateway}\nGatewayOnLink=yes");
    }
    text
}

/// netplan(5). What another file says of eth0 is taken back where it would ask for a second address.
fn netplan(settings: &Settings) -> String {
    let mut text = format!("{HEAD}network:\n  version: 2\n  ethernets:\n    eth0:\n");
    let dhcp = settings.addresses.is_empty();
    let _ = writeln!(text, "      dhcp4: {dhcp}\n      dhcp6: false");
    if !dhcp {
        text.push_str("      accept-ra: false\n      addresses:\n");
        for net in &settings.addresses {
            let _ = writeln!(text, "        - \"{net}\"");
        }
    }
    if !settings.gateways.is_empty() {
        text.push_str("      routes:\n");
        for gateway in &settings.gateways {
            let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let _ = writeln!(text, "        - to: \"{everywhere}\"\n          via: \"{gateway}\"");
            if settings.must_be_told_of(*gateway) {
                text.push_str("          on-link: true\n");
            }
        }
    }
    let _ = writeln!(text, "      nameservers:\n        search: [\"{}\"]", settings.domain);
    if !settings.dns.is_empty() {
        let list = settings.dns.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "        addresses: [{list}]");
    }
    text
}
