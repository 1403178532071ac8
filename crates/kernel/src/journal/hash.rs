//! The checksums of our files, and of the configuration's text.

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a configuration's text, to which more may come: for a forward more it is not begun anew.
#[derive(Clone, Debug)]
pub struct TextHash(Sha256);

impl TextHash {
    /// Of that text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::new_with_prefix(text))
    }

    /// Of the text with `tail` behind it.
    #[must_use]
    pub fn and(&self, tail: &str) -> Self {
        let mut hash = self.0.clone();
        hash.update(tail);
        Self(hash)
    }

    /// As [`fingerprint`] writes it.
    #[must_use]
    pub fn hex(&self) -> String {
        hexadecimal(&self.0.clone().finalize())
    }
}

/// The SHA-256 of a configuration's text, as [`Boot`] knows one that awaits its confirmation.
#[must_use]
pub fn fingerprint(text: &str) -> String {
    checksum(text.as_bytes())
}

/// SHA-256, in hexadecimal.
pub(super) fn checksum(body: &[u8]) -> String {
    hexadecimal(&Sha256::digest(body))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
