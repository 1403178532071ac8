//! `warren plan`: what `up` would change.

use std::sync::mpsc;

use guests::Host;
use guests::converge::{self, Outlook};
use kernel::apply::{ApplyError, Engine};
use model::hoster;
use model::network::Network;
use model::plan::Plan;

use crate::context::{Context, Exit, Failure, Outcome, Source, trusted};
use crate::foreign::{self, Findings};
use crate::output;

/// The difference between what is and what the file says; changes nothing.
pub fn run(context: &Context, exit_code: bool) -> Outcome {
    context.require_privilege("look at the firewall of this network")?;
    let engine = context.engine()?;
    let Found { source, network, plan, stopped } = find_out(context, &engine)?;
    let outlooks = converge::survey(&Host::from_environment(), &network)?;
    let (mut guests, mut restarts) = (Vec::new(), Vec::new());
    for Outlook { guest, actions, notes } in &outlooks {
        guests.extend(actions.iter().map(|action| action.words(guest)));
        restarts.extend(notes.iter().map(|note| format!("{guest}: {note}")));
    }
    let steps = plan.steps.len();
    let changes = steps + guests.len();
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "changes": changes,
            "steps": output::steps(&plan),
            "guests": guests,
            "notes": restarts,
            "foreign": stopped.document(),
            "warnings": source.warnings,
        }));
    } else if changes == 0 {
        if !context.quiet {
            output::line("Nothing to change: the network is as the file says.");
        }
    } else {
        for line in plan.to_string().lines().chain(guests.iter().map(String::as_str)) {
            let colour = match line.chars().next() {
                Some('+') => output::GREEN,
                Some('-') => output::RED,
                Some('~') => output::YELLOW,
                _ => output::DIM,
            };
            output::line(&format!("{colour}{line}{}", output::RESET));
        }
        if !context.quiet {
            let each = if guests.is_empty() { "" } else { "; then the guests, each by itself" };
            output::note(&format!("{steps} steps; `warren up` does them, all or none{each}."));
        }
    }
    if !context.json && !context.quiet {
        restarts.iter().for_each(|note| output::note(&format!("note: {note}")));
        stopped.tell(true);
        source.warn();
    }
    // The process ends here: what it knows need not be given back piece by piece.
    std::mem::forget((plan, network, source, engine));
    Ok(if exit_code && changes > 0 { Exit::Changes } else { Exit::Done })
}

/// What was found out.
struct Found {
    source: Source,
    /// What the file means; without its forwards where nothing is to be done.
    network: Network,
    plan: Plan,
    /// What of it others' firewalls stop.
    stopped: Findings,
}

/// What is and what should be are found out side by side: with many guests and forwards each takes a while. Where all is
/// as it was when nothing was left to be done, the file is not read anew, and our tables not told.
fn find_out(context: &Context, engine: &Engine) -> Result<Found, Failure> {
    let (source, mut network, survey) = std::thread::scope(|scope| {
        let (decide, decided) = mpsc::channel();
        // Where the file cannot be read at all nobody waits for our tables.
        let look = scope.spawn(move || engine.look_where(move || decided.recv().unwrap_or(false)));
        let looked = || look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        trusted(&context.config)?;
        let mut source = context.read()?;
        let rest = engine.rest(&source.canonical(), &source.text)?;
        // Whoever is told of it is there, or has failed and says so.
        let _ = decide.send(rest.is_none());
        let facts = engine.facts()?;
        let Some(rest) = rest else {
            let network = source.network(&facts)?;
            source.warnings = hoster::warnings(&network, &facts);
            let survey = engine.survey_beside(&network, looked)?;
            return Ok::<_, Failure>((source, network, Some(survey)));
        };
        let known = rest.is_on(&facts) && engine.is_at_rest(&rest, looked()?)?;
        if known && foreign::is_quiet(&rest.network, None)? {
            source.warnings = hoster::warnings(&rest.network, &facts);
            return Ok((source, rest.network, None));
        }
        let network = source.network(&facts)?;
        source.warnings = hoster::warnings(&network, &facts);
        let survey = engine.survey(&network)?;
        Ok((source, network, Some(survey)))
    })?;
    let Some(survey) = survey else {
        return Ok(Found { source, network, plan: Plan::default(), stopped: Findings::default() });
    };
    if !survey.conflicts.is_empty() {
        return Err(ApplyError::Conflicts(survey.conflicts).into());
    }
    let stopped = foreign::look_and_mend(&mut network, engine)?;
    let survey = if network.mends.is_empty() { survey } else { engine.survey(&network)? };
    Ok(Found { source, network, plan: survey.plan, stopped })
}
