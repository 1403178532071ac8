//! Which of the host's ids a guest's are, and how its files come to belong to them: by changing their owners on the
//! disk.
//!
//! The kernel could translate owners as it mounts (mount_setattr(2)), and LXC asks it to by `idmap=container`. But
//! LXC 5.0 forgets to when a guest restarts by itself: everything in it then belongs to nobody, and sshd finds no keys.
//! Besides, what the guest's root makes setuid would be setuid of the host's root on the disk. Changing the owners of a
//! whole Debian takes a twentieth of a second, and serves every file system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::{Context as _, GuestError, Result};
use crate::host::Host;
use crate::lxc;
use crate::subid;

/// How many ids a guest has: as many as its programs may count with (nobody is 65534).
pub const COUNT: u32 = 65536;

/// The first of the ids that guests get: 1879048192, above those of systemd's containers. systemd's list of who uses
/// which ids (systemd.io/UIDS-GIDS) has this range as nobody's, up to [`LAST`].
const FIRST: u32 = 0x7000_0000;
/// The last one, below the two thousand millions that some programs cannot count to.
const LAST: u32 = 0x7ffd_ffff;

/// The first range that nobody has: no container of this host's, none that is being made, and no user for subordinate
/// ids. The caller holds the lock of the folder, and keeps what it got there.
pub(crate) fn free_range(host: &Host) -> Result<u32> {
    let mut taken = Vec::new();
    taken.extend(subid::ranges());
    let entries = fs::read_dir(host.lxc_path()).context("list", host.lxc_path().display())?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MARK)) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            taken.extend(text.trim().parse().ok().map(|first: u32| (first, COUNT)));
        } else {
            taken.extend(lxc::mapped(&fs::read_to_string(path.join("config")).unwrap_or_default()));
        }
    }
    first_free(&taken).ok_or_else(|| GuestError::InTheWay {
        operation: "choose user ids for a guest".to_owned(),
        why: format!("all ranges from {FIRST} to {LAST} are taken; destroy a guest that is not needed"),
    })
}

/// How the file begins that says that a guest is being made; in it is the first of its ids.
pub(crate) const MARK: &str = ".warren-creating-";

fn first_free(taken: &[(u32, u32)]) -> Option<u32> {
    let overlaps =
        |at: u32| taken.iter().any(|(first, count)| at < first.saturating_add(*count) && *first < at + COUNT);
    (FIRST..=LAST - COUNT + 1).step_by(COUNT as usize).find(|at| !overlaps(*at))
}

/// What only one process does at a time; until the file is closed.
pub(crate) fn lock(host: &Host) -> Result<File> {
    let path = host.lxc_path();
    let folder = File::open(path).context("open", path.display())?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).context("lock", path.display())?;
    Ok(folder)
}

/// Gives every file below `root` to the guest's ids, on the disk: what belongs to 0 then belongs to `first`. Files of
/// ids that the guest cannot have become its root's.
pub fn shift(root: &Path, first: u32) -> Result<()> {
    // Depth first without recursion: a guest may nest folders deeper than our stack. Links are never followed.
    let device = fs::symlink_metadata(root).context("look at", root.display())?.dev();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).context("list", folder.display())? {
            let path = entry.context("list", folder.display())?.path();
            let meta = fs::symlink_metadata(&path).context("look at", path.display())?;
            if meta.dev() != device {
                continue;
            }
            if meta.is_dir() {
                folders.push(path.clone());
            }
            give(&path, &meta, first).context("give to the guest", path.display())?;
        }
    }
    let meta = fs::symlink_metadata(root).context("look at", root.display())?;
    give(root, &meta, first).context("give to the guest", root.display())
}

fn give(path: &Path, meta: &fs::Metadata, first: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let moved = |id: u32| {
        let within = first..first + COUNT;
        // A file of two names is met twice.
        if within.contains(&id) { id } else { first + if id < COUNT { id } else { 0 } }
    };
    let capability = if meta.is_file() { capability(path)? } else { None };
    std::os::unix::fs::lchown(path, Some(moved(meta.uid())), Some(moved(meta.gid())))?;
    if meta.is_symlink() {
        return Ok(());
    }
    // Both are taken away with the owner.
    if meta.mode() & 0o6000 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    match capability {
        Some(bytes) => set_capability(path, &of_namespace(&bytes, first)),
        None => Ok(()),
    }
}

const CAPABILITY: &std::ffi::CStr = c"security.capability";

/// capabilities(7): a file's capabilities of revision 2 are those of the host's root; of revision 3, with the root's id
/// at the end, of a namespace's.
fn of_namespace(bytes: &[u8], first: u32) -> Vec<u8> {
    const REVISION_3: u32 = 0x0300_0000;
    const V2: usize = 20;
    let Some((head, rest)) = bytes.split_first_chunk::<4>().filter(|_| bytes.len() >= V2) else {
        return bytes.to_vec();
    };
    let magic = (u32::from_le_bytes(*head) & 0x00ff_ffff) | REVISION_3;
    [&magic.to_le_bytes(), &rest[..V2 - 4], &first.to_le_bytes()].concat()
}

fn capability(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0u8; 64];
    match rustix::fs::lgetxattr(path, CAPABILITY, &mut bytes[..]) {
        Ok(size) => {
            bytes.truncate(size);
            Ok(Some(bytes))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn set_capability(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, CAPABILITY, bytes, rustix::fs::XattrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_that_somebody_has_are_passed_over() {
        assert_eq!(first_free(&[]), Some(FIRST));
        assert_eq!(first_free(&[(FIRST, COUNT)]), Some(FIRST + COUNT));
        // One that ends within the first, and one that begins at the end of the second.
        let taken = [(FIRST - 10, 11), (FIRST + 2 * COUNT - 1, 1)];
        assert_eq!(first_free(&taken), Some(FIRST + 2 * COUNT));
        // Somebody's subordinate ids over all of it.
        assert_eq!(first_free(&[(100_000, u32::MAX)]), None);
    }

    #[test]
    fn capabilities_become_those_of_the_namespace() {
        let v2 = [[1, 0, 0, 2].as_slice(), &[0x20; 16]].concat();
        let v3 = of_namespace(&v2, FIRST);
        assert_eq!(v3.len(), 24);
        assert_eq!(v3[..4], [1, 0, 0, 3]);
        assert_eq!(v3[4..20], v2[4..]);
        assert_eq!(v3[20..], FIRST.to_le_bytes());
        assert_eq!(of_namespace(&v3, FIRST), v3);
    }
}
