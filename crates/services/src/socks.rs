//! The developers' door: SOCKS5 (RFC 1928), CONNECT alone, without authentication. Who comes is on this host already,
//! most often by ssh; where one may go from here is checked ([`decide`]).

mod carry;
pub mod decide;
pub mod serve;
pub mod wire;
