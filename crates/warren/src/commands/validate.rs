//! `warren validate`: the file alone.

use model::network;
use model::problem::Kind;

use crate::context::{Context, Exit, Outcome, assumed_facts};
use crate::output;

/// Every problem of the file; what is not built yet is said, but is no problem of the file's.
pub fn run(context: &Context) -> Outcome {
    let (source, mut problems) = context.read()?;
    if let Err(more) = network::resolve(&source.config, &assumed_facts(&source.config)) {
        // What depends on a host is for `plan` and `up` to say.
        problems.extend(more.into_iter().filter(|p| p.kind == Kind::Config));
    }
    if !problems.is_empty() {
        return Err(source.failure(problems));
    }
    let later = network::unsupported(&source.config, false);
    if context.json {
        let later: Vec<_> = later.iter().map(|p| crate::diagnostics::json(&source.text, p)).collect();
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "problems": [],
            "not_supported_yet": later,
        }));
    } else if !context.quiet {
        output::line(&format!("{}: valid", source.path.display()));
        for problem in &later {
            output::note(&format!("note: {}; `up` refuses it, `rehearse` stands in for it where it can", problem.message));
        }
    }
    Ok(Exit::Done)
}
