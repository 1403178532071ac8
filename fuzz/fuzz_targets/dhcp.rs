//! See fuzz/properties/dhcp.rs.
#![no_main]

#[path = "../properties/dhcp.rs"]
mod dhcp;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dhcp::hold(data));
