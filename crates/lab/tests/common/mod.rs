//! A test harness for tests in namespaces: it steps out of the machine's namespaces first, and refuses to go on where
//! that fails.
#![allow(dead_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;

use kernel::netns::Netns;

/// Runs the cases whose names contain the first argument that is no option.
pub fn main(cases: &[(&str, fn())]) -> ExitCode {
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    lab::enter().expect("these tests run in namespaces of their own alone");
    assert_ne!(std::fs::read_link("/proc/self/ns/net").unwrap(), outside, "still in the machine's own namespace");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    if arguments.iter().any(|a| a == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases.iter().filter(|(name, _)| name.contains(&filter)) {
        let start = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(case)).is_ok();
        println!("test {name} ... {} ({:.0?})", if held { "ok" } else { "FAILED" }, start.elapsed());
        passed += u32::from(held);
        failed += u32::from(!held);
    }
    println!("\n{passed} passed, {failed} failed\n");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a tool that is not ours inside a namespace; its output.
pub fn tool(netns: &Netns, line: &str) -> (bool, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = netns.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().expect(line);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// The same, where it must succeed.
pub fn must(netns: &Netns, line: &str) -> String {
    let (ok, text) = tool(netns, line);
    assert!(ok, "{line}: {text}");
    text
}
