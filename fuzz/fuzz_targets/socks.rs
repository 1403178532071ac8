//! See fuzz/properties/socks.rs.
#![no_main]

#[path = "../properties/socks.rs"]
mod socks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| socks::hold(data));
