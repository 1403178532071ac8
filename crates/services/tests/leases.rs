//! A day of leases in simulated time: whoever asks whatever whenever, nobody has what is another's.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::address::{IfName, Mac};
use model::network::LeaseRange;
use model::services::{Dhcp, LanServices, NamedHost};
use proptest::prelude::*;
use services::dhcp::decide::{Action, LIFETIME, Table};
use services::dhcp::leases::Lease;
use services::dhcp::wire::{Ask, Kind};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);

fn mac(who: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, who])
}

fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 1, last)
}

/// Guests 1 to 3 of the file at .11 to .13, the last inside the range, which has eight addresses.
fn lan() -> LanServices {
    let guest = |who: u8, last| NamedHost {
        name: format!("g{who}"),
        aliases: vec![format!("alias{who}")],
        addresses: vec![at(last).into()],
        mac: mac(who),
    };
    LanServices {
        bridge: IfName::new("br1").unwrap(),
        mac: mac(200),
        mtu: 1500,
        addresses: vec!["10.1.1.1/24".parse().unwrap()],
        domain: "br1.internal".to_owned(),
        hosts: vec![guest(1, 11), guest(2, 12), guest(3, 102)],
        upstreams: Vec::new(),
        recursion: true,
        dhcp: Some(Dhcp {
            server: SERVER,
            subnet: "10.1.1.0/24".parse().unwrap(),
            router: true,
            range: Some(LeaseRange { first: at(100), last: at(107) }),
            taken: [SERVER, at(11), at(12), at(102)].into(),
            routes: Vec::new(),
        }),
        advertised: None,
    }
}

fn fixed(who: u8) -> Option<Ipv4Addr> {
    [(1, 11), (2, 12), (3, 102)].into_iter().find(|(guest, _)| *guest == who).map(|(_, last)| at(last))
}

#[derive(Clone, Debug)]
struct Event {
    /// Seconds since the one before.
    after: u64,
    who: u8,
    /// Whose hardware address sends it, where it is another's.
    sender: Option<u8>,
    kind: Kind,
    wants: Option<u8>,
    has: Option<u8>,
    server: Option<bool>,
    name: Option<u8>,
    /// Somebody else answers for the address that is asked for.
    squatted: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let kinds = prop_oneof![
        4 => Just(Kind::Discover), 6 => Just(Kind::Request), 1 => Just(Kind::Decline),
        1 => Just(Kind::Release), 1 => Just(Kind::Inform),
    ];
    let last = || proptest::option::of(prop_oneof![95u8..112, Just(11), Just(12), Just(1)]);
    let rest = (last(), last(), proptest::option::of(any::<bool>()), proptest::option::of(0u8..6), any::<u8>());
    let sender = proptest::option::weighted(0.1, 1u8..30);
    (0u64..4000, 1u8..30, sender, kinds, rest).prop_map(
        |(after, who, sender, kind, (wants, has, server, name, luck))| Event {
            after,
            who,
            sender,
            kind,
            wants,
            has,
            server,
            name,
            squatted: luck < 20,
        },
    )
}

const NAMES: [&str; 6] = ["g1", "alias2", "laptop", "G3", "tv", "localhost"];

