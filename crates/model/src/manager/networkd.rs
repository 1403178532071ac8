//! systemd.network(5) and systemd.netdev(5): files beside those that stand, which may be other interfaces', too. They come
//! first in the order of names, for the first that matches an interface is followed.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Holder, Managed};
use crate::address::{IfName, Mac};

mod matching;
pub use matching::may_fit;

/// What networkd follows on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The .network file and its drop-ins, in the order that they are read in.
    pub files: Vec<String>,
    /// The identity association that the interface's lease is of (RFC 4361), where it has one: by default it follows from
    /// the interface's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iaid: Option<u32>,
    /// The same of DHCPv6 (RFC 8415).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iaid6: Option<u32>,
}

/// Where what we write stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The bridge's making.
    pub device: String,
    /// What the bridge has in the interface's place.
    pub network: String,
    /// The interface as the bridge's port.
    pub port: String,
    /// In /run, until the next boot: what moved to the bridge is not taken off it.
    pub kept: String,
    /// In /run, for a moment: what moved back to the interface is not taken off it.
    pub interim: String,
    /// In /run, while we are up: the bridge is nobody's before the first of these is there, and once it is gone.
    pub unmanaged: String,
}

/// Where our files are kept.
const FOLDER: &str = "/etc/systemd/network";
/// Where those are that end with the next boot.
const RUN: &str = "/run/systemd/network";
const INTERIM: &str = ".interim-";
/// What a file begins with that has links of ours left alone.
const UNMANAGED: &str = "# warren: links of its own, left alone until `warren down`\n";

/// Sections that hold for a bridge as they do for an interface.
const SECTIONS: &[&str] = &[
    "Match",
    "Link",
    "Network",
    "Address",
    "Route",
    "RoutingPolicyRule",
    "Neighbor",
    "NextHop",
    "IPv6AddressLabel",
    "DHCP",
    "DHCPv4",
    "DHCPv6",
    "IPv6AcceptRA",
];

/// What of `[Link]` and `[Network]` does. Anything else may be about the device, and is not guessed at.
const CARRIED: [(&str, &[&str]); 2] = [
    (
        "Link",
        &["MTUBytes", "MACAddress", "ARP", "Multicast", "AllMulticast", "RequiredForOnline", "RequiredFamilyForOnline"],
    ),
    (
        "Network",
        &[
            "Description",
            "DHCP",
            "Address",
            "Gateway",
            "DNS",
            "DNSDefaultRoute",
            "DNSOverTLS",
            "DNSSEC",
            "DNSSECNegativeTrustAnchors",
            "Domains",
            "LLMNR",
            "MulticastDNS",
            "NTP",
            "LinkLocalAddressing",
            "DefaultRouteOnDevice",
            "IPv6AcceptRA",
            "IPv6PrivacyExtensions",
            "IPv6DuplicateAddressDetection",
            "IPv6HopLimit",
            "IPv6MTUBytes",
            "IPv6ProxyNDP",
            "IPv6ProxyNDPAddress",
            "IPForward",
            "IPv4Forwarding",
            "IPv6Forwarding",
            "IPv4AcceptLocal",
            "IPv4RouteLocalnet",
            "IPv4ProxyARP",
            "IPv4ReversePathFilter",
            "LLDP",
            "EmitLLDP",
            "KeepConfiguration",
            "ConfigureWithoutCarrier",
            "IgnoreCarrierLoss",
        ],
    ),
];

/// A line of such a file's.
struct Line<'a> {
    /// The section that it stands in.
    section: &'a str,
    /// As it stands.
    text: &'a str,
    /// What it assigns, and to which key.
    set: Option<(&'a str, &'a str)>,
}

/// Every line with the section that it stands in (systemd.syntax(7)).
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut section = "";
    text.lines().map(move |line| {
        let trimmed = line.trim();
        let comment = trimmed.starts_with(['#', ';']);
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            return Line { section, text: line, set: None };
        }
        let set = trimmed.split_once('=').filter(|_| !comment).map(|(key, value)| (key.trim(), value.trim()));
        Line { section, text: line, set }
    })
}

impl Follows {
    /// Where our files are; nothing where no name of ours comes before that of the file which is followed.
    #[must_use]
    pub fn names(&self, bridge: &IfName) -> Option<Names> {
        names(base(self.files.first()?), bridge)
    }
}

