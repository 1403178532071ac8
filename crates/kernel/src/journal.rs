//! What warren remembers between runs, in files: the baseline (what was before the first touch), the journal (what
//! is being done at this moment), the journal of the last `up` (what `rollback` returns to), whether that awaits its
//! confirmation, and the record (what was applied last).
//!
//! These but the last lie in the state folder, for they must outlive everything but the objects that they speak
//! of; the record and the lock lie in the run folder, which a boot empties as it empties the kernel. All bear
//! the [`Identity`] of the network namespace that they are about: what another one left is of no use, and is not
//! believed. Only [`Boot`], which says what a boot brings up, is about no namespace. Every file is written beside its
//! place and renamed, those of the state folder synced before, and bears a checksum, so that a torn write is seen.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use model::address::IfName;
use model::network::Network;
use model::plan::Plan;
use model::ruleset::{Family, Table};
use model::state::{Baseline, State, TakenOver};
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::netns::Netns;

use applied::Known;

mod additions;
mod applied;
mod hash;
mod rest;
mod version;
pub use additions::{Added, Ground};
use hash::checksum;
pub use hash::{TextHash, fingerprint};
pub use rest::{Found, Rest};

const BASELINE: &str = "baseline.json";
/// What was taken over of managers: it is about files that outlive a boot, so it is about no namespace.
const TAKEN: &str = "taken-over.json";
const JOURNAL: &str = "journal.json";
/// The journal of the last `up` that came to its end.
const PREVIOUS: &str = "previous.json";
const PENDING: &str = "pending.json";
const BOOT: &str = "boot.json";
const RECORD: &str = "applied.json";
/// Why the last `up` was put back by itself.
const PUT_BACK: &str = "put-back.json";
/// The run that a watchdog watches over, written by it once it does.
const WATCHDOG: &str = "watchdog.json";
const LOCK: &str = "lock";

/// What went wrong with a file of ours.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written: a torn write, or somebody's edit.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is seen.
        why: String,
    },
    /// Somebody else is at it.
    #[error("another warren{} is changing this network, and did not finish within {} s", .holder.as_deref().map(|h| format!(" ({h})")).unwrap_or_default(), .waited.as_secs())]
    Busy {
        /// Who, as it wrote of itself.
        holder: Option<String>,
        /// How long we waited.
        waited: Duration,
    },
}

/// Which network namespace, in which boot, a file is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// /proc/sys/kernel/random/boot_id
    pub boot: String,
    /// The namespace's cookie (SO_NETNS_COOKIE), never given twice in one boot.
    pub namespace: u64,
}

impl Identity {
    /// Of the calling thread's network namespace.
    pub fn current() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot, namespace: Netns::own_cookie()? })
    }
}

/// What was applied last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The configuration file that it came from.
    pub config: PathBuf,
    /// What the file said, where it was told: the file may say something else by now.
    #[serde(default)]
    pub text: String,
    /// What the file meant.
    pub network: Option<Network>,
    /// Our tables as we wrote them, without elements, and the fingerprint that the kernel's dump of them had.
    pub tables: BTreeMap<Family, WrittenTable>,
}

/// A table as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrittenTable {
    /// The table without its elements.
    pub skeleton: Table,
    /// The fingerprint of the kernel's dump just after.
    pub fingerprint: String,
}

/// What is being done: written before the first step, removed after the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// What was.
    pub prior: Prior,
    /// What is done to it.
    pub plan: Plan,
}

/// A journal as it is written, of what others hold: with many forwards a copy of it would take longer than the writing.
#[derive(Serialize)]
pub struct NewJournal<'a> {
    /// What was.
    pub prior: &'a Prior,
    /// What is done to it.
    pub plan: &'a Plan,
}

/// What was before a run: in the kernel, and in our files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// Which run it was, to tell it from others of the same boot.
    #[serde(default)]
    pub run: u64,
    /// What of the kernel is ours.
    pub state: State,
    /// What was applied.
    pub record: Option<Record>,
    /// What was before the first touch, where there was one by then.
    pub baseline: Option<Baseline>,
}

