//! A container's LXC configuration (lxc.container.conf(5)) as text: what others wrote in it stays, what warren writes
//! stands in a marked block at the end, where it has the last word.

use ipnet::IpNet;

use crate::settings::Settings;

/// Where LXC keeps what all containers include.
pub const COMMON: &str = "/usr/share/lxc/config/common.conf";
/// What containers in a user namespace include after it.
pub const USERNS: &str = "/usr/share/lxc/config/userns.conf";

const BEGIN: &str = "# >>> warren: from here on written by it; say it in warren.toml instead";
const END: &str = "# <<< warren";

/// The ids of the host that a guest's are, from the guest's 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ids {
    /// The host's id of the guest's root.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// Whether the kernel translates owners as it mounts the root file system, as another's container may have it; in
    /// ours they are shifted on the disk.
    pub idmapped: bool,
}

/// What the block is made from.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The network.
    pub settings: &'a Settings,
    /// Its ids; root in it is root here where there are none.
    pub ids: Option<Ids>,
    /// Whether LXC itself sets the addresses, because nothing in the guest does.
    pub sets_addresses: bool,
    /// Whether this kernel is without AppArmor.
    pub without_apparmor: bool,
    /// The program that LXC calls once the cable is plugged in.
    pub plugged: &'a str,
    /// Where its console's output goes.
    pub console: &'a str,
    /// The file's further lines.
    pub further: &'a [String],
    /// Whether the container is one that warren made: of another's only the cable is written.
    pub made_by_us: bool,
}

/// The configuration with `block` in place of the one before, and without other lines that would say the same.
#[must_use]
pub fn compose(before: &str, block: &Block<'_>) -> String {
    let owned: &[&str] = if block.made_by_us {
        &["lxc.net.", "lxc.network.", "lxc.idmap", "lxc.uts.name"]
    } else {
        &["lxc.net.", "lxc.network."]
    };
    let kept = others_lines(before);
    let kept: Vec<&str> = kept.into_iter().filter(|line| !is_one_of(line, owned)).collect();
    let has_common = kept.iter().any(|line| key(line) == Some("lxc.include") && line.contains("common.conf"));
    let mut text = String::new();
    let mut push = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    if block.made_by_us && !has_common {
        // Devices, capabilities and seccomp as LXC sets them; before the template's own lines, which know better.
        push(&format!("lxc.include = {COMMON}"));
    }
    kept.iter().for_each(|line| push(line));
    push(BEGIN);
    lines(block).iter().for_each(|line| push(line));
    push(END);
    text
}

/// The value that a key has last, outside of includes.
#[must_use]
pub fn value<'a>(config: &'a str, wanted: &str) -> Option<&'a str> {
    config.lines().rev().find(|line| key(line) == Some(wanted))?.split_once('=').map(|(_, value)| value.trim())
}

/// Of an administrator's defaults (lxc.conf(5), lxc.default_config) what holds for containers of warren's too: not
/// the network, not the ids.
#[must_use]
pub fn defaults(text: &str) -> String {
    let kept = text.lines().filter(|line| !is_one_of(line, &["lxc.net.", "lxc.network.", "lxc.idmap"]));
    let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
    // Until its first start the container has no network at all.
    text.push_str("lxc.net.0.type = empty\n");
    text
}

/// The first ids of every range that a configuration maps.
#[must_use]
pub fn mapped(config: &str) -> Vec<(u32, u32)> {
    let maps = config.lines().filter(|line| key(line) == Some("lxc.idmap"));
    maps.filter_map(|line| {
        let mut words = line.split_once('=')?.1.split_whitespace();
        let (_kind, _inside) = (words.next()?, words.next()?);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    })
    .collect()
}

