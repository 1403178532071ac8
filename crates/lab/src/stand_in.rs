//! What a rehearsal has something else in place of: containers, machines, taps, sites.

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::tap;
use model::network::{GuestKind, Lan, Network};

use crate::enter::entered;
use crate::plan::{LabPlan, hosts};
use crate::world::Lab;

impl Lab {
    /// Makes `network` one that a lab can carry, and says in a sentence each what stands in for what. Every guest
    /// becomes a network namespace; guests without an address get a free one of their LAN.
    pub fn stand_in(network: &mut Network) -> Vec<String> {
        let mut said = Vec::new();
        guests(network, &mut said);
        addresses(network, &mut said);
        taps(network, &mut said);
        for site in &network.sites {
            said.push(format!(
                "site {}: nothing serves it here; its backends stand in as guests",
                site.hosts.join(", ")
            ));
        }
        if network.socks.is_some() {
            said.push("socks: nothing serves it here".to_owned());
        }
        network.uplink.present = true;
        said
    }
}

fn guests(network: &mut Network, said: &mut Vec<String>) {
    for guest in &mut network.guests {
        let what = match &guest.kind {
            GuestKind::Lxc(_) => "its container",
            GuestKind::Vm { .. } => "its machine and tap",
            GuestKind::Reserved => "what will be plugged in",
            GuestKind::Netns => continue,
        };
        said.push(format!("{}: a network namespace stands in for {what}", guest.name));
        guest.kind = GuestKind::Netns;
    }
}

fn addresses(network: &mut Network, said: &mut Vec<String>) {
    for guest in network.guests.iter_mut().filter(|guest| guest.leased) {
        if let Some(address) = guest.addresses.first() {
            said.push(format!("{}: {address}, which it will be leased, is set by hand", guest.name));
        }
        guest.leased = false;
    }
    // On a bridged LAN the lab's own machines stand beside the guests.
    let others: Vec<IpAddr> = LabPlan::of(network).iter().flat_map(LabPlan::addresses).collect();
    for lan in &network.lans {
        let mut taken: Vec<IpAddr> = lan.held().iter().map(ipnet::IpNet::addr).chain(others.clone()).collect();
        taken.extend(network.guests.iter().flat_map(|g| &g.addresses));
        taken.extend(network.forwards.iter().flat_map(|f| &f.to));
        for guest in network.guests.iter_mut().filter(|g| g.lan == lan.bridge && g.addresses.is_empty()) {
            for net in nets(lan) {
                let Some(free) = hosts(net.trunc()).find(|a| !taken.contains(a)) else {
                    said.push(format!("{}: no address of {} is free for it", guest.name, net.trunc()));
                    continue;
                };
                // One a family, as a lease would be.
                if guest.addresses.iter().any(|a| a.is_ipv4() == free.is_ipv4()) {
                    continue;
                }
                taken.push(free);
                guest.addresses.push(free);
                said.push(format!("{}: {free} stands in for the address that it will be leased", guest.name));
            }
        }
    }
}

/// Where addresses of a LAN's may be taken from: a bridged one is where the host is.
fn nets(lan: &Lan) -> Vec<IpNet> {
    let outer = lan.outer.iter().flat_map(|outer| outer.nets.iter().copied());
    if lan.is_bridged() { outer.collect() } else { lan.addresses.clone() }
}

fn taps(network: &mut Network, said: &mut Vec<String>) {
    let missing = tap::available().err();
    // A user namespace knows no user but its root, whatever the machine's list of users says.
    let alone = entered().is_ok_and(|e| e.user);
    for lan in &mut network.lans {
        if let Some(why) = &missing {
            for tap in lan.taps.drain(..) {
                said.push(format!("tap {}: left out, for taps cannot be made here: {why}", tap.name));
            }
        }
        for tap in &mut lan.taps {
            let unknown_user = tap.owner.as_deref().filter(|u| alone || tap::user_id(u).is_err());
            let unknown_group = tap.group.as_deref().filter(|g| alone || tap::group_id(g).is_err());
            if let Some(who) = unknown_user.or(unknown_group) {
                said.push(format!("tap {}: root stands in for its owner {who}", tap.name));
                (tap.owner, tap.group) = (None, None);
            }
        }
    }
}
