//! When a running `serve` looks after its network, and how soon it repairs again what somebody keeps undoing.
//!
//! Times are what has passed since any one moment, told by the caller: nothing here has a clock.

use std::collections::VecDeque;
use std::time::Duration;

/// A change of the kernel's is told in several messages; so long is waited for the rest of them.
pub const SETTLE: Duration = Duration::from_millis(2);
/// After a look that found nothing to do: other programs may change their own things often, and looking costs. The
/// first such pause is short, and each further one twice as long.
pub const BREATH: Duration = Duration::from_millis(5);
/// No such pause is longer.
pub const DEEPEST: Duration = Duration::from_millis(80);
/// Looks further apart than this have nothing to do with each other.
pub const CALM: Duration = Duration::from_secs(1);
/// What tells nobody that it changed is found by looking now and then.
pub const ROUND: Duration = Duration::from_secs(30);
/// So many repairs within [`WINDOW`] are no accidents.
pub const PATIENCE: usize = 5;
/// See [`PATIENCE`].
pub const WINDOW: Duration = Duration::from_secs(10);
/// The first pause of a fight; each further repair doubles it.
pub const PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Somebody undoes what is repaired, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fight {
    /// Repairs within [`WINDOW`], or since the fight began.
    pub repairs: usize,
    /// How long the next repair waits.
    pub pause: Duration,
}

/// When the next look is due.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// The earliest moment of the next look.
    not_before: Duration,
    /// When one is due because of what was heard.
    due: Option<Duration>,
    /// The last look.
    looked: Duration,
    /// The pause after the last look, where that found nothing to do.
    breath: Duration,
    /// Repairs of late.
    repairs: VecDeque<Duration>,
    /// The present pause of a fight; none while there is none.
    pause: Option<Duration>,
    /// Repairs in this fight.
    fought: usize,
}

impl Pace {
    /// Something has changed.
    pub fn disturbed(&mut self, now: Duration) {
        self.due.get_or_insert((now + SETTLE).max(self.not_before));
    }

    /// When to look next.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.due.unwrap_or(self.looked + ROUND).max(self.not_before)
    }

    /// A look has ended at `now`, and something was repaired or not. Tells a fight when it begins or gets worse.
    pub fn looked(&mut self, now: Duration, repaired: bool) -> Option<Fight> {
        let first = repaired || self.breath.is_zero() || self.looked + CALM <= now;
        self.breath = if first { BREATH } else { (2 * self.breath).clamp(BREATH, DEEPEST) };
        (self.due, self.looked) = (None, now);
        self.not_before = now + self.breath;
        while self.repairs.front().is_some_and(|&at| at + WINDOW < now) {
            self.repairs.pop_front();
        }
        if !repaired {
            // As long a calm as twice the pause, and it is over.
            if self.pause.is_some_and(|pause| self.repairs.back().is_none_or(|&at| at + 2 * pause < now)) {
                (self.pause, self.fought) = (None, 0);
            }
            return None;
        }
        // What is repaired may be broken the moment after, without any pause.
        self.not_before = now;
        self.repairs.push_back(now);
        if self.pause.is_none() && self.repairs.len() < PATIENCE {
            return None;
        }
        self.fought = (self.fought + 1).max(self.repairs.len());
        let pause = self.pause.map_or(PAUSE, |pause| (2 * pause).min(LONGEST));
        self.pause = Some(pause);
        self.not_before = now + pause;
        Some(Fight { repairs: self.fought, pause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_disturbance_is_looked_at_at_once() {
        let mut pace = Pace::default();
        assert_eq!(pace.looked(ms(0), false), None);
        assert_eq!(pace.due(), ROUND);
        pace.disturbed(ms(1000));
        assert_eq!(pace.due(), ms(1000) + SETTLE);
        // More of the same does not put it off.
        pace.disturbed(ms(1001));
        assert_eq!(pace.due(), ms(1000) + SETTLE);
        assert_eq!(pace.looked(ms(1005), true), None);
        // The next one is, too.
        pace.disturbed(ms(1006));
        assert_eq!(pace.due(), ms(1006) + SETTLE);
    }

    #[test]
    fn others_business_is_not_looked_at_all_the_time() {
        let mut pace = Pace::default();
        let mut looks = 0;
        for now in (0..10_000).map(ms) {
            pace.disturbed(now);
            if pace.due() <= now {
                assert_eq!(pace.looked(now, false), None);
                looks += 1;
            }
        }
        assert!((100..=150).contains(&looks), "{looks}");
    }

    #[test]
    fn what_is_broken_right_after_others_business_is_seen_soon() {
        let mut pace = Pace::default();
        pace.disturbed(ms(5000));
        assert_eq!(pace.looked(ms(5010), false), None);
        pace.disturbed(ms(5011));
        assert_eq!(pace.due(), ms(5010) + BREATH);
        // However long that business goes on.
        for now in (5011..9000).map(ms) {
            pace.disturbed(now);
            assert!(pace.due() <= now + DEEPEST, "{:?} at {now:?}", pace.due());
            if pace.due() <= now {
                assert_eq!(pace.looked(now, false), None);
            }
        }
        // And after a while it is forgotten.
        assert_eq!(pace.looked(ms(12_000), false), None);
        pace.disturbed(ms(12_001));
        assert_eq!(pace.due(), ms(12_000) + BREATH);
    }

    #[test]
    fn who_fights_back_is_answered_ever_less_often_and_told_of() {
        let mut pace = Pace::default();
        let (mut repairs, mut fights) = (Vec::new(), Vec::new());
        for now in (0..600_000).map(ms) {
            pace.disturbed(now);
            if pace.due() <= now {
                fights.extend(pace.looked(now, true));
                repairs.push(now);
            }
        }
        assert!(repairs.len() < 25, "{} repairs in ten minutes", repairs.len());
        assert_eq!(fights[0], Fight { repairs: PATIENCE, pause: PAUSE });
        assert!(fights.windows(2).all(|f| f[0].repairs < f[1].repairs && f[0].pause <= f[1].pause), "{fights:?}");
        assert_eq!(fights.last().map(|f| f.pause), Some(LONGEST));
    }

    #[test]
    fn a_fight_that_ended_is_forgotten() {
        let mut pace = Pace::default();
        for n in 0..PATIENCE as u64 {
            pace.looked(ms(10 * n), true);
        }
        pace.disturbed(ms(100));
        assert!(pace.due() > ms(1000));
        assert_eq!(pace.looked(ms(2000), false), None);
        pace.looked(ms(20_000), false);
        pace.disturbed(ms(30_000));
        assert_eq!(pace.due(), ms(30_000) + SETTLE);
        assert_eq!(pace.looked(ms(30_003), true), None, "a single one again");
    }

    #[test]
    fn nothing_heard_is_looked_at_each_round() {
        let mut pace = Pace::default();
        let mut looks = 0;
        for now in (0..300).map(Duration::from_secs) {
            if pace.due() <= now {
                pace.looked(now, false);
                looks += 1;
            }
        }
        assert_eq!(looks, 9);
    }
}
