//! warren beside its peers on the same work, in turns, in a lab; writes docs/performance.md. Run it by
//! `cargo xtask bench`, on a machine with nothing else to do.

mod apply;
mod connect;
mod forward;
mod measure;
mod names;
mod replay;
mod scene;
mod serve;
mod sites;
mod socks;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use measure::Row;
use scene::{Outcome, told};

/// A part of the table, and what measures it.
type Part = (&'static str, fn() -> Outcome<Vec<Row>>);
const PARTS: &[Part] = &[
    ("connections", connect::connections_per_second),
    ("streams", connect::streams),
    ("up", apply::up_of_forwards),
    ("forward", forward::rows),
    ("guests", apply::up_of_guests),
    ("many", apply::many_of_both),
    ("processes", apply::alone),
    ("names", names::rows),
    ("memory", serve::idle_memory),
    ("lost", serve::packets_lost),
    ("repairs", serve::repairs),
    ("sites", sites::rows),
    ("socks", socks::rows),
];
/// The environment variable of the processes that measure a part each.
const ALONE: &str = "WARREN_BENCH_PART";
/// How long a part may take: what hangs is ended and named, and the others are measured.
const PATIENCE: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(ALONE) {
        return match enter().and_then(|()| part(&name)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("warren-bench: {name}: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|asked| PARTS.iter().all(|(name, _)| asked != name)) {
        let all: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!("warren-bench: there is no part {unknown}; there are: {}", all.join(", "));
        return ExitCode::from(2);
    }
    match table(&asked) {
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

/// Measures a part, in this process, and tells its rows as they come.
fn part(name: &str) -> Outcome<()> {
    let (_, rows) = PARTS.iter().find(|(known, _)| *known == name).ok_or("no such part")?;
    for row in rows()? {
        println!("{}", line(&row));
    }
    Ok(())
}

/// Measures what was asked for, each part in a process and namespaces of its own; where that is everything, writes the
/// page. Whether every part could be measured.
fn table(asked: &[String]) -> Outcome<bool> {
    let mut text = String::new();
    let mut whole = true;
    let begun = Instant::now();
    for (name, _) in PARTS {
        if !asked.is_empty() && !asked.iter().any(|a| a == name) {
            continue;
        }
        let since = Instant::now();
        eprintln!("{name} …");
        let (rows, trouble) = apart(name)?;
        for row in rows.lines().filter(|line| line.starts_with("| ")) {
            println!("{row}");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{row}");
        }
        if let Some(trouble) = trouble {
            whole = false;
            let _ = writeln!(text, "| *{name}* | not measured: {} | | | | |", trouble.replace(['|', '\n'], " "));
            eprintln!("{name}: {trouble}");
        }
        eprintln!("{name}: {} s", since.elapsed().as_secs());
    }
    eprintln!("all: {} s", begun.elapsed().as_secs());
    if asked.is_empty() {
        write_page(&text)?;
    }
    Ok(whole)
}

/// A part in a process of its own: what it said, and what was wrong.
fn apart(name: &str) -> Outcome<(String, Option<String>)> {
    let own = told(std::env::current_exe(), "this program")?;
    // Whatever of a part is left, such as a `serve` whose measurement failed, ends with its namespace.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(own);
    command.env(ALONE, name).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = told(command.spawn(), name)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let rows = thread::spawn(move || heard(out, false));
    let words = thread::spawn(move || heard(err, true));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match told(child.try_wait(), name)? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    // It has ended, or is to.
    let _ = child.kill();
    let _ = child.wait();
    let rows = rows.join().map_err(|_| "a thread ended")?;
    let words = words.join().map_err(|_| "a thread ended")?;
    let last = words.lines().rev().find(|line| line.starts_with("warren-bench:")).unwrap_or("it ended").to_owned();
    Ok((
        rows,
        match status {
            Some(status) if status.success() => None,
            Some(_) => Some(last),
            None => Some(format!("it did not end within {} s", PATIENCE.as_secs())),
        },
    ))
}

/// All that comes through a pipe; told as it comes, if it is for people.
fn heard(pipe: Option<impl std::io::Read>, aloud: bool) -> String {
    let mut all = String::new();
    for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
        if aloud {
            eprintln!("  {line}");
        }
        all.push_str(&line);
        all.push('\n');
    }
    all
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
