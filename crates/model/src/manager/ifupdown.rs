//! interfaces(5), rewritten so that ifupdown makes the bridge itself, and the interface is plugged into it whenever it
//! comes. `ip` is all that it takes: not everybody has bridge-utils, whose scripts `bridge_ports` is for.

use std::fmt::Write as _;

use crate::address::{IfName, Mac};
use crate::state::ALIAS_IN_PLACE_OF;

/// What a stanza may say that holds for a bridge as it does for an interface. Anything else may be about the device
/// (bonding, Wi-Fi, offloads), and is not guessed at.
const CARRIED: &[&str] = &[
    "address",
    "netmask",
    "gateway",
    "broadcast",
    "network",
    "pointopoint",
    "metric",
    "mtu",
    "hwaddress",
    "scope",
    "up",
    "pre-up",
    "post-up",
    "down",
    "pre-down",
    "post-down",
    "hostname",
    "leasehours",
    "leasetime",
    "vendor",
    "client",
    "privext",
    "accept_ra",
    "autoconf",
    "dad-attempts",
    "dad-interval",
    "preferred-lifetime",
    "ll-attempts",
    "ll-interval",
];

/// Programs whose lines are about the device itself.
const OF_THE_DEVICE: &[&str] = &["ethtool", "tc", "mii-tool", "iw", "iwconfig"];

/// The files with their new texts. `Err` says what of them is not understood well enough.
pub(super) fn take_over(
    files: &[(String, String)],
    port: &IfName,
    bridge: &IfName,
    mac: Mac,
) -> Result<Vec<(String, String)>, String> {
    let mut rewriting = Rewriting { port: port.as_str(), bridge: bridge.as_str(), mac, mtu: None, told: false };
    for (path, text) in files {
        rewriting.check(text).map_err(|why| format!("{path}: {why}"))?;
    }
    Ok(files.iter().map(|(path, text)| (path.clone(), rewriting.file(text))).collect())
}

/// Whether some stanza of the interface's has a DHCP client, for that family (`inet`, `inet6`).
pub(super) fn leases(files: &[(String, String)], port: &IfName, family: &str) -> bool {
    files.iter().any(|(_, text)| {
        stanzas(text, port.as_str()).any(|words| words.get(2) == Some(&family) && words.get(3) == Some(&"dhcp"))
    })
}

fn stanzas<'a>(text: &'a str, port: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(move |words| words.first() == Some(&"iface") && words.get(1).is_some_and(|name| is_it(name, port)))
}

/// The interface, or one of its aliases (`eth0:1`).
fn is_it(name: &str, port: &str) -> bool {
    name.strip_prefix(port).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// What begins a stanza, or stands by itself.
fn is_header(word: &str) -> bool {
    matches!(word, "iface" | "mapping" | "auto" | "source" | "source-directory" | "template" | "rename")
        || word.starts_with("no-auto")
        || word.starts_with("no-scripts")
        || word.starts_with("allow-")
}

struct Rewriting<'a> {
    port: &'a str,
    bridge: &'a str,
    mac: Mac,
    /// What the port's frames may hold at most, where it is told.
    mtu: Option<String>,
    /// Whether the bridge's making stands somewhere by now: its first stanza has it.
    told: bool,
}

