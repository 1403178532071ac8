//! The host's end of a guest's cable, and the guest's own end: plugged in, pulled out, looked at.

use std::net::IpAddr;

use kernel::netns::Netns;
use kernel::rtnl::{LinkChange, Rtnl};
use model::address::IfName;
use model::state::GUEST_INTERFACE;

use crate::error::Result;
use crate::settings::Settings;

/// IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local address by itself.
const NO_ADDRESS: u8 = 1;

/// Whether the guest's port is in its LAN's bridge as it should be.
pub fn is_plugged(settings: &Settings) -> Result<bool> {
    let mut rtnl = Rtnl::open()?;
    let (bridge, port) = match (rtnl.link(&settings.lan), rtnl.link(&settings.port)) {
        (Ok(bridge), Ok(port)) => (bridge, port),
        (Err(e), _) | (_, Err(e)) if e.is_absent() => return Ok(false),
        (Err(e), _) | (_, Err(e)) => return Err(e.into()),
    };
    let wired = port.master == Some(bridge.index) && port.up && port.mtu == settings.mtu;
    Ok(wired && port.hairpin == settings.hairpin)
}

/// Plugs a running guest's port into its LAN's bridge, with all that belongs to a port.
pub fn plug(settings: &Settings) -> Result<()> {
    let change = LinkChange {
        up: Some(true),
        mtu: Some(settings.mtu),
        master: Some(Some(settings.lan.clone())),
        hairpin: Some(settings.hairpin),
        addr_gen: Some(NO_ADDRESS),
        ..LinkChange::default()
    };
    Ok(Rtnl::open()?.set_link(&settings.port, &change)?)
}

/// Whether a link of that name is here.
pub fn is_there(name: &IfName) -> Result<bool> {
    match Rtnl::open()?.link(name) {
        Ok(_) => Ok(true),
        Err(e) if e.is_absent() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether the guest whose first process is `pid` has all its addresses by now. A guest that is ending has none.
#[must_use]
pub fn has_addresses(pid: u32, wanted: &[IpAddr]) -> bool {
    let look = || -> Option<Vec<IpAddr>> {
        let found = Netns::of_process(pid).ok()?.run(|| -> kernel::error::Result<Vec<IpAddr>> {
            let mut rtnl = Rtnl::open()?;
            let Ok(eth0) = IfName::new(GUEST_INTERFACE) else { return Ok(Vec::new()) };
            let index = rtnl.index_of(&eth0)?;
            Ok(rtnl.addresses()?.into_iter().filter(|a| a.index == index).map(|a| a.net.addr()).collect())
        });
        found.ok()?.ok()
    };
    look().is_some_and(|found| wanted.iter().all(|address| found.contains(address)))
}
