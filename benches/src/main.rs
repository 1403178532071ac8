//! warren beside its peers on the same work, in turns, in a lab; writes docs/performance.md. Run it by
//! `cargo xtask bench`, on a machine with nothing else to do.

mod apply;
mod connect;
mod measure;
mod names;
mod replay;
mod scene;
mod serve;
mod socks;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use measure::Row;
use scene::{Outcome, told};

/// A part of the table, and what measures it.
type Part = (&'static str, fn() -> Outcome<Vec<Row>>);
const PARTS: [Part; 5] = [
    ("apply", apply::rows),
    ("connect", connect::rows),
    ("serve", serve::rows),
    ("names", names::rows),
    ("socks", socks::rows),
];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    match enter().and_then(|()| table(&asked)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("warren-bench: {e}");
            ExitCode::from(2)
        }
    }
}

/// A namespace of our own, before anything is made: nothing here may touch the machine's.
fn enter() -> Outcome<()> {
    // SAFETY: NEWNET closes no descriptor, and there is one thread yet.
    let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    told(entered, "a network namespace (root?)")?;
    told(kernel::netns::private_mounts(&[Path::new("/run")]), "mounts of our own")
}

/// Measures what was asked for; where that is everything, writes the page. Whether every goal was reached.
fn table(asked: &[String]) -> Outcome<bool> {
    let mut text = String::new();
    let mut reached = true;
    for (name, rows) in PARTS {
        if !asked.is_empty() && !asked.iter().any(|a| a == name) {
            continue;
        }
        eprintln!("{name} …");
        for row in rows()? {
            reached &= row.reached != Some(false);
            let line = line(&row);
            println!("{line}");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
    }
    if asked.is_empty() {
        write_page(&text)?;
    }
    Ok(reached)
}

fn line(row: &Row) -> String {
    let ratio = row.ratio.map_or_else(String::new, |r| format!("{r:.2}"));
    let verdict = match (row.goal, row.reached) {
        ("", _) | (_, None) => "",
        (_, Some(true)) => "yes",
        (_, Some(false)) => "**no**",
    };
    format!("| {} | {} | {} | {ratio} | {} | {verdict} |", row.work, row.ours, row.theirs, row.goal)
}

/// The lines between which the page's table stands.
const BEGIN: &str = "<!-- measured: written by cargo xtask bench -->\n";
const END: &str = "<!-- end -->";

fn write_page(rows: &str) -> Outcome<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let page = told(std::fs::read_to_string(&path), "docs/performance.md")?;
    let (head, rest) = page.split_once(BEGIN).ok_or("docs/performance.md has no place for the table")?;
    let (_, tail) = rest.split_once(END).ok_or("docs/performance.md has no end of the table")?;
    let heading = "| work | warren | beside | ratio | goal | reached |\n| --- | --- | --- | --- | --- | --- |\n";
    told(std::fs::write(&path, format!("{head}{BEGIN}{heading}{rows}{END}{tail}")), "docs/performance.md")
}
