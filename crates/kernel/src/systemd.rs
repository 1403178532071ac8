//! Whether systemd is this network's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Whether systemd runs (sd_booted(3)), and its units stand in this network and see these files.
#[must_use]
pub fn is_ours() -> bool {
    let same = |kind: &str| {
        let inode = |process: &str| fs::metadata(format!("/proc/{process}/ns/{kind}")).map(|meta| meta.ino()).ok();
        inode("1").is_some_and(|first| inode("self") == Some(first))
    };
    Path::new("/run/systemd/system").is_dir() && ["net", "mnt", "pid"].into_iter().all(same)
}
