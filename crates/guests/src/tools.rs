//! Running programs: what they are called in errors, what package has them, and what they said last.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Context as _, GuestError, Result};

/// How many of a program's last lines an error shows.
const LAST: usize = 12;
/// The longest line of a program's that is kept, in bytes.
const LINE: usize = 400;

/// A program that is started for `operation`, which is told where it fails.
pub(crate) struct Tool {
    command: Command,
    program: String,
    operation: String,
}

impl Tool {
    /// `program` of the host's, without input, and with root's own PATH: what LXC's templates call lies in sbin too.
    pub(crate) fn new(program: &str, operation: impl Into<String>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir("/").env("PATH", path());
        Self { command, program: program.to_owned(), operation: operation.into() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// With `file` as its standard input, and that of all that it starts: who has it locked shares the lock with them.
    pub(crate) fn holding(mut self, file: &File) -> Result<Self> {
        self.command.stdin(file.try_clone().context("share", "a lock")?);
        Ok(self)
    }

    /// How it ended, and what it printed.
    pub(crate) fn output(mut self) -> Result<(ExitStatus, String, Vec<String>)> {
        let output = self.command.output().map_err(|e| self.missing(e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        Ok((output.status, text, last_lines(&errors)))
    }

    /// What it printed, where it ended well.
    pub(crate) fn text(self) -> Result<String> {
        let (program, operation) = (self.program.clone(), self.operation.clone());
        let (status, text, said) = self.output()?;
        if status.success() { Ok(text) } else { Err(failed(operation, program, status, said)) }
    }

    /// Runs it to its end and hands on what it says, line by line.
    pub(crate) fn watched(mut self, said: &(dyn Fn(&str) + Sync)) -> Result<()> {
        // One pipe for both, so that what it says last comes last.
        let (reader, writer) = io::pipe().context("make", "a pipe")?;
        let second = writer.try_clone().context("make", "a pipe")?;
        self.command.stdout(writer).stderr(second);
        let mut child = self.command.spawn().map_err(|e| self.missing(e))?;
        // The ends that our side of the command holds would keep the pipe open.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut last = VecDeque::new();
        each_line(reader, |line| {
            said(line);
            last.push_back(line.to_owned());
            if last.len() > LAST {
                last.pop_front();
            }
        });
        let status = child.wait().context("wait for", &self.program)?;
        if status.success() { Ok(()) } else { Err(failed(self.operation, self.program, status, last.into())) }
    }

    fn missing(&self, error: io::Error) -> GuestError {
        if error.kind() == io::ErrorKind::NotFound {
            let package = package_of(&self.program);
            return GuestError::Missing { operation: self.operation.clone(), program: self.program.clone(), package };
        }
        GuestError::io("start", &self.program, error)
    }
}

/// A program's failure, with its last words.
pub(crate) fn failed(operation: String, program: String, status: ExitStatus, said: Vec<String>) -> GuestError {
    use std::os::unix::process::ExitStatusExt as _;
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed (exit {code})"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "failed".to_owned(),
    };
    GuestError::Tool { operation, program, how, said }
}

/// The last lines of a text that say something.
pub(crate) fn last_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().rev().map(str::trim_end).filter(|line| !line.is_empty()).take(LAST).map(shorten).collect();
    lines.reverse();
    lines
}

/// PATH with the folders of root's, which a plain `sudo` or a unit may lack.
pub(crate) fn path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    for folder in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if !path.split(':').any(|part| part == folder) {
            if !path.is_empty() {
                path.push(':');
            }
            path.push_str(folder);
        }
    }
    path
}

/// Whether a program is where root's shell would find it.
pub(crate) fn is_on_path(program: &str) -> bool {
    path().split(':').any(|folder| Path::new(folder).join(program).exists())
}

/// Debian's package that has a program.
fn package_of(program: &str) -> &'static str {
    match program {
        "ssh-keygen" => "openssh-client",
        "tar" => "tar",
        "cp" => "coreutils",
        _ => "lxc",
    }
}

/// Lines may end in a carriage return alone, as progress does.
fn each_line(stream: impl Read, mut line: impl FnMut(&str)) {
    let mut stream = BufReader::new(stream);
    let mut bytes = Vec::new();
    while stream.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&bytes);
        if let Some(last) = text.split('\r').map(str::trim_end).rfind(|part| !part.is_empty()) {
            line(&shorten(last));
        }
        bytes.clear();
    }
}

/// Cut, and without what would move a terminal's cursor: templates and guests say what they like.
fn shorten(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').take(LINE).collect()
}
