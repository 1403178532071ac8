//! What our tables have counted, put together for LANs, guests and forwards.

use kernel::nft::{Counts, Tally};
use model::address::IfName;
use model::network::{Forward, Guest, Lan, Network};
use model::ruleset::{
    BEGUN, DROPPED_FROM, DROPPED_TO, KeyPart, RECEIVED, REFUSED, SENT, TAKEN, TRIES, Try, Value, counted_by,
};
use model::state::{State, TableState};
use serde_json::{Value as Json, json};

use crate::context::Failure;
use crate::output;

/// What was counted.
pub struct Counters(Tally);

impl Counters {
    /// What our tables have counted; nothing where they are not as they should be.
    pub fn read(observed: &State) -> Result<Self, Failure> {
        let mut all = Tally::new();
        for table in observed.tables.values() {
            if let TableState::Intact(table) = table {
                all.extend(kernel::nft::tally(table)?);
            }
        }
        // What counted nothing adds nothing, and of ten thousand guests each would be held against all of it.
        all.values_mut().for_each(|counts| counts.retain(|_, counts| *counts != Counts::default()));
        Ok(Self(all))
    }

    fn one(&self, set: &str, key: &[KeyPart]) -> Counts {
        self.0.get(set).and_then(|counts| counts.get(key)).copied().unwrap_or_default()
    }

    /// The sum of what some sets counted by the keys that are looked for.
    fn sum(&self, sets: &[&str], wanted: impl Fn(&[KeyPart]) -> bool) -> Counts {
        let all = sets.iter().filter_map(|set| self.0.get(*set)).flatten();
        all.filter(|(key, _)| wanted(key)).fold(Counts::default(), |sum, (_, counts)| add(sum, *counts))
    }

    fn at_port(&self, set: &str, port: &IfName) -> Counts {
        let port = KeyPart::One(Value::IfName(port.clone()));
        self.sum(&[set], |key| key.first() == Some(&port))
    }

    fn of_guest(&self, sets: &[&str], guest: &Guest) -> Counts {
        let address = |value: &Value| match value {
            Value::Ipv4(address) => guest.has((*address).into()),
            Value::Ipv6(address) => guest.has((*address).into()),
            _ => false,
        };
        let lan = KeyPart::One(Value::IfName(guest.lan.clone()));
        self.sum(sets, |key| match key {
            [KeyPart::One(value)] => address(value),
            [bridge, KeyPart::One(value) | KeyPart::Range(value, _)] => *bridge == lan && address(value),
            _ => false,
        })
    }

    /// Packets of connections that a guest was refused, since it held as many as it may.
    pub fn refused(&self, guest: &Guest) -> u64 {
        self.of_guest(&REFUSED, guest).packets
    }

    /// What a guest may try and may not do, with how many packets it did.
    pub fn tried(&self, guest: &Guest) -> Vec<(Try, u64)> {
        TRIES.iter().map(|tried| (*tried, self.at_port(tried.set(), &guest.port).packets)).collect()
    }

    /// A guest's figures, as docs/json.md describes them.
    pub fn guest(&self, guest: &Guest) -> Json {
        let figures = self.of(guest);
        let tried = self.tried(guest);
        let tries = tried.iter().map(|(tried, packets)| json!({ "what": tried.words(), "packets": packets }));
        json!({
            "sent": traffic(figures.sent), "received": traffic(figures.received),
            "connections": { "begun": figures.begun, "taken": figures.taken },
            "max_connections": guest.max_connections, "refused": self.refused(guest),
            "tried": tries.collect::<Vec<_>>(),
        })
    }

    fn of(&self, guest: &Guest) -> Figures {
        Figures {
            sent: self.at_port(SENT, &guest.port),
            received: self.at_port(RECEIVED, &guest.port),
            begun: self.of_guest(&BEGUN, guest).packets,
            taken: self.of_guest(&TAKEN, guest).packets,
            dropped: self.refused(guest) + self.tried(guest).iter().map(|(_, packets)| packets).sum::<u64>(),
        }
    }

