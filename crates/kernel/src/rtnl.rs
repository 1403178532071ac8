//! Links, addresses, routes and neighbours, by rtnetlink(7).
//!
//! Everything is asked for and told by one request each, in order; nothing is cached. A handle belongs to the network
//! namespace in which it was opened and stays there, on whatever thread it is used:
//! `netns.run(Rtnl::open)` gives one for another namespace.

mod address;
mod carry;
pub mod header;
mod link;
mod neighbour;
mod route;
mod tc;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Context as _, Result};
use crate::netlink::Socket;

pub use address::AddressInfo;
pub use link::{BridgeInfo, Carried, GROUP, LinkChange, LinkInfo, TunInfo, VethPeer};
pub use neighbour::NeighbourInfo;
pub use route::{NewRoute, PROTOCOL, RouteInfo};
pub use tc::{Coming, ControlInfo, Leaving};

/// A NETLINK_ROUTE socket.
pub struct Rtnl {
    socket: Socket,
}

impl Rtnl {
    /// Opens one in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_ROUTE as isize).context("open", "an rtnetlink socket")?;
        Ok(Self { socket })
    }
}

/// The bytes of an address, in network order.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An address of 4 or 16 bytes.
fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
}

/// AF_INET or AF_INET6.
fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { header::AF_INET } else { header::AF_INET6 }
}
