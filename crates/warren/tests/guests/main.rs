//! Real LXC guests, from the binary as people run it, in labs of their own (lab.rs).

#[path = "../../../kernel/tests/common/mod.rs"]
mod common;
#[path = "../binary/stream.rs"]
mod stream;
#[path = "../binary/support.rs"]
mod support;

mod bad;
mod boot;
mod busybox;
mod debian;
mod lab;
mod limits;
mod live;
mod networkd;
mod outer;
mod page;
mod takeover;
