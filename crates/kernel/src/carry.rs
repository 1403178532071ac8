//! Interfaces of the host's, plugged into bridges of ours and pulled out: all of it in one go, so that what was spoken
//! over them goes on.

use std::fs;

use ipnet::IpNet;
use model::address::IfName;
use model::state::{IpFamilyWord, Port, PortWas, Sysctl, in_place_of};

use crate::error::Result;
use crate::rtnl::header::IN6_ADDR_GEN_MODE_NONE;
use crate::rtnl::{LinkChange, LinkInfo, Rtnl};
use crate::sysctl;

/// Switches of an interface's that a bridge in its place must have as it has them, else what it learns and whom it
/// believes would change (Documentation/networking/ip-sysctl.rst).
const SWITCHES: [(IpFamilyWord, &[&str]); 2] = [
    (
        IpFamilyWord::Ipv4,
        &[
            "rp_filter",
            "src_valid_mark",
            "arp_accept",
            "arp_announce",
            "arp_filter",
            "arp_ignore",
            "arp_notify",
            "drop_gratuitous_arp",
            "proxy_arp",
            "accept_local",
            "accept_redirects",
            "accept_source_route",
            "secure_redirects",
            "send_redirects",
            "shared_media",
            "route_localnet",
            "log_martians",
        ],
    ),
    (
        IpFamilyWord::Ipv6,
        &[
            "disable_ipv6",
            "accept_ra",
            "accept_ra_defrtr",
            "accept_ra_from_local",
            "accept_ra_min_hop_limit",
            "accept_ra_mtu",
            "accept_ra_pinfo",
            "accept_ra_rt_info_max_plen",
            "accept_ra_rt_info_min_plen",
            "accept_ra_rtr_pref",
            "ra_defrtr_metric",
            "autoconf",
            "use_tempaddr",
            "temp_prefered_lft",
            "temp_valid_lft",
            "max_addresses",
            "accept_dad",
            "dad_transmits",
            "accept_redirects",
            "accept_source_route",
            "hop_limit",
            "keep_addr_on_down",
            "router_solicitations",
        ],
    ),
];

/// Plugs `name` into its bridge; where it fails, it is pulled out again.
pub fn plug(rtnl: &mut Rtnl, name: &IfName, port: &Port) -> Result<()> {
    let done = try_plug(rtnl, name, port);
    done.inspect_err(|_| {
        // The failure is what must be told; what stays plugged in is seen by the next look.
        let _ = unplug(rtnl, name, port);
    })
}

fn try_plug(rtnl: &mut Rtnl, name: &IfName, port: &Port) -> Result<()> {
    let into = LinkChange { master: Some(Some(port.master.clone())), up: Some(true), ..LinkChange::default() };
    if !port.carries {
        return rtnl.set_link(name, &into);
    }
    copy_switches(name, &port.master)?;
    // The link-local address comes along; a second one, made by the kernel, would be asked about for a second.
    let silent = LinkChange { addr_gen: Some(IN6_ADDR_GEN_MODE_NONE), ..LinkChange::default() };
    rtnl.set_link(&port.master, &silent)?;
    rtnl.set_link(name, &silent)?;
    rtnl.set_link(name, &into)?;
    let (from, to) = (rtnl.link(name)?, rtnl.link(&port.master)?);
    rtnl.carry_over(&from, &to, &[])?;
    rtnl.set_link(&port.master, &LinkChange { addr_gen: port.was.addr_gen, ..LinkChange::default() })
}

/// Pulls `name` out of its bridge, and gives it all that the bridge bears in its place but the bridge's own addresses.
/// A bridge that is gone has nothing to give.
pub fn unplug(rtnl: &mut Rtnl, name: &IfName, port: &Port) -> Result<()> {
    let bridge = match rtnl.link(&port.master) {
        Ok(bridge) => Some(bridge),
        Err(e) if e.is_absent() => None,
        Err(e) => return Err(e),
    };
    let own = rtnl.link(name)?;
    let takes_its_place = |alias: &str| in_place_of(alias).as_ref() == Some(name);
    if let Some(bridge) = bridge.filter(|bridge| port.carries || bridge.alias.as_deref().is_some_and(takes_its_place)) {
        let declared: Vec<IpNet> = port.own.clone();
        rtnl.carry_over(&bridge, &own, &declared)?;
        rtnl.set_link(name, &LinkChange { addr_gen: port.was.addr_gen, ..LinkChange::default() })?;
    }
    let out = LinkChange { master: Some(None), up: Some(port.was.up), ..LinkChange::default() };
    rtnl.set_link(name, &out)
}

/// What of an interface would be changed by plugging it in, as it is now.
pub fn as_it_is(name: &IfName) -> Result<PortWas> {
    let mut rtnl = Rtnl::open()?;
    let link = rtnl.link(name)?;
    // What a bridge of ours bears in its place, as one made by a rewritten configuration does at a boot, is its own.
    let links = rtnl.links()?;
    let in_its_place = |other: &&LinkInfo| other.alias.as_deref().and_then(in_place_of).as_ref() == Some(name);
    let bridge = links.iter().filter(|other| link.master == Some(other.index)).find(in_its_place);
    let bearer = bridge.map_or(link.index, |bridge| bridge.index);
    let own = rtnl
        .addresses()?
        .into_iter()
        .filter(|address| address.index == bearer && !(bridge.is_some() && address.is_link_local()));
    Ok(PortWas { up: link.up, addr_gen: link.addr_gen, addresses: own.map(|address| address.net).collect() })
}

/// What the interface's switches say, said of the bridge. Some kernels lack some.
fn copy_switches(from: &IfName, to: &IfName) -> Result<()> {
    for (family, keys) in SWITCHES {
        for key in keys {
            let (old, new) = (Sysctl::new(family, from.as_str(), key), Sysctl::new(family, to.as_str(), key));
            let (Some(value), Some(now)) = (sysctl::read(&old)?, sysctl::read(&new)?) else { continue };
            // 2 is what a host that forwards needs to go on learning; we may have set it.
            if value != now && !(*key == "accept_ra" && now == "2") {
                sysctl::write(&new, &value)?;
            }
        }
    }
    Ok(())
}

/// Whether an interface is Wi-Fi: it has a radio (/sys/class/net/NAME/phy80211).
#[must_use]
pub fn is_wireless(name: &IfName) -> bool {
    let folder = format!("/sys/class/net/{name}");
    ["phy80211", "wireless"].iter().any(|entry| fs::metadata(format!("{folder}/{entry}")).is_ok())
}
