//! `warren down`: as if warren had never been.

use model::plan::Step;

use super::serve::control;
use super::{guest, up};
use crate::context::{Context, Exit, Outcome};
use crate::output;

/// Takes away what warren made, and puts back what it changed. Needs no configuration. Containers are unplugged by it
/// and go on running, but where they are to be stopped first.
pub fn run(context: &Context, stop_guests: bool) -> Outcome {
    context.require_privilege("change this network")?;
    let verbose = context.verbose && !context.json;
    let mut watch = |_: usize, step: &Step| {
        if verbose {
            output::note(&step.to_string());
        }
        Ok(())
    };
    // Where it has outlived its supervisor: a serve that runs does this itself.
    if context.applied.is_none() {
        control::end_orphan(&context.run_dir)?;
    }
    let engine = context.engine()?;
    let network = engine.record()?.and_then(|record| record.network).filter(|_| stop_guests);
    let guests = network.map(|network| guest::down(context, &network)).unwrap_or_default();
    let mut report = engine.down(&mut watch)?;
    // The network is gone by now: names that stay are told, and no failure of it.
    if let Err(e) = kernel::host_names::forget() {
        report.kept.push(e.to_string());
    }
    let failed = guests.iter().any(|guest| guest.result.is_err());
    if context.json {
        let mut document = up::document(&report);
        document["ok"] = (!failed).into();
        document["guests"] = guests.iter().map(guest::document).collect();
        output::json(&document);
    } else {
        up::words(context, &report, "The network is down", "Nothing to take away: no network of warren's is up.");
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
