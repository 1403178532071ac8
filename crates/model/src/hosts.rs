//! Guests' names in hosts(5): a marked block behind what others have written, of which not a byte is changed.
//!
//! Every line of ours bears a mark at its end, so that what somebody writes into the block, or a block of which
//! somebody has deleted a part, is told apart line by line.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::services::LanServices;

/// The block's first line.
const BEGIN: &str = "# >>> warren: the guests' names, from its own file; hosts-resolver = false ends this";
/// The same behind a last line that had no end.
const BEGIN_UNENDED: &str =
    "# >>> warren: the guests' names, from its own file; hosts-resolver = false ends this (after no newline)";
/// The block's last line.
const END: &str = "# <<< warren";
/// Behind each line between them.
const MARK: &str = " # of warren.toml";

/// Names that stand for this host itself, or for what is no host (RFC 6761, Debian's hosts(5), nss-myhostname(8)).
const RESERVED: &[&str] = &[
    "localhost",
    "localhost4",
    "localhost6",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
    "broadcasthost",
    "_gateway",
    "_outbound",
];

/// What /etc/hosts says once it names the guests of `lans`, and no others of ours: `text` is what it says now, and
/// `own` what the host itself is called. A name that others have given, or that is the host's own, is left out.
#[must_use]
pub fn with_names(text: &[u8], lans: &[LanServices], own: &str) -> Vec<u8> {
    let mut after = without_names(text);
    let lines = lines(lans, taken(&after, own));
    if lines.is_empty() {
        return after;
    }
    let begin = if after.is_empty() || after.ends_with(b"\n") {
        BEGIN
    } else {
        after.push(b'\n');
        BEGIN_UNENDED
    };
    after.extend_from_slice(format!("{begin}\n{lines}{END}\n").as_bytes());
    after
}

/// What /etc/hosts says without us.
#[must_use]
pub fn without_names(text: &[u8]) -> Vec<u8> {
    let mut kept: Vec<u8> = Vec::with_capacity(text.len());
    // Where the newline stands that we have put behind a line without one.
    let mut put = None;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let words = line.trim_ascii_end();
        if words == BEGIN_UNENDED.as_bytes() {
            put = Some(kept.len());
        } else if words != BEGIN.as_bytes() && words != END.as_bytes() && !words.ends_with(MARK.as_bytes()) {
            kept.extend_from_slice(line);
        }
    }
    // What others have written behind it since needs it.
    if put == Some(kept.len()) && kept.ends_with(b"\n") {
        kept.pop();
    }
    kept
}

/// The names that others have given, and the host's own.
fn taken(text: &[u8], own: &str) -> BTreeSet<String> {
    let mut taken: BTreeSet<String> = RESERVED.iter().map(|name| (*name).to_owned()).collect();
    let own = own.to_ascii_lowercase();
    taken.extend(own.split('.').next().map(str::to_owned));
    taken.insert(own);
    for line in text.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let said = line.split('#').next().unwrap_or_default();
        taken.extend(said.split_whitespace().skip(1).map(str::to_owned));
    }
    taken
}

