//! The system's D-Bus, and who of those that answer there is of this network.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::{Connection, Proxy, blocking};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The system's bus.
pub fn system() -> zbus::Result<blocking::Connection> {
    blocking::connection::Builder::system()?.method_timeout(PATIENCE).build()
}

/// The unique name of the one that owns `service`, if it is of this network namespace; nobody is started by being asked.
pub fn owner(bus: &blocking::Connection, service: &str) -> zbus::Result<Option<String>> {
    let name = BusName::try_from(service)?;
    let names = blocking::fdo::DBusProxy::new(bus)?;
    if !names.name_has_owner(name.clone())? || !is_in_our_network(names.get_connection_unix_process_id(name.clone())?) {
        return Ok(None);
    }
    Ok(Some(names.get_name_owner(name)?.to_string()))
}

/// Whether somebody of this network namespace owns `service`.
pub fn is_served(service: &'static str) -> zbus::Result<bool> {
    once(async move |bus: Connection| {
        let name = BusName::try_from(service)?;
        let names = DBusProxy::new(&bus).await?;
        let owned = names.name_has_owner(name.clone()).await?;
        Ok(owned && is_in_our_network(names.get_connection_unix_process_id(name).await?))
    })
}

/// Has `method` done, which takes nothing and answers nothing.
pub fn call(
    service: &'static str,
    path: &'static str,
    interface: &'static str,
    method: &'static str,
) -> zbus::Result<()> {
    once(async move |bus: Connection| {
        Proxy::new(&bus, service, path, interface).await?.call_method(method, &()).await?;
        Ok(())
    })
}

/// What is asked once needs nothing of what a connection leaves behind for the next: neither a thread, nor anything that a
/// fork of this process would miss.
fn once<T, F: Future<Output = zbus::Result<T>>>(ask: impl FnOnce(Connection) -> F) -> zbus::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bus = Builder::system()?.method_timeout(PATIENCE).build().await?;
        ask(bus).await
    })
}

/// Interfaces are told by their numbers, which another namespace has too.
fn is_in_our_network(pid: u32) -> bool {
    let inode = |path: String| fs::metadata(path).map(|meta| meta.ino()).ok();
    let own = inode("/proc/thread-self/ns/net".to_owned());
    own.is_some() && own == inode(format!("/proc/{pid}/ns/net"))
}
