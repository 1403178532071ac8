//! Files of ours, written, torn and read.
#![allow(clippy::unwrap_used)]
use super::*;

fn store(dir: &Path) -> Store {
    Store::new(&dir.join("state"), &dir.join("run")).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert_eq!(store.baseline().unwrap(), None);
    store.write_baseline(&Baseline::default()).unwrap();
    assert_eq!(store.baseline().unwrap(), Some(Baseline::default()));
    store.remove_baseline().unwrap();
    assert_eq!(store.baseline().unwrap(), None);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(dir.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_torn_write_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.write_journal(&NewJournal { prior: &Prior::default(), plan: &Plan::default() }).unwrap();
    let path = store.journal_path();
    let whole = fs::read(&path).unwrap();
    for cut in [0, 10, 64, 65, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(store.journal(), Err(StoreError::Damaged { .. })), "cut at {cut}");
    }
}

#[test]
fn what_another_namespace_left_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = store(dir.path());
    other.identity.namespace += 1;
    other.write_baseline(&Baseline::default()).unwrap();
    assert_eq!(store(dir.path()).baseline().unwrap(), None);
}

#[test]
fn one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let held = store.lock(Duration::ZERO).unwrap();
    let error = store.lock(Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    drop(held);
    store.lock(Duration::ZERO).unwrap();
}

#[test]
fn what_one_keeps_in_mind_of_the_record_is_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (store(dir.path()), store(dir.path()));
    let record = |text: &str| Record { text: text.to_owned(), ..Record::default() };
    assert_eq!(one.record().unwrap(), None);
    for text in ["first", "second"] {
        one.write_record(record(text).into()).unwrap();
        assert_eq!(one.record().unwrap(), Some(record(text)));
        assert_eq!(other.record().unwrap(), Some(record(text)));
        let own = format!("{text}, by the other");
        other.write_record(record(&own).into()).unwrap();
        assert_eq!(one.record().unwrap(), Some(record(&own)));
    }
    other.remove_record().unwrap();
    assert_eq!(one.record().unwrap(), None);
    one.write_record(record("third").into()).unwrap();
    fs::write(dir.path().join("run").join(RECORD), "no record").unwrap();
    assert_eq!(one.record().unwrap(), None);
}
