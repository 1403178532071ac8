//! `warren connect`: on a developer's own machine, a tunnel to a server's LAN and a browser that sees it from inside.
//!
//! What speaks to the server is the system's `ssh`, with its configuration, agent, jump hosts and host keys. All that is
//! begun here (the tunnel, the browser, its profile) ends with the values that hold it.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::browser::Browser;
use self::learn::Learned;
use self::line::{Line, Server};
use crate::cli::{Connect, Printed};
use crate::context::{Context, Exit, Failure, Outcome};
use crate::output;

mod browser;
mod learn;
mod line;
mod pac;
mod show;
mod sweep;
mod x11;

/// How long is waited before a line that dropped is tried again: first, and at most.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(30);

/// Opens the tunnel and the browser, until one of them, or who called, ends it.
pub fn run(context: &Context, options: &Connect) -> Outcome {
    if context.json {
        return Err(Failure::new(Exit::Usage, "`connect` speaks to people alone: leave --json out"));
    }
    let server = Server::new(&options.server, options.port)?;
    if let Some(words) = &options.x11 {
        return x11::run(&server, words);
    }
    if let Some(printed) = options.print {
        return print(&server, options, printed);
    }
    let failed = |e| Failure::new(Exit::Failed, format!("cannot start the runtime: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // What the browser leaves behind comes to us, and is ended.
    sweep::adopt();
    let outcome = runtime.block_on(async {
        let stopped = stopped()?;
        tokio::select! {
            outcome = connect(context, &server, options) => outcome,
            () = stopped => Ok(Exit::Done),
        }
    });
    sweep::sweep();
    outcome
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let wait = |kind| signal(kind).map_err(|e| Failure::new(Exit::Failed, format!("cannot wait for signals: {e}")));
    let (mut interrupt, mut terminate) = (wait(SignalKind::interrupt())?, wait(SignalKind::terminate())?);
    let mut hangup = wait(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn connect(context: &Context, server: &Server, options: &Connect) -> Outcome {
    let mut line = Line::open(server).await?;
    let learned = line.ask()?.map_or_else(Learned::default, |said| learn::read(&said));
    let learned = learned.with(&options.domain);
    if options.lan_only && learned.knows_nothing() {
        let message = format!("{server} does not say which names are its LAN's: no warren answers there");
        let help = "name the domain with --domain, or leave --lan-only out";
        return Err(Failure::new(Exit::Failed, format!("{message}\n{help}")));
    }
    let port = line.forward(options.listen, learned.door)?;
    if learned.door.is_none() {
        let why =
            if learned.is_warren { "without [socks] under `warren serve`" } else { "without a warren that says more" };
        note(context, &format!("{server} is {why}: plain ssh -D, names as {server} resolves them"));
    }
    let browser = Browser::find(options.browser.as_deref())?;
    let Some(browser) = browser else {
        output::line(&show::settings(server, &learned, port));
        return hold(context, &mut line).await;
    };
    let mut browser = browser.start(&learned, port, options)?;
    tokio::select! {
        () = browser.ended() => Ok(Exit::Done),
        outcome = hold(context, &mut line) => outcome,
    }
}

/// Keeps the line: one that drops is opened again, sooner at first and later then.
async fn hold(context: &Context, line: &mut Line) -> Outcome {
    loop {
        line.ended().await;
        let mut wait = SOON;
        loop {
            note(context, &format!("the line to {} dropped; trying again in {} s", line.server, wait.as_secs()));
            tokio::time::sleep(wait).await;
            match line.again().await {
                Ok(()) => break,
                Err(_told_by_ssh) => wait = (wait * 2).min(LATE),
            }
        }
        note(context, &format!("the line to {} is back", line.server));
    }
}

fn note(context: &Context, message: &str) {
    if !context.quiet {
        output::note(message);
    }
}

fn print(server: &Server, options: &Connect, printed: Printed) -> Outcome {
    let said = line::ask_once(server)?;
    let learned = said.as_deref().map_or_else(Learned::default, learn::read).with(&options.domain);
    if learned.knows_nothing() {
        return Err(Failure::new(Exit::Failed, format!("no warren on {server} says which guests it has")));
    }
    output::line(
        match printed {
            Printed::SshConfig => show::ssh_config(server, &learned),
            Printed::Pac => pac::pac(&learned, options.listen.unwrap_or(line::SOCKS)),
        }
        .trim_end(),
    );
    Ok(Exit::Done)
}
