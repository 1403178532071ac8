//! What other resolvers answered, remembered for as long as they said.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::wire::{Answer, Name, Query};

/// How much is remembered, in bytes.
const ROOM: usize = 2 << 20;
/// What an entry takes besides its bytes.
const OVERHEAD: usize = 160;

/// What distinguishes answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    kind: u16,
    class: u16,
    dnssec: bool,
    unchecked: bool,
}

impl Key {
    /// Of a question.
    #[must_use]
    pub fn of(query: &Query) -> Self {
        Self {
            name: query.name.to_ascii_lowercase(),
            kind: query.kind,
            class: query.class,
            dnssec: query.edns.is_some_and(|edns| edns.dnssec),
            unchecked: query.unchecked,
        }
    }
}

/// The memory of a LAN's questions: LANs may have other resolvers, who know other things.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, (Rc<Answer>, Instant)>,
    bytes: usize,
}

impl Cache {
    /// What is remembered, with its age in seconds.
    #[must_use]
    pub fn get(&self, key: &Key, now: Instant) -> Option<(Rc<Answer>, u32)> {
        let (answer, since) = self.entries.get(key)?;
        let age = u32::try_from(now.duration_since(*since).as_secs()).ok()?;
        (age < answer.lifetime).then(|| (Rc::clone(answer), age))
    }

    /// Remembers an answer for its lifetime.
    pub fn put(&mut self, key: Key, answer: &Rc<Answer>, now: Instant) {
        if answer.lifetime == 0 || answer.truncated {
            return;
        }
        let size = size(&key, answer);
        if let Some((old, _)) = self.entries.remove(&key) {
            self.bytes -= crate::dns::cache::size(&key, &old);
        }
        if self.bytes + size > ROOM {
            self.make_room(now);
        }
        self.bytes += size;
        self.entries.insert(key, (Rc::clone(answer), now));
    }

    /// Forgets what is over, and where that is not a quarter, others as they come.
    fn make_room(&mut self, now: Instant) {
        let is_over = |(answer, since): &(Rc<Answer>, Instant)| {
            now.duration_since(*since).as_secs() >= u64::from(answer.lifetime)
        };
        self.entries.retain(|_, entry| !is_over(entry));
        self.bytes = self.entries.iter().map(|(key, (answer, _))| size(key, answer)).sum();
        let mut bytes = self.bytes;
        self.entries.retain(|key, (answer, _)| {
            let stays = bytes <= ROOM / 4 * 3;
            if !stays {
                bytes -= size(key, answer);
            }
            stays
        });
        self.bytes = bytes;
    }
}

fn size(key: &Key, answer: &Answer) -> usize {
    key.name.len() + answer.size() + OVERHEAD
}
