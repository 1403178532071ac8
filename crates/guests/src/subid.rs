//! Subordinate ids: who may map which (subuid(5), subgid(5)).
//!
//! With shadow's newuidmap on the host, LXC maps only what root has a line for, so that nobody else is handed those
//! ids; a guest that is made therefore gets lines there, and takes them along when it is destroyed. usermod(8) would
//! write them, but takes none away from a user who has processes, as root always has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context as _, Result};
use crate::idmap::COUNT;
use crate::record;
use crate::tools;

const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// How long somebody else may take who changes the files.
const PATIENCE: Duration = Duration::from_secs(15);

/// Every range that somebody has.
pub(crate) fn ranges() -> Vec<(u32, u32)> {
    FILES.iter().flat_map(|file| parse(&fs::read_to_string(file).unwrap_or_default())).collect()
}

/// Makes a range root's own, where anybody looks.
pub(crate) fn take(first: u32) -> Result<()> {
    if !tools::is_on_path("newuidmap") {
        return Ok(());
    }
    FILES.iter().try_for_each(|file| change(Path::new(file), |text| with(text, first)))
}

/// Gives it back.
pub(crate) fn give_back(first: u32) -> Result<()> {
    FILES.iter().try_for_each(|file| change(Path::new(file), |text| without(text, first)))
}

/// Rewrites a file as shadow's own tools do: under its lock, and whole.
fn change(path: &Path, new: impl Fn(&str) -> Option<String>) -> Result<()> {
    let read = || match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.context("read", path.display()),
    };
    if new(&read()?).is_none() {
        return Ok(());
    }
    let _lock = Lock::take(path).context("lock", path.display())?;
    let Some(text) = new(&read()?) else { return Ok(()) };
    let mode = fs::metadata(path).map_or(0o644, |meta| meta.mode() & 0o7777);
    record::replace(path, &text, mode)
}

/// With a line for root, where its range is in none.
fn with(text: &str, first: u32) -> Option<String> {
    let roots: String = text.lines().filter(|line| line.starts_with("root:")).flat_map(|line| [line, "\n"]).collect();
    let covers = |(at, count): &(u32, u32)| *at <= first && first + COUNT <= at.saturating_add(*count);
    if parse(&roots).iter().any(covers) {
        return None;
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Some(format!("{text}{end}{}\n", line(first)))
}

/// Without the line that [`with`] writes.
fn without(text: &str, first: u32) -> Option<String> {
    let ours = line(first);
    if !text.lines().any(|line| line == ours) {
        return None;
    }
    Some(text.lines().filter(|line| *line != ours).flat_map(|line| [line, "\n"]).collect())
}

fn line(first: u32) -> String {
    format!("root:{first}:{COUNT}")
}

/// Name, first id, count.
fn parse(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(range).collect()
}

/// shadow's lock: a file FILE.lock with the process id of who has it, and a zero byte.
struct Lock(String);

impl Lock {
    fn take(path: &Path) -> io::Result<Self> {
        let lock = format!("{}.lock", path.display());
        let begun = Instant::now();
        loop {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock) {
                Ok(mut file) => {
                    let this = Self(lock);
                    write!(file, "{}\0", std::process::id())?;
                    return Ok(this);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            let holder = fs::read_to_string(&lock).unwrap_or_default();
            let holder = holder.trim_end_matches('\0').trim();
            let lives = holder.parse::<u32>().map_or(true, |pid| File::open(format!("/proc/{pid}/stat")).is_ok());
            if !lives {
                // One that was killed while it had it; shadow's tools do the same.
                let _ = fs::remove_file(&lock);
            } else if begun.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("process {holder} holds {lock}")));
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Left behind it is found stale once we have ended.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: u32 = 1_879_048_192;

    #[test]
    fn ranges_are_read_as_the_manual_says() {
        let text = "plain:100000:65536\n\nbroken\n1000:1879048192:65536\n";
        assert_eq!(parse(text), [(100_000, 65536), (FIRST, 65536)]);
    }

    #[test]
    fn a_line_comes_once_and_goes_alone() {
        let before = "plain:100000:65536\nroot:5000000:65536";
        let after = with(before, FIRST).unwrap();
        assert_eq!(after, format!("{before}\nroot:{FIRST}:65536\n"));
        assert_eq!(with(&after, FIRST), None);
        assert_eq!(without(&after, FIRST).unwrap(), format!("{before}\n"));
        assert_eq!(without(before, FIRST), None);
        // An administrator's wider line is enough, and stays.
        let wide = "root:1000000:2000000000\n";
        assert_eq!((with(wide, FIRST), without(wide, FIRST)), (None, None));
        // Another's of the same range is not root's.
        assert!(with(&format!("plain:{FIRST}:65536\n"), FIRST).is_some());
    }

    #[test]
    fn the_file_is_changed_under_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subuid");
        let lock = folder.path().join("subuid.lock");
        // Of a process that has ended.
        fs::write(&lock, "4194999\0").unwrap();
        change(&path, |text| with(text, FIRST)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("root:{FIRST}:65536\n"));
        assert!(!lock.exists());
    }
}
