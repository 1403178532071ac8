//! Network to probes.
