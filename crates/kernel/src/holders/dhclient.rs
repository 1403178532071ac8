//! dhclient(8), found by its process, moved with its leases: on the other interface it asks for the lease that it has, by
//! the same client identifier, and gets it.
//!
//! The new one runs before the old one ends, so that there is always one. It is killed: a SIGTERM would have it run its
//! scripts, and those take the address away.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::address::IfName;
use model::manager::dhclient;
use model::state::{Hold, Side};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Context as _, KernelError, Result};
use crate::processes::{self, Clients, Process};
use crate::rtnl::{AddressInfo, Rtnl};
use crate::{files, systemd};

/// How long a process may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long its scripts may take to end. One that takes longer has somebody else's hooks to run.
const SCRIPTS: Duration = Duration::from_secs(5);

/// Every dhclient of this network's, now.
#[must_use]
pub fn all() -> Vec<Process> {
    processes::named(&["dhclient"])
}

/// Whether a udhcpc runs for the interface, which notes itself nowhere unless told (`-p`), and whose script sets its
/// address without an end.
#[must_use]
pub fn has_udhcpc(name: &IfName, running: &Clients) -> bool {
    running.named(&["udhcpc", "udhcpc6", "busybox"]).any(|client| dhclient::is_udhcpc_of(&client.line, name))
}

/// The dhclients that have to do with the interface: it is among theirs, or they are for all.
pub fn of<'a>(name: &'a IfName, running: &'a Clients) -> impl Iterator<Item = &'a Process> {
    running.named(&["dhclient"]).filter(|client| {
        let interfaces = dhclient::interfaces(&client.line);
        interfaces.is_empty() || interfaces.contains(&name.as_str())
    })
}

/// The one that is for this interface and its family alone.
fn own(name: &IfName, six: bool) -> Vec<Process> {
    let mut all = all();
    let is_own = |line: &[String]| dhclient::interfaces(line) == [name.as_str()] && dhclient::is_of_ipv6(line) == six;
    all.retain(|client| is_own(&client.line));
    all
}

/// Where one runs; `line` is its command line on the interface.
pub fn side(hold: &Hold, line: &[String]) -> Result<Side> {
    let six = dhclient::is_of_ipv6(line);
    if six && (has_kept(&hold.port)? || has_kept(&hold.bridge)?) {
        return Ok(Side::Between);
    }
    Ok(match (own(&hold.port, six).is_empty(), own(&hold.bridge, six).is_empty()) {
        (false, true) => Side::Port,
        (true, false) => Side::Bridge,
        _ => Side::Between,
    })
}

/// Lets it run where `hold` says, and nowhere else; `line` is its command line on the interface.
pub fn set(hold: &Hold, line: &[String]) -> Result<()> {
    let six = dhclient::is_of_ipv6(line);
    let own = |name: &IfName| own(name, six);
    let there = dhclient::moved(line, &hold.port, &hold.bridge);
    let (from, to) = ((&hold.port, line), (&hold.bridge, there.as_slice()));
    let (from, to) = if hold.on == Side::Bridge { (from, to) } else { (to, from) };
    if own(to.0).is_empty() {
        carry_leases(from, to)?;
        if six {
            await_link_local(to.0)?;
            // Its start takes every fixed IPv6 address away (dhclient-script(8), PREINIT6), and is over when it is one more
            // process.
            Rtnl::open()?.keep_fixed(to.0, true)?;
        }
        start(to.1)?;
        await_or(&format!("dhclient on {}", to.0), || !own(to.0).is_empty())?;
    }
    for name in [&hold.port, &hold.bridge].into_iter().filter(|_| six) {
        if has_kept(name)? {
            Rtnl::open()?.keep_fixed(name, false)?;
        }
    }
    // It has children now and then, which run its scripts.
    let begun = Instant::now();
    while let Some(client) = own(from.0).first() {
        end(client, from.0, six)?;
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
                .context("end", format!("dhclient on {}", from.0));
        }
    }
    await_scripts(from.0);
    // The bridge goes, and with it what tells of it; the interface's leases stay, should the machine stop here.
    let left = if hold.on == Side::Bridge { ["-pf"].as_slice() } else { &["-lf", "-pf"] };
    for path in left.iter().filter_map(|option| dhclient::value(from.1, option)) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// The leases of the one as the other's. Without any there is nothing to be carried.
