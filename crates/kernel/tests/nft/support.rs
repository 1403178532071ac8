//! Namespaces to work in, and the real tools.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use kernel::nft::Nft;
use model::ruleset::{Family, Table};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn own_namespace() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").expect("/proc is mounted").ino()
}

/// Runs `work` on a thread in a new network namespace, which ends with it. Needs root, or a user namespace's root
/// (`unshare --user --map-root-user`).
pub fn in_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let before = own_namespace();
        // SAFETY: only this thread, which ends below, changes its network namespace; no memory or files are unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root, or root of a user namespace");
        assert_ne!(own_namespace(), before, "still in the old namespace");
        // A plain user may not look at pid 1's.
        if let Ok(init) = std::fs::metadata("/proc/1/ns/net") {
            assert_ne!(own_namespace(), init.ino(), "the machine's own namespace is never touched");
        }
        work()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs a tool in the thread's namespace with `input`; its output, or what it complained of.
pub fn try_tool(command: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{} must be installed for this test: {e}", command[0]));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

pub fn tool(command: &[&str], input: &str) -> String {
    try_tool(command, input).unwrap_or_else(|e| panic!("{command:?}: {e}\n{input}"))
}

pub fn nft(words: &str) -> String {
    let command: Vec<&str> = std::iter::once("nft").chain(words.split(' ')).collect();
    tool(&command, "")
}

pub fn load_text(text: &str) -> Result<(), String> {
    try_tool(&["nft", "-f", "-"], text).map(|_| ())
}

pub fn list(family: Family) -> String {
    nft(&format!("list table {} warren", family.word()))
}

pub fn open() -> Nft {
    Nft::open().expect("a netlink socket")
}

pub fn create(table: &Table) {
    let mut change = kernel::nft::Transaction::new();
    change.create(table);
    open().commit(&change).unwrap_or_else(|e| panic!("{e}"));
}
