//! Whether a file has changed since it was read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Which content a file had: each is written anew and renamed into its place, so no two have all of these alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Of the record, and of what stands behind it.
pub(super) type RecordVersion = (Version, Option<Version>);

impl Version {
    /// Of the file at `path`; none where there is no such file, or it cannot be told.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Some(Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed })
    }
}
