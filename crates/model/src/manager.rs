//! Programs that configure an interface, and what they would have to be told for a bridge to take its place: text to
//! text. They would else put back, or renew on the interface, what moves.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::address::{IfName, Mac};

pub mod dhclient;
mod ifupdown;
mod keyfile;
pub mod networkd;
pub mod networkmanager;

/// Who configures an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// The program.
    pub by: Manager,
    /// Its files that name the interface: path and text.
    pub files: Vec<(String, String)>,
    /// What of it is at work on the interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// Why its configuration is not to be rewritten, where that is seen already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

/// Something of a manager's that is at work on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// ifup's note that the interface is up (/run/network/ifstate).
    Ifstate,
    /// dhclient(8), by its command line.
    Dhclient(Vec<String>),
    /// systemd-networkd(8), by what it follows.
    Networkd(networkd::Follows),
    /// NetworkManager(8), by what it has at work there.
    NetworkManager(networkmanager::Active),
}

impl Holder {
    /// One word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ifstate => "ifstate",
            Self::Dhclient(line) if dhclient::is_of_ipv6(line) => "dhclient6",
            Self::Dhclient(_) => "dhclient",
            Self::Networkd(_) => "networkd",
            Self::NetworkManager(_) => "NetworkManager",
        }
    }

    /// Whether it reads the manager's files by itself, and is told when they are written.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        matches!(self, Self::Networkd(_))
    }

    /// The files that it reads of what we write, where it stands for those.
    #[must_use]
    pub fn files_of(&self, bridge: &IfName) -> Vec<String> {
        let names = match self {
            Self::Networkd(follows) => follows.names(bridge),
            _ => None,
        };
        names.iter().flat_map(networkd::Names::files).cloned().collect()
    }

    /// Whether it is stopped before anything of it is touched, and begins anew, by its files, once all stands.
    #[must_use]
    pub fn begins_anew(&self) -> bool {
        matches!(self, Self::NetworkManager(_))
    }

    /// What people call it.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Ifstate => "ifup's note of what is up:",
            Self::Dhclient(line) if dhclient::is_of_ipv6(line) => "dhclient -6",
            Self::Dhclient(_) => "dhclient",
            Self::Networkd(_) => "systemd-networkd",
            Self::NetworkManager(_) => "NetworkManager",
        }
    }
}

/// What of a manager's is rewritten so that it makes the bridge itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The manager.
    pub by: Manager,
    /// Its files that change, by path.
    pub files: BTreeMap<String, Rewrite>,
    /// What is at work on the interface, and shall be on the bridge.
    pub holders: Vec<Holder>,
}

/// A file's two texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// What the new one was made from; nothing where there was no file.
    pub before: Option<String>,
    /// The new one.
    pub after: String,
}

/// A program that configures interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// ifupdown: interfaces(5).
    Ifupdown,
    /// systemd.network(5).
    Networkd,
    /// netplan(5), before networkd or NetworkManager.
    Netplan,
    /// NetworkManager(8).
    NetworkManager,
    /// A DHCP client by itself.
    DhcpClient,
    /// Nobody that is known, but an address has an end.
    Somebody,
}

impl Manager {
    /// What people call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ifupdown => "ifupdown",
            Self::Networkd => "systemd-networkd",
            Self::Netplan => "netplan",
            Self::NetworkManager => "NetworkManager",
            Self::DhcpClient => "a DHCP client",
            Self::Somebody => "a DHCP client that is not known",
        }
    }
}

impl Managed {
    /// A manager of which nothing but its name and files is known.
    #[must_use]
    pub fn new(by: Manager, files: Vec<(String, String)>) -> Self {
        Self { by, files, holders: Vec::new(), obstacle: None }
    }

