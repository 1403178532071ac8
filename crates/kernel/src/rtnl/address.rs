//! Addresses on links.

use std::net::IpAddr;

use ipnet::IpNet;
use model::address::IfName;

use super::header::*;
use super::{Rtnl, address_of, family_of, octets};
use crate::error::{Context as _, Result};
use crate::netlink::{find_attr, flags, ne_u32};

/// An address as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressInfo {
    /// The link's index.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// The other end's address, on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// RT_SCOPE_*: 0 the world, 253 this link, 254 this host.
    pub scope: u8,
    /// IFA_F_*.
    pub flags: u32,
}

impl AddressInfo {
    /// Whether it was set without an end, by a person or a program; not by DHCP or from a router advertisement.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }

    /// Whether it cannot be used (yet): duplicate address detection runs, or found a double.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0
    }

    /// Whether no new connections should leave from it.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.flags & IFA_F_DEPRECATED != 0
    }

    /// Whether it counts on its link alone: 169.254.0.0/16, fe80::/10.
    #[must_use]
    pub fn is_link_local(&self) -> bool {
        match self.net.addr() {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        }
    }
}

impl Rtnl {
    /// All addresses of the namespace, both families.
    pub fn addresses(&mut self) -> Result<Vec<AddressInfo>> {
        let messages = self.socket.dump(RTM_GETADDR, |w| {
            w.raw(&ifaddrmsg(AF_UNSPEC, 0, 0));
        });
        let messages = messages.context("list", "addresses")?;
        Ok(messages.iter().filter(|m| m.kind == RTM_NEWADDR).filter_map(|m| parse(&m.payload)).collect())
    }

    /// Puts an address on a link. IPv6: without duplicate address detection, so that it serves at once. IPv4: with
    /// the subnet's broadcast address, where the prefix leaves room for one. Fails with EEXIST where it is there.
    pub fn add_address(&mut self, link: &IfName, net: IpNet) -> Result<()> {
        let what = || format!("{net} to {link}");
        let index = self.index_of(link).map_err(|e| e.during("add the address", what()))?;
        let result = self.socket.request(RTM_NEWADDR, flags::CREATE | flags::EXCL, |w| {
            w.raw(&ifaddrmsg(family_of(net.addr()), net.prefix_len(), index));
            w.attr(IFA_LOCAL, &octets(net.addr())).attr(IFA_ADDRESS, &octets(net.addr()));
            match net {
                IpNet::V4(net) if net.prefix_len() < 31 => {
                    w.attr(IFA_BROADCAST, &net.broadcast().octets());
                }
                IpNet::V4(_) => {}
                IpNet::V6(_) => {
                    w.attr_u32(IFA_FLAGS, IFA_F_NODAD);
                }
            }
        });
        result.context("add the address", what())
    }

    /// Takes an address off a link. Fails with EADDRNOTAVAIL where it is not there, with ENODEV where the link is not.
    pub fn delete_address(&mut self, link: &IfName, net: IpNet) -> Result<()> {
        let what = || format!("{net} from {link}");
        let index = self.index_of(link).map_err(|e| e.during("remove the address", what()))?;
        let result = self.socket.request(RTM_DELADDR, 0, |w| {
            w.raw(&ifaddrmsg(family_of(net.addr()), net.prefix_len(), index));
            w.attr(IFA_LOCAL, &octets(net.addr())).attr(IFA_ADDRESS, &octets(net.addr()));
        });
        result.context("remove the address", what())
    }
}

/// struct ifaddrmsg of linux/if_addr.h: family, prefix length, flags (told by IFA_FLAGS), scope (the kernel derives
/// IPv6's; 0 is IPv4's usual one), index.
fn ifaddrmsg(family: u8, prefix: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix, 0, 0, a, b, c, d]
}

fn parse(payload: &[u8]) -> Option<AddressInfo> {
    let [_, prefix, flags, scope, ..] = *payload else { return None };
    let index = ne_u32(payload.get(4..8)?);
    let attributes = payload.get(8..)?;
    let address = find_attr(attributes, IFA_ADDRESS).and_then(address_of);
    // On a point-to-point link IFA_ADDRESS is the other end's, and IFA_LOCAL ours; IPv6 has IFA_LOCAL only there.
    let local = find_attr(attributes, IFA_LOCAL).and_then(address_of).or(address)?;
    Some(AddressInfo {
        index,
        net: IpNet::new(local, prefix).ok()?,
        peer: address.filter(|a| *a != local),
        scope,
        flags: find_attr(attributes, IFA_FLAGS).map_or(u32::from(flags), ne_u32),
    })
}
