//! The host's end of a guest's cable, and the guest's own end: plugged in, pulled out, looked at.

use std::io;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::netns::Netns;
use kernel::rtnl::{LinkChange, NewRoute, Rtnl};
use model::address::IfName;
use model::state::GUEST_INTERFACE;

use crate::error::{GuestError, Result};
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
    Ok(wired && port.hairpin == settings.hairpin && port.isolated == settings.isolated)
}

/// Plugs a running guest's port into its LAN's bridge, with all that belongs to a port.
pub fn plug(settings: &Settings) -> Result<()> {
    let change = LinkChange {
        up: Some(true),
        mtu: Some(settings.mtu),
        master: Some(Some(settings.lan.clone())),
        hairpin: Some(settings.hairpin),
        isolated: Some(settings.isolated),
        addr_gen: Some(NO_ADDRESS),
        ..LinkChange::default()
    };
    Ok(Rtnl::open()?.set_link(&settings.port, &change)?)
}

/// Changes the interface of a guest that runs from what it was told before to what it is told now; its first process is
/// `pid`. What is as it should be already is left.
pub fn carry_over(pid: u32, before: &Settings, now: &Settings) -> Result<()> {
    let eth0 =
        IfName::new(GUEST_INTERFACE).map_err(|e| GuestError::io("name", GUEST_INTERFACE, io::Error::other(e)))?;
    let change = || -> kernel::error::Result<()> {
        let mut rtnl = Rtnl::open()?;
        let link = LinkChange {
            mac: (before.mac != now.mac).then_some(now.mac),
            mtu: (before.mtu != now.mtu).then_some(now.mtu),
            ..LinkChange::default()
        };
        if link != LinkChange::default() {
            rtnl.set_link(&eth0, &link)?;
        }
        for gateway in before.gateways.iter().filter(|gateway| !now.gateways.contains(gateway)) {
            passing_over(rtnl.delete_route(&by_default(*gateway, &eth0)))?;
        }
        for net in before.addresses.iter().filter(|net| !now.addresses.contains(net)) {
            passing_over(rtnl.delete_address(&eth0, *net))?;
        }
        // All of them: the kernel takes others of a subnet away with its first, and routes with the last.
        for net in &now.addresses {
            passing_over(rtnl.add_address(&eth0, *net))?;
        }
        for gateway in &now.gateways {
            if now.must_be_told_of(*gateway) {
                passing_over(rtnl.add_route(&NewRoute::new(IpNet::from(*gateway), None, &eth0)))?;
            }
            passing_over(rtnl.add_route(&by_default(*gateway, &eth0)))?;
        }
        Ok(())
    };
    let netns = Netns::of_process(pid)?;
    netns.run(change).map_err(|e| GuestError::io("enter the network of", &now.name, e))?.map_err(GuestError::from)
}

fn by_default(gateway: IpAddr, link: &IfName) -> NewRoute<'_> {
    let to = if gateway.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
    NewRoute::new(to, Some(gateway), link)
}

/// What is to go may have gone, and what is to come be there.
fn passing_over(result: kernel::error::Result<()>) -> kernel::error::Result<()> {
    match result {
        Err(e) if e.is_absent() || e.exists_already() => Ok(()),
        other => other,
    }
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
