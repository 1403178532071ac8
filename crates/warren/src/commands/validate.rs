//! `warren validate`: the file alone.

use model::config;
use model::network;
use model::problem::Kind;

use crate::context::{Context, Exit, Outcome, assumed_facts};
use crate::{diagnostics, output};

/// Every problem of the file; what is not built yet is said, but is no problem of the file's.
pub fn run(context: &Context) -> Outcome {
    let source = context.read()?;
    let (config, _) = config::parse(&source.text);
    let problems = network::load(&source.text, &assumed_facts(&config)).err().unwrap_or_default();
    // What depends on a host is for `plan` and `up` to say.
    let (later, wrong): (Vec<_>, Vec<_>) =
        problems.into_iter().filter(|p| p.kind != Kind::Conflict).partition(|p| p.kind == Kind::Unsupported);
    if !wrong.is_empty() {
        return Err(source.failure(wrong));
    }
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "problems": [],
            "not_supported_yet": diagnostics::json(&source.text, &later),
        }));
    } else if !context.quiet {
        output::line(&format!("{}: valid", source.path.display()));
        for problem in &later {
            output::note(&format!(
                "note: {}; `up` refuses it, `rehearse` stands in for it where it can",
                problem.message
            ));
        }
    }
    Ok(Exit::Done)
}
