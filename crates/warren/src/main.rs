//! `warren`: a private network inside one server. One file a command; what they share is in [`context`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod commands;
mod context;
mod counters;
mod diagnostics;
mod edit;
mod foreign;
mod output;
mod proof;
mod units;
mod watchdog;
mod written;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap tells usage errors (exit 2) from --help and --version (exit 0).
            let code = if error.use_stderr() { context::Exit::Usage } else { context::Exit::Done };
            // Nobody is left to be told of a closed terminal.
            let _ = error.print();
            return code.into();
        }
    };
    let json = arguments.json;
    match commands::run(arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report(json);
            failure.exit.into()
        }
    }
}
