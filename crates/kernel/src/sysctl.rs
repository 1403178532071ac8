//! Switches below /proc/sys/net (Documentation/networking/ip-sysctl.rst). They are those of the calling thread's
//! network namespace.

use std::fs;
use std::io;

use model::state::Sysctl;

use crate::error::{Cause, KernelError, Result, explained};

/// A switch's value without its end of line; none where the kernel, or the interface, has no such switch.
pub fn read(sysctl: &Sysctl) -> Result<Option<String>> {
    match path_of(sysctl).and_then(fs::read_to_string) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(KernelError::new("read", sysctl.to_string(), why(e))),
    }
}

/// Sets a switch. Fails with ENOENT where there is none, with EINVAL where the value is none of its.
pub fn write(sysctl: &Sysctl, value: &str) -> Result<()> {
    let result = path_of(sysctl).and_then(|path| {
        // Never made anew: O_CREAT below /proc/sys is refused with EACCES, which would hide that it is missing.
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, value.as_bytes())
    });
    result.map_err(|e| KernelError::new("set", format!("{sysctl} to {value}"), why(e)))
}

/// Whether br_netfilter hands bridged frames to the hooks of IP, and which: the names of its switches and their values;
/// nothing where the kernel has it not.
#[must_use]
pub fn br_netfilter() -> Vec<(String, String)> {
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(format!("{BRIDGE}/{name}")).ok()?));
    BR_NETFILTER.into_iter().filter_map(read).collect()
}

/// Sets these switches, as [`br_netfilter`] told them. For labs alone.
pub fn set_br_netfilter(switches: &[(String, String)]) -> Result<()> {
    for (name, value) in switches.iter().filter(|(name, _)| BR_NETFILTER.contains(&name.as_str())) {
        let path = format!("{BRIDGE}/{name}");
        fs::write(&path, value.trim()).map_err(|e| KernelError::new("set", path, why(e)))?;
    }
    Ok(())
}

const BRIDGE: &str = "/proc/sys/net/bridge";
const BR_NETFILTER: [&str; 3] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"];

/// Whether the kernel, or the interface, has the switch.
#[must_use]
pub fn exists(sysctl: &Sysctl) -> bool {
    path_of(sysctl).is_ok_and(|path| fs::metadata(path).is_ok())
}

fn path_of(sysctl: &Sysctl) -> io::Result<String> {
    // No interface is called so; nothing outside its folder is to be named.
    let unfit = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']);
    if unfit(&sysctl.scope) || unfit(&sysctl.key) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(format!("/proc/sys/{}", sysctl.path()))
}

fn is_missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV))
}

fn why(e: io::Error) -> Cause {
    match e.raw_os_error() {
        Some(libc::EROFS) => explained(e, "/proc/sys is mounted read-only here, as containers have it"),
        Some(libc::EACCES | libc::EPERM) => {
            explained(e, "it needs root of the user namespace that owns this network namespace")
        }
        Some(libc::EINVAL) => explained(e, "the kernel does not take this value"),
        _ if is_missing(&e) => explained(e, "this kernel, or this interface, has no such switch"),
        _ => e.into(),
    }
}
