//! A world in namespaces.
