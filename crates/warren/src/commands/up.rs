//! `warren up`: the network becomes what the file says.

use std::time::Duration;

use kernel::answers::{self, Witness};
use kernel::apply::{ApplyError, Confirm, Engine, Report, Wish};
use model::network::Network;
use model::plan::Step;
use model::services::Services;
use model::state::in_place_of;

use super::guest;
use crate::context::{Context, Exit, Failure, Hook, Outcome, Source};
use crate::{foreign, output, watchdog};

/// How long a changed uplink waits for its confirmation where nobody says otherwise.
const CONFIRM: Duration = Duration::from_secs(60);
/// How long whoever answers is waited for before a change. What is silent for longer is not what tells that a network
/// stands.
const BEFORE: Duration = Duration::from_secs(1);
/// How long those that answered may take to answer again.
const AFTER: Duration = Duration::from_secs(10);

/// The network: all of it, or nothing. Then its guests, each by itself.
pub fn run(context: &Context, replace: bool, no_guests: bool, confirm: Option<u64>) -> Outcome {
    context.require_privilege("change this network")?;
    let (source, mut network, facts) = context.network_and_facts()?;
    if !context.json && !context.quiet {
        // Before it is done: afterwards somebody may hear it no more.
        source.warn();
    }
    let engine = context.engine()?;
    let stopped = foreign::look_and_mend(&mut network, &engine)?;
    let wish = Wish {
        network: &network,
        config: &source.canonical(),
        text: &source.text,
        facts: Some(&facts),
        replace,
        lenient: false,
        confirm: None,
    };
    let report = carry(context, &engine, wish, confirm.map(Duration::from_secs))?;
    if !context.json {
        words(context, &report, "The network is up", "Nothing to change: the network is as the file says.");
        if !context.quiet {
            stopped.tell(true);
        }
    }
    tell(context, &engine);
    let guests = if no_guests { Vec::new() } else { guest::up(context, &network) };
    let failed = guests.iter().any(|guest| guest.result.is_err());
    if context.json {
        let mut document = document(&report);
        document["ok"] = (!failed).into();
        document["foreign"] = stopped.document();
        document["warnings"] = source.warnings.clone().into();
        document["guests"] = guests.iter().map(guest::document).collect();
        output::json(&document);
    } else if let Some(patience) = report.confirm {
        // Quiet or not: who misses it loses the network.
        output::line(&format!(
            "{}What was comes back in {} s unless you run `warren confirm`.{}",
            output::YELLOW,
            patience.as_secs(),
            output::RESET
        ));
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Whoever follows the network hears that it has changed: `serve`, within it; without one the host's own names follow,
/// where an earlier `serve` has written them.
pub fn tell(context: &Context, engine: &Engine) {
    if let Some(Hook(applied)) = &context.applied {
        return applied();
    }
    let network = engine.record().ok().flatten().and_then(|record| record.network);
    let services = network.as_ref().map(Services::of).unwrap_or_default();
    if let Err(e) = kernel::host_names::refresh(&services) {
        output::note(&format!("note: {e}"));
    }
}

/// The network alone, which `source` says and nobody needs to confirm.
pub fn network(context: &Context, engine: &Engine, source: &Source, mut network: Network) -> Result<(), Failure> {
    let stopped = foreign::look_and_mend(&mut network, engine)?;
    let config = &source.canonical();
    let wish = Wish {
        network: &network,
        config,
        text: &source.text,
        facts: None,
        replace: false,
        lenient: false,
        confirm: None,
    };
    let report = carry(context, engine, wish, None)?;
    words(context, &report, "The network is up", "Nothing to change: the network is as the file says.");
    stopped.tell(!context.quiet);
    Ok(())
}

/// Makes the kernel carry the file's network, watched over where that is asked for or wise.
fn carry(context: &Context, engine: &Engine, wish: Wish<'_>, asked: Option<Duration>) -> Result<Report, Failure> {
    let network = wish.network;
    let patience = match asked {
        Some(patience) => Some(patience),
        None if engine.wants_confirmation(network, wish.text)? => Some(CONFIRM),
        None => None,
    };
    if patience.is_none() {
        refuse_to_cut(context, engine, network)?;
    }
    let verbose = context.verbose && !context.json;
    let mut watch = |_: usize, step: &Step| {
        if verbose {
            output::note(&step.to_string());
        }
        Ok(())
    };
    let answered = if patience.is_some() { ask(&witnesses(context)?, BEFORE)? } else { Vec::new() };
    let mut arm = |run: u64| watchdog::start(context, engine, run);
    let mut holds = || {
        let again = ask(&answered, AFTER).map_err(|failure| failure.message)?;
        let lost: Vec<String> = answered.iter().filter(|w| !again.contains(w)).map(ToString::to_string).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!("after the change {} did not answer any more within {} s", lost.join(", "), AFTER.as_secs()))
    };
    let confirm = patience.map(|patience| Confirm { patience, arm: &mut arm, holds: &mut holds });
    Ok(engine.carry(Wish { confirm, ..wish }, &mut watch)?)
}

/// A change that would cut the SSH session that it is made in is refused where nobody would put back what was.
fn refuse_to_cut(context: &Context, engine: &Engine, network: &Network) -> Result<(), Failure> {
    let Some(session) = context.session else { return Ok(()) };
    let survey = engine.survey(network)?;
    if !survey.conflicts.is_empty() {
        return Err(ApplyError::Conflicts(survey.conflicts).into());
    }
    let Some(why) = session.cut(&survey.plan, &survey.observed, &survey.desired) else { return Ok(()) };
    Err(Failure::new(
        Exit::Conflict,
        format!(
            "this change would cut the SSH session that it is made in: {why}\nnothing was changed; with `--confirm 60` what was comes back by itself unless you `warren confirm` from a new session"
        ),
    ))
}

/// Who should answer, whatever the change is.
fn witnesses(context: &Context) -> Result<Vec<Witness>, Failure> {
    let facts = kernel::facts::gather()?;
    let routers = facts.routers.into_iter().map(Witness::Router);
    let resolvers = facts.resolvers.into_iter().map(Witness::Resolver);
    let peer = context.session.map(|session| Witness::Peer(session.peer));
    Ok(routers.chain(resolvers).chain(peer).collect())
}

/// Asks them by whatever is the uplink now.
fn ask(witnesses: &[Witness], patience: Duration) -> Result<Vec<Witness>, Failure> {
    let uplink = kernel::facts::gather()?.default_uplink;
    // A link-local router is asked by what bears the uplink's addresses: the bridge, where one has its place.
    let index = uplink.and_then(|name| {
        let links = kernel::rtnl::Rtnl::open().ok()?.links().ok()?;
        let in_its_place =
            links.iter().find(|link| link.alias.as_deref().and_then(in_place_of).as_ref() == Some(&name));
        in_its_place.or_else(|| links.iter().find(|link| link.name == name.as_str())).map(|link| link.index)
    });
    Ok(answers::ask(witnesses, index, patience))
}

/// What was done to the network, for programs.
pub fn document(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "version": output::JSON_VERSION,
        "ok": true,
        "changes": report.done.steps.len(),
        "steps": output::steps(&report.done),
        "recovered": report.recovered,
        "flows_ended": report.flows_ended,
        "kept": report.kept,
        "confirm_within": report.confirm.map(|patience| patience.as_secs()),
    })
}

/// What was done to the network, for people.
pub fn words(context: &Context, report: &Report, done: &str, nothing: &str) {
    if context.quiet {
        return;
    }
    if let Some(recovered) = &report.recovered {
        output::note(&format!("note: {recovered}"));
    }
    for kept in &report.kept {
        output::note(&format!("note: {kept}"));
    }
    if report.done.is_empty() {
        output::line(nothing);
    } else {
        output::line(&format!("{done}: {} steps.", report.done.steps.len()));
    }
    // A file of another's that says something else is told of, however few the words.
    for step in &report.done.steps {
        if let Step::SetFile { path, .. } = step {
            output::line(&format!("{path} was rewritten."));
        }
    }
    if report.flows_ended > 0 {
        output::line(&format!("{} flows that are no longer permitted were ended.", report.flows_ended));
    }
}
