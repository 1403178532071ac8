//! Processes that a browser leaves behind: they become ours, and end with us.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

/// How long they may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// From now on, whoever loses its parent below us becomes our child (PR_SET_CHILD_SUBREAPER of prctl(2)).
pub fn adopt() {
    // Where that is refused, they are init's, as with any browser.
    let _ = set_child_subreaper(Some(getpid()));
}

/// Ends all that is left.
pub fn sweep() {
    let begun = Instant::now();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left = children();
        if left.is_empty() || begun.elapsed() >= PATIENCE {
            return;
        }
        for child in left {
            // It may have ended meanwhile; nobody else reaps it, so the number is still its own.
            let _ = kill_process(child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Our children (/proc/PID/task/TID/children of proc(5)).
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}
