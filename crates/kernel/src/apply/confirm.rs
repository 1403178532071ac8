//! A network that awaits its confirmation: noted before the first step, so that whatever happens to whoever brought it
//! up, a watchdog puts back what was.

use std::time::Duration;

use model::network::Network;

use super::{ApplyError, Engine, PATIENCE, Report};
use crate::journal::{Boot, Kept, Pending, Prior, Record, StoreError, boot_clock, fingerprint};

/// How often a watchdog looks whether it is still needed.
const WATCH: Duration = Duration::from_millis(200);

/// What `up` may take beyond the time for the confirmation, which begins anew once the network is up.
const MARGIN: Duration = Duration::from_secs(60);

/// How an `up` is watched over.
pub struct Confirm<'a> {
    /// How long it waits for its confirmation.
    pub patience: Duration,
    /// Starts the watchdog of that run ([`Engine::watch_over`]), and returns once it watches.
    pub arm: &'a mut dyn FnMut(u64) -> Result<(), String>,
    /// Says what does not hold once the network is up; then what was is put back at once.
    pub holds: &'a mut dyn FnMut() -> Result<(), String>,
}

/// What stands in our files about the confirmation while an `up` runs.
#[derive(Clone, Debug, Default)]
pub struct Vigil {
    /// What awaited its confirmation before.
    before: Option<Pending>,
    /// What does now.
    now: Option<Pending>,
    /// What a boot would have brought up.
    boot: Boot,
}

/// What became of a `confirm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The network stays.
    Kept,
    /// Nothing awaited it, and a network is up.
    NothingPending,
    /// No network is up.
    NothingUp,
    /// What was is back already: why.
    TooLate(String),
}

/// What a boot brings up of a record.
pub(super) fn kept(record: &Record) -> Option<Kept> {
    let network = record.network.as_ref();
    (!record.text.is_empty()).then(|| Kept {
        config: record.config.clone(),
        text: record.text.clone(),
        uplink: network.map(|network| network.uplink.name.clone()),
        learners: network.map(|network| network.learners.clone()).unwrap_or_default(),
    })
}

impl Engine {
    /// What awaits its confirmation.
    pub fn pending(&self) -> Result<Option<Pending>, ApplyError> {
        match self.store.pending() {
            // Nobody knows any more until when: its time is over.
            Err(StoreError::Damaged { .. }) => {
                let previous = self.store.previous()?;
                Ok(previous.map(|previous| Pending { prior: previous.prior, deadline: 0, seconds: 0 }))
            }
            other => Ok(other?),
        }
    }

    /// What a boot brings up.
    pub fn boot(&self) -> Result<Boot, ApplyError> {
        Ok(self.store.boot()?)
    }

    /// Whether `network`, which `text` says, changes the uplink itself and was never kept before: then it is not to
    /// come up unwatched.
    pub fn wants_confirmation(&self, network: &Network, text: &str) -> Result<bool, ApplyError> {
        let running = self.store.record()?.and_then(|record| record.network);
        let before = running.as_ref().map(Network::uplink_bridges).unwrap_or_default();
        Ok(before != network.uplink_bridges() && !self.store.boot()?.has_confirmed(text))
    }

    /// Notes, before the first step, that what follows is put back unless it is confirmed, and has it watched.
    pub(super) fn begin_vigil(
        &self,
        prior: &Prior,
        text: &str,
        changes: bool,
        confirm: &mut Option<Confirm>,
    ) -> Result<Vigil, ApplyError> {
        let before = self.pending()?;
        let mut vigil = Vigil { now: before.clone(), before, boot: self.store.boot()? };
        let Some(confirm) = confirm.as_mut().filter(|_| changes) else {
            return match &vigil.before {
                Some(pending) if changes => Err(ApplyError::Pending { left: pending.left().map_or(0, seconds) }),
                _ => Ok(vigil),
            };
        };
        // What nobody has confirmed yet is not what one returns to.
        let prior = vigil.before.as_ref().map_or(prior, |pending| &pending.prior).clone();
        let (run, deadline) = (prior.run, deadline(confirm.patience + MARGIN));
        let pending = Pending { prior, deadline, seconds: confirm.patience.as_secs() };
        if !text.is_empty() {
            self.store.write_boot(&Boot { refused: Some(fingerprint(text)), ..vigil.boot.clone() })?;
        }
        self.store.write_pending(Some(&pending))?;
        vigil.now = Some(pending);
        // What an earlier watchdog has said is not this one's word.
        self.store.write_watched(None)?;
        if let Err(why) = (confirm.arm)(run) {
            self.end_vigil(vigil)?;
            return Err(ApplyError::Unwatched(why));
        }
        Ok(vigil)
    }

    /// Nothing was changed after all: our files say what they said before.
    pub(super) fn end_vigil(&self, vigil: Vigil) -> Result<(), StoreError> {
        if vigil.before == vigil.now {
            return Ok(());
        }
        self.store.write_pending(vigil.before.as_ref())?;
        self.store.write_boot(&vigil.boot)
    }