fn carry_leases(from: (&IfName, &[String]), to: (&IfName, &[String])) -> Result<()> {
    let (Some(old), Some(new)) = (dhclient::value(from.1, "-lf"), dhclient::value(to.1, "-lf")) else { return Ok(()) };
    let Some(text) = files::read(old)? else { return Ok(()) };
    let now = files::read(new)?;
    files::set(new, now.as_deref(), Some(&dhclient::leases(&text, from.0, to.0)))
}

/// In nobody's session, and in no service's control group: it outlives both.
fn start(line: &[String]) -> Result<()> {
    let Some((program, arguments)) = line.split_first() else { return Ok(()) };
    let scoped = systemd::is_ours().then(|| {
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--collect", "--no-ask-password", "--scope", "--slice=system.slice"]);
        command.args(["--description=The DHCP client of warren's bridge", "--", program]);
        command
    });
    let plain = || Command::new(program);
    let mut failed = None;
    for mut command in scoped.into_iter().chain([plain()]) {
        // It becomes a daemon at once, not only once it has a lease.
        if !arguments.iter().any(|word| word == "-nw") {
            command.arg("-nw");
        }
        command
            .args(arguments)
            .current_dir("/")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A signal to the group that we are in is not meant for it.
        command.process_group(0);
        match command.status() {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => failed = Some(io::Error::other(status.to_string())),
            Err(e) => failed = Some(e),
        }
    }
    failed.map_or(Ok(()), |e| Err(KernelError::new("start", line.join(" "), e)))
}

/// Whether fixed addresses are kept from one that begins.
fn has_kept(name: &IfName) -> Result<bool> {
    match Rtnl::open()?.has_kept(name) {
        Err(e) if e.is_absent() => Ok(false),
        other => other,
    }
}

/// It asks from the link-local address, and ends where there is none to be used.
fn await_link_local(name: &IfName) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let index = rtnl.index_of(name)?;
    let begun = Instant::now();
    loop {
        let is_it = |one: &AddressInfo| one.index == index && one.net.addr().is_ipv6() && one.is_link_local();
        if rtnl.addresses()?.iter().any(|one| is_it(one) && !one.is_unusable()) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let late = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            return Err(late).context("wait for", format!("a link-local address on {name}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(client: &Process, name: &IfName, six: bool) -> Result<()> {
    let what = || format!("dhclient on {name}");
    let held = match pidfd_open(client.pid, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(e).context("end", what()),
    };
    // The number may be another process's by now; what is held is not.
    if !own(name, six).iter().any(|other| other.pid == client.pid) {
        return Ok(());
    }
    match pidfd_send_signal(&held, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => return Err(e).context("end", what()),
    }
    await_or(&what(), || !own(name, six).iter().any(|other| other.pid == client.pid))
}

/// Waits a while for what it has run and left behind: that would give the interface an address which it has just lost.
fn await_scripts(name: &IfName) {
    let begun = Instant::now();
    while begun.elapsed() < SCRIPTS && !scripts(name).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The scripts that run for an interface, which they know from their environment (dhclient-script(8)).
fn scripts(name: &IfName) -> Vec<i32> {
    let own = fs::metadata("/proc/thread-self/ns/net").map(|meta| meta.ino()).ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let about = format!("interface={name}");
    pids.retain(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm") == b"dhclient-script\n"
            && read("environ").split(|byte| *byte == 0).any(|word| word == about.as_bytes())
            && fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino()).ok() == own
    });
    pids
}

fn await_or(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).context("wait for", what);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether a process's number in a file is that of a DHCP client that runs.
#[must_use]
pub fn runs(path: &Path) -> bool {
    let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    // One that ended leaves its note, often enough, and its number to others; one that nobody waits for has no command
    // line any more.
    let said =
        |file: &str| pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/{file}")).ok()).unwrap_or_default();
    said("comm").contains("dhc") && !said("cmdline").is_empty()
}
