//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::address::IfName;

use super::header::*;
use super::{Rtnl, address_of, family_of, octets};
use crate::error::{Context as _, Result};
use crate::netlink::{self, Writer, find_attr, flags, ne_u32};

/// A route as the kernel tells it; one that has several next hops comes once for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Where to; prefix length 0 for a default route.
    pub to: IpNet,
    /// Through which router.
    pub via: Option<IpAddr>,
    /// By which link, by index; unreachable and blackhole routes have none.
    pub oif: Option<u32>,
    /// Which table: 254 is main, 255 local.
    pub table: u32,
    /// Who made it: RTPROT_*, such as 2 the kernel, 9 a router advertisement, 16 DHCP.
    pub protocol: u8,
    /// Its metric (RTA_PRIORITY): the lowest wins.
    pub metric: u32,
    /// The source address that it prefers.
    pub source: Option<IpAddr>,
    /// RTN_*: 1 unicast, 2 local, 6 blackhole, 7 unreachable.
    pub kind: u8,
    /// RT_SCOPE_*: 0 the world, 253 this link.
    pub scope: u8,
}

impl RouteInfo {
    /// Whether it goes everywhere.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.to.prefix_len() == 0
    }
}

/// Who made a route (rtm_protocol): our own number, of those that the kernel leaves to routing daemons, so that ours
/// are told from a guest's own. `ip route` shows it as `proto 87`.
pub const PROTOCOL: u8 = 87;

/// A route to be added to the main table, or to be taken from it.
#[derive(Clone, Copy, Debug)]
pub struct NewRoute<'a> {
    /// Where to; `0.0.0.0/0` and `::/0` are default routes.
    pub to: IpNet,
    /// Through which router; on the link where there is none.
    pub via: Option<IpAddr>,
    /// By which link.
    pub link: &'a IfName,
    /// Its metric; the kernel's own (IPv4: 0, IPv6: 1024) where there is none. For a removal: any.
    pub metric: Option<u32>,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// Who makes it (RTPROT_*): [`PROTOCOL`], where it is warren.
    pub protocol: u8,
}

impl<'a> NewRoute<'a> {
    /// A route without metric and source.
    #[must_use]
    pub fn new(to: IpNet, via: Option<IpAddr>, link: &'a IfName) -> Self {
        Self { to, via, link, metric: None, source: None, protocol: PROTOCOL }
    }

    fn what(&self) -> String {
        let via = self.via.map(|v| format!(" via {v}")).unwrap_or_default();
        format!("{}{via} by {}", self.to, self.link)
    }
}

impl Rtnl {
    /// The unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<RouteInfo>> {
        let mut routes = self.all_routes()?;
        routes.retain(|r| r.table == u32::from(RT_TABLE_MAIN) && r.kind == RTN_UNICAST);
        Ok(routes)
    }

    /// Every route of every table, both families.
    pub fn all_routes(&mut self) -> Result<Vec<RouteInfo>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let messages = self.socket.dump(RTM_GETROUTE, |w| {
                w.raw(&rtmsg(family, 0, RT_TABLE_UNSPEC, 0, RT_SCOPE_UNIVERSE, 0));
            });
            match messages {
                // Linux without IPv6: a kernel that knows no such family has none of its routes.
                Err(e) if family == AF_INET6 && matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
                messages => {
                    let messages = messages.context("list", "routes")?;
                    messages.iter().filter(|m| m.kind == RTM_NEWROUTE).for_each(|m| parse(&m.payload, &mut routes));
                }
            }
        }
        Ok(routes)
    }

    /// Whether an address is another host's, as the kernel would send to it: not one of this host's own, a broadcast
    /// or an anycast address. Fails where it knows no way there.
    pub fn is_elsewhere(&mut self, address: IpAddr) -> Result<bool> {
        let answer = self.socket.get(RTM_GETROUTE, 0, |w| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            w.raw(&rtmsg(family_of(address), length, RT_TABLE_UNSPEC, 0, RT_SCOPE_UNIVERSE, 0));
            w.attr(RTA_DST, &octets(address));
        });
        let answer = answer.context("find the way to", address.to_string())?;
        // The type stands in the eighth byte of struct rtmsg.
        Ok(answer.iter().any(|m| m.kind == RTM_NEWROUTE && m.payload.get(7) == Some(&RTN_UNICAST)))
    }

    /// Adds a route to the main table ([`PROTOCOL`]). Fails with EEXIST where one to there of that metric is, and
    /// with ENETUNREACH where the router cannot be reached by the link (IPv4).
    pub fn add_route(&mut self, route: &NewRoute<'_>) -> Result<()> {
        self.change_route("add the route", RTM_NEWROUTE, flags::CREATE | flags::EXCL, route)
    }

    /// Takes a route off the main table, whoever made it. Fails with ESRCH where there is none.
    pub fn delete_route(&mut self, route: &NewRoute<'_>) -> Result<()> {
        self.change_route("remove the route", RTM_DELROUTE, 0, route)
    }

    fn change_route(&mut self, operation: &'static str, kind: u16, flags: u16, route: &NewRoute<'_>) -> Result<()> {
        let index = self.index_of(route.link).map_err(|e| e.during(operation, route.what()))?;
        let adding = kind == RTM_NEWROUTE;
        let result = self.socket.request(kind, flags, |w| {
            let scope = match (adding, route.via) {
                (false, _) => RT_SCOPE_NOWHERE,
                (true, None) => RT_SCOPE_LINK,
                (true, Some(_)) => RT_SCOPE_UNIVERSE,
            };
            // As matches of a removal 0 and RT_SCOPE_NOWHERE stand for any.
            let (protocol, unicast) = if adding { (route.protocol, RTN_UNICAST) } else { (0, 0) };
            let family = family_of(route.to.addr());
            w.raw(&rtmsg(family, route.to.prefix_len(), RT_TABLE_MAIN, protocol, scope, unicast));
            write_route(w, route, index);
        });
        result.context(operation, route.what())
    }
}

