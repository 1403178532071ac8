//! What went wrong when the kernel was asked for something: which operation, on what, and the kernel's own words.

use std::io;

use crate::netlink::NetlinkError;

/// An operation that the kernel refused, or that could not be asked for.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}: {source}")]
pub struct KernelError {
    /// What was attempted, as it reads behind "cannot": `make the bridge`.
    pub operation: &'static str,
    /// What it was attempted on: `br1`, `10.1.1.1/24 on br1`.
    pub object: String,
    /// Why not.
    #[source]
    pub source: Cause,
}

/// The reason below a [`KernelError`].
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The kernel's answer over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A system call's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A system call's, with the reason that we found for it.
    #[error("{source} ({why})")]
    Explained {
        /// What the kernel said.
        source: io::Error,
        /// What stands behind it, as far as can be seen.
        why: String,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, KernelError>;

impl KernelError {
    /// An error of `operation` on `object`.
    pub fn new(operation: &'static str, object: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self { operation, object: object.into(), source: source.into() }
    }

    /// The same cause, told as a failure of a larger operation.
    #[must_use]
    pub fn during(self, operation: &'static str, object: impl Into<String>) -> Self {
        Self { operation, object: object.into(), ..self }
    }

    /// The kernel's errno, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &self.source {
            Cause::Netlink(e) => e.errno(),
            Cause::Io(e) | Cause::Explained { source: e, .. } => e.raw_os_error(),
        }
    }

    /// Whether the object was not there (ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL): what a removal may pass over.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }

    /// Whether the object was there already (EEXIST).
    #[must_use]
    pub fn exists_already(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether rights were missing (EPERM, EACCES, EROFS).
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
    }
}

impl From<rustix::io::Errno> for Cause {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A system call's error with the reason that we found for it.
pub(crate) fn explained(source: io::Error, why: impl Into<String>) -> Cause {
    Cause::Explained { source, why: why.into() }
}

/// Puts operation and object to a bare error.
pub(crate) trait Context<T> {
    /// The same with what was attempted, and on what.
    fn context(self, operation: &'static str, object: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, object: impl Into<String>) -> Result<T> {
        self.map_err(|e| KernelError::new(operation, object, e))
    }
}
