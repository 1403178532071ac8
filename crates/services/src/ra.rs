//! Router advertisements (RFC 4861): prefixes to make addresses of (RFC 4862), the resolver and the search domain
//! (RFC 8106).

pub mod decide;
pub mod serve;
pub mod wire;
