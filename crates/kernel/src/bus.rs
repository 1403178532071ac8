//! The system's D-Bus, and who of those that answer there is of this network.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use zbus::blocking::fdo::DBusProxy;
use zbus::blocking::{Connection, connection};
use zbus::names::BusName;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The system's bus.
pub fn system() -> zbus::Result<Connection> {
    connection::Builder::system()?.method_timeout(PATIENCE).build()
}

/// The unique name of the one that owns `service`, if it is of this network namespace; nobody is started by being asked.
pub fn owner(bus: &Connection, service: &str) -> zbus::Result<Option<String>> {
    let name = BusName::try_from(service)?;
    let names = DBusProxy::new(bus)?;
    if !names.name_has_owner(name.clone())? || !is_in_our_network(names.get_connection_unix_process_id(name.clone())?) {
        return Ok(None);
    }
    Ok(Some(names.get_name_owner(name)?.to_string()))
}

/// Interfaces are told by their numbers, which another namespace has too.
fn is_in_our_network(pid: u32) -> bool {
    let inode = |path: String| fs::metadata(path).map(|meta| meta.ino()).ok();
    let own = inode("/proc/thread-self/ns/net".to_owned());
    own.is_some() && own == inode(format!("/proc/{pid}/ns/net"))
}
