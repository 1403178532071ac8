//! Who gets which address. Pure: a question, what is known, the time in; actions out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::address::Mac;
use model::services::{Dhcp, LanServices};

use super::leases::Lease;
use super::wire::{Answer, Ask, Kind};

/// How long a lease is, in seconds.
pub const LIFETIME: u32 = 12 * 3600;
/// How long an offer holds an address, in seconds.
const OFFER: u64 = 20;
/// How long an address that somebody else was seen to have is left alone, in seconds.
const TAKEN: u64 = 600;
/// New addresses that may be given at once, and how many more each second: a client that takes names by the hundred
/// gets no further, and two hundred that start together get all they need.
const BURST: u32 = 256;
const A_SECOND: u32 = 20;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer.
    Answer(Answer),
    /// Ask the LAN whether the address is somebody's, and come back with [`Table::probed`].
    Probe(Ipv4Addr),
    /// Write it down, before any answer of the same question goes out.
    Record(Lease),
    /// Count it.
    Count(Count),
}

/// What is counted besides answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The client names another's hardware address.
    WrongMac,
    /// No address is left.
    Exhausted,
    /// Too many new ones at once.
    Limited,
    /// A client found its address taken.
    Declined,
    /// We did, before.
    Conflict,
}

/// What is known of a LAN's range.
#[derive(Clone, Debug, Default)]
pub struct Table {
    leases: BTreeMap<Ipv4Addr, Lease>,
    offers: BTreeMap<Ipv4Addr, Offer>,
    /// Addresses that somebody has whom we did not give them, until when.
    taken: BTreeMap<Ipv4Addr, u64>,
    budget: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
struct Offer {
    mac: Mac,
    until: u64,
    /// Its question, while the LAN is asked whether the address is free.
    asked: Option<Ask>,
}

impl Table {
    /// The leases that hold at `now`.
    pub fn leases(&self, now: u64) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(move |lease| lease.until > now)
    }

    /// Takes over a lease that was given before.
    pub fn restore(&mut self, lease: Lease) {
        self.leases.insert(lease.address, lease);
    }

    /// Forgets what `lan` does not allow any more.
    pub fn keep_within(&mut self, lan: &LanServices) {
        let fits = |address: Ipv4Addr| {
            let dhcp = lan.dhcp.as_ref();
            dhcp.is_some_and(|dhcp| dhcp.range.is_some_and(|r| r.contains(address)) && !dhcp.taken.contains(&address))
        };
        self.leases.retain(|address, _| fits(*address));
        self.offers.retain(|address, _| fits(*address));
        let named: Vec<String> = names(lan).map(str::to_ascii_lowercase).collect();
        for lease in self.leases.values_mut() {
            if lease.name.as_ref().is_some_and(|name| named.contains(name)) {
                lease.name = None;
            }
        }
    }

    /// What a question leads to.
    pub fn asked(&mut self, lan: &LanServices, ask: &Ask, now: u64) -> Vec<Action> {
        let Some(dhcp) = &lan.dhcp else { return Vec::new() };
        if ask.sender != ask.client {
            return vec![Action::Count(Count::WrongMac)];
        }
        self.forget_old(now);
        if let Some(host) = lan.host_of(ask.client) {
            // One whom the file gives no IPv4 address gets none of anybody else's.
            let Some(own) = host.address4(dhcp.subnet) else { return Vec::new() };
            return known(dhcp, ask, own);
        }
        match ask.kind {
            Kind::Discover => self.discover(dhcp, ask, now),
            Kind::Request => self.request(lan, dhcp, ask, now),
            Kind::Decline => self.decline(dhcp, ask, now),
            Kind::Release => self.release(ask),
            Kind::Inform => vec![inform(ask)],
            Kind::Offer | Kind::Ack | Kind::Nak => Vec::new(),
        }
    }

    /// The LAN was asked whether an address is free.
    pub fn probed(&mut self, lan: &LanServices, address: Ipv4Addr, holder: Option<Mac>, now: u64) -> Vec<Action> {
        let Some(dhcp) = &lan.dhcp else { return Vec::new() };
        let Some(offer) = self.offers.get_mut(&address) else { return Vec::new() };
        let Some(ask) = offer.asked.take() else { return Vec::new() };
        if holder.is_none_or(|holder| holder == ask.client) {
            offer.until = now + OFFER;
            return vec![offered(&ask, address)];
        }
        self.offers.remove(&address);
        self.taken.insert(address, now + TAKEN);
        let mut actions = vec![Action::Count(Count::Conflict)];
        actions.extend(self.discover(dhcp, &ask, now));
        actions
    }

    fn forget_old(&mut self, now: u64) {
        self.leases.retain(|_, lease| lease.until > now);
        self.offers.retain(|_, offer| offer.until > now);
        self.taken.retain(|_, until| *until > now);
    }

    fn of(&self, mac: Mac) -> Option<Ipv4Addr> {
        let leased = self.leases.values().find(|lease| lease.mac == mac).map(|lease| lease.address);
        leased.or_else(|| self.offers.iter().find(|(_, offer)| offer.mac == mac).map(|(address, _)| *address))
    }

    fn discover(&mut self, dhcp: &Dhcp, ask: &Ask, now: u64) -> Vec<Action> {
        if let Some(address) = self.of(ask.client) {
            // While the LAN is asked, one answer is on its way already.
            let asking = self.offers.get(&address).is_some_and(|offer| offer.asked.is_some());
            return if asking { Vec::new() } else { vec![offered(ask, address)] };
        }
        let Some(address) = self.free(dhcp, ask) else {
            return dhcp.range.map(|_| Action::Count(Count::Exhausted)).into_iter().collect();
        };
        if !self.afford(now) {
            return vec![Action::Count(Count::Limited)];
        }
        self.offers.insert(address, Offer { mac: ask.client, until: now + OFFER, asked: Some(ask.clone()) });
        vec![Action::Probe(address)]
    }

