//! `warren ca`: the certificate of the local authority, for whoever should believe self-signed sites.

use super::serve::certificates::authority;
use crate::context::{Context, Exit, Failure, Outcome};
use crate::output;

/// Prints it, and makes the authority first where there is none.
pub fn run(context: &Context) -> Outcome {
    context.require_privilege("read the local authority")?;
    let made = authority(&context.state_dir).map_err(|e| {
        let folder = context.state_dir.display();
        Failure::new(Exit::Failed, format!("cannot have the local authority in {folder}: {e}"))
    })?;
    if context.json {
        output::json(&serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "certificate": made.chain }));
    } else {
        output::line(made.chain.trim_end());
    }
    Ok(Exit::Done)
}
