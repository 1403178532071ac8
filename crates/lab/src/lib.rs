//! A world in namespaces, and packets as the oracle: what `rehearse`, `check` and the tests stand on.

pub mod enter;
mod judge;
pub mod packet;
pub mod prober;
mod sockets;

pub use enter::{Entered, LabError, enter};
pub use prober::{Capture, Outcome, Prober, ProberError, Vantage};
