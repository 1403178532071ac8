//! `warren rehearse`: the configuration proved in throwaway namespaces, without root, before a host is touched.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kernel::apply::Engine;
use kernel::netns::UserNamespaceError;
use lab::{Lab, LabError, LabPlan, Outcome, Prober, ProberError};
use model::config;
use model::facts::HostFacts;
use model::network::Network;

use crate::context::{Context, Exit, Failure, Outcome as Ended, Source, assumed_facts};
use crate::{output, picture, proof};

/// The engine's folders in the lab: on the tmpfs that covers /run there.
pub const STATE_DIR: &str = "/run/warren/state";
/// See [`STATE_DIR`].
pub const RUN_DIR: &str = "/run/warren";

/// Builds the lab, brings the network up in it, sends every probe, and shows what came of it.
pub fn run(context: &Context, keep: bool) -> Ended {
    let begun = Instant::now();
    let source = context.read()?;
    let (config, _) = config::parse(&source.text);
    // The world must be there before the host's facts can be had from it, and its shape depends on the network.
    let sketch = source.network(&assumed_facts(&config), true)?;
    let entered = lab::enter()?;
    let lab = Lab::build(LabPlan::of(&sketch)?)?;
    let (network, stood_in) = up(&source, &lab)?;
    let outcomes = probe(&lab, &network)?;
    let held = outcomes.iter().all(|o| o.held);
    let took = begun.elapsed();

    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": held,
            "config": source.path,
            "stood_in": stood_in,
            "probes": proof::json(&outcomes),
            "took_ms": took.as_secs_f64() * 1000.0,
        }));
    } else if !context.quiet {
        output::line(&picture::text(&sketch));
        output::line(&proof::table(&outcomes));
        for sentence in &stood_in {
            output::line(&format!("{}stood in{} {sentence}", output::YELLOW, output::RESET));
        }
        let how = if entered.user { "in a user namespace, without root" } else { "as root, in namespaces of its own" };
        output::line(&format!("\n{}\nRehearsed {how}, in {:.2} s.", proof::summary(&outcomes), took.as_secs_f64()));
    }
    if keep {
        hold(context, &source, &lab, &network)?;
    }
    Ok(if held { Exit::Done } else { Exit::Failed })
}

/// Runs the real `up` in the lab's server, and says what of the network was stood in for.
pub fn up(source: &Source, lab: &Lab) -> Result<(Network, Vec<String>), Failure> {
    lab.server()
        .run(|| {
            let mut network = source.network(&facts(lab)?, true)?;
            let stood_in = Lab::stand_in(&mut network);
            let engine = Engine::new(Path::new(STATE_DIR), Path::new(RUN_DIR))?;
            engine.up(&network, &source.canonical(), false, &mut |_, _| Ok(()))?;
            Ok((network, stood_in))
        })
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot enter the lab's server: {e}")))?
}

/// The lab's server as the file's host; of the real one nothing is told, but what its kernel can do.
fn facts(lab: &Lab) -> Result<HostFacts, Failure> {
    let mut facts = kernel::facts::gather()?;
    facts.resolvers.clone_from(&lab.plan().answering);
    facts.ssh_ports.clear();
    facts.machine_id = None;
    Ok(facts)
}

/// Sends every probe of the network, from everywhere.
pub fn probe(lab: &Lab, network: &Network) -> Result<Vec<Outcome>, Failure> {
    let probes = model::probe::derive(network, &lab.view());
    let mut prober = Prober::open(&lab.vantages(network)?)?;
    Ok(prober.run(&probes)?)
}

/// Leaves the lab to a process of its own that does nothing but hold it, and says how to step in and how to end it.
fn hold(context: &Context, source: &Source, lab: &Lab, network: &Network) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("cannot leave the lab standing: {e}"));
    let holder = Command::new("/proc/self/exe")
        .arg("hold")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let pid = holder.id();
    lab.keep();
    if context.json || context.quiet {
        return Ok(());
    }
    output::line(&format!("\nThe lab stands, held by process {pid}; `kill {pid}` ends it. Step into it with:"));
    let guest = network.guests.first().map(|g| g.name.as_str());
    for place in ["server", "world", "neighbour"].into_iter().chain(guest) {
        output::line(&format!("  {}", lab.step_in(pid, place)));
    }
    output::line(&format!(
        "In the server, warren finds its network with\n  export WARREN_STATE_DIR={STATE_DIR} WARREN_RUN_DIR={RUN_DIR} WARREN_CONFIG={}",
        source.canonical().display()
    ));
    Ok(())
}

/// What the holder of a kept lab does: nothing, until it is ended.
pub fn holder() -> Ended {
    // Whoever started us may be gone with its terminal; that is no reason to end.
    let _ = rustix::process::setsid();
    loop {
        std::thread::park();
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let exit = match &error {
            LabError::UserNamespace(UserNamespaceError::Forbidden { .. }) => Exit::Privilege,
            LabError::Kernel(e) if e.is_forbidden() => Exit::Privilege,
            _ => Exit::Failed,
        };
        let next = match &error {
            LabError::UserNamespace(UserNamespaceError::Forbidden { setting, .. }) => {
                let value = if *setting == "kernel.apparmor_restrict_unprivileged_userns" { "0" } else { "1" };
                let value = if *setting == "user.max_user_namespaces" { "10000" } else { value };
                format!("\nallow them with `sysctl -w {setting}={value}` as root, or rehearse as root")
            }
            _ => String::new(),
        };
        Self::new(exit, format!("cannot rehearse: {error}{next}"))
    }
}

impl From<ProberError> for Failure {
    fn from(error: ProberError) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}
