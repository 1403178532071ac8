//! A table written by us over netlink and the same loaded by nft from its text are listed alike.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use kernel::nft::fingerprint;
use model::facts::HostFacts;
use model::network;
use model::ruleset::{self, Family, Table, text};

use crate::support::{create, in_namespace, list, load_text, nft, open};
use crate::{generator, networks, tables};

/// PROPTEST_CASES asks for more.
fn runner(cases: u32) -> TestRunner {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// What nft makes of a loaded table: its listing, and each rule's expressions as they are in the kernel. A listing
/// alone does not tell whether every dependency is there, since nft leaves them out.
type Loaded = (String, Vec<Vec<String>>);

fn loaded(family: Family) -> Loaded {
    let debug = nft(&format!("--debug=netlink list table {} warren", family.word()));
    let mut rules: Vec<Vec<String>> = Vec::new();
    for line in debug.lines() {
        if line.starts_with(&format!("{} warren ", family.word())) {
            rules.push(Vec::new());
        }
        // nft 1.0.6 turns one byte around as if it were two, which changes nothing.
        let idle = line.contains("hton(") && line.contains(", 2, 1)");
        if let (true, false, Some(rule)) = (line.starts_with("  ["), idle, rules.last_mut()) {
            rule.push(line.trim().to_owned());
        }
    }
    // Chains and sets are listed there as well.
    rules.retain(|rule| !rule.is_empty());
    (list(family), rules)
}

/// What stands in the kernel of each rendering.
fn both(table: &Table) -> (Loaded, Result<Loaded, String>) {
    let (ours, theirs) = (table.clone(), table.clone());
    let netlink = in_namespace(move || {
        create(&ours);
        loaded(ours.family)
    });
    let text = in_namespace(move || load_text(&text::table(&theirs)).map(|()| loaded(theirs.family)));
    (netlink, text)
}

fn check(table: &Table) -> Result<(), String> {
    let (netlink, text) = both(table);
    let text = text.map_err(|e| format!("nft refused the text: {e}\n{}", text::table(table)))?;
    for (ours, theirs) in netlink.0.lines().zip(text.0.lines()) {
        if ours != theirs {
            return Err(format!("ours:   {ours}\ntheirs: {theirs}"));
        }
    }
    if netlink.0 != text.0 || netlink.1.len() != text.1.len() {
        return Err(format!("ours: {netlink:?}\ntheirs: {text:?}"));
    }
    for (ours, theirs) in netlink.1.iter().zip(&text.1) {
        // nft compares neighbouring fields at once, as we do not.
        let merged = ours.len() == theirs.len() + 2 && ours.iter().filter(|line| line.contains("payload")).count() > 1;
        if ours != theirs && !merged {
            return Err(format!("ours:\n{}\ntheirs:\n{}", ours.join("\n"), theirs.join("\n")));
        }
    }
    let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
    if netlink.1.len() == rules { Ok(()) } else { Err(format!("{} rules of {rules} compared", netlink.1.len())) }
}

fn assert_equal(table: &Table) {
    check(table).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn every_statement_in_inet() {
    assert_equal(&tables::inet());
}

#[test]
fn every_statement_in_bridge() {
    assert_equal(&tables::bridge());
}

#[test]
fn what_nft_lists_loads_again_and_lists_the_same() {
    for table in [tables::inet(), tables::bridge()] {
        let family = table.family;
        let listed = in_namespace(move || {
            create(&table);
            list(family)
        });
        let copy = listed.clone();
        let again = in_namespace(move || load_text(&copy).map(|()| list(family)));
        assert_eq!(again.as_ref(), Ok(&listed));
    }
}

#[test]
fn the_script_replaces() {
    in_namespace(|| {
        let all = [tables::inet(), tables::bridge()];
        let script = text::script(&all);
        load_text(&script).unwrap();
        let once = (list(all[0].family), list(all[1].family));
        load_text(&script).unwrap();
        assert_eq!((list(all[0].family), list(all[1].family)), once);
    });
}

/// The rulesets that warren really writes: those of the pure crate's golden cases and of the examples...
#[test]
fn the_goldens_and_the_examples() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<_> = std::fs::read_dir(root.join("examples")).unwrap().map(|e| e.unwrap().path()).collect();
    for case in std::fs::read_dir(root.join("crates/model/tests/plan")).unwrap() {
        files.push(case.unwrap().path().join("warren.toml"));
    }
    let mut tables = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let facts = HostFacts::assumed("eth0".parse().unwrap());
        let (_, network) = network::load(&text, &facts).unwrap_or_else(|p| panic!("{}: {p:?}", file.display()));
        for table in ruleset::build(&network) {
            assert_equal(&table);
            tables += 1;
        }
    }
    assert!(tables > 10, "only {tables} tables were compared");
}

/// ... and those of random networks.
#[test]
fn random_networks() {
    let result = runner(48).run(&networks::networks(), |network| {
        for table in ruleset::build(&network) {
            if let Err(e) = check(&table) {
                prop_assert!(false, "{}", e);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn random_tables() {
    let mut runner = runner(64);
    let result = runner.run(&generator::table(), |table| {
        if let Err(e) = check(&table) {
            prop_assert!(false, "{}", e);
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn random_tables_are_read_back_and_made_again() {
    let mut runner = runner(32);
    let result = runner.run(&generator::table(), |table| {
        in_namespace(move || {
            let family = kernel::nft::family_number(table.family);
            create(&table);
            let mut socket = open();
            for (name, set) in &table.sets {
                prop_assert_eq!(&socket.elements(table.family, name, set).unwrap(), &set.elements, "{}", name);
            }
            let before = list(table.family);
            let raw = socket.dump_table(family, "warren").unwrap().unwrap();
            let mut change = kernel::nft::Transaction::new();
            change.clear(family, "warren").replay(&raw);
            socket.commit(&change).unwrap();
            prop_assert_eq!(list(table.family), before);
            let again = socket.dump_table(family, "warren").unwrap().unwrap();
            prop_assert_eq!(fingerprint(&again), fingerprint(&raw));
            Ok(())
        })
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}
