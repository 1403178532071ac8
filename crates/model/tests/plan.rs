//! The planner's laws, over random states: a plan reaches its goal, undoing it goes back, and where nothing is to
//! be done nothing is planned.

use std::collections::{BTreeMap, BTreeSet};

use model::address::{IfName, Mac};
use model::foreign::{Layer, Mend};
use model::manager::{Holder, networkd::Follows, networkmanager::Active};
use model::plan::{Plan, plan, undo};
use model::ruleset::{Element, Family, Set, Table, Type, Value};
use model::simulate::simulate;
use model::state::{
    Address, Dump, Hold, IpFamilyWord, Link, LinkKind, Peer, Place, Proxy, Route, Side, State, Sysctl, TableState,
    TakenOver,
};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

fn name(text: &str) -> IfName {
    IfName::new(text).expect("a test's interface name")
}

const BRIDGES: [&str; 3] = ["br1", "br2", "br3"];
const TAPS: [&str; 3] = ["tap0", "tap1", "br2"]; // a name that was a bridge may become a tap
const GUESTS: [&str; 4] = ["cnx6", "cnx7", "db", "www"];

fn link(kind: LinkKind, master: Option<&str>, mtu: u32, up: bool, hairpin: bool) -> Link {
    Link {
        mac: matches!(kind, LinkKind::Bridge).then(|| Mac([2, 0, 0, 0, 0, 1])),
        kind,
        mtu,
        up,
        hairpin: hairpin && master.is_some(),
        isolated: mtu == 1500 && master.is_some(),
        master: master.map(name),
        alias: "warren: test".into(),
    }
}

