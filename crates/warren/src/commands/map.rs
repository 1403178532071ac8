//! `warren map`: the network as a drawing.

use std::fs;
use std::path::Path;

use model::config;

use crate::context::{Context, Exit, Failure, Outcome, assumed_facts};
use crate::{output, picture};

/// Draws to stdout, or into a `.txt` file.
pub fn run(context: &Context, to: Option<&Path>) -> Outcome {
    let source = context.read()?;
    let (config, _) = config::parse(&source.text);
    let network = source.network(&assumed_facts(&config))?;
    let drawing = picture::text(&network);
    match to {
        None => output::line(drawing.trim_end()),
        Some(path) if path.extension().is_some_and(|e| e == "txt") => fs::write(path, drawing)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot write {}: {e}", path.display())))?,
        Some(path) => {
            return Err(Failure::new(
                Exit::Usage,
                format!("{}: only .txt is drawn; .svg is not supported yet", path.display()),
            ));
        }
    }
    Ok(Exit::Done)
}
