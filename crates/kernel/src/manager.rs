//! Who configures an interface: as the programs themselves say in /run, where each notes what it manages now.

use std::fs;
use std::path::Path;

use model::address::IfName;
use model::manager::{Holder, Managed, Manager, dhclient};

use crate::holders;
use crate::processes::Clients;

mod networkmanager;

/// The program that configures the interface of that name and index; `leased` says whether one of its addresses has
/// an end that a client renews, `running` what clients run.
#[must_use]
pub fn of(name: &IfName, index: u32, leased: bool, running: &Clients) -> Option<Managed> {
    networkd(name, index)
        .or_else(|| networkmanager::of(name, index, running))
        .or_else(|| ifupdown(name, running))
        .or_else(|| dhcp_client(name, running))
        .or_else(|| leased.then(|| Managed::new(Manager::Somebody, Vec::new())))
}

fn file(path: &str) -> Option<(String, String)> {
    // Whatever else stands there: what is of a name is ASCII.
    Some((path.to_owned(), String::from_utf8_lossy(&fs::read(path).ok()?).into_owned()))
}

/// What networkd follows on it, or what netplan has written for networkd.
fn networkd(name: &IfName, index: u32) -> Option<Managed> {
    let followed = holders::networkd::followed(index)?;
    let managed = holders::networkd::managed(name, index, &followed);
    if !followed.starts_with("/run/systemd/network/") || !followed.contains("netplan") {
        return Some(managed);
    }
    let files = netplan_files().into_iter().chain(managed.files).collect();
    Some(Managed { by: Manager::Netplan, files, ..managed })
}

fn netplan_files() -> Vec<(String, String)> {
    files_of("/etc/netplan").into_iter().filter(|(path, _)| path.ends_with(".yaml")).collect()
}

/// /run/network/ifstate names what ifup brought up; interfaces(5) what it is told of it.
fn ifupdown(name: &IfName, running: &Clients) -> Option<Managed> {
    let state = fs::read_to_string("/run/network/ifstate").unwrap_or_default();
    let own = fs::read_to_string(format!("/run/network/ifstate.{name}")).unwrap_or_default();
    let up = state.lines().chain(own.lines()).any(|line| line.split('=').next() == Some(name.as_str()));
    if !up && own.trim() != name.as_str() {
        return None;
    }
    let mut files = interfaces_files();
    files.retain(|(_, text)| stanzas(text, name).next().is_some() || is_begun(text, name));
    // A stanza that leaves the interface alone configures nothing.
    let configures = files.iter().any(|(_, text)| stanzas(text, name).any(|method| method != "manual"));
    if !configures {
        return None;
    }
    let logical = state.lines().find_map(|line| line.split_once('=').filter(|(one, _)| *one == name.as_str()));
    let renamed = logical.filter(|(one, other)| one != other).map(|(one, other)| format!("{one} is up as {other}"));
    let (clients, odd) = clients(name, running);
    let obstacle = renamed.or(odd).or_else(|| files.iter().find_map(|(path, text)| unsafe_to_write(path, text)));
    let holders = [Holder::Ifstate].into_iter().chain(clients).collect();
    Some(Managed { holders, obstacle, ..Managed::new(Manager::Ifupdown, files) })
}

/// The files that ifup reads: interfaces(5), INCLUDING OTHER FILES. Each once, in the order that they are named in.
fn interfaces_files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    let mut waiting = vec!["/etc/network/interfaces".to_owned()];
    while let Some(path) = waiting.pop() {
        if files.iter().any(|(known, _)| *known == path) || files.len() > 1000 {
            continue;
        }
        let Some((path, text)) = file(&path) else { continue };
        let mut named: Vec<String> = text.lines().flat_map(|line| sourced(line, &path)).collect();
        named.reverse();
        waiting.extend(named);
        files.push((path, text));
    }
    files
}

/// The files that a line of another brings in.
fn sourced(line: &str, from: &str) -> Vec<String> {
    let mut words = line.split_whitespace();
    let folder = match words.next() {
        Some("source") => false,
        Some("source-directory") => true,
        _ => return Vec::new(),
    };
    let parent = Path::new(from).parent().unwrap_or(Path::new("/"));
    words
        .flat_map(|pattern| {
            let whole = parent.join(pattern);
            if folder {
                // run-parts(8)'s names.
                let is_named = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
                return listed(&whole, is_named);
            }
            let Some((head, tail)) =
                whole.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('*'))
            else {
                return vec![whole.display().to_string()];
            };
            let fits = |name: &str| {
                !name.starts_with('.')
                    && name.len() >= head.len() + tail.len()
                    && name.starts_with(head)
                    && name.ends_with(tail)
            };
            listed(whole.parent().unwrap_or(Path::new("/")), fits)
        })
        .collect()
}

/// A folder's plain files of such names, in the names' order.
fn listed(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits) && entry.path().is_file());
    let mut paths: Vec<String> = fitting.map(|entry| entry.path().display().to_string()).collect();
    paths.sort();
    paths
}

/// Why a file is not to be written anew, where it is not.
fn unsafe_to_write(path: &str, text: &str) -> Option<String> {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Some(format!("{path} is a link to another file"));
    }
    if fs::read(path).ok().as_deref() != Some(text.as_bytes()) {
        return Some(format!("{path} is no UTF-8 throughout"));
    }
    (!crate::takeover::are_ours(path)).then(|| format!("{path} is another network's"))
}

/// The dhclients that run on an interface, one of each family; and why what runs there cannot be moved.
fn clients(name: &IfName, running: &Clients) -> (Vec<Holder>, Option<String>) {
    let mut found: Vec<Vec<String>> = holders::dhclient::of(name, running).map(|client| client.line.clone()).collect();
    // Its children are called as it is until they run what they are for.
    found.sort();
    found.dedup();
    let is_twice = |six: bool| found.iter().filter(|line| dhclient::is_of_ipv6(line) == six).count() > 1;
    let odd = match is_twice(false) || is_twice(true) {
        false => found.iter().find_map(|line| dhclient::obstacle(line, name)),
        true => Some(format!("more than one dhclient runs on {name}")),
    };
    (found.into_iter().map(Holder::Dhclient).collect(), odd)
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
fn dhcp_client(name: &IfName, running: &Clients) -> Option<Managed> {
    let notes = [
        format!("/run/dhclient.{name}.pid"),
        format!("/run/dhclient-{name}.pid"),
        format!("/run/dhclient6.{name}.pid"),
        format!("/run/dhcpcd/{name}.pid"),
        format!("/run/dhcpcd/{name}-4.pid"),
        format!("/run/udhcpc.{name}.pid"),
    ];
    let noted = notes.iter().any(|path| holders::dhclient::runs(Path::new(path)))
        || holders::dhclient::has_udhcpc(name, running);
    let (holders, obstacle) = clients(name, running);
    (noted || !holders.is_empty()).then(|| Managed {
        holders,
        obstacle,
        ..Managed::new(Manager::DhcpClient, Vec::new())
    })
}

/// A folder's files with their texts, in the order of their names; none where there is no such folder.
fn files_of(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
    paths.sort();
    paths.iter().filter_map(|path| file(path)).collect()
}
