//! `warren up`: the network becomes what the file says.

use kernel::apply::Report;
use model::plan::Step;

use crate::context::{Context, Exit, Outcome};
use crate::output;

/// All of it, or nothing.
pub fn run(context: &Context, replace: bool) -> Outcome {
    context.require_privilege("change this network")?;
    let (source, network) = context.network_here()?;
    let verbose = context.verbose && !context.json;
    let mut watch = |_: usize, step: &Step| {
        if verbose {
            output::note(&step.to_string());
        }
        Ok(())
    };
    let report = context.engine()?.up(&network, &source.canonical(), replace, &mut watch)?;
    tell(context, &report, "The network is up", "Nothing to change: the network is as the file says.");
    Ok(Exit::Done)
}

/// What was done, for people or programs.
pub fn tell(context: &Context, report: &Report, done: &str, nothing: &str) {
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "changes": report.done.steps.len(),
            "steps": output::steps(&report.done),
            "recovered": report.recovered,
            "flows_ended": report.flows_ended,
            "kept": report.kept,
        }));
        return;
    }
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
    if report.flows_ended > 0 {
        output::line(&format!("{} flows that are no longer permitted were ended.", report.flows_ended));
    }
}
