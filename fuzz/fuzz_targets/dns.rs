//! See fuzz/properties/dns.rs.
#![no_main]

#[path = "../properties/dns.rs"]
mod dns;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::hold(data));
