//! The difference between two states, as steps: what `up`, `down`, repair, rollback and `plan` all are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::address::IfName;
use crate::foreign::Mend;
use crate::ruleset::{Element, Family, Set, Table};
use crate::simulate;
use crate::state::{
    Address, Hold, IpFamilyWord, Link, LinkKind, Place, Port, Proxy, Route, Shaper, State, Sysctl, TableState,
    in_place_of,
};

mod about;
mod held;
mod words;

/// Steps in the order in which they are to be done. Each knows what was, so each can be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One change in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// One nf_tables transaction: all of it, or nothing.
    Rules {
        /// What it changes.
        changes: Vec<TableChange>,
    },
    /// Turns a switch. `to: None` leaves it to vanish with its link.
    SetSysctl {
        /// Which.
        sysctl: Sysctl,
        /// What it was, where it was known.
        from: Option<String>,
        /// What it shall be.
        to: Option<String>,
    },
    /// Makes a guest's network namespace.
    CreateNamespace {
        /// Its name.
        name: String,
    },
    /// Takes it away.
    DeleteNamespace {
        /// Its name.
        name: String,
    },
    /// Makes a link, plugs it in and switches it on.
    CreateLink {
        /// Its name.
        name: IfName,
        /// What it shall be.
        link: Link,
    },
    /// Takes a link away.
    DeleteLink {
        /// Its name.
        name: IfName,
        /// What it was.
        link: Link,
    },
    /// Changes what can be changed of a link while it lives.
    ChangeLink {
        /// Its name.
        name: IfName,
        /// What it was.
        from: Link,
        /// What it shall be.
        to: Link,
    },
    /// Adds an address.
    AddAddress {
        /// Which, where.
        address: Address,
    },
    /// Takes an address away.
    DeleteAddress {
        /// Which, where.
        address: Address,
    },
    /// Adds a route.
    AddRoute {
        /// Which, where.
        route: Route,
    },
    /// Takes a route away.
    DeleteRoute {
        /// Which, where.
        route: Route,
    },
    /// Plugs an interface of the host's into a bridge of ours; where the port carries, all that it bore moves there.
    PlugPort {
        /// Which.
        name: IfName,
        /// Where, and how.
        port: Port,
    },
    /// Pulls it out; all that the bridge bears in its place moves back.
    UnplugPort {
        /// Which.
        name: IfName,
        /// Where it was, and how.
        port: Port,
    },
    /// Lets something pass in another's firewall.
    AddMend {
        /// What, where.
        mend: Mend,
    },
    /// Takes that back.
    DeleteMend {
        /// What, where.
        mend: Mend,
    },
    /// Changes how much passes an interface; flows stand through it.
    SetShaper {
        /// The interface's name.
        link: IfName,
        /// What it was.
        from: Option<Shaper>,
        /// What it shall be.
        to: Option<Shaper>,
    },
    /// Begins to answer for an address.
    AddProxy {
        /// Which, where.
        proxy: Proxy,
    },
    /// Answers for it no more.
    DeleteProxy {
        /// Which, where.
        proxy: Proxy,
    },
    /// Writes a manager's file: the whole of it at once.
    SetFile {
        /// Which.
        path: String,
        /// What it says; nothing where there is none.
        from: Option<String>,
        /// What it shall say.
        to: Option<String>,
    },
    /// Moves what is at work on an interface to the bridge in its place, or back.
    SetHold {
        /// What it was; nothing where nobody had looked.
        from: Option<Hold>,
        /// What it shall be; back on the interface where nobody says.
        to: Option<Hold>,
    },
}

/// One change of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum TableChange {
    /// The whole table, made, taken away or made anew.
    Replace {
        /// Whose.
        family: Family,
        /// What it was.
        from: Option<TableState>,
        /// What it shall be.
        to: Option<TableState>,
    },
    /// Elements of one set or map; rules and other sets stay untouched.
    Elements {
        /// Whose.
        family: Family,
        /// The set's name.
        set: String,
        /// What it is, without its elements.
        declared: Set,
        /// What goes.
        remove: BTreeSet<Element>,
        /// What comes.
        add: BTreeSet<Element>,
    },
}

