//! Network to nf_tables objects.
