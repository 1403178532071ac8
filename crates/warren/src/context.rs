//! What every command shares: exit codes, failures, and the way from a file to a network.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel::apply::{ApplyError, Engine, StepError};
use kernel::error::KernelError;
use kernel::journal::StoreError;
use model::address::IfName;
use model::config::Config;
use model::facts::HostFacts;
use model::network::{self, Network};
use model::problem::{self, Kind, Problem};
use model::session::Session;

use crate::cli::Arguments;
use crate::commands::Memory;
use crate::diagnostics;
use crate::output;

/// How a command ends (the command line's contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1: failed, or a check did not hold
    Failed,
    /// 2: wrong usage or configuration
    Usage,
    /// 3: `plan --exit-code` found changes
    Changes,
    /// 4: needs a privilege
    Privilege,
    /// 5: something that is not warren's is in the way
    Conflict,
}

impl Exit {
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Changes => 3,
            Self::Privilege => 4,
            Self::Conflict => 5,
        }
    }

    /// Of that number.
    pub fn of(number: u8) -> Option<Self> {
        let all = [Self::Done, Self::Failed, Self::Usage, Self::Changes, Self::Privilege, Self::Conflict];
        all.into_iter().find(|exit| exit.number() == number)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub struct Failure {
    /// How it ends.
    pub exit: Exit,
    /// What was being done, why it failed, what to do next; several lines, or a drawn list of problems.
    pub message: String,
    /// The problems of the file, for `--json`.
    pub problems: Vec<diagnostics::Diagnostic>,
}

/// A command's result.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure of that sort.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), problems: Vec::new() }
    }

    /// Tells people on stderr and, with `--json`, programs on stdout.
    pub fn report(&self, json: bool) {
        if self.problems.is_empty() {
            output::error(&self.message);
        } else {
            // Drawn already, each with its own heading.
            output::drawn(&self.message);
        }
        if json {
            output::json(&serde_json::json!({
                "version": output::JSON_VERSION,
                "ok": false,
                "exit": self.exit.number(),
                "error": anstream::adapter::strip_str(&self.message).to_string(),
                "problems": self.problems,
            }));
        }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let exit = if error.is_forbidden() { Exit::Privilege } else { Exit::Failed };
        Self::new(exit, error.to_string())
    }
}

impl From<guests::GuestError> for Failure {
    fn from(error: guests::GuestError) -> Self {
        let exit = if error.is_forbidden() {
            Exit::Privilege
        } else if matches!(error, guests::GuestError::InTheWay { .. }) {
            Exit::Conflict
        } else {
            Exit::Failed
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let denied =
            matches!(&error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
        Self::new(if denied { Exit::Privilege } else { Exit::Failed }, error.to_string())
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        let exit = match &error {
            ApplyError::Conflicts(_) => Exit::Conflict,
            ApplyError::OtherConfig { .. } => Exit::Usage,
            ApplyError::Observe(e) if e.is_forbidden() => Exit::Privilege,
            ApplyError::Step { cause, .. } if matches!(&**cause, StepError::Kernel(e) if e.is_forbidden()) => {
                Exit::Privilege
            }
            ApplyError::Observe(_)
            | ApplyError::Interrupted { .. }
            | ApplyError::Step { .. }
            | ApplyError::Unsettled { .. }
            | ApplyError::Lost { .. }
            | ApplyError::Unwatched(_)
            | ApplyError::Pending { .. }
            | ApplyError::NotPutBack(_)
            | ApplyError::Store(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// What is called when the network has become what its file says, before its guests do.
#[derive(Clone)]
pub struct Hook(pub std::sync::Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// Where a command finds its file and folders.
#[derive(Clone, Debug)]
pub struct Context {
    /// The configuration's path, as given.
    pub config: PathBuf,
    /// The state folder.
    pub state_dir: PathBuf,
    /// The run folder.
    pub run_dir: PathBuf,
    /// Whether a JSON document is wanted.
    pub json: bool,
    /// Whether only errors are.
    pub quiet: bool,
    /// Whether every step is.
    pub verbose: bool,
    /// Who follows the network, within `serve`.
    pub applied: Option<Hook>,
    /// The SSH session that the command is given in, wherever it is done.
    pub session: Option<Session>,
    /// What a process that runs on knows by now of the file and the host, within `serve`.
    pub remembered: Option<Remembered>,
}

/// What one forward more found out, for the next one.
#[derive(Clone, Default)]
pub struct Remembered(pub std::sync::Arc<std::sync::Mutex<Memory>>);

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remembered")
    }
}

/// A file that was read.
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What is likely to go wrong with it on this host; nothing where it was not looked at as this host's.
    pub warnings: Vec<String>,
}

impl Context {
    /// Of the arguments.
    pub fn new(arguments: &Arguments) -> Self {
        Self::within(arguments, kernel::session::current())
    }

    /// Of arguments that were given in that session.
    pub fn within(arguments: &Arguments, session: Option<Session>) -> Self {
        Self {
            config: arguments.config.clone(),
            state_dir: arguments.state_dir.clone(),
            run_dir: arguments.run_dir.clone(),
            json: arguments.json,
            quiet: arguments.quiet,
            verbose: arguments.verbose > 0,
            applied: None,
            session,
            remembered: None,
        }
    }

    /// The engine over this context's folders.
    pub fn engine(&self) -> Result<Engine, Failure> {
        Ok(Engine::new(&self.state_dir, &self.run_dir)?)
    }

    /// The containers of this host, which call back when they are plugged in.
    pub fn containers(&self) -> guests::Host {
        let host = guests::Host::from_environment();
        let Ok(warren) = std::env::current_exe() else { return host };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (state, run) = (absolute(&self.state_dir), absolute(&self.run_dir));
        let words = [
            warren.as_path(),
            Path::new("--state-dir"),
            &state,
            Path::new("--run-dir"),
            &run,
            Path::new("guest"),
            Path::new("plugged"),
        ];
        host.calling(words.map(|word| word.display().to_string()).into())
    }

    /// The file's text.
    pub fn read(&self) -> Result<Source, Failure> {
        let path = self.config.clone();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Source { path, text: crate::written::whole(text), warnings: Vec::new() }),
            Err(e) => Err(unreadable(&path, &e)),
        }
    }

    /// The file as a network on this very host, for commands that act on it: it must be root's, for it decides what
    /// runs as root.
    pub fn network_here(&self) -> Result<(Source, Network), Failure> {
        self.network_and_facts().map(|(source, network, _)| (source, network))
    }

    /// The same, with what was known of the host.
    pub fn network_and_facts(&self) -> Result<(Source, Network, HostFacts), Failure> {
        trusted(&self.config)?;
        let mut source = self.read()?;
        let facts = self.engine()?.facts()?;
        let network = source.network(&facts)?;
        source.warnings = model::hoster::warnings(&network, &facts);
        Ok((source, network, facts))
    }

    /// Refuses to go on without the privileges that changing the network takes.
    pub fn require_privilege(&self, doing: &str) -> Result<(), Failure> {
        let missing = kernel::privilege::missing();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Privilege,
            format!(
                "cannot {doing}: this process lacks {}\nrun it as root; to try a configuration without root, `warren rehearse {}`",
                missing.join(" and "),
                self.config.display()
            ),
        ))
    }
}

