//! `warren check`: the running network proved with real packets, from this host and from inside its guests; and what
//! only the outside can ask, on a replica of it in a lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;

use guests::{Host, State};
use kernel::apply::Engine;
use kernel::netns::Netns;
use kernel::nft::{ForeignChain, Nft, RawTable, Transaction};
use kernel::observe::switches;
use kernel::sysctl;
use lab::{Capture, Lab, LabPlan, Outcome, Prober, Vantage};
use model::facts::HostFacts;
use model::foreign::saved::Saved;
use model::network::{GuestKind, Network, Public, Reach};
use model::probe::{Probe, Spot, View, derive};
use model::state::Sysctl;

use super::rehearse::{RUN_DIR, STATE_DIR};
use crate::context::{Context, Exit, Failure, Outcome as Ended};
use crate::foreign::{self, Marked};
use crate::{output, proof};

/// What of the live host the replica takes over, gathered before the process leaves it.
struct Live {
    network: Network,
    facts: HostFacts,
    tables: Vec<RawTable>,
    /// iptables-legacy's.
    legacy: Vec<Saved>,
    switches: BTreeMap<Sysctl, String>,
}

/// Proves what is up; `from` limits it to what is asked from there.
pub fn run(context: &Context, from: Option<&str>) -> Ended {
    context.require_privilege("send packets from this host and its guests")?;
    let engine = context.engine()?;
    let Some(network) = engine.record()?.and_then(|record| record.network) else {
        return Err(Failure::new(
            Exit::Failed,
            "no network of warren's is up here\nbring it up with `warren up`, or try the file with `warren rehearse`",
        ));
    };
    let from = from.map(|word| spot_of(word, &network)).transpose()?;
    let survey = engine.survey(&network)?;
    let drift: Vec<String> = survey.plan.steps.iter().map(ToString::to_string).collect();
    let conflicts: Vec<String> = survey.conflicts.iter().map(|c| format!("{}: {}", c.object, c.detail)).collect();
    let facts = engine.facts()?;
    // Where they cannot be read, `look` says so.
    let legacy = kernel::legacy::read().unwrap_or_default();
    let mut suspects = suspects()?;
    suspects.extend(legacy.iter().flat_map(Saved::dropping));
    let stopped = foreign::look(&network, Marked::Kept)?;

    let wanted =
        |spot: &Spot| from.as_ref().is_none_or(|f| f == spot || (*f == Spot::World && *spot == Spot::Neighbour));
    let here = match &from {
        Some(Spot::World) => Vec::new(),
        _ => prove_here(&network, &facts, wanted)?,
    };
    let there = match &from {
        None | Some(Spot::World) => {
            let tables = tables()?;
            let switches = switches(survey.desired.sysctls.keys())?;
            prove_on_replica(Live { network, facts, tables, legacy, switches })?
        }
        Some(_) => Replica::default(),
    };

    let held = here.iter().chain(&there.outcomes).all(|o| o.held) && drift.is_empty() && conflicts.is_empty();
    let held = held && stopped.stops.is_empty();
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": held,
            "drift": drift,
            "conflicts": conflicts,
            "probes": proof::json(&here),
            "replica": { "probes": proof::json(&there.outcomes), "notes": there.notes },
            "foreign_chains": suspects,
            "foreign": stopped.document(),
        }));
    } else {
        tell(context, &here, &there);
        for line in drift.iter().chain(&conflicts) {
            output::line(&format!("{}not as it should be:{} {line}", output::YELLOW, output::RESET));
        }
        stopped.tell(!context.quiet);
        if stopped.stops.is_empty() && here.iter().chain(&there.outcomes).any(|o| !o.held) {
            for suspect in &suspects {
                output::line(&format!("{}another's chain drops here too:{} {suspect}", output::YELLOW, output::RESET));
            }
        }
    }
    Ok(if held { Exit::Done } else { Exit::Failed })
}

fn tell(context: &Context, here: &[Outcome], there: &Replica) {
    if context.quiet {
        let outcomes = [here, there.outcomes.as_slice()];
        outcomes.iter().filter(|o| o.iter().any(|o| !o.held)).for_each(|o| output::error(&proof::summary(o)));
        return;
    }
    for (title, outcomes) in [("On this host", here), ("On a replica of this network, from outside", &there.outcomes)] {
        if !outcomes.is_empty() {
            output::line(&format!("{}{title}{}\n", output::BOLD, output::RESET));
            output::line(&proof::table(outcomes));
            output::line(&format!("{}\n", proof::summary(outcomes)));
        }
    }
    for note in &there.notes {
        output::line(&format!("{}replica:{} {note}", output::YELLOW, output::RESET));
    }
}

