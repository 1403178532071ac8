//! When to advertise (RFC 4861, 6.2.4 and 6.2.6). Pure; times in milliseconds from any beginning.

/// Between two that nobody asked for, at most and at least.
const MOST: u64 = 600_000;
const LEAST: u64 = 200_000;
/// The first few come sooner.
const FIRST: u64 = 16_000;
const FIRSTS: u32 = 3;
/// An answer waits so long at most, so that one is for all who ask at the same time.
const DELAY: u64 = 500;
/// After one that could not be sent.
const AGAIN: u64 = 1_000;
/// Between any two.
const BETWEEN: u64 = 3_000;

/// When the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    sent: u32,
    last: Option<u64>,
    due: u64,
}

impl Schedule {
    /// The first is due at once.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self { sent: 0, last: None, due: now }
    }

    /// When to send.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Somebody has asked. `chance` is drawn anew each time.
    pub fn asked(&mut self, now: u64, chance: u64) {
        let soonest = self.last.map_or(now, |last| now.max(last + BETWEEN));
        self.due = self.due.min(soonest + chance % DELAY);
    }

    /// What is told has changed.
    pub fn changed(&mut self, now: u64) {
        self.sent = 0;
        self.due = self.due.min(self.last.map_or(now, |last| now.max(last + BETWEEN)));
    }

    /// One could not be sent.
    pub fn failed(&mut self, now: u64) {
        self.due = now + AGAIN;
    }

    /// One was sent.
    pub fn sent(&mut self, now: u64, chance: u64) {
        self.sent = self.sent.saturating_add(1);
        self.last = Some(now);
        let wait = LEAST + chance % (MOST - LEAST);
        self.due = now + if self.sent < FIRSTS { wait.min(FIRST) } else { wait };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_hundreds_of_them_and_a_flood_of_questions_few_more() {
        let day = 24 * 3600 * 1000;
        let run = |asks_each: u64| {
            let (mut schedule, mut sent, mut last) = (Schedule::new(0), 0, None::<u64>);
            let mut now = 0;
            while now < day {
                if schedule.due() <= now {
                    assert!(last.is_none_or(|last| now - last >= BETWEEN), "two within three seconds");
                    (sent, last) = (sent + 1, Some(now));
                    schedule.sent(now, now.wrapping_mul(2_654_435_761));
                }
                if asks_each > 0 && now % asks_each == 0 {
                    schedule.asked(now, now.wrapping_mul(40_503));
                }
                now += 100;
            }
            sent
        };
        assert!((144..=434).contains(&run(0)), "{}", run(0));
        assert!(run(100) <= day / BETWEEN + 1);
        assert!(run(60_000) >= 1440, "who asks each minute is answered each minute");
    }
}