    /// A LAN's figures: the sums of its guests', and what was dropped at its border.
    pub fn lan(&self, network: &Network, lan: &Lan) -> Json {
        let figures = self.of_lan(network, lan);
        let dropped = |set: &str| traffic(self.dropped(set, lan));
        json!({
            "sent": traffic(figures.sent), "received": traffic(figures.received),
            "connections": { "begun": figures.begun, "taken": figures.taken },
            "dropped": { "from": dropped(DROPPED_FROM), "to": dropped(DROPPED_TO) },
        })
    }

    fn dropped(&self, set: &str, lan: &Lan) -> Counts {
        self.one(set, &[KeyPart::One(Value::IfName(lan.bridge.clone()))])
    }

    fn of_lan(&self, network: &Network, lan: &Lan) -> Figures {
        let guests = network.guests_of(lan).map(|guest| self.of(guest));
        let mut sum = guests.fold(Figures::default(), |sum, guest| Figures {
            sent: add(sum.sent, guest.sent),
            received: add(sum.received, guest.received),
            begun: sum.begun + guest.begun,
            taken: sum.taken + guest.taken,
            dropped: sum.dropped + guest.dropped,
        });
        sum.dropped += self.dropped(DROPPED_FROM, lan).packets + self.dropped(DROPPED_TO, lan).packets;
        sum
    }

    /// A forward's figures.
    pub fn forward(&self, forward: &Forward) -> Json {
        let (connections, carried) = self.of_forward(forward);
        json!({ "connections": connections, "carried": traffic(carried) })
    }

    fn of_forward(&self, forward: &Forward) -> (u64, Counts) {
        let (mut connections, mut carried) = (0, Counts::default());
        for (set, keys) in counted_by(forward) {
            for counts in keys.iter().map(|key| self.one(&set, key)) {
                if set.starts_with("carried") {
                    carried = add(carried, counts);
                } else {
                    connections += counts.packets;
                }
            }
        }
        (connections, carried)
    }

    /// What has been counted, for people; nothing where nothing has.
    pub fn table(&self, network: &Network) -> Option<String> {
        let mut rows = Vec::new();
        let mut row = |what: String, figures: &Figures| {
            let Figures { sent, received, begun, taken, dropped } = figures;
            if *figures != Figures::default() {
                let connections = format!("{begun} begun, {taken} taken");
                rows.push(vec![what, amount(*sent), amount(*received), connections, dropped.to_string()]);
            }
        };
        for lan in &network.lans {
            row(lan.bridge.to_string(), &self.of_lan(network, lan));
            network.guests_of(lan).for_each(|guest| row(format!("  {}", guest.name), &self.of(guest)));
        }
        for forward in &network.forwards {
            let (connections, carried) = self.of_forward(forward);
            if connections > 0 || carried != Counts::default() {
                let at = forward.address.map(|address| format!("{address} ")).unwrap_or_default();
                let what = format!("{at}{}/{}", forward.ports, forward.transport);
                let carried = format!("{} both ways", amount(carried));
                rows.push(vec![what, carried, String::new(), format!("{connections} taken"), String::new()]);
            }
        }
        if rows.is_empty() {
            return None;
        }
        rows.insert(0, ["TRAFFIC", "SENT", "RECEIVED", "CONNECTIONS", "DROPPED"].map(str::to_owned).into());
        Some(output::table(&rows))
    }
}

/// What is told of a guest or a LAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    sent: Counts,
    received: Counts,
    begun: u64,
    taken: u64,
    dropped: u64,
}

fn add(a: Counts, b: Counts) -> Counts {
    Counts { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

fn traffic(counts: Counts) -> Json {
    json!({ "packets": counts.packets, "bytes": counts.bytes })
}

/// Bytes as people read them.
fn amount(counts: Counts) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (counts.bytes, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        (whole, tenths, unit) = (whole / 1000, whole % 1000 / 100, unit + 1);
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

/// Puts the keys of `more` beside those of `document`.
pub fn with(mut document: Json, more: Json) -> Json {
    if let (Json::Object(document), Json::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}
