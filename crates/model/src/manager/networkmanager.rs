//! NetworkManager's connection of an interface (nm-settings-keyfile(5), nm-settings-nmcli(5)), rewritten as a bridge's,
//! with a second one that plugs the interface in.
//!
//! What NetworkManager makes of an interface's name or of a connection's kind by itself (the metric of its routes, the
//! client identifier of its lease, the addresses that it forms) is written down as it is on the interface.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::keyfile::{Keyfile, Section};
use crate::address::{IfName, Mac};

/// Where connections stand that outlive a boot, and may be changed.
pub const CONNECTIONS: &str = "/etc/NetworkManager/system-connections";

/// The metric of an Ethernet interface's routes where none is told (nm-settings-nmcli(5), `ipv4.route-metric`).
const METRIC: u32 = 100;

/// What NetworkManager has at work on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// The command line that it runs by.
    pub line: Vec<String>,
    /// Its connection's UUID.
    pub uuid: String,
    /// The file that netplan writes the connection to, with each boot anew: it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by_netplan: Option<String>,
    /// The metric of its routes, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The client identifier of its lease, in hexadecimal with colons (RFC 2132, section 9.14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The DUID of its DHCPv6 lease, and the identity association's number (RFC 8415, sections 11 and 21.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client6: Option<(String, u32)>,
    /// The IPv6 addresses that are made of a prefix and something of its own: its link-local one, and those under what
    /// routers advertise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formed: Vec<Ipv6Addr>,
    /// IPv6 addresses of its own that are leased, or told (128 bits long).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub single: Vec<Ipv6Addr>,
}

impl Active {
    /// The UUID of its connection of the bridge: the interface's, but where that stays.
    #[must_use]
    pub fn of_bridge(&self, bridge: &IfName) -> String {
        match self.written_by_netplan {
            Some(_) => derived(&[&self.uuid, bridge.as_str()]),
            None => self.uuid.clone(),
        }
    }

    /// The UUID of its connection of the interface as the bridge's port.
    #[must_use]
    pub fn of_port(&self, port: &IfName, bridge: &IfName) -> String {
        derived(&[&self.uuid, bridge.as_str(), port.as_str()])
    }
}