    /// How its configuration is rewritten so that `bridge`, with `mac`, takes the place of `port` and the next boot makes
    /// it so. `Err` says why that cannot be done safely.
    pub fn take_over(&self, port: &IfName, bridge: &IfName, mac: Option<Mac>) -> Result<Takeover, String> {
        if let Some(why) = &self.obstacle {
            return Err(why.clone());
        }
        let mac = mac.ok_or_else(|| format!("{port} has no hardware address"))?;
        let after = match self.by {
            Manager::Ifupdown => ifupdown::take_over(&self.files, port, bridge, mac)?,
            Manager::Networkd => networkd::take_over(self, port, bridge, mac)?,
            Manager::Netplan | Manager::NetworkManager => match self.active() {
                Some(active) => networkmanager::take_over(&self.files, active, port, bridge, mac)?,
                None if self.by == Manager::Netplan => networkd::take_over(self, port, bridge, mac)?,
                None => return Err(format!("what it has at work on {port} is not known")),
            },
            Manager::DhcpClient if !self.holders.is_empty() => Vec::new(),
            Manager::DhcpClient => return Err("of DHCP clients only dhclient is moved".to_owned()),
            other => return Err(format!("it does not rewrite what {} is told yet", other.word())),
        };
        for (family, is_six) in [("inet", false), ("inet6", true)] {
            let is_it = |line: &[String]| dhclient::is_of_ipv6(line) == is_six;
            let has_client = self.holders.iter().any(|holder| matches!(holder, Holder::Dhclient(line) if is_it(line)));
            if self.by == Manager::Ifupdown && ifupdown::leases(&self.files, port, family) && !has_client {
                let what = if is_six { "dhclient -6" } else { "dhclient" };
                return Err(format!("no {what} is seen to run on {port}, and of DHCP clients only that is moved"));
            }
        }
        let known: BTreeMap<&String, &String> = self.files.iter().map(|(path, text)| (path, text)).collect();
        let changed = after.into_iter().filter_map(|(path, after)| {
            let before = known.get(&path).map(|text| (*text).clone());
            (before.as_ref() != Some(&after)).then_some((path, Rewrite { before, after }))
        });
        Ok(Takeover { by: self.by, files: changed.collect(), holders: self.holders.clone() })
    }

    /// Its files that networkd follows on the interface.
    fn followed(&self) -> Vec<(String, String)> {
        let of = |path: &String| {
            self.holders
                .iter()
                .all(|holder| !matches!(holder, Holder::Networkd(follows) if !follows.files.contains(path)))
        };
        self.files.iter().filter(|(path, _)| of(path)).cloned().collect()
    }

    /// What of it NetworkManager has at work.
    fn active(&self) -> Option<&networkmanager::Active> {
        self.holders.iter().find_map(|holder| match holder {
            Holder::NetworkManager(active) => Some(active),
            _ => None,
        })
    }

