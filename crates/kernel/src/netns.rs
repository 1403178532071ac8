//! Network namespaces, and the user and mount namespaces that a plain user's lab needs (namespaces(7), ip-netns(8)).
//!
//! A namespace belongs to a thread, so work in another one is done on a throwaway thread ([`Netns::run`]): no thread
//! of the caller's ever changes its place. A netlink socket stays in the namespace that it was opened in, so
//! `netns.run(Rtnl::open)` gives a handle that is used from anywhere.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{Context as _, KernelError, Result, explained};
use crate::rtnl::Rtnl;

/// Where names of namespaces are kept: NETNS_RUN_DIR of iproute2.
pub const NETNS_DIR: &str = "/run/netns";

/// What stands on the loopback interface of a namespace that we made for a guest, its name behind it.
pub const GUEST_MARK: &str = "warren: guest ";

/// The file system of namespace files: NSFS_MAGIC of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace, held open: it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    label: String,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").context("open", "this thread's network namespace")?;
        Ok(Self { fd: file.into(), label: "this thread's".to_owned() })
    }

    /// The namespace that `ip netns` knows by `name`. Fails with EINVAL where the name is a plain file, such as one
    /// whose maker was killed on the way.
    pub fn open(name: &str) -> Result<Self> {
        let what = || format!("the network namespace {name}");
        let file = File::open(path_of(name)?).context("open", what())?;
        if !is_namespace(&file).context("open", what())? {
            return Err(io::Error::from_raw_os_error(libc::EINVAL)).context("open", what());
        }
        Ok(Self { fd: file.into(), label: name.to_owned() })
    }

    /// The namespace of a process, such as a container's first one. Fails with ENOENT where there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let what = || format!("the network namespace of process {pid}");
        let file = File::open(format!("/proc/{pid}/ns/net")).context("open", what())?;
        Ok(Self { fd: file.into(), label: format!("process {pid}'s") })
    }

    /// A new namespace without a name, with its loopback interface up. It ends with the last descriptor, socket or
    /// process in it: with the process that made it, however that ends.
    pub fn unnamed(label: &str) -> Result<Self> {
        let made = elsewhere(|| {
            enter_new_namespace()?;
            Rtnl::open()?.switch_loopback_on(None)?;
            Netns::current()
        });
        let netns = made.context("make", format!("the network namespace {label}"))??;
        Ok(Self { fd: netns.fd, label: label.to_owned() })
    }

    /// A new namespace by the name of `name`, as `ip netns add` makes it: held by a bind mount on /run/netns/NAME.
    /// Its loopback interface is up and bears our mark before the name appears, so that one found under its name is
    /// always whole. Fails with EEXIST where a namespace has the name; a bare file of that name, left by whoever was
    /// killed between making the file and mounting on it, is taken over.
    pub fn create(name: &str) -> Result<Self> {
        Ok(Self::create_with_links(name)?.0)
    }

    /// The same, with the handle on its links that its loopback interface was switched on by.
    pub fn create_with_links(name: &str) -> Result<(Self, Rtnl)> {
        let path = path_of(name)?;
        let what = || format!("the network namespace {name}");
        if let Ok(file) = File::open(&path)
            && is_namespace(&file).context("make", what())?
        {
            return Err(io::Error::from_raw_os_error(libc::EEXIST)).context("make", what());
        }
        shared_netns_dir()?;
        let made = elsewhere(|| {
            enter_new_namespace()?;
            let mut links = Rtnl::open()?;
            links.switch_loopback_on(Some(&format!("{GUEST_MARK}{name}")))?;
            let netns = Netns::current()?;
            pin(&path).context("keep", what())?;
            Ok((netns, links))
        });
        let (netns, links): (Self, Rtnl) = made.context("make", what())??;
        Ok((Self { fd: netns.fd, label: name.to_owned() }, links))
    }

    /// Takes the name off and with it, unless something else holds it, the namespace and all that is in it. Fails
    /// with ENOENT where there is no such name.
    pub fn delete(name: &str) -> Result<()> {
        let path = path_of(name)?;
        // EINVAL: nothing is mounted there (a file left by a killed maker, or another mount namespace's).
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).context("unmount", format!("the network namespace {name}")),
        }
        fs::remove_file(&path).context("remove", format!("the network namespace {name}"))
    }

    /// The names of the namespaces in /run/netns, sorted; files on which nothing is mounted are left out.
    pub fn list() -> Result<Vec<String>> {
        let mut held = Vec::new();
        for name in names()? {
            if held_by(&name)?.is_some() {
                held.push(name);
            }
        }
        Ok(held)
    }

    /// Runs `f` inside, on a thread of its own that ends with it. Threads that `f` starts are inside too, and sockets
    /// that it opens stay so wherever they are handed. Fails where entering does (EPERM: no CAP_SYS_ADMIN over it);
    /// a panic of `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        let fd = self.fd.as_fd();
        elsewhere(move || {
            move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })?
    }

    /// Runs `f` in each of the namespaces in /run/netns, in whatever order, by as many threads as there are processors: one
    /// for each namespace would be made and awaited longer than most take to be looked into. What became of each, by
    /// its name, in their order; EINVAL and ENOENT where one has just gone.
    ///
    /// # Errors
    /// Where they cannot be listed, or no thread can be started.
    pub fn visit<T: Send>(f: impl Fn(&str) -> Result<T> + Sync) -> Result<Vec<(String, Result<T>)>> {
        /// Fewer are no reason for another thread.
        const EACH: usize = 8;
        let names = names()?;
        let count = match names.len().div_ceil(EACH) {
            several @ 2.. => several.min(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
            one_or_none => one_or_none,
        };
        let (next, f) = (AtomicUsize::new(0), &f);
        let enter = |name: &str, netns: &OwnedFd| {
            let entered = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
            entered.map_err(io::Error::from).context("enter", format!("the network namespace {name}"))?;
            f(name)
        };
        let work = || {
            let mine = || names.get(next.fetch_add(1, Ordering::Relaxed));
            let places = std::iter::from_fn(|| mine().map(|name| (name, held_by(name).transpose())));
            let looked = places.filter_map(|(name, held)| Some((name, held?.and_then(|netns| enter(name, &netns)))));
            looked.collect::<Vec<_>>()
        };
        let done = std::thread::scope(|scope| {
            let threads = (0..count)
                .map(|_| std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work))
                .collect::<io::Result<Vec<_>>>()?;
            let all = threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            Ok::<_, io::Error>(all.collect::<Vec<_>>())
        });
        let mut done = done.context("look into", "the guests' network namespaces")?;
        done.sort_unstable_by_key(|(name, _)| *name);
        Ok(done.into_iter().map(|(name, result)| (name.clone(), result)).collect())
    }

    /// The number that tells namespaces apart while they live: the inode below nsfs, as `readlink /proc/PID/ns/net`
    /// shows it.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_ino)
    }

    /// The number that is never given twice until the machine restarts (SO_NETNS_COOKIE, socket(7)).
    pub fn cookie(&self) -> io::Result<u64> {
        self.run(Self::own_cookie)?
    }

    /// The same of the calling thread's.
    pub fn own_cookie() -> io::Result<u64> {
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)?;
        let mut cookie = 0u64;
        let mut size = std::mem::size_of::<u64>() as libc::socklen_t;
        // SAFETY: the socket is open, and value and size point to live variables, the size that of the value.
        let code = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut size,
            )
        };
        if code == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    }

    /// The guest that we made it for, by the mark on its loopback interface; none for another's namespace. The mark
    /// holds also where somebody has given the namespace a further name.
    pub fn guest(&self) -> Result<Option<String>> {
        let what = || format!("the network namespace {}", self.label);
        let links = self.run(|| Rtnl::open()?.links()).context("enter", what())??;
        let loopback = links.into_iter().find(|l| l.loopback);
        Ok(loopback.and_then(|l| l.alias?.strip_prefix(GUEST_MARK).map(str::to_owned)))
    }

    /// What it is called in messages: its name, for those that have one.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, label: self.label.clone() })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Of asm-generic/socket.h (Linux 5.14); libc has it not for every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Runs `f` on a thread that nobody else uses, and ends it.
