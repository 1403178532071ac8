//! Links: bridges, veths, and what all links have in common.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use model::address::{IfName, Mac};

use super::Rtnl;
use super::header::*;
use crate::error::{Context as _, Result};
use crate::netlink::{self, NetlinkError, Writer, find_attr, flags, ne_u32, text};

/// The link group (IFLA_GROUP) that every link of ours is made in: "wr" and 1. Unlike the alias, which is the mark
/// that counts, the kernel takes it within the request that makes the link, so one that was made by a process killed
/// the moment after is still known; and [`Rtnl::delete_group`] removes thousands at once.
pub const GROUP: u32 = 0x7772_0001;

/// A link as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number in its namespace, from 1 on.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its driver's word, such as `bridge`, `veth`, `tun`; hardware has none.
    pub kind: Option<String>,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on (IFF_UP).
    pub up: bool,
    /// What sort of hardware it is (ARPHRD_* of linux/if_arp.h): 1 Ethernet.
    pub hardware: u16,
    /// Whether it is the loopback interface (IFF_LOOPBACK).
    pub loopback: bool,
    /// The index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Free text (IFLA_IFALIAS); our mark stands here.
    pub alias: Option<String>,
    /// Its group (IFLA_GROUP), 0 if none.
    pub group: u32,
    /// As a bridge's port: frames may leave by the port that they came in by (IFLA_BRPORT_MODE).
    pub hairpin: bool,
    /// As a bridge's port: it talks to ports that are not isolated alone (IFLA_BRPORT_ISOLATED).
    pub isolated: bool,
    /// The index of its other end, or of what it stands on (IFLA_LINK); in the namespace `peer_netns`, if that is
    /// another.
    pub peer: Option<u32>,
    /// Our namespace's number for the one in which `peer` is (IFLA_LINK_NETNSID); see [`Rtnl::netns_id`].
    pub peer_netns: Option<i32>,
    /// Whether there is a carrier: for a veth both ends up, for a tap somebody that holds it open.
    pub carrier: bool,
    /// RFC 2863 state (IF_OPER_* of linux/if.h): 0 unknown, 2 down, 3 lower layer down, 6 up.
    pub operstate: u8,
    /// How IPv6 link-local addresses come about (IN6_ADDR_GEN_MODE_*: 0 EUI-64, 1 none); none without IPv6.
    pub addr_gen: Option<u8>,
    /// What only bridges have.
    pub bridge: Option<BridgeInfo>,
    /// What only tun and tap devices have.
    pub tun: Option<TunInfo>,
}

/// What a link has carried (struct rtnl_link_stats64 of linux/if_link.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that came in.
    pub rx_packets: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
}

impl Carried {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut counts = bytes.chunks_exact(8).filter_map(|eight| Some(u64::from_ne_bytes(eight.try_into().ok()?)));
        let mut next = || counts.next();
        Some(Self { rx_packets: next()?, tx_packets: next()?, rx_bytes: next()?, tx_bytes: next()? })
    }
}

/// A bridge's own settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// How long a new port only listens, in hundredths of a second (USER_HZ).
    pub forward_delay: u32,
    /// Whether it tells VLANs apart.
    pub vlan_filtering: bool,
    /// Whether it sends multicasts only where they were asked for.
    pub mcast_snooping: bool,
}

/// A tun or tap device's own settings (drivers/net/tun.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunInfo {
    /// Whether it carries Ethernet frames (IFF_TAP).
    pub tap: bool,
    /// The user id that may open it, besides those with CAP_NET_ADMIN; as seen from this user namespace.
    pub owner: Option<u32>,
    /// The group id that may.
    pub group: Option<u32>,
    /// Whether it stays when nobody holds it open.
    pub persistent: bool,
}

/// The far end of a veth to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethPeer<'a> {
    /// The namespace in which it is made, such as a [`crate::netns::Netns`].
    pub netns: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
}

/// What to change of a link; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Switched on or off.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The bridge to be plugged into, or none to be pulled out.
    pub master: Option<Option<IfName>>,
    /// Free text; empty takes it away.
    pub alias: Option<String>,
    /// Its group.
    pub group: Option<u32>,
    /// As a bridge's port: [`LinkInfo::hairpin`].
    pub hairpin: Option<bool>,
    /// As a bridge's port: [`LinkInfo::isolated`].
    pub isolated: Option<bool>,
    /// [`LinkInfo::addr_gen`]; passed over where the kernel has no IPv6.
    pub addr_gen: Option<u8>,
}

