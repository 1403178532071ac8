//! A table written by us over netlink and the same loaded by nft from its text are listed alike.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use kernel::nft::fingerprint;
use model::ruleset::{Table, text};

use crate::support::{create, in_namespace, list, load_text, open};
use crate::{generator, tables};

/// What `nft list` prints of each rendering.
fn both(table: &Table) -> (String, Result<String, String>) {
    let (ours, theirs) = (table.clone(), table.clone());
    let netlink = in_namespace(move || {
        create(&ours);
        list(ours.family)
    });
    let text = in_namespace(move || load_text(&text::table(&theirs)).map(|()| list(theirs.family)));
    (netlink, text)
}

fn assert_equal(table: &Table) {
    let (netlink, text) = both(table);
    let text = text.unwrap_or_else(|e| panic!("nft refused the text: {e}"));
    for (ours, theirs) in netlink.lines().zip(text.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(netlink, text);
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

#[test]
fn random_tables() {
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&generator::table(), |table| {
        let (netlink, text) = both(&table);
        match text {
            Ok(text) => prop_assert_eq!(netlink, text),
            Err(e) => prop_assert!(false, "nft refused: {}\n{}", e, model::ruleset::text::table(&table)),
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn random_tables_are_read_back_and_made_again() {
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let result = runner.run(&generator::table(), |table| {
        in_namespace(move || {
            let family = kernel::nft::family_number(table.family);
            create(&table);
            let mut nft = open();
            for (name, set) in &table.sets {
                prop_assert_eq!(&nft.elements(table.family, name, set).unwrap(), &set.elements, "{}", name);
            }
            let before = list(table.family);
            let raw = nft.dump_table(family, "warren").unwrap().unwrap();
            let mut change = kernel::nft::Transaction::new();
            change.clear(family, "warren").replay(&raw);
            nft.commit(&change).unwrap();
            prop_assert_eq!(list(table.family), before);
            let again = nft.dump_table(family, "warren").unwrap().unwrap();
            prop_assert_eq!(fingerprint(&again), fingerprint(&raw));
            Ok(())
        })
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}
