//! From the file as written to what it means here.