impl Rtnl {
    /// All links of the namespace, in the order of their indices.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>> {
        let messages = self.socket.dump(RTM_GETLINK, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        let mut links: Vec<_> = messages
            .context("list", "links")?
            .iter()
            .filter(|m| m.kind == RTM_NEWLINK)
            .filter_map(|m| parse(&m.payload))
            .collect();
        links.sort_by_key(|l| l.index);
        Ok(links)
    }

    /// One link; an error with ENODEV where there is none of the name.
    pub fn link(&mut self, name: &IfName) -> Result<LinkInfo> {
        let messages = self.socket.get(RTM_GETLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
            w.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        let what = || format!("the link {name}");
        messages
            .context("find", what())?
            .iter()
            .find_map(|m| parse(&m.payload))
            .ok_or(NetlinkError::Malformed("no link in it"))
            .context("find", what())
    }

    /// What a link has carried since it was made; an error with ENODEV where there is none of the name.
    pub fn carried(&mut self, name: &IfName) -> Result<Carried> {
        let messages = self.socket.get(RTM_GETLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
        });
        let what = || format!("what the link {name} has carried");
        let messages = messages.context("find", what())?;
        let counts = messages.iter().find_map(|m| find_attr(m.payload.get(IFINFOMSG..)?, IFLA_STATS64));
        counts.and_then(Carried::read).ok_or(NetlinkError::Malformed("no counters in it")).context("find", what())
    }

    /// A link's index; an error with ENODEV where there is none of the name.
    pub fn index_of(&mut self, name: &IfName) -> Result<u32> {
        self.socket.index_of(name.as_str()).context("find", format!("the link {name}"))
    }