/// A network that is put back by itself unless it is confirmed in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// What comes back: all that a watchdog needs, so that it can do without our files.
    pub prior: Prior,
    /// When, in milliseconds of CLOCK_BOOTTIME (clock_gettime(2)): it is the same in every process of this boot, and
    /// nobody sets it.
    pub deadline: u64,
    /// How long was given, in seconds.
    pub seconds: u64,
}

impl Pending {
    /// How long there is left; nothing where its time is over.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.deadline.checked_sub(boot_clock()).filter(|left| *left > 0).map(Duration::from_millis)
    }
}

/// Milliseconds since the boot (CLOCK_BOOTTIME).
#[must_use]
pub fn boot_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1000 + nanoseconds / 1_000_000
}

/// What a boot brings up, and what it does not: about no namespace, since a boot makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The file that was kept last, and what it said then.
    pub confirmed: Option<Kept>,
    /// The SHA-256 of a file's text that awaits its confirmation, or was put back for want of it.
    pub refused: Option<String>,
}

/// A configuration that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its file.
    pub config: PathBuf,
    /// What the file said.
    pub text: String,
    /// The uplink of then: at a boot there may be no default route yet that tells it.
    #[serde(default)]
    pub uplink: Option<IfName>,
    /// The interfaces that had learnt a route from a router advertisement by then: at a boot none has yet, and once
    /// the host forwards IPv6 they learn none unless they are told to all the same.
    #[serde(default)]
    pub learners: Vec<IfName>,
}

impl Boot {
    /// Whether `text` must not come up unwatched.
    #[must_use]
    pub fn refuses(&self, text: &str) -> bool {
        self.refused.as_deref() == Some(checksum(text.as_bytes()).as_str())
    }

    /// Whether `text` was kept as it is.
    #[must_use]
    pub fn has_confirmed(&self, text: &str) -> bool {
        self.confirmed.as_ref().is_some_and(|kept| kept.text == text)
    }
}

/// A file's content with what it is about.
#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    identity: Identity,
    value: T,
}

/// The two folders, and whom they are about.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    run: PathBuf,
    identity: Identity,
    /// The record as it was read or written last: a run asks for it several times, and with many forwards it is long.
    known: Mutex<Known>,
}

/// Held while the network is changed; let go with the descriptor, also by a crash.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

type Result<T> = std::result::Result<T, StoreError>;

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}

impl Store {
    /// The folders for the calling thread's network namespace. Nothing is made until something is written.
    pub fn new(state: &Path, run: &Path) -> Result<Self> {
        let identity = Identity::current().map_err(io_error("tell the network namespace by", Path::new("/proc")))?;
        Ok(Self { state: state.to_owned(), run: run.to_owned(), identity, known: Mutex::default() })
    }

