//! How a watchdog is started so that it outlives the session, the warren and the terminal that it was started from: as
//! a transient unit where systemd runs this network, else as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kernel::apply::Engine;

use crate::context::{Context, Exit, Failure};

/// How long a watchdog may take until it watches.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the watchdog of that run, and returns once it says that it watches.
pub fn start(context: &Context, engine: &Engine, run: u64) -> Result<(), String> {
    let by_systemd =
        kernel::systemd::is_ours() && unit(context, run).is_ok_and(|mut command| succeeds(&mut command).is_ok());
    if !by_systemd {
        let mut command = of_its_own(context).map_err(|failure| failure.message)?;
        succeeds(command.arg("--detach"))?;
    }
    let begun = Instant::now();
    while engine.watched().map_err(|e| e.to_string())? != Some(run) {
        if begun.elapsed() > PATIENCE {
            return Err(format!("the watchdog was started, and does not watch after {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The second of two forks (daemon(7)): the process that watches is nobody's child, and leads no session that a terminal
/// could belong to.
pub fn detach(context: &Context) -> Result<(), Failure> {
    // It fails only where this process leads a group already, as one that a shell starts; its child does not.
    let _ = rustix::process::setsid();
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("cannot start the watchdog: {e}"));
    // Nobody waits for it: init does.
    of_its_own(context)?.spawn().map(drop).map_err(failed)
}

/// Makes what can end the process less likely to.
pub fn endure() {
    // A machine that runs out of memory kills others first. Where that may not be set, it watches all the same.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
}

/// This program once more as a watchdog, from wherever it is read: that it was replaced or removed meanwhile does not
/// matter to it.
fn of_its_own(context: &Context) -> Result<Command, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments(context)?).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn arguments(context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot find {}: {e}", path.display())))
    };
    let (state, run) = (absolute(&context.state_dir)?, absolute(&context.run_dir)?);
    Ok(vec!["--state-dir".into(), state, "--run-dir".into(), run, "watchdog".into()])
}

/// A transient unit (systemd-run(1)): in no session's control group, and started again where it is killed.
fn unit(context: &Context, run: u64) -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot find this program's own file: {e}")))?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", "--no-ask-password", &format!("--unit=warren-watchdog-{run}")]);
    command.arg("--description=Puts back the network that was unless `warren confirm` is run");
    command.args(["--property=Restart=on-abnormal", "--property=RestartSec=1", "--property=OOMScoreAdjust=-900"]);
    if let Ok(path) = std::env::var(guests::host::LXC_PATH) {
        command.arg(format!("--setenv={}={path}", guests::host::LXC_PATH));
    }
    command.arg("--").arg(program).args(arguments(context)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let failed = |why: String| format!("cannot start the watchdog: {why}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(e) => Err(failed(e.to_string())),
    }
}
