//! A step applied to a state: the fake kernel of the planner and the property tests. What hangs on an object goes
//! with it here as it does in the kernel.

use crate::address::IfName;
use crate::plan::{Plan, Step, TableChange};
use crate::state::{Hold, IpFamilyWord, LinkKind, Place, State, Sysctl, TableState, TakenOver};

/// Does `step` to `state`.
pub fn apply(state: &mut State, step: &Step) {
    match step {
        Step::Rules { changes } => changes.iter().for_each(|change| change_table(state, change)),
        Step::SetSysctl { sysctl, to, .. } => set_sysctl(state, sysctl, to.as_deref()),
        Step::CreateNamespace { name } => {
            state.namespaces.insert(name.clone());
        }
        Step::DeleteNamespace { name } => {
            state.namespaces.remove(name);
            let inside = |link: &LinkKind| matches!(link, LinkKind::Veth(peer) if &peer.namespace == name);
            let cables: Vec<IfName> =
                state.links.iter().filter(|(_, link)| inside(&link.kind)).map(|(n, _)| n.clone()).collect();
            for cable in cables {
                delete_link(state, &cable);
            }
        }
        Step::CreateLink { name, link } => {
            state.links.insert(name.clone(), link.clone());
        }
        Step::DeleteLink { name, .. } => delete_link(state, name),
        Step::ChangeLink { name, to, .. } => {
            state.links.insert(name.clone(), to.clone());
        }
        Step::AddAddress { address } => {
            state.addresses.insert(address.clone());
        }
        Step::DeleteAddress { address } => {
            state.addresses.remove(address);
        }
        Step::AddRoute { route } => {
            state.routes.insert(route.clone());
        }
        Step::DeleteRoute { route } => {
            state.routes.remove(route);
        }
        Step::PlugPort { name, port } => {
            state.ports.insert(name.clone(), port.clone());
        }
        Step::UnplugPort { name, .. } => {
            state.ports.remove(name);
        }
        Step::AddMend { mend } => {
            state.mends.insert(mend.clone());
        }
        Step::DeleteMend { mend } => {
            state.mends.remove(mend);
        }
        Step::SetShaper { link, to, .. } => {
            match to {
                Some(shaper) => state.shapers.insert(link.clone(), shaper.clone()),
                None => state.shapers.remove(link),
            };
        }
        Step::AddProxy { proxy } => {
            state.proxies.insert(proxy.clone());
        }
        Step::DeleteProxy { proxy } => {
            state.proxies.remove(proxy);
        }
        Step::SetFile { path, to, .. } => {
            match to {
                Some(text) => state.files.insert(path.clone(), text.clone()),
                None => state.files.remove(path),
            };
        }
        Step::SetHold { from, to } => {
            let key = |hold: &Hold| TakenOver::key(&hold.holder, &hold.port);
            if let Some(from) = from {
                state.holds.remove(&key(from));
            }
            if let Some(to) = to {
                state.holds.insert(key(to), to.clone());
            }
        }
    }
}

/// Does a whole plan.
#[must_use]
pub fn simulate(mut state: State, plan: &Plan) -> State {
    for step in &plan.steps {
        apply(&mut state, step);
    }
    state
}

fn delete_link(state: &mut State, name: &IfName) {
    let Some(link) = state.links.remove(name) else { return };
    let mut places = vec![Place::host(name)];
    if let LinkKind::Veth(peer) = &link.kind {
        places.push(Place::guest(&peer.namespace, &peer.name));
    }
    state.addresses.retain(|address| !places.contains(&address.at));
    state.routes.retain(|route| !places.contains(&route.at));
    state.shapers.remove(name);
    state.proxies.retain(|proxy| proxy.link != *name);
    state.sysctls.retain(|sysctl, _| sysctl.scope != name.as_str());
    if link.kind == LinkKind::Bridge {
        for port in state.links.values_mut().filter(|port| port.master.as_ref() == Some(name)) {
            port.master = None;
            port.hairpin = false;
            port.isolated = false;
        }
    }
}

fn set_sysctl(state: &mut State, sysctl: &Sysctl, to: Option<&str>) {
    let Some(value) = to else {
        state.sysctls.remove(sysctl);
        return;
    };
    // addrconf_forward_change (net/ipv6/addrconf.c): `all` turns every interface, and the default, along.
    if sysctl.family == IpFamilyWord::Ipv6 && sysctl.scope == "all" && sysctl.key == "forwarding" {
        for (other, current) in &mut state.sysctls {
            if other.family == IpFamilyWord::Ipv6 && other.key == "forwarding" {
                value.clone_into(current);
            }
        }
    }
    state.sysctls.insert(sysctl.clone(), value.to_owned());
}

fn change_table(state: &mut State, change: &TableChange) {
    match change {
        TableChange::Replace { family, to, .. } => {
            match to {
                Some(table) => state.tables.insert(*family, table.clone()),
                None => state.tables.remove(family),
            };
        }
        TableChange::Elements { family, set, remove, add, .. } => {
            let Some(TableState::Intact(table)) = state.tables.get_mut(family) else { return };
            let Some(set) = table.sets.get_mut(set) else { return };
            set.elements.retain(|element| !remove.contains(element));
            set.elements.extend(add.iter().cloned());
        }
    }
}
