//! `warren export`: the network as files of other tools'.

use model::config;
use model::ruleset::{build, text};
use model::sites::nginx::nginx;

use crate::cli::ExportFormat;
use crate::context::{Context, Exit, Outcome, assumed_facts};
use crate::output;

/// Writes the format to stdout.
pub fn run(context: &Context, format: ExportFormat) -> Outcome {
    let source = context.read()?;
    // Where this is not the host that the file is for, it says what it needs itself.
    let facts = match kernel::facts::gather() {
        Ok(facts) => facts,
        Err(_) => assumed_facts(&config::parse(&source.text).0),
    };
    let network = source.network(&facts)?;
    match format {
        ExportFormat::Nginx => output::line(nginx(&network).trim_end()),
        ExportFormat::Nft => {
            output::line(text::script(&build(&network)).trim_end());
        }
    }
    Ok(Exit::Done)
}