    /// Takes the lock, waiting for whoever has it at most `patience`.
    pub fn lock(&self, patience: Duration) -> Result<Lock> {
        make_folder(&self.run)?;
        let path = self.run.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(io_error("open", &path))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < patience => {
                    // flock(2) has no time-out; a blocking one would hang behind a warren that hangs.
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let read = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                    return Err(StoreError::Busy {
                        holder: read.then(|| format!("pid {}", holder.trim())),
                        waited: patience,
                    });
                }
                Err(e) => return Err(io_error("lock", &path)(e.into())),
            }
        }
        // Only so that whoever waits can be told; nothing depends on it. One that runs on has written it already.
        let (mut holder, own) = (String::new(), std::process::id().to_string());
        let known = file.read_to_string(&mut holder).is_ok() && holder == own;
        if !known {
            let _ = file.set_len(0).and_then(|()| file.write_all_at(own.as_bytes(), 0));
        }
        Ok(Lock(file))
    }

    /// What was before the first touch; nothing where nothing was touched. What was taken over of managers is in it, by
    /// whichever boot.
    pub fn baseline(&self) -> Result<Option<Baseline>> {
        let own = self.of_this_boot()?;
        let taken = self.taken()?;
        if own.is_none() && taken.is_empty() {
            return Ok(None);
        }
        Ok(Some(Baseline { taken, ..own.unwrap_or_default() }))
    }

    /// The same without what an earlier boot left.
    pub fn of_this_boot(&self) -> Result<Option<Baseline>> {
        self.read(&self.state.join(BASELINE))
    }

    /// What was taken over of managers, by interface. A damaged note counts as none: nothing is put back by guessing.
    pub fn taken(&self) -> Result<BTreeMap<IfName, TakenOver>> {
        match read_checked(&self.state.join(TAKEN)) {
            Err(StoreError::Damaged { .. }) => Ok(BTreeMap::new()),
            taken => Ok(taken?.unwrap_or_default()),
        }
    }

    /// Persists the baseline.
    pub fn write_baseline(&self, baseline: &Baseline) -> Result<()> {
        if self.taken()? != baseline.taken {
            if baseline.taken.is_empty() {
                remove(&self.state.join(TAKEN))?;
                sync_folder_if_any(&self.state)?;
            } else {
                write_checked(&self.state, TAKEN, &baseline.taken)?;
            }
        }
        self.write(&self.state, BASELINE, baseline)
    }

    /// Forgets the baseline: all is put back.
    pub fn remove_baseline(&self) -> Result<()> {
        // A boot would bring it back, and it would be believed.
        if self.state.join(TAKEN).exists() {
            remove(&self.state.join(TAKEN))?;
            sync_folder(&self.state)?;
        }
        remove(&self.state.join(BASELINE))
    }

    /// Keeps what a file of others' said before it was taken over, where it cannot be put back; says where.
    pub fn keep_text(&self, path: &str, text: &str) -> Result<PathBuf> {
        make_folder(&self.state)?;
        let kept = self.state.join(format!("before{}", path.replace('/', "-")));
        write_synced(&kept, &[text.as_bytes()])?;
        Ok(kept)
    }

    /// What a run that did not end was doing.
    pub fn journal(&self) -> Result<Option<Journal>> {
        self.read(&self.state.join(JOURNAL))
    }

    /// Notes what is going to be done.
    pub fn write_journal(&self, journal: &NewJournal) -> Result<()> {
        self.write(&self.state, JOURNAL, journal)
    }

    /// It is done, or undone.
    pub fn remove_journal(&self) -> Result<()> {
        remove(&self.state.join(JOURNAL))
    }

    /// The journal is that of the last `up` from now on.
    pub fn keep_journal(&self) -> Result<()> {
        let (from, to) = (self.state.join(JOURNAL), self.state.join(PREVIOUS));
        match fs::rename(&from, &to) {
            // Not synced: a power cut is a boot, and what another boot wrote is not believed, by whichever name.
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("rename", &from)(e)),
        }
    }

    /// Whether a run did not end, or something awaits its confirmation.
    #[must_use]
    pub fn has_unfinished(&self) -> bool {
        [JOURNAL, PENDING].iter().any(|name| self.state.join(name).exists())
    }

    /// Notes what `rollback` returns to.
    pub fn write_previous(&self, previous: &Journal) -> Result<()> {
        self.write(&self.state, PREVIOUS, previous)
    }

    /// The journal of the last `up`; a damaged one counts as none.
    pub fn previous(&self) -> Result<Option<Journal>> {
        self.undamaged(&self.state.join(PREVIOUS))
    }

    /// There is nothing to return to.
    pub fn remove_previous(&self) -> Result<()> {
        remove(&self.state.join(PREVIOUS))
    }

    /// What awaits its confirmation.
    pub fn pending(&self) -> Result<Option<Pending>> {
        self.read(&self.state.join(PENDING))
    }

    /// Notes what awaits its confirmation; nothing takes the note away.
    pub fn write_pending(&self, pending: Option<&Pending>) -> Result<()> {
        match pending {
            Some(pending) => self.write(&self.state, PENDING, pending),
            None => remove(&self.state.join(PENDING)),
        }
    }

    /// What a boot brings up; a damaged note counts as none.
    pub fn boot(&self) -> Result<Boot> {
        match read_checked(&self.state.join(BOOT)) {
            Ok(boot) => Ok(self.with_booted(boot.unwrap_or_default())),
            Err(StoreError::Damaged { .. }) => Ok(Boot::default()),
            Err(e) => Err(e),
        }
    }

    /// Notes what a boot brings up.
    pub fn write_boot(&self, boot: &Boot) -> Result<()> {
        if *boot == Boot::default() {
            remove(&self.state.join(BOOT)).and_then(|()| sync_folder_if_any(&self.state))?;
        } else {
            write_checked(&self.state, BOOT, boot)?;
        }
        self.forget_booted()
    }

    /// Why the last `up` was put back by itself, where it was.
    pub fn put_back(&self) -> Result<Option<String>> {
        self.undamaged(&self.run.join(PUT_BACK))
    }

    /// Notes why the last `up` was put back by itself.
    pub fn write_put_back(&self, why: Option<&str>) -> Result<()> {
        match why {
            Some(why) => self.write_passing(PUT_BACK, &why),
            None => remove(&self.run.join(PUT_BACK)),
        }
    }

    /// The run that a watchdog has said it watches over.
    pub fn watched(&self) -> Result<Option<u64>> {
        self.undamaged(&self.run.join(WATCHDOG))
    }

    /// Notes which run a watchdog watches over.
    pub fn write_watched(&self, run: Option<u64>) -> Result<()> {
        match run {
            Some(run) => self.write_passing(WATCHDOG, &run),
            None => remove(&self.run.join(WATCHDOG)),
        }
    }

    /// Whether the state folder is there at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.state.is_dir()
    }

    fn undamaged<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        match self.read(path) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            other => other,
        }
    }

    /// Where the journal lies, to be named to people.
    #[must_use]
    pub fn journal_path(&self) -> PathBuf {
        self.state.join(JOURNAL)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        let stamped: Option<Stamped<T>> = read_checked(path)?;
        // Another boot's, or another namespace's: what it speaks of is gone.
        Ok(stamped.filter(|stamped| stamped.identity == self.identity).map(|stamped| stamped.value))
    }

    fn write<T: Serialize>(&self, folder: &Path, name: &str, value: &T) -> Result<()> {
        // The folder is not synced: who comes after a power cut finds the file of before or this one, whole, and believes
        // neither.
        put_in_place(folder, name, &Stamped { identity: self.identity.clone(), value }, true)
    }

    /// Into the run folder, unsynced: a boot empties it, and a power cut is a boot.
    fn write_passing<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        put_in_place(&self.run, name, &Stamped { identity: self.identity.clone(), value }, false)
    }
}

