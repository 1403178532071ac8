//! The `warren` binary.
mod diagnostics;

fn main() {}