fn write_route(w: &mut Writer, route: &NewRoute<'_>, index: u32) {
    if route.to.prefix_len() > 0 {
        w.attr(RTA_DST, &octets(route.to.network()));
    }
    w.attr_u32(RTA_OIF, index);
    match route.via {
        Some(via) if via.is_ipv4() == route.to.addr().is_ipv4() => {
            w.attr(RTA_GATEWAY, &octets(via));
        }
        Some(via) => {
            // struct rtvia: the router's family in the machine's order, then its address (RFC 5549).
            let mut bytes = u16::from(family_of(via)).to_ne_bytes().to_vec();
            bytes.extend(octets(via));
            w.attr(RTA_VIA, &bytes);
        }
        None => {}
    }
    if let Some(metric) = route.metric {
        w.attr_u32(RTA_PRIORITY, metric);
    }
    if let Some(source) = route.source {
        w.attr(RTA_PREFSRC, &octets(source));
    }
}

/// struct rtmsg of linux/rtnetlink.h: family, lengths of the destination's and the source's prefix, type of service,
/// table, protocol, scope, type, flags.
fn rtmsg(family: u8, prefix: u8, table: u8, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    [family, prefix, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

fn parse(payload: &[u8], routes: &mut Vec<RouteInfo>) {
    let [family, prefix, _, _, table, protocol, scope, kind, ..] = *payload else { return };
    let (Some(cloned), Some(attributes)) = (payload.get(8..12).map(ne_u32), payload.get(12..)) else { return };
    // Exceptions, as path MTU discovery leaves them, are no routes of anybody's.
    if cloned & RTM_F_CLONED != 0 {
        return;
    }
    let everywhere = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return,
    };
    let to = find_attr(attributes, RTA_DST).and_then(address_of).unwrap_or(everywhere);
    let Ok(to) = IpNet::new(to, prefix) else { return };
    let route = RouteInfo {
        to,
        via: router(attributes),
        oif: find_attr(attributes, RTA_OIF).map(ne_u32),
        table: find_attr(attributes, RTA_TABLE).map_or(u32::from(table), ne_u32),
        protocol,
        metric: find_attr(attributes, RTA_PRIORITY).map(ne_u32).unwrap_or(0),
        source: find_attr(attributes, RTA_PREFSRC).and_then(address_of),
        kind,
        scope,
    };
    let Some(mut hops) = find_attr(attributes, RTA_MULTIPATH) else {
        routes.push(route);
        return;
    };
    // struct rtnexthop: length, flags, weight less one, link; then attributes.
    while let (Some(length), Some(index)) = (hops.get(..2), hops.get(4..8)) {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let Some(own) = hops.get(8..length) else { return };
        routes.push(RouteInfo { via: router(own), oif: Some(ne_u32(index)), ..route.clone() });
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

fn router(attributes: &[u8]) -> Option<IpAddr> {
    netlink::attrs(attributes).find_map(|(kind, value)| match kind {
        RTA_GATEWAY => address_of(value),
        RTA_VIA => address_of(value.get(2..)?),
        _ => None,
    })
}
