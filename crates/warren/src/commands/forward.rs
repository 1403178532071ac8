//! `warren forward …`: forwards, edited in the file and applied.

use std::net::SocketAddr;
use std::path::PathBuf;

use kernel::apply::{Report, Wish};
use kernel::journal::TextHash;
use kernel::standing::Standing;
use model::addition::{Before, Outline};
use model::address::Transport;
use model::network::{Forward, Network, Public};

use super::serve::JOBS;
use super::up;
use crate::cli::ForwardCommand;
use crate::context::{Context, Exit, Failure, Outcome, Remembered, Source, assumed_facts, trusted};
use crate::edit::{self, EditError};
use crate::foreign::{self, Findings};
use crate::output;
use crate::written::{Appendable, write};

/// What was asked for.
pub fn run(context: &Context, command: ForwardCommand) -> Outcome {
    match command {
        ForwardCommand::List => list(context),
        ForwardCommand::Add { listen, to } => match add(context, &listen, &to)? {
            Some(exit) => Ok(exit),
            None => change(context, |text| edit::add_forward(text, &listen, &to)),
        },
        ForwardCommand::Remove { listen } => change(context, |text| edit::remove_forward(text, &listen)),
    }
}

/// Every forward of the file: what is up is for `status` to say.
fn list(context: &Context) -> Outcome {
    let source = context.read()?;
    let (config, _) = model::config::parse(&source.text);
    let network = source.network(&assumed_facts(&config))?;
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": source.path,
            "forwards": documents(&network),
        }));
    } else if network.forwards.is_empty() {
        output::line("No forward is declared.");
    } else {
        output::line(table(&network).trim_end());
    }
    Ok(Exit::Done)
}

/// A network's forwards, a row each, with the line to copy for those that lead to SSH.
pub fn table(network: &Network) -> String {
    let mut rows = vec![["FORWARD", "TO", "FROM THE WORLD"].map(str::to_owned).to_vec()];
    for forward in &network.forwards {
        let at = forward.address.map(|a| format!("{a}:")).unwrap_or_default();
        let to: Vec<String> = forward.to.iter().map(|a| SocketAddr::new(*a, forward.to_port).to_string()).collect();
        let to = to.join(", ");
        let name = forward.guest.as_deref().map(|guest| format!("{guest} ({to})")).unwrap_or(to);
        rows.push(vec![format!("{at}{}/{}", forward.ports, forward.transport), name, to_copy(network, forward)]);
    }
    output::table(&rows)
}

/// The same as docs/json.md describes them.
pub fn documents(network: &Network) -> Vec<serde_json::Value> {
    let document = |forward: &Forward| {
        serde_json::json!({
            "listen": { "address": forward.address, "ports": forward.ports.to_string(), "transport": forward.transport },
            "to": { "addresses": forward.to, "port": forward.to_port, "guest": forward.guest },
        })
    };
    network.forwards.iter().map(document).collect()
}

/// The line to copy where a forward leads to a guest's SSH.
fn to_copy(network: &Network, forward: &Forward) -> String {
    let ssh = forward.to_port == 22 && forward.transport == Transport::Tcp;
    let address = forward.address.or_else(|| match &network.public {
        Public::Listed(addresses) => addresses.first().copied(),
        Public::Dynamic => None,
    });
    match (ssh, address) {
        (true, Some(address)) => format!("ssh -p {} root@{address}", forward.ports.first),
        (true, None) => format!("ssh -p {} root@THIS-SERVER", forward.ports.first),
        (false, _) => String::new(),
    }
}

/// What one forward more found out of the file and the host: a process that runs on need not find it out for the next.
#[derive(Default)]
pub struct Memory {
    file: Option<Known>,
    before: Option<Before>,
    standing: Option<Standing>,
}

/// A file as it was after the last forward more.
struct Known {
    path: PathBuf,
    text: String,
    outline: Outline,
    hash: TextHash,
}

impl Known {
    fn of(path: PathBuf, text: String) -> Option<Self> {
        Some(Self { outline: Outline::of(&text)?, hash: TextHash::of(&text), path, text })
    }

    fn grow(&mut self, tail: &str) {
        self.text.push_str(tail);
        self.outline.grow(tail);
        self.hash = self.hash.and(tail);
    }
}

