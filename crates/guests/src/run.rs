//! A guest's life: told what changed, started, stopped, entered, destroyed.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use model::network::Container;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::create::{self, Line, Said};
use crate::error::{Context as _, GuestError, Result};
use crate::host::{Host, State};
use crate::lxc::Ids;
use crate::port;
use crate::prepare;
use crate::record::{self, Record};
use crate::root::Root;
use crate::settings::Settings;
use crate::subid;
use crate::tools::{self, Tool};

/// How long a guest may take until it has its addresses. Later ones are told, not ended.
pub const READY: Duration = Duration::from_secs(30);
/// How long it is watched at least: one whose address LXC sets has it before its first process has done anything.
const LINGER: Duration = Duration::from_millis(250);
/// How long a guest may take to stop by itself, where nothing else is said.
pub const STOP: Duration = Duration::from_secs(30);

/// What a changed file changed of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// What it was told of its network before, where that was something else.
    pub before: Option<Settings>,
    /// Whether LXC's configuration changed.
    pub config: bool,
}

/// Writes what the file says now, into the guest and beside it; changes nothing of one that runs.
pub fn refresh(host: &Host, settings: &Settings, container: &Container) -> Result<Refreshed> {
    let guest = settings.name.as_str();
    let mut record = match Record::read(host, guest)? {
        Some(record) => record,
        None => adopt(host, settings)?,
    };
    let mut done = Refreshed::default();
    if record.settings != *settings {
        let root = Root::open(&host.rootfs(guest)?, owner(record.ids))?;
        let found = prepare::look(&root)?;
        let edits = if record.made_by_us {
            record.mechanism = prepare::mechanism(&found);
            prepare::network(&found, settings)
        } else {
            prepare::addresses(&found, record.mechanism, settings)
        };
        edits.iter().try_for_each(|edit| edit.apply(&root))?;
        done.before = Some(std::mem::replace(&mut record.settings, settings.clone()));
    }
    done.config = create::write_config(host, &record, container)?;
    if done.before.is_some() || !Record::path(host, guest).exists() {
        record.write(host, guest)?;
    }
    Ok(done)
}

/// A container of another's making: what it is stays, and its network is told to it for the first time.
fn adopt(host: &Host, settings: &Settings) -> Result<Record> {
    let guest = settings.name.as_str();
    if !host.exists(guest) {
        return Err(host.absent(guest));
    }
    let path = host.config(guest);
    let config = fs::read_to_string(&path).context("read", path.display())?;
    let ids = crate::lxc::mapped(&config).first().map(|(first, count)| {
        let idmapped = crate::lxc::value(&config, "lxc.rootfs.options").is_some_and(|o| o.contains("idmap="));
        Ids { first: *first, count: *count, idmapped }
    });
    // None of its settings are known: an empty one differs from all.
    let nothing = Settings { addresses: Vec::new(), domain: String::new(), ..settings.clone() };
    // Who set its address until now goes on doing so.
    let by_lxc = config.lines().any(|line| line.trim_start().starts_with("lxc.net.0.ipv"));
    let root = Root::open(&host.rootfs(guest)?, owner(ids))?;
    let mechanism = if by_lxc { prepare::Mechanism::Lxc } else { prepare::mechanism(&prepare::look(&root)?) };
    Ok(Record { version: record::VERSION, made_by_us: false, ids, mechanism, settings: nothing })
}

/// Whom a guest's files belong to on the disk.
fn owner(ids: Option<Ids>) -> u32 {
    ids.filter(|ids| !ids.idmapped).map_or(0, |ids| ids.first)
}

/// Whether a guest that was started has its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It has all its addresses.
    Ready,
    /// It runs, but after [`READY`] it has not.
    Waiting,
}

/// Starts a guest that does not run, and waits until it has its addresses.
pub fn start(host: &Host, settings: &Settings, container: &Container, said: Said) -> Result<Started> {
    let guest = settings.name.as_str();
    refresh(host, settings, container)?;
    if let Some(ids) = Record::read(host, guest)?.filter(|record| record.made_by_us).and_then(|record| record.ids) {
        subid::take(ids.first)?;
    }
    check_cable(settings)?;
    said(Line::Stage("starting it"));
    let log = host.folder(guest).join("lxc.log");
    // Of the last start alone.
    let _ = fs::remove_file(&log);
    let console = host.folder(guest).join("console.log");
    let _ = fs::remove_file(&console);
    let tool = host.tool("lxc-start", guest, format!("start {guest}")).args(["-d", "-l", "NOTICE", "-o"]).arg(&log);
    let (status, _, said_last) = tool.output()?;
    if !status.success() {
        let mut words = log_errors(&log);
        if words.is_empty() {
            words = said_last;
        }
        return Err(tools::failed(format!("start {guest}"), "lxc-start".to_owned(), status, words));
    }
    let started = wait_ready(host, settings, &console, &log)?;
    port::plug(settings)?;
    Ok(started)
}

/// The bridge is there, and nothing else has the port's name: LXC would say so in worse words.
fn check_cable(settings: &Settings) -> Result<()> {
    let operation = format!("start {}", settings.name);
    if !port::is_there(&settings.lan)? {
        let why = format!("its LAN {} is not up: `warren up` first", settings.lan);
        return Err(GuestError::InTheWay { operation, why });
    }
    if port::is_there(&settings.port)? {
        let why = format!("an interface {} is there already, which is to be the guest's port", settings.port);
        return Err(GuestError::InTheWay { operation, why });
    }
    Ok(())
}

