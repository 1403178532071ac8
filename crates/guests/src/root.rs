//! A guest's root file system, seen as the guest sees it: no link, however it is written, leads out of it.
//!
//! A guest is free to make /etc a link to /etc, or to ../../../etc. Every path here is looked up by openat2(2) with
//! RESOLVE_IN_ROOT: the kernel takes the folder for the root while it follows links. Files are written beside their
//! place and renamed, so a link in the last place is replaced, not followed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawMode, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::error::{GuestError, Result};

/// The largest file that is read from a guest: what is looked at is configuration.
const MAX_READ: u64 = 1 << 20;

/// A root file system, held open.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    owner: u32,
}

impl Root {
    /// The folder at `path`, which is not looked up within any root. What is written belongs to `owner`: the id that is
    /// the guest's root on the disk.
    pub fn open(path: &Path, owner: u32) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| GuestError::io("open the root file system", path.display(), e))?;
        Ok(Self { fd, path: path.to_owned(), owner })
    }

    /// Where it is on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something is there, links followed within.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.look(path, OFlags::PATH).is_ok()
    }

    /// Whether a name is there, be it a link that leads nowhere.
    #[must_use]
    pub fn is_named(&self, path: &str) -> bool {
        self.look(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
    }

    /// A file's text; nothing where there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        // A guest may have a pipe there, on which opening would wait.
        let fd = match self.look(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(self.error("read", path, e)),
        };
        let is_file = rustix::fs::fstat(&fd)
            .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile)
            .map_err(|e| self.error("look at", path, e))?;
        if !is_file {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::from(fd).take(MAX_READ).read_to_end(&mut bytes).map_err(|e| self.error("read", path, e))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Where a link leads, as it is written; nothing where there is no link.
    #[must_use]
    pub fn link(&self, path: &str) -> Option<String> {
        let fd = self.look(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        rustix::fs::readlinkat(&fd, "", Vec::new()).ok()?.into_string().ok()
    }

    /// The names in a folder, sorted; none where there is no such folder.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(fd) = self.look(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(folder) = rustix::fs::Dir::read_from(&fd) else { return Vec::new() };
        let mut names: Vec<String> = folder
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names
    }

    /// Writes a whole file, folders on its way included: `folder_mode` is theirs where they are missing.
    pub fn write(&self, path: &str, text: &str, mode: RawMode, folder_mode: RawMode) -> Result<()> {
        let (folder, name) = self.parent(path, folder_mode)?;
        let fail = |e: io::Error| self.error("write", path, e);
        let beside = format!(".{name}.warren");
        let write = || -> io::Result<()> {
            ignore_absent(rustix::fs::unlinkat(&folder, beside.as_str(), AtFlags::empty()))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&folder, beside.as_str(), flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(fd);
            file.write_all(text.as_bytes())?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)))?;
            // After the owner, whose change takes bits away; and exact, whatever the umask is.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            file.sync_data()?;
            Ok(rustix::fs::renameat(&folder, beside.as_str(), &folder, name)?)
        };
        write().map_err(|e| {
            // What failed is what must be told.
            let _ = rustix::fs::unlinkat(&folder, beside.as_str(), AtFlags::empty());
            fail(e)
        })
    }

    /// Makes a link that says `to`, in place of whatever file or link has the name.
    pub fn symlink(&self, path: &str, to: &str) -> Result<()> {
        let (folder, name) = self.parent(path, 0o755)?;
        let link = || -> io::Result<()> {
            ignore_absent(rustix::fs::unlinkat(&folder, name, AtFlags::empty()))?;
            rustix::fs::symlinkat(to, &folder, name)?;
            let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
            Ok(rustix::fs::chownat(&folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        };
        link().map_err(|e| self.error("link", path, e))
    }

    /// Removes a file or link; what is not there is fine.
    pub fn remove(&self, path: &str) -> Result<()> {
        if !self.is_named(path) {
            return Ok(());
        }
        let (folder, name) = self.parent(path, 0o755)?;
        ignore_absent(rustix::fs::unlinkat(&folder, name, AtFlags::empty())).map_err(|e| self.error("remove", path, e))
    }

    fn look(&self, path: &str, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        self.open_in(path, flags, Mode::empty())
    }

    /// openat2 may say EAGAIN where a rename elsewhere made the lookup unsure; the manual says to try again.
    fn open_in(&self, path: &str, flags: OFlags, mode: Mode) -> std::result::Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut last = Errno::AGAIN;
        for _ in 0..64 {
            match rustix::fs::openat2(self.fd.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(e @ (Errno::AGAIN | Errno::INTR)) => last = e,
                result => return result,
            }
        }
        Err(last)
    }

    /// The folder of `path`, made where it is missing, and the last name.
    fn parent<'p>(&self, path: &'p str, mode: RawMode) -> Result<(OwnedFd, &'p str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(self.error("use as a file's name", path, Errno::INVAL));
        }
        let folder = self.folder(folder, mode)?;
        Ok((folder, name))
    }

    fn folder(&self, path: &str, mode: RawMode) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let here = if path.is_empty() { "." } else { path };
        match self.look(here, flags) {
            Ok(fd) => return Ok(fd),
            // Nothing has the name: it can be made. A link that leads nowhere has it, and is left alone.
            Err(Errno::NOENT) if !self.is_named(here) && here != "." => {}
            Err(e) => return Err(self.error("open the folder", path, e)),
        }
        let (above, name) = self.parent(path, mode)?;
        let make = || -> io::Result<()> {
            rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(mode))?;
            // By a descriptor that no link was followed for: a guest that runs may have put something in its place.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&above, name, flags, Mode::empty())?;
            rustix::fs::fchown(&made, Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)))?;
            // Exact, whatever the umask is.
            Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?)
        };
        make().map_err(|e| self.error("make the folder", path, e))?;
        self.look(path, flags).map_err(|e| self.error("open the folder", path, e))
    }

    fn error(&self, operation: &'static str, path: &str, source: impl Into<io::Error>) -> GuestError {
        let source = source.into();
        let source = match source.raw_os_error() {
            Some(libc::ELOOP) => io::Error::new(source.kind(), "its links lead in a circle within the guest's root"),
            _ => source,
        };
        GuestError::io(operation, format!("/{} in {}", path.trim_start_matches('/'), self.path.display()), source)
    }
}

fn ignore_absent(result: std::result::Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}
