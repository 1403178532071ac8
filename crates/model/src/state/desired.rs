//! Network to State.

use super::{Baseline, State};
use crate::network::Network;

/// The state that carries `network`.
#[must_use]
pub fn desired(_network: &Network, _baseline: &Baseline) -> State {
    State::default()
}

/// The state without any network: nothing of ours, and everything else as `baseline` remembers it.
#[must_use]
pub fn nothing(baseline: &Baseline) -> State {
    State { sysctls: baseline.sysctls.clone(), ..State::default() }
}
