//! The programs of iptables-legacy: found where root's are, with nothing of our environment, and for a bounded time.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use model::foreign::Layer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where a system's own programs lie.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"];
/// How long a program may take. Others that hold /run/xtables.lock are waited for within that.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may wait for the lock, in seconds (iptables-restore(8), `--wait`).
const LOCK: &str = "20";
/// So much of what it complains of is told, in bytes.
const WORDS: usize = 400;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Prints what stands in the tables that are there.
    Save,
    /// Reads from its standard input what is to stand there: a table at once, or nothing of it.
    Restore,
}

impl Program {
    fn name(self, family: Layer) -> &'static str {
        match (self, family) {
            (Self::Save, Layer::Ip6) => "ip6tables-legacy-save",
            (Self::Save, _) => "iptables-legacy-save",
            (Self::Restore, Layer::Ip6) => "ip6tables-legacy-restore",
            (Self::Restore, _) => "iptables-legacy-restore",
        }
    }

    /// What it printed, told `input`, in the calling thread's network namespace.
    pub(super) fn run(self, family: Layer, arguments: &[&str], input: &str) -> io::Result<String> {
        let name = self.name(family);
        let path = find(name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no program {name} here (package iptables)"))
        })?;
        let mut command = Command::new(path);
        command.args(arguments).env_clear().env("PATH", FOLDERS.join(":")).env("LC_ALL", "C").current_dir("/");
        if self == Self::Restore {
            command.args(["--wait", LOCK]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{name} does not start: {e}")))?;
        finish(child, name, input)
    }
}

fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// Feeds it, hears it out and waits for it; one that takes too long is killed.
fn finish(mut child: Child, name: &str, input: &str) -> io::Result<String> {
    let (to, from, said) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // One that ends early has said why.
        scope.spawn(move || to.map(|mut to| to.write_all(input.as_bytes())));
        let printed = scope.spawn(move || all(from));
        let said = scope.spawn(move || all(said));
        let in_time = wait(&child);
        if !matches!(in_time, Ok(true)) {
            child.kill()?;
        }
        let status = child.wait()?;
        let broken = |_| io::Error::other(format!("{name} could not be heard"));
        let (printed, said) = (printed.join().map_err(broken)??, said.join().map_err(broken)??);
        if !in_time? {
            let text = format!("{name} did not end within {} seconds", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        if !status.success() {
            return Err(io::Error::other(format!("{name}: {}", words(&said, status))));
        }
        String::from_utf8(printed).map_err(|_| io::Error::other(format!("{name} printed what is no text")))
    })
}

fn all(stream: Option<impl io::Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Whether it ended in time.
fn wait(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The first line of what it complained of, or how it ended.
fn words(said: &[u8], status: std::process::ExitStatus) -> String {
    let said = String::from_utf8_lossy(said);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first: Option<String> = lines.next().map(|line| line.chars().filter(|c| !c.is_control()).take(WORDS).collect());
    first.unwrap_or_else(|| status.to_string())
}
