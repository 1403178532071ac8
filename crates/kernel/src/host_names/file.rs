//! /etc/hosts (hosts(5)): read, and replaced whole, with its mode, owner and labels, so that who reads meanwhile reads
//! the one or the other.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use model::hosts::{with_names, without_names};
use model::services::LanServices;

use crate::error::{Context as _, KernelError, Result, explained};
use crate::files::{Seen, beside, is_this_networks, replace};

const HOSTS: &str = "/etc/hosts";
/// How often another's change in between is waited out.
const TRIES: usize = 5;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This network's; it says what it should.
    Ours,
    /// Another network's, and left alone.
    Anothers,
}

/// Names the guests of `lans`, and no others of ours.
pub fn write(lans: &[LanServices]) -> Result<Access> {
    if !is_this_networks(Path::new(HOSTS)) {
        return Ok(Access::Anothers);
    }
    let path = fs::canonicalize(HOSTS).unwrap_or_else(|_| PathBuf::from(HOSTS));
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // One that was killed may have left it.
    let _ = fs::remove_file(beside(&path));
    for left in (0..TRIES).rev() {
        let (before, seen) = read(&path)?;
        let after = if lans.is_empty() { without_names(&before) } else { with_names(&before, lans, &own) };
        if after == before {
            return Ok(Access::Ours);
        }
        let replaced = put(&path, &after, seen).map_err(|e| {
            // Whoever wants guests' names elsewhere says so in the file.
            let why = "set hosts-resolver = false in [host] where it is not to be written";
            KernelError::new("write guests' names to", HOSTS, explained(e, why))
        })?;
        if replaced || left == 0 {
            break;
        }
    }
    Ok(Access::Ours)
}

/// Whether names of ours stand there.
pub fn has_names() -> Result<bool> {
    let (text, _) = read(Path::new(HOSTS))?;
    Ok(is_this_networks(Path::new(HOSTS)) && without_names(&text) != text)
}

/// What is there, and a token by which a change is seen; nothing where there is no file.
fn read(path: &Path) -> Result<(Vec<u8>, Option<Seen>)> {
    match fs::metadata(path).and_then(|meta| Ok((fs::read(path)?, Seen::of(&meta)))) {
        Ok((text, seen)) => Ok((text, Some(seen))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((Vec::new(), None)),
        Err(e) => Err(e).context("read", HOSTS),
    }
}

/// Puts `text` in the place of what was `seen` there; false where somebody was faster. A file that is mounted onto its
/// place, as containers have it, can only be written.
fn put(path: &Path, text: &[u8], seen: Option<Seen>) -> io::Result<bool> {
    match replace(path, text, seen) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EXDEV)) => overwrite(path, text).map(|()| true),
        other => other,
    }
}

/// Never shorter than what others have in it, until all of it is there.
fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}
