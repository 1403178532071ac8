//! The file as written, with places.

/// The file as written.
#[derive(Clone, Debug)]
pub struct Config {}
