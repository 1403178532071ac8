//! What there is to see of a network, in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::network::{Forward, Guest, GuestKind, Lan, Mode, Network, Public, Site, Snat};

/// All that is drawn, each thing with a key by which it is found again: `uplink`, `lan:BRIDGE`, `guest:NAME`, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The interface towards the world.
    pub uplink: Uplink,
    /// Sites, in the file's order.
    pub sites: Vec<Door>,
    /// The developers' door.
    pub socks: Option<Door>,
    /// The LANs, in the file's order.
    pub lans: Vec<Switch>,
}

/// The uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// The addresses that the world reaches.
    pub public: Vec<String>,
    /// Whether it is there.
    pub present: bool,
}

/// A way in that this host keeps itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Its key.
    pub key: String,
    /// What it is called by those who come.
    pub name: String,
    /// Where it leads.
    pub to: Vec<String>,
    /// The LANs that it leads to, by their number.
    pub lans: Vec<usize>,
}

/// A LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Its key.
    pub key: String,
    /// The bridge.
    pub name: String,
    /// How it meets the world.
    pub mode: Mode,
    /// Whether the bridge is another's.
    pub external: bool,
    /// The host's own addresses on it.
    pub addresses: Vec<String>,
    /// Its DNS zone.
    pub domain: String,
    /// How its guests look from the world.
    pub way: String,
    /// What is plugged in.
    pub members: Vec<Member>,
}

/// Something that is plugged into a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: &'static str,
    /// Its addresses, or how it comes by one.
    pub addresses: Vec<String>,
    /// What leads to it.
    pub ways: Vec<Way>,
}

/// What leads to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its key.
    pub key: String,
    /// What sort it is.
    pub sort: Sort,
    /// Where one comes to, from outside.
    pub from: String,
    /// Where one gets.
    pub to: String,
}

/// What sort of a way it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A forward, or a DMZ.
    Forward,
    /// A site.
    Site,
}

impl Scene {
    /// Of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let public = match &network.public {
            Public::Listed(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Public::Dynamic => vec!["whatever address it has".to_owned()],
        };
        let ways = Ways::of(network);
        Self {
            uplink: Uplink { name: network.uplink.name.to_string(), public, present: network.uplink.present },
            sites: network.sites.iter().enumerate().map(|(nth, site)| door(network, nth, site)).collect(),
            socks: network.socks.as_ref().map(|socks| Door {
                key: "socks".to_owned(),
                name: socks.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                to: Vec::new(),
                lans: Vec::new(),
            }),
            lans: network.lans.iter().map(|lan| switch(network, lan, &ways)).collect(),
        }
    }
}

/// A site's host names and path, as one reads them in an address.
fn named(site: &Site) -> String {
    let path = if site.path == "/" { "" } else { site.path.as_str() };
    format!("{}{path}", site.hosts.join(", "))
}

fn door(network: &Network, nth: usize, site: &Site) -> Door {
    let guests = || site.to.iter().filter_map(|backend| network.guest(&backend.guest));
    let leads = |lan: &Lan| guests().any(|guest| guest.lan == lan.bridge);
    Door {
        key: format!("site:{nth}"),
        name: named(site),
        to: site.to.iter().map(ToString::to_string).chain(site.redirect.clone()).collect(),
        lans: network.lans.iter().enumerate().filter(|(_, lan)| leads(lan)).map(|(nth, _)| nth).collect(),
    }
}

/// The ways to each guest by its name, and to each address that is no guest's.
struct Ways<'a> {
    guests: BTreeMap<&'a str, Vec<Way>>,
    others: BTreeMap<(&'a str, IpAddr), Vec<Way>>,
}

impl<'a> Ways<'a> {
    fn of(network: &'a Network) -> Self {
        let mut ways = Self { guests: BTreeMap::new(), others: BTreeMap::new() };
        for forward in &network.forwards {
            ways.add(forward.guest.as_deref(), forward.lan.as_str(), &forward.to, || forwarded(forward));
        }
        for dmz in &network.dmzs {
            let at = dmz.address.map_or_else(|| "*".to_owned(), |address| format!("{address}:*"));
            ways.add(dmz.guest.as_deref(), dmz.lan.as_str(), &dmz.to, || Way {
                key: format!("dmz:{at}"),
                sort: Sort::Forward,
                from: at.clone(),
                to: "all that is left".to_owned(),
            });
        }
        for (nth, site) in network.sites.iter().enumerate() {
            for backend in &site.to {
                ways.guests.entry(&backend.guest).or_default().push(Way {
                    key: format!("site:{nth}"),
                    sort: Sort::Site,
                    from: named(site),
                    to: format!(":{}", backend.port),
                });
            }
        }
        ways
    }

