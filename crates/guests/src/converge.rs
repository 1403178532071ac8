//! The LXC guests of a network become what the file says, each by itself: one that fails leaves the others.

use std::collections::VecDeque;
use std::sync::Mutex;

use model::network::{Container, Network};

use crate::create::{self, Line, Said};
use crate::error::Result;
use crate::host::{Host, State};
use crate::record::Record;
use crate::run::{self, Started};
use crate::settings::Settings;
use crate::{GuestError, port};

/// What is done with a guest: by `up` in this order, by `down` the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Create,
    /// What it was told of its network is something else now.
    Tell,
    /// It is started.
    Start,
    /// Its cable is plugged in.
    Plug,
    /// It is stopped.
    Stop,
}

impl Action {
    /// As a line of a plan, with the sign of a difference.
    #[must_use]
    pub fn words(&self, guest: &str) -> String {
        match self {
            Self::Create => format!("+ guest {guest}: create"),
            Self::Tell => format!("~ guest {guest}: change its settings"),
            Self::Start => format!("+ guest {guest}: start"),
            Self::Plug => format!("+ guest {guest}: plug in"),
            Self::Stop => format!("- guest {guest}: stop"),
        }
    }
}

/// What became of a guest.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub guest: String,
    /// What was done; why not, where it failed.
    pub result: Result<Vec<Action>>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

/// What `up` would do with a guest.
#[derive(Debug)]
pub struct Outlook {
    /// Its name.
    pub guest: String,
    /// What would be done.
    pub actions: Vec<Action>,
    /// What `up` alone cannot carry through while it runs, and what would.
    pub notes: Vec<String>,
}

/// What `up` would do with each guest of which there is something to tell; changes nothing.
pub fn survey(host: &Host, network: &Network) -> Result<Vec<Outlook>> {
    let mut all = Vec::new();
    for (settings, container) in of(network) {
        let actions = decide(host, &settings, container)?;
        let notes = restarts(host, &settings, container)?;
        if !actions.is_empty() || !notes.is_empty() {
            all.push(Outlook { guest: settings.name, actions, notes });
        }
    }
    Ok(all)
}

/// What of the file holds only after a restart of the guest, or after it is made anew.
fn restarts(host: &Host, settings: &Settings, container: &Container) -> Result<Vec<String>> {
    let guest = settings.name.as_str();
    let mut notes = Vec::new();
    let Some(record) = Record::read(host, guest)?.filter(|_| host.exists(guest)) else { return Ok(notes) };
    if record.made_by_us && record.ids.is_none() != container.privileged {
        notes.push(format!(
            "`privileged` holds from a guest's making on: `warren guest destroy {guest}` and `warren up` make it anew"
        ));
    }
    if matches!(host.state(guest)?, State::Running(_)) {
        let (before, after) = create::config(host, &record, container)?;
        if record.settings == *settings && before != after {
            notes.push(format!("its new configuration holds from its next start: `warren guest restart {guest}`"));
        }
        if record.settings.port != settings.port {
            let (was, is) = (&record.settings.port, &settings.port);
            notes.push(format!(
                "its port stays {was} until its next start, then it is {is}: `warren guest restart {guest}`"
            ));
        }
    }
    Ok(notes)
}

