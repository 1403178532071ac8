//! See fuzz/properties/http.rs.
#![no_main]

#[path = "../properties/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http::hold(data));
