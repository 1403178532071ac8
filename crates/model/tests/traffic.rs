//! Random networks never make a ruleset that breaks docs/traffic.md, as evaluated on the value.
//!
//! The document's table is read, not repeated: each of its rows has packets in `traffic/rows.rs` and the files beside it, and
//! the cell of the LAN's mode says whether they must pass. Each is tried with and without br_netfilter.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "traffic/forged.rs"]
mod forged;
#[path = "traffic/on_link.rs"]
mod on_link;
#[path = "traffic/outside.rs"]
mod outside;
#[path = "traffic/rows.rs"]
mod rows;
#[path = "traffic/scene.rs"]
mod scene;
#[path = "traffic/ways.rs"]
mod ways;

use std::collections::{BTreeMap, BTreeSet};

use model::facts::HostFacts;
use model::network::{Mode, Network, load};
use model::ruleset::{Table, build};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use rows::ROWS;
use scene::{Case, Scene};

const DOCUMENT: &str = include_str!("../../../docs/traffic.md");

/// What a cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Yes,
    No,
    /// There is no such thing.
    Absent,
    NotBuilt,
}

/// A row: its name and its cells in the order of [`MODES`].
#[derive(Debug)]
struct Row {
    name: String,
    cells: [Cell; 4],
}

const MODES: [Mode; 4] = [Mode::Nat, Mode::Isolated, Mode::Routed, Mode::Bridged];

impl Row {
    fn cell(&self, mode: Mode) -> Cell {
        self.cells[MODES.iter().position(|other| *other == mode).unwrap()]
    }
}

fn cell(text: &str) -> Cell {
    let word = text.split([' ', ';', ':', ',']).next().unwrap_or_default();
    match word {
        "yes" => Cell::Yes,
        "no" => Cell::No,
        "n/a" => Cell::Absent,
        "not" if text.starts_with("not built yet: ") => Cell::NotBuilt,
        _ => panic!("docs/traffic.md: a cell begins with yes, no, n/a or not built yet, not {text:?}"),
    }
}

/// The document's table.
fn table() -> Vec<Row> {
    let header = "| row | from → to | nat | isolated | routed | bridged |";
    let (_, body) = DOCUMENT.split_once(header).expect("docs/traffic.md has its table");
    body.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let parts: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, _, nat, isolated, routed, bridged] = parts.as_slice() else { panic!("six columns: {line}") };
            let name = name.trim_matches('`').to_owned();
            Row { name, cells: [cell(nat), cell(isolated), cell(routed), cell(bridged)] }
        })
        .collect()
}

/// Every packet of a scene, with what its cell says: the row's name, the LAN's mode, the cell, the packet.
fn cases(scene: &Scene) -> Vec<(&'static str, Mode, Cell, Case)> {
    let table = table();
    let mut cases = Vec::new();
    for (name, packets) in ROWS {
        let row = table.iter().find(|row| row.name == *name).unwrap();
        for lan in &scene.network.lans {
            let cell = row.cell(lan.mode);
            for case in packets(scene, lan) {
                cases.push((*name, lan.mode, cell, case));
            }
        }
    }
    cases
}

/// What of the document the tables break; nothing where they hold.
fn broken(network: &Network, tables: &[Table]) -> Vec<String> {
    let mut broken = Vec::new();
    for br_netfilter in [false, true] {
        let scene = Scene { network, place: common::place(network, br_netfilter), tables };
        for (row, mode, cell, case) in cases(&scene) {
            let complaint = match cell {
                Cell::Yes => case.must_pass(&scene),
                Cell::No => case.must_not_pass(&scene),
                Cell::Absent => Err("the document has no such thing".to_owned()),
                Cell::NotBuilt => Ok(()),
            };
            if let Err(complaint) = complaint {
                broken.push(format!("{row} ({}, br_netfilter {br_netfilter}): {complaint}: {case:?}", mode.word()));
            }
        }
    }
    broken
}

#[test]
fn every_row_is_tried_and_every_try_is_a_row() {
    let documented: Vec<String> = table().into_iter().map(|row| row.name).collect();
    let tried: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(documented, tried);
    assert_eq!(documented.iter().collect::<BTreeSet<_>>().len(), documented.len(), "a name stands twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_networks_keep_to_the_document(network in common::networks()) {
        let broken = broken(&network, &build(&network));
        prop_assert!(broken.is_empty(), "{} broken, such as\n{}", broken.len(), broken[..broken.len().min(5)].join("\n"));
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // The examples are files; it is the crate that is pure.
fn the_examples_keep_to_the_document() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut facts = HostFacts::assumed("eth0".parse().unwrap());
        // Who stands beside a host on its own network has it for a neighbour.
        if text.contains("\"bridged\"") {
            facts.interfaces[0].addresses = common::uplink_addresses();
            facts.interfaces[0].addresses.push("10.0.0.100/24".parse().unwrap());
        }
        let (_, network) = load(&text, &facts).unwrap_or_else(|problems| panic!("{path:?}: {problems:?}"));
        let broken = broken(&network, &build(&network));
        assert!(broken.is_empty(), "{path:?}:\n{}", broken.join("\n"));
        tried += 1;
    }
    assert!(tried > 0);
}

