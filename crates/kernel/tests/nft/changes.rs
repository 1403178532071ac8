//! Transactions: large ones, small ones, refused ones.

use std::time::{Duration, Instant};

use kernel::journal::WrittenTable;
use kernel::nft::{Found, Nft, Transaction, TransactionError};
use model::plan::TableChange;
use model::ruleset::*;
use model::state::TableState;

use crate::support::{create, in_namespace, list, nft, open, tool, try_tool};
use crate::tables::{self, FORWARD_KEY, forward, is, name, number, rule, v4, v6, value};

const MANY: u32 = 10_000;

fn forwards() -> Table {
    let mut table = tables::inet();
    let set = table.sets.get_mut("forward-4").unwrap();
    set.elements = (0..MANY).map(forward).collect();
    table
}

#[test]
fn ten_thousand_forwards_and_one_more() {
    in_namespace(|| {
        let table = forwards();
        let set = &table.sets["forward-4"];
        let mut nft = open();
        let mut change = Transaction::new();
        let begin = Instant::now();
        change.replace(&table);
        nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
        let load = begin.elapsed();
        let begin = Instant::now();
        assert_eq!(nft.elements(Family::Inet, "forward-4", set).unwrap(), set.elements);
        let read = begin.elapsed();
        let begin = Instant::now();
        let mut change = Transaction::new();
        change.add_elements(Family::Inet, "forward-4", set, &[forward(MANY)].into());
        nft.commit(&change).unwrap();
        let one = begin.elapsed();
        let begin = Instant::now();
        let mut change = Transaction::new();
        change.delete_elements(Family::Inet, "forward-4", set, &[forward(MANY)].into());
        nft.commit(&change).unwrap();
        let less = begin.elapsed();
        let begin = Instant::now();
        let raw = nft.dump_table(1, "warren").unwrap().unwrap();
        let dump = begin.elapsed();
        let begin = Instant::now();
        assert_eq!(kernel::nft::fingerprint(&raw).len(), 64);
        let hash = begin.elapsed();
        println!("load {load:?}, read {read:?}, one more {one:?}, one less {less:?}, dump {dump:?}, hash {hash:?}");
        assert_eq!(nft.elements(Family::Inet, "forward-4", set).unwrap(), set.elements);
    });
}

#[test]
fn a_plain_users_socket_takes_ten_thousand_in_several_batches() {
    in_namespace(|| {
        let mut table = forwards();
        let six = table.sets.get_mut("forward-6").unwrap();
        six.elements = (0..MANY)
            .map(|at| {
                let outside = v6(&format!("2001:db8::{:x}", at / 1000 + 1));
                let key = [outside, Value::Proto(6), Value::Port((at % 1000) as u16)];
                Element::of(key).to([v6(&format!("fd00::{at:x}")), Value::Port(1)])
            })
            .collect();
        // net.core.wmem_max as it is where nobody raised it; twice that is what the kernel makes of it.
        let mut nft = Nft::open_plain(212_992).unwrap();
        for _ in 0..2 {
            let mut change = Transaction::new();
            change.replace(&table);
            nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
            for name in ["forward-4", "forward-6"] {
                assert_eq!(nft.elements(Family::Inet, name, &table.sets[name]).unwrap(), table.sets[name].elements);
            }
        }
    });
}

