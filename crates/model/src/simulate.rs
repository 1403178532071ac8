//! The fake kernel.
