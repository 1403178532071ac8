//! What warren remembers of a container, beside LXC's own configuration: that it is warren's, and what it was told of
//! its network last.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result};
use crate::host::Host;
use crate::lxc::Ids;
use crate::prepare::Mechanism;
use crate::settings::Settings;

/// The file, in the container's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of this file's form.
    pub version: u32,
    /// Whether warren made the container; else somebody else did, and it was taken on.
    pub made_by_us: bool,
    /// The ids that its own are; root in it is root here where there are none.
    pub ids: Option<Ids>,
    /// What sets its addresses.
    pub mechanism: Mechanism,
    /// What was written into it last.
    pub settings: Settings,
}

/// Of the file's form.
pub const VERSION: u32 = 1;

impl Record {
    /// Where it is.
    #[must_use]
    pub fn path(host: &Host, guest: &str) -> PathBuf {
        host.folder(guest).join("warren.json")
    }

    /// The one of a guest; nothing where warren has never had to do with the container, or cannot read what is there.
    pub fn read(host: &Host, guest: &str) -> Result<Option<Self>> {
        let path = Self::path(host, guest);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(serde_json::from_str(&text).ok()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(crate::GuestError::io("read", path.display(), e)),
        }
    }

    /// Keeps it.
    pub fn write(&self, host: &Host, guest: &str) -> Result<()> {
        let path = Self::path(host, guest);
        let text =
            serde_json::to_string_pretty(self).map_err(std::io::Error::other).context("write", path.display())?;
        replace(&path, &format!("{text}\n"), 0o600)
    }
}

/// Writes a file of the host's whole, or not at all.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".warren-").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_data()?;
        file.persist(path)?;
        Ok(())
    };
    write().context("write", path.display())
}
