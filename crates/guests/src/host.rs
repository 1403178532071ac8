//! The containers of this host, as LXC knows them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{GuestError, Result};
use crate::record::Record;
use crate::tools::Tool;

/// The variable that says where containers are, where they are not in LXC's own folder.
pub const LXC_PATH: &str = "WARREN_LXC_PATH";

/// Where containers are, and how they are kept.
#[derive(Clone, Debug)]
pub struct Host {
    lxc_path: PathBuf,
    on_plugged: Vec<String>,
}

/// What a container does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none of the name.
    Absent,
    /// It does not run.
    Stopped,
    /// It runs; the process id of its first process.
    Running(u32),
    /// It is between the two, or frozen.
    Other,
}

impl State {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "not created",
            Self::Stopped => "stopped",
            Self::Running(_) => "running",
            Self::Other => "between states",
        }
    }
}

impl Host {
    /// The containers in that folder.
    #[must_use]
    pub fn new(lxc_path: impl Into<PathBuf>) -> Self {
        Self { lxc_path: lxc_path.into(), on_plugged: Vec::new() }
    }

    /// Those of the folder that [`LXC_PATH`] names, else LXC's own.
    #[must_use]
    pub fn from_environment() -> Self {
        let named = std::env::var_os(LXC_PATH).filter(|path| !path.is_empty());
        Self::new(named.map_or_else(|| PathBuf::from("/var/lib/lxc"), PathBuf::from))
    }

    /// The same, with the command that gives a guest's port its limit when its name is added.
    #[must_use]
    pub fn calling(self, on_plugged: Vec<String>) -> Self {
        Self { on_plugged, ..self }
    }

    /// The command that gives a guest's port its limit, quoted for a shell; nothing where none was said.
    pub(crate) fn on_plugged(&self, guest: &str) -> Option<String> {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let words = self.on_plugged.iter().map(String::as_str).chain([guest]);
        (!self.on_plugged.is_empty()).then(|| words.map(quoted).collect::<Vec<_>>().join(" "))
    }

    /// Where containers are.
    #[must_use]
    pub fn lxc_path(&self) -> &Path {
        &self.lxc_path
    }

    /// A container's folder.
    #[must_use]
    pub fn folder(&self, guest: &str) -> PathBuf {
        self.lxc_path.join(guest)
    }

    /// Its LXC configuration.
    #[must_use]
    pub fn config(&self, guest: &str) -> PathBuf {
        self.folder(guest).join("config")
    }

    /// Its root file system on the disk.
    pub fn rootfs(&self, guest: &str) -> Result<PathBuf> {
        let path = self.config(guest);
        let config = fs::read_to_string(&path).map_err(|e| GuestError::io("read", path.display(), e))?;
        let written = crate::lxc::value(&config, "lxc.rootfs.path").unwrap_or_default();
        let plain = written.strip_prefix("dir:").unwrap_or(written);
        if plain.starts_with('/') {
            return Ok(PathBuf::from(plain));
        }
        let why = "it is no plain folder, and warren writes into no other: name it as a folder in lxc.rootfs.path";
        Err(GuestError::Rootfs { guest: guest.to_owned(), path: written.into(), why: why.to_owned() })
    }

    /// Whether there is a container of that name.
    #[must_use]
    pub fn exists(&self, guest: &str) -> bool {
        self.config(guest).is_file()
    }

    /// What it does.
    pub fn state(&self, guest: &str) -> Result<State> {
        if !self.exists(guest) {
            return Ok(State::Absent);
        }
        let text = self.tool("lxc-info", guest, format!("look at {guest}")).args(["--state", "--pid"]).text()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let pid = field("PID:").and_then(|pid| pid.parse().ok());
        Ok(match (field("State:"), pid) {
            (Some("RUNNING"), Some(pid)) => State::Running(pid),
            (Some("STOPPED"), _) => State::Stopped,
            _ => State::Other,
        })
    }

    /// The process id of its first process; an error where it does not run.
    pub fn pid(&self, guest: &str) -> Result<u32> {
        match self.state(guest)? {
            State::Running(pid) => Ok(pid),
            State::Absent => Err(self.absent(guest)),
            State::Stopped | State::Other => Err(GuestError::NotRunning { guest: guest.to_owned() }),
        }
    }

    /// The names of the containers that warren made or took on, sorted.
    pub fn guests(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.lxc_path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(GuestError::io("list", self.lxc_path.display(), e)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| Record::path(self, name).is_file()).collect();
        names.sort();
        Ok(names)
    }

    /// The error of a guest that is not there.
    #[must_use]
    pub fn absent(&self, guest: &str) -> GuestError {
        GuestError::Absent { guest: guest.to_owned(), lxc_path: self.lxc_path.clone() }
    }

    /// One of LXC's tools, for one container.
    pub(crate) fn tool(&self, program: &str, guest: &str, operation: impl Into<String>) -> Tool {
        Tool::new(program, operation).arg("-n").arg(guest).arg("-P").arg(&self.lxc_path)
    }
}