    /// The number by which this namespace knows another one ([`LinkInfo::peer_netns`]); none where it has none yet,
    /// as without a link between the two.
    pub fn netns_id(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>> {
        let messages = self.socket.get(RTM_GETNSID, 0, |w| {
            // rtgenmsg: the family alone.
            w.raw(&[AF_UNSPEC]).attr_u32(NETNSA_FD, netns.as_raw_fd() as u32);
        });
        let messages = messages.context("find the number of", "a network namespace")?;
        let id = messages.iter().find_map(|m| find_attr(m.payload.get(4..)?, NETNSA_NSID)).map(|p| ne_u32(p) as i32);
        // NETNSA_NSID_NOT_ASSIGNED
        Ok(id.filter(|id| *id >= 0))
    }

    /// Makes a bridge, switched off: no spanning tree and no forward delay (a port forwards at once), VLAN filtering
    /// as off as it always is at first. Fails with EEXIST where a link has the name.
    ///
    /// Multicast snooping is off. With it on, a bridge sends multicasts only to ports that asked, as soon as anything
    /// on the LAN claims to be a querier: a guest could then silence its neighbours' solicited-node groups, and one
    /// whose MLD report was lost would be without IPv6 neighbour discovery. Off, they are flooded, always.
    pub fn create_bridge(&mut self, name: &IfName, mac: Option<Mac>, mtu: u32, alias: &str) -> Result<()> {
        let result = self.socket.request(RTM_NEWLINK, flags::CREATE | flags::EXCL, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str()).attr_u32(IFLA_GROUP, GROUP);
            if let Some(mac) = mac {
                w.attr(IFLA_ADDRESS, &mac.0);
            }
            // A bridge's MTU follows that of its smallest port until it is *changed* by request (br_change_mtu); the
            // one given here does not count, so it is another one, and the change to the right one follows. It
            // differs in the lowest bit: never on the other side of 1280, below which IPv6 would not start.
            w.attr_u32(IFLA_MTU, mtu ^ 1);
            w.nest(IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |w| {
                    w.attr_u32(IFLA_BR_STP_STATE, 0).attr_u32(IFLA_BR_FORWARD_DELAY, 0);
                    w.attr_u8(IFLA_BR_MCAST_SNOOPING, 0);
                });
            });
        });
        result.context("make the bridge", name.as_str())?;
        self.finish(name, LinkChange { mtu: Some(mtu), alias: Some(alias.to_owned()), ..LinkChange::default() })
    }

    /// Makes a veth, both ends switched off: one here, the other directly in its namespace, so that it is never seen
    /// here. The near end is meant for a bridge: it gets no IPv6 address of its own, so that the host does not speak
    /// up at the guest's cable. Fails with EEXIST where a link has either name.
    pub fn create_veth(
        &mut self,
        name: &IfName,
        mac: Option<Mac>,
        mtu: u32,
        alias: &str,
        peer: &VethPeer<'_>,
    ) -> Result<()> {
        let result = self.socket.request(RTM_NEWLINK, flags::CREATE | flags::EXCL, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
            w.attr_u32(IFLA_MTU, mtu).attr_u32(IFLA_GROUP, GROUP);
            if let Some(mac) = mac {
                w.attr(IFLA_ADDRESS, &mac.0);
            }
            w.nest(IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |w| {
                    w.nest(VETH_INFO_PEER, |w| {
                        w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, peer.name.as_str());
                        w.attr(IFLA_ADDRESS, &peer.mac.0).attr_u32(IFLA_MTU, peer.mtu);
                        w.attr_u32(IFLA_NET_NS_FD, peer.netns.as_raw_fd() as u32);
                    });
                });
            });
        });
        result.context("make the cable", format!("{name} to {} in a guest", peer.name))?;
        let mark = LinkChange {
            alias: Some(alias.to_owned()),
            addr_gen: Some(IN6_ADDR_GEN_MODE_NONE),
            ..LinkChange::default()
        };
        self.finish(name, mark)
    }

    /// Makes an intermediate functional block, switched off and without an IPv6 address of its own. Fails with EEXIST
    /// where a link has the name, and names what is missing where the kernel has no such devices.
    pub fn create_ifb(&mut self, name: &IfName, mac: Option<Mac>, mtu: u32, alias: &str) -> Result<()> {
        let result = self.socket.request(RTM_NEWLINK, flags::CREATE | flags::EXCL, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
            w.attr_u32(IFLA_MTU, mtu).attr_u32(IFLA_GROUP, GROUP);
            if let Some(mac) = mac {
                w.attr(IFLA_ADDRESS, &mac.0);
            }
            w.nest(IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "ifb");
            });
        });
        result.map_err(|e| super::tc::without_ifb(e, name.as_str()))?;
        let mark = LinkChange {
            alias: Some(alias.to_owned()),
            addr_gen: Some(IN6_ADDR_GEN_MODE_NONE),
            ..LinkChange::default()
        };
        self.finish(name, mark)
    }

    /// The second half of making a link; the first half is undone where it fails.
    fn finish(&mut self, name: &IfName, change: LinkChange) -> Result<()> {
        self.set_link(name, &change).inspect_err(|_| {
            // The failure itself is what must be told; a link that cannot be removed is still known by its group.
            let _ = self.delete_link(name);
        })
    }

    /// Switches the loopback interface on, and marks it where an alias is given.
    pub fn switch_loopback_on(&mut self, alias: Option<&str>) -> Result<()> {
        /// Its index in every namespace (LOOPBACK_IFINDEX of net/flow.h).
        const LOOPBACK: u32 = 1;
        let result = self.socket.request(RTM_NEWLINK, 0, |w| {
            w.raw(&ifinfomsg(LOOPBACK, IFF_UP, IFF_UP));
            if let Some(alias) = alias {
                // Without the terminating zero, as iproute2 sends it.
                w.attr(IFLA_IFALIAS, alias.as_bytes());
            }
        });
        result.context("switch on", "the loopback interface of a new namespace")
    }

    /// Deletes a link; of a veth the other end goes with it. Fails with ENODEV where there is none of the name.
    pub fn delete_link(&mut self, name: &IfName) -> Result<()> {
        let result = self.socket.request(RTM_DELLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
        });
        result.context("delete the link", name.as_str())
    }

    /// Deletes all links of a group at once: a thousand take hardly longer than one, since the kernel waits out its
    /// readers once. Fails with ENODEV where there is none in it, and with EINVAL for group 0, which is everybody's.
    pub fn delete_group(&mut self, group: u32) -> Result<()> {
        let what = || format!("group {group:#x}");
        if group == 0 {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL)).context("delete the links of", what());
        }
        let result = self.socket.request(RTM_DELLINK, 0, |w| {
            w.raw(&ifinfomsg(0, 0, 0)).attr_u32(IFLA_GROUP, group);
        });
        result.context("delete the links of", what())
    }

    /// Changes a link. Where several things are asked for, they are done in this order: how IPv6 addresses come about,
    /// where it is switched at once; hardware address, MTU, alias, group, bridge and switch at once; else how IPv6
    /// addresses come about; then the port's settings.
    pub fn set_link(&mut self, name: &IfName, change: &LinkChange) -> Result<()> {
        let LinkChange { up, mtu, mac, master, alias, group, hairpin, isolated, addr_gen } = change;
        let what = || name.as_str().to_owned();
        // The kernel sets it behind all else of a request, and before the link comes up it must be set: else the address
        // is made already. So it goes with what switches nothing on.
        let with_mode = addr_gen.filter(|_| up.is_none());
        if let Some(mode) = addr_gen.filter(|_| up.is_some()) {
            self.set_link(name, &LinkChange { addr_gen: Some(mode), ..LinkChange::default() })?;
        }
        let master = match master {
            None => None,
            Some(None) => Some(0),
            Some(Some(bridge)) => {
                Some(self.index_of(bridge).map_err(|e| e.during("plug in", format!("{name} into {bridge}")))?)
            }
        };
        let others = [up.is_some(), mtu.is_some(), mac.is_some(), master.is_some(), alias.is_some(), group.is_some()];
        let others = others.contains(&true);
        let mut ask = |mode: Option<u8>| {
            self.socket.request(RTM_SETLINK, 0, |w| {
                let mask = if up.is_some() { IFF_UP } else { 0 };
                let value = if *up == Some(true) { IFF_UP } else { 0 };
                w.raw(&ifinfomsg(0, value, mask)).attr_str(IFLA_IFNAME, name.as_str());
                if let Some(mac) = mac {
                    w.attr(IFLA_ADDRESS, &mac.0);
                }
                if let Some(mtu) = mtu {
                    w.attr_u32(IFLA_MTU, *mtu);
                }
                if let Some(alias) = alias {
                    w.attr(IFLA_IFALIAS, alias.as_bytes());
                }
                if let Some(group) = group {
                    w.attr_u32(IFLA_GROUP, *group);
                }
                if let Some(master) = master {
                    w.attr_u32(IFLA_MASTER, master);
                }
                if let Some(mode) = mode {
                    w.nest(IFLA_AF_SPEC, |w| {
                        w.nest(u16::from(AF_INET6), |w| {
                            w.attr_u8(IFLA_INET6_ADDR_GEN_MODE, mode);
                        });
                    });
                }
            })
        };
        if others || with_mode.is_some() {
            let result = match ask(with_mode) {
                // Linux without IPv6, or with it switched off at boot. What was done by then is as it is asked for again.
                Err(e) if with_mode.is_some() && matches!(e.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                    if others {
                        ask(None)
                    } else {
                        Ok(())
                    }
                }
                result => result,
            };
            result.context(operation_of(change), what())?;
        }
        if hairpin.is_some() || isolated.is_some() {
            // RTM_SETLINK does not read it (rtnl_setlink passes no slave data on).
            let result = self.socket.request(RTM_NEWLINK, 0, |w| port_settings(w, name, *hairpin, *isolated));
            result.context("change the bridge port", what())?;
        }
        Ok(())
    }
}

