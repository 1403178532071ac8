//! `[Match]` of systemd.network(5), and patterns of names.

use super::lines;
use crate::address::IfName;

/// The kinds of what we make, which are their drivers' names, too.
const KINDS: &[&str] = &["bridge", "veth", "tun", "tap", "ifb"];

/// Whether a file with its drop-ins may be about any of those links of ours: `[Match]` fits where all that it says does.
#[must_use]
pub fn may_fit(files: &[(String, String)], links: &[&IfName]) -> bool {
    let names: Vec<&str> = links.iter().map(|link| link.as_str()).collect();
    let all: Vec<_> = files.iter().flat_map(|(_, text)| lines(text)).filter(|line| line.section == "Match").collect();
    // Without any it fits nothing.
    let said: Vec<_> = all.iter().filter_map(|line| line.set).filter(|(_, value)| !value.is_empty()).collect();
    !said.is_empty()
        && !said.into_iter().any(|(key, value)| match key {
            "Name" => !fits(value, &names),
            "Kind" | "Driver" => !fits(value, KINDS),
            // With udev it is the one, without it the other.
            "Type" => !fits(value, &["bridge", "ether"]),
            // What is made has none of these.
            "Path" | "PermanentMACAddress" | "WLANInterfaceType" | "SSID" | "BSSID" => true,
            _ => false,
        })
}

/// Whether a list of patterns may fit one of these words; one with an exclamation mark before it fits all others.
fn fits(patterns: &str, words: &[&str]) -> bool {
    let (inverted, patterns) = match patterns.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, patterns),
    };
    words.iter().any(|word| {
        let mut all = patterns.split_whitespace().map(|pattern| glob(pattern.as_bytes(), word.as_bytes()));
        let one = all.by_ref().find(|fits| *fits != Some(false));
        match one {
            None => inverted,
            // A pattern that is not understood may fit or not.
            Some(None) => true,
            Some(Some(_)) => !inverted,
        }
    })
}

/// glob(7), but for classes of characters, which are not understood.
fn glob(pattern: &[u8], word: &[u8]) -> Option<bool> {
    match pattern.split_first() {
        None => Some(word.is_empty()),
        Some((b'[' | b'\\', _)) => None,
        Some((b'*', rest)) => {
            let tails: Vec<Option<bool>> = (0..=word.len()).map(|from| glob(rest, &word[from..])).collect();
            let not_understood = || if tails.contains(&None) { None } else { Some(false) };
            if tails.contains(&Some(true)) { Some(true) } else { not_understood() }
        }
        Some((first, rest)) => match word.split_first() {
            Some((letter, left)) if first == letter || *first == b'?' => glob(rest, left),
            _ => Some(false),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_may_fit_a_bridge() {
        let br0 = IfName::new("br0").unwrap();
        let fits = |matches: &str| {
            let text = format!("[Match]\n{matches}\n[Network]\nDHCP=yes\n");
            may_fit(&[("/etc/systemd/network/a.network".to_owned(), text)], &[&br0])
        };
        for matches in
            ["Name=*", "MACAddress=02:00:00:00:00:01", "Type=ether", "Name=!eth1", "Name=[a-e]*", "Name=e* b?0"]
        {
            assert!(fits(matches), "{matches}");
        }
        for matches in [
            "Name=en* eth*",
            "Kind=!*",
            "Type=wlan",
            "Path=pci-*",
            "Name=!b*",
            "PermanentMACAddress=02:00:00:00:00:01",
            "",
        ] {
            assert!(!fits(matches), "{matches}");
        }
    }
}
