//! Others' firewalls: what of theirs stops what the file declares. The kernel is asked: this network is built in a lab
//! with others' tables as they are here, and what is declared is sent through it and traced.
//!
//! The lab takes the process into namespaces of its own, so it is a process of its own: warren again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use kernel::apply::Engine;
use kernel::error::KernelError;
use kernel::nft::{ForeignChain, Nft};
use kernel::rtnl::Rtnl;
use kernel::standing::Standing;
use model::address::IfName;
use model::facts::HostFacts;
use model::foreign::saved::Saved;
use model::foreign::{Layer, Mend, RuleRef, Stop};
use model::network::Network;
use model::state::Dump;
use serde::{Deserialize, Serialize};

use crate::context::{Exit, Failure, Outcome};
use crate::output;

use legacy::Legacy;

mod judge;
mod legacy;
mod sense;

/// Whether rules of ours in others' tables are looked past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// What others' rules do alone.
    LeftOut,
    /// What they do as it is.
    Kept,
}

/// What the lab's process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    network: Network,
    facts: HostFacts,
    tables: Vec<Table>,
    /// iptables-legacy's.
    legacy: Vec<Saved>,
    /// /proc/sys/net/bridge/bridge-nf-call-*, where the kernel has them.
    br_netfilter: Vec<(String, String)>,
    /// The uplinks whose bridges are to have likes of rules there, with their numbers here; none where these are among the
    /// tables.
    uplinks: BTreeMap<IfName, u32>,
}

/// A table of another's.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    family: Layer,
    name: String,
    dump: Dump,
    rules: Vec<(String, Vec<RuleRef>)>,
    chains: BTreeSet<String>,
}

/// What it answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// What is stopped, by what.
    pub stops: Vec<Stop>,
    /// Where the lab is not like this host, or could not find out.
    pub notes: Vec<String>,
    /// Whether nothing could be found out at all.
    #[serde(default)]
    pub failed: bool,
    /// Whether it is iptables-legacy's part alone that could not be found out.
    #[serde(default)]
    pub legacy_failed: bool,
}

impl Findings {
    /// For people: what stops what, and what to do.
    pub fn tell(&self, with_notes: bool) {
        for stop in &self.stops {
            output::note(&format!("{}warning:{} {stop}", output::YELLOW, output::RESET));
            output::note(&match &stop.mend {
                Some(mend) => {
                    format!("  mend it with `{}`, or let warren do it: `fix-foreign = true` in [host]", mend.command())
                }
                None => "  no rule was found that mends it".to_owned(),
            });
        }
        if with_notes {
            self.notes.iter().for_each(|note| output::note(&format!("note: {note}")));
        }
    }

    /// For programs, as docs/json.md describes it.
    pub fn document(&self) -> serde_json::Value {
        let stop = |stop: &Stop| {
            let culprit = &stop.culprit;
            serde_json::json!({
                "words": stop.to_string(),
                "legacy": culprit.legacy,
                "family": culprit.family.word(),
                "table": culprit.table,
                "chain": culprit.chain,
                "rule": culprit.rule.as_ref().map(|rule| serde_json::json!({ "handle": rule.handle, "text": rule.text })),
                "from": stop.way.from.as_ref().map(ToString::to_string),
                "to": stop.way.to.as_ref().map(ToString::to_string),
                "stops": stop.flows,
                "answers": stop.answers,
                "mend": stop.mend.as_ref().map(Mend::command),
            })
        };
        self.stops.iter().map(stop).collect::<Vec<_>>().into()
    }
}

/// What of others' firewalls, as they are here and now, stops what `network` declares. Nothing is asked where no chain
/// of another's drops anything.
pub fn look(network: &Network, marked: Marked) -> Result<Findings, Failure> {
    let legacy = Legacy::gather(network, marked)?;
    let mut findings = find_out(network, marked, &legacy)?;
    findings.legacy_failed |= legacy.note.is_some();
    findings.notes.extend(legacy.note);
    Ok(findings)
}

fn find_out(network: &Network, marked: Marked, legacy: &Legacy) -> Result<Findings, Failure> {
    let unreadable = |e| Failure::new(Exit::Failed, format!("cannot read the firewall: {e}"));
    let mut nft = Nft::open().map_err(unreadable)?;
    let drops = |chain: &ForeignChain| chain.drops || chain.policy_drop;
    if !legacy.drops() && !nft.foreign_hooks().map_err(unreadable)?.iter().any(drops) {
        return Ok(Findings::default());
    }
    let tables = match marked {
        Marked::LeftOut => nft.foreign_tables(),
        Marked::Kept => nft.foreign_tables_with_ours(),
    };
    let tables = tables.map_err(unreadable)?.into_iter().map(|table| Table {
        family: table.family,
        name: table.raw.name.clone(),
        chains: table.chains(),
        dump: table.raw.to_dump(),
        rules: table.rules.into_iter().collect(),
    });
    let job = Job {
        network: network.clone(),
        facts: kernel::facts::gather()?,
        tables: tables.collect(),
        legacy: legacy.tables.clone(),
        br_netfilter: kernel::sysctl::br_netfilter(),
        uplinks: if marked == Marked::LeftOut { uplinks(network)? } else { BTreeMap::new() },
    };
    Ok(ask(&job).unwrap_or_else(|why| Findings {
        notes: vec![format!("what others' firewalls stop could not be found out: {why}")],
        failed: true,
        ..Findings::default()
    }))
}