impl Names {
    /// Those that outlive a boot, in the order that they are written in: the one that makes the change is the last.
    #[must_use]
    pub fn files(&self) -> [&String; 3] {
        [&self.device, &self.network, &self.port]
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn names(followed: &str, bridge: &IfName) -> Option<Names> {
    let of = |prefix: &str| {
        let stem = format!("{prefix}-{bridge}");
        Names {
            device: format!("{FOLDER}/{stem}.netdev"),
            network: format!("{FOLDER}/{stem}.network"),
            port: format!("{FOLDER}/{stem}.port.network"),
            kept: format!("{RUN}/{stem}.network.d/warren.conf"),
            interim: format!("{RUN}/{stem}{INTERIM}{followed}"),
            unmanaged: format!("{RUN}/{stem}.unmanaged.network"),
        }
    };
    let comes_first =
        |names: &Names| names.files().into_iter().chain([&names.unmanaged]).all(|path| base(path) < followed);
    ["05", "00", "0", "!"].into_iter().map(of).find(comes_first)
}

/// The name of the file that our interim one stood for.
#[must_use]
pub fn stood_for(path: &str) -> Option<&str> {
    path.strip_prefix(RUN)?.split_once(INTERIM).map(|(_, followed)| followed)
}

/// The new files with their texts. `Err` says what is not understood well enough.
pub(super) fn take_over(
    managed: &Managed,
    port: &IfName,
    bridge: &IfName,
    mac: Mac,
) -> Result<Vec<(String, String)>, String> {
    let follows = managed.holders.iter().find_map(|holder| match holder {
        Holder::Networkd(follows) => Some(follows),
        _ => None,
    });
    let follows = follows.ok_or("it is not known what systemd-networkd follows")?;
    // netplan's own files stand with those that it has written for networkd.
    let is_followed = |(path, _): &&(String, String)| follows.files.contains(path);
    let files: Vec<(String, String)> = managed.files.iter().filter(is_followed).cloned().collect();
    let Some((path, _)) = files.first() else { return Err("the file that it follows is gone".to_owned()) };
    for (path, text) in &files {
        check(text).map_err(|why| format!("{path}: {why}"))?;
    }
    let names = follows.names(bridge).ok_or_else(|| format!("{path}: no name comes before that"))?;
    if let Some((other, _)) = managed.files.iter().find(|file| comes_first(file, &names, bridge, mac)) {
        return Err(format!(
            "{other} may fit {bridge}, too, and comes before {}: give it a name that comes after that",
            names.network
        ));
    }
    Ok(texts(&files, &names, port, bridge, Some(mac), (follows.iaid, follows.iaid6)))
}

/// Whether that is another's file which may be followed on the bridge in place of ours.
fn comes_first(file: &(String, String), names: &Names, bridge: &IfName, mac: Mac) -> bool {
    let (path, text) = file;
    let files = std::slice::from_ref(file);
    let is_anothers = |list: &str| !list.split_whitespace().any(|one| one.parse() == Ok(mac));
    path.ends_with(".network")
        && base(path) < base(&names.network)
        && !is_unmanaged(text)
        && may_fit(files, &[bridge])
        && !value(files, "Match", "MACAddress").is_some_and(is_anothers)
}

/// What to write by hand.
pub(super) fn for_bridge(
    files: &[(String, String)],
    port: &IfName,
    bridge: &IfName,
    mac: Option<Mac>,
) -> Vec<(String, String)> {
    let followed = files.first().map_or("~", |(path, _)| base(path));
    names(followed, bridge).map_or_else(Vec::new, |names| texts(files, &names, port, bridge, mac, (None, None)))
}

fn texts(
    files: &[(String, String)],
    names: &Names,
    port: &IfName,
    bridge: &IfName,
    mac: Option<Mac>,
    (iaid, iaid6): (Option<u32>, Option<u32>),
) -> Vec<(String, String)> {
    let address = mac.map(|mac| format!("MACAddress={mac}\n")).unwrap_or_default();
    let mtu = value(files, "Link", "MTUBytes").map(|mtu| format!("MTUBytes={mtu}\n"));
    let device = format!(
        "[NetDev]\nName={bridge}\nKind=bridge\n{address}{}\n[Bridge]\nSTP=no\nForwardDelaySec=0\nMulticastSnooping=no\n",
        mtu.as_deref().unwrap_or_default()
    );
    let mtu = mtu.map(|mtu| format!("\n[Link]\n{mtu}")).unwrap_or_default();
    let plugged = format!("[Match]\nName={port}\n{mtu}\n[Network]\nBridge={bridge}\n");
    let mut text = format!("[Match]\nName={bridge}\n\n{}", settings(files, Some((port, bridge))));
    let by_name = !matches!(value(files, "DHCPv4", "ClientIdentifier"), Some("mac" | "duid-only"));
    for (section, iaid, applies) in [("DHCPv4", iaid, by_name), ("DHCPv6", iaid6, true)] {
        if let (Some(iaid), true, None) = (iaid, applies, value(files, section, "IAID")) {
            let _ = write!(text, "\n[{section}]\n# {port}'s, by which it is known to who leases.\nIAID={iaid}\n");
        }
    }
    vec![(names.device.clone(), device), (names.network.clone(), text), (names.port.clone(), plugged)]
}

/// What is said beside `[Match]`, of all the files; with the bridge in the interface's place where it is named.
fn settings(files: &[(String, String)], renamed: Option<(&IfName, &IfName)>) -> String {
    let mut out = String::new();
    for (_, text) in files {
        for line in lines(text).filter(|line| line.section != "Match") {
            let renamed = renamed.zip(line.set).filter(|((port, _), (key, value))| {
                matches!(*key, "IncomingInterface" | "OutgoingInterface") && *value == port.as_str()
            });
            let _ = match renamed {
                Some(((_, bridge), (key, _))) => writeln!(out, "{key}={bridge}"),
                None => writeln!(out, "{}", line.text),
            };
        }
    }
    out
}

/// What the interface is to follow until the next boot, or until somebody has networkd read its files again: what it
/// followed before, and nothing that it bears is taken off it, nor itself out of its bridge.
#[must_use]
pub fn interim(files: &[(String, String)], port: &IfName) -> String {
    let local = match value(files, "Network", "LinkLocalAddressing") {
        // What is left in its bridge has none unless told.
        None => "LinkLocalAddressing=ipv6\n",
        Some(_) => "",
    };
    format!(
        "[Match]\nName={port}\n\n{}\n[Network]\nKeepConfiguration=yes\nKeepMaster=yes\n{local}",
        settings(files, None)
    )
}

/// The same where it is read again: what networkd has leased itself meanwhile it keeps by another word alone
/// (`KeepConfiguration=yes` is for what it finds).
#[must_use]
pub fn interim_again(files: &[(String, String)], port: &IfName) -> String {
    interim(files, port).replace("KeepConfiguration=yes", "KeepConfiguration=dhcp")
}

/// Whether it leases an IPv4 address there.
#[must_use]
pub fn leases(files: &[(String, String)]) -> bool {
    matches!(value(files, "Network", "DHCP"), Some("yes" | "true" | "on" | "1" | "ipv4" | "both"))
}

/// For as long as the interface moves.
#[must_use]
pub fn alone(port: &IfName) -> String {
    format!("[Match]\nName={port}\n\n[Link]\nUnmanaged=yes\n")
}

/// Has links of ours left alone, whatever else fits them: a DHCP client on a bridge or on a guest's port would take the
/// host's addresses and routes from who sits there.
#[must_use]
pub fn unmanaged<'a>(links: impl IntoIterator<Item = &'a IfName>) -> String {
    // What is more than a letter in a pattern stands for any one.
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.@+".contains(c) { c } else { '?' };
    let names: Vec<String> = links.into_iter().map(|link| link.as_str().chars().map(plain).collect()).collect();
    format!("{UNMANAGED}[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n", names.join(" "))
}

/// Where that stands, before every one of those files.
#[must_use]
pub fn unmanaged_path<'a>(others: impl IntoIterator<Item = &'a String>) -> String {
    let first = others.into_iter().map(|path| base(path)).min();
    let comes_first = |name: &&&str| first.is_none_or(|first| **name < first);
    let name = ["00-warren.network", "0-warren.network", "!warren.network"];
    format!("{RUN}/{}", name.iter().find(comes_first).unwrap_or(&name[2]))
}

