//! Network to probes.

use std::net::IpAddr;

use super::Probe;
use crate::network::Network;

/// What the place looks like in which the probes are sent: a lab, or the live host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Addresses of machines beyond the uplink's router that packets may be sent to: at most one a family is used.
    pub world: Vec<IpAddr>,
    /// Addresses of a machine on the uplink's own segment; empty on the live host.
    pub neighbour: Vec<IpAddr>,
    /// Whether packets can be sent FROM the world and the neighbour (in a lab).
    pub outside: bool,
    /// The addresses that the uplink holds, or that `public` lists: where the world reaches the server.
    pub public: Vec<IpAddr>,
}

/// What must flow and what must not in `network`, in a steady order.
#[must_use]
pub fn derive(_network: &Network, _view: &View) -> Vec<Probe> {
    Vec::new()
}
