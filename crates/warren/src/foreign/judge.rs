//! In the lab: packets of everything that is declared, the kernel's word on who drops them, and mends tried until
//! nobody does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kernel::apply::Engine;
use kernel::nft::{Dropped, Nft, RawTable, Tracer, Transaction, handles_of_likes};
use kernel::rtnl::Rtnl;
use kernel::{legacy, mends};
use lab::{Lab, LabPlan, Prober};
use model::address::IfName;
use model::foreign::saved::Saved;
use model::foreign::{Culprit, Mend, RuleRef, Scene, Stop, Way, mends as mends_for, naming};
use model::network::Public;
use model::probe::{Expect, Probe, derive};
use model::ruleset::TABLE;

use super::{Findings, Job, Table, legacy as told, sense};
use crate::commands::{REPLICA_RUN, REPLICA_STATE};
use crate::context::{Exit, Failure};

/// How often packets are sent: once for each thing in a row that stops a flow or its answers, and once to see that
/// nothing does.
const ROUNDS: usize = 6;
/// So many probes are sent: those of the first guests and forwards, which say it all.
const PROBES: usize = 400;

/// What of others' stops what is declared.
pub(super) fn find(job: Job) -> Result<Findings, Failure> {
    let Job { mut network, facts, tables, legacy, br_netfilter, uplinks } = job;
    network.mends.clear();
    if network.public == Public::Dynamic
        && let Some(uplink) = facts.interface(&network.uplink.name).filter(|u| !u.addresses.is_empty())
    {
        network.public = Public::Listed(uplink.addresses.iter().map(ipnet::IpNet::addr).collect());
    }
    lab::enter()?;
    let lab = Lab::build(LabPlan::of(&network)?)?;
    Lab::stand_in(&mut network);
    let mut notes = Vec::new();
    let handles = inside(&lab, || {
        let engine = Engine::new(Path::new(REPLICA_STATE), Path::new(REPLICA_RUN))?;
        engine.up(&network, Path::new("replica"), false, &mut |_, _| Ok(()))?;
        kernel::sysctl::set_br_netfilter(&br_netfilter)?;
        copy(&tables, &mut notes)
    })?;
    let (legacy, troubles) = inside(&lab, || Ok(copy_legacy(legacy, &network)))?;
    let legacy_failed = !troubles.is_empty();
    notes.extend(troubles);
    let likes = inside(&lab, || add_likes(&network, &uplinks, &mut notes))?;
    let mut probes: Vec<Probe> = derive(&network, &lab.view());
    probes.retain(|probe| matches!(probe.expect, Expect::Arrives { .. }));
    probes.truncate(PROBES);
    let ours = network.lans.iter().map(|lan| lan.bridge.clone()).collect();
    let mut search = Search {
        tables: &tables,
        legacy: &legacy,
        copies: Vec::new(),
        handles,
        likes,
        ours,
        names: names(&lab)?,
        stops: Vec::new(),
        tried: BTreeMap::new(),
    };
    let mut prober = Prober::open(&lab.vantages(&network)?)?;
    for _ in 0..ROUNDS {
        let trace = inside(&lab, || Trace::start(!legacy.is_empty()))?;
        prober.run(&probes)?;
        let dropped = trace.finish(&mut search.copies)?;
        let changes = search.learn(&dropped, &probes, &network);
        if changes.is_empty() {
            break;
        }
        inside(&lab, || changes.iter().try_for_each(Change::make))?;
    }
    Ok(Findings { stops: search.stops, notes, failed: false, legacy_failed })
}

fn inside<T: Send>(lab: &Lab, f: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    lab.server().run(f).map_err(|e| Failure::new(Exit::Failed, format!("cannot enter the replica: {e}")))?
}

/// The rules' handles here, by table and chain, in the order in which they were copied.
type Handles = BTreeMap<(model::foreign::Layer, String), BTreeMap<String, Vec<u64>>>;

/// Makes others' tables beside ours; says which could not be copied.
fn copy(tables: &[Table], notes: &mut Vec<String>) -> Result<Handles, Failure> {
    let firewall = |e| Failure::new(Exit::Failed, format!("cannot write the replica's firewall: {e}"));
    let mut nft = Nft::open().map_err(firewall)?;
    let mut handles = Handles::new();
    for table in tables {
        let name = format!("the table {} {}", table.family.word(), table.name);
        let mut transaction = Transaction::new();
        match RawTable::from_dump(&table.dump) {
            Ok(raw) => transaction.replay(&raw),
            Err(e) => return Err(Failure::new(Exit::Failed, format!("cannot copy {name}: {e}"))),
        };
        if let Err(e) = nft.commit(&transaction) {
            notes.push(format!("{name} could not be copied into a lab, so what it stops is not known: {e}"));
        }
        let found = nft.handles(table.family, &table.name).map_err(firewall)?;
        handles.insert((table.family, table.name.clone()), found);
    }
    Ok(handles)
}

