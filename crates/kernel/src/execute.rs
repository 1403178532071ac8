//! One step of a plan, done to the kernel.

use std::collections::{HashMap, HashSet};

use model::address::IfName;
use model::plan::Step;
use model::state::{Hold, Link, LinkKind, Peer, Place, Shaper, Side};

use crate::error::{Cause, KernelError, Result};
use crate::netns::Netns;
use crate::rtnl::{LinkChange, NewRoute, Rtnl, VethPeer};
use crate::tap::{self, NewTap};
use crate::{carry, files, holders, mends, nft, sysctl};

/// Does steps in the network namespace of the thread that made it, and keeps its sockets from step to step.
pub struct Executor {
    rtnl: Rtnl,
    guests: HashMap<String, Guest>,
    /// Ends of cables that are going to be taken away, in guests' namespaces.
    doomed: HashSet<Place>,
}

/// The group of links that are about to be taken away together: our own group's neighbour.
const DOOMED: u32 = crate::rtnl::GROUP + 1;

/// A guest's namespace, held open, and a socket in it.
struct Guest {
    netns: Netns,
    rtnl: Rtnl,
}

impl Executor {
    /// For the calling thread's network namespace.
    pub fn new() -> Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, guests: HashMap::new(), doomed: HashSet::new() })
    }

    /// Tells what is going to be done: what stands on a cable that is taken away goes with it, and is not taken off by
    /// itself before. Where it does not come to that, it is there still, which is what undoing it wants.
    pub fn foresee(&mut self, steps: &[Step]) {
        let end = |step: &Step| match step {
            Step::DeleteLink { link: Link { kind: LinkKind::Veth(peer), .. }, .. } if !peer.namespace.is_empty() => {
                Some(Place { namespace: Some(peer.namespace.clone()), link: peer.name.clone() })
            }
            _ => None,
        };
        self.doomed = steps.iter().filter_map(end).collect();
    }

    /// How many of `steps`, from the first on, are best done together: links are taken away all at once, since the
    /// kernel waits out its readers for each removal (some 15 ms), however many links go in it.
    #[must_use]
    pub fn together(steps: &[Step]) -> usize {
        let cable = |step: &&Step| matches!(step, Step::DeleteLink { link, .. } if link.kind != LinkKind::Bridge);
        steps.iter().take_while(cable).count().max(1)
    }

    /// Does as many steps as [`Self::together`] says.
    pub fn steps(&mut self, steps: &[Step]) -> Result<()> {
        if let [step] = steps {
            return self.step(step);
        }
        let names = steps.iter().filter_map(|step| match step {
            Step::DeleteLink { name, .. } => Some(name),
            _ => None,
        });
        let doomed = LinkChange { group: Some(DOOMED), ..LinkChange::default() };
        for name in names {
            gone_is_fine(self.rtnl.set_link(name, &doomed))?;
        }
        gone_is_fine(self.rtnl.delete_group(DOOMED))
    }

    /// Does one step: all of it, or an error and nothing.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Rules { changes } => nft::commit(changes),
            Step::SetSysctl { sysctl, to: Some(value), .. } => sysctl::write(sysctl, value),
            // It vanishes with its link.
            Step::SetSysctl { to: None, .. } => Ok(()),
            Step::CreateNamespace { name } => {
                let (netns, rtnl) = Netns::create_with_links(name)?;
                self.guests.insert(name.clone(), Guest { netns, rtnl });
                Ok(())
            }
            Step::DeleteNamespace { name } => {
                self.guests.remove(name);
                gone_is_fine(Netns::delete(name))
            }
            Step::CreateLink { name, link } => self.create_link(name, link),
            Step::DeleteLink { name, link } => gone_is_fine(match link.kind {
                LinkKind::Tap { .. } => tap::delete(name),
                LinkKind::Bridge | LinkKind::Veth(_) | LinkKind::Ifb => self.rtnl.delete_link(name),
            }),
            Step::ChangeLink { name, from, to } => self.change_link(name, from, to),
            Step::AddAddress { address } => {
                there_is_fine(self.at(&address.at)?.add_address(&address.at.link, address.net))
            }
            Step::DeleteAddress { address } if self.doomed.contains(&address.at) => Ok(()),
            Step::DeleteRoute { route } if self.doomed.contains(&route.at) => Ok(()),
            Step::DeleteAddress { address } => match self.at(&address.at) {
                Ok(rtnl) => gone_is_fine(rtnl.delete_address(&address.at.link, address.net)),
                Err(e) => gone_is_fine(Err(e)),
            },
            Step::AddRoute { route } => {
                there_is_fine(self.at(&route.at)?.add_route(&NewRoute::new(route.to, route.via, &route.at.link)))
            }
            Step::PlugPort { name, port } => carry::plug(&mut self.rtnl, name, port),
            Step::UnplugPort { name, port } => gone_is_fine(carry::unplug(&mut self.rtnl, name, port)),
            Step::AddProxy { proxy } => there_is_fine(self.rtnl.add_neighbour_proxy(&proxy.link, proxy.address)),
            Step::DeleteProxy { proxy } => gone_is_fine(self.rtnl.delete_neighbour_proxy(&proxy.link, proxy.address)),
            Step::SetFile { path, from, to } => files::set(path, from.as_deref(), to.as_deref()),
            Step::SetHold { to: Some(hold), .. }
                if hold.on != Side::Between || hold.holder.begins_anew() || hold.holder.reads_files() =>
            {
                holders::set(hold)
            }
            // Back on the interface where it was not known to be anywhere.
            Step::SetHold { from, to } => match to.as_ref().or(from.as_ref()) {
                Some(hold) => holders::set(&Hold { on: Side::Port, ..hold.clone() }),
                None => Ok(()),
            },
            Step::DeleteRoute { route } => match self.at(&route.at) {
                Ok(rtnl) => gone_is_fine(rtnl.delete_route(&NewRoute::new(route.to, route.via, &route.at.link))),
                Err(e) => gone_is_fine(Err(e)),
            },
            Step::AddMend { mend } => mends::add(mend),
            Step::DeleteMend { mend } => gone_is_fine(mends::delete(mend)),
            Step::SetShaper { link, from, to } => match (self.set_shaper(link, from.as_ref(), to.as_ref()), to) {
                // Nothing is left to be lifted where the interface, or what was at it, has gone.
                (result, None) => gone_is_fine(result),
                (result, Some(_)) => result,
            },
        }
    }

    /// What is disturbed is made anew, the rest is changed while traffic passes.
    fn set_shaper(&mut self, link: &IfName, from: Option<&Shaper>, to: Option<&Shaper>) -> Result<()> {
        let index = match self.rtnl.index_of(link) {
            // A port that others make and take away: the look that follows says what is left to do.
            Err(e) if e.is_absent() => return Ok(()),
            index => index?,
        };
        let name = link.as_str();
        let whole = from.is_none_or(|from| from.whole);
        let rate = |shaper: Option<&Shaper>| shaper.and_then(|shaper| shaper.rate);
        if !whole || rate(from) != rate(to) {
            let stays = whole && rate(from).is_some() && rate(to).is_some();
            if !stays && (!whole || rate(from).is_some()) {
                gone_is_fine(self.rtnl.unlimit(index, name))?;
            }
            if let Some(rate) = rate(to) {
                self.rtnl.limit(index, name, rate, stays)?;
            }
        }
        let through = |shaper: Option<&Shaper>| shaper.and_then(|shaper| shaper.through.clone());
        if !whole || through(from) != through(to) {
            if !whole || through(from).is_some() {
                nothing_led_is_fine(self.rtnl.unlead(index, name))?;
            }
            if let Some(device) = through(to) {
                let device = self.rtnl.index_of(&device)?;
                self.rtnl.lead(index, name, device)?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, name: &str, netns: Netns) -> Result<()> {
        let rtnl = netns
            .run(Rtnl::open)
            .map_err(|e| KernelError::new("enter", format!("the network namespace {name}"), e))??;
        self.guests.insert(name.to_owned(), Guest { netns, rtnl });
        Ok(())
    }

    fn guest(&mut self, name: &str) -> Result<&mut Guest> {
        if !self.guests.contains_key(name) {
            let netns = Netns::open(name)?;
            self.remember(name, netns)?;
        }
        self.guests
            .get_mut(name)
            .ok_or_else(|| KernelError::new("enter", format!("the network namespace {name}"), not_found()))
    }

    fn at(&mut self, place: &Place) -> Result<&mut Rtnl> {
        match &place.namespace {
            None => Ok(&mut self.rtnl),
            Some(name) => Ok(&mut self.guest(name)?.rtnl),
        }
    }

    /// Whole, plugged in and switched on; taken away again where that fails half way.
    fn create_link(&mut self, name: &IfName, link: &Link) -> Result<()> {
        match &link.kind {
            LinkKind::Bridge => self.rtnl.create_bridge(name, link.mac, link.mtu, &link.alias)?,
            LinkKind::Tap { owner, group } => {
                let (owner, group) = (*owner, *group);
                tap::create(&NewTap { name, mac: link.mac, mtu: link.mtu, alias: &link.alias, owner, group })?;
            }
            LinkKind::Ifb => self.rtnl.create_ifb(name, link.mac, link.mtu, &link.alias)?,
            // Only ever to put back what was found broken: a cable to nowhere, which is of no use to anybody.
            LinkKind::Veth(peer) if peer.namespace.is_empty() => return Ok(()),
            LinkKind::Veth(peer) => {
                let netns = self.guest(&peer.namespace)?.netns.try_clone();
                let netns = netns.map_err(|e| KernelError::new("hold", peer.namespace.clone(), e))?;
                let far = VethPeer {
                    netns: std::os::fd::AsFd::as_fd(&netns),
                    name: &peer.name,
                    mac: peer.mac,
                    mtu: peer.mtu,
                };
                self.rtnl.create_veth(name, link.mac, link.mtu, &link.alias, &far)?;
            }
        }
        let finish = |this: &mut Self| {
            let plug = LinkChange {
                master: link.master.clone().map(Some),
                up: link.up.then_some(true),
                // A new port has neither.
                hairpin: (link.master.is_some() && link.hairpin).then_some(true),
                isolated: (link.master.is_some() && link.isolated).then_some(true),
                ..LinkChange::default()
            };
            this.rtnl.set_link(name, &plug)?;
            match &link.kind {
                LinkKind::Veth(peer) if peer.up => this.switch_peer(peer),
                _ => Ok(()),
            }
        };
        finish(self).inspect_err(|_| {
            // The failure is what must be told; a link that stays all the same is found by its mark.
            let _ = self.rtnl.delete_link(name);
        })
    }

    fn switch_peer(&mut self, peer: &Peer) -> Result<()> {
        let change = LinkChange { up: Some(peer.up), ..LinkChange::default() };
        self.guest(&peer.namespace)?.rtnl.set_link(&peer.name, &change)
    }

    fn change_link(&mut self, name: &IfName, from: &Link, to: &Link) -> Result<()> {
        fn changed<T: Clone + PartialEq>(from: &T, to: &T) -> Option<T> {
            (from != to).then(|| to.clone())
        }
        let replugged = from.master != to.master;
        let change = LinkChange {
            up: changed(&from.up, &to.up),
            mtu: changed(&from.mtu, &to.mtu),
            mac: if from.mac == to.mac { None } else { to.mac },
            master: changed(&from.master, &to.master),
            alias: changed(&from.alias, &to.alias),
            // A port's settings are lost with its bridge.
            hairpin: (to.master.is_some() && (replugged || from.hairpin != to.hairpin)).then_some(to.hairpin),
            isolated: (to.master.is_some() && (replugged || from.isolated != to.isolated)).then_some(to.isolated),
            ..LinkChange::default()
        };
        if change != LinkChange::default() {
            self.rtnl.set_link(name, &change)?;
        }
        if let (LinkKind::Veth(from), LinkKind::Veth(to)) = (&from.kind, &to.kind) {
            let change = LinkChange {
                up: changed(&from.up, &to.up),
                mtu: changed(&from.mtu, &to.mtu),
                mac: changed(&from.mac, &to.mac),
                ..LinkChange::default()
            };
            if change != LinkChange::default() {
                self.guest(&to.namespace)?.rtnl.set_link(&to.name, &change)?;
            }
        }
        Ok(())
    }
}

/// What is to be removed may have gone by itself.
fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}

/// The kernel says EINVAL where an interface has no qdisc for what comes in.
fn nothing_led_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.errno() == Some(libc::EINVAL) => Ok(()),
        other => gone_is_fine(other),
    }
}

/// What is to be added may have come by itself: an address that another step's undoing brought back.
fn there_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.exists_already() => Ok(()),
        other => other,
    }
}

fn not_found() -> Cause {
    std::io::Error::from_raw_os_error(libc::ENOENT).into()
}
