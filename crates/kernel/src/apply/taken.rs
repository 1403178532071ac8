//! What is taken over of an uplink's manager: remembered before the first touch, and left where somebody else has written
//! it since.

use std::collections::BTreeMap;

use model::facts::HostFacts;
use model::foreign::{Mend, naming};
use model::manager::Holder;
use model::network::Network;
use model::state::{
    Baseline, Ids, IpFamilyWord, Side, State, TakenFile, TakenOver, desired, leave_edited, without_rules,
};

use super::{ApplyError, Engine, PATIENCE, Prior, Report, Watch, global_forwarding, ids_of};
use crate::holders::networkd;
use crate::observe::{Conflict, switches};
use crate::rtnl::Rtnl;
use crate::takeover::{adopt, look_through};
use crate::{carry, files, mends, unmanaged};

impl Engine {
    /// What this host is, where that was not rewritten by ourselves.
    pub fn facts(&self) -> Result<HostFacts, ApplyError> {
        let taken = self.store.taken()?;
        adopt(&taken)?;
        let mut facts = crate::facts::gather()?;
        look_through(&mut facts, &taken)?;
        Ok(facts)
    }

    /// `network` without the interfaces that others' rules name, where they are not plugged in yet; and what to tell of
    /// them.
    pub(super) fn without_lost_ports(&self, network: &Network) -> Result<(Network, Vec<String>), ApplyError> {
        let goal = goal_of(network, &Baseline::default())?;
        let mut without = network.clone();
        let mut notes = Vec::new();
        if !goal.ports.values().any(|port| port.carries) {
            return Ok((without, notes));
        }
        for Conflict { object, detail, port } in self.observe(&goal)?.conflicts {
            let Some(port) = port else { continue };
            without.leave_out(&port);
            notes.push(format!("{port} is left where it is, and its LAN without it: {object}: {detail}"));
        }
        Ok((without, notes))
    }

    /// Whether an interface's manager is taken over, by this boot or an earlier one.
    pub fn has_taken_over(&self) -> Result<bool, ApplyError> {
        Ok(!self.store.taken()?.is_empty())
    }

    /// `down` where no network is up, but something of an uplink's manager was taken over by an earlier boot.
    pub fn put_back_taken(&self, watch: Watch) -> Result<Option<Report>, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        // Somebody has brought it up in this boot, and may yet confirm it.
        let taken = self.store.taken()?;
        if self.store.record()?.is_some() || taken.is_empty() {
            return Ok(None);
        }
        let report = self.take_away(watch)?;
        // Nobody talks by it yet, and what waits for the network to be online waits for it to be whole.
        let of_networkd = |taken: &TakenOver| taken.holders.iter().any(|holder| matches!(holder, Holder::Networkd(_)));
        for (port, _) in taken.iter().filter(|(_, taken)| of_networkd(taken)) {
            networkd::begin_anew(port)?;
        }
        Ok(Some(report))
    }

    /// `down` leaves what has found another user meanwhile: a switch that is no longer what we made it, and
    /// forwarding where somebody switched it on for the whole host after us.
    pub(super) fn keep_what_others_use(
        &self,
        baseline: &Baseline,
        now: &State,
        goal: &mut State,
    ) -> Result<Vec<String>, ApplyError> {
        let ours = match self.store.record()?.and_then(|r| r.network) {
            Some(network) => without_rules(&network, baseline, &Ids::default()).sysctls,
            None => baseline.sysctls.clone(),
        };
        let globally = switches([&global_forwarding()])?.into_values().next().as_deref() == Some("1");
        let mut kept = Vec::new();
        goal.sysctls.retain(|sysctl, prior| {
            let Some(value) = now.sysctls.get(sysctl) else {
                // Its interface is gone.
                return false;
            };
            if value == prior {
                return true;
            }
            let changed_since = ours.get(sysctl).is_some_and(|made| made != value);
            let forwarding = sysctl.family == IpFamilyWord::Ipv4 && sysctl.key == "forwarding";
            let taken_over = forwarding && globally && !baseline.global_forwarding;
            if changed_since || taken_over {
                let who =
                    if taken_over { "forwarding was switched on for the whole host" } else { "somebody changed it" };
                kept.push(format!("{sysctl} stays {value}: {who} meanwhile"));
                value.clone_into(prior);
            }
            true
        });
        Ok(kept)
    }

    /// systemd-networkd leaves alone what is there and what comes. Says whether it has read its files again.
    pub(super) fn quieten(
        &self,
        network: &Network,
        baseline: &Baseline,
        report: &mut Report,
    ) -> Result<bool, ApplyError> {
        let before = self.store.record()?.and_then(|record| record.network);
        let networks: Vec<&Network> = [network].into_iter().chain(&before).collect();
        Ok(unmanaged::tell(&networks, &baseline.taken).unwrap_or_else(|e| {
            report.kept.push(format!("systemd-networkd is not told to leave links of ours alone: {e}"));
            false
        }))
    }

    /// The same of what was there before: it is told already, but for what an earlier boot took over.
    pub(super) fn stay_quiet(&self, prior: &Prior) {
        let network = prior.record.as_ref().and_then(|record| record.network.as_ref());
        let taken = prior.baseline.as_ref().map(|baseline| baseline.taken.clone()).unwrap_or_default();
        // It is no failure of what is put back.
        let _ = unmanaged::write(network.as_slice(), &taken);
    }

    /// `down` puts no file back that somebody else has written since, and keeps what it said before.
    pub(super) fn keep_what_others_wrote(
        &self,
        baseline: &Baseline,
        now: &State,
        goal: &mut State,
    ) -> Result<Vec<String>, ApplyError> {
        let left = leave_edited(goal, now, baseline.files());
        let files: BTreeMap<&String, &TakenFile> = baseline.files().collect();
        let mut told = Vec::new();
        for path in left {
            let before = files.get(&path).and_then(|file| file.before.as_ref());
            let where_to = before.map(|text| self.store.keep_text(&path, text)).transpose()?;
            let kept = where_to.map(|kept| format!("; what it said before warren stands in {}", kept.display()));
            told.push(format!("{path} stays: somebody has written it meanwhile{}", kept.unwrap_or_default()));
        }
        Ok(told)
    }
}

