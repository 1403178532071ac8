//! Persistent tap devices: the network cards of virtual machines (Documentation/networking/tuntap.rst).
//!
//! A tap is made by opening /dev/net/tun, and belongs to the network namespace of the thread that opened it. It is
//! made persistent last, when it bears its mark: if the process that makes it ends before, it vanishes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use model::address::{IfName, Mac};

use crate::error::{Cause, Context as _, KernelError, Result, explained};
use crate::rtnl::header::IN6_ADDR_GEN_MODE_NONE;
use crate::rtnl::{GROUP, LinkChange, Rtnl};

const DEVICE: &str = "/dev/net/tun";

/// Of linux/if_tun.h: fail where the name is taken, instead of opening what has it.
const IFF_TUN_EXCL: libc::c_int = 0x8000;

/// A tap to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTap<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// The host's hardware address on it; random where there is none. The machine behind has its own.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Our mark.
    pub alias: &'a str,
    /// The user id that may open it, besides processes with CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// The group id that may.
    pub group: Option<u32>,
}

/// Whether taps can be made here; the error says why not.
pub fn available() -> Result<()> {
    open("use").map(drop)
}

/// Makes a persistent tap, switched off and without an IPv6 address of its own, in the calling thread's network
/// namespace. Fails with EBUSY where a link has the name, and with EINVAL where an id is unknown to our user namespace.
pub fn create(tap: &NewTap<'_>) -> Result<()> {
    let name = tap.name.as_str();
    let device = open("make the tap device")?;
    // SAFETY: all zero bytes are a valid ifreq: a name that is empty, and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // IfName holds at most IFNAME_MAX bytes, so a zero remains at the end.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: the request is a live ifreq, which is what TUNSETIFF reads and writes.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if code != 0 {
        let e = io::Error::last_os_error();
        let source = match e.raw_os_error() {
            Some(libc::EBUSY) => explained(e, "a link has that name"),
            Some(libc::EPERM) => explained(e, "it needs CAP_NET_ADMIN over this network namespace"),
            _ => e.into(),
        };
        return Err(KernelError::new("make the tap device", name, source));
    }
    if let Some(owner) = tap.owner {
        set(&device, libc::TUNSETOWNER, owner).map_err(|e| unknown_id(e, "user", owner)).context("give away", name)?;
    }
    if let Some(group) = tap.group {
        set(&device, libc::TUNSETGROUP, group).map_err(|e| unknown_id(e, "group", group)).context("give away", name)?;
    }
    let settings = LinkChange {
        mac: tap.mac,
        mtu: Some(tap.mtu),
        alias: Some(tap.alias.to_owned()),
        group: Some(GROUP),
        addr_gen: Some(IN6_ADDR_GEN_MODE_NONE),
        ..LinkChange::default()
    };
    Rtnl::open()?.set_link(tap.name, &settings)?;
    set(&device, libc::TUNSETPERSIST, 1).context("make persistent the tap device", name)
}

/// The user and group id that may open a tap of the calling thread's namespace, as seen from our user namespace.
/// Fails with ENODEV where there is no such link, with EINVAL where it is no tap.
pub fn owner(name: &IfName) -> Result<(Option<u32>, Option<u32>)> {
    let tun = Rtnl::open()?.link(name)?.tun.filter(|t| t.tap);
    let tun = tun.ok_or_else(|| KernelError::new("read the owner of", name.as_str(), not_a_tap()))?;
    Ok((tun.owner, tun.group))
}

/// Deletes a tap of the calling thread's namespace; who holds it open keeps a descriptor on which nothing comes.
/// Fails with ENODEV where there is no such link, with EINVAL where it is no tap.
pub fn delete(name: &IfName) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    if !rtnl.link(name)?.tun.is_some_and(|t| t.tap) {
        return Err(KernelError::new("delete the tap device", name.as_str(), not_a_tap()));
    }
    rtnl.delete_link(name)
}

fn not_a_tap() -> Cause {
    explained(io::Error::from_raw_os_error(libc::EINVAL), "it is no tap device")
}

fn open(operation: &'static str) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|e| {
        let source = match e.raw_os_error() {
            Some(libc::ENOENT) => explained(
                e,
                "the device file is missing: this kernel has no tun driver (modprobe tun), or this container was not \
                 given the device",
            ),
            Some(libc::ENODEV | libc::ENXIO) => explained(e, "this kernel has no tun driver (modprobe tun)"),
            Some(libc::EACCES | libc::EPERM) => {
                let state = fs::metadata(DEVICE).map(|m| {
                    format!("it has mode {:04o}, user {}, group {}", m.permissions().mode() & 0o7777, m.uid(), m.gid())
                });
                let state = state.unwrap_or_else(|_| "its mode cannot be read".to_owned());
                explained(e, format!("{DEVICE} is closed to us: {state}"))
            }
            _ => e.into(),
        };
        KernelError::new(operation, DEVICE, source)
    })
}

/// One of the ioctls that take a plain number.
fn set(device: &File, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and these requests (TUNSETOWNER, TUNSETGROUP, TUNSETPERSIST) take their
    // argument by value.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), request, libc::c_ulong::from(value)) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unknown_id(e: io::Error, what: &str, id: u32) -> Cause {
    if e.raw_os_error() == Some(libc::EINVAL) {
        explained(e, format!("{what} id {id} does not exist in this user namespace"))
    } else {
        e.into()
    }
}

/// A user's id, by name as in /etc/passwd, or by number.
pub fn user_id(user: &str) -> Result<u32> {
    id_of(user, "/etc/passwd", "find the user")
}

/// A group's id, by name as in /etc/group, or by number.
pub fn group_id(group: &str) -> Result<u32> {
    id_of(group, "/etc/group", "find the group")
}

fn id_of(name: &str, path: &str, operation: &'static str) -> Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = fs::read_to_string(path).map_err(|e| KernelError::new(operation, name, explained(e, path)))?;
    find_id(&text, name).ok_or_else(|| {
        let source = explained(io::Error::from_raw_os_error(libc::ENOENT), format!("no such line in {path}"));
        KernelError::new(operation, name, source)
    })
}

/// passwd(5) and group(5) both have name, password and id first.
fn find_id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let id = fields.nth(1)?.parse().ok()?;
        found.then_some(id)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n# a remark\n\nkvm:x:64055:106::/nonexistent:/bin/false\n";
        assert_eq!(find_id(passwd, "kvm"), Some(64055));
        assert_eq!(find_id(passwd, "kv"), None);
        assert_eq!(user_id("12").unwrap(), 12);
        assert_eq!(user_id("root").unwrap(), 0);
        let error = group_id("no-such-group").unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().contains("no-such-group") && error.to_string().contains("/etc/group"), "{error}");
    }
}