/// What has to be done so that `from` becomes `to`. Empty when they are the same.
///
/// The order keeps two promises: nothing is open before the rules that close it stand, and the rules go last; and
/// what something hangs on is there before it, and goes after it.
#[must_use]
pub fn plan(from: &State, to: &State) -> Plan {
    // Nothing but the rules depends on the tables, which are by far the largest part where there are many forwards.
    let (now, tables) = (from.clone_without_tables(), &from.tables);
    let mut planner = Planner { now, tables, to, steps: Vec::new(), begun: BTreeMap::new() };
    let going = to.tables.is_empty();
    if !going {
        planner.rules();
    }
    // Others' firewalls are the first to be closed and the last to be opened. What is as good for a bridge as for the
    // interface in whose place it is stands before it takes the place, and until it has left it.
    planner.close();
    planner.add_mends(Mend::is_twin);
    planner.foreign_sysctls();
    planner.pause();
    planner.let_go();
    planner.remove();
    planner.create();
    planner.begin_anew();
    planner.add_mends(|_| true);
    planner.delete_mends(|_| true);
    if going {
        planner.rules();
    }
    Plan { steps: planner.steps }
}

/// What puts back what `plan` changed: every step's opposite, in the opposite order.
#[must_use]
pub fn undo(plan: &Plan) -> Plan {
    Plan { steps: plan.steps.iter().rev().map(Step::undo).collect() }
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Whether a link of the first kind can become the second without being made anew.
fn is_same_device(a: &LinkKind, b: &LinkKind) -> bool {
    match (a, b) {
        (LinkKind::Bridge, LinkKind::Bridge) | (LinkKind::Ifb, LinkKind::Ifb) => true,
        (LinkKind::Tap { .. }, LinkKind::Tap { .. }) => a == b,
        (LinkKind::Veth(a), LinkKind::Veth(b)) => a.namespace == b.namespace && a.name == b.name,
        _ => false,
    }
}

/// Emits steps and keeps account of what the state is after them.
struct Planner<'a> {
    /// Without the tables.
    now: State,
    tables: &'a BTreeMap<Family, TableState>,
    to: &'a State,
    steps: Vec<Step>,
    /// What was paused, and where it shall be at work in the end.
    begun: BTreeMap<String, Option<Hold>>,
}

