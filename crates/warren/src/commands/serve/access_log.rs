//! The file that requests are written down in: opened here, for the worker opens none.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use model::sites::Sites;

/// Which file the worker has: its device and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which(u64, u64);

/// The file that these sites want, where it is another than the worker has: another path, or the old one was moved away
/// (logrotate(8)).
pub fn open(sites: &Sites, has: Option<Which>) -> io::Result<Option<(OwnedFd, Which)>> {
    let Some(path) = sites.http.access_log.as_ref().and_then(|log| log.file.as_deref()) else { return Ok(None) };
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    let mut options = OpenOptions::new();
    let file: File = options.append(true).create(true).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    let which = Which(metadata.dev(), metadata.ino());
    Ok((has != Some(which)).then(|| (file.into(), which)))
}
