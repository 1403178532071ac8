//! warren's decisions, as values. Nothing here reads a file, a clock, a socket or the kernel: what goes in
//! decides what comes out, so all of it is tested in milliseconds and without privilege.
//!
//! The stages, in order: [`config`] (the file as written) and [`facts`] (what this host is) become a
//! [`network`] (what the file means here), which becomes the [`state`] the kernel should hold; [`plan`] is the
//! difference between two states, and [`probe`] says what must flow and what must not.
#![forbid(unsafe_code)]

pub mod addition;
pub mod address;
pub mod config;
pub mod facts;
pub mod flow;
pub mod foreign;
pub mod hoster;
pub mod hosts;
pub mod init;
pub mod manager;
pub mod network;
pub mod picture;
pub mod plan;
pub mod probe;
pub mod problem;
pub mod repair;
pub mod ruleset;
pub mod services;
pub mod session;
pub mod simulate;
pub mod sites;
pub mod state;
pub mod web;
