//! Network to State.
