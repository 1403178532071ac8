//! The LANs' own services, in a process without privileges ([`worker`]): names (`dns`), leases (`dhcp`), router
//! advertisements (`ra`), the sites (`http`) and the developers' door (`socks`). Each has `wire.rs` (bytes to values and back), `decide.rs` (pure:
//! packet, state and time to actions) and `serve.rs` (sockets). Beside them is the page for a browser on this host
//! (`web`).
//!
//! Who binds the sockets and decides what is served is the supervisor, at the other end of a [`channel`]; what the two
//! say to each other is in [`protocol`].
#![forbid(unsafe_code)]

pub mod channel;
mod crowd;
pub mod dhcp;
pub mod dns;
pub mod http;
pub mod log;
pub mod protocol;
pub mod ra;
pub mod socks;
pub mod web;
pub mod worker;
