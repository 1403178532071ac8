//! Files of others that we replace: whole, with their mode, owner and labels, so that who reads meanwhile reads the one
//! or the other; and whose they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::error::{Context as _, KernelError, Result, explained};

/// Longest value of an extended attribute that is carried over (a label of SELinux, an access list), in bytes.
const ATTRIBUTE: usize = 64 << 10;

/// What a manager's file says; nothing where there is none.
pub fn read(path: &str) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| {
            KernelError::new("read", path, io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 throughout"))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("read", path),
    }
}

/// Makes a manager's file say `to` where it says `from`, or nothing where it shall be none. What somebody else has
/// written meanwhile stays.
pub fn set(path: &str, from: Option<&str>, to: Option<&str>) -> Result<()> {
    let now = read(path)?;
    if now.as_deref() == to {
        return Ok(());
    }
    let others = || {
        let error = io::Error::from_raw_os_error(libc::EBUSY);
        KernelError::new("write", path, explained(error, "somebody has written it meanwhile"))
    };
    if now.as_deref() != from {
        return Err(others());
    }
    let at = Path::new(path);
    let Some(text) = to else {
        fs::remove_file(at).and_then(|()| sync_folder(at)).context("remove", path)?;
        return Ok(());
    };
    let seen = match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_file() => Some(Seen::of(&meta)),
        Ok(_) => {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(KernelError::new("write", path, explained(error, "it is no plain file")));
        }
        Err(_none) => None,
    };
    // One that was killed may have left it.
    let _ = fs::remove_file(beside(at));
    if replace(at, text.as_bytes(), seen).context("write", path)? { Ok(()) } else { Err(others()) }
}

/// A rename is only sure to outlive a power cut once its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// By which a file's change is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Seen {
    /// Of what was found.
    pub fn of(meta: &fs::Metadata) -> Self {
        Self { inode: meta.ino(), length: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

/// What may hold secrets is nobody else's to read, or its reader passes it by (nm-settings-keyfile(5), netplan(5)).
fn mode_of_new(path: &Path) -> u32 {
    let is_private = |folder: &&str| path.starts_with(folder);
    if ["/etc/NetworkManager/system-connections", "/etc/netplan"].iter().any(is_private) { 0o600 } else { 0o644 }
}

/// Where a file is written before it is put in place: what begins with a dot is nobody's configuration.
pub fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.warren"))
}

/// Puts `text` in the place of what was `seen` there, all at once and with its mode, owner and labels; false where somebody
/// was faster.
pub fn replace(path: &Path, text: &[u8], seen: Option<Seen>) -> io::Result<bool> {
    let beside = beside(path);
    let put = || -> io::Result<bool> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        match File::open(path) {
            Ok(old) => {
                let meta = old.metadata()?;
                fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
                file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
                copy_attributes(&old, &file);
            }
            Err(_none) => file.set_permissions(fs::Permissions::from_mode(mode_of_new(path)))?,
        }
        file.write_all(text)?;
        file.sync_all()?;
        if fs::metadata(path).ok().map(|meta| Seen::of(&meta)) != seen {
            return Ok(false);
        }
        fs::rename(&beside, path)?;
        sync_folder(path)?;
        Ok(true)
    };
    let result = put();
    if !matches!(result, Ok(true)) {
        // What is left beside is of no use to anybody.
        let _ = fs::remove_file(&beside);
    }
    result
}

/// A label of SELinux's, an access list. What the file system lacks was not there either.
fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0u8; ATTRIBUTE];
    let Ok(length) = rustix::fs::flistxattr(from.as_fd(), &mut names[..]) else { return };
    let mut value = vec![0u8; ATTRIBUTE];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if let Ok(length) = rustix::fs::fgetxattr(from.as_fd(), name, &mut value[..]) {
            // One that the kernel keeps for itself stays as it makes it.
            let _ = rustix::fs::fsetxattr(to.as_fd(), name, &value[..length], rustix::fs::XattrFlags::empty());
        }
    }
}

/// Whether a file that every network of a machine could see is about this one.
#[must_use]
pub fn is_this_networks(path: &Path) -> bool {
    let inode = |path: &str| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fourth field is the root within the file system, the fifth the place.
    let mounts: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(3).zip(line.split(' ').nth(4))).collect();
    let is_folder = mounts.iter().rfind(|(_, at)| *at == "/").is_some_and(|(root, _)| *root != "/");
    Places {
        is_machines: Path::new(MACHINES_ALONE).exists(),
        network: inode("/proc/thread-self/ns/net"),
        first_network: inode("/proc/1/ns/net"),
        file: inode(&path.to_string_lossy()),
        first_file: inode(&format!("/proc/1/root{}", path.display())),
        is_mount: mounts.iter().any(|(_, at)| *at != "/" && path.starts_with(at)),
        is_container: is_folder || Path::new("/run/systemd/container").exists(),
    }
    .agree()
}

/// A switch that the kernel shows in its first network alone (net/core/sysctl_net_core.c, `net_core_table`).
const MACHINES_ALONE: &str = "/proc/sys/net/core/dev_weight";

/// Where we are, and where the first process is, as device and inode; nothing where that is not ours to see.
struct Places {
    /// Whether this is the network that the kernel started with.
    is_machines: bool,
    network: Option<(u64, u64)>,
    first_network: Option<(u64, u64)>,
    file: Option<(u64, u64)>,
    first_file: Option<(u64, u64)>,
    /// Whether the file, or its folder, is a mount of its own.
    is_mount: bool,
    /// Whether this is a container that has files of its own: its root is a folder of the machine's, or systemd says so.
    is_container: bool,
}

impl Places {
    /// In the machine's network the file is this network's. In a network apart it is the machine's, which cannot reach
    /// these guests (`ip netns exec`), unless it is not the file that the first process has; and where the first process
    /// is of this network too, that says nothing (`unshare --pid`), so the file must be seen to be a container's own.
    fn agree(&self) -> bool {
        if self.is_machines {
            return true;
        }
        if self.network.is_some() && self.network == self.first_network {
            return self.is_mount || self.is_container;
        }
        match self.first_file {
            Some(first) => self.file != Some(first),
            None => self.is_mount,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn a_network_apart_does_not_write_the_machines_file() {
        let (one, other) = (Some((4, 1)), Some((4, 2)));
        let places = |network, file, first_file, is_mount| Places {
            is_machines: false,
            network,
            first_network: one,
            file,
            first_file,
            is_mount,
            is_container: false,
        };
        assert!(Places { is_machines: true, ..places(one, one, one, false) }.agree(), "the machine itself");
        assert!(!places(other, one, one, false).agree(), "ip netns exec");
        assert!(!places(other, one, one, true).agree(), "the machine's /etc is a mount");
        assert!(!places(one, one, one, false).agree(), "unshare --pid");
        assert!(places(one, one, one, true).agree(), "unshare --pid, with a file of its own");
        assert!(Places { is_container: true, ..places(one, one, one, false) }.agree(), "a container");
        assert!(places(other, other, one, false).agree(), "a file of its own");
        assert!(!places(other, one, None, false).agree(), "a plain user's");
        assert!(places(other, one, None, true).agree(), "a plain user's, with a mount");
        assert!(!Places { first_network: None, ..places(None, one, one, false) }.agree());
    }
}