impl Source {
    /// The file's name for good: what is remembered must not depend on where one stood.
    pub fn canonical(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    /// The file as a network on a host of which `facts` are known; every problem at once.
    pub fn network(&self, facts: &HostFacts) -> Result<Network, Failure> {
        network::load(&self.text, facts).map(|(_, network)| network).map_err(|p| self.failure(p))
    }

    /// For people: what is likely to go wrong.
    pub fn warn(&self) {
        for warning in &self.warnings {
            output::note(&format!("{}warning:{} {warning}", output::YELLOW, output::RESET));
        }
    }

    /// The problems of this file as a failure: drawn for people, listed for programs.
    pub fn failure(&self, mut problems: Vec<Problem>) -> Failure {
        problem::sort(&mut problems);
        let wrong = problems.iter().any(|p| p.kind != Kind::Conflict);
        let exit = if wrong { Exit::Usage } else { Exit::Conflict };
        let name = self.path.display().to_string();
        Failure {
            exit,
            message: diagnostics::render(&name, &self.text, &problems, output::colour_on_stderr()),
            problems: diagnostics::json(&self.text, &problems),
        }
    }
}

/// Facts of a host of which nothing is known but that it has the uplink that the file names.
pub fn assumed_facts(config: &Config) -> HostFacts {
    let named = config.host.uplink.as_ref().map(|uplink| uplink.value.clone());
    HostFacts::assumed(named.unwrap_or_else(eth0))
}

/// What a lab's uplink is called where the file does not say.
#[allow(clippy::expect_used)] // A constant.
pub fn eth0() -> IfName {
    IfName::new("eth0").expect("eth0 is an interface name")
}

fn unreadable(config: &Path, error: &std::io::Error) -> Failure {
    let hint = if error.kind() == std::io::ErrorKind::NotFound { "\nname another with `-c FILE`" } else { "" };
    Failure::new(Exit::Usage, format!("cannot read the configuration {}: {error}{hint}", config.display()))
}

/// The file and its folder belong to root, or to who runs sudo, and nobody else may write to them.
pub fn trusted(config: &Path) -> Result<(), Failure> {
    let path = fs::canonicalize(config).map_err(|e| unreadable(config, &e))?;
    let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse::<u32>().ok());
    let folder = path.parent().map(Path::to_owned);
    for place in [Some(path), folder].into_iter().flatten() {
        let meta = fs::metadata(&place)
            .map_err(|e| Failure::new(Exit::Usage, format!("cannot look at {}: {e}", place.display())))?;
        let me = rustix::process::geteuid().as_raw();
        let owner_is_fine = meta.uid() == 0 || Some(meta.uid()) == sudo || meta.uid() == me || unknown(meta.uid());
        let mode = meta.mode() & 0o7777;
        let wrong = if !owner_is_fine {
            Some(format!("it belongs to user {}: `chown root {}`", meta.uid(), place.display()))
        } else if mode & 0o022 != 0 {
            Some(format!("others may write to it (mode {mode:04o}): `chmod go-w {}`", place.display()))
        } else {
            None
        };
        if let Some(why) = wrong {
            return Err(Failure::new(
                Exit::Usage,
                format!("refusing {}: it decides what runs as root, but {why}", place.display()),
            ));
        }
    }
    Ok(())
}

/// Whether `uid` stands for users that this user namespace does not know: what we run then runs as the plain user who
/// made the namespace, who could do it anyway.
fn unknown(uid: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|text| text.trim().parse().ok());
    let whole =
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    !whole && Some(uid) == overflow
}