fn lines(block: &Block<'_>) -> Vec<String> {
    let Settings { name, mac, mtu, lan, port, .. } = block.settings;
    let mut lines = Vec::new();
    let mut say = |key: &str, value: &str| lines.push(format!("{key} = {value}"));
    if block.made_by_us {
        say("lxc.uts.name", name);
        if let Some(Ids { first, count, .. }) = block.ids {
            say("lxc.include", USERNS);
            say("lxc.idmap", &format!("u 0 {first} {count}"));
            say("lxc.idmap", &format!("g 0 {first} {count}"));
        }
        if block.without_apparmor {
            say("lxc.apparmor.profile", "unconfined");
        }
        say("lxc.console.logfile", block.console);
        say("lxc.console.size", "128KB");
    }
    // warren starts it, once its LAN is there.
    say("lxc.start.auto", "0");
    say("lxc.net.0.type", "veth");
    say("lxc.net.0.link", lan.as_str());
    say("lxc.net.0.veth.pair", port.as_str());
    say("lxc.net.0.name", "eth0");
    say("lxc.net.0.hwaddr", &mac.to_string());
    say("lxc.net.0.mtu", &mtu.to_string());
    say("lxc.net.0.flags", "up");
    say("lxc.net.0.script.up", block.plugged);
    if block.sets_addresses {
        for net in &block.settings.addresses {
            // The broadcast address that LXC 5.0 computes is wrong (0.0.0.255).
            match net {
                IpNet::V4(net) => say("lxc.net.0.ipv4.address", &format!("{net} {}", net.broadcast())),
                IpNet::V6(net) => say("lxc.net.0.ipv6.address", &net.to_string()),
            }
        }
        for gateway in &block.settings.gateways {
            let family = if gateway.is_ipv4() { "ipv4" } else { "ipv6" };
            say(&format!("lxc.net.0.{family}.gateway"), &gateway.to_string());
        }
    }
    lines.extend(block.further.iter().cloned());
    lines
}

/// All but our block; what follows it, of whoever's, is kept.
fn others_lines(config: &str) -> Vec<&str> {
    let mut ours = false;
    let mut kept = Vec::new();
    for line in config.lines() {
        match line {
            BEGIN => ours = true,
            END => ours = false,
            // A block written by hand without its end would swallow the rest: LXC's own order is kept instead.
            _ if !ours => kept.push(line),
            _ => {}
        }
    }
    // The line that we put before the template's is found again, and would be doubled.
    if config.contains(BEGIN) && kept.first().is_some_and(|line| *line == format!("lxc.include = {COMMON}")) {
        kept.remove(0);
    }
    kept
}

fn key(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.starts_with('#') { None } else { line.split_once('=').map(|(key, _)| key.trim()) }
}

fn is_one_of(line: &str, keys: &[&str]) -> bool {
    key(line).is_some_and(|key| {
        keys.iter()
            .any(|own| key == *own || key == own.trim_end_matches('.') || (own.ends_with('.') && key.starts_with(own)))
    })
}

/// The script of [`Block::plugged`], which LXC calls also when a guest restarts by itself. What LXC cannot say is set
/// here: the host has no address at a guest's cable, a guest that asks for itself at the public address gets its
/// frames back, and one that is kept apart from its neighbours is. `limit` is the command that limits its bandwidth,
/// where that is limited.
#[must_use]
pub fn plugged_script(settings: &Settings, limit: Option<&str>) -> String {
    let (hairpin, isolated) = (u8::from(settings.hairpin), u8::from(settings.isolated));
    let limit = limit.filter(|_| settings.limited).map(|command| format!("{command}\n")).unwrap_or_default();
    format!(
        "#!/bin/sh\n\
         # Written by warren: LXC calls it whenever the cable of {name} has been plugged in.\n\
         cd /proc/sys/net/ipv6/conf/{port} && {{\n\
         \t# Off, without addresses of the kernel's own making from now on, and on again: as on warren's other ports.\n\
         \techo 1 > disable_ipv6\n\
         \techo 1 > addr_gen_mode\n\
         \techo 0 > disable_ipv6\n\
         }}\n\
         echo {hairpin} > /sys/class/net/{port}/brport/hairpin_mode\n\
         echo {isolated} > /sys/class/net/{port}/brport/isolated\n\
         {limit}exit 0\n",
        name = settings.name,
        port = settings.port,
    )
}