#[test]
fn a_small_socket_says_what_is_in_place() {
    in_namespace(|| {
        let mut table = forwards();
        // Two values for one key, in the last message of all.
        let key = || [v6("ffff::"), Value::Proto(6), Value::Port(1)];
        let six = table.sets.get_mut("forward-6").unwrap();
        six.elements.insert(Element::of(key()).to([v6("fd00::1"), Value::Port(1)]));
        six.elements.insert(Element::of(key()).to([v6("fd00::2"), Value::Port(1)]));
        let mut nft = Nft::open_plain(65_536).unwrap();
        let mut change = Transaction::new();
        change.replace(&table);
        let error = nft.commit(&change).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, TransactionError::Torn { .. }), "{text}");
        assert!(text.contains("map inet warren forward-6"), "{text}");
        // In one batch nothing is in place.
        let mut change = Transaction::new();
        change.clear(1, "warren");
        nft.commit(&change).unwrap();
        let mut change = Transaction::new();
        change.replace(&table);
        let error = open().commit(&change).unwrap_err();
        assert!(matches!(error, TransactionError::Refused(_)), "{error}");
        assert!(nft.tables().unwrap().is_empty());
        // Rules are never split.
        let mut nft = Nft::open_plain(4_096).unwrap();
        let error = nft.commit(&change).unwrap_err();
        assert!(matches!(error, TransactionError::TooLarge { .. }), "{error}");
        assert!(nft.tables().unwrap().is_empty());
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_nothing_is_changed() {
    in_namespace(|| {
        let table = tables::inet();
        create(&table);
        let before = list(Family::Inet);
        let mut broken = table.clone();
        broken.chains[4].rules.insert(1, rule([Statement::Verdict(Verdict::Jump("nowhere".into()))]));
        broken.chains[4].rules.insert(2, rule([tables::in_set(&[Field::IpSaddr], "no-set"), tables::DROP]));
        let mut change = Transaction::new();
        change.replace(&broken);
        let mut nft = open();
        let error = nft.commit(&change).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, TransactionError::Refused(all) if all.len() == 2), "{text}");
        assert!(text.contains("rule 2 of chain inet warren forward-all: jump nowhere: No such file"), "{text}");
        assert!(text.contains("rule 3 of chain inet warren forward-all: ip saddr @no-set drop: No such"), "{text}");
        assert_eq!(list(Family::Inet), before);
        // The socket is of use afterwards.
        let set = &table.sets["forward-4"];
        let mut change = Transaction::new();
        change.delete_elements(Family::Inet, "forward-4", set, &[forward(99)].into());
        let text = nft.commit(&change).unwrap_err().to_string();
        assert!(text.contains("element { 203.0.113.0 . tcp . 100 : 10.1.0.99 . 80 } of map inet warren"), "{text}");
        // The value of an element cannot be changed by adding it again.
        let other = Element { data: vec![v4("10.9.9.9"), Value::Port(1)], ..forward(0) };
        let mut change = Transaction::new();
        change.add_elements(Family::Inet, "forward-4", set, &[other.clone()].into());
        assert!(nft.commit(&change).is_err());
        let mut change = Transaction::new();
        change.delete_elements(Family::Inet, "forward-4", set, &[forward(0)].into());
        change.add_elements(Family::Inet, "forward-4", set, &[other.clone()].into());
        nft.commit(&change).unwrap();
        assert!(nft.elements(Family::Inet, "forward-4", set).unwrap().contains(&other));
        let mut change = Transaction::new();
        change.delete(1, "none");
        let text = nft.commit(&change).unwrap_err().to_string();
        assert!(text.contains("table inet none: No such file or directory"), "{text}");
    });
}

