//! What went wrong with a guest: what was being done, to which one, why not, and what to do next.

use std::io;
use std::path::PathBuf;

use kernel::error::KernelError;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, GuestError>;

/// Why something could not be done with a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A program that warren needs for containers is not installed.
    #[error("cannot {operation}: there is no {program} on this host\ninstall it: `apt-get install {package}`")]
    Missing {
        /// What was attempted.
        operation: String,
        /// The program.
        program: String,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// LXC has no such template.
    #[error("cannot create {guest}: there is no template \"{template}\" in {}{}", .folder.display(), hint(.help))]
    NoTemplate {
        /// The guest.
        guest: String,
        /// The template's name.
        template: String,
        /// Where LXC looks.
        folder: PathBuf,
        /// What to do.
        help: String,
    },
    /// A program said no.
    #[error("cannot {operation}: {program} {how}{}", last_words(.said))]
    Tool {
        /// What was attempted: `create cnx6 from the template debian`.
        operation: String,
        /// The program.
        program: String,
        /// How it ended.
        how: String,
        /// The last lines that it, or its log, had.
        said: Vec<String>,
    },
    /// What should be a root file system is none.
    #[error("cannot use {} as the root file system of {guest}: {why}", .path.display())]
    Rootfs {
        /// The guest.
        guest: String,
        /// What was looked at.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// It ran, and ended by itself before it had its network.
    #[error("{guest} was started and ended at once; `lxc-start -F -n {guest} -P {}` shows it on this terminal{}", .lxc_path.display(), last_words(.said))]
    Died {
        /// The guest.
        guest: String,
        /// Where containers are.
        lxc_path: PathBuf,
        /// The last lines of its console and of LXC's log.
        said: Vec<String>,
    },
    /// A file or folder.
    #[error("cannot {operation} {object}: {source}{}", space(.source))]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its cable, or what of the kernel's it needs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There is no guest of that name here.
    #[error("there is no container \"{guest}\" in {}\ncreate it: `warren guest create {guest}`", .lxc_path.display())]
    Absent {
        /// The name.
        guest: String,
        /// Where containers are.
        lxc_path: PathBuf,
    },
    /// A container of that name is there already.
    #[error("{guest} is there already, in {}\nstart it: `warren guest start {guest}`", .lxc_path.display())]
    Exists {
        /// The name.
        guest: String,
        /// Where containers are.
        lxc_path: PathBuf,
    },
    /// It must run for this.
    #[error("{guest} is not running\nstart it: `warren guest start {guest}`")]
    NotRunning {
        /// The guest.
        guest: String,
    },
    /// The file does not say what it is made from.
    #[error(
        "cannot create {guest}: its table says neither `template` nor `rootfs`\nadd template = \"debian\" to [guest.{guest}], or make it by lxc-create"
    )]
    NoSource {
        /// The guest.
        guest: String,
    },
    /// Something else is in the way.
    #[error("cannot {operation}: {why}")]
    InTheWay {
        /// What was attempted.
        operation: String,
        /// What is in the way, and what to do.
        why: String,
    },
}

fn last_words(said: &[String]) -> String {
    said.iter().map(|line| format!("\n  | {line}")).collect()
}

fn hint(help: &str) -> String {
    if help.is_empty() { String::new() } else { format!("\n{help}") }
}

fn space(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "\nmake room, or put containers elsewhere (WARREN_LXC_PATH)",
        _ => "",
    }
}

impl GuestError {
    /// An error of the system's on a file or folder.
    pub fn io(operation: &'static str, object: impl std::fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, object: object.to_string(), source: source.into() }
    }

    /// Whether rights were missing (EPERM, EACCES, EROFS).
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        match self {
            Self::Kernel(e) => e.is_forbidden(),
            Self::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
            }
            _ => false,
        }
    }
}

/// Puts operation and object to a bare error of the system's.
pub(crate) trait Context<T> {
    /// The same with what was attempted, and on what.
    fn context(self, operation: &'static str, object: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, object: impl std::fmt::Display) -> Result<T> {
        self.map_err(|e| GuestError::io(operation, object, e))
    }
}