impl Rewriting<'_> {
    /// Nothing is rewritten that is not understood whole.
    fn check(&mut self, text: &str) -> Result<(), String> {
        let mut within = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(first) = words.first().copied().filter(|word| !word.starts_with('#')) else { continue };
            let names_it = words.iter().any(|word| is_it(word, self.port));
            if is_header(first) {
                within = first == "iface" && words.get(1).is_some_and(|name| is_it(name, self.port));
                let about = format!("`{}`", line.trim());
                if names_it && line.trim_end().ends_with('\\') {
                    return Err(format!("{about} goes on in the next line"));
                }
                if names_it && matches!(first, "mapping" | "template" | "rename") {
                    return Err(format!("{about} is not understood"));
                }
                if within {
                    let known = matches!(
                        words.get(2..).unwrap_or_default(),
                        ["inet", "static" | "dhcp" | "manual"] | ["inet6", "static" | "auto" | "dhcp" | "manual"]
                    );
                    if !known {
                        return Err(format!(
                            "{about}: only inet static, dhcp and manual, and inet6 static, auto, dhcp and manual are"
                        ));
                    }
                }
                continue;
            }
            if !within {
                continue;
            }
            if !CARRIED.contains(&first) && !first.starts_with("dns-") {
                return Err(format!("`{first}` is not known to hold for a bridge as well"));
            }
            if first == "mtu" {
                self.mtu = words.get(1).map(|mtu| (*mtu).to_owned());
            }
            if first == "hwaddress" && words.contains(&"random") {
                return Err("a random hardware address cannot be the bridge's, too".to_owned());
            }
        }
        Ok(())
    }

    fn file(&mut self, text: &str) -> String {
        let mut out = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let rest = words.get(1..).unwrap_or_default();
            let names_it = rest.iter().any(|word| is_it(word, self.port));
            match words.first().copied() {
                Some(first) if names_it && (first == "auto" || first == "allow-auto" || first.starts_with("no-")) => {
                    let _ = writeln!(out, "{first} {}", self.both(rest).join(" "));
                }
                Some(first) if names_it && first.starts_with("allow-") => self.begin(&mut out, first, rest),
                Some("iface") if rest.first().is_some_and(|name| is_it(name, self.port)) => self.stanza(&mut out, rest),
                // Lines that people run by name.
                Some(first) if names_it && CARRIED.contains(&first) && !is_of_the_device(rest) => {
                    let indent = &line[..line.len() - line.trim_start().len()];
                    let words: Vec<String> = words.iter().map(|word| self.renamed(word)).collect();
                    let _ = writeln!(out, "{indent}{}", words.join(" "));
                }
                _ => {
                    let _ = writeln!(out, "{line}");
                }
            }
        }
        out
    }

    /// `eth0` is itself and the bridge, `eth0:1` is the bridge's.
    fn both(&self, names: &[&str]) -> Vec<String> {
        let of = |name: &&str| {
            if *name == self.port {
                vec![self.port.to_owned(), self.bridge.to_owned()]
            } else {
                vec![self.renamed(name)]
            }
        };
        names.iter().flat_map(of).collect()
    }

    /// The bridge is no device that is found: it is made.
    fn begin(&self, out: &mut String, class: &str, names: &[&str]) {
        let is_alias = |name: &&&str| is_it(name, self.port) && **name != self.port;
        let stay: Vec<&str> = names.iter().filter(|name| !is_alias(name)).copied().collect();
        if !stay.is_empty() {
            let _ = writeln!(out, "{class} {}", stay.join(" "));
        }
        let made: Vec<String> =
            names.iter().filter(|name| is_it(name, self.port)).map(|name| self.renamed(name)).collect();
        let _ = writeln!(out, "auto {}", made.join(" "));
    }

    fn stanza(&mut self, out: &mut String, rest: &[&str]) {
        let (port, bridge) = (self.port, self.bridge);
        let is_own = rest.first() == Some(&port);
        if is_own && !self.told {
            let _ = writeln!(
                out,
                "# warren: {bridge} in place of {port} ([host] take-over); `warren down` puts back what stood here"
            );
            let _ = writeln!(out, "iface {port} inet manual");
            let _ = writeln!(out, "    pre-up ip link set dev {port} addrgenmode none || true");
            let _ = writeln!(out, "    pre-up ip -6 address flush dev {port} || true");
            if let Some(mtu) = &self.mtu {
                let _ = writeln!(out, "    up ip link set dev {port} mtu {mtu}");
            }
            let _ = writeln!(out, "    up ip link set dev {port} up");
            let _ = writeln!(
                out,
                "    up ! ip link show dev {bridge} > /dev/null 2>&1 || ip link set dev {port} master {bridge}"
            );
        }
        let _ = writeln!(
            out,
            "iface {} {}",
            self.renamed(rest.first().unwrap_or(&"")),
            rest.get(1..).unwrap_or_default().join(" ")
        );
        if is_own && !self.told {
            self.told = true;
            let _ = writeln!(
                out,
                "    pre-up ip link show dev {bridge} > /dev/null 2>&1 || ip link add name {bridge} address {} type bridge \
                 stp_state 0 forward_delay 0 mcast_snooping 0",
                self.mac
            );
            let _ = writeln!(out, "    pre-up ip link set dev {bridge} alias \"{ALIAS_IN_PLACE_OF}{port}\"");
            let _ = writeln!(
                out,
                "    pre-up ! ip link show dev {port} > /dev/null 2>&1 || ip link set dev {port} up master {bridge}"
            );
        }
    }

    fn renamed(&self, word: &str) -> String {
        match word.strip_prefix(self.port) {
            Some(rest) if rest.is_empty() || rest.starts_with(':') => format!("{}{rest}", self.bridge),
            _ => word.to_owned(),
        }
    }
}

