//! What the services tell the person who reads the log: a line each, and of what strangers can cause only so many.
//! Lines of which there are thousands a second are written several at once.

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How loud a line is, by syslog's numbers (syslog(3)), which journald reads in front of a line (sd-daemon(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error = 3,
    /// Something is not as it should be.
    Warning = 4,
    /// As it goes.
    Info = 6,
}

/// Whether journald reads this process's stderr: JOURNAL_STREAM (systemd.exec(5)) names its device and number, and is
/// inherited by those whose stderr is another.
#[must_use]
pub fn is_journals() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| {
        let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let own = rustix::fs::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        own.is_ok_and(|own| own == named)
    })
}

/// Writes to stderr, with its level in front of each line where journald reads it.
pub fn line(level: Level, text: &str) {
    flush();
    write(whole(level, text).as_bytes());
}

fn whole(level: Level, text: &str) -> String {
    format!("{}\n", if is_journals() { levelled(level, text) } else { text.to_owned() })
}

/// One write: two processes share the stream.
fn write(lines: &[u8]) {
    // Nobody is left to be told of a stream that is closed.
    let _ = std::io::stderr().write_all(lines);
}

/// So much is written in one piece, whoever else writes to a pipe (PIPE_BUF of pipe(7)).
const TOGETHER: usize = 4096;
/// How long a line waits for others.
const PAUSE: Duration = Duration::from_millis(20);

thread_local! {
    /// Lines that wait to be written.
    static WAITING: RefCell<Waiting> = const { RefCell::new(Waiting { lines: Vec::new(), awaited: false }) };
}

struct Waiting {
    lines: Vec<u8>,
    /// Whether a task is going to write them.
    awaited: bool,
}

impl Waiting {
    fn write(&mut self) {
        if !self.lines.is_empty() {
            write(&self.lines);
            self.lines.clear();
        }
    }
}

/// As [`info`], a moment later, together with what else is told by then: each write wakes the reader. To be called
/// within a `LocalRuntime`; who ends it calls [`flush`].
pub fn soon(text: &str) {
    let line = whole(Level::Info, text);
    let begin = WAITING.with_borrow_mut(|waiting| {
        if waiting.lines.len() + line.len() > TOGETHER {
            waiting.write();
        }
        waiting.lines.extend_from_slice(line.as_bytes());
        !std::mem::replace(&mut waiting.awaited, true)
    });
    if begin {
        tokio::task::spawn_local(async {
            tokio::time::sleep(PAUSE).await;
            WAITING.with_borrow_mut(|waiting| {
                waiting.awaited = false;
                waiting.write();
                // A burst's memory is not kept.
                waiting.lines.shrink_to(0);
            });
        });
    }
}

/// Writes what waits.
pub fn flush() {
    WAITING.with_borrow_mut(Waiting::write);
}

fn levelled(level: Level, text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("<{}>{line}", level as u8)).collect::<Vec<_>>().join("\n")
}

/// Something works.
pub fn info(text: &str) {
    line(Level::Info, text);
}

/// Something is not as it should be.
pub fn warn(text: &str) {
    line(Level::Warning, text);
}

/// Something does not work.
pub fn error(text: &str) {
    line(Level::Error, text);
}

/// How many lines of a sort are written within [`WINDOW`].
const BURST: u32 = 5;
/// For how long the others of that sort are only counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Lines that strangers cause: a few of each sort within a minute, then how many more there were.
#[derive(Debug, Default)]
pub struct Bounded {
    sorts: RefCell<Vec<Sort>>,
}

#[derive(Debug)]
struct Sort {
    name: &'static str,
    since: Instant,
    seen: u32,
}

impl Bounded {
    /// Writes the line that `text` makes, or counts it where there were enough of `sort`.
    pub fn warn(&self, sort: &'static str, text: impl FnOnce() -> String) {
        if let Some(more) = self.may(sort, Instant::now()) {
            let more = if more > 0 { format!(" ({more} more of this in the last minute)") } else { String::new() };
            warn(&format!("{}{more}", text()));
        }
    }

    /// How many were held back before this one, where it may be written.
    fn may(&self, name: &'static str, now: Instant) -> Option<u32> {
        let mut sorts = self.sorts.borrow_mut();
        let Some(sort) = sorts.iter_mut().find(|sort| sort.name == name) else {
            sorts.push(Sort { name, since: now, seen: 1 });
            return Some(0);
        };
        if now.duration_since(sort.since) >= WINDOW {
            let held = sort.seen.saturating_sub(BURST);
            (sort.since, sort.seen) = (now, 1);
            return Some(held);
        }
        sort.seen = sort.seen.saturating_add(1);
        (sort.seen <= BURST).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_level() {
        assert_eq!(levelled(Level::Warning, "a"), "<4>a");
        assert_eq!(levelled(Level::Error, "a\n\n  b\n"), "<3>a\n<3>  b");
    }

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let log = Bounded::default();
        let begun = Instant::now();
        let written = (0..1000).filter(|_| log.may("a", begun).is_some()).count();
        assert_eq!(written, 5);
        assert_eq!(log.may("b", begun), Some(0), "another sort is heard");
        assert_eq!(log.may("a", begun + WINDOW), Some(995));
        assert_eq!(log.may("a", begun + WINDOW), Some(0));
    }
}
