//! Stepping aside: the process leaves the machine's namespaces before it touches anything.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use kernel::error::KernelError;
use kernel::netns::{Netns, UserNamespaceError, private_mounts, unshare_user};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why a lab could not be stepped into or built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// No user namespace.
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A namespace could not be entered, or a file in it not be written.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// [`enter`] was not called: what follows would touch the machine itself.
    #[error("the lab's process is still in the machine's own namespaces")]
    NotEntered,
    /// The configuration leaves no room for a world around it.
    #[error("no address is left for {0} of the stand-in world")]
    NoRoom(&'static str),
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A process that has left the machine's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Whether it is root of a user namespace of its own, and not the machine's.
    pub user: bool,
}

static ENTERED: std::sync::OnceLock<Entered> = std::sync::OnceLock::new();

/// Takes the calling process, which must still have one thread, into namespaces of its own: mounts with an empty /run,
/// and an empty network, so that even what forgets to say where it works touches nothing of the machine's. A plain
/// user, and a root without the rights, becomes root of a user namespace first.
///
/// All of it ends with the process and those that it starts, a kill -9 included. A second call does nothing.
pub fn enter() -> Result<Entered, LabError> {
    if let Some(entered) = ENTERED.get() {
        return Ok(*entered);
    }
    let covered = [Path::new("/run")];
    let user = if rustix::process::geteuid().is_root() {
        match private_mounts(&covered) {
            Ok(()) => false,
            // Root in a container that may make no namespaces but with a user namespace around them.
            Err(e) if e.is_forbidden() => {
                unshare_user()?;
                private_mounts(&covered)?;
                true
            }
            Err(e) => return Err(e.into()),
        }
    } else {
        unshare_user()?;
        private_mounts(&covered)?;
        true
    };
    let own = Netns::unnamed("the lab's own")?;
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| LabError::io("enter an empty network namespace")(e.into()))?;
    Ok(*ENTERED.get_or_init(|| Entered { user }))
}

/// Refuses to go on in the machine's own namespaces.
pub(crate) fn entered() -> Result<Entered, LabError> {
    ENTERED.get().copied().ok_or(LabError::NotEntered)
}