fn is_of_the_device(command: &[&str]) -> bool {
    let name = |word: &&str| word.rsplit('/').next().is_some_and(|name| OF_THE_DEVICE.contains(&name));
    command.iter().any(|word| name(word) || word.starts_with("/sys/class/net/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rewritten(text: &str) -> Result<String, String> {
        let files = [("interfaces".to_owned(), text.to_owned())];
        let (port, bridge) = (IfName::new("eth0").unwrap(), IfName::new("br0").unwrap());
        let mac = "02:00:00:00:00:01".parse().unwrap();
        take_over(&files, &port, &bridge, mac).map(|mut files| files.remove(0).1)
    }

    #[test]
    fn the_stanzas_become_the_bridges_and_the_rest_stays() {
        let before = "# The loopback\nauto lo eth0 eth0:1 eth01\niface lo inet loopback\n\nsource interfaces.d/*\n\n\
                      # The office\niface eth0 inet static\n\taddress 10.0.0.100/24\n\tgateway 10.0.0.1\n\tmtu 1400\n\
                      \tup ip route add 10.9.0.0/16 dev eth0\n\tup ethtool -K eth0 tso off\n\niface eth0 inet6 static\n    \
                      address 2001:db8::1/64\niface eth0:1 inet static\n    address 10.0.0.101/24\niface eth01 inet manual\n";
        let wanted = "# The loopback\nauto lo eth0 br0 br0:1 eth01\niface lo inet loopback\n\nsource interfaces.d/*\n\n\
                      # The office\n\
                      # warren: br0 in place of eth0 ([host] take-over); `warren down` puts back what stood here\n\
                      iface eth0 inet manual\n    pre-up ip link set dev eth0 addrgenmode none || true\n    \
                      pre-up ip -6 address flush dev eth0 || true\n    up ip link set dev eth0 mtu 1400\n    \
                      up ip link set dev eth0 up\n    \
                      up ! ip link show dev br0 > /dev/null 2>&1 || ip link set dev eth0 master br0\n\
                      iface br0 inet static\n    \
                      pre-up ip link show dev br0 > /dev/null 2>&1 || ip link add name br0 address 02:00:00:00:00:01 type bridge \
                      stp_state 0 forward_delay 0 mcast_snooping 0\n    \
                      pre-up ip link set dev br0 alias \"warren: bridged LAN in place of eth0\"\n    \
                      pre-up ! ip link show dev eth0 > /dev/null 2>&1 || ip link set dev eth0 up master br0\n\
                      \taddress 10.0.0.100/24\n\tgateway 10.0.0.1\n\tmtu 1400\n\
                      \tup ip route add 10.9.0.0/16 dev br0\n\tup ethtool -K eth0 tso off\n\niface br0 inet6 static\n    \
                      address 2001:db8::1/64\niface br0:1 inet static\n    address 10.0.0.101/24\niface eth01 inet manual\n";
        assert_eq!(rewritten(before).unwrap(), wanted);
    }

    #[test]
    fn what_comes_by_itself_goes_on_to_and_the_bridge_is_made() {
        let after = rewritten("allow-hotplug eth0 eth1 eth0:7\niface eth0 inet dhcp\n").unwrap();
        assert!(after.starts_with("allow-hotplug eth0 eth1\nauto br0 br0:7\n"), "{after}");
        assert!(after.contains("iface br0 inet dhcp\n    pre-up"), "{after}");
    }

    #[test]
    fn what_is_not_understood_is_not_touched() {
        for (text, why) in [
            ("iface eth0 inet dhcp\n  wpa-ssid home\n", "`wpa-ssid`"),
            ("iface eth0 inet static\n  bond-master bond0\n", "`bond-master`"),
            ("iface eth0 inet6 dhcp\n  request_prefix 1\n", "`request_prefix`"),
            ("iface eth0 inet6 v4tunnel\n", "inet6 v4tunnel`"),
            ("iface eth0 inet ppp\n", "inet ppp`"),
            ("iface eth0 inet static inherits lan\n", "inherits"),
            ("mapping eth0\n  script /bin/true\n", "`mapping eth0`"),
            ("auto lo \\\n  eth0\nauto eth0 \\\n eth1\niface eth0 inet dhcp\n", "goes on"),
            ("iface eth0 inet static\n  hwaddress random\n", "random"),
        ] {
            let said = rewritten(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        // Of others' stanzas nothing has to be understood.
        let theirs = "iface wlan0 inet dhcp\n  wpa-ssid home\niface eth1 inet6 dhcp\nmapping eth1\n  script x\n";
        assert_eq!(rewritten(theirs).unwrap(), theirs);
    }
}
