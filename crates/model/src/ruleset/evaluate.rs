//! A ruleset evaluated on a packet.