/// A line an address, the full name first, as hosts(5) wants it. A name of one label is the guest's alone: the first of
/// them has it, and one with dots could be somebody's in the world.
fn lines(lans: &[LanServices], mut taken: BTreeSet<String>) -> String {
    let mut lines = String::new();
    for lan in lans {
        for host in &lan.hosts {
            let mut names = String::new();
            for name in std::iter::once(&host.name).chain(&host.aliases) {
                let full = format!("{name}.{}", lan.domain).to_ascii_lowercase();
                let short = Some(name.to_ascii_lowercase()).filter(|name| !name.contains('.'));
                for name in std::iter::once(full).chain(short) {
                    let is_this_hosts = name == "localhost.localdomain" || name.ends_with(".localhost");
                    if !is_this_hosts && taken.insert(name.clone()) {
                        names.push(' ');
                        names.push_str(&name);
                    }
                }
            }
            for address in host.addresses.iter().filter(|_| !names.is_empty()) {
                // Writing to a string does not fail.
                let _ = writeln!(lines, "{address}{names}{MARK}");
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{IfName, Mac};
    use crate::services::NamedHost;

    fn lan(domain: &str, hosts: &[(&str, &[&str], &str)]) -> LanServices {
        let host = |(name, aliases, address): &(&str, &[&str], &str)| NamedHost {
            name: (*name).to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            addresses: vec![address.parse().unwrap()],
            mac: Mac([2, 0, 0, 0, 0, 6]),
        };
        LanServices {
            bridge: IfName::new("br1").unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: Vec::new(),
            domain: domain.to_owned(),
            hosts: hosts.iter().map(host).collect(),
            upstreams: Vec::new(),
            recursion: true,
            dhcp: None,
            advertised: None,
        }
    }

    fn cnx() -> Vec<LanServices> {
        vec![lan("cnx.example", &[("cnx6", &["www"], "10.1.1.6")])]
    }

    fn named(text: &[u8], lans: &[LanServices]) -> String {
        String::from_utf8(with_names(text, lans, "server.example")).unwrap()
    }

    #[test]
    fn what_others_wrote_is_as_it_was_once_the_names_are_gone() {
        let others: [&[u8]; 6] = [
            b"",
            b"127.0.0.1 localhost\n",
            b"127.0.0.1 localhost",
            b"a\r\n\n# >>> another's\nb\n\n\n",
            b"\xff\xfe no text\n",
            b"# <<< warrens\n",
        ];
        for before in others {
            let with = with_names(before, &cnx(), "server");
            assert!(
                String::from_utf8_lossy(&with)
                    .contains("\n10.1.1.6 cnx6.cnx.example cnx6 www.cnx.example www # of warren.toml\n")
            );
            assert!(with.starts_with(before));
            assert_eq!(without_names(&with), before);
            assert_eq!(with_names(&with, &cnx(), "server"), with, "written again");
            assert_eq!(with_names(&with, &[], "server"), before);
            // With something behind it, which stays a line.
            let more = [&with, b"192.0.2.1 later\n".as_slice()].concat();
            let gap: &[u8] = if before.is_empty() || before.ends_with(b"\n") { b"" } else { b"\n" };
            assert_eq!(without_names(&more), [before, gap, b"192.0.2.1 later\n"].concat());
        }
    }

    #[test]
    fn what_others_do_within_the_block_is_theirs() {
        let with = named(b"127.0.0.1 localhost\n", &cnx());
        let within = with.replace("10.1.1.6", "192.0.2.1 theirs\n10.1.1.6");
        assert_eq!(without_names(within.as_bytes()), b"127.0.0.1 localhost\n192.0.2.1 theirs\n");
        // A block without an end, or a beginning.
        for line in [BEGIN, END] {
            let torn = format!("{}192.0.2.1 theirs\n", with.replace(&format!("{line}\n"), ""));
            assert_eq!(without_names(torn.as_bytes()), b"127.0.0.1 localhost\n192.0.2.1 theirs\n");
        }
    }

    #[test]
    fn no_guest_takes_a_name_that_is_somebodys() {
        let lans = vec![
            lan(
                "cnx.example",
                &[
                    ("cnx6", &["LOCALHOST", "ip6-localhost", "server", "github.com"], "10.1.1.6"),
                    ("printer", &["www"], "10.1.1.7"),
                ],
            ),
            lan("localdomain", &[("other", &["www", "localhost", "a.localhost"], "10.1.2.6")]),
            lan("localhost", &[("b", &[], "10.1.3.6")]),
        ];
        let with = named(b"127.0.0.1 localhost\n192.0.2.9 Printer # of ours\n192.0.2.8 x #cnx6\n", &lans);
        let ours: Vec<&str> = with.lines().filter(|line| line.ends_with(MARK)).collect();
        assert_eq!(
            ours,
            [
                "10.1.1.6 cnx6.cnx.example cnx6 localhost.cnx.example ip6-localhost.cnx.example server.cnx.example github.com.cnx.example # of warren.toml",
                "10.1.1.7 printer.cnx.example www.cnx.example www # of warren.toml",
                "10.1.2.6 other.localdomain other www.localdomain a.localhost.localdomain # of warren.toml",
                "10.1.3.6 b # of warren.toml",
            ]
        );
    }
}