/// The handle of each like of a rule, in the replica, with that of the rule.
type Likes = BTreeMap<u64, u64>;

/// What `up` puts beside others' rules for the bridge that takes an uplink's place; says which could not be.
fn add_likes(
    network: &model::network::Network,
    uplinks: &BTreeMap<IfName, u32>,
    notes: &mut Vec<String>,
) -> Result<Likes, Failure> {
    for lan in &network.lans {
        let Some(outer) = lan.outer.as_ref().filter(|outer| outer.twins) else { continue };
        let Some((port, index)) = outer.carries.as_ref().and_then(|port| uplinks.get_key_value(port)) else { continue };
        // Rules that name an interface by its number have the host's.
        for like in naming::twins(&mends::conditions()?, port, *index, &lan.bridge) {
            if let Err(e) = mends::add(&like) {
                notes.push(format!("{like}: not in a lab, so what it lets pass or stops is not known: {e}"));
            }
        }
    }
    // Where theirs were copied with ours, the marks tell the host's handles.
    if uplinks.is_empty() { Ok(Likes::new()) } else { Ok(handles_of_likes()?) }
}

/// Makes iptables-legacy's tables; says which could not be made, or not be heard. Those that could.
fn copy_legacy(tables: Vec<Saved>, network: &model::network::Network) -> (Vec<Saved>, Vec<String>) {
    let heard = legacy::Tracer::start().map(drop);
    let (mut copied, mut notes) = (Vec::new(), Vec::new());
    for saved in tables {
        let done = heard.as_ref().map_err(ToString::to_string);
        match done.and_then(|()| legacy::restore(&saved).map_err(|e| e.to_string())) {
            Ok(()) => copied.push(saved),
            Err(why) => notes.push(told::unknown(network, &told::names(&saved), &why)),
        }
    }
    (copied, notes)
}

/// The kernel's word on who drops, of one round.
struct Trace {
    nft: Tracer,
    /// With iptables-legacy's tables as they are in that round.
    legacy: Option<(legacy::Tracer, Vec<Saved>)>,
}

impl Trace {
    fn start(with_legacy: bool) -> Result<Self, Failure> {
        let legacy = if with_legacy { Some((legacy::Tracer::start()?, legacy::read()?)) } else { None };
        Ok(Self { nft: Tracer::start()?, legacy })
    }

    /// What was dropped, and iptables-legacy's tables as they were then.
    fn finish(self, copies: &mut Vec<Saved>) -> Result<Vec<Dropped>, Failure> {
        let mut dropped = self.nft.finish()?;
        if let Some((tracer, tables)) = self.legacy {
            dropped.extend(tracer.finish(&tables)?);
            *copies = tables;
        }
        Ok(dropped)
    }
}

/// The server's interfaces by index.
fn names(lab: &Lab) -> Result<BTreeMap<u32, IfName>, Failure> {
    inside(lab, || {
        let links = Rtnl::open()?.links()?;
        Ok(links.into_iter().filter_map(|link| Some((link.index, IfName::new(link.name).ok()?))).collect())
    })
}

/// Something to be done to the replica before the next round.
enum Change {
    Make(Mend),
    Undo(Mend),
    /// firewalld does not run in a lab: what it would do is stood in for by its tables' absence.
    Clear(Table),
}

impl Change {
    fn make(&self) -> Result<(), Failure> {
        match self {
            Self::Make(mend) => Ok(mends::add(mend)?),
            Self::Undo(mend) => Ok(mends::delete(mend)?),
            Self::Clear(table) => {
                let firewall = |e| Failure::new(Exit::Failed, format!("cannot write the replica's firewall: {e}"));
                let raw = RawTable::from_dump(&table.dump).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
                let mut transaction = Transaction::new();
                transaction.clear(raw.family, &raw.name);
                Nft::open()
                    .map_err(firewall)?
                    .commit(&transaction)
                    .map_err(|e| Failure::new(Exit::Failed, format!("cannot write the replica's firewall: {e}")))
            }
        }
    }
}

struct Search<'a> {
    tables: &'a [Table],
    /// iptables-legacy's, as they are on the host.
    legacy: &'a [Saved],
    /// The same as they were in the lab in the last round.
    copies: Vec<Saved>,
    handles: Handles,
    likes: Likes,
    ours: BTreeSet<IfName>,
    names: BTreeMap<u32, IfName>,
    stops: Vec<Stop>,
    /// How many mends were tried for each.
    tried: BTreeMap<(Culprit, Way), usize>,
}