impl Planner<'_> {
    fn push(&mut self, step: Step) {
        simulate::apply(&mut self.now, &step);
        self.steps.push(step);
    }

    fn close(&mut self) {
        self.delete_mends(|mend| !mend.is_twin());
    }

    fn delete_mends(&mut self, which: impl Fn(&Mend) -> bool) {
        for mend in self.now.mends.difference(&self.to.mends).filter(|mend| which(mend)).cloned().collect::<Vec<_>>() {
            self.push(Step::DeleteMend { mend });
        }
    }

    fn add_mends(&mut self, which: impl Fn(&Mend) -> bool) {
        for mend in self.to.mends.difference(&self.now.mends).filter(|mend| which(mend)).cloned().collect::<Vec<_>>() {
            self.push(Step::AddMend { mend });
        }
    }

    fn rules(&mut self) {
        let families: BTreeSet<Family> = self.tables.keys().chain(self.to.tables.keys()).copied().collect();
        let mut changes = Vec::new();
        for family in families {
            match (self.tables.get(&family), self.to.tables.get(&family)) {
                (Some(TableState::Intact(from)), Some(TableState::Intact(to))) if from.same_skeleton(to) => {
                    changes.extend(element_changes(from, to));
                }
                (from, to) if from == to => {}
                (from, to) => changes.push(TableChange::Replace { family, from: from.cloned(), to: to.cloned() }),
            }
        }
        if !changes.is_empty() {
            self.steps.push(Step::Rules { changes });
        }
    }

    /// Switches on interfaces that are not ours, after the rules.
    ///
    /// Forwarding of IPv6 needs care. Turned on anywhere, it makes the kernel forget routes learnt from router
    /// advertisements, but where accept_ra is 2 by then. net.ipv6.conf.all.forwarding turns every interface's own
    /// switch along besides, so each of those has a step of its own before it, changed or not, which remembers what it
    /// was. Turned off, it comes first, and the others are put back after it.
    fn foreign_sysctls(&mut self) {
        let to = self.to;
        let all = Sysctl::new(IpFamilyWord::Ipv6, "all", "forwarding");
        let on = |state: &State| state.sysctls.get(&all).is_some_and(|value| value == "1");
        let (was_on, will_be_on) = (on(&self.now), on(to));
        let mut foreign: Vec<(&Sysctl, &String)> = to.sysctls.iter().filter(|(s, _)| !self.is_on_ours(s)).collect();
        let forwards = |(s, value): &(&Sysctl, &String)| {
            s.family == IpFamilyWord::Ipv6 && s.key == "forwarding" && value.as_str() == "1"
        };
        // One interface that begins to forward costs every other its learnt routes, too (rt6_purge_dflt_routers).
        let begins = foreign.iter().any(|pair| forwards(pair) && self.now.sysctls.get(pair.0) != Some(pair.1));
        foreign.sort_by_key(|(sysctl, _)| {
            let is_all = **sysctl == all;
            let is_accept_ra = sysctl.key == "accept_ra";
            if will_be_on || begins { (!is_accept_ra, is_all) } else { (is_accept_ra, !is_all) }
        });
        for (sysctl, value) in foreign {
            let turned_along = sysctl.family == IpFamilyWord::Ipv6 && sysctl.key == "forwarding" && *sysctl != all;
            if will_be_on && !was_on && turned_along {
                let from = self.now.sysctls.get(sysctl).cloned();
                self.push(Step::SetSysctl { sysctl: sysctl.clone(), from, to: Some(value.clone()) });
            } else {
                self.set_sysctl(sysctl, Some(value));
            }
        }
    }

    /// Compares with the state as it is by now: net.ipv6.conf.all.forwarding turns the others along.
    fn set_sysctl(&mut self, sysctl: &Sysctl, value: Option<&String>) {
        let from = self.now.sysctls.get(sysctl).cloned();
        if from.as_ref() != value {
            self.push(Step::SetSysctl { sysctl: sysctl.clone(), from, to: value.cloned() });
        }
    }

    fn is_on_ours(&self, sysctl: &Sysctl) -> bool {
        let ours = |links: &BTreeMap<IfName, Link>| links.keys().any(|name| name.as_str() == sysctl.scope);
        ours(&self.to.links) || ours(&self.now.links)
    }

    fn remove(&mut self) {
        let to = self.to;
        // A bridge that takes an interface's place is made for it, switches and all.
        let in_place = |link: &Link| in_place_of(&link.alias);
        let stays = |name: &IfName, link: &Link| {
            to.links.get(name).is_some_and(|t| is_same_device(&link.kind, &t.kind) && in_place(link) == in_place(t))
        };
        let doomed: BTreeMap<IfName, Link> =
            self.now.links.iter().filter(|(n, l)| !stays(n, l)).map(|(n, l)| (n.clone(), l.clone())).collect();
        let doomed_places: BTreeSet<Place> = doomed
            .iter()
            .flat_map(|(name, link)| {
                let inner = match &link.kind {
                    LinkKind::Veth(peer) => Some(Place::guest(&peer.namespace, &peer.name)),
                    _ => None,
                };
                [Some(Place::host(name)), inner]
            })
            .flatten()
            .collect();
        let gone_namespace = |place: &Place| place.namespace.as_ref().is_some_and(|n| !to.namespaces.contains(n));
        let goes = |place: &Place| doomed_places.contains(place) || gone_namespace(place);

        // Before the devices that traffic is led through: nothing is led to where nothing is.
        for link in self.now.shapers.keys().cloned().collect::<Vec<_>>() {
            if doomed.contains_key(&link) || !to.shapers.contains_key(&link) {
                self.set_shaper(&link, None);
            } else if let Some(now) = self.now.shapers.get(&link)
                && now.through.as_ref().is_some_and(|through| doomed.contains_key(through))
            {
                let alone = Shaper { through: None, ..now.clone() };
                self.set_shaper(&link, Some(&alone));
            }
        }
        for proxy in self.now.proxies.clone() {
            if doomed.contains_key(&proxy.link) || !to.proxies.contains(&proxy) {
                self.push(Step::DeleteProxy { proxy });
            }
        }
        // What goes through a router goes before the way to the router does, and comes after it.
        let mut routes: Vec<Route> = self.now.routes.iter().cloned().collect();
        routes.sort_by_key(|route| route.via.is_none());
        for route in routes {
            if goes(&route.at) || !to.routes.contains(&route) {
                self.push(Step::DeleteRoute { route });
            }
        }
        for address in self.now.addresses.clone() {
            if goes(&address.at) || !to.addresses.contains(&address) {
                self.push(Step::DeleteAddress { address });
            }
        }
        for (name, port) in self.now.ports.clone() {
            if to.ports.get(&name) != Some(&port) || doomed.contains_key(&port.master) {
                self.push(Step::UnplugPort { name, port });
            }
        }
        self.holds(false);
        let on_doomed = |s: &Sysctl| doomed.keys().any(|name| name.as_str() == s.scope);
        let leftover: Vec<Sysctl> =
            self.now.sysctls.keys().filter(|s| on_doomed(s) || !to.sysctls.contains_key(s)).cloned().collect();
        for sysctl in leftover {
            self.set_sysctl(&sysctl, None);
        }
        // Ports first; what survives its bridge is unplugged by a step of its own, so that undoing plugs it in again.
        let (bridges, ports): (Vec<_>, Vec<_>) =
            doomed.into_iter().partition(|(_, link)| link.kind == LinkKind::Bridge);
        for (name, link) in ports {
            self.push(Step::DeleteLink { name, link });
        }
        for (name, link) in bridges {
            let orphans: Vec<(IfName, Link)> = self
                .now
                .links
                .iter()
                .filter(|(_, port)| port.master.as_ref() == Some(&name))
                .map(|(n, port)| (n.clone(), port.clone()))
                .collect();
            for (port, from) in orphans {
                let unplugged = Link { master: None, hairpin: false, isolated: false, ..from.clone() };
                self.push(Step::ChangeLink { name: port, from, to: unplugged });
            }
            self.push(Step::DeleteLink { name, link });
        }
        for name in self.now.namespaces.difference(&to.namespaces).cloned().collect::<Vec<_>>() {
            self.push(Step::DeleteNamespace { name });
        }
    }

    fn create(&mut self) {
        let to = self.to;
        for name in to.namespaces.difference(&self.now.namespaces).cloned().collect::<Vec<_>>() {
            self.push(Step::CreateNamespace { name });
        }
        let is_bridge = |link: &Link| link.kind == LinkKind::Bridge;
        // A bridge is whole, with its switches and addresses, before anything is plugged into it.
        for (name, link) in to.links.iter().filter(|(_, link)| is_bridge(link)) {
            self.link(name, link);
            self.sysctls_of(name);
            // What an interface bore comes first where a bridge takes its place: further addresses are second to it.
            if !to.ports.values().any(|port| port.carries && port.master == *name) {
                self.addresses(&Place::host(name));
            }
        }
        for (name, port) in &to.ports {
            if self.now.ports.get(name) != Some(port) {
                self.push(Step::PlugPort { name: name.clone(), port: port.clone() });
            }
        }
        for (name, link) in to.links.iter().filter(|(_, link)| !is_bridge(link)) {
            self.link(name, link);
            self.sysctls_of(name);
        }
        // The devices' own come first: what is led through them finds its queue there.
        let is_device = |name: &IfName| to.links.get(name).is_some_and(|link| link.kind == LinkKind::Ifb);
        for device in [true, false] {
            for (link, shaper) in to.shapers.iter().filter(|(link, _)| is_device(link) == device) {
                self.set_shaper(link, Some(shaper));
            }
        }
        for address in to.addresses.difference(&self.now.addresses).cloned().collect::<Vec<_>>() {
            self.push(Step::AddAddress { address });
        }
        let mut routes: Vec<Route> = to.routes.difference(&self.now.routes).cloned().collect();
        routes.sort_by_key(|route| route.via.is_some());
        for route in routes {
            self.push(Step::AddRoute { route });
        }
        for proxy in to.proxies.difference(&self.now.proxies).cloned().collect::<Vec<_>>() {
            self.push(Step::AddProxy { proxy });
        }
        self.holds(true);
        self.files();
        self.readers();
    }

    fn link(&mut self, name: &IfName, link: &Link) {
        match self.now.links.get(name).cloned() {
            None => self.push(Step::CreateLink { name: name.clone(), link: link.clone() }),
            Some(from) if from != *link => {
                self.push(Step::ChangeLink { name: name.clone(), from, to: link.clone() });
            }
            Some(_) => {}
        }
    }

    fn set_shaper(&mut self, link: &IfName, to: Option<&Shaper>) {
        let from = self.now.shapers.get(link).cloned();
        if from.as_ref() != to {
            self.push(Step::SetShaper { link: link.clone(), from, to: to.cloned() });
        }
    }

    fn sysctls_of(&mut self, name: &IfName) {
        let to = self.to;
        for (sysctl, value) in to.sysctls.iter().filter(|(s, _)| s.scope == name.as_str()) {
            self.set_sysctl(sysctl, Some(value));
        }
    }

    fn addresses(&mut self, place: &Place) {
        let to = self.to;
        for address in to.addresses.iter().filter(|a| &a.at == place) {
            if !self.now.addresses.contains(address) {
                self.push(Step::AddAddress { address: address.clone() });
            }
        }
    }
}

