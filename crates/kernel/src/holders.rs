//! What of a manager's is at work on an interface, seen, and moved to the bridge that takes its place, and back.

use model::manager::Holder;
use model::state::{Hold, Side};

use crate::error::Result;

pub mod dhclient;
mod ifstate;
pub mod networkd;
pub mod networkmanager;

/// Where it is at work. `hold` says where it is looked for, and where it should be.
pub fn side(hold: &Hold) -> Result<Side> {
    match &hold.holder {
        Holder::Ifstate => ifstate::side(hold),
        Holder::Dhclient(line) => dhclient::side(hold, line),
        Holder::Networkd(follows) => networkd::side(hold, follows),
        Holder::NetworkManager(active) => networkmanager::side(hold, active),
    }
}

/// Moves it to where `hold` says.
pub fn set(hold: &Hold) -> Result<()> {
    match &hold.holder {
        Holder::Ifstate => ifstate::set(hold),
        Holder::Dhclient(line) => dhclient::set(hold, line),
        Holder::Networkd(follows) => networkd::set(hold, follows),
        Holder::NetworkManager(active) => networkmanager::set(hold, active),
    }
}
