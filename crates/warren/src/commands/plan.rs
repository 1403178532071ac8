//! `warren plan`: what `up` would change.

use kernel::apply::ApplyError;

use crate::context::{Context, Exit, Outcome};
use crate::output;

/// The difference between what is and what the file says; changes nothing.
pub fn run(context: &Context, exit_code: bool) -> Outcome {
    context.require_privilege("look at the firewall of this network")?;
    let (source, network) = context.network_here()?;
    let survey = context.engine()?.survey(&network)?;
    if !survey.conflicts.is_empty() {
        return Err(ApplyError::Conflicts(survey.conflicts).into());
    }
    let changes = survey.plan.steps.len();
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "changes": changes,
            "steps": output::steps(&survey.plan),
        }));
    } else if changes == 0 {
        if !context.quiet {
            output::line("Nothing to change: the network is as the file says.");
        }
    } else {
        for line in survey.plan.to_string().lines() {
            let colour = match line.chars().next() {
                Some('+') => output::GREEN,
                Some('-') => output::RED,
                Some('~') => output::YELLOW,
                _ => output::DIM,
            };
            output::line(&format!("{colour}{line}{}", output::RESET));
        }
        if !context.quiet {
            output::note(&format!("{changes} steps; `warren up` does them, all or none."));
        }
    }
    Ok(if exit_code && changes > 0 { Exit::Changes } else { Exit::Done })
}
