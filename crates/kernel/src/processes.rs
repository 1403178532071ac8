//! Processes of this network, found by their names in one look at all: a server may have thousands.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::Pid;

/// A process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its name, as the kernel has it (comm, proc(5)).
    pub name: String,
    /// Its command line.
    pub line: Vec<String>,
}

/// Every process of this network's by one of those names. One that has ended counts no more, even where nobody has
/// waited for it yet.
#[must_use]
pub fn named(names: &[&str]) -> Vec<Process> {
    let Some(own) = network("thread-self") else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let name = comm(pid).filter(|name| names.contains(&name.as_str()))?;
        if network(&pid.to_string()) != Some(own) {
            return None;
        }
        let text = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut line: Vec<String> = line.collect();
        line.pop();
        (!line.is_empty()).then_some(Process { pid: Pid::from_raw(pid)?, name, line })
    })
    .collect()
}

/// The network that a process is in.
fn network(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/net")).map(|meta| meta.ino()).ok()
}

/// The name of a process, which fits into sixteen bytes (TASK_COMM_LEN, linux/sched.h) and is read by one call.
pub(crate) fn comm(pid: i32) -> Option<String> {
    let mut text = [0; 32];
    let length = File::open(format!("/proc/{pid}/comm")).ok()?.read(&mut text).ok()?;
    Some(String::from_utf8_lossy(text.get(..length)?).trim_end().to_owned())
}

/// What configures interfaces as a program of its own, looked for once and only where somebody asks.
#[derive(Debug, Default)]
pub struct Clients(OnceCell<Vec<Process>>);

impl Clients {
    /// Those by one of the names, which are among [`Self::NAMES`].
    pub fn named<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Process> {
        let all = self.0.get_or_init(|| named(Self::NAMES));
        all.iter().filter(|process| names.contains(&process.name.as_str()))
    }

    /// All that is looked for.
    const NAMES: &[&str] = &["dhclient", "udhcpc", "udhcpc6", "busybox", "NetworkManager"];
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_found_by_its_name_and_by_no_other() {
        let own = i32::try_from(std::process::id()).unwrap();
        let found = named(&[&comm(own).unwrap()]);
        let ours = found.iter().find(|process| process.pid.as_raw_pid() == own).unwrap();
        assert_eq!(ours.line, std::env::args().collect::<Vec<_>>());
        assert_eq!(named(&["nobody is so"]), []);
    }
}
