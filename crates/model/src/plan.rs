//! The difference between two states, as steps.
