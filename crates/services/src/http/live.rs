//! What is served now: the sites with their guests. A reload makes another one, and takes over what stays.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use model::network::Site;
use model::sites::choose::{Candidate, pick};
use model::sites::{Sites, Table};

use super::health;
use super::upstream::{Backend, Key};

/// The sites as they are served.
#[derive(Debug, Default)]
pub struct Live {
    /// What they mean.
    pub sites: Sites,
    /// By name.
    pub table: Table,
    /// Each guest once.
    pub backends: Vec<Rc<Backend>>,
    served: Vec<Served>,
}

#[derive(Debug)]
struct Served {
    backends: Vec<Rc<Backend>>,
    turn: Cell<usize>,
}

impl Live {
    /// `sites` in place of `before`: guests that are the same stay, with all that is known of them.
    #[must_use]
    pub fn follow(before: &Self, sites: &Sites, away: &BTreeSet<String>) -> Self {
        let mut live = Self { sites: sites.clone(), table: Table::of(&sites.sites), ..Self::default() };
        for site in &sites.sites {
            let keys = site.to.iter().filter_map(|to| {
                let key = Key {
                    guest: to.guest.clone(),
                    place: sites.place(to)?,
                    upstream: site.upstream,
                    proxy_protocol: site.proxy_protocol,
                    health: site.health.clone(),
                };
                Some(key)
            });
            let backends = keys.collect::<Vec<_>>().into_iter().map(|key| live.backend(before, key, away)).collect();
            live.served.push(Served { backends, turn: Cell::new(0) });
        }
        live
    }

    fn backend(&mut self, before: &Self, key: Key, away: &BTreeSet<String>) -> Rc<Backend> {
        let mut known = self.backends.iter().chain(&before.backends);
        if let Some(backend) = known.find(|backend| backend.key == key) {
            let backend = Rc::clone(backend);
            if !self.backends.iter().any(|other| Rc::ptr_eq(other, &backend)) {
                self.backends.push(Rc::clone(&backend));
            }
            return backend;
        }
        let backend = Rc::new(Backend::new(key));
        backend.set_away(away.contains(&backend.key.guest));
        health::watch(&backend);
        self.backends.push(Rc::clone(&backend));
        backend
    }

    /// A site by its place.
    #[must_use]
    pub fn site(&self, nth: usize) -> Option<&Site> {
        self.sites.sites.get(nth)
    }

    /// The guest that a request of that client goes to; none that it was sent to already.
    #[must_use]
    pub fn choose(&self, site: usize, client: IpAddr, tried: &[Rc<Backend>]) -> Option<Rc<Backend>> {
        let balance = self.site(site)?.balance;
        let served = self.served.get(site)?;
        let turn = served.turn.get();
        served.turn.set(turn.wrapping_add(1));
        let candidates = served.backends.iter().map(|backend| Candidate {
            name: &backend.key.guest,
            usable: backend.is_usable() && !tried.iter().any(|other| Rc::ptr_eq(other, backend)),
            busy: backend.busy.get(),
        });
        served.backends.get(pick(balance, candidates, turn, client)?).cloned()
    }

    /// Which guests are unplugged.
    pub fn away(&self, guests: &BTreeSet<String>) {
        self.backends.iter().for_each(|backend| backend.set_away(guests.contains(&backend.key.guest)));
    }
}
