//! What the units of systemd's call: the network at boot, its guests after it. Nobody is there to confirm anything, so
//! what nobody has confirmed does not come up.

use guests::converge;
use kernel::apply::{Engine, Wish};
use kernel::journal::{Boot, Kept};
use model::facts::HostFacts;
use model::network::Network;

use super::guest;
use crate::context::{self, Context, Exit, Failure, Outcome, Source};
use crate::{foreign, output};

/// Brings up what the file says; where that may not, or cannot, come up, what was kept last.
pub fn network(context: &Context) -> Outcome {
    context.require_privilege("change this network")?;
    let engine = context.engine()?;
    if let Some(left) = engine.pending()?.and_then(|pending| pending.left()) {
        // Whoever asked for it decides, and the watchdog where nobody does.
        let left = left.as_millis().div_ceil(1000);
        output::note(&format!("what is up awaits its confirmation for another {left} s, and is left as it is"));
        return Ok(Exit::Done);
    }
    let boot = engine.boot()?;
    let mut why = Vec::new();
    match file(context, &engine, &boot) {
        Ok(Ok((source, network))) => match carry(context, &engine, &source, network) {
            Ok(()) => return Ok(Exit::Done),
            Err(failure) => why.push(failure.message),
        },
        Ok(Err(reason)) => why.push(reason),
        Err(failure) => why.push(failure.message),
    }
    for reason in &why {
        output::note(reason);
    }
    let Some(kept) = &boot.confirmed else {
        put_back(&engine)?;
        return Err(Failure::new(Exit::Failed, "nothing is brought up: no other configuration was ever kept"));
    };
    output::note(&format!("what {} said when it was kept last is brought up instead", kept.config.display()));
    let source = Source { path: kept.config.clone(), text: kept.text.clone(), warnings: Vec::new() };
    let network = source.network(&facts(&engine, &boot)?)?;
    carry(context, &engine, &source, network)?;
    Ok(Exit::Done)
}

/// What nobody has confirmed does not outlive the boot in a manager's files either.
fn put_back(engine: &Engine) -> Result<(), Failure> {
    if let Some(report) = engine.put_back_taken(&mut |_, _| Ok(()))? {
        output::note("what was rewritten of the uplink's configuration was never confirmed, and is put back");
        report.kept.iter().for_each(|kept| output::note(kept));
    }
    Ok(())
}

/// The file's network, or why it is not to come up unwatched.
pub fn file(context: &Context, engine: &Engine, boot: &Boot) -> Result<Result<(Source, Network), String>, Failure> {
    context::trusted(&context.config)?;
    let source = context.read()?;
    let path = source.path.display();
    if boot.refuses(&source.text) {
        return Ok(Err(format!(
            "{path} was never confirmed, or was put back: `warren up --confirm 60` tries it again"
        )));
    }
    let network = source.network(&facts(engine, boot)?)?;
    if engine.wants_confirmation(&network, &source.text)? {
        let change = "it changes the uplink itself and was never confirmed: `warren up` does that";
        return Ok(Err(format!("{path} does not come up unwatched: {change}")));
    }
    Ok(Ok((source, network)))
}

/// What this host is; with what was known of it before, where the boot has not come so far yet.
fn facts(engine: &Engine, boot: &Boot) -> Result<HostFacts, Failure> {
    let mut facts = engine.facts()?;
    let Some(Kept { uplink, learners, .. }) = &boot.confirmed else { return Ok(facts) };
    if facts.default_uplink.is_none() {
        facts.default_uplink.clone_from(uplink);
    }
    for interface in facts.interfaces.iter_mut().filter(|interface| learners.contains(&interface.name)) {
        interface.learnt_route = true;
    }
    Ok(facts)
}

fn carry(context: &Context, engine: &Engine, source: &Source, mut network: Network) -> Result<(), Failure> {
    let stopped = foreign::look_and_mend(&mut network, engine)?;
    let config = source.canonical();
    // Whatever was up in this boot, it was a boot that asked.
    let wish = Wish {
        network: &network,
        config: &config,
        text: &source.text,
        facts: None,
        replace: true,
        lenient: true,
        confirm: None,
    };
    let report = engine.carry(wish, &mut |_, _| Ok(()))?;
    super::up::tell(context, engine);
    super::up::words(context, &report, "The network is up", "Nothing to change: the network is as it should be.");
    if !context.quiet {
        stopped.tell(true);
    }
    Ok(())
}

/// Starts the guests of the network that is up.
pub fn guests(context: &Context) -> Outcome {
    context.require_privilege("look after this host's containers")?;
    let Some(network) = context.engine()?.record()?.and_then(|record| record.network) else {
        return Err(Failure::new(Exit::Failed, "no network of warren's is up, so no guest is started"));
    };
    let failed = guest::up(context, &network).iter().any(|guest| guest.result.is_err());
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Stops them, as a machine that goes down does.
pub fn stop(context: &Context) -> Outcome {
    context.require_privilege("look after this host's containers")?;
    let network = context.engine()?.record()?.and_then(|record| record.network);
    let failed = network.is_some_and(|network| {
        converge::of(&network).next().is_some() && guest::down(context, &network).iter().any(|g| g.result.is_err())
    });
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
