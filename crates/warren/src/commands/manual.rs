//! `warren completions` and `warren man`: made from the command line itself, so they cannot differ from it.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Arguments;
use crate::context::{Exit, Failure, Outcome};

/// What a shell needs to complete warren's words.
pub fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "warren", &mut script);
    print(&script)
}

/// The manual page, in roff.
pub fn man() -> Outcome {
    let mut page = Vec::new();
    let failed = |e| Failure::new(Exit::Failed, format!("cannot write the manual page: {e}"));
    clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(failed)?;
    print(&page)
}

/// As it is: what stands in it is no colour of ours, and a reader that goes away (`warren man | head`) no error.
fn print(bytes: &[u8]) -> Outcome {
    let _ = std::io::stdout().write_all(bytes);
    Ok(Exit::Done)
}