prop_compose! {
    /// Consistent states: what hangs on something has it.
    fn state()(
        bridges in btree_map(prop::sample::select(&BRIDGES[..]), (1280u32..1501, any::<bool>(), btree_set(1u8..6, 0..3)), 0..3),
        taps in btree_map(prop::sample::select(&TAPS[..]), (prop::option::of(0u32..2), any::<usize>(), any::<bool>()), 0..3),
        guests in btree_map(prop::sample::select(&GUESTS[..]), (any::<usize>(), any::<bool>(), btree_set(1u8..9, 0..3), any::<bool>()), 0..4),
        proxies in btree_set((prop::sample::select(&["br1", "br2", "eth0"][..]), 1u16..4), 0..4),
        switches in (any::<bool>(), any::<bool>(), any::<bool>(), 1u8..3),
        taken in (btree_map(0u8..3, 0u8..3, 0..3), btree_map(0u8..3, 0u8..3, 0..3), btree_set(1u64..4, 0..3)),
        table in prop::option::of((0u8..3, btree_set((1u16..9, 1u8..5), 0..5), any::<bool>())),
    ) -> State {
        let mut state = State::default();
        for (bridge, (mtu, up, addresses)) in &bridges {
            state.links.insert(name(bridge), link(LinkKind::Bridge, None, *mtu, *up, false));
            state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv4, *bridge, "forwarding"), "1".into());
            for host in addresses {
                let net = format!("10.1.{host}.1/24").parse().expect("a test's address");
                state.addresses.insert(Address { at: Place::host(&name(bridge)), net });
            }
        }
        let masters: Vec<&str> = bridges.keys().copied().collect();
        let pick = |i: usize| if masters.is_empty() { None } else { Some(masters[i % masters.len()]) };
        for (tap, (owner, master, hairpin)) in &taps {
            if !bridges.contains_key(tap) {
                let kind = LinkKind::Tap { owner: *owner, group: None };
                state.links.insert(name(tap), link(kind, pick(*master), 1500, true, *hairpin));
            }
        }
        for (guest, (master, up, hosts, plugged)) in &guests {
            state.namespaces.insert((*guest).to_owned());
            if !plugged {
                continue;
            }
            let peer = Peer { namespace: (*guest).into(), name: name("eth0"), mac: Mac([2, 0, 0, 0, 0, 9]), mtu: 1500, up: *up };
            state.links.insert(name(guest), link(LinkKind::Veth(peer), pick(*master), 1500, true, false));
            let at = Place::guest(guest, &name("eth0"));
            for host in hosts {
                let net = format!("10.1.1.{host}/24").parse().expect("a test's address");
                state.addresses.insert(Address { at: at.clone(), net });
                let to = format!("10.{host}.0.0/16").parse().expect("a test's network");
                state.routes.insert(Route { at: at.clone(), to, via: "10.1.1.1".parse().ok() });
            }
        }
        for (file, text) in taken.0 {
            state.files.insert(format!("/etc/file{file}"), format!("text {text}\n"));
        }
        for (port, side) in taken.1 {
            let follows = Follows { files: vec!["/etc/file1".to_owned()], iaid: None, iaid6: None };
            let holders =
                [Holder::Ifstate, Holder::NetworkManager(Active::default()), Holder::Networkd(follows)];
            let (port, holder) = (name(&format!("en{port}")), holders[usize::from(port) % 3].clone());
            let on = [Side::Port, Side::Bridge, Side::Between][usize::from(side)];
            let hold = Hold { port: port.clone(), bridge: name("br9"), holder: holder.clone(), on };
            state.holds.insert(TakenOver::key(&holder, &port), hold);
        }
        for handle in taken.2 {
            let (table, chain) = ("site".to_owned(), "in".to_owned());
            let (port, bridge) = (name("en0"), name("br9"));
            let index = 2;
            state.mends.insert(Mend::Twin { family: Layer::Inet, table, chain, handle, port, index, bridge });
        }
        for (link, host) in proxies {
            if link == "eth0" || bridges.contains_key(link) {
                let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into();
                state.proxies.insert(Proxy { link: name(link), address });
            }
        }
        // As every state of one host has the same foreign switches: those of its baseline.
        let (all, eth0, eth1, accept_ra) = switches;
        let word = |on: bool| if on { "1".to_owned() } else { "0".to_owned() };
        for (scope, on) in [("all", all), ("eth0", all || eth0), ("eth1", all || eth1), ("default", all)] {
            state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, scope, "forwarding"), word(on));
        }
        state.sysctls.insert(Sysctl::new(IpFamilyWord::Ipv6, "eth0", "accept_ra"), accept_ra.to_string());
        if let Some((shape, elements, disturbed)) = table {
            let mut set = Set::map(&[Type::Port], &[Type::Ipv4]);
            set.interval = shape == 1;
            for (port, host) in elements {
                set.elements.insert(Element::of([Value::Port(port)]).to([Value::Ipv4([10, 1, 1, host].into())]));
            }
            let ours = Table { family: Family::Inet, sets: BTreeMap::from([("forwards4".into(), set)]), chains: vec![] };
            let found = if disturbed { TableState::Disturbed(Dump(vec!["00".into()])) } else { TableState::Intact(ours) };
            state.tables.insert(Family::Inet, found);
        }
        state
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_to_do_is_nothing_planned(a in state()) {
        prop_assert_eq!(plan(&a, &a), Plan::default());
    }

    #[test]
    fn a_plan_reaches_its_goal(a in state(), b in state()) {
        prop_assert_eq!(simulate(a.clone(), &plan(&a, &b)), b);
    }

    #[test]
    fn undoing_goes_back(a in state(), b in state()) {
        let there = plan(&a, &b);
        prop_assert_eq!(simulate(b, &undo(&there)), a);
    }

    #[test]
    fn undoing_any_part_goes_back(a in state(), b in state(), at in any::<prop::sample::Index>()) {
        let there = plan(&a, &b);
        let part = Plan { steps: there.steps[..at.index(there.steps.len() + 1)].to_vec() };
        prop_assert_eq!(simulate(simulate(a.clone(), &part), &undo(&part)), a);
    }

    #[test]
    fn nothing_is_made_before_what_it_hangs_on(a in state(), b in state()) {
        use model::plan::Step;
        let there = plan(&a, &b);
        let mut now = a;
        for step in &there.steps {
            let has = |place: &Place, now: &State| match &place.namespace {
                None => now.links.contains_key(&place.link),
                Some(namespace) => now.namespaces.contains(namespace),
            };
            match step {
                Step::AddAddress { address } | Step::DeleteAddress { address } => prop_assert!(has(&address.at, &now), "{step}"),
                Step::AddRoute { route } | Step::DeleteRoute { route } => prop_assert!(has(&route.at, &now), "{step}"),
                Step::CreateLink { name, link } => {
                    prop_assert!(!now.links.contains_key(name), "{step}");
                    let masters: BTreeSet<_> = link.master.iter().collect();
                    prop_assert!(masters.into_iter().all(|m| now.links.contains_key(m)), "{step}");
                }
                Step::ChangeLink { to, .. } => {
                    prop_assert!(to.master.iter().all(|m| now.links.contains_key(m)), "{step}");
                }
                _ => {}
            }
            model::simulate::apply(&mut now, step);
        }
    }
}
