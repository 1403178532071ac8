//! The file as written, with places.
