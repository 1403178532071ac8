//! `warren guest …`: the containers' life; and their part in `up` and `down`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use guests::converge::{self, Action, Report};
use guests::create::{Line, create};
use guests::run::{self, Started, Stopped};
use guests::{Host, Settings, State};
use model::network::{Container, GuestKind, Network};

use crate::cli::GuestCommand;
use crate::context::{Context, Exit, Failure, Outcome};
use crate::output;

/// What was asked for.
pub fn run(context: &Context, command: GuestCommand) -> Outcome {
    context.require_privilege("look after this host's containers")?;
    let host = context.containers();
    match command {
        GuestCommand::Create { name } => {
            let (settings, container) = named(context, &name)?;
            create(&host, &settings, &container, &|line| progress(context, &name, line))?;
            done(context, &name, "created")
        }
        GuestCommand::Start { name } => start(context, &host, &name),
        GuestCommand::Stop { name, timeout } => {
            let word = match stop(context, &host, &name, timeout)? {
                Stopped::Already => "not running",
                Stopped::Clean => "stopped",
                Stopped::Killed => "killed",
            };
            done(context, &name, word)
        }
        GuestCommand::Restart { name, timeout } => {
            // Its file's problems are told before it is stopped.
            named(context, &name)?;
            stop(context, &host, &name, timeout)?;
            start(context, &host, &name)
        }
        GuestCommand::Exec { name, command } => {
            known(context, &host, &name)?;
            replace_with(run::attach(&host, &name, &command)?)
        }
        GuestCommand::Shell { name } => {
            known(context, &host, &name)?;
            replace_with(run::shell(&host, &name)?)
        }
        GuestCommand::Destroy { name, yes } => destroy(context, &host, &name, yes),
        GuestCommand::List => list(context, &host),
        GuestCommand::Plugged { name, rest: _ } => {
            context.engine()?.limit_port(&name)?;
            Ok(Exit::Done)
        }
    }
}

/// The guests of a network that has just come up.
pub fn up(context: &Context, network: &Network) -> Vec<Report> {
    let host = context.containers();
    let reports = converge::up(&host, network, &|guest, line| progress(context, guest, line));
    for Report { guest, result, notes } in &reports {
        match result {
            Ok(actions) if actions.is_empty() => {}
            Ok(actions) => {
                let word = match actions.last() {
                    Some(Action::Start) => "running",
                    Some(Action::Plug) => "plugged in",
                    Some(Action::Tell) => "changed",
                    _ => "created",
                };
                say(context, guest, &format!("{}{word}{}", output::GREEN, output::RESET));
            }
            Err(error) => output::error(&error.to_string()),
        }
        notes.iter().for_each(|note| output::note(&format!("note: {guest}: {note}")));
    }
    let failed: Vec<&str> = reports.iter().filter(|r| r.result.is_err()).map(|r| r.guest.as_str()).collect();
    if !failed.is_empty() {
        output::note(&format!("{} failed; the network and all other guests are up", failed.join(", ")));
    }
    reports
}

/// Stops the running guests of a network that is about to go.
pub fn down(context: &Context, network: &Network) -> Vec<Report> {
    let host = context.containers();
    let names: Vec<String> = converge::of(network).map(|(settings, _)| settings.name).collect();
    let names = names.into_iter().filter(|name| host.exists(name)).collect();
    let reports = converge::in_parallel(names, |guest: String| {
        let mut notes = Vec::new();
        let result = run::stop(&host, &guest, run::STOP).map(|stopped| {
            if stopped == Stopped::Killed {
                notes.push(killed(run::STOP.as_secs()));
            }
            if stopped == Stopped::Already { Vec::new() } else { vec![Action::Stop] }
        });
        Report { guest, result, notes }
    });
    for Report { guest, result, notes } in &reports {
        match result {
            Ok(actions) if actions.is_empty() => {}
            Ok(_) => say(context, guest, "stopped"),
            Err(error) => output::error(&error.to_string()),
        }
        notes.iter().for_each(|note| output::note(&format!("note: {guest}: {note}")));
    }
    reports
}

/// What became of a guest, for programs.
pub fn document(report: &Report) -> serde_json::Value {
    let words = |action: &Action| match action {
        Action::Create => "create",
        Action::Tell => "change",
        Action::Start => "start",
        Action::Plug => "plug",
        Action::Stop => "stop",
    };
    let done: Vec<&str> = report.result.iter().flatten().map(words).collect();
    serde_json::json!({
        "name": report.guest,
        "ok": report.result.is_ok(),
        "done": done,
        "error": report.result.as_ref().err().map(ToString::to_string),
        "notes": report.notes,
    })
}