fn samples(count: usize) -> Vec<Network> {
    let mut runner = TestRunner::deterministic();
    let strategy = common::networks();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn every_cell_is_tried_in_both_families() {
    let mut tried: BTreeMap<(String, &str, bool), usize> = BTreeMap::new();
    for network in samples(120) {
        let tables = build(&network);
        let scene = Scene { network: &network, place: common::place(&network, false), tables: &tables };
        for (row, mode, _, case) in cases(&scene) {
            if let Some(six) = case.is_ipv6() {
                *tried.entry((row.to_owned(), mode.word(), six)).or_default() += 1;
            }
        }
    }
    for row in table() {
        for mode in MODES {
            // ARP is IPv4's, and tags are of no version.
            let families: &[bool] = if row.name.starts_with("A-") {
                &[false]
            } else if row.name == "G-ethertype" {
                &[]
            } else if matches!(row.name.as_str(), "G-H-dad" | "N-uplink") {
                // Neighbour discovery is IPv6's.
                &[true]
            } else {
                &[false, true]
            };
            for six in families {
                let count = tried.get(&(row.name.clone(), mode.word(), *six)).copied().unwrap_or_default();
                let wanted = row.cell(mode) != Cell::Absent;
                if row.cell(mode) == Cell::NotBuilt {
                    continue;
                }
                assert_eq!(count > 0, wanted, "{} in {}, IPv6 {six}: {count} packets", row.name, mode.word());
            }
        }
    }
}

/// The document would notice the loss of any rule that decides something, and of any set's element: or it is for
/// nothing, or the tests are blind to it.
#[test]
fn every_rule_and_element_is_missed() {
    // What these two do is not about passing: the one writes in SYNs, the other is a short cut past rules that name
    // our LANs and would not match.
    // So do the counting of whose try it was, and what a port in hairpin mode must not reflect, which is no way of a
    // packet but one copy too many (the evaluation floods none).
    let beside: &[&str] = &[
        "never promise more than the way carries",
        "not of our LANs",
        "whose try it is",
        "nobody hears himself",
        "neighbours are not heard",
        "what guests are sent",
        // A flow alone is never one too many.
        "more connections than it may hold",
        // A short cut past those.
        "only what begins counts",
        "what forwards carry",
        "whose traffic it is",
        "whose connection it is",
    ];
    let sets_beside = |name: &str| {
        ["tried_", "held", "refused", "carried", "begun", "taken"].iter().any(|word| name.starts_with(word))
            || matches!(name, "same_port" | "guest_received")
    };
    let mut missed: BTreeMap<String, bool> = BTreeMap::new();
    for network in samples(240) {
        let tables = build(&network);
        let mut try_without = |what: String, without: &dyn Fn(&mut [Table])| {
            let missed = missed.entry(what).or_default();
            if !*missed {
                let mut less = tables.clone();
                without(&mut less);
                *missed = !broken(&network, &less).is_empty();
            }
        };
        for (t, table) in tables.iter().enumerate() {
            for (c, chain) in table.chains.iter().enumerate() {
                for (r, rule) in chain.rules.iter().enumerate() {
                    if !beside.contains(&rule.comment.as_str()) {
                        // Rules of one sort differ in their LAN alone: one of them stands for all.
                        let sort = rule.comment.replace(|c: char| c.is_ascii_digit(), "");
                        let without = |tables: &mut [Table]| drop(tables[t].chains[c].rules.remove(r));
                        try_without(format!("rule {}: {sort}", chain.name), &without);
                    }
                }
            }
            for (name, set) in table.sets.iter().filter(|(name, _)| !sets_beside(name)) {
                for which in [set.elements.first(), set.elements.last()].into_iter().flatten() {
                    let without = |tables: &mut [Table]| {
                        tables[t].sets.get_mut(name).unwrap().elements.remove(which);
                    };
                    // Sets of one sort differ in the number of their allow, or address, alone.
                    let sort = name.splitn(3, '_').map(|word| word.parse::<u8>().map_or(word, |_| "N"));
                    try_without(format!("set {}", sort.collect::<Vec<_>>().join("_")), &without);
                }
            }
        }
    }
    let unmissed: Vec<_> = missed.iter().filter(|(_, missed)| !**missed).map(|(what, _)| what).collect();
    assert!(unmissed.is_empty(), "nothing breaks without {unmissed:#?}");
}
