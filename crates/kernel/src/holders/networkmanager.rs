//! NetworkManager(8). What it activates live it takes addresses off first; what it finds, when it begins, on a device
//! that its own notes (/run/NetworkManager/devices/INDEX) give the same connection, it goes on with: so it is stopped,
//! which leaves all as it is, and begins anew with notes of the bridge.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::address::IfName;
use model::manager::networkmanager::Active;
use model::state::{Hold, Side};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use zbus::blocking::fdo::DBusProxy;
use zbus::blocking::{Connection, Proxy, connection};
use zbus::names::BusName;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use crate::error::{Context as _, KernelError, Result, explained};
use crate::rtnl::Rtnl;
use crate::{processes, systemd};

const SERVICE: &str = "org.freedesktop.NetworkManager";
const PATH: &str = "/org/freedesktop/NetworkManager";
const ACTIVE: &str = "org.freedesktop.NetworkManager.Connection.Active";
const UNIT: &str = "NetworkManager.service";
/// What it notes of each device, by index.
pub const DEVICES: &str = "/run/NetworkManager/devices";
/// Connections that do not outlive a boot.
pub const IN_MEMORY: &str = "/run/NetworkManager/system-connections";
/// Its notes of leases (nm-dhcp-client of its own, `internal-UUID-INTERFACE.lease`).
const LEASES: &str = "/var/lib/NetworkManager";
/// How long it may take to end, to begin, and to have a lease again: it gives up a server that is silent after 45 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// NMActiveConnectionState: activated.
const ACTIVATED: u32 = 2;

/// The process of this network's, by its number and command line, now.
#[must_use]
pub fn process() -> Option<(Pid, Vec<String>)> {
    let found = processes::named(&["NetworkManager"]).into_iter().next()?;
    Some((found.pid, found.line))
}

