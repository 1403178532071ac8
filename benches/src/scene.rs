//! Servers with a world before them and guests behind them, in namespaces of this process's own lab.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a measurement could not be made: a sentence.
pub type Outcome<T> = Result<T, String>;

/// Says what was tried, before the system's own words.
pub fn told<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> Outcome<T> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// Runs a program in a namespace (here, where the name is empty) to its end.
pub fn run(place: &str, words: &[&str]) -> Outcome<()> {
    run_with(place, words, "")
}

/// The same, with `input` on its stdin.
pub fn run_with(place: &str, words: &[&str], input: &str) -> Outcome<()> {
    use std::io::Write as _;
    let mut command = inside(place, words);
    let what = words.join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = told(command.spawn(), &what)?;
    if let Some(mut pipe) = child.stdin.take() {
        told(pipe.write_all(input.as_bytes()), &what)?;
    }
    let output = told(child.wait_with_output(), &what)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A program in a namespace.
pub fn inside(place: &str, words: &[&str]) -> Command {
    let mut command = if place.is_empty() {
        Command::new(words[0])
    } else {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{place}")).arg(words[0]);
        command
    };
    command.args(&words[1..]);
    command
}

/// `ip` lines, one after the other.
pub fn ip(lines: &[String]) -> Outcome<()> {
    run_with("", &["ip", "-batch", "-"], &(lines.join("\n") + "\n"))
}

/// A server `NAME` with a world `NAME-w` on its uplink, 203.0.113.0/24, and files of its own.
pub struct Scene {
    /// The server's namespace.
    pub server: String,
    /// The world's.
    pub world: String,
    folder: tempfile::TempDir,
}

/// Where the server is reached.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The world's client and server.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The one guest of those scenes that have one.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 6);

impl Scene {
    /// Server and world, connected.
    pub fn new(name: &str) -> Outcome<Self> {
        let (server, world) = (name.to_owned(), format!("{name}-w"));
        for place in [&server, &world] {
            // Not by our own crate, which would mark it as a guest of warren's, to be taken away.
            run("", &["ip", "netns", "add", place])?;
        }
        ip(&[
            format!("-n {server} link set lo up"),
            format!("-n {world} link set lo up"),
            format!("link add eth0 netns {server} type veth peer name eth0 netns {world}"),
            format!("-n {server} link set eth0 up"),
            format!("-n {world} link set eth0 up"),
            format!("-n {server} address add {PUBLIC}/24 dev eth0"),
            format!("-n {world} address add {WORLD}/24 dev eth0"),
            format!("-n {server} route add default via {WORLD}"),
            format!("-n {world} route add 10.1.1.0/24 via {PUBLIC}"),
        ]
        .map(|line| line.strip_prefix("-n ").map_or(line.clone(), in_place)))?;
        let folder = told(tempfile::tempdir(), "a folder")?;
        Ok(Self { server, world, folder })
    }

    /// A guest `NAME-g` by hand, plugged into the switch br1 of the server's.
    pub fn plug(&self) -> Outcome<String> {
        let (server, guest) = (&self.server, format!("{}-g", self.server));
        for words in [
            format!("ip netns add {guest}"),
            format!("ip link add port netns {server} type veth peer name eth0 netns {guest}"),
            format!("ip -n {server} link set port master br1 up"),
            format!("ip -n {guest} link set lo up"),
            format!("ip -n {guest} link set eth0 up"),
            format!("ip -n {guest} address add {GUEST}/24 dev eth0"),
            format!("ip -n {guest} route add default via 10.1.1.1"),
        ] {
            run("", &words.split(' ').collect::<Vec<_>>())?;
        }
        Ok(guest)
    }

    /// The switch and its guest by hand, as peers want it: forwarding on.
    pub fn guest_by_hand(&self) -> Outcome<String> {
        let server = &self.server;
        for words in [
            format!("ip -n {server} link add br1 type bridge"),
            format!("ip -n {server} address add 10.1.1.1/24 dev br1"),
            format!("ip -n {server} link set br1 up"),
        ] {
            run("", &words.split(' ').collect::<Vec<_>>())?;
        }
        run(server, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        self.plug()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes warren's file.
    pub fn write(&self, text: &str) -> Outcome<PathBuf> {
        let path = self.folder().join("warren.toml");
        told(fs::write(&path, text), "the file")?;
        told(fs::set_permissions(&path, fs::Permissions::from_mode(0o600)), "the file")?;
        Ok(path)
    }

    /// warren, in the server, with its files in the scene's folder.
    pub fn warren(&self, words: &[&str]) -> Command {
        let mut command = inside(&self.server, &[&[&warren()[..]], words].concat());
        for (variable, name) in [
            ("WARREN_CONFIG", "warren.toml"),
            ("WARREN_STATE_DIR", "state"),
            ("WARREN_RUN_DIR", "run"),
            ("WARREN_LXC_PATH", "lxc"),
        ] {
            command.env(variable, self.folder().join(name));
        }
        command
    }

    /// Runs it to its end.
    pub fn warren_done(&self, words: &[&str]) -> Outcome<()> {
        let output = told(self.warren(words).stdin(Stdio::null()).output(), "warren")?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("warren {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

/// `ip -batch` knows no -n: the line goes through `netns exec` no more than needed, so it is said to `ip` itself.
fn in_place(rest: &str) -> String {
    let (place, line) = rest.split_once(' ').unwrap_or((rest, ""));
    format!("netns exec {place} ip {line}")
}

/// The binary of a release build, beside this one.
pub fn warren() -> String {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("warren")));
    beside.map_or_else(|| "warren".to_owned(), |path| path.display().to_string())
}

/// warren.toml with `count` forwards to one guest, the last of which leads from 29999 (or 20000, if one) to port 80. The
/// guest is reserved, and plugged in by hand where there is to be one: several scenes' warrens know all namespaces alike.
pub fn forwards(count: usize) -> String {
    let mut text = format!(
        "[host]\nuplink = \"eth0\"\npublic = [\"{PUBLIC}\"]\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
         [guest.g]\nkind = \"reserved\"\naddress = [\"{GUEST}\"]\n"
    );
    for n in 0..count {
        let to = if n + 1 == count { 80 } else { 10_000 + n };
        text.push_str(&format!("[[forward]]\nlisten = \"{}\"\nto = \"g:{to}\"\n", 20_000 + n));
    }
    text
}