impl Search<'_> {
    /// Takes in what was dropped, and says what to try next; nothing where there is nothing more to try.
    fn learn(&mut self, dropped: &[Dropped], probes: &[Probe], network: &model::network::Network) -> Vec<Change> {
        let mut found: BTreeMap<(Culprit, Way), Seen> = BTreeMap::new();
        for drop in dropped.iter().filter(|drop| drop.table != TABLE) {
            for probe in probes {
                let Some(answer) = sense::belongs(drop, probe, network) else { continue };
                let Some(culprit) = self.culprit(drop) else { continue };
                let key = (culprit, self.way(drop));
                let seen = found.entry(key).or_insert_with(|| Seen {
                    drop: drop.clone(),
                    flows: BTreeSet::new(),
                    asked: false,
                });
                seen.flows.insert(probe.name.clone());
                seen.asked |= !answer;
            }
        }
        let mut changes = Vec::new();
        for ((culprit, way), seen) in found {
            changes.extend(self.next(culprit, way, seen));
        }
        changes
    }

    /// What to try next of one that stops something.
    fn next(&mut self, culprit: Culprit, way: Way, seen: Seen) -> Vec<Change> {
        let Some(candidates) = self.candidates(&seen.drop, &way) else { return Vec::new() };
        let tried = self.tried.entry((culprit.clone(), way.clone())).or_default();
        let failed = tried.checked_sub(1).and_then(|last| candidates.get(last)).cloned();
        let mend = candidates.get(*tried).cloned();
        *tried += 1;
        match self.stops.iter_mut().find(|stop| stop.culprit == culprit && stop.way == way) {
            Some(stop) => stop.mend.clone_from(&mend),
            None => self.stops.push(Stop { culprit, way, flows: seen.flows, answers: !seen.asked, mend: mend.clone() }),
        }
        let mut changes: Vec<Change> = failed.map(Change::Undo).into_iter().collect();
        match mend {
            Some(Mend::Zone { .. }) => changes.extend(self.table_of(&seen.drop).map(|t| Change::Clear(t.copied()))),
            Some(mend) => changes.push(Change::Make(mend)),
            None => {}
        }
        changes
    }

    /// What may mend it, what is tried first coming first; none where nothing is known of the table.
    fn candidates(&self, drop: &Dropped, way: &Way) -> Option<Vec<Mend>> {
        let (chains, legacy) = if drop.legacy {
            let saved = self.legacy.iter().find(|saved| saved.family == drop.family)?;
            (saved.table(&drop.table)?.chain_names(), true)
        } else {
            (self.table_of(drop)?.chains.clone(), false)
        };
        let (family, table, base) = (drop.family, drop.table.as_str(), drop.base.as_str());
        Some(mends_for(&Scene { legacy, family, table, base, chains: &chains, ours: &self.ours }, way))
    }

    fn table_of(&self, drop: &Dropped) -> Option<&Table> {
        self.tables.iter().find(|t| t.family == drop.family && t.name == drop.table)
    }

    fn culprit(&self, drop: &Dropped) -> Option<Culprit> {
        if drop.legacy {
            let of = |all: &[Saved]| all.iter().position(|saved| saved.family == drop.family);
            let (copy, original) = (&self.copies[of(&self.copies)?], &self.legacy[of(self.legacy)?]);
            return Some(original.own(copy, copy.culprit(&drop.table, &drop.chain, drop.rule)?));
        }
        let (family, table, chain) = (drop.family, drop.table.clone(), drop.chain.clone());
        // The lab's rules are numbered anew; their order is the original's.
        let rule = drop.rule.map(|handle| {
            let handle = self.likes.get(&handle).copied().unwrap_or(handle);
            let here = self.handles.get(&(family, table.clone())).and_then(|chains| chains.get(&chain));
            let nth = here.and_then(|handles| handles.iter().position(|h| *h == handle));
            let there = self.tables.iter().find(|t| t.family == family && t.name == table);
            let there = there.and_then(|t| t.rules.iter().find(|(name, _)| *name == chain));
            let unknown = || RuleRef { handle, text: "[not understood]".to_owned() };
            nth.zip(there).and_then(|(nth, (_, rules))| rules.get(nth).cloned()).unwrap_or_else(unknown)
        });
        Some(Culprit { legacy: false, family, table, chain, rule })
    }

    fn way(&self, drop: &Dropped) -> Way {
        let name = |index: Option<u32>| index.and_then(|index| self.names.get(&index)).cloned();
        Way { from: name(drop.iif), to: name(drop.oif) }
    }
}

struct Seen {
    drop: Dropped,
    flows: BTreeSet<String>,
    asked: bool,
}

impl Table {
    /// As much of it as clearing it takes.
    fn copied(&self) -> Self {
        Self {
            family: self.family,
            name: self.name.clone(),
            dump: self.dump.clone(),
            rules: Vec::new(),
            chains: BTreeSet::new(),
        }
    }
}