/// The state that carries `network` here.
pub(super) fn goal_of(network: &Network, baseline: &Baseline) -> Result<State, crate::error::KernelError> {
    let mut goal = desired(network, baseline, &ids_of(network)?);
    goal.mends.extend(twins(network)?);
    Ok(goal)
}

/// The likes, for the bridges in their place, of others' rules that name uplinks which are taken over.
fn twins(network: &Network) -> crate::error::Result<Vec<Mend>> {
    let outers = network.lans.iter().filter_map(|lan| Some((&lan.bridge, lan.outer.as_ref()?)));
    let taken: Vec<_> = outers.filter(|(_, o)| o.twins).filter_map(|(b, o)| Some((b, o.carries.as_ref()?))).collect();
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let rules = mends::conditions()?;
    let mut twins = Vec::new();
    for (bridge, port) in taken {
        let index = Rtnl::open()?.index_of(port)?;
        twins.extend(naming::twins(&rules, port, index, bridge));
    }
    Ok(twins)
}

/// What is to be looked at, because it was taken over, whatever the goal says of it.
pub(super) fn look_at(wanted: &mut State, baseline: &Baseline) {
    for (path, _) in baseline.files() {
        wanted.files.entry(path.clone()).or_default();
    }
    for (port, taken) in &baseline.taken {
        for (key, hold) in taken.holds(port, Side::Port) {
            wanted.holds.entry(key).or_insert(hold);
        }
    }
}

/// Leaves what somebody else has written, and tells of it.
pub(super) fn leave(goal: &mut State, now: &State, baseline: &Baseline) -> Vec<String> {
    let left = leave_edited(goal, now, baseline.files());
    left.into_iter().map(|path| format!("{path} stays: somebody has written it since warren did")).collect()
}

/// Adds to `baseline` what `network` takes over for the first time, as it is now.
pub(super) fn remember(baseline: &mut Baseline, network: &Network) -> Result<(), ApplyError> {
    for lan in &network.lans {
        let Some(outer) = &lan.outer else { continue };
        let (Some(takeover), Some(port)) = (&outer.takeover, &outer.carries) else { continue };
        if !baseline.taken.contains_key(port) {
            let fresh = TakenOver {
                by: takeover.by,
                bridge: lan.bridge.clone(),
                was: carry::as_it_is(port)?,
                files: BTreeMap::new(),
                holders: takeover.holders.clone(),
            };
            baseline.taken.insert(port.clone(), fresh);
        }
        let Some(taken) = baseline.taken.get_mut(port) else { continue };
        if taken.bridge != lan.bridge {
            return Err(ApplyError::Conflicts(vec![Conflict::new(
                format!("{port}, which {} takes the place of", taken.bridge),
                format!("its configuration was taken over for that one; `warren down` first, then {}", lan.bridge),
            )]));
        }
        for (path, rewrite) in &takeover.files {
            let now = files::read(path)?;
            let file = taken.files.entry(path.clone()).or_default();
            if !file.knows(now.as_ref()) || file.wrote.is_empty() {
                if now != rewrite.before {
                    return Err(ApplyError::Conflicts(vec![Conflict::new(
                        path.clone(),
                        "somebody has written it in this moment; try again",
                    )]));
                }
                // Whatever it said before, this is what it says now, and what follows was made from.
                *file = TakenFile { before: now, wrote: Vec::new() };
            }
            file.wrote.retain(|text| *text != rewrite.after);
            file.wrote.push(rewrite.after.clone());
        }
    }
    Ok(())
}
