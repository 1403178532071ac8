//! LXC containers: created, prepared for their network before the first boot, started, plugged in, entered, stopped.
//!
//! What is to be written is decided by [`settings`], [`lxc`] and [`prepare`], which look at values alone; it is done by
//! the lxc-* tools ([`host`]) and, inside a guest's root file system, by [`root`], which no link leads out of. liblxc
//! itself is not used: in a process with threads it has trouble with locks and descriptors (lxc#2245).
#![forbid(unsafe_code)]

pub mod converge;
pub mod create;
pub mod error;
pub mod host;
pub mod idmap;
pub mod lxc;
pub mod port;
pub mod prepare;
pub mod record;
pub mod root;
pub mod run;
pub mod settings;
mod subid;
mod tools;

pub use error::{GuestError, Result};
pub use host::{Host, State};
pub use settings::Settings;
