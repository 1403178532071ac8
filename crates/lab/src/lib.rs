//! A world in namespaces, and packets as the oracle: what `rehearse`, `check` and the tests stand on.

mod judge;
pub mod packet;
pub mod prober;
mod sockets;

pub use prober::{Capture, Outcome, Prober, ProberError, Vantage};