fn uplinks(network: &Network) -> Result<BTreeMap<IfName, u32>, Failure> {
    let ports = network.lans.iter().filter_map(|lan| lan.outer.as_ref().filter(|outer| outer.twins)?.carries.clone());
    let ports: Vec<IfName> = ports.collect();
    if ports.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut links = Rtnl::open()?;
    Ok(ports.into_iter().map(|port| Ok((port.clone(), links.index_of(&port)?))).collect::<Result<_, KernelError>>()?)
}

/// Whether no chain of another's drops anything, so that [`look`] has nothing to ask.
pub fn is_quiet(network: &Network, standing: Option<&mut Standing>) -> Result<bool, Failure> {
    // Nobody tells of iptables-legacy's tables.
    let legacy = Legacy::gather(network, Marked::LeftOut)?;
    if legacy.note.is_some() || legacy.drops() {
        return Ok(false);
    }
    if standing.as_ref().is_some_and(|standing| standing.is_quiet()) {
        return Ok(true);
    }
    let hooks = Nft::open().and_then(|mut nft| nft.foreign_hooks());
    let hooks = hooks.map_err(|e| Failure::new(Exit::Failed, format!("cannot read the firewall: {e}")))?;
    let quiet = !hooks.iter().any(|chain| chain.drops || chain.policy_drop);
    if let Some(standing) = standing.filter(|_| quiet) {
        standing.note_quiet();
    }
    Ok(quiet)
}

/// The same, and what of it `network` is to mend goes into it.
pub fn look_and_mend(network: &mut Network, engine: &Engine) -> Result<Findings, Failure> {
    let mut findings = look(network, Marked::LeftOut)?;
    if !network.fix_foreign {
        return Ok(findings);
    }
    let mut mends: Vec<Mend> = Vec::new();
    // A zone that our bridge is in by now stops nothing any more, and cannot be looked past.
    let known = engine.record()?.and_then(|record| record.network).map(|network| network.mends).unwrap_or_default();
    mends.extend(known.into_iter().filter(|mend| match mend {
        Mend::Zone { .. } => true,
        Mend::Legacy { .. } => findings.failed || findings.legacy_failed,
        Mend::Accept { .. } => findings.failed,
        // They are made of what the kernel holds, each time anew.
        Mend::Twin { .. } | Mend::Except { .. } | Mend::Element { .. } | Mend::LegacyTwin { .. } => false,
    }));
    mends.extend(findings.stops.iter().filter_map(|stop| stop.mend.clone()));
    mends.sort();
    mends.dedup();
    // What is not there any more needs no mend, and an interface that is not ours is not ours to move.
    mends.retain(|mend| match mend {
        Mend::Zone { interface, .. } => network.lans.iter().any(|lan| lan.bridge == *interface),
        _ => true,
    });
    findings.stops.retain(|stop| !stop.mend.as_ref().is_some_and(|mend| mends.contains(mend)));
    network.mends = mends;
    Ok(findings)
}

/// Has the lab's process find out.
fn ask(job: &Job) -> Result<Findings, String> {
    let mut child = Command::new("/proc/self/exe")
        .arg("judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the lab's process: {e}"))?;
    let told = serde_json::to_vec(job).map_err(|e| e.to_string())?;
    // It reads everything before it writes anything. Where it ended early, its own words say why.
    let _ = child.stdin.take().map(|mut to| to.write_all(&told));
    let output = child.wait_with_output().map_err(|e| format!("cannot wait for the lab's process: {e}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(words.trim().trim_start_matches("error: ").to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the lab's process answered what is no answer: {e}"))
}

/// The lab's process: reads its job from stdin, answers on stdout.
pub fn judge() -> Outcome {
    let mut told = Vec::new();
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot read what to find out: {e}"));
    std::io::stdin().read_to_end(&mut told).map_err(|e| failed(&e))?;
    let job: Job = serde_json::from_slice(&told).map_err(|e| failed(&e))?;
    let findings = judge::find(job)?;
    output::json(&serde_json::to_value(&findings).map_err(|e| failed(&e))?);
    Ok(Exit::Done)
}