    /// A free address: the one that it wants, else one that follows from its hardware address, else the next.
    fn free(&self, dhcp: &Dhcp, ask: &Ask) -> Option<Ipv4Addr> {
        let range = dhcp.range?;
        let is_free = |address: &Ipv4Addr| {
            range.contains(*address)
                && !dhcp.taken.contains(address)
                && !self.leases.contains_key(address)
                && !self.offers.contains_key(address)
                && !self.taken.contains_key(address)
        };
        if let Some(wanted) = ask.wants.filter(is_free) {
            return Some(wanted);
        }
        let [.., b, c, d, e, f] = ask.client.0;
        let start = u64::from(u32::from_be_bytes([c, d, e, f]).wrapping_mul(2_654_435_761) ^ u32::from(b));
        let first = u32::from(range.first);
        let count = range.count();
        // Of more addresses than are taken at all, one is free; a range of millions is not walked.
        let used = dhcp.taken.len() + self.leases.len() + self.offers.len() + self.taken.len();
        (0..count.min(used as u64 + 1))
            .filter_map(|nth| u32::try_from((start + nth) % count).ok())
            .map(|offset| Ipv4Addr::from(first + offset))
            .find(is_free)
    }

    fn afford(&mut self, now: u64) -> bool {
        let (left, since) = self.budget.unwrap_or((BURST, now));
        let earned = u32::try_from(now.saturating_sub(since)).unwrap_or(u32::MAX).saturating_mul(A_SECOND);
        let left = left.saturating_add(earned).min(BURST);
        self.budget = Some((left.saturating_sub(1), now));
        left > 0
    }

    fn request(&mut self, lan: &LanServices, dhcp: &Dhcp, ask: &Ask, now: u64) -> Vec<Action> {
        if ask.server.is_some_and(|server| server != dhcp.server) {
            // It has chosen another server's offer.
            self.offers.retain(|_, offer| offer.mac != ask.client);
            return Vec::new();
        }
        let Some(address) = ask.wants.or(ask.has) else { return Vec::new() };
        if self.of(ask.client) != Some(address) {
            return vec![denied(ask)];
        }
        self.offers.remove(&address);
        let name = ask.name.clone().filter(|name| self.is_free_name(lan, name, ask.client));
        let until = now + u64::from(LIFETIME);
        let lease = Lease { lan: lan.bridge.clone(), address, mac: ask.client, name, until };
        self.leases.insert(address, lease.clone());
        vec![Action::Record(lease), given(ask, address)]
    }

    /// Nobody of the file's has it, nor another client.
    fn is_free_name(&self, lan: &LanServices, name: &str, mac: Mac) -> bool {
        let of_file = names(lan).any(|known| known.eq_ignore_ascii_case(name)) || name == "localhost";
        let of_other = self.leases.values().any(|lease| lease.mac != mac && lease.name.as_deref() == Some(name));
        !of_file && !of_other
    }

    fn decline(&mut self, dhcp: &Dhcp, ask: &Ask, now: u64) -> Vec<Action> {
        let mine = ask.wants.filter(|address| self.of(ask.client) == Some(*address));
        let Some(address) = mine.filter(|_| ask.server.is_none_or(|server| server == dhcp.server)) else {
            return Vec::new();
        };
        self.offers.remove(&address);
        self.taken.insert(address, now + TAKEN);
        let mut actions = vec![Action::Count(Count::Declined)];
        actions.extend(self.leases.remove(&address).map(ended));
        actions
    }

    fn release(&mut self, ask: &Ask) -> Vec<Action> {
        let mine = ask.has.filter(|address| self.leases.get(address).is_some_and(|lease| lease.mac == ask.client));
        mine.and_then(|address| self.leases.remove(&address)).map(ended).into_iter().collect()
    }
}

fn names(lan: &LanServices) -> impl Iterator<Item = &str> {
    lan.hosts.iter().flat_map(|host| std::iter::once(&host.name).chain(&host.aliases)).map(String::as_str)
}

/// A station of the file's has one address, and nobody can take it from it.
fn known(dhcp: &Dhcp, ask: &Ask, own: Ipv4Addr) -> Vec<Action> {
    match ask.kind {
        Kind::Discover => vec![offered(ask, own)],
        Kind::Request if ask.server.is_some_and(|server| server != dhcp.server) => Vec::new(),
        Kind::Request => match ask.wants.or(ask.has) {
            Some(wanted) if wanted == own => vec![given(ask, own)],
            Some(_) => vec![denied(ask)],
            None => Vec::new(),
        },
        Kind::Decline => vec![Action::Count(Count::Declined)],
        Kind::Inform => vec![inform(ask)],
        Kind::Release | Kind::Offer | Kind::Ack | Kind::Nak => Vec::new(),
    }
}

fn ended(lease: Lease) -> Action {
    Action::Record(Lease { until: 0, ..lease })
}

fn offered(ask: &Ask, address: Ipv4Addr) -> Action {
    answer(Kind::Offer, ask, Some(address), Some(LIFETIME))
}

fn given(ask: &Ask, address: Ipv4Addr) -> Action {
    answer(Kind::Ack, ask, Some(address), Some(LIFETIME))
}

fn denied(ask: &Ask) -> Action {
    answer(Kind::Nak, ask, None, None)
}

fn inform(ask: &Ask) -> Action {
    answer(Kind::Ack, ask, None, None)
}

fn answer(kind: Kind, ask: &Ask, yours: Option<Ipv4Addr>, lifetime: Option<u32>) -> Action {
    Action::Answer(Answer { kind, to: ask.clone(), yours, lifetime })
}