fn port_settings(w: &mut Writer, name: &IfName, hairpin: Option<bool>, isolated: Option<bool>) {
    w.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name.as_str());
    w.nest(IFLA_LINKINFO, |w| {
        w.attr_str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |w| {
            if let Some(on) = hairpin {
                w.attr_u8(IFLA_BRPORT_MODE, u8::from(on));
            }
            if let Some(on) = isolated {
                w.attr_u8(IFLA_BRPORT_ISOLATED, u8::from(on));
            }
        });
    });
}

/// The one thing that is asked for, or the general word.
fn operation_of(change: &LinkChange) -> &'static str {
    let LinkChange { up, mtu, mac, master, alias, group, addr_gen, .. } = change;
    let asked = [
        up.map(|up| if up { "switch on" } else { "switch off" }),
        mtu.map(|_| "set the MTU of"),
        mac.map(|_| "set the hardware address of"),
        master.as_ref().map(|m| if m.is_some() { "plug in" } else { "unplug" }),
        alias.as_ref().map(|_| "mark"),
        group.map(|_| "set the group of"),
        addr_gen.filter(|_| up.is_none()).map(|_| "set how IPv6 addresses are made on"),
    ];
    let mut asked = asked.into_iter().flatten();
    match (asked.next(), asked.next()) {
        (Some(only), None) => only,
        _ => "change the link",
    }
}

