//! iptables-legacy's tables: x_tables' own, which nf_tables does not show. They are read and written by their owner's
//! programs, as firewalld's are by firewalld, and only where such tables are there already: the programs make a table
//! by looking at it.

use std::collections::BTreeSet;

use model::foreign::saved::{self, Saved};
use model::foreign::{Layer, Mend, Way};

use crate::error::{Context as _, KernelError, Result};

mod program;
mod trace;

pub use trace::Tracer;

use program::Program;

/// The families that x_tables of ours has.
const FAMILIES: [(Layer, &str); 2] = [(Layer::Ip, "ip_tables_names"), (Layer::Ip6, "ip6_tables_names")];

/// The tables in the calling thread's network namespace (/proc/net/ip_tables_names); nothing where nobody used them.
///
/// # Errors
/// Where the kernel does not let them be read.
pub fn tables() -> Result<Vec<(Layer, String)>> {
    let mut out = Vec::new();
    for (family, file) in FAMILIES {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(names) => out.extend(names.lines().map(|name| (family, name.to_owned()))),
            // A kernel without them.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(KernelError::new("read", format!("/proc/net/{file}"), e)),
        }
    }
    Ok(out)
}

/// What stands in them, in the calling thread's network namespace; nothing where there are none.
///
/// # Errors
/// Where their programs are missing, fail, or print what is not understood.
pub fn read() -> Result<Vec<Saved>> {
    let there: BTreeSet<Layer> = tables()?.into_iter().map(|(family, _)| family).collect();
    there.into_iter().map(read_family).collect()
}

/// Only for families that have tables.
fn read_family(family: Layer) -> Result<Saved> {
    let what = || format!("iptables-legacy's rules ({})", family.word());
    // Without a table's name it prints those that are there, and makes none.
    let printed = Program::Save.run(family, &[], "").context("read", what())?;
    Saved::parse(family, &printed).map_err(|e| KernelError::new("read", what(), std::io::Error::other(e.to_string())))
}

/// Makes those tables in the calling thread's network namespace: for labs.
///
/// # Errors
/// Where the program is missing or fails, as where a set of ipset's is not there.
pub fn restore(saved: &Saved) -> Result<()> {
    let what = format!("iptables-legacy's rules ({})", saved.family.word());
    Program::Restore.run(saved.family, &[], &saved.text()).map(drop).context("copy", what)
}

/// The mends of ours that stand. What cannot be read holds up nobody who has none there.
///
/// # Errors
/// As [`read`], where `wanted` names such a mend.
pub fn mends(wanted: &BTreeSet<Mend>) -> Result<BTreeSet<Mend>> {
    match read() {
        Ok(families) => Ok(families.iter().flat_map(Saved::mends).collect()),
        Err(e) if wanted.iter().any(|mend| matches!(mend, Mend::Legacy { .. } | Mend::LegacyTwin { .. })) => Err(e),
        Err(_) => Ok(BTreeSet::new()),
    }
}

/// Puts the rule first in its chain.
///
/// # Errors
/// Where the table is gone, the program is missing, or refuses it.
pub fn add_mend(family: Layer, table: &str, chain: &str, way: &Way) -> Result<()> {
    if !is_there(family, table)? {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(KernelError::new("put a rule into", place(family, table, chain), gone));
    }
    change(family, &saved::insertion(table, chain, way)).context("put a rule into", place(family, table, chain))
}

/// Takes the rule away again, wherever it stands in its chain.
///
/// # Errors
/// Where the program is missing or refuses it. One that is gone is no error.
pub fn delete_mend(family: Layer, table: &str, chain: &str, way: &Way) -> Result<()> {
    if !is_there(family, table)? {
        return Ok(());
    }
    match saved::removal(&read_family(family)?, table, chain, way) {
        Some(lines) => change(family, &lines).context("take a rule out of", place(family, table, chain)),
        None => Ok(()),
    }
}

/// Puts the like of a rule, for the bridge in its interface's place, right behind it.
///
/// # Errors
/// Where the rule is gone, the program is missing, or refuses it.
pub fn add_twin(mend: &Mend) -> Result<()> {
    let Mend::LegacyTwin { family, table, chain, line, port, bridge } = mend else { return Ok(()) };
    let there = if is_there(*family, table)? { Some(read_family(*family)?) } else { None };
    match there.and_then(|saved| saved::like_insertion(&saved, table, chain, line, (port, bridge))) {
        Some(lines) => change(*family, &lines).context("put the like of a rule into", place(*family, table, chain)),
        None => {
            let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
            Err(KernelError::new("put the like of a rule into", place(*family, table, chain), gone))
        }
    }
}

/// Takes such a like away again, wherever it stands in its chain.
///
/// # Errors
/// Where the program is missing or refuses it. One that is gone is no error.
pub fn delete_twin(mend: &Mend) -> Result<()> {
    let Mend::LegacyTwin { family, table, chain, line, .. } = mend else { return Ok(()) };
    if !is_there(*family, table)? {
        return Ok(());
    }
    match saved::like_removal(&read_family(*family)?, table, chain, line) {
        Some(lines) => change(*family, &lines).context("take a rule out of", place(*family, table, chain)),
        None => Ok(()),
    }
}

fn change(family: Layer, lines: &str) -> std::io::Result<()> {
    Program::Restore.run(family, &["--noflush"], lines).map(drop)
}

fn is_there(family: Layer, table: &str) -> Result<bool> {
    Ok(tables()?.iter().any(|(of, name)| *of == family && name == table))
}

fn place(family: Layer, table: &str, chain: &str) -> String {
    format!("the chain {} {table} {chain} of iptables-legacy", family.word())
}