/// Whether a file is one of those.
#[must_use]
pub fn is_unmanaged(text: &str) -> bool {
    text.starts_with(UNMANAGED)
}

/// That what moved to the bridge stays there until networkd has it from who leases.
#[must_use]
pub fn kept() -> &'static str {
    "# warren: until the next boot\n[Network]\nKeepConfiguration=yes\n"
}

/// A key's value: the last one counts.
fn value<'a>(files: &'a [(String, String)], section: &str, key: &str) -> Option<&'a str> {
    // The older name of the one.
    let is_it = |line: &Line<'_>| line.section == section || (section == "DHCPv4" && line.section == "DHCP");
    let all = files.iter().flat_map(|(_, text)| lines(text)).filter(is_it);
    all.filter_map(|line| line.set).filter(|(name, _)| *name == key).map(|(_, value)| value).last()
}

fn check(text: &str) -> Result<(), String> {
    for line in lines(text) {
        if line.text.trim_end().ends_with('\\') {
            return Err(format!("`{}` goes on in the next line", line.text.trim()));
        }
        let section = line.section;
        if !SECTIONS.contains(&section) && (line.set.is_some() || line.text.trim().starts_with('[')) {
            return Err(format!("[{section}] is not known to hold for a bridge as well"));
        }
        let Some((key, value)) = line.set else { continue };
        let unknown = CARRIED.iter().any(|(of, keys)| *of == section && !keys.contains(&key));
        // What follows from the interface's name would be another on the bridge.
        let by_name = section == "IPv6AcceptRA" && key == "Token" && value.starts_with("prefixstable");
        if unknown || by_name {
            return Err(format!("`{}` in [{section}] is not known to hold for a bridge as well", line.text.trim()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Manager;

    const LEASED: &str = "# The office\n[Match]\nName=eth0\nMACAddress=02:00:00:00:00:01\n\n[Network]\nDHCP=yes\n";

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn managed(path: &str, text: &str) -> Managed {
        let follows = Follows { files: vec![path.to_owned()], iaid: Some(7), iaid6: None };
        let files = vec![(path.to_owned(), text.to_owned())];
        Managed { holders: vec![Holder::Networkd(follows)], ..Managed::new(Manager::Networkd, files) }
    }

    fn taken(text: &str) -> Result<Vec<(String, String)>, String> {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        take_over(&managed("/etc/systemd/network/10-lan.network", text), &name("eth0"), &name("br0"), mac)
    }

    #[test]
    fn three_files_make_the_bridge() {
        let after = taken(LEASED).unwrap();
        let paths: Vec<&str> = after.iter().map(|(path, _)| base(path)).collect();
        // In this order they are written, and read: the interface is the bridge's once there is one.
        assert_eq!(paths, ["05-br0.netdev", "05-br0.network", "05-br0.port.network"]);
        assert!(paths.is_sorted() && paths.iter().all(|path| *path < "10-lan.network"));
        assert!(after[0].1.contains("Kind=bridge\nMACAddress=02:00:00:00:00:01\n"), "{}", after[0].1);
        assert_eq!(
            after[1].1,
            "[Match]\nName=br0\n\n# The office\n[Network]\nDHCP=yes\n\n[DHCPv4]\n# eth0's, by which it is known to who \
             leases.\nIAID=7\n"
        );
        assert_eq!(after[2].1, "[Match]\nName=eth0\n\n[Network]\nBridge=br0\n");
        // An identity that is said, or is none of a name's, stays.
        for own in ["[DHCPv4]\nIAID=9\n", "[DHCPv4]\nClientIdentifier=mac\n", "[DHCP]\nClientIdentifier=mac\n"] {
            let after = taken(&format!("{LEASED}\n{own}")).unwrap();
            assert!(after[1].1.ends_with(own), "{}", after[1].1);
        }
        let after = taken(&format!("{LEASED}[RoutingPolicyRule]\nIncomingInterface=eth0\n[Link]\nMTUBytes=1400\n"));
        let after = after.unwrap();
        assert!(after[1].1.contains("\nIncomingInterface=br0\n[Link]\nMTUBytes=1400\n"), "{}", after[1].1);
        assert!(after[2].1.contains("[Link]\nMTUBytes=1400\n") && after[0].1.contains("MTUBytes=1400\n"));
    }

    #[test]
    fn ours_come_first_or_not_at_all() {
        for (followed, ours) in
            [("10-lan.network", "05-"), ("01-all.network", "00-"), ("00-all.network", "0-"), ("0-a.network", "!-")]
        {
            let names = names(followed, &name("br0")).unwrap();
            assert!(
                names.files().iter().all(|path| base(path).starts_with(ours) && base(path) < followed),
                "{names:?}"
            );
            assert!(base(&names.interim) < base(&names.port), "{names:?}");
            assert!(base(&names.unmanaged) > base(&names.network) && base(&names.unmanaged) < followed, "{names:?}");
            assert_eq!(stood_for(&names.interim), Some(followed));
        }
        assert_eq!(names("!!.network", &name("br0")), None);
    }

    #[test]
    fn what_would_be_followed_on_the_bridge_instead_is_told() {
        for (path, text, is_told) in [
            ("/etc/systemd/network/01-bridges.network", "[Match]\nName=br*\n", true),
            ("/etc/systemd/network/01-mac.network", "[Match]\nMACAddress=02:00:00:00:00:01\nName=b*\n", true),
            ("/etc/systemd/network/06-bridges.network", "[Match]\nName=br*\n", false),
            ("/etc/systemd/network/01-other.network", "[Match]\nName=eth1\n", false),
            ("/etc/systemd/network/01-other.network", "[Match]\nMACAddress=02:00:00:00:00:02\n", false),
        ] {
            let mut managed = managed("/etc/systemd/network/10-lan.network", LEASED);
            managed.files.push((path.to_owned(), text.to_owned()));
            let mac = "02:00:00:00:00:01".parse().unwrap();
            let said = take_over(&managed, &name("eth0"), &name("br0"), mac);
            assert_eq!(said.is_err_and(|why| why.contains(path)), is_told, "{path}: {text}");
        }
    }

    #[test]
    fn links_of_ours_are_left_alone_by_name() {
        let text = unmanaged([&name("br1"), &name("!a[b]")]);
        assert!(text.ends_with("[Match]\nName=br1 ?a?b?\n\n[Link]\nUnmanaged=yes\n") && is_unmanaged(&text), "{text}");
        assert!(!is_unmanaged("[Match]\nName=br1\n[Link]\nUnmanaged=yes\n"));
        for (others, ours) in [
            (vec![], "00-warren.network"),
            (vec!["/etc/systemd/network/20-a.network", "/run/systemd/network/01-b.network"], "00-warren.network"),
            (vec!["/etc/systemd/network/00-a.network"], "0-warren.network"),
            (vec!["/etc/systemd/network/0-a.network"], "!warren.network"),
        ] {
            let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
            assert_eq!(unmanaged_path(&others), format!("{RUN}/{ours}"));
        }
    }

    #[test]
    fn what_is_not_understood_is_not_touched() {
        for (text, why) in [
            ("[Match]\nName=eth0\n[Network]\nVLAN=office\n", "`VLAN=office` in [Network]"),
            ("[Match]\nName=eth0\n[Network]\nBond=bond0\n", "`Bond=bond0`"),
            ("[Match]\nName=eth0\n[Link]\nActivationPolicy=manual\n", "ActivationPolicy"),
            ("[Match]\nName=eth0\n[SR-IOV]\nVirtualFunction=0\n", "[SR-IOV]"),
            ("[Match]\nName=eth0\n[IPv6AcceptRA]\nToken=prefixstable\n", "prefixstable"),
            ("[Match]\nName=eth0\n[Network]\nAddress=10.0.0.1/24 \\\n", "goes on"),
        ] {
            let said = taken(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        // Whatever it is that fits the interface: ours come first, for it and for the bridge alone.
        for matches in
            ["Name=en* eth*", "Name=*", "MACAddress=02:00:00:00:00:01", "Type=ether", "Path=pci-*", "Name=!b*"]
        {
            let after = taken(&format!("[Match]\n{matches}\n[Network]\nDHCP=yes\n")).unwrap();
            assert!(after[1].1.starts_with("[Match]\nName=br0\n") && !after[1].1.contains(matches), "{}", after[1].1);
            assert!(after[2].1.starts_with("[Match]\nName=eth0\n"), "{}", after[2].1);
        }
    }
}