fn read_checked<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let Some((sum, body)) = bytes.iter().position(|b| *b == b'\n').map(|at| (&bytes[..at], &bytes[at + 1..])) else {
        return Err(damaged("it ends in its first line".into()));
    };
    if sum != checksum(body).as_bytes() {
        return Err(damaged("its checksum is not that of its content".into()));
    }
    serde_json::from_slice(body).map(Some).map_err(|e| damaged(e.to_string()))
}

fn write_checked<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<()> {
    put_in_place(folder, name, value, true).and_then(|()| sync_folder(folder))
}

fn put_in_place<T: Serialize>(folder: &Path, name: &str, value: &T, synced: bool) -> Result<()> {
    make_folder(folder)?;
    let path = folder.join(name);
    let body = serde_json::to_vec(value)
        .map_err(|e| StoreError::Damaged { path: path.clone(), why: format!("it cannot be written: {e}") })?;
    let beside = folder.join(format!("{name}.new"));
    let written = write_parts(&beside, &[checksum(&body).as_bytes(), b"\n", &body], synced)
        .and_then(|()| fs::rename(&beside, &path).map_err(io_error("put in place", &path)));
    if written.is_err() {
        // The failure is what must be told; what is left beside is overwritten the next time.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_synced(path: &Path, parts: &[&[u8]]) -> Result<()> {
    write_parts(path, parts, true)
}

fn write_parts(path: &Path, parts: &[&[u8]], synced: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(io_error("write", path))?;
    for part in parts {
        file.write_all(part).map_err(io_error("write", path))?;
    }
    if synced { file.sync_all().map_err(io_error("sync", path)) } else { Ok(()) }
}

fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make the folder", folder))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        // Not synced: only a boot could bring the file back, and what another boot wrote is not believed.
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("remove", path)(e)),
    }
}

/// A rename or removal is only sure to outlive a crash once its folder is synced.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("sync", folder))
}

/// The same where the folder may not be there.
fn sync_folder_if_any(folder: &Path) -> Result<()> {
    if folder.is_dir() { sync_folder(folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