/// Creates, starts and plugs in what the file names, as many at once as the machine has processors. `said` is told the
/// guest and a line.
pub fn up(host: &Host, network: &Network, said: &(dyn Fn(&str, Line<'_>) + Sync)) -> Vec<Report> {
    in_parallel(of(network).collect(), |(settings, container)| {
        let mut notes = Vec::new();
        let tell = |line: Line<'_>| said(&settings.name, line);
        let result = one(host, &settings, container, &tell, &mut notes);
        Report { guest: settings.name, result, notes }
    })
}

/// Plugs in the guests that run, and carries their addresses over to them, without a word to their disks: what is done
/// for them where a network is put back.
pub fn plug(host: &Host, network: &Network) -> Vec<Report> {
    in_parallel(of(network).collect(), |(settings, _)| {
        let mut notes = Vec::new();
        let result = plug_one(host, &settings, &mut notes);
        Report { guest: settings.name, result, notes }
    })
}

fn plug_one(host: &Host, settings: &Settings, notes: &mut Vec<String>) -> Result<Vec<Action>> {
    let guest = settings.name.as_str();
    if !host.exists(guest) {
        return Ok(Vec::new());
    }
    let State::Running(pid) = host.state(guest)? else { return Ok(Vec::new()) };
    let mut done = Vec::new();
    if let Some(record) = Record::read(host, guest)?.filter(|record| record.settings != *settings) {
        port::carry_over(pid, &record.settings, settings)?;
        notes.push(
            "it has its former addresses again, but its disk was told the later ones: `warren up` before it restarts"
                .to_owned(),
        );
        done.push(Action::Tell);
    }
    if port::is_there(&settings.port)? && !port::is_plugged(settings)? {
        port::plug(settings)?;
        done.push(Action::Plug);
    }
    Ok(done)
}

/// Does `work` for each, as many at once as the machine has processors; the results are in the items' order.
pub fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len().max(1));
    let queue: Mutex<VecDeque<(usize, T)>> = Mutex::new(items.into_iter().enumerate().collect());
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    // A panic of one worker's goes on when the scope ends; until then the others may go on, too.
    let take = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((nth, item)) = take() {
                    let result = work(item);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((nth, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(nth, _)| *nth);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The LXC guests of a network.
pub fn of(network: &Network) -> impl Iterator<Item = (Settings, &Container)> {
    network.guests.iter().filter_map(|guest| Settings::of(network, guest))
}

fn decide(host: &Host, settings: &Settings, container: &Container) -> Result<Vec<Action>> {
    let guest = settings.name.as_str();
    let mut actions = Vec::new();
    let state = if host.exists(guest) { host.state(guest)? } else { State::Absent };
    if state == State::Absent {
        actions.push(Action::Create);
    } else if is_told_otherwise(host, settings, container)? {
        actions.push(Action::Tell);
    }
    match state {
        State::Running(_) => {
            if !port::is_plugged(settings)? {
                actions.push(Action::Plug);
            }
        }
        State::Absent | State::Stopped | State::Other => {
            if container.autostart {
                actions.push(Action::Start);
            }
        }
    }
    Ok(actions)
}

/// Whether what stands in a guest, or beside it, is not what the file says now.
fn is_told_otherwise(host: &Host, settings: &Settings, container: &Container) -> Result<bool> {
    match Record::read(host, &settings.name)? {
        Some(record) if record.settings == *settings => {
            let (before, after) = create::config(host, &record, container)?;
            Ok(before != after)
        }
        _ => Ok(true),
    }
}

fn one(
    host: &Host,
    settings: &Settings,
    container: &Container,
    said: Said,
    notes: &mut Vec<String>,
) -> Result<Vec<Action>> {
    let actions = decide(host, settings, container)?;
    let state = host.state(&settings.name)?;
    // Before anything is told: what is told then is no difference any more.
    notes.extend(restarts(host, settings, container)?);
    for action in &actions {
        match action {
            Action::Create => create::create(host, settings, container, said)?,
            Action::Tell => {
                let change = run::refresh(host, settings, container)?;
                if let (State::Running(pid), Some(before)) = (state, &change.before) {
                    said(Line::Stage("carrying its new settings over"));
                    port::carry_over(pid, before, settings)?;
                }
            }
            Action::Start => {
                if run::start(host, settings, container, said)? == Started::Waiting {
                    notes.push(not_ready(settings));
                }
            }
            Action::Plug => {
                if !port::is_there(&settings.port)? {
                    return Err(GuestError::InTheWay {
                        operation: format!("plug in {}", settings.name),
                        why: format!(
                            "it runs without a port {} here: `warren guest restart {}` gives it one",
                            settings.port, settings.name
                        ),
                    });
                }
                said(Line::Stage("plugging it in"));
                port::plug(settings)?;
            }
            // `up` stops nobody.
            Action::Stop => {}
        }
    }
    Ok(actions)
}

/// The line for a guest that runs without its addresses.
#[must_use]
pub fn not_ready(settings: &Settings) -> String {
    format!(
        "it runs, but after {} s it has not all its addresses; `warren guest shell {}` to see why",
        run::READY.as_secs(),
        settings.name
    )
}