/// Where its connection is active. Where it has only begun, it is waited for.
pub fn side(hold: &Hold, active: &Active) -> Result<Side> {
    if process().is_none() {
        return Ok(Side::Between);
    }
    let what = "NetworkManager for what is active";
    let begun = Instant::now();
    loop {
        let asked = Asked::now();
        let side = asked.as_ref().ok().and_then(|asked| asked.side(hold, active));
        match (side, asked) {
            (Some(side), _) => return Ok(side),
            (None, Ok(asked)) if !asked.starting || begun.elapsed() > PATIENCE => return Ok(Side::Between),
            (None, Err(e)) if process().is_none() || begun.elapsed() > PATIENCE => {
                return Err(io::Error::other(e)).context("ask", what);
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Lets it be at work where `hold` says; between the two, it does not run.
pub fn set(hold: &Hold, active: &Active) -> Result<()> {
    stop()?;
    let (port, bridge) = (&hold.port, &hold.bridge);
    match hold.on {
        Side::Between => return Ok(()),
        Side::Bridge => {
            note(port, &active.of_port(port, bridge), active)?;
            note(bridge, &active.of_bridge(bridge), active)?;
            carry_lease((&active.uuid, port), (&active.of_bridge(bridge), bridge))?;
        }
        Side::Port => {
            note(port, &active.uuid, active)?;
            carry_lease((&active.of_bridge(bridge), bridge), (&active.uuid, port))?;
        }
    }
    start(&active.line)?;
    await_active(hold, active)
}

/// What it says of itself.
struct Asked {
    /// Whether it still looks at what there is.
    starting: bool,
    /// UUID, state and devices' names of what is active.
    active: Vec<(String, u32, Vec<String>)>,
}

impl Asked {
    fn now() -> zbus::Result<Self> {
        let bus: Connection = connection::Builder::system()?.method_timeout(PATIENCE).build()?;
        let manager = Proxy::new(&bus, SERVICE, PATH, SERVICE)?;
        let mut active = Vec::new();
        for path in manager.get_property::<Vec<OwnedObjectPath>>("ActiveConnections")? {
            // One may end while it is asked for.
            active.extend(Self::of(&bus, &path).ok());
        }
        Ok(Self { starting: manager.get_property("Startup")?, active })
    }

    fn of(bus: &Connection, path: &OwnedObjectPath) -> zbus::Result<(String, u32, Vec<String>)> {
        let one = Proxy::new(bus, SERVICE, path, ACTIVE)?;
        let mut names = Vec::new();
        for device in one.get_property::<Vec<OwnedObjectPath>>("Devices")? {
            let device = Proxy::new(bus, SERVICE, device, "org.freedesktop.NetworkManager.Device")?;
            names.push(device.get_property("Interface")?);
        }
        Ok((one.get_property("Uuid")?, one.get_property("State")?, names))
    }

    /// How far the connection has come on the interface.
    fn state(&self, uuid: &str, name: &IfName) -> Option<u32> {
        let is_it = |names: &[String]| names.iter().any(|other| other == name.as_str());
        self.active.iter().find(|(other, _, names)| other == uuid && is_it(names)).map(|(_, state, _)| *state)
    }

    fn side(&self, hold: &Hold, active: &Active) -> Option<Side> {
        let on_bridge = self.state(&active.of_bridge(&hold.bridge), &hold.bridge);
        let on_port = self.state(&active.uuid, &hold.port);
        on_bridge.map(|_| Side::Bridge).or(on_port.map(|_| Side::Port))
    }
}

/// What the leases of an interface say, by the options' names.
pub fn leases(name: &IfName) -> zbus::Result<BTreeMap<String, String>> {
    let bus: Connection = connection::Builder::system()?.method_timeout(PATIENCE).build()?;
    let manager = Proxy::new(&bus, SERVICE, PATH, SERVICE)?;
    let device: OwnedObjectPath = manager.call("GetDeviceByIpIface", &(name.as_str(),))?;
    let device = Proxy::new(&bus, SERVICE, device, "org.freedesktop.NetworkManager.Device")?;
    let mut leases = BTreeMap::new();
    for (property, interface) in [("Dhcp4Config", "DHCP4Config"), ("Dhcp6Config", "DHCP6Config")] {
        let path: OwnedObjectPath = device.get_property(property)?;
        // There is none.
        if path.as_str() == "/" {
            continue;
        }
        let config = Proxy::new(&bus, SERVICE, path, format!("{SERVICE}.{interface}"))?;
        let options: HashMap<String, OwnedValue> = config.get_property("Options")?;
        leases.extend(options.into_iter().filter_map(|(key, value)| Some((key, String::try_from(value).ok()?))));
    }
    Ok(leases)
}

/// The file that it has the connection of that UUID from; empty where it has none.
pub fn file_of(uuid: &str) -> zbus::Result<String> {
    let bus: Connection = connection::Builder::system()?.method_timeout(PATIENCE).build()?;
    let settings = Proxy::new(&bus, SERVICE, format!("{PATH}/Settings"), format!("{SERVICE}.Settings"))?;
    let path: OwnedObjectPath = settings.call("GetConnectionByUuid", &(uuid,))?;
    Proxy::new(&bus, SERVICE, path, format!("{SERVICE}.Settings.Connection"))?.get_property("Filename")
}

fn await_active(hold: &Hold, active: &Active) -> Result<()> {
    let (bridge, port) = (&hold.bridge, &hold.port);
    let (plugged, bridged) = (active.of_port(port, bridge), active.of_bridge(bridge));
    let wanted: &[(&str, &IfName)] = match hold.on {
        Side::Bridge => &[(&bridged, bridge), (&plugged, port)],
        _ => &[(&active.uuid, port)],
    };
    let begun = Instant::now();
    loop {
        let asked = Asked::now();
        let is_active = |(uuid, name): &(&str, &IfName)| {
            asked.as_ref().is_ok_and(|asked| asked.state(uuid, name) == Some(ACTIVATED))
        };
        let Some((_, name)) = wanted.iter().find(|one| !is_active(one)) else { return Ok(()) };
        if begun.elapsed() > PATIENCE {
            let late = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            let late = asked.err().map_or(late, io::Error::other);
            let what = format!("NetworkManager's connection on {name}");
            return Err(KernelError::new("wait for", what, explained(late, "it does not become active")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What it reads, when it begins, of a device: which connection it is to go on with.
fn note(name: &IfName, uuid: &str, active: &Active) -> Result<()> {
    let index = Rtnl::open()?.index_of(name)?;
    let path = format!("{DEVICES}/{index}");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let kept = |line: &&str| line.starts_with("perm-hw-addr-fake=");
    let mut lines = vec!["[device]".to_owned(), "managed=true".to_owned()];
    lines.extend(before.lines().filter(kept).map(str::to_owned));
    lines.push(format!("connection-uuid={uuid}"));
    lines.push("nm-owned=false".to_owned());
    lines.extend(active.metric.map(|metric| format!("route-metric-default-effective={metric}")));
    fs::create_dir_all(DEVICES).context("make", DEVICES)?;
    fs::write(&path, lines.join("\n") + "\n").context("write", path)
}

/// What it knows of its lease, by the connection's UUID and the device: so it asks for the same one.
fn carry_lease(from: (&str, &IfName), to: (&str, &IfName)) -> Result<()> {
    for kind in ["internal", "internal6"] {
        let path = |(uuid, name): (&str, &IfName)| format!("{LEASES}/{kind}-{uuid}-{name}.lease");
        match fs::rename(path(from), path(to)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("rename", path(from)),
        }
    }
    Ok(())
}

/// Its end leaves addresses, routes and leases as they are.
fn stop() -> Result<()> {
    if process().is_some() && !(systemd::is_ours() && systemctl("stop")?) {
        end()?;
    }
    // The next one may not begin before the bus has seen that this one has gone.
    let begun = Instant::now();
    while is_named().unwrap_or(false) || process().is_some() {
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).context("end", "NetworkManager");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether it is on the bus.
fn is_named() -> zbus::Result<bool> {
    let bus: Connection = connection::Builder::system()?.method_timeout(PATIENCE).build()?;
    Ok(DBusProxy::new(&bus)?.name_has_owner(BusName::try_from(SERVICE)?)?)
}

/// Where it is no service of systemd's.
fn end() -> Result<()> {
    let begun = Instant::now();
    while let Some((pid, _)) = process() {
        // It is asked once more now and then, and no longer asked in the end.
        let signal = if begun.elapsed() > PATIENCE / 3 { Signal::KILL } else { Signal::TERM };
        match pidfd_open(pid, PidfdFlags::empty()).and_then(|held| {
            // The number may be another process's by now; what is held is not.
            if process().is_some_and(|(now, _)| now == pid) { pidfd_send_signal(&held, signal) } else { Ok(()) }
        }) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e).context("end", "NetworkManager"),
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).context("end", "NetworkManager");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// As it ran before; where it is a service of systemd's, as that one.
fn start(line: &[String]) -> Result<()> {
    if systemd::is_ours() && systemctl("start")? {
        return Ok(());
    }
    let Some((program, arguments)) = line.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // A signal to the group that we are in is not meant for it.
    command.process_group(0);
    command.spawn().map(drop).context("start", line.join(" "))
}

/// Whether that was done; where it is no unit of systemd's, nothing is.
fn systemctl(verb: &str) -> Result<bool> {
    let ask = |arguments: &[&str]| {
        let mut command = Command::new("systemctl");
        command.args(arguments).stdin(Stdio::null()).output().context("run", "systemctl")
    };
    let known = ask(&["show", "--property=LoadState", "--value", UNIT])?;
    if String::from_utf8_lossy(&known.stdout).trim() != "loaded" {
        return Ok(false);
    }
    let ran = ask(&["--quiet", verb, UNIT])?;
    if ran.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(KernelError::new("run", format!("systemctl {verb} {UNIT}"), explained(io::Error::other("it failed"), said)))
}
