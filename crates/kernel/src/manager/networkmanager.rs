//! What NetworkManager has active on an interface: by its notes in /run, its key files, and the addresses that it made.

use std::fs;
use std::net::Ipv6Addr;

use model::address::IfName;
use model::manager::networkmanager::{Active, CONNECTIONS};
use model::manager::{Holder, Managed, Manager};

use super::{files_of, netplan_files, unsafe_to_write};
use crate::holders;
use crate::holders::networkmanager::{DEVICES, IN_MEMORY, file_of, leases};
use crate::processes::Clients;

/// /run/NetworkManager/devices/INDEX: what NetworkManager remembers of a device that it has a connection on.
pub fn of(name: &IfName, index: u32, running: &Clients) -> Option<Managed> {
    let text = fs::read_to_string(format!("{DEVICES}/{index}")).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let uuid = value("connection-uuid")?;
    let found = connection(uuid).or_else(|| of_netplan(name));
    // A bridge's port is the bridge's, whose connection configures it.
    if found.as_ref().is_some_and(|(_, text)| ["master=", "controller="].iter().any(|key| says(text, key))) {
        return None;
    }
    let by_netplan = found.as_ref().is_some_and(|(path, _)| is_netplans(path));
    let by = if by_netplan { Manager::Netplan } else { Manager::NetworkManager };
    let managed = |files| Managed::new(by, files);
    let without = |why: String| Some(Managed { obstacle: Some(why), ..managed(Vec::new()) });
    let Some(process) = running.named(&["NetworkManager"]).next() else {
        return without("NetworkManager does not run".to_owned());
    };
    let Some((path, text_of)) = found else {
        let keep = format!("`nmcli connection modify {uuid} connection.autoconnect yes` writes one");
        return without(format!("its connection stands in no file below {CONNECTIONS}: {keep}"));
    };
    let generated = path.starts_with(IN_MEMORY) && says(&text_of, "nm-generated=true");
    let keep = format!("`nmcli connection modify {uuid} connection.autoconnect yes` writes it to {CONNECTIONS}");
    let odd = match () {
        () if by_netplan => of_anothers(uuid, &path),
        () if generated => Some(format!("its connection is in memory alone: {keep}, and then it can be")),
        () if path.starts_with(IN_MEMORY) => Some(format!("{path} was written by another program")),
        () => unsafe_to_write(&path, &text_of),
    };
    // Its own client is the only one whose leases are carried on.
    let runs_another = holders::dhclient::of(name, running).next().is_some();
    let odd = odd.or_else(|| runs_another.then(|| format!("it runs dhclient for {name} ([main] dhcp=)")));
    // Its notes are of the moment when the connection became active: a lease may have come later.
    let Ok(leases) = leases(name) else { return without("NetworkManager does not tell of its leases".to_owned()) };
    let said = |key: &str| leases.get(key).filter(|hex| hex.contains(':')).cloned();
    let association = said("iaid").and_then(|hex| u32::from_str_radix(&hex.replace(':', ""), 16).ok());
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let active = Active {
        line: process.line.clone(),
        uuid: uuid.to_owned(),
        written_by_netplan: by_netplan.then(|| path.clone()),
        metric: value("route-metric-default-effective").and_then(|metric| metric.parse().ok()),
        client: said("dhcp_client_identifier"),
        client6: said("dhcp6_client_id").zip(association),
        formed: lasting(&addresses, name, 64),
        single: lasting(&addresses, name, 128),
    };
    let holders = vec![Holder::NetworkManager(active)];
    let told = if by_netplan { netplan_files() } else { Vec::new() };
    let files = told.into_iter().chain([(path, text_of)]).collect();
    Some(Managed { holders, obstacle: odd, ..managed(files) })
}

/// Whether netplan writes a file, with each boot anew.
fn is_netplans(path: &str) -> bool {
    path.strip_prefix(IN_MEMORY).is_some_and(|name| name.starts_with("/netplan-"))
}

/// Why a connection is not the one of netplan's in that file, where it is not: most of those name no UUID.
fn of_anothers(uuid: &str, path: &str) -> Option<String> {
    if !crate::takeover::are_ours(CONNECTIONS) {
        return Some(format!("{CONNECTIONS} is another network's"));
    }
    match file_of(uuid) {
        Ok(other) if other == path => None,
        Ok(other) if other.is_empty() => Some("its connection stands in no file, nor is it netplan's".to_owned()),
        Ok(other) => Some(format!("its connection stands in {other}")),
        Err(e) => Some(format!("NetworkManager does not tell where its connection stands: {e}")),
    }
}

/// The file of the connection of that UUID, where it stands in one.
fn connection(uuid: &str) -> Option<(String, String)> {
    let is_it = |(_, text): &(String, String)| says(text, &format!("uuid={uuid}"));
    let named = |folder: &str| {
        let files = files_of(folder).into_iter();
        files.filter(|(path, _)| path.rsplit('/').next().is_some_and(|name| !name.starts_with('.'))).find(is_it)
    };
    named(CONNECTIONS).or_else(|| named(IN_MEMORY))
}

/// netplan's files name no UUID: NetworkManager makes one of the file's name.
fn of_netplan(name: &IfName) -> Option<(String, String)> {
    let is_it = |(path, text): &(String, String)| {
        path.starts_with(&format!("{IN_MEMORY}/netplan-"))
            && !says(text, "uuid=")
            && (!says(text, "interface-name=")
                || text.lines().any(|line| line.trim() == format!("interface-name={name}")))
    };
    files_of(IN_MEMORY).into_iter().find(is_it)
}

/// Whether a line begins so.
fn says(text: &str, begin: &str) -> bool {
    text.lines().any(|line| line.trim().replace(" = ", "=").starts_with(begin))
}

/// The addresses of the interface with a prefix of that length, but those that change by themselves: /proc/net/if_inet6
/// (address, index, prefix length, scope, flags, name; net/ipv6/addrconf.c, `if6_seq_show`).
fn lasting(text: &str, name: &IfName, bits: u32) -> Vec<Ipv6Addr> {
    /// IFA_F_TEMPORARY.
    const TEMPORARY: u32 = 0x01;
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, length, _, flags, of] = words.as_slice() else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_one = *of == name.as_str() && u32::from_str_radix(length, 16) == Ok(bits) && flags & TEMPORARY == 0;
        is_one.then(|| u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from))?
    };
    let mut lasting: Vec<Ipv6Addr> = text.lines().filter_map(of).collect();
    lasting.sort_unstable();
    lasting
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_it_made_itself_is_told_from_what_it_was_told() {
        let text = "20010db8000a00000000000000001786 02 80 00 00     eth0\n\
                    fe80000000000000a1c7551bc2486cd5 02 40 20 80     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\n\
                    20010db8000a00009e500888777acd95 02 40 00 00     eth0\n\
                    20010db8000a00009e500888777acd96 02 40 00 01     eth0\n\
                    20010db8000a00009e500888777acd97 03 40 00 00     eth1\n";
        let name = IfName::new("eth0").unwrap();
        let found = lasting(text, &name, 64);
        assert_eq!(lasting(text, &name, 128), ["2001:db8:a::1786".parse::<Ipv6Addr>().unwrap()]);
        let wanted: Vec<Ipv6Addr> = ["2001:db8:a:0:9e50:888:777a:cd95", "fe80::a1c7:551b:c248:6cd5"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        assert_eq!(found, wanted);
    }
}
