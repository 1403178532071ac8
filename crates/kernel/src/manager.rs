//! Who configures an interface: as the programs themselves say in /run, where each notes what it manages now.

use std::fs;
use std::path::Path;

use model::address::IfName;
use model::manager::{Managed, Manager};

/// The program that configures the interface of that name and index; `leased` says whether one of its addresses has
/// an end that a client renews.
#[must_use]
pub fn of(name: &IfName, index: u32, leased: bool) -> Option<Managed> {
    networkd(index)
        .or_else(|| network_manager(index))
        .or_else(|| ifupdown(name))
        .or_else(|| dhcp_client(name))
        .or_else(|| leased.then(|| Managed { by: Manager::Somebody, files: Vec::new() }))
}

fn file(path: &str) -> Option<(String, String)> {
    Some((path.to_owned(), fs::read_to_string(path).ok()?))
}

/// /run/systemd/netif/links/INDEX (sd-network.h reads it): its state, and the file that it follows.
fn networkd(index: u32) -> Option<Managed> {
    let text = fs::read_to_string(format!("/run/systemd/netif/links/{index}")).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if matches!(value("ADMIN_STATE"), None | Some("unmanaged" | "pending" | "linger")) {
        return None;
    }
    let path = value("NETWORK_FILE")?;
    let netplan = path.starts_with("/run/systemd/network/") && path.contains("netplan");
    if netplan {
        return Some(Managed { by: Manager::Netplan, files: netplan_files() });
    }
    Some(Managed { by: Manager::Networkd, files: file(path).into_iter().collect() })
}

fn netplan_files() -> Vec<(String, String)> {
    files_of("/etc/netplan").into_iter().filter(|(path, _)| path.ends_with(".yaml")).collect()
}

/// /run/NetworkManager/devices/INDEX: what NetworkManager remembers of a device that it has a connection on.
fn network_manager(index: u32) -> Option<Managed> {
    let text = fs::read_to_string(format!("/run/NetworkManager/devices/{index}")).ok()?;
    let active = text.lines().any(|line| line.starts_with("connection-uuid="));
    active.then(|| Managed { by: Manager::NetworkManager, files: Vec::new() })
}

/// /run/network/ifstate names what ifup brought up; interfaces(5) what it is told of it.
fn ifupdown(name: &IfName) -> Option<Managed> {
    let state = fs::read_to_string("/run/network/ifstate").unwrap_or_default();
    let own = fs::read_to_string(format!("/run/network/ifstate.{name}")).unwrap_or_default();
    let up = state.lines().chain(own.lines()).any(|line| line.split('=').next() == Some(name.as_str()));
    if !up && own.trim() != name.as_str() {
        return None;
    }
    let mut files: Vec<(String, String)> = file("/etc/network/interfaces").into_iter().collect();
    files.extend(files_of("/etc/network/interfaces.d"));
    files.retain(|(_, text)| stanzas(text, name).next().is_some() || is_begun(text, name));
    // A stanza that leaves the interface alone configures nothing.
    let configures = files.iter().any(|(_, text)| stanzas(text, name).any(|method| method != "manual"));
    configures.then_some(Managed { by: Manager::Ifupdown, files })
}

/// Whether a file has the interface begin by itself (`auto`, `allow-hotplug`): not always the one with its stanzas.
fn is_begun(text: &str, name: &IfName) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        let begins = words.next().is_some_and(|word| word == "auto" || word.starts_with("allow-"));
        begins && words.any(|word| word == name.as_str())
    })
}

/// The methods of an interface's stanzas.
fn stanzas<'a>(text: &'a str, name: &'a IfName) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        let of_it = words.next() == Some("iface") && words.next() == Some(name.as_str());
        of_it.then(|| words.nth(1)).flatten()
    })
}

/// The files that DHCP clients note themselves in, each by its own habit.
fn dhcp_client(name: &IfName) -> Option<Managed> {
    let notes = [
        format!("/run/dhclient.{name}.pid"),
        format!("/run/dhclient-{name}.pid"),
        format!("/run/dhclient6.{name}.pid"),
        format!("/run/dhcpcd/{name}.pid"),
        format!("/run/dhcpcd/{name}-4.pid"),
        format!("/run/udhcpc.{name}.pid"),
    ];
    // One that ended leaves its note, often enough.
    let runs = |path: &String| {
        let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
        pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
    };
    notes.iter().any(runs).then(|| Managed { by: Manager::DhcpClient, files: Vec::new() })
}

/// A folder's files with their texts, in the order of their names; none where there is no such folder.
fn files_of(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
    paths.sort();
    paths.iter().filter_map(|path| file(path)).collect()
}
