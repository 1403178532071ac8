//! The units of systemd's that `install` writes, as text (systemd.unit(5), systemd.service(5)).

use std::path::{Path, PathBuf};

/// Stands first in each of our units: what bears it not is another's.
pub const MARK: &str = "# Written by `warren install`; `warren uninstall` takes it out.";

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its file's name.
    pub name: &'static str,
    /// What stands in it.
    pub text: String,
}

/// What the units call, and where that finds its files.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// This program.
    pub program: &'a Path,
    /// The configuration.
    pub config: &'a Path,
    /// The state folder.
    pub state_dir: &'a Path,
    /// The run folder.
    pub run_dir: &'a Path,
    /// Where containers are, where they are not in LXC's own folder.
    pub lxc_path: Option<&'a str>,
}

/// Firewall services that write, or flush, rules of theirs when they start: ours stand behind them.
const FIREWALLS: &str = "nftables.service ufw.service firewalld.service netfilter-persistent.service iptables.service";

/// The network's, and its guests'. They wait for no uplink: LANs come up without it.
#[must_use]
pub fn all(call: &Call<'_>) -> Vec<Unit> {
    let config = call.config.display();
    let network = format!(
        "{MARK}\n\
         [Unit]\n\
         Description=The network of {config}\n\
         After={FIREWALLS}\n\
         Before=network.target network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # Stopped or not, the network stays: only `warren down` takes it away.\n\
         RemainAfterExit=yes\n\
         ExecStart={}\n\
         {}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        line(call, &["boot"]),
        environment(call),
    );
    let guests = format!(
        "{MARK}\n\
         [Unit]\n\
         Description=The guests of {config}\n\
         Wants=warren-network.service\n\
         After=warren-network.service lxc.service lxc-net.service\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={}\n\
         ExecStop={}\n\
         TimeoutStartSec=infinity\n\
         TimeoutStopSec=120\n\
         # What is left of a guest is LXC's.\n\
         KillMode=process\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         {}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        line(call, &["boot", "--guests"]),
        line(call, &["boot", "--stop"]),
        environment(call),
    );
    vec![Unit { name: "warren-network.service", text: network }, Unit { name: "warren-guests.service", text: guests }]
}

fn line(call: &Call<'_>, words: &[&str]) -> String {
    let folders = [("-c", call.config), ("--state-dir", call.state_dir), ("--run-dir", call.run_dir)];
    let mut all: Vec<PathBuf> = vec![call.program.to_owned()];
    all.extend(folders.iter().flat_map(|(option, path)| [PathBuf::from(option), (*path).to_owned()]));
    all.extend(words.iter().map(PathBuf::from));
    all.iter().map(|word| quoted(&word.display().to_string())).collect::<Vec<_>>().join(" ")
}

fn environment(call: &Call<'_>) -> String {
    let named = call.lxc_path.map(|path| quoted(&format!("{}={path}", guests::host::LXC_PATH)));
    named.map(|word| format!("Environment={word}\n")).unwrap_or_default()
}

/// A word as systemd.syntax(7) and systemd.service(5) want it: nothing in it means anything but itself.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_themselves() {
        for (word, written) in [
            ("/usr/local/bin/warren", "/usr/local/bin/warren"),
            ("--state-dir", "--state-dir"),
            ("/srv/my network", "\"/srv/my network\""),
            ("/srv/100%", "\"/srv/100%%\""),
            ("/srv/$x\"y\\z", "\"/srv/$$x\\\"y\\\\z\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word), written);
        }
    }
}
