//! What we may do, as far as it can be told without doing it (capabilities(7), user_namespaces(7)).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::thread::CapabilitySet;

/// The capabilities that warren needs and the calling thread lacks, by their names.
///
/// - CAP_NET_ADMIN over the thread's network namespace: links, addresses, routes, firewall. Having it in one's own
///   user namespace is not enough, the network namespace must belong to that one or to one below it.
/// - CAP_SYS_ADMIN: making and entering namespaces, mounting.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    // A thread whose capabilities cannot be read has none to rely on.
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let mut missing = Vec::new();
    if !effective.contains(CapabilitySet::NET_ADMIN) || !network_is_within_reach() {
        missing.push("CAP_NET_ADMIN");
    }
    if !effective.contains(CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_SYS_ADMIN");
    }
    missing
}

/// Whether the network namespace belongs to our user namespace or to one below it. The kernel tells the owner of a
/// namespace only to those who stand at or above it: the answer itself is what is asked for (ioctl_ns(2)).
fn network_is_within_reach() -> bool {
    match File::open("/proc/thread-self/ns/net").and_then(|netns| owner_of(&netns)) {
        Ok(_) => true,
        // EPERM: outside. A kernel without the request (before 4.9) cannot say; then capabilities are what counts.
        Err(e) => matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)),
    }
}

/// The user namespace that owns `namespace`.
fn owner_of(namespace: &File) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open, and NS_GET_USERNS takes no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: NS_GET_USERNS answers with a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
