//! What people and programs are told: words and tables to stdout, errors to stderr, colour on a terminal alone.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use model::plan::{Plan, Step};
use services::log::{self, Level};

/// The version of every JSON document (docs/json.md). It rises when a field's meaning changes or a field goes; new
/// fields may come without.
pub const JSON_VERSION: u32 = 1;

/// Where words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// stdout
    Out,
    /// stderr
    Err,
}

type Listener = Box<dyn Fn(Stream, &str)>;

thread_local! {
    /// Who hears what this thread says, in place of its process's own streams.
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Does `work`, and has `listener` hear what it says on this thread.
pub fn within<T>(listener: impl Fn(Stream, &str) + 'static, work: impl FnOnce() -> T) -> T {
    LISTENER.with_borrow_mut(|slot| *slot = Some(Box::new(listener)));
    let result = work();
    LISTENER.with_borrow_mut(|slot| *slot = None);
    result
}

/// Words for stderr, or for the journal where that reads it.
fn tell(level: Level, text: &str) {
    let heard = LISTENER.with_borrow(Option::is_some);
    if !heard && log::is_journals() {
        return log::line(level, &anstream::adapter::strip_str(text).to_string());
    }
    write(Stream::Err, text);
}

fn write(stream: Stream, text: &str) {
    let heard = LISTENER.with_borrow(|slot| slot.as_ref().map(|listener| listener(stream, text)).is_some());
    // Nobody is left to be told of a closed terminal, and a reader that went away (`warren status | head`) is no error.
    let _ = match stream {
        _ if heard => Ok(()),
        Stream::Out => writeln!(anstream::stdout(), "{text}"),
        Stream::Err => writeln!(anstream::stderr(), "{text}"),
    };
}

/// One JSON document to stdout.
pub fn json(value: &serde_json::Value) {
    line(&format!("{value:#}"));
}

/// The steps of a plan as docs/json.md describes them: their sort and words, not what they carry within, which changes
/// with every version.
pub fn steps(plan: &Plan) -> serde_json::Value {
    let step = |step: &Step| serde_json::json!({ "step": step.word(), "words": step.to_string() });
    plan.steps.iter().map(step).collect::<Vec<_>>().into()
}

/// A line to stdout. A reader that went away (`warren status | head`) is no error of ours.
pub fn line(text: &str) {
    write(Stream::Out, text);
}

/// An error to stderr, with its heading.
pub fn error(message: &str) {
    tell(Level::Error, &format!("{RED}{BOLD}error{RESET}{BOLD}:{RESET} {message}"));
}

/// Something drawn already, to stderr.
pub fn drawn(text: &str) {
    tell(Level::Error, text.trim_end());
}

/// A remark to stderr, out of the way of what is piped.
pub fn note(message: &str) {
    tell(Level::Info, message);
}

/// Whether stderr takes colour: on a terminal, and NO_COLOR (no-color.org) unset or empty.
pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// ANSI sequences (ECMA-48); anstream takes them out where they do not belong.
pub const RED: &str = "\x1b[31m";
/// Held, up, fine.
pub const GREEN: &str = "\x1b[32m";
/// Changed.
pub const YELLOW: &str = "\x1b[33m";
/// Less important.
pub const DIM: &str = "\x1b[2m";
/// Headings.
pub const BOLD: &str = "\x1b[1m";
/// Back to normal.
pub const RESET: &str = "\x1b[0m";

/// Rows in columns as wide as their widest cell, two spaces between; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (r, row) in rows.iter().enumerate() {
        let mut out = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = widths[c].saturating_sub(cell.chars().count());
            out.push_str(cell);
            if c + 1 < row.len() {
                out.push_str(&" ".repeat(pad + 2));
            }
        }
        let out = out.trim_end();
        if r == 0 {
            text.push_str(&format!("{BOLD}{out}{RESET}\n"));
        } else {
            text.push_str(out);
            text.push('\n');
        }
    }
    text
}
