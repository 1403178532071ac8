//! `warren plan`: what `up` would change.

use guests::Host;
use guests::converge::{self, Outlook};
use kernel::apply::ApplyError;

use crate::context::{Context, Exit, Failure, Outcome};
use crate::{foreign, output};

/// The difference between what is and what the file says; changes nothing.
pub fn run(context: &Context, exit_code: bool) -> Outcome {
    context.require_privilege("look at the firewall of this network")?;
    let engine = context.engine()?;
    // What is and what should be are found out side by side: with many guests and forwards each takes a while.
    let (source, mut network, survey) = std::thread::scope(|scope| {
        let look = scope.spawn(|| engine.look());
        let (source, network) = context.network_here()?;
        let looked = || look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let survey = engine.survey_beside(&network, looked)?;
        Ok::<_, Failure>((source, network, survey))
    })?;
    if !survey.conflicts.is_empty() {
        return Err(ApplyError::Conflicts(survey.conflicts).into());
    }
    let stopped = foreign::look_and_mend(&mut network, &engine)?;
    let survey = if network.mends.is_empty() { survey } else { engine.survey(&network)? };
    let outlooks = converge::survey(&Host::from_environment(), &network)?;
    let (mut guests, mut restarts) = (Vec::new(), Vec::new());
    for Outlook { guest, actions, notes } in &outlooks {
        guests.extend(actions.iter().map(|action| action.words(guest)));
        restarts.extend(notes.iter().map(|note| format!("{guest}: {note}")));
    }
    let steps = survey.plan.steps.len();
    let changes = steps + guests.len();
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "changes": changes,
            "steps": output::steps(&survey.plan),
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
        for line in survey.plan.to_string().lines().chain(guests.iter().map(String::as_str)) {
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
    std::mem::forget((survey, network, source, engine));
    Ok(if exit_code && changes > 0 { Exit::Changes } else { Exit::Done })
}