fn elsewhere<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn enter_new_namespace() -> Result<()> {
    // SAFETY: of unshare's flags only FILES makes descriptors that are believed open vanish; NEWNET does not.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("make", "a network namespace")
}

fn path_of(name: &str) -> Result<PathBuf> {
    let usable = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
    if !usable {
        let why = "a namespace's name is a file name of 1 to 255 bytes without '/'";
        let source = explained(io::Error::from_raw_os_error(libc::EINVAL), why);
        return Err(KernelError::new("use as a network namespace's name", format!("{name:?}"), source));
    }
    Ok(Path::new(NETNS_DIR).join(name))
}

/// What stands in /run/netns, sorted, whatever it is.
fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context("list", NETNS_DIR),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context("list", NETNS_DIR)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// The namespace that a file in /run/netns holds; none where nothing is mounted on it.
fn held_by(name: &str) -> Result<Option<OwnedFd>> {
    let path = Path::new(NETNS_DIR).join(name);
    let opened = File::open(&path).and_then(|file| Ok(is_namespace(&file)?.then_some(file.into())));
    match opened {
        // What has just gone, and bare files of mode 0 where we are not root.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
        opened => opened.context("open", path.display().to_string()),
    }
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(u64::try_from(rustix::fs::fstatfs(file)?.f_type).is_ok_and(|kind| kind == NSFS_MAGIC))
}

/// Makes /run/netns a mount point that passes mounts on, as `ip netns add` does: a name taken off in one mount
/// namespace is then off in those that were made from it, and does not keep the namespace alive there.
fn shared_netns_dir() -> Result<()> {
    fs::create_dir_all(NETNS_DIR).context("make the folder", NETNS_DIR)?;
    let share = || rustix::mount::mount_change(NETNS_DIR, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        // It is no mount point yet.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NETNS_DIR, NETNS_DIR).context("mount onto itself", NETNS_DIR)?;
            share().context("share the mounts of", NETNS_DIR)
        }
        result => result.context("share the mounts of", NETNS_DIR),
    }
}

