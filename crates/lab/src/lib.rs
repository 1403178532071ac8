//! A world in namespaces, and packets as the oracle: what `rehearse`, `check` and the tests stand on.

pub mod enter;
mod judge;
pub mod packet;
pub mod plan;
pub mod prober;
mod sockets;
mod stand_in;
pub mod world;

pub use enter::{Entered, LabError, enter};
pub use plan::LabPlan;
pub use prober::{Capture, Outcome, Prober, ProberError, Vantage};
pub use world::Lab;
