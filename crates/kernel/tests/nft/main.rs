//! Single operations of nf_tables, each in a namespace of its own. `nft` and `iptables-nft` are the oracles: where
//! they are missing the tests fail.
#![allow(clippy::unwrap_used, reason = "tests")]

mod changes;
mod dumps;
mod generator;
/// Random networks, as the pure crate's own tests make them.
#[path = "../../../model/tests/common/mod.rs"]
mod networks;
mod renderings;
mod support;
mod tables;