    fn add(&mut self, guest: Option<&'a str>, lan: &'a str, to: &[IpAddr], way: impl Fn() -> Way) {
        match guest {
            Some(guest) => self.guests.entry(guest).or_default().push(way()),
            None => to.iter().for_each(|to| self.others.entry((lan, *to)).or_default().push(way())),
        }
    }
}

fn forwarded(forward: &Forward) -> Way {
    let at = match forward.address {
        Some(address @ IpAddr::V6(_)) => format!("[{address}]:"),
        Some(address) => format!("{address}:"),
        None => String::new(),
    };
    let any = forward.address.map_or_else(|| "*".to_owned(), |address| address.to_string());
    Way {
        key: format!("forward:{any} {}/{}", forward.ports, forward.transport),
        sort: Sort::Forward,
        from: format!("{at}{}/{}", forward.ports, forward.transport),
        to: format!(":{}", forward.to_port),
    }
}

fn switch(network: &Network, lan: &Lan, ways: &Ways<'_>) -> Switch {
    let taps = lan.taps.iter().map(|tap| Member {
        key: format!("tap:{}", tap.name),
        name: tap.name.to_string(),
        kind: "tap",
        addresses: Vec::new(),
        ways: Vec::new(),
    });
    let guests = network.guests_of(lan).map(|guest| member(lan, guest, ways));
    let others = ways.others.iter().filter(|((bridge, _), _)| *bridge == lan.bridge.as_str());
    let others = others.map(|((_, address), ways)| Member {
        key: format!("address:{address}"),
        name: address.to_string(),
        kind: "address",
        addresses: Vec::new(),
        ways: ways.clone(),
    });
    Switch {
        key: format!("lan:{}", lan.bridge),
        name: lan.bridge.to_string(),
        mode: lan.mode,
        external: lan.is_external(),
        addresses: lan.addresses.iter().map(ToString::to_string).collect(),
        domain: lan.domain.clone(),
        way: way_out(lan),
        members: taps.chain(guests).chain(others).collect(),
    }
}

fn member(lan: &Lan, guest: &Guest, ways: &Ways<'_>) -> Member {
    let mut addresses: Vec<String> = guest.addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        let whose = if lan.is_bridged() { "by the outer network" } else { "by DHCP" };
        addresses.push(whose.to_owned());
    }
    Member {
        key: format!("guest:{}", guest.name),
        name: guest.name.clone(),
        kind: kind(&guest.kind),
        addresses,
        ways: ways.guests.get(guest.name.as_str()).cloned().unwrap_or_default(),
    }
}

fn kind(kind: &GuestKind) -> &'static str {
    match kind {
        GuestKind::Lxc(_) => "lxc",
        GuestKind::Vm { .. } => "vm",
        GuestKind::Netns => "netns",
        GuestKind::Reserved => "reserved",
    }
}

/// How a LAN's guests look from the world.
fn way_out(lan: &Lan) -> String {
    match lan.mode {
        Mode::Isolated => "no way out".to_owned(),
        Mode::Routed => "as they are".to_owned(),
        Mode::Bridged => {
            let ports: Vec<String> = lan.outer.iter().flat_map(|o| &o.ports).map(ToString::to_string).collect();
            if ports.is_empty() { "the outer network".to_owned() } else { format!("by {}", ports.join(", ")) }
        }
        Mode::Nat => {
            let mut ways = Vec::new();
            for net in &lan.addresses {
                let way = match lan.snat_for(net.addr()) {
                    Snat::To(address) => format!("as {address}"),
                    Snat::Masquerade => "as the uplink's address".to_owned(),
                    Snat::Keep => format!("{} as it is", net.trunc()),
                };
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
            format!("out {}", ways.join(", "))
        }
    }
}
