//! Leases (RFC 2131): guests of the file always the same, others from the LAN's range.
//!
//! Questions are read as frames, so that a client that names another's hardware address is seen; answers are sent as
//! frames, since who has no address yet cannot be asked for it by ARP.

pub mod decide;
pub mod leases;
pub mod serve;
pub mod wire;