/// What a container does, in a word; what is wrong where it cannot be told.
pub fn state_word(host: &Host, name: &str) -> String {
    match host.state(name) {
        Ok(state) => state.word().to_owned(),
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn start(context: &Context, host: &Host, name: &str) -> Outcome {
    let (settings, container) = named(context, name)?;
    if let State::Running(_) = host.state(name)? {
        return done(context, name, "running already");
    }
    let started = run::start(host, &settings, &container, &|line| progress(context, name, line))?;
    if started == Started::Waiting {
        output::note(&format!("note: {name}: {}", converge::not_ready(&settings)));
        return Ok(Exit::Failed);
    }
    done(context, name, "running")
}

fn stop(context: &Context, host: &Host, name: &str, timeout: u64) -> Result<Stopped, Failure> {
    known(context, host, name)?;
    let stopped = run::stop(host, name, Duration::from_secs(timeout))?;
    if stopped == Stopped::Killed {
        output::note(&format!("note: {name}: {}", killed(timeout)));
    }
    Ok(stopped)
}

fn killed(seconds: u64) -> String {
    format!("it did not stop within {seconds} s, and was killed")
}

fn destroy(context: &Context, host: &Host, name: &str, yes: bool) -> Outcome {
    known(context, host, name)?;
    if !host.exists(name) {
        return Err(host.absent(name).into());
    }
    if !yes {
        confirm(host, name)?;
    }
    run::stop(host, name, run::STOP)?;
    run::destroy(host, name)?;
    done(context, name, "destroyed")
}

fn confirm(host: &Host, name: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let message =
            format!("not destroying {name}: nobody is there to ask\nsay so: `warren guest destroy --yes {name}`");
        return Err(Failure::new(Exit::Usage, message));
    }
    output::note(&format!("This deletes {} with all its data.", host.folder(name).display()));
    let mut stderr = std::io::stderr();
    // A terminal that takes no question gives no answer, either.
    let _ = write!(stderr, "Write the guest's name to go on: ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == name {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, format!("{name} stays")))
    }
}

fn list(context: &Context, host: &Host) -> Outcome {
    let (_, network) = context.network_here()?;
    let mut names: Vec<String> = converge::of(&network).map(|(settings, _)| settings.name).collect();
    let others: Vec<String> = host.guests()?.into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(others);
    let mut rows = vec![["GUEST", "STATE", "PID", "LAN", "ADDRESS"].map(str::to_owned).to_vec()];
    let mut documents = Vec::new();
    for name in &names {
        let state = host.state(name)?;
        let pid = if let State::Running(pid) = state { Some(pid) } else { None };
        let guest = network.guest(name);
        let lan = guest.map(|guest| guest.lan.to_string());
        let addresses: Vec<String> = guest.iter().flat_map(|g| &g.addresses).map(ToString::to_string).collect();
        let pid_word = pid.map(|pid| pid.to_string()).unwrap_or_default();
        let lan_word = lan.clone().unwrap_or_else(|| "not in the file".to_owned());
        rows.push(vec![name.clone(), state.word().to_owned(), pid_word, lan_word, addresses.join(", ")]);
        documents.push(serde_json::json!({
            "name": name, "state": state.word(), "pid": pid, "lan": lan, "addresses": addresses,
        }));
    }
    if context.json {
        output::json(&serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "guests": documents }));
    } else if names.is_empty() {
        output::line("The file names no containers.");
    } else {
        output::line(output::table(&rows).trim_end());
    }
    Ok(Exit::Done)
}

/// A container of the file's, by name.
fn named(context: &Context, name: &str) -> Result<(Settings, Container), Failure> {
    let (_, network) = context.network_here()?;
    let guest = network.guest(name).ok_or_else(|| unknown(context, &network, name))?;
    match Settings::of(&network, guest) {
        Some((settings, container)) => Ok((settings, container.clone())),
        None => Err(no_container(name, &guest.kind)),
    }
}

/// A container that warren has to do with: one that it made, even when the file has forgotten it, or one that the file
/// names.
fn known(context: &Context, host: &Host, name: &str) -> Result<(), Failure> {
    // A name is looked up among the containers' folders, never used as a path.
    if host.guests()?.iter().any(|guest| guest == name) { Ok(()) } else { named(context, name).map(drop) }
}

fn unknown(context: &Context, network: &Network, name: &str) -> Failure {
    let names: Vec<String> = converge::of(network).map(|(settings, _)| settings.name).collect();
    let has =
        if names.is_empty() { "it names no containers".to_owned() } else { format!("it has {}", names.join(", ")) };
    Failure::new(Exit::Usage, format!("there is no guest \"{name}\" in {}; {has}", context.config.display()))
}

fn no_container(name: &str, kind: &GuestKind) -> Failure {
    let what = match kind {
        GuestKind::Netns => format!("a network namespace: `ip netns exec {name} COMMAND` runs in it"),
        GuestKind::Vm { .. } => "a machine: `warren status` shows the line that starts it".to_owned(),
        GuestKind::Reserved | GuestKind::Lxc(_) => "only a reserved name".to_owned(),
    };
    Failure::new(Exit::Usage, format!("{name} is no container, but {what}"))
}

/// The command takes this process's place: its input, output, terminal and exit code are then its own.
fn replace_with(mut command: std::process::Command) -> Outcome {
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == std::io::ErrorKind::NotFound {
        let operation = "enter a guest".to_owned();
        return Err(guests::GuestError::Missing { operation, program, package: "lxc" }.into());
    }
    Err(Failure::new(Exit::Failed, format!("cannot start {program}: {error}")))
}

fn done(context: &Context, name: &str, word: &str) -> Outcome {
    if context.json {
        output::json(&serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "name": name, "state": word }));
    } else {
        say(context, name, word);
    }
    Ok(Exit::Done)
}

fn say(context: &Context, guest: &str, text: &str) {
    if !context.quiet && !context.json {
        output::line(&format!("{guest}: {text}"));
    }
}

/// What is being done, to stderr; what a template says meanwhile too where a person watches.
fn progress(context: &Context, guest: &str, line: Line<'_>) {
    let watched = context.verbose || std::io::stderr().is_terminal();
    match line {
        _ if context.quiet || context.json => {}
        Line::Stage(text) => output::note(&format!("{guest}: {text}")),
        Line::Output(text) if watched => output::note(&format!("{}{guest}: | {text}{}", output::DIM, output::RESET)),
        Line::Output(_) => {}
    }
}
