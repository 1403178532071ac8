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

/// The unit of `warren serve`.
pub const SERVE: &str = "warren-serve.service";

/// The network's, its services', and its guests'. They wait for no uplink: LANs come up without it.
#[must_use]
pub fn all(call: &Call<'_>) -> Vec<Unit> {
    vec![
        Unit { name: "warren-network.service", text: network(call) },
        Unit { name: SERVE, text: serve(call) },
        Unit { name: "warren-guests.service", text: guests(call) },
    ]
}

fn network(call: &Call<'_>) -> String {
    let config = call.config.display();
    format!(
        "{MARK}\n\
         [Unit]\n\
         Description=The network of {config}\n\
         After={FIREWALLS}\n\
         # It makes the bridge where its configuration was taken over.\n\
         After=networking.service NetworkManager.service systemd-networkd.service dbus.service\n\
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
    )
}

/// What hardens a unit of systemd's (a view of its own of the files, filters of system calls, no new privileges) would
/// keep from the server the namespaces that this one makes, or be passed on to the guests that `up` starts through it.
/// What others send is read by the worker alone, which gives up all of that by itself.
fn serve(call: &Call<'_>) -> String {
    let config = call.config.display();
    format!(
        "{MARK}\n\
         [Unit]\n\
         Description=Names, leases and repair for the network of {config}\n\
         # Not wanted from here: each new try of this one would try that one again.\n\
         After=warren-network.service dbus.service systemd-resolved.service\n\
         # However often it fails: what is in its way may go away.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={}\n\
         # Ends when the file is served, and fails where it is wrong; what runs goes on then.\n\
         ExecReload={}\n\
         WatchdogSec=60\n\
         Restart=always\n\
         RestartSec=1\n\
         # `warren down` ends it, and means it.\n\
         RestartPreventExitStatus=0\n\
         TimeoutStartSec=300\n\
         TimeoutStopSec=60\n\
         # Its worker serves on until the next one takes over; guests that were started through it are LXC's.\n\
         KillMode=process\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         OOMPolicy=continue\n\
         # Nothing here hardens it: guests would inherit that, and the namespaces that it makes be hidden from the host.\n\
         # What others send is read by its worker, which has no privileges.\n\
         {}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        line(call, &["serve", "--no-guests"]),
        line(call, &["up", "--no-guests"]),
        environment(call),
    )
}

fn guests(call: &Call<'_>) -> String {
    let config = call.config.display();
    format!(
        "{MARK}\n\
         [Unit]\n\
         Description=The guests of {config}\n\
         Wants=warren-network.service\n\
         # They find who leases to them, where that is to be.\n\
         After=warren-network.service warren-serve.service lxc.service lxc-net.service\n\
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
    )
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
