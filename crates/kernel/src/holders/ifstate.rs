//! What ifup has brought up, as it notes it itself: a line `LOGICAL=PHYSICAL` for each in one file, and a file for each
//! (ifup(8), FILES; state.c and execute.c of ifupdown 0.8).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use model::state::{Hold, Side};
use rustix::fs::FlockOperation;

use crate::error::{Context as _, Result};

const FOLDER: &str = "/run/network";
const STATE: &str = "/run/network/ifstate";
const LOCK: &str = "/run/network/.ifstate.lock";
/// How long another ifup is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the note says. Where neither is up yet, it is ifup that will bring them up, as its files say.
pub fn side(hold: &Hold) -> Result<Side> {
    let lines = lines()?;
    let is_up = |name: &str| lines.iter().any(|line| line.split('=').next() == Some(name));
    Ok(if is_up(hold.bridge.as_str()) {
        Side::Bridge
    } else if is_up(hold.port.as_str()) {
        Side::Port
    } else {
        hold.on
    })
}

/// The bridge is up beside the interface, which ifup knows by then as one that it leaves alone. Aliases are the bridge's.
pub fn set(hold: &Hold) -> Result<()> {
    let _lock = lock()?;
    let (port, bridge) = (hold.port.as_str(), hold.bridge.as_str());
    let (from, to) = if hold.on == Side::Bridge { (port, bridge) } else { (bridge, port) };
    let before = lines()?;
    let mut after: Vec<String> = Vec::new();
    for line in &before {
        let name = line.split('=').next().unwrap_or_default();
        let line = match name.strip_prefix(from) {
            Some(rest) if rest.starts_with(':') => format!("{to}{rest}={to}{rest}"),
            Some("") if hold.on != Side::Bridge => continue,
            _ => line.clone(),
        };
        after.push(line);
        if name == port && hold.on == Side::Bridge {
            after.push(format!("{bridge}={bridge}"));
        }
    }
    after.dedup();
    write(STATE, &after.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    let named = |lines: &[String]| -> Vec<String> {
        lines.iter().filter_map(|line| line.split('=').next().map(str::to_owned)).collect()
    };
    let (before, after) = (named(&before), named(&after));
    for name in before.iter().filter(|name| !after.contains(name)) {
        let _ = fs::remove_file(format!("{STATE}.{name}"));
    }
    for name in after.iter().filter(|name| !before.contains(name)) {
        write(&format!("{STATE}.{name}"), &format!("{name}\n"))?;
    }
    Ok(())
}

fn lines() -> Result<Vec<String>> {
    Ok(crate::files::read(STATE)?.unwrap_or_default().lines().map(str::to_owned).collect())
}

/// As ifup does it: written beside, renamed.
fn write(path: &str, text: &str) -> Result<()> {
    let beside = Path::new(FOLDER).join(".ifstate.warren");
    fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).context("write", path)
}

/// ifup's own lock (fcntl(2)).
fn lock() -> Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o644).open(LOCK).context("open", LOCK)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e).context("lock", LOCK),
        }
    }
}
