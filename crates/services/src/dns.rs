//! Names: each LAN's own zone out of the file, everything else from the configured resolvers.
//!
//! What an upstream resolver answers is handed on as it came, record by record: a forwarder that decodes and encodes
//! again breaks what it does not know. So the codec is our own and small, and a full one is the tests' oracle.

pub mod cache;
pub mod decide;
pub mod serve;
pub mod upstream;
pub mod wire;