fn element_changes(from: &Table, to: &Table) -> Vec<TableChange> {
    let mut changes = Vec::new();
    for (set, target) in &to.sets {
        // Most are the same, which is told in one go.
        let Some(current) = from.sets.get(set).filter(|current| current.elements != target.elements) else { continue };
        let remove: BTreeSet<Element> = current.elements.difference(&target.elements).cloned().collect();
        let add: BTreeSet<Element> = target.elements.difference(&current.elements).cloned().collect();
        let (family, set, declared) = (to.family, set.clone(), target.declared());
        changes.push(TableChange::Elements { family, set, declared, remove, add });
    }
    changes
}

impl Step {
    /// The step that puts back what this one changed.
    #[must_use]
    pub fn undo(&self) -> Self {
        match self.clone() {
            Self::Rules { changes } => {
                Self::Rules { changes: changes.into_iter().rev().map(TableChange::undo).collect() }
            }
            Self::SetSysctl { sysctl, from, to } => Self::SetSysctl { sysctl, from: to, to: from },
            Self::CreateNamespace { name } => Self::DeleteNamespace { name },
            Self::DeleteNamespace { name } => Self::CreateNamespace { name },
            Self::CreateLink { name, link } => Self::DeleteLink { name, link },
            Self::DeleteLink { name, link } => Self::CreateLink { name, link },
            Self::ChangeLink { name, from, to } => Self::ChangeLink { name, from: to, to: from },
            Self::AddAddress { address } => Self::DeleteAddress { address },
            Self::DeleteAddress { address } => Self::AddAddress { address },
            Self::AddRoute { route } => Self::DeleteRoute { route },
            Self::DeleteRoute { route } => Self::AddRoute { route },
            Self::PlugPort { name, port } => Self::UnplugPort { name, port },
            Self::UnplugPort { name, port } => Self::PlugPort { name, port },
            Self::AddMend { mend } => Self::DeleteMend { mend },
            Self::DeleteMend { mend } => Self::AddMend { mend },
            Self::SetShaper { link, from, to } => Self::SetShaper { link, from: to, to: from },
            Self::AddProxy { proxy } => Self::DeleteProxy { proxy },
            Self::DeleteProxy { proxy } => Self::AddProxy { proxy },
            Self::SetFile { path, from, to } => Self::SetFile { path, from: to, to: from },
            Self::SetHold { from, to } => Self::SetHold { from: to, to: from },
        }
    }
}

