//! dhclient(8)'s command line, and its leases (dhclient.leases(5)): text to text.

use crate::address::IfName;

/// Options that have a value behind them.
const WITH_VALUE: &[&str] = &[
    "-p",
    "-D",
    "-s",
    "-g",
    "-n",
    "-lf",
    "-pf",
    "-df",
    "-cf",
    "-sf",
    "-e",
    "-H",
    "-F",
    "-V",
    "-C",
    "-R",
    "-U",
    "-B",
    "-timeout",
    "--request-options",
    "--address-prefix-len",
    "--decline-wait-time",
];

/// A command line's words but its options and their values: the interfaces.
#[must_use]
pub fn interfaces(line: &[String]) -> Vec<&str> {
    let mut names = Vec::new();
    let mut words = line.iter().skip(1);
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            names.push(word.as_str());
        }
    }
    names
}

/// The value behind an option.
#[must_use]
pub fn value<'a>(line: &'a [String], option: &str) -> Option<&'a str> {
    line.iter().position(|word| word == option).and_then(|at| line.get(at + 1)).map(String::as_str)
}

/// Whether it is a client of DHCPv6.
#[must_use]
pub fn is_of_ipv6(line: &[String]) -> bool {
    line.iter().any(|word| word == "-6")
}

/// Whether that is the command line of busybox's udhcpc (or udhcpc6) for the interface, which is eth0 where none is told.
#[must_use]
pub fn is_udhcpc_of(line: &[String], name: &IfName) -> bool {
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let mut words = line.iter().map(base).take(2);
    let is_it = |word: Option<String>| word.is_some_and(|word| matches!(word.as_str(), "udhcpc" | "udhcpc6"));
    if !is_it(words.next()) && !is_it(words.next()) {
        return false;
    }
    let joined = line.iter().find_map(|word| word.strip_prefix("--interface=").or(word.strip_prefix("-i")));
    let told = value(line, "-i").or(value(line, "--interface")).or(joined);
    told.unwrap_or("eth0") == name.as_str()
}

/// Why the client with that command line cannot be moved, where it cannot.
#[must_use]
pub fn obstacle(line: &[String], port: &IfName) -> Option<String> {
    let what = line.join(" ");
    if line.iter().any(|word| word == "-P") {
        return Some(format!("`{what}` asks for a prefix to hand on"));
    }
    if interfaces(line) != [port.as_str()] {
        return Some(format!("`{what}` is not for {port} alone"));
    }
    let own = |option: &str| value(line, option).is_some_and(|path| renamed(path, port.as_str(), "") != path);
    (!own("-lf") || !own("-pf")).then(|| format!("`{what}` has no files of its own for {port} (-lf, -pf)"))
}

/// The same client on the other interface: at work at once, without waiting for its lease.
#[must_use]
pub fn moved(line: &[String], port: &IfName, bridge: &IfName) -> Vec<String> {
    let mut moved: Vec<String> = Vec::new();
    let mut before = "";
    for word in line {
        let is_file = matches!(before, "-lf" | "-pf");
        let is_name = word == port.as_str() && !WITH_VALUE.contains(&before);
        let one = if is_file || is_name { renamed(word, port.as_str(), bridge.as_str()) } else { word.clone() };
        moved.push(one);
        before = word;
    }
    moved
}

/// Leases of the one interface as the other's.
#[must_use]
pub fn leases(text: &str, from: &IfName, to: &IfName) -> String {
    text.replace(&format!("interface \"{from}\";"), &format!("interface \"{to}\";"))
}

/// The one name in place of the other, where it stands as a word.
fn renamed(text: &str, from: &str, to: &str) -> String {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    let mut out = String::new();
    let mut left = text;
    while let Some(at) = left.find(from) {
        let (head, tail) = left.split_at(at);
        let rest = &tail[from.len()..];
        let before = head.chars().next_back().or_else(|| out.chars().next_back());
        out.push_str(head);
        out.push_str(if is_edge(before) && is_edge(rest.chars().next()) { to } else { from });
        left = rest;
    }
    out.push_str(left);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn debians_client_moves() {
        let (eth0, br0) = (IfName::new("eth0").unwrap(), IfName::new("br0").unwrap());
        let line = words(
            "dhclient -4 -v -i -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases -I -df \
             /var/lib/dhcp/dhclient6.eth0.leases eth0 -e IF_METRIC=7",
        );
        assert_eq!(interfaces(&line), ["eth0"]);
        assert_eq!(obstacle(&line, &eth0), None);
        let there = moved(&line, &eth0, &br0);
        assert_eq!(
            there.join(" "),
            "dhclient -4 -v -i -pf /run/dhclient.br0.pid -lf /var/lib/dhcp/dhclient.br0.leases -I -df \
             /var/lib/dhcp/dhclient6.eth0.leases br0 -e IF_METRIC=7"
        );
        assert_eq!(moved(&there, &br0, &eth0), line);
        let six = words("dhclient -6 -v -pf /run/dhclient6.eth0.pid -lf /var/lib/dhcp/dhclient6.eth0.leases -I eth0");
        assert_eq!((obstacle(&six, &eth0), is_of_ipv6(&six), is_of_ipv6(&line)), (None, true, false));
        assert!(moved(&six, &eth0, &br0).join(" ").ends_with(" -lf /var/lib/dhcp/dhclient6.br0.leases -I br0"));
        let lease = "lease {\n  interface \"eth0\";\n  option host-name \"eth0\";\n}\n";
        let of_bridge = leases(lease, &eth0, &br0);
        assert_eq!(of_bridge, "lease {\n  interface \"br0\";\n  option host-name \"eth0\";\n}\n");
        assert_eq!(leases(&of_bridge, &br0, &eth0), lease);
    }

    #[test]
    fn udhcpc_is_known_by_its_words() {
        let eth0 = IfName::new("eth0").unwrap();
        for (line, is_it) in [
            ("udhcpc -i eth0 -b", true),
            ("/bin/busybox udhcpc -n -p /run/udhcpc.eth0.pid -i eth0", true),
            ("udhcpc6 --interface=eth0", true),
            ("udhcpc -ieth0", true),
            ("udhcpc -b", true),
            ("udhcpc -i eth1", false),
            ("busybox httpd -f", false),
        ] {
            assert_eq!(is_udhcpc_of(&words(line), &eth0), is_it, "{line}");
        }
    }

    #[test]
    fn a_client_of_more_than_the_interface_stays() {
        let eth0 = IfName::new("eth0").unwrap();
        for line in [
            "dhclient",
            "dhclient eth0",
            "dhclient -pf /run/d.eth0.pid -lf /var/d.eth0.leases eth0 eth1",
            "dhclient -6 -P -pf /run/d.eth0.pid -lf /var/d.eth0.leases eth0",
            "dhclient -pf /run/d.eth01.pid -lf /var/d.eth0.leases eth0",
        ] {
            assert!(obstacle(&words(line), &eth0).is_some(), "{line}");
        }
    }
}
