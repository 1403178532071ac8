//! The whole binary, in labs, held to what people are promised, with tools that are not ours: `ip`, `nft`, `curl`,
//! `socat`, `ping`, `conntrack`.

mod bridged;
mod check;
#[path = "../../../kernel/tests/common/mod.rs"]
mod common;
mod contract;
mod documents;
mod forwards;
mod machines;
mod qemu;
mod rehearse;
mod routed;
mod support;
mod traffic;
