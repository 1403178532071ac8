//! nft text.
