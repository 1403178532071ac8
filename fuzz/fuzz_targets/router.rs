//! See fuzz/properties/router.rs.
#![no_main]

#[path = "../properties/router.rs"]
mod router;

libfuzzer_sys::fuzz_target!(|data: &[u8]| router::hold(data));
