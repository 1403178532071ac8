//! The SSH session that this process runs in, if it does.

use std::cell::Cell;
use std::fs;
use std::sync::OnceLock;

use model::session::Session;

use crate::sockdiag;

thread_local! {
    /// The session of the process on whose behalf this thread works, where that is another; none where it is in none.
    static ASKERS: Cell<Option<Option<Session>>> = const { Cell::new(None) };
}

/// Does `work` on behalf of another process that has told its `session`: [`current`] tells that one.
pub fn on_behalf_of<T>(session: Option<Session>, work: impl FnOnce() -> T) -> T {
    ASKERS.set(Some(session));
    let result = work();
    ASKERS.set(None);
    result
}

/// Finds it by SSH_CONNECTION (ssh(1)), of this process or of one that it comes from: sudo takes it out of the
/// environment of what it runs, and still has it in its own. One whose connection is gone, as in a terminal
/// multiplexer that was left, counts as none.
#[must_use]
pub fn current() -> Option<Session> {
    let found = match ASKERS.get() {
        Some(told) => told?,
        None => {
            // It was begun in one, or it was not: what it comes from is looked through once.
            static BEGUN_IN: OnceLock<Option<Session>> = OnceLock::new();
            (*BEGUN_IN.get_or_init(of_this_process))?
        }
    };
    // Where the kernel does not tell, a session that may be one is taken for one.
    sockdiag::is_established(&found).unwrap_or(true).then_some(found)
}

fn of_this_process() -> Option<Session> {
    let own = std::env::var("SSH_CONNECTION").ok().and_then(|text| Session::parse(&text));
    own.or_else(|| ancestors(std::process::id()).find_map(session_of))
}

fn session_of(pid: u32) -> Option<Session> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    Session::parse(variables.find_map(|line| line.strip_prefix("SSH_CONNECTION="))?)
}

/// The processes that this one comes from, the nearest first; as many as may be seen.
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    // A race with ending processes cannot make a circle, but a bound costs nothing.
    std::iter::successors(parent(pid), |pid| parent(*pid)).take(64)
}

/// The fourth field of /proc/PID/stat (proc(5)); the second, in parentheses, may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    (parent > 0).then_some(parent)
}
