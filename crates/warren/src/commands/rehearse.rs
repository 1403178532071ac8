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
use crate::{output, proof};

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
    let sketch = source.network(&assumed_facts(&config))?;
    let entered = lab::enter()?;
    let lab = Lab::build(LabPlan::of(&sketch)?)?;
    let (network, stood_in) = up(&source, &lab)?;
    let outcomes = probe(&lab, &network)?;
    let held = outcomes.iter().all(|o| o.held);
    let took = begun.elapsed();
    let kept = keep.then(|| hold(&lab, &network)).transpose()?;

    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": held,
            "config": source.path,
            "stood_in": stood_in,
            "probes": proof::json(&outcomes),
            "took_ms": took.as_secs_f64() * 1000.0,
            "kept": kept.as_ref().map(|kept| serde_json::json!({
                "pid": kept.pid, "step_in": kept.doors, "state_dir": STATE_DIR, "run_dir": RUN_DIR,
            })),
        }));
        return Ok(if held { Exit::Done } else { Exit::Failed });
    }
    if !context.quiet {
        output::line(&model::picture::text(&sketch));
        output::line(&proof::table(&outcomes));
        for sentence in &stood_in {
            output::line(&format!("{}stood in{} {sentence}", output::YELLOW, output::RESET));
        }
        let how = if entered.user { "in a user namespace, without root" } else { "as root, in namespaces of its own" };
        output::line(&format!("\n{}\nRehearsed {how}, in {:.2} s.", proof::summary(&outcomes), took.as_secs_f64()));
    } else if !held {
        output::error(&proof::summary(&outcomes));
    }
    if let Some(kept) = kept {
        tell_kept(&kept, &source);
    }
    Ok(if held { Exit::Done } else { Exit::Failed })
}

/// Runs the real `up` in the lab's server, and says what of the network was stood in for.
pub fn up(source: &Source, lab: &Lab) -> Result<(Network, Vec<String>), Failure> {
    lab.server()
        .run(|| {
            let mut network = source.network(&facts(lab)?)?;
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
    // Who is plugged in on the real host is not here.
    facts.assumed = true;
    Ok(facts)
}

/// Sends every probe of the network, from everywhere.
pub fn probe(lab: &Lab, network: &Network) -> Result<Vec<Outcome>, Failure> {
    let probes = model::probe::derive(network, &lab.view());
    let mut prober = Prober::open(&lab.vantages(network)?)?;
    Ok(prober.run(&probes)?)
}

/// A lab that outlives this process.
struct Kept {
    /// The process that holds it.
    pid: u32,
    /// The places that can be stepped into, and the line that does it.
    doors: Vec<Door>,
}

/// A way into a kept lab.
#[derive(serde::Serialize)]
struct Door {
    place: String,
    line: String,
}

/// Leaves the lab to a process of its own that does nothing but hold it.
fn hold(lab: &Lab, network: &Network) -> Result<Kept, Failure> {
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
    let places = ["server", "world", "neighbour"].into_iter().chain(network.guests.iter().map(|g| g.name.as_str()));
    let doors = places.map(|place| Door { place: place.to_owned(), line: lab.step_in(pid, place) }).collect();
    Ok(Kept { pid, doors })
}

/// Says how to step into a kept lab, and how to end it; quiet or not, for nobody could find it otherwise.
fn tell_kept(kept: &Kept, source: &Source) {
    let pid = kept.pid;
    output::line(&format!("\nThe lab stands, held by process {pid}; `kill {pid}` ends it. Step into it with:"));
    // The server, the world, the neighbour, and one guest to show how.
    for door in kept.doors.iter().take(4) {
        output::line(&format!("  {}", door.line));
    }
    output::line(&format!(
        "In the server, warren finds its network with\n  export WARREN_STATE_DIR={STATE_DIR} WARREN_RUN_DIR={RUN_DIR} WARREN_CONFIG={}",
        source.canonical().display()
    ));
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