/// Adds a forward without looking at all the others, where nothing is unusual about the file, the host and our tables;
/// None where the whole way has to be gone, and nothing was changed.
fn add(context: &Context, listen: &str, to: &str) -> Result<Option<Exit>, Failure> {
    context.require_privilege("change this network")?;
    trusted(&context.config)?;
    let mut memory = Memory::default();
    let mut remembered = context.remembered.as_ref().map(|Remembered(memory)| memory.lock());
    let memory = match &mut remembered {
        Some(Ok(kept)) => &mut **kept,
        // What a thread that failed has left is not to be relied upon.
        Some(Err(_)) | None => &mut memory,
    };
    if context.remembered.is_some() && memory.standing.is_none() {
        memory.standing = Standing::open(JOBS).ok();
    }
    let known = memory.file.take();
    let Ok((file, said)) = Appendable::open(&context.config, known.as_ref().map(|known| &*known.text)) else {
        return Ok(None);
    };
    let known = match (known, said) {
        (Some(mut known), None) => {
            file.path().clone_into(&mut known.path);
            Some(known)
        }
        (_, said) => said.and_then(|text| Known::of(file.path().to_owned(), text)),
    };
    let Some(known) = known else { return Ok(None) };
    let known = memory.file.insert(known);
    let mut standing = memory.standing.as_mut();
    let engine = context.engine()?;
    let facts = match &mut standing {
        Some(standing) => {
            if standing.hear() {
                return Ok(None);
            }
            standing.facts(|| engine.facts())?
        }
        None => engine.facts()?,
    };
    let addition = known.outline.addition(&known.text, listen, to, &facts, &mut memory.before);
    let Some(addition) = addition else { return Ok(None) };
    if !foreign::is_quiet(&addition.around, standing.as_deref_mut())? {
        return Ok(None);
    }
    let Some(adding) = engine.adding(&addition, file.path(), &known.hash, &facts, standing)? else { return Ok(None) };
    let appended = match file.append(&known.text, &addition.tail)? {
        Some(appended) => appended,
        // Somebody else has written it meanwhile.
        None => return Ok(None),
    };
    let Ok(report) = adding.commit() else {
        // Why is for the whole way to find out.
        appended.take_back(&known.text)?;
        return Ok(None);
    };
    known.grow(&addition.tail);
    told(context, &report, &Findings::default());
    Ok(Some(Exit::Done))
}

/// What was done, for people or programs.
fn told(context: &Context, report: &Report, stopped: &Findings) {
    if context.json {
        let mut document = up::document(report);
        document["foreign"] = stopped.document();
        output::json(&document);
        return;
    }
    up::words(context, report, "The forwards are as the file says", "Nothing to change.");
    if !context.quiet {
        stopped.tell(true);
    }
}

/// Edits the file and applies it; where the new one is wrong, or cannot be applied, the old one stays.
fn change(context: &Context, edit: impl Fn(&str) -> Result<String, EditError>) -> Outcome {
    context.require_privilege("change this network")?;
    trusted(&context.config)?;
    let source = context.read()?;
    let facts = context.engine()?.facts()?;
    // Where the new text is no good, the old one's own problems are told first: nobody edits past them.
    let sound = |failure: Failure| source.network(&facts).err().unwrap_or(failure);
    let text = edit(&source.text).map_err(|e| sound(Failure::new(Exit::Usage, e.to_string())))?;
    let changed = Source { path: source.path.clone(), text, warnings: Vec::new() };
    let mut network = changed.network(&facts).map_err(sound)?;
    let engine = context.engine()?;
    let path = changed.canonical();
    let is_up = engine.record()?.is_some();
    let stopped = if is_up { foreign::look_and_mend(&mut network, &engine)? } else { Findings::default() };
    write(&path, &changed.text)?;
    if !is_up {
        if context.json {
            output::json(
                &serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "up": false, "changes": 0 }),
            );
        } else if !context.quiet {
            output::line(&format!("{} is changed; no network is up, so nothing was applied.", path.display()));
        }
        return Ok(Exit::Done);
    }
    let wish = Wish {
        network: &network,
        config: &path,
        text: &changed.text,
        facts: Some(&facts),
        replace: false,
        lenient: false,
        confirm: None,
    };
    match engine.carry(wish, &mut |_, _| Ok(())) {
        Ok(report) => {
            up::tell(context, &engine);
            told(context, &report, &stopped);
            Ok(Exit::Done)
        }
        Err(error) => {
            write(&path, &source.text)?;
            let failure = Failure::from(error);
            let message = format!("{}\n{} is as it was", failure.message, path.display());
            Err(Failure { message, ..failure })
        }
    }
}
