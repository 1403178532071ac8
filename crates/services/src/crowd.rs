//! How many there are at once, in all and of each client.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

/// Those who are here, counted by who they are.
#[derive(Debug)]
pub struct Crowd<K> {
    all: Cell<usize>,
    of: RefCell<HashMap<K, usize>>,
}

impl<K> Default for Crowd<K> {
    fn default() -> Self {
        Self { all: Cell::new(0), of: RefCell::default() }
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place<'a, K: Copy + Eq + Hash> {
    crowd: &'a Crowd<K>,
    client: K,
}

impl<K: Copy + Eq + Hash> Crowd<K> {
    /// A place for one more of `client`'s, where there are fewer than `all`, and fewer than `of_one` of its own.
    pub fn enter(&self, client: K, all: usize, of_one: usize) -> Option<Place<'_, K>> {
        let mut of = self.of.borrow_mut();
        let own = of.get(&client).copied().unwrap_or(0);
        if self.all.get() >= all || own >= of_one {
            return None;
        }
        self.all.set(self.all.get() + 1);
        of.insert(client, own + 1);
        Some(Place { crowd: self, client })
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<'_, K> {
    fn drop(&mut self) {
        self.crowd.all.set(self.crowd.all.get().saturating_sub(1));
        let mut of = self.crowd.of.borrow_mut();
        if let Some(count) = of.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_and_gives_it_back() {
        let crowd = Crowd::default();
        let first = crowd.enter("a", 3, 2);
        let second = crowd.enter("a", 3, 2);
        assert!(first.is_some() && second.is_some());
        assert!(crowd.enter("a", 3, 2).is_none(), "its share is taken");
        let other = crowd.enter("b", 3, 2);
        assert!(other.is_some());
        assert!(crowd.enter("c", 3, 2).is_none(), "all are here");
        drop(first);
        assert!(crowd.enter("a", 3, 2).is_some());
    }
}
