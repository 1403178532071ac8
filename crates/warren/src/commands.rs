//! The commands, a file each.

use crate::cli::{Arguments, Command};
use crate::context::{Context, Outcome};
use crate::foreign;

mod boot;
mod ca;
mod check;
mod confirm;
mod connect;
mod down;
mod export;
mod forward;
mod guest;
mod init;
mod install;
mod manual;
mod map;
mod plan;
mod rehearse;
mod serve;
mod status;
mod up;
mod validate;

pub use forward::Memory;
pub use rehearse::{RUN_DIR as REPLICA_RUN, STATE_DIR as REPLICA_STATE};

/// Does what was asked for: here, or through the `serve` that runs.
pub fn run(arguments: Arguments) -> Outcome {
    if let Some(outcome) = serve::control::hand_over(&arguments) {
        return outcome;
    }
    let mut context = Context::new(&arguments);
    if let Command::Validate { file: Some(file) } | Command::Rehearse { file: Some(file), .. } = &arguments.command {
        context.config.clone_from(file);
    }
    dispatch(&context, arguments.command)
}

/// Does it here.
pub fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Init { print } => init::run(context, print),
        Command::Validate { .. } => validate::run(context),
        Command::Plan { exit_code } => plan::run(context, exit_code),
        Command::Up { replace, no_guests, confirm } => up::run(context, replace, no_guests, confirm),
        Command::Confirm => confirm::confirm(context),
        Command::Rollback => confirm::rollback(context),
        Command::Install { print } => install::install(context, print),
        Command::Uninstall => install::uninstall(context),
        Command::Boot { guests: true, .. } => boot::guests(context),
        Command::Boot { stop: true, .. } => boot::stop(context),
        Command::Boot { .. } => boot::network(context),
        Command::Watchdog { detach } => confirm::watchdog(context, detach),
        Command::Down { guests } => down::run(context, guests),
        Command::Serve { no_guests } => serve::run(context, no_guests),
        Command::Worker => serve::worker(),
        Command::Status => status::run(context),
        Command::Ca => ca::run(context),
        Command::Check { from } => check::run(context, from.as_deref()),
        Command::Rehearse { keep, .. } => rehearse::run(context, keep),
        Command::Hold => rehearse::holder(),
        Command::Judge => foreign::judge(),
        Command::Guest { command } => guest::run(context, command),
        Command::Forward { command } => forward::run(context, command),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::man(),
        Command::Map { output } => map::run(context, output.as_deref()),
        Command::Connect(options) => connect::run(context, &options),
        Command::Export { format } => export::run(context, format),
    }
}
