//! `warren confirm`, `warren rollback`, and the watchdog that does the latter where nobody does the former.

use guests::Host;
use guests::converge::{self, Action, Report};
use kernel::apply::{Answer, Engine, PutBack};

use super::serve::control;
use super::{guest, up};
use crate::context::{Context, Exit, Failure, Outcome};
use crate::{output, watchdog};

/// The last `up` stays.
pub fn confirm(context: &Context) -> Outcome {
    context.require_privilege("change this network")?;
    let engine = context.engine()?;
    // Too late, it is put back by whoever comes first, and that may be us.
    control::let_go(&context.run_dir);
    let (kept, words) = match engine.confirm()? {
        Answer::Kept => (true, "The network stays."),
        Answer::NothingPending => (false, "Nothing awaits a confirmation: the network stays."),
        Answer::NothingUp => {
            return Err(Failure::new(Exit::Failed, "there is nothing to confirm: no network of warren's is up"));
        }
        Answer::TooLate(why) => {
            up::tell(context, &engine);
            replug(&engine)?;
            control::follow(&context.run_dir);
            return Err(Failure::new(Exit::Failed, format!("too late to confirm: {why}")));
        }
    };
    if context.json {
        output::json(&serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "confirmed": kept }));
    } else if !context.quiet {
        output::line(words);
    }
    Ok(Exit::Done)
}

/// What was before the last `up` comes back.
pub fn rollback(context: &Context) -> Outcome {
    context.require_privilege("change this network")?;
    let engine = context.engine()?;
    let Some(back) = engine.rollback()? else {
        return Err(Failure::new(Exit::Failed, "there is no `up` to be put back"));
    };
    up::tell(context, &engine);
    let guests = replug(&engine)?;
    let failed = guests.iter().any(|guest| guest.result.is_err());
    if context.json {
        output::json(&document(&back, &guests));
    } else {
        words(context, &back, &guests);
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn document(back: &PutBack, guests: &[Report]) -> serde_json::Value {
    serde_json::json!({
        "version": output::JSON_VERSION,
        "ok": guests.iter().all(|guest| guest.result.is_ok()),
        "changes": back.done.steps.len(),
        "steps": output::steps(&back.done),
        "recovered": back.recovered,
        "flows_ended": back.flows_ended,
        "config": back.record.as_ref().map(|record| &record.config),
        "guests": guests.iter().map(guest::document).collect::<Vec<_>>(),
        "notes": back.notes,
    })
}

fn words(context: &Context, back: &PutBack, guests: &[Report]) {
    for guest in guests {
        if let Err(error) = &guest.result {
            output::error(&error.to_string());
        }
    }
    if context.quiet {
        return;
    }
    let notes = back.recovered.iter().chain(&back.notes);
    notes.for_each(|note| output::note(&format!("note: {note}")));
    for guest in guests {
        guest.notes.iter().for_each(|note| output::note(&format!("note: {}: {note}", guest.guest)));
        if matches!(&guest.result, Ok(done) if done.contains(&Action::Plug)) {
            output::line(&format!("{}: plugged in", guest.guest));
        }
    }
    let what = match &back.record {
        Some(record) => format!("The network that was is back, as {} said then", record.config.display()),
        None => "What was before is back: no network of warren's is up".to_owned(),
    };
    output::line(&format!("{what}: {} steps.", back.done.steps.len()));
}

/// Plugs the guests that run into the network that is back.
fn replug(engine: &Engine) -> Result<Vec<Report>, Failure> {
    let network = engine.record()?.and_then(|record| record.network);
    Ok(network.map(|network| converge::plug(&Host::from_environment(), &network)).unwrap_or_default())
}

/// Waits beside an `up`, whatever becomes of who began it, and puts back what was unless it is confirmed.
pub fn watchdog(context: &Context, detach: bool) -> Outcome {
    if detach {
        watchdog::detach(context)?;
        return Ok(Exit::Done);
    }
    watchdog::endure();
    let engine = context.engine()?;
    if let Some(why) = engine.watch_over(|| control::let_go(&context.run_dir))? {
        // Of a unit, for its journal.
        output::note(&why);
        control::follow(&context.run_dir);
        up::tell(context, &engine);
        for report in replug(&engine)? {
            if let Err(error) = report.result {
                output::error(&error.to_string());
            }
        }
    }
    Ok(Exit::Done)
}
