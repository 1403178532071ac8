//! `warren install` and `uninstall`: systemd's units, so that the network comes up at boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::serve::control;
use crate::context::{self, Context, Exit, Failure, Outcome};
use crate::output;
use crate::units::{self, Call, MARK, SERVE, Unit};

/// Where units of an administrator's are (systemd.unit(5)).
const FOLDER: &str = "/etc/systemd/system";

/// Writes the units and enables them. Where the network is up they are started too, which changes nothing of it, so that
/// systemd stops its guests when the machine goes down.
pub fn install(context: &Context, print: bool) -> Outcome {
    let units = of(context)?;
    if print {
        return print_all(context, &units);
    }
    // What boot would refuse is refused now.
    context::trusted(&context.config)?;
    let source = context.read()?;
    let (config, _) = model::config::parse(&source.text);
    source.network(&context::assumed_facts(&config))?;
    for unit in &units {
        if is_anothers(unit.name)? {
            return Err(Failure::new(
                Exit::Conflict,
                format!(
                    "cannot install {}: there is one already that `warren install` has not written; move it away",
                    path(unit.name).display()
                ),
            ));
        }
    }
    fs::create_dir_all(FOLDER).map_err(|e| denied("make the folder", Path::new(FOLDER), &e))?;
    for unit in &units {
        write(unit)?;
    }
    reload()?;
    systemctl("enable", &units.iter().collect::<Vec<_>>())?;
    let is_up = is_booted() && context.engine()?.record()?.is_some();
    if is_up {
        // One that somebody runs by hand has its place.
        let is_served = control::is_served(&context.run_dir);
        let start: Vec<&Unit> = units.iter().filter(|unit| !(is_served && unit.name == SERVE)).collect();
        systemctl("start", &start)?;
    }
    let last = if is_up { "What is up stays as it is." } else { "Nothing was started now: `warren up` does that." };
    tell(context, &units, "is installed: it comes up at boot", last);
    Ok(Exit::Done)
}

/// Takes the units out; what is up stays up.
pub fn uninstall(context: &Context) -> Outcome {
    let mut ours = Vec::new();
    for unit in of(context)? {
        if path(unit.name).exists() && !is_anothers(unit.name)? {
            ours.push(unit);
        }
    }
    if !ours.is_empty() {
        systemctl("disable", &ours.iter().collect::<Vec<_>>())?;
        if is_booted() {
            // A unit that nobody knows would be started again and again.
            systemctl("stop", &ours.iter().filter(|unit| unit.name == SERVE).collect::<Vec<_>>())?;
        }
        for unit in &ours {
            let path = path(unit.name);
            fs::remove_file(&path).map_err(|e| denied("remove", &path, &e))?;
        }
        reload()?;
    }
    let none = "No unit of warren's is installed.";
    tell(
        context,
        &ours,
        "is taken out",
        if ours.is_empty() { none } else { "What is up stays up: `warren down` ends it." },
    );
    Ok(Exit::Done)
}

fn of(context: &Context) -> Result<Vec<Unit>, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| denied("find", path, &e));
    let program = std::env::current_exe().map_err(|e| denied("find", Path::new("/proc/self/exe"), &e))?;
    let (config, state_dir, run_dir) =
        (absolute(&context.config)?, absolute(&context.state_dir)?, absolute(&context.run_dir)?);
    let lxc_path = std::env::var(guests::host::LXC_PATH).ok().filter(|path| !path.is_empty());
    Ok(units::all(&Call {
        program: &program,
        config: &config,
        state_dir: &state_dir,
        run_dir: &run_dir,
        lxc_path: lxc_path.as_deref(),
    }))
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn is_anothers(name: &str) -> Result<bool, Failure> {
    let path = path(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(!text.starts_with(MARK)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(denied("read", &path, &e)),
    }
}

/// Beside its place, and then put there at once.
fn write(unit: &Unit) -> Result<(), Failure> {
    let path = path(unit.name);
    let beside = path.with_extension("new");
    fs::write(&beside, &unit.text).and_then(|()| fs::rename(&beside, &path)).map_err(|e| {
        // The failure is what must be told.
        let _ = fs::remove_file(&beside);
        denied("write", &path, &e)
    })
}

fn systemctl(verb: &str, units: &[&Unit]) -> Result<(), Failure> {
    let names: Vec<&str> = units.iter().map(|unit| unit.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    run(Command::new("systemctl").arg("--quiet").arg(verb).args(names))
}

/// Whether systemd runs here.
fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What does not run needs not be told.
fn reload() -> Result<(), Failure> {
    if is_booted() { run(Command::new("systemctl").arg("daemon-reload")) } else { Ok(()) }
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let words = |command: &Command| {
        let all = std::iter::once(command.get_program()).chain(command.get_args());
        all.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let failed = |why: String| Failure::new(Exit::Failed, format!("`{}` failed: {why}", words(command)));
    let output = Command::new(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(format!("{e}; this host seems to have no systemd")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn denied(operation: &str, path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Privilege,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("cannot {operation} {}: {error}", path.display()))
}

fn print_all(context: &Context, units: &[Unit]) -> Outcome {
    if context.json {
        output::json(&document(units));
    } else {
        for unit in units {
            output::line(&format!("# {}\n{}", path(unit.name).display(), unit.text));
        }
    }
    Ok(Exit::Done)
}

fn document(units: &[Unit]) -> serde_json::Value {
    let unit = |unit: &Unit| serde_json::json!({ "name": unit.name, "path": path(unit.name), "text": unit.text });
    serde_json::json!({
        "version": output::JSON_VERSION,
        "ok": true,
        "units": units.iter().map(unit).collect::<Vec<_>>(),
    })
}

fn tell(context: &Context, units: &[Unit], what: &str, last: &str) {
    if context.json {
        output::json(&document(units));
    } else if !context.quiet {
        units.iter().for_each(|unit| output::line(&format!("{} {what}.", unit.name)));
        output::line(last);
    }
}