impl Step {
    /// The sort of it, as docs/json.md lists them.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Rules { .. } => "rules",
            Self::SetSysctl { .. } => "set-sysctl",
            Self::CreateNamespace { .. } => "create-namespace",
            Self::DeleteNamespace { .. } => "delete-namespace",
            Self::CreateLink { .. } => "create-link",
            Self::DeleteLink { .. } => "delete-link",
            Self::ChangeLink { .. } => "change-link",
            Self::AddAddress { .. } => "add-address",
            Self::DeleteAddress { .. } => "delete-address",
            Self::AddRoute { .. } => "add-route",
            Self::DeleteRoute { .. } => "delete-route",
            Self::PlugPort { .. } => "plug-port",
            Self::UnplugPort { .. } => "unplug-port",
            Self::AddMend { .. } => "add-mend",
            Self::DeleteMend { .. } => "delete-mend",
            Self::SetShaper { .. } => "set-shaper",
            Self::AddProxy { .. } => "add-proxy",
            Self::DeleteProxy { .. } => "delete-proxy",
            Self::SetFile { .. } => "set-file",
            Self::SetHold { .. } => "set-hold",
        }
    }
}

impl TableChange {
    fn undo(self) -> Self {
        match self {
            Self::Replace { family, from, to } => Self::Replace { family, from: to, to: from },
            Self::Elements { family, set, declared, remove, add } => {
                Self::Elements { family, set, declared, remove: add, add: remove }
            }
        }
    }
}
