//! From the file as written to what it means here.

use super::Network;
use crate::config::Config;
use crate::facts::HostFacts;
use crate::problem::Problem;

/// What `config` means on a host of which `facts` are known, or every problem with it, in the file's order.
pub fn resolve(_config: &Config, _facts: &HostFacts) -> Result<Network, Vec<Problem>> {
    Err(Vec::new())
}