/// Binds the calling thread's namespace to `path`; leaves no file behind where that fails.
fn pin(path: &Path) -> io::Result<()> {
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o000).open(path) {
        Ok(_) => {}
        // Seen before to be no namespace.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path).map_err(|e| {
        // What failed is what the caller must hear of; a file that is left is taken over the next time.
        let _ = fs::remove_file(path);
        e.into()
    })
}

/// Why a process could not become root of a user namespace of its own.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The host's administrator has switched them off for plain users.
    #[error("user namespaces are forbidden here: {setting} is {value} ({source})")]
    Forbidden {
        /// The switch, as sysctl(8) names it.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// unshare(2) takes a process with one thread alone.
    #[error("a process with several threads cannot enter a new user namespace")]
    Threads,
    /// Something else.
    #[error("cannot {step}: {source}")]
    Failed {
        /// What was attempted.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the calling process, which must have one thread, root of a new user namespace that knows no other user
/// (user_namespaces(7)). What it makes from then on, network and mount namespaces first, it owns.
pub fn unshare_user() -> std::result::Result<(), UserNamespaceError> {
    // Read before: inside, the ids of the outside are no longer seen.
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    // SAFETY: of unshare's flags only FILES makes descriptors that are believed open vanish; NEWUSER does not.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|e| {
        // EINVAL has no other cause here (unshare(2)).
        if e == rustix::io::Errno::INVAL {
            UserNamespaceError::Threads
        } else {
            why_no_user_namespace("make a user namespace", e.into(), read_setting)
        }
    })?;
    // Groups cannot be dropped by setgroups inside: without this the kernel takes no gid_map from a plain user.
    let write = |step, path: &str, line: String| {
        fs::write(path, line).map_err(|e| why_no_user_namespace(step, e, read_setting))
    };
    write("write /proc/self/setgroups", "/proc/self/setgroups", "deny".to_owned())?;
    write("write /proc/self/uid_map", "/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    write("write /proc/self/gid_map", "/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// The switches that forbid user namespaces, and the value that does. On Ubuntu the last one lets unshare(2) pass and
/// refuses the maps.
const USER_NAMESPACE_SWITCHES: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

fn read_setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(text.trim().to_owned())
}

fn why_no_user_namespace(
    step: &'static str,
    source: io::Error,
    read: impl Fn(&str) -> Option<String>,
) -> UserNamespaceError {
    for (setting, forbidding) in USER_NAMESPACE_SWITCHES {
        if let Some(value) = read(setting).filter(|v| v == forbidding) {
            return UserNamespaceError::Forbidden { setting, value, source };
        }
    }
    // ENOSPC: the limit is not zero, but reached (or 33 levels are nested).
    if source.raw_os_error() == Some(libc::ENOSPC) {
        let setting = "user.max_user_namespaces";
        if let Some(value) = read(setting) {
            return UserNamespaceError::Forbidden { setting, value, source };
        }
    }
    UserNamespaceError::Failed { step, source }
}

/// Gives the calling thread (and the threads and processes that it starts from then on) mounts of its own: what is
/// mounted from here on is not seen outside, what is unmounted outside goes here too. Puts an empty tmpfs on each of
/// `covered`, such as /run: what is written there ends with the last process that sees it.
pub fn private_mounts(covered: &[&Path]) -> Result<()> {
    // SAFETY: of unshare's flags only FILES makes descriptors that are believed open vanish; NEWNS does not.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("make", "a mount namespace")?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("part from the outside", "the mounts")?;
    for folder in covered {
        rustix::mount::mount(c"tmpfs", *folder, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
            .context("put a tmpfs on", folder.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(errno: i32, settings: &[(&str, &str)]) -> String {
        let read = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        why_no_user_namespace("make a user namespace", io::Error::from_raw_os_error(errno), read).to_string()
    }

    #[test]
    fn the_setting_that_forbids_user_namespaces_is_named() {
        let limit = refusal(libc::ENOSPC, &[("user.max_user_namespaces", "0")]);
        assert!(limit.contains("user.max_user_namespaces is 0"), "{limit}");
        let reached = refusal(libc::ENOSPC, &[("user.max_user_namespaces", "7")]);
        assert!(reached.contains("user.max_user_namespaces is 7"), "{reached}");
        let debian = refusal(libc::EPERM, &[("kernel.unprivileged_userns_clone", "0")]);
        assert!(debian.contains("kernel.unprivileged_userns_clone is 0"), "{debian}");
        let ubuntu = refusal(
            libc::EPERM,
            &[
                ("user.max_user_namespaces", "9999"),
                ("kernel.unprivileged_userns_clone", "1"),
                ("kernel.apparmor_restrict_unprivileged_userns", "1"),
            ],
        );
        assert!(ubuntu.contains("kernel.apparmor_restrict_unprivileged_userns is 1"), "{ubuntu}");
        assert_eq!(
            refusal(libc::EPERM, &[("kernel.unprivileged_userns_clone", "1")]),
            "cannot make a user namespace: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert!(path_of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path_of("cnx6").unwrap(), Path::new("/run/netns/cnx6"));
    }
}
