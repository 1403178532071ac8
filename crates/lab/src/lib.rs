//! A world in namespaces, and packets as the oracle: what `rehearse`, `check` and the tests stand on.

pub mod packet;
mod sockets;