    /// What to write so that the program itself makes `bridge` with `port` in it, and gives it what `port` has: files
    /// with their whole text, or lines to run.
    #[must_use]
    pub fn what_to_write(&self, port: &IfName, bridge: &IfName, mac: Option<Mac>) -> String {
        let mut text = String::new();
        for (path, after) in self.for_bridge(port, bridge, mac) {
            let _ = writeln!(text, "{path}:");
            for line in after.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        match self.by {
            Manager::Ifupdown | Manager::Networkd => {}
            Manager::Netplan => {
                let file = self.files.first().map_or("the file below /etc/netplan", |(path, _)| path);
                let address = mac.map(|mac| format!("      macaddress: {mac}\n")).unwrap_or_default();
                let _ = write!(
                    text,
                    "{file}: leave `{port}: {{ dhcp4: false, dhcp6: false }}` below `ethernets:`, and put all else that \
                     stands there below\n  bridges:\n    {bridge}:\n      interfaces: [{port}]\n{address}      parameters: {{ \
                     stp: false, forward-delay: 0 }}\nthen `netplan try`\n",
                );
            }
            Manager::NetworkManager => {
                let _ = write!(
                    text,
                    "nmcli connection add type bridge ifname {bridge} con-name {bridge} bridge.stp no{}\n\
                     nmcli connection add type ethernet slave-type bridge ifname {port} con-name {bridge}-{port} master {bridge}\n\
                     and to the former what the connection of {port} has of ipv4.* and ipv6.*\n",
                    mac.map(|mac| format!(" bridge.mac-address {mac}")).unwrap_or_default(),
                );
            }
            Manager::DhcpClient | Manager::Somebody => {
                let _ = writeln!(text, "make {bridge} with {port} in it, and let the DHCP client run on {bridge}");
            }
        }
        text
    }

    /// Its files as they would have to be: those that change, and new ones.
    #[must_use]
    pub fn for_bridge(&self, port: &IfName, bridge: &IfName, mac: Option<Mac>) -> Vec<(String, String)> {
        match self.by {
            Manager::Ifupdown => {
                let of = |(path, text): &(String, String)| (path.clone(), for_bridge_utils(text, port, bridge));
                self.files.iter().map(of).collect()
            }
            Manager::Networkd => networkd::for_bridge(&self.followed(), port, bridge, mac),
            _ => Vec::new(),
        }
    }
}

/// interfaces(5): the stanzas of the port become the bridge's, with the port in it; the port itself is left to the
/// bridge.
fn for_bridge_utils(text: &str, port: &IfName, bridge: &IfName) -> String {
    let mut out = String::new();
    // The bridge's own options stand in the first stanza alone.
    let mut told = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = words.get(1..).unwrap_or_default();
        match words.first().copied() {
            Some("auto") if rest.contains(&port.as_str()) => {
                let names: Vec<&str> =
                    rest.iter().map(|n| if *n == port.as_str() { bridge.as_str() } else { n }).collect();
                let _ = writeln!(out, "auto {}", names.join(" "));
            }
            Some(allow) if allow.starts_with("allow-") && rest.contains(&port.as_str()) => {
                let others: Vec<&str> = rest.iter().copied().filter(|n| *n != port.as_str()).collect();
                if !others.is_empty() {
                    let _ = writeln!(out, "{allow} {}", others.join(" "));
                }
                // The bridge is no device that is found: it is made.
                let _ = writeln!(out, "auto {bridge}");
            }
            Some("iface") if rest.first() == Some(&port.as_str()) => {
                let _ = writeln!(out, "iface {bridge} {}", rest.get(1..).unwrap_or_default().join(" "));
                if !told {
                    told = true;
                    for option in ["bridge_ports", "bridge_hw"] {
                        let _ = writeln!(out, "    {option} {port}");
                    }
                    out.push_str("    bridge_stp off\n    bridge_fd 0\n    bridge_maxwait 0\n");
                }
            }
            // Lines that people run by name.
            Some(_) if indent > 0 && words.contains(&port.as_str()) => {
                let of = |word: &str| if word == port.as_str() { bridge.to_string() } else { word.to_owned() };
                let words: Vec<String> = words.iter().map(|word| of(word)).collect();
                let _ = writeln!(out, "{}{}", &line[..indent], words.join(" "));
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn managed(by: Manager, path: &str, text: &str) -> Managed {
        Managed::new(by, vec![(path.to_owned(), text.to_owned())])
    }

    #[test]
    fn the_note_s_interfaces_come_about() {
        let before = "# The loopback network interface\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    \
                      address 10.0.0.100\n    netmask 255.255.255.0\n    gateway 10.0.0.1\n    up ip route add 10.9.0.0/16 dev eth0\n\
                      iface eth0 inet6 auto\n";
        let after = for_bridge_utils(before, &name("eth0"), &name("br0"));
        let wanted = "# The loopback network interface\nauto lo\niface lo inet loopback\n\nauto br0\niface br0 inet static\n    \
                      bridge_ports eth0\n    bridge_hw eth0\n    bridge_stp off\n    bridge_fd 0\n    bridge_maxwait 0\n    \
                      address 10.0.0.100\n    netmask 255.255.255.0\n    gateway 10.0.0.1\n    up ip route add 10.9.0.0/16 dev br0\n\
                      iface br0 inet6 auto\n";
        assert_eq!(after, wanted);
    }

    #[test]
    fn a_hotplugged_interface_becomes_a_bridge_that_is_made() {
        let after = for_bridge_utils("allow-hotplug eth0 eth1\niface eth0 inet dhcp\n", &name("eth0"), &name("br0"));
        assert!(
            after.starts_with("allow-hotplug eth1\nauto br0\niface br0 inet dhcp\n    bridge_ports eth0\n"),
            "{after}"
        );
    }

    #[test]
    fn everybody_is_told_something() {
        for by in [Manager::Netplan, Manager::NetworkManager, Manager::DhcpClient, Manager::Somebody] {
            let text = managed(by, "/etc/netplan/50.yaml", "").what_to_write(&name("eth0"), &name("br0"), None);
            assert!(text.contains("br0") && text.contains("eth0"), "{text}");
        }
    }
}