fn wait_ready(host: &Host, settings: &Settings, console: &Path, log: &Path) -> Result<Started> {
    let guest = settings.name.as_str();
    let wanted: Vec<IpAddr> = settings.addresses.iter().map(|net| net.addr()).collect();
    let begun = Instant::now();
    let died = || {
        let mut said = tools::last_lines(&fs::read_to_string(console).unwrap_or_default());
        said.extend(log_errors(log));
        GuestError::Died { guest: guest.to_owned(), lxc_path: host.lxc_path().to_owned(), said }
    };
    // Where it restarts by itself its first process is another one.
    'processes: while let State::Running(pid) = host.state(guest)? {
        let Some(pidfd) = Pid::from_raw(pid.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        loop {
            let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
            let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            if poll(&mut ends, Some(&pause)).is_ok_and(|n| n > 0) {
                continue 'processes;
            }
            if begun.elapsed() >= LINGER && port::has_addresses(pid, &wanted) {
                return Ok(Started::Ready);
            }
            if begun.elapsed() >= READY {
                return Ok(Started::Waiting);
            }
        }
    }
    Err(died())
}

/// How a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It did not run.
    Already,
    /// It ended by itself.
    Clean,
    /// It did not end in time, and was killed.
    Killed,
}

/// Stops a guest: asks its first process to end, and kills it where that has not happened within `patience`.
pub fn stop(host: &Host, guest: &str, patience: Duration) -> Result<Stopped> {
    match host.state(guest)? {
        State::Absent => return Err(host.absent(guest)),
        State::Stopped => return Ok(Stopped::Already),
        State::Running(_) | State::Other => {}
    }
    let seconds = patience.as_secs().max(1).to_string();
    let ask = host.tool("lxc-stop", guest, format!("stop {guest}")).args(["--nokill", "--timeout", &seconds]);
    // Its exit code does not tell "not in time" from the rest: what counts is whether it still runs.
    ask.output()?;
    if host.state(guest)? == State::Stopped {
        return Ok(Stopped::Clean);
    }
    host.tool("lxc-stop", guest, format!("kill {guest}")).arg("--kill").text()?;
    Ok(Stopped::Killed)
}

/// Deletes a guest that does not run, its disk included.
pub fn destroy(host: &Host, guest: &str) -> Result<()> {
    match host.state(guest)? {
        State::Absent => return Err(host.absent(guest)),
        State::Stopped => {}
        State::Running(_) | State::Other => {
            let why = format!("it runs: `warren guest stop {guest}` first");
            return Err(GuestError::InTheWay { operation: format!("destroy {guest}"), why });
        }
    }
    let folder = host.folder(guest);
    let is_within = host.rootfs(guest).is_ok_and(|rootfs| rootfs.starts_with(&folder));
    if !is_within || folder.join("snaps").exists() || folder.join("lxc_snapshots").exists() {
        // A volume, or one with snapshots: LXC knows how to.
        return host.tool("lxc-destroy", guest, format!("destroy {guest}")).text().map(drop);
    }
    let ids = Record::read(host, guest)?.filter(|record| record.made_by_us).and_then(|record| record.ids);
    create::remove_tree(&folder)?;
    ids.map_or(Ok(()), |ids| subid::give_back(ids.first))
}

/// What runs `command` in a guest, with this process's stdin, stdout and terminal, a cleared environment, and the
/// command's own exit code.
pub fn attach(host: &Host, guest: &str, command: &[String]) -> Result<Command> {
    host.pid(guest)?;
    let mut attach = Command::new("lxc-attach");
    attach.env("PATH", tools::path()).arg("-n").arg(guest).arg("-P").arg(host.lxc_path());
    attach.args(["--clear-env", "--keep-var", "TERM", "--set-var", "HOME=/root", "--set-var", "USER=root"]);
    attach.args(["--set-var", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--"]);
    attach.args(command);
    Ok(attach)
}

/// Root's shell in a guest, as a login shell.
pub fn shell(host: &Host, guest: &str) -> Result<Command> {
    let root = Root::open(&host.rootfs(guest)?, 0)?;
    let passwd = root.read("etc/passwd")?.unwrap_or_default();
    let shell = passwd.lines().find_map(|line| line.strip_prefix("root:")).and_then(|line| line.rsplit(':').next());
    let shell = shell.map(str::trim).filter(|shell| shell.starts_with('/') && root.exists(shell)).unwrap_or("/bin/sh");
    attach(host, guest, &[shell.to_owned(), "-l".to_owned()])
}

/// What LXC's log has of errors, without its own bookkeeping before them.
fn log_errors(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let errors =
        text.lines().filter(|line| line.contains(" ERROR ")).map(|line| line.rsplit(" - ").next().unwrap_or(line));
    let text: String = errors.flat_map(|line| [line, "\n"]).collect();
    tools::last_lines(&text)
}

/// The tools that a guest's life needs; the error names the package.
pub fn check_installed() -> Result<()> {
    Tool::new("lxc-info", "look after containers").arg("--version").text().map(drop)
}