    /// The network is up: it is kept, or awaits its confirmation from now on. Says how long.
    pub(super) fn keep(&self, vigil: &Vigil, text: &str, report: &Report) -> Result<Option<Duration>, ApplyError> {
        self.store.write_put_back(None)?;
        if let (Some(pending), false) = (&vigil.now, report.done.is_empty()) {
            let patience = Duration::from_secs(pending.seconds);
            let pending = Pending { deadline: deadline(patience), ..pending.clone() };
            // What one returns to stays what it was before the first of several.
            if vigil.before.is_some() {
                self.store.remove_journal()?
            } else {
                self.store.keep_journal()?
            }
            self.store.write_pending(Some(&pending))?;
            return Ok(Some(patience));
        }
        if report.done.is_empty() {
            self.store.remove_journal()?
        } else {
            self.store.keep_journal()?
        }
        if vigil.now.is_none() && !text.is_empty() {
            let record = self.store.record()?;
            self.note_kept(record.as_ref())?;
        }
        Ok(None)
    }

    fn note_kept(&self, record: Option<&Record>) -> Result<(), StoreError> {
        let before = self.store.boot()?;
        let confirmed = record.and_then(kept);
        // One text that was kept says nothing of another that was not.
        let own = confirmed.as_ref().map(|kept| fingerprint(&kept.text));
        let boot = Boot { confirmed, refused: before.refused.clone().filter(|refused| own.as_ref() != Some(refused)) };
        if boot == before { Ok(()) } else { self.store.write_boot(&boot) }
    }

    /// Keeps what awaits its confirmation.
    pub fn confirm(&self) -> Result<Answer, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        if let Some(why) = self.recover()? {
            return Ok(Answer::TooLate(why));
        }
        let record = self.store.record()?;
        if self.pending()?.is_none() {
            return Ok(match (self.store.put_back()?, record) {
                (Some(why), _) => Answer::TooLate(why),
                (None, Some(_)) => Answer::NothingPending,
                (None, None) => Answer::NothingUp,
            });
        }
        self.note_kept(record.as_ref())?;
        self.store.write_pending(None)?;
        Ok(Answer::Kept)
    }

    /// Nothing is up any more, and nothing awaits anything. What must not come up unwatched, and what has been found to
    /// be good for an uplink, stays known.
    pub(super) fn forget_all(&self) -> Result<(), StoreError> {
        let mut boot = self.store.boot()?;
        let moves_uplink = self.store.record()?.and_then(|r| r.network).is_some_and(|n| !n.uplink_bridges().is_empty());
        if !moves_uplink {
            boot.confirmed = None;
        }
        self.store.remove_record()?;
        self.store.remove_baseline()?;
        // Killed before this, the next run undoes; after it, nothing is left to undo.
        self.store.remove_journal()?;
        self.store.remove_previous()?;
        self.store.write_pending(None)?;
        self.store.write_put_back(None)?;
        self.store.write_watched(None)?;
        self.store.write_boot(&boot)
    }

    /// The run that a watchdog says it watches over.
    pub fn watched(&self) -> Result<Option<u64>, ApplyError> {
        Ok(self.store.watched()?)
    }

    /// The watchdog: stays until what awaits its confirmation has it, or puts back what was. Says what it did; nothing
    /// where it was not needed. It holds what it needs in memory: where the folder of our files is
    /// taken away the network comes back all the same. `before` is called before it changes anything.
    pub fn watch_over(&self, before: impl Fn()) -> Result<Option<String>, ApplyError> {
        let Some(mut pending) = self.pending()? else { return Ok(None) };
        self.store.write_watched(Some(pending.prior.run))?;
        loop {
            match self.pending() {
                Ok(Some(now)) => pending = now,
                Ok(None) if self.store.is_there() => return Ok(None),
                // Our files are gone, or cannot be read: what is known goes on to hold. The last word on the deadline may
                // not have been heard, so no more time is given from here on than was asked for.
                Ok(None) | Err(_) => {
                    let patience = Duration::from_secs(pending.seconds);
                    pending.deadline = pending.deadline.min(deadline(patience));
                }
            }
            if pending.left().is_none() {
                before();
                match self.bite(&pending) {
                    Ok(Some(why)) => return Ok(Some(why)),
                    Ok(None) => {}
                    // Another warren is at it, or the kernel would not: again, until it is done.
                    Err(_) => std::thread::sleep(Duration::from_secs(1)),
                }
            }
            std::thread::sleep(WATCH);
        }
    }

    /// Puts back what was, unless somebody has confirmed it, or put it back, at the last moment.
    fn bite(&self, pending: &Pending) -> Result<Option<String>, ApplyError> {
        let _lock = self.store.lock(PATIENCE)?;
        if self.store.is_there() { self.recover() } else { self.put_back_unconfirmed(pending).map(Some) }
    }
}

fn deadline(patience: Duration) -> u64 {
    boot_clock() + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Rounded up: a wait of which there is a half second left is not over.
fn seconds(left: Duration) -> u64 {
    left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