/// A UUID of the form that is anybody's own (RFC 9562, section 5.8), the same for the same words.
fn derived(words: &[&str]) -> String {
    let digest = sha2::Sha256::digest(words.join("\n").as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Keys of `[connection]` that hold for a bridge as they do for an interface.
const CARRIED: &[&str] = &[
    "id",
    "uuid",
    "type",
    "interface-name",
    "autoconnect",
    "autoconnect-priority",
    "autoconnect-retries",
    "timestamp",
    "permissions",
    "zone",
    "metered",
    "mdns",
    "llmnr",
    "dns-over-tls",
    "stable-id",
    "gateway-ping-timeout",
    "wait-device-timeout",
    "wait-activation-delay",
    "auth-retries",
    "read-only",
    "secondaries",
    "multi-connect",
];

/// The connection of the bridge, in place of the interface's or beside what netplan writes, and the one of the interface
/// as its port, which comes before any other. `Err` says what of it cannot be, or is not known to be, a bridge's.
pub(super) fn take_over(
    files: &[(String, String)],
    active: &Active,
    port: &IfName,
    bridge: &IfName,
    mac: Mac,
) -> Result<Vec<(String, String)>, String> {
    let is_it = |(path, _): &&(String, String)| active.written_by_netplan.as_ref().is_none_or(|other| other == path);
    let (path, text) = match files.iter().filter(is_it).collect::<Vec<_>>().as_slice() {
        [one] => *one,
        _ => return Err("its connection's file is not known".to_owned()),
    };
    let before = Keyfile::read(text);
    check(&before).map_err(|why| format!("{path}: {why}"))?;
    let bridges = of_bridge(&before, active, port, bridge, mac).map_err(|why| format!("{path}: {why}"))?;
    let ports = of_port(&before, active, port, bridge);
    let plugged = format!("{CONNECTIONS}/{bridge}-{port}.nmconnection");
    let bridged = match active.written_by_netplan {
        Some(_) => format!("{CONNECTIONS}/{bridge}.nmconnection"),
        None => path.clone(),
    };
    Ok(vec![(bridged, bridges.text()), (plugged, ports.text())])
}

fn check(file: &Keyfile) -> Result<(), String> {
    if !matches!(file.value("connection", "type"), Some("ethernet" | "802-3-ethernet")) {
        let kind = file.value("connection", "type").unwrap_or("nothing");
        return Err(format!("`type={kind}`: only an Ethernet connection is rewritten"));
    }
    for section in file.sections() {
        for (key, value) in section.entries() {
            check_key(&section.name, key, value)?;
        }
    }
    for family in ["ipv4", "ipv6"] {
        if file.section(family).is_some_and(|section| section.value("method").is_none()) {
            return Err(format!("`[{family}]` says no method"));
        }
    }
    Ok(())
}

fn check_key(section: &str, key: &str, value: &str) -> Result<(), String> {
    let unknown = || format!("`{key}` in [{section}] is not known to hold for a bridge as well");
    match section {
        "connection" if key == "multi-connect" && !matches!(value, "0" | "1") => {
            Err("`multi-connect`: it is for several interfaces".to_owned())
        }
        "connection" if !CARRIED.contains(&key) => Err(unknown()),
        "ethernet" | "802-3-ethernet" => match key {
            "cloned-mac-address" if !matches!(value, "preserve" | "permanent") => {
                Err(format!("`cloned-mac-address={value}`: the bridge has the interface's own hardware address"))
            }
            key if key.starts_with("s390-") => Err(unknown()),
            _ => Ok(()),
        },
        "ipv4" | "ipv6" if key == "method" && value == "shared" => {
            Err("`method=shared` makes a router of it".to_owned())
        }
        "connection" | "ipv4" | "ipv6" | "ethtool" | "match" | "proxy" | "user" | "hostname" | ".nmmeta" | "" => Ok(()),
        _ => Err(format!("`[{section}]` is not known to hold for a bridge as well")),
    }
}

fn of_bridge(before: &Keyfile, active: &Active, port: &IfName, bridge: &IfName, mac: Mac) -> Result<Keyfile, String> {
    let mut after = Keyfile::default();
    for section in before.sections() {
        match section.name.as_str() {
            "ethernet" | "802-3-ethernet" => {
                after.push(own(mac));
                if let Some(mtu) = section.value("mtu") {
                    let mut ethernet = Section::named("ethernet");
                    ethernet.set("mtu", mtu);
                    after.push(ethernet);
                }
            }
            "ethtool" | "match" | ".nmmeta" => {}
            _ => after.push(section.clone()),
        }
    }
    let connection = after.section_mut("connection");
    if active.written_by_netplan.is_some() {
        connection.remark(&format!(
            "warren: {bridge} in place of {port} ([host] take-over), by what netplan says of that; `warren down` takes \
             this file away"
        ));
        connection.set("id", bridge.as_str());
        connection.set("uuid", &active.of_bridge(bridge));
    } else {
        connection.remark(&format!(
            "warren: {bridge} in place of {port} ([host] take-over); `warren down` puts back what stood here"
        ));
    }
    connection.set("type", "bridge");
    connection.set("interface-name", bridge.as_str());
    connection.set("autoconnect-slaves", "1");
    if after.section("bridge").is_none() {
        after.push(own(mac));
    }
    of_ipv4(after.section_mut("ipv4"), active)?;
    of_ipv6(after.section_mut("ipv6"), active, mac)?;
    Ok(after)
}

/// As warren makes its bridges.
fn own(mac: Mac) -> Section {
    let mut section = Section::named("bridge");
    section.set("stp", "false");
    section.set("multicast-snooping", "false");
    section.set("mac-address", &mac.to_string());
    section
}

fn of_ipv4(section: &mut Section, active: &Active) -> Result<(), String> {
    let method = section.value("method").unwrap_or("auto").to_owned();
    section.set("method", &method);
    with_metric(section, &method, active);
    if method == "auto" {
        let client = active.client.as_ref().ok_or("the client identifier of its lease is not known")?;
        section.set("dhcp-client-id", client);
    }
    Ok(())
}

/// Written where it would be the kind's.
fn with_metric(section: &mut Section, method: &str, active: &Active) {
    let told = section.value("route-metric").is_some_and(|metric| metric != "-1");
    if !told && !matches!(method, "disabled" | "ignore") {
        section.set("route-metric", &active.metric.unwrap_or(METRIC).to_string());
    }
}

fn of_ipv6(section: &mut Section, active: &Active, mac: Mac) -> Result<(), String> {
    let method = section.value("method").unwrap_or("auto").to_owned();
    section.set("method", &method);
    if matches!(method.as_str(), "disabled" | "ignore") {
        return Ok(());
    }
    with_metric(section, &method, active);
    let told: Vec<Ipv6Addr> = section
        .entries()
        .filter(|(key, _)| key.strip_prefix("address").is_some_and(|n| n.parse::<u32>().is_ok()))
        .filter_map(|(_, value)| value.split(['/', ',']).next()?.parse().ok())
        .collect();
    if let Some((duid, association)) = &active.client6 {
        section.set("dhcp-duid", duid);
        section.set("dhcp-iaid", &association.to_string());
    } else if method == "dhcp" || (method == "auto" && active.single.iter().any(|address| !told.contains(address))) {
        return Err("the client identifier of its DHCPv6 lease is not known".to_owned());
    }
    let formed = active.formed.iter().filter(|address| !told.contains(address));
    let by_mac = |address: &Ipv6Addr| mac.address_in(*address) == *address;
    let (local, global): (Vec<Ipv6Addr>, Vec<Ipv6Addr>) =
        formed.copied().partition(|address| address.is_unicast_link_local());
    // stable-privacy has the interface's name in it (RFC 7217): what it made is written down.
    section.set("addr-gen-mode", "eui64");
    if let Some(first) = global.iter().find(|address| !by_mac(address)) {
        if global.iter().any(|other| tail(*other) != tail(*first)) {
            return Err("its IPv6 addresses under different prefixes end differently (addr-gen-mode)".to_owned());
        }
        let [a, b, c, d] = tail(*first);
        section.set("token", &Ipv6Addr::new(0, 0, 0, 0, a, b, c, d).to_string());
    }
    for (address, number) in local.iter().filter(|address| !by_mac(address)).zip(free(section)) {
        section.set(&format!("address{number}"), &format!("{address}/64"));
    }
    Ok(())
}

/// What of an address is the interface's own.
fn tail(address: Ipv6Addr) -> [u16; 4] {
    let [_, _, _, _, a, b, c, d] = address.segments();
    [a, b, c, d]
}

/// Numbers that no address has yet.
fn free(section: &Section) -> Vec<usize> {
    let taken: Vec<&str> = section.entries().map(|(key, _)| key).collect();
    let is_free = |number: &usize| !taken.contains(&format!("address{number}").as_str());
    (1..).filter(is_free).take(8).collect()
}

fn of_port(before: &Keyfile, active: &Active, port: &IfName, bridge: &IfName) -> Keyfile {
    let mut after = Keyfile::default();
    let mut connection = Section::named("connection");
    connection.set("id", &format!("{bridge}-{port}"));
    connection.set("uuid", &active.of_port(port, bridge));
    connection.set("type", "ethernet");
    connection.set("interface-name", port.as_str());
    connection.set("master", bridge.as_str());
    connection.set("slave-type", "bridge");
    if let Some(autoconnect) = before.value("connection", "autoconnect") {
        connection.set("autoconnect", autoconnect);
    }
    // Before any other that fits the interface.
    connection.set("autoconnect-priority", "999");
    connection.remark(&format!("warren: {port} in {bridge} ([host] take-over); `warren down` takes this file away"));
    after.push(connection);
    for section in before.sections() {
        if matches!(section.name.as_str(), "ethernet" | "802-3-ethernet" | "ethtool" | "match") {
            after.push(section.clone());
        }
    }
    after
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATH: &str = "/etc/NetworkManager/system-connections/office.nmconnection";
    const BEFORE: &str = "# The office's\n[connection]\nid=office\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\
                          interface-name=eth0\n\n[ethernet]\nmtu=1400\nwake-on-lan=0\n\n[ipv4]\naddress1=10.0.0.100/24,10.0.0.1\n\
                          method=auto\n\n[ipv6]\naddr-gen-mode=stable-privacy\nmethod=auto\n";

    fn active() -> Active {
        Active {
            uuid: "11111111-2222-3333-4444-555555555555".to_owned(),
            metric: Some(101),
            client: Some("01:02:00:00:00:00:01".to_owned()),
            ..Active::default()
        }
    }

    fn rewritten(text: &str, active: &Active) -> Result<Vec<(String, String)>, String> {
        let (port, bridge) = (IfName::new("eth0").unwrap(), IfName::new("br0").unwrap());
        let mac = "02:00:00:00:00:01".parse().unwrap();
        take_over(&[(PATH.to_owned(), text.to_owned())], active, &port, &bridge, mac)
    }

    #[test]
    fn the_connection_becomes_the_bridges_and_a_second_one_plugs_the_interface_in() {
        let formed = ["fe80::1:2:3:4", "2001:db8::5:6:7:8", "2001:db8:1::5:6:7:8"];
        let formed = formed.iter().map(|address| address.parse().unwrap()).collect();
        let after =
            rewritten(BEFORE, &Active { formed, client6: Some(("00:04:33".to_owned(), 7)), ..active() }).unwrap();
        let wanted = "# The office's\n[connection]\n\
                      # warren: br0 in place of eth0 ([host] take-over); `warren down` puts back what stood here\nid=office\n\
                      uuid=11111111-2222-3333-4444-555555555555\ntype=bridge\ninterface-name=br0\nautoconnect-slaves=1\n\n\
                      [bridge]\nstp=false\nmulticast-snooping=false\nmac-address=02:00:00:00:00:01\n\n[ethernet]\nmtu=1400\n\n\
                      [ipv4]\naddress1=10.0.0.100/24,10.0.0.1\nmethod=auto\nroute-metric=101\n\
                      dhcp-client-id=01:02:00:00:00:00:01\n\n[ipv6]\naddr-gen-mode=eui64\nmethod=auto\nroute-metric=101\n\
                      dhcp-duid=00:04:33\ndhcp-iaid=7\ntoken=::5:6:7:8\naddress1=fe80::1:2:3:4/64\n";
        assert_eq!(after[0], (PATH.to_owned(), wanted.to_owned()));
        let (path, text) = &after[1];
        assert_eq!(path, "/etc/NetworkManager/system-connections/br0-eth0.nmconnection");
        assert!(text.contains("\nmaster=br0\nslave-type=bridge\n"), "{text}");
        assert!(text.ends_with("\n[ethernet]\nmtu=1400\nwake-on-lan=0\n\n"), "{text}");
        assert_eq!(rewritten(BEFORE, &active()).unwrap()[0].1.matches("token").count(), 0);
        // The same every time, and nobody else's.
        assert_eq!(derived(&["a", "b"]), derived(&["a", "b"]));
        assert_ne!(derived(&["a", "b"]), derived(&["a", "c"]));
    }

    #[test]
    fn what_netplan_writes_stays_and_others_come_before_it() {
        let made = "/run/NetworkManager/system-connections/netplan-eth0.nmconnection";
        let text = "[connection]\nid=netplan-eth0\ntype=ethernet\ninterface-name=eth0\n\n[ethernet]\nwake-on-lan=0\n\n\
                    [ipv4]\nmethod=auto\n\n[ipv6]\nmethod=ignore\n";
        let (port, bridge) = (IfName::new("eth0").unwrap(), IfName::new("br0").unwrap());
        let active = Active { written_by_netplan: Some(made.to_owned()), ..active() };
        let files = [("/etc/netplan/50.yaml", "network: {}\n"), (made, text)];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        let after = take_over(&files, &active, &port, &bridge, "02:00:00:00:00:01".parse().unwrap()).unwrap();
        let paths: Vec<&str> = after.iter().map(|(path, _)| path.strip_prefix(CONNECTIONS).unwrap()).collect();
        assert_eq!(paths, ["/br0.nmconnection", "/br0-eth0.nmconnection"]);
        let uuid = active.of_bridge(&bridge);
        assert!(uuid != active.uuid && uuid != active.of_port(&port, &bridge));
        let head = format!("\nid=br0\ntype=bridge\ninterface-name=br0\nuuid={uuid}\nautoconnect-slaves=1\n");
        assert!(after[0].1.contains(&head), "{}", after[0].1);
        assert!(after[0].1.contains("\n[ipv6]\nmethod=ignore\n"), "{}", after[0].1);
        assert!(after[1].1.contains("\nautoconnect-priority=999\n"), "{}", after[1].1);
        let gone = take_over(&files[..1], &active, &port, &bridge, "02:00:00:00:00:01".parse().unwrap());
        assert!(gone.unwrap_err().contains("not known"));
    }

    #[test]
    fn what_a_bridge_cannot_have_is_named() {
        for (from, to, why) in [
            ("type=ethernet", "type=wifi", "`type=wifi`"),
            ("[ethernet]", "[802-1x]\neap=tls\n[ethernet]", "`[802-1x]`"),
            ("mtu=1400", "cloned-mac-address=random", "cloned-mac-address=random"),
            ("mtu=1400", "cloned-mac-address=02:00:00:00:00:09", "cloned-mac-address"),
            ("id=office", "id=office\nmaster=bond0", "`master`"),
            ("id=office", "id=office\nmulti-connect=3", "`multi-connect`"),
            ("[ipv4]", "[sriov]\ntotal-vfs=2\n[ipv4]", "`[sriov]`"),
            ("method=auto\n\n[ipv6]", "method=shared\n\n[ipv6]", "shared"),
            ("method=auto\n\n[ipv6]", "\n[ipv6]", "no method"),
            ("addr-gen-mode=stable-privacy\nmethod=auto", "method=dhcp", "DHCPv6"),
        ] {
            let text = BEFORE.replace(from, to);
            assert_ne!(text, BEFORE);
            let said = rewritten(&text, &active()).unwrap_err();
            assert!(said.contains(why) && said.contains(PATH), "{text}: {said}");
        }
        let single = vec!["2001:db8::1:1".parse().unwrap()];
        assert!(rewritten(BEFORE, &Active { single, ..active() }).unwrap_err().contains("DHCPv6"));
        let said = rewritten(BEFORE, &Active { client: None, ..active() }).unwrap_err();
        assert!(said.contains("client identifier"), "{said}");
        for other in ["2001:db8:1::9", "2001:db8:1::ff:fe00:1"] {
            let formed = ["2001:db8::5:6:7:8", other].iter().map(|address| address.parse().unwrap()).collect();
            assert!(rewritten(BEFORE, &Active { formed, ..active() }).unwrap_err().contains("end differently"));
        }
    }
}