#[test]
fn a_chain_that_the_kernel_has_not_is_named() {
    in_namespace(|| {
        let mut table = tables::inet();
        // The nat hook is asked for by a type that the kernel has not got on it.
        let hook = Hook { at: HookPoint::Forward, kind: ChainKind::Nat, priority: 0 };
        table.chains.push(Chain { name: "nat-wrong".into(), hook: Some(hook), rules: vec![] });
        let mut change = Transaction::new();
        change.replace(&table);
        let text = open().commit(&change).unwrap_err().to_string();
        assert!(text.contains("chain inet warren nat-wrong: Operation not supported"), "{text}");
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn a_replacement_is_one_commit_and_needs_nothing_before_it() {
    in_namespace(|| {
        let mut nft = open();
        for table in [tables::inet(), tables::bridge(), tables::inet()] {
            let before = nft.generation().unwrap();
            let mut change = Transaction::new();
            change.replace(&table);
            nft.commit(&change).unwrap();
            assert_eq!(nft.generation().unwrap(), before + 1);
        }
        let names: Vec<_> = nft.tables().unwrap();
        assert_eq!(names.len(), 2);
        assert!(names.iter().all(kernel::nft::TableName::is_ours), "{names:?}");
        let mut change = Transaction::new();
        change.clear(1, "warren").clear(7, "warren").clear(1, "nothing");
        nft.commit(&change).unwrap();
        nft.commit(&change).unwrap();
        assert!(nft.tables().unwrap().is_empty());
        nft.commit(&Transaction::new()).unwrap();
    });
}

#[test]
fn elements_come_and_go_in_every_kind_of_set() {
    in_namespace(|| {
        let table = tables::inet();
        create(&table.skeleton());
        let mut nft = open();
        for (name, set) in &table.sets {
            for element in &set.elements {
                let mut change = Transaction::new();
                change.add_elements(Family::Inet, name, set, &[element.clone()].into());
                nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
            }
            assert_eq!(nft.elements(Family::Inet, name, set).unwrap(), set.elements, "{name}");
        }
        for (name, set) in &table.sets {
            let mut left = set.elements.clone();
            for element in &set.elements {
                let mut change = Transaction::new();
                change.delete_elements(Family::Inet, name, set, &[element.clone()].into());
                nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
                left.remove(element);
                assert_eq!(nft.elements(Family::Inet, name, set).unwrap(), left, "{name}");
            }
        }
    });
}

#[test]
fn neighbouring_ranges_stay_apart() {
    in_namespace(|| {
        let mut set = Set { interval: true, ..Set::of(&[Type::Port]) };
        for at in 0..500_u16 {
            let (from, to) = (at * 100, at * 100 + 99);
            set.elements.insert(Element {
                key: vec![KeyPart::Range(Value::Port(from), Value::Port(to))],
                data: Vec::new(),
                most: None,
            });
        }
        let table =
            Table { family: Family::Inet, sets: [("ranges-in".to_owned(), set.clone())].into(), chains: vec![] };
        create(&table);
        let mut nft = open();
        assert_eq!(nft.elements(Family::Inet, "ranges-in", &set).unwrap(), set.elements);
        // What nft itself adds is read as well.
        tool(&["nft", "add element inet warren ranges-in { 60000-60010, 65535 }"], "");
        set.elements.insert(Element {
            key: vec![KeyPart::Range(Value::Port(60000), Value::Port(60010))],
            data: Vec::new(),
            most: None,
        });
        set.elements.insert(Element::of([Value::Port(65535)]));
        assert_eq!(nft.elements(Family::Inet, "ranges-in", &set).unwrap(), set.elements);
    });
}

/// How many tables there are when their owners' sockets are closed. A program that another test of this process starts right
/// then has a socket, too, until it begins (execve(2)).
#[track_caller]
fn left_alone() -> usize {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = open().tables().unwrap();
        if left.iter().all(|table| table.owner.is_none()) {
            return left.len();
        }
        assert!(Instant::now() < deadline, "tables are still somebody's");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_table_can_belong_to_its_socket() {
    in_namespace(|| {
        let table = tables::inet();
        let mut nft = open();
        let mut change = Transaction::new();
        change.owned().replace(&table);
        match nft.commit(&change) {
            Ok(()) => {}
            // Kernels before 6.9 have no NFT_TABLE_F_PERSIST.
            Err(e) => return assert!(e.to_string().contains("not supported"), "{e}"),
        }
        tool(&["nft", "flush ruleset"], "");
        assert!(try_tool(&["nft", "delete table inet warren"], "").is_err());
        assert_eq!(nft.tables().unwrap().len(), 1);
        // Its owner replaces it.
        nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
        drop(nft);
        // It outlives its owner, and the next daemon takes it over.
        assert_eq!(left_alone(), 1);
        let mut nft = open();
        nft.commit(&change).unwrap_or_else(|e| panic!("{e}"));
        assert!(try_tool(&["nft", "delete table inet warren"], "").is_err());
    });
}

#[test]
fn a_process_that_keeps_the_tables_makes_them_its_own_and_leaves_them_to_the_next() {
    in_namespace(|| {
        let table = tables::inet();
        let family = Family::Inet;
        let replace = |to: Option<TableState>| {
            kernel::nft::commit(&[TableChange::Replace { family, from: None, to }]).unwrap_or_else(|e| panic!("{e}"));
        };
        let written = || {
            let fingerprint = kernel::nft::fingerprint_of(family).unwrap().unwrap();
            WrittenTable { fingerprint, skeleton: table.skeleton() }
        };
        let look = || kernel::nft::look(family, Some(&written())).unwrap();
        replace(Some(TableState::Intact(table.clone())));
        assert!(matches!(look(), Found::Ours(TableState::Intact(_))));
        if !kernel::nft::keep().unwrap_or_else(|e| panic!("{e}")) {
            // Kernels before 6.9: nothing is kept, and the tables are like anybody's.
            assert!(!kernel::nft::keeps());
            assert!(matches!(look(), Found::Ours(TableState::Intact(_))));
            tool(&["nft", "flush ruleset"], "");
            return assert_eq!(open().tables().unwrap().len(), 0);
        }
        assert_eq!(open().tables().unwrap().len(), 1, "the trial left nothing");
        // As somebody else made it, so that it is made anew.
        assert!(matches!(look(), Found::Ours(TableState::Disturbed(_))));
        replace(Some(TableState::Intact(table.clone())));
        assert!(matches!(look(), Found::Ours(TableState::Intact(_))));
        tool(&["nft", "flush ruleset"], "");
        assert!(try_tool(&["nft", "delete table inet warren"], "").is_err());
        assert!(matches!(look(), Found::Ours(TableState::Intact(_))));
        // In another namespace this process keeps nothing.
        let other = kernel::netns::Netns::unnamed("other").unwrap();
        other
            .run(|| {
                replace(Some(TableState::Intact(table.clone())));
                assert_eq!(open().tables().unwrap()[0].owner, None);
            })
            .unwrap();
        // It ends, and who comes then does as he likes, without keeping them too.
        kernel::nft::let_go();
        assert_eq!(left_alone(), 1);
        assert!(matches!(look(), Found::Ours(TableState::Intact(_))));
        tool(&["nft", "flush ruleset"], "");
        replace(Some(TableState::Intact(table.clone())));
        replace(None);
        assert_eq!(open().tables().unwrap().len(), 0);
    });
}

#[test]
fn commits_of_others_between_do_no_harm() {
    in_namespace(|| {
        let table = tables::bridge();
        let small = Table {
            family: Family::Inet,
            sets: [("map-4".to_owned(), Set::map(&FORWARD_KEY, &[Type::Ipv4, Type::Port]))].into(),
            chains: vec![Chain {
                name: "forward-all".into(),
                hook: None,
                rules: vec![rule([is(Field::IifName, value(name("a"))), is(Field::NfProto, number(2)), tables::DROP])],
            }],
        };
        // The sockets belong to this namespace wherever they are used.
        let (mut one, mut two) = (open(), open());
        let busy = std::thread::spawn(move || {
            for _ in 0..200 {
                let mut change = Transaction::new();
                change.replace(&small);
                two.commit(&change).unwrap_or_else(|e| panic!("{e}"));
            }
        });
        for _ in 0..50 {
            let mut change = Transaction::new();
            change.replace(&table);
            one.commit(&change).unwrap_or_else(|e| panic!("{e}"));
            assert!(one.dump_table(7, "warren").unwrap().is_some());
        }
        busy.join().unwrap();
        assert_eq!(one.tables().unwrap().len(), 2);
    });
}
