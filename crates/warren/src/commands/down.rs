//! `warren down`: as if warren had never been.

use model::plan::Step;

use super::up;
use crate::context::{Context, Exit, Outcome};
use crate::output;

/// Takes away what warren made, and puts back what it changed. Needs no configuration.
pub fn run(context: &Context) -> Outcome {
    context.require_privilege("change this network")?;
    let verbose = context.verbose && !context.json;
    let mut watch = |_: usize, step: &Step| {
        if verbose {
            output::note(&step.to_string());
        }
        Ok(())
    };
    let report = context.engine()?.down(&mut watch)?;
    up::tell(context, &report, "The network is down", "Nothing to take away: no network of warren's is up.");
    Ok(Exit::Done)
}
