//! `warren map`: the network as a picture.

use std::fs;
use std::path::Path;

use model::{config, picture};

use crate::context::{Context, Exit, Failure, Outcome, assumed_facts};
use crate::output;

/// Draws to stdout, or into an `.svg` or `.txt` file.
pub fn run(context: &Context, to: Option<&Path>) -> Outcome {
    let extension = to.and_then(|path| path.extension()).and_then(|extension| extension.to_str());
    let draw = match (to, extension) {
        (_, Some("svg")) => picture::svg,
        (None, _) | (_, Some("txt")) => picture::text,
        (Some(path), _) => {
            let message = format!("{}: a picture is .svg or .txt, by the end of its name", path.display());
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let source = context.read()?;
    let (config, _) = config::parse(&source.text);
    let network = source.network(&assumed_facts(&config))?;
    let drawing = draw(&network);
    match to {
        None => output::line(drawing.trim_end()),
        Some(path) => fs::write(path, drawing)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot write {}: {e}", path.display())))?,
    }
    Ok(Exit::Done)
}