fn ask(event: &Event) -> Ask {
    Ask {
        sender: mac(event.sender.unwrap_or(event.who)),
        client: mac(event.who),
        kind: event.kind,
        xid: 7,
        broadcast: false,
        has: event.has.map(at),
        wants: event.wants.map(at),
        server: event.server.map(|ours| if ours { SERVER } else { at(250) }),
        name: event.name.map(|name| NAMES[usize::from(name)].to_ascii_lowercase()),
        options: None,
        id: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn in_a_day_nobody_is_given_what_is_anothers(events in proptest::collection::vec(event(), 1..400)) {
        let lan = lan();
        let mut table = Table::default();
        let mut now = 1_000_000;
        // What clients may believe to have, until when; and what was written down.
        let mut believed: BTreeMap<Ipv4Addr, (Mac, u64)> = BTreeMap::new();
        let mut written: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
        for event in &events {
            now += event.after;
            believed.retain(|_, (_, until)| *until > now);
            let asked = ask(event);
            let mut actions = table.asked(&lan, &asked, now);
            let mut recorded = false;
            while let Some(action) = (!actions.is_empty()).then(|| actions.remove(0)) {
                match action {
                    Action::Probe(address) => {
                        prop_assert!(!believed.contains_key(&address), "{address} is probed while it is leased");
                        let holder = event.squatted.then(|| mac(99));
                        actions.extend(table.probed(&lan, address, holder, now));
                    }
                    Action::Record(lease) => {
                        recorded = true;
                        if lease.until == 0 {
                            believed.remove(&lease.address);
                        }
                        let name = lease.name.as_deref().unwrap_or_default();
                        prop_assert!(!["g1", "g2", "g3", "alias1", "alias2", "alias3", "localhost"].contains(&name));
                        written.insert(lease.address, lease);
                    }
                    Action::Answer(answer) => {
                        prop_assert_eq!(event.sender.unwrap_or(event.who), event.who, "one who lies is answered");
                        let Some(yours) = answer.yours else { continue };
                        if let Some(own) = fixed(event.who) {
                            prop_assert_eq!(yours, own);
                            continue;
                        }
                        prop_assert!((at(100)..=at(107)).contains(&yours) && yours != at(102), "{} is no stranger's", yours);
                        if let Some((holder, _)) = believed.get(&yours) {
                            prop_assert_eq!(*holder, asked.client, "{} is another's", yours);
                        }
                        if answer.kind == Kind::Ack {
                            prop_assert!(recorded, "promised before it was written");
                            believed.insert(yours, (asked.client, now + u64::from(LIFETIME)));
                        }
                    }
                    Action::Count(_) => {}
                }
            }
            // Each has one, and no two have one name.
            let leases: Vec<&Lease> = table.leases(now).collect();
            for (nth, lease) in leases.iter().enumerate() {
                for other in &leases[..nth] {
                    prop_assert!(lease.mac != other.mac, "two leases of one");
                    prop_assert!(lease.name.is_none() || lease.name != other.name, "two of one name");
                }
            }
            // What was written is what is known: a restart at any moment changes nothing.
            let kept: Vec<&Lease> = written.values().filter(|lease| lease.until > now).collect();
            prop_assert_eq!(kept, leases);
        }
    }
}

#[test]
fn two_hundred_that_start_together_are_all_given_one_and_a_starving_one_gets_no_more_than_the_range() {
    let mut lan = lan();
    let dhcp = lan.dhcp.as_mut().unwrap();
    dhcp.range = Some(LeaseRange { first: Ipv4Addr::new(10, 1, 1, 20), last: Ipv4Addr::new(10, 1, 1, 250) });
    let mut table = Table::default();
    let event = |kind| Event {
        after: 0,
        who: 0,
        sender: None,
        kind,
        wants: None,
        has: None,
        server: None,
        name: None,
        squatted: false,
    };
    let client = |n: u16| Mac([2, 1, 0, 0, (n >> 8) as u8, n as u8]);
    let mut given = std::collections::BTreeSet::new();
    let mut refused = 0;
    for n in 0..1000 {
        let discover = Ask { sender: client(n), client: client(n), ..ask(&event(Kind::Discover)) };
        let actions = table.asked(&lan, &discover, 5);
        let [Action::Probe(address)] = actions[..] else {
            assert!(matches!(actions[..], [Action::Count(_)]), "{actions:?}");
            assert!(n >= 200, "one of the first two hundred is refused");
            refused += 1;
            continue;
        };
        assert_eq!(table.probed(&lan, address, None, 5).len(), 1);
        let request = Ask { kind: Kind::Request, wants: Some(address), server: Some(SERVER), ..discover };
        assert_eq!(table.asked(&lan, &request, 5).len(), 2);
        assert!(given.insert(address));
    }
    // .102 is a guest's.
    assert_eq!((given.len(), refused), (230, 770));
    let own = table.asked(&lan, &Ask { sender: mac(1), client: mac(1), ..ask(&event(Kind::Discover)) }, 5);
    assert!(matches!(&own[..], [Action::Answer(answer)] if answer.yours == Some(at(11))), "a guest's own is its own");
}
