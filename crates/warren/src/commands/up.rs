//! `warren up`: the network becomes what the file says.

use kernel::apply::Report;
use model::network::Network;
use model::plan::Step;

use super::guest;
use crate::context::{Context, Exit, Failure, Hook, Outcome};
use crate::output;

/// The network: all of it, or nothing. Then its guests, each by itself.
pub fn run(context: &Context, replace: bool, no_guests: bool) -> Outcome {
    let (network, report) = apply(context, replace)?;
    if !context.json {
        words(context, &report, "The network is up", "Nothing to change: the network is as the file says.");
    }
    if let Some(Hook(applied)) = &context.applied {
        applied();
    }
    let guests = if no_guests { Vec::new() } else { guest::up(context, &network) };
    let failed = guests.iter().any(|guest| guest.result.is_err());
    if context.json {
        let mut document = document(&report);
        document["ok"] = (!failed).into();
        document["guests"] = guests.iter().map(guest::document).collect();
        output::json(&document);
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// The network alone.
pub fn network(context: &Context, replace: bool) -> Result<(), Failure> {
    let (_, report) = apply(context, replace)?;
    words(context, &report, "The network is up", "Nothing to change: the network is as the file says.");
    Ok(())
}

fn apply(context: &Context, replace: bool) -> Result<(Network, Report), Failure> {
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
    Ok((network, report))
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
    if report.flows_ended > 0 {
        output::line(&format!("{} flows that are no longer permitted were ended.", report.flows_ended));
    }
}
