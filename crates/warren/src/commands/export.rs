//! `warren export`: the network as files of other tools'.

use model::ruleset::{build, text};

use crate::cli::ExportFormat;
use crate::context::{Context, Exit, Outcome, assumed_facts};
use crate::output;

/// Writes the format to stdout.
pub fn run(context: &Context, format: ExportFormat) -> Outcome {
    let facts = kernel::facts::gather().or_else(|_| context.read().map(|(source, _)| assumed_facts(&source.config)))?;
    let (_, network) = context.network(&facts, true)?;
    match format {
        ExportFormat::Nft => {
            for table in build(&network) {
                output::line(&text::table(&table));
            }
        }
    }
    Ok(Exit::Done)
}