/// struct ifinfomsg of linux/rtnetlink.h: family, padding, type, index, flags, which flags to change.
/// The length of a struct ifinfomsg, behind which the attributes are.
const IFINFOMSG: usize = 16;

fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut bytes = [0; IFINFOMSG];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn parse(payload: &[u8]) -> Option<LinkInfo> {
    let index = ne_u32(payload.get(4..8)?);
    let state = ne_u32(payload.get(8..12)?);
    let hardware = payload.get(2..4).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
    let mut link = LinkInfo {
        index,
        hardware,
        up: state & IFF_UP != 0,
        loopback: state & IFF_LOOPBACK != 0,
        carrier: state & IFF_LOWER_UP != 0,
        ..LinkInfo::default()
    };
    for (kind, value) in netlink::attrs(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            IFLA_MTU => link.mtu = ne_u32(value),
            IFLA_LINK => link.peer = Some(ne_u32(value)).filter(|i| *i != 0),
            IFLA_MASTER => link.master = Some(ne_u32(value)).filter(|i| *i != 0),
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_GROUP => link.group = ne_u32(value),
            IFLA_OPERSTATE => link.operstate = value.first().copied().unwrap_or(0),
            IFLA_CARRIER => link.carrier = value.first() == Some(&1),
            IFLA_LINK_NETNSID => link.peer_netns = Some(ne_u32(value) as i32),
            IFLA_LINKINFO => parse_info(value, &mut link),
            IFLA_AF_SPEC => {
                link.addr_gen = find_attr(value, u16::from(AF_INET6))
                    .and_then(|inet6| find_attr(inet6, IFLA_INET6_ADDR_GEN_MODE)?.first().copied());
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(info: &[u8], link: &mut LinkInfo) {
    let byte = |data: &[u8], kind| find_attr(data, kind).and_then(|v| v.first().copied()).unwrap_or(0);
    link.kind = find_attr(info, IFLA_INFO_KIND).map(text);
    let data = find_attr(info, IFLA_INFO_DATA).unwrap_or(&[]);
    match link.kind.as_deref() {
        Some("bridge") => {
            link.bridge = Some(BridgeInfo {
                stp: find_attr(data, IFLA_BR_STP_STATE).map(ne_u32).unwrap_or(0) != 0,
                forward_delay: find_attr(data, IFLA_BR_FORWARD_DELAY).map(ne_u32).unwrap_or(0),
                vlan_filtering: byte(data, IFLA_BR_VLAN_FILTERING) != 0,
                mcast_snooping: byte(data, IFLA_BR_MCAST_SNOOPING) != 0,
            });
        }
        Some("tun") => {
            /// IFF_TAP of linux/if_tun.h.
            const TAP: u8 = 2;
            link.tun = Some(TunInfo {
                tap: byte(data, IFLA_TUN_TYPE) == TAP,
                owner: find_attr(data, IFLA_TUN_OWNER).map(ne_u32),
                group: find_attr(data, IFLA_TUN_GROUP).map(ne_u32),
                persistent: byte(data, IFLA_TUN_PERSIST) != 0,
            });
        }
        _ => {}
    }
    if find_attr(info, IFLA_INFO_SLAVE_KIND).map(text).as_deref() == Some("bridge") {
        let port = find_attr(info, IFLA_INFO_SLAVE_DATA).unwrap_or(&[]);
        link.hairpin = byte(port, IFLA_BRPORT_MODE) != 0;
        link.isolated = byte(port, IFLA_BRPORT_ISOLATED) != 0;
    }
}