fn spot_of(word: &str, network: &Network) -> Result<Spot, Failure> {
    match word {
        "host" => Ok(Spot::Host),
        "world" => Ok(Spot::World),
        name if network.guest(name).is_some() => Ok(Spot::Guest(name.to_owned())),
        name => {
            let guests: Vec<&str> = network.guests.iter().map(|g| g.name.as_str()).collect();
            let message =
                format!("cannot check from {name}: it is no guest\nsay host, world, or one of {}", guests.join(", "));
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

// ---- on this host ----

fn prove_here(network: &Network, facts: &HostFacts, wanted: impl Fn(&Spot) -> bool) -> Result<Vec<Outcome>, Failure> {
    let uplink = facts.interface(&network.uplink.name);
    let view = View {
        world: reached(network, facts),
        neighbour: Vec::new(),
        outside: false,
        public: uplink.map(|u| u.addresses.iter().map(ipnet::IpNet::addr).collect()).unwrap_or_default(),
        uplink_mac: uplink.and_then(|u| u.mac),
    };
    let probes: Vec<Probe> = derive(network, &view).into_iter().filter(|p| wanted(&p.from)).collect();
    let mut prober = Prober::open(&vantages(network)?)?;
    Ok(prober.run(&probes)?)
}

/// What the world should answer: as the file says, else the uplink's routers and the resolvers. Names are asked of
/// this host's own resolver; one that has no address is none to be reached.
fn reached(network: &Network, facts: &HostFacts) -> Vec<IpAddr> {
    let of = |reach: &Reach| match reach.address {
        Some(address) => vec![address],
        None => (reach.host.as_str(), reach.port.unwrap_or(443))
            .to_socket_addrs()
            .map(|found| found.map(|a| a.ip()).collect())
            .unwrap_or_default(),
    };
    let named: Vec<IpAddr> = network.reach.iter().flat_map(of).collect();
    let known = if named.is_empty() { facts.routers.clone() } else { named };
    // A resolver on this very host, or on a LAN of ours, is not beyond the uplink.
    let beyond = |address: &IpAddr| {
        let behind = network.lans.iter().filter(|lan| !lan.is_bridged());
        let ours = behind.into_iter().any(|lan| lan.prefix_of(*address).is_some());
        let local = facts.interfaces.iter().flat_map(|i| &i.addresses).any(|net| net.addr() == *address);
        let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        !ours && !local && !link_local && !address.is_loopback()
    };
    known.into_iter().filter(beyond).collect()
}

/// Where packets are sent and seen on the live host. What leaves by the uplink has reached the world, as far as we are
/// concerned.
fn vantages(network: &Network) -> Result<Vec<Vantage>, Failure> {
    let outgoing = |interface: &str, addresses: &[IpAddr]| Capture::Outgoing {
        interface: interface.to_owned(),
        addresses: addresses.to_vec(),
    };
    let mut vantages = vec![Vantage { spot: Spot::Host, netns: Netns::current()?, capture: Capture::Delivered }];
    if network.uplink.present {
        // What leaves by a bridge that took an uplink's place leaves by that, its guests' frames too.
        let uplink = &network.uplink.name;
        let port = network.lan(uplink).and_then(|lan| lan.carries()).unwrap_or(uplink);
        let capture = outgoing(port.as_str(), &[]);
        vantages.push(Vantage { spot: Spot::World, netns: Netns::current()?, capture });
    }
    let host = Host::from_environment();
    for guest in &network.guests {
        let spot = Spot::Guest(guest.name.clone());
        match guest.kind {
            GuestKind::Netns => match Netns::open(&guest.name) {
                Ok(netns) => vantages.push(Vantage { spot, netns, capture: Capture::Incoming }),
                // Drift, and told as such.
                Err(e) if e.is_absent() => {}
                Err(e) => return Err(e.into()),
            },
            GuestKind::Lxc(_) => {
                // One that does not run is told by its probes.
                if let State::Running(pid) = host.state(&guest.name)? {
                    vantages.push(Vantage { spot, netns: Netns::of_process(pid)?, capture: Capture::Incoming });
                }
            }
            GuestKind::Vm { .. } | GuestKind::Reserved => {
                let capture = outgoing(guest.lan.as_str(), &guest.addresses);
                vantages.push(Vantage { spot, netns: Netns::current()?, capture });
            }
        }
    }
    Ok(vantages)
}

/// Chains of others' that may drop what passes through this host.
fn suspects() -> Result<Vec<String>, Failure> {
    let firewall = |e| Failure::new(Exit::Failed, format!("cannot read the firewall: {e}"));
    let chains = Nft::open().map_err(firewall)?.foreign_hooks().map_err(firewall)?;
    let drops = |chain: &&ForeignChain| chain.drops || chain.policy_drop;
    Ok(chains.iter().filter(drops).map(ToString::to_string).collect())
}

// ---- on a replica ----

/// What was proved on the replica, and where it is not like the original.
#[derive(Default)]
struct Replica {
    outcomes: Vec<Outcome>,
    notes: Vec<String>,
}

/// Every table of the host, another's too.
fn tables() -> Result<Vec<RawTable>, Failure> {
    let firewall = |e| Failure::new(Exit::Failed, format!("cannot read the firewall: {e}"));
    let mut nft = Nft::open().map_err(firewall)?;
    let mut tables = Vec::new();
    for name in nft.tables().map_err(firewall)? {
        tables.extend(nft.dump_table(name.family, &name.name).map_err(firewall)?);
    }
    Ok(tables)
}

/// Builds this network in a lab, with this host's own firewall as it is at the moment, and asks from outside.
fn prove_on_replica(live: Live) -> Result<Replica, Failure> {
    let mut sketch = live.network.clone();
    if sketch.public == Public::Dynamic
        && let Some(uplink) = live.facts.interface(&sketch.uplink.name).filter(|u| !u.addresses.is_empty())
    {
        sketch.public = Public::Listed(uplink.addresses.iter().map(ipnet::IpNet::addr).collect());
    }
    lab::enter()?;
    let lab = Lab::build(LabPlan::of(&sketch)?)?;
    let mut network = live.network.clone();
    // Others' tables are copied with what of ours is in them.
    network.mends.clear();
    let mut notes = Lab::stand_in(&mut network);
    let copied = lab.server().run(|| -> Result<Vec<String>, Failure> {
        let engine = Engine::new(Path::new(STATE_DIR), Path::new(RUN_DIR))?;
        engine.up(&network, Path::new("replica"), false, &mut |_, _| Ok(()))?;
        for (switch, value) in &live.switches {
            if sysctl::exists(switch) {
                sysctl::write(switch, value)?;
            }
        }
        let mut notes = copy_tables(&live.tables)?;
        notes
            .extend(live.legacy.iter().filter_map(|saved| kernel::legacy::restore(saved).err()).map(|e| e.to_string()));
        Ok(notes)
    });
    let copied = copied.map_err(|e| Failure::new(Exit::Failed, format!("cannot enter the replica: {e}")))?;
    notes.extend(copied?);
    let outside = |probe: &Probe| matches!(probe.from, Spot::World | Spot::Neighbour);
    let probes: Vec<Probe> = derive(&network, &lab.view()).into_iter().filter(outside).collect();
    let mut prober = Prober::open(&lab.vantages(&network)?)?;
    Ok(Replica { outcomes: prober.run(&probes)?, notes })
}

/// Puts the host's tables in the place of the replica's; says which could not be copied.
fn copy_tables(tables: &[RawTable]) -> Result<Vec<String>, Failure> {
    let firewall = |e| Failure::new(Exit::Failed, format!("cannot write the replica's firewall: {e}"));
    let mut nft = Nft::open().map_err(firewall)?;
    let mut clear = Transaction::new();
    for table in nft.tables().map_err(firewall)? {
        clear.clear(table.family, &table.name);
    }
    nft.commit(&clear).map_err(|e| Failure::new(Exit::Failed, format!("cannot clear the replica's firewall: {e}")))?;
    let mut notes = Vec::new();
    for table in tables {
        let mut transaction = Transaction::new();
        transaction.replay(table);
        if let Err(e) = nft.commit(&transaction) {
            notes.push(format!("the table {} could not be copied: {e}", table.name));
        }
    }
    Ok(notes)
}
