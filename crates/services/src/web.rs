//! The page for a browser on this host, and what programs read beside it: read-only, on loopback, for who has the token.
//!
//! What there is to tell is the supervisor's to find out, and comes as one document; [`decide`] says who gets what of it
//! and [`metrics`] writes it down for Prometheus, both pure; [`serve`] has the sockets.

pub mod decide;
pub mod metrics;
mod page;
pub mod serve;
