//! The line to the server: one `ssh`, by whose control socket (ssh(1), -M and -S) questions are asked and ports are
//! forwarded, so that a password is asked for once.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use crate::context::{Exit, Failure};

/// The port that IANA has for SOCKS.
pub const SOCKS: u16 = 1080;
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(50);
/// A line that is silent for so long is asked whether it lives, and given up after three such times.
const ALIVE: &str = "ServerAliveInterval=5";
/// What the server is asked. Where only root may know, sudo is tried, if it asks for no password.
const ASK: &str = "sh -c 'PATH=$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin; \
    warren --json status 2>/dev/null || sudo -n warren --json status 2>/dev/null'";

/// A server as ssh knows it.
#[derive(Clone, Debug)]
pub struct Server {
    name: String,
    port: Option<u16>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} (port {port})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Server {
    /// `[USER@]SERVER`, or whatever the user's configuration of ssh names so.
    pub fn new(name: &str, port: Option<u16>) -> Result<Self, Failure> {
        if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
            return Err(Failure::new(Exit::Usage, format!("\"{name}\" is no server: write [USER@]SERVER")));
        }
        Ok(Self { name: name.to_owned(), port })
    }

    /// ssh, told the port.
    pub fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        ssh
    }

    /// What goes last.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As `-J` and ProxyJump have it.
    pub fn jump(&self) -> String {
        let (user, host) = self.name.rsplit_once('@').map_or((None, &*self.name), |(user, host)| (Some(user), host));
        // An IPv6 address would be taken for a host and its port.
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{user}{host}{port}")
    }
}

/// A line that stands, or stood.
pub struct Line {
    /// To whom.
    pub server: Server,
    master: Master,
    forward: Option<Vec<String>>,
    folder: TempDir,
}

/// ssh, ended with this.
struct Master(Child);

impl Drop for Master {
    fn drop(&mut self) {
        // It may have ended by itself. By SIGTERM it closes its forwards and its own helpers (ProxyCommand).
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let running = matches!(self.0.try_wait(), Ok(None));
            let _ = running.then(|| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        }
        let _ = self.0.wait();
    }
}

fn failed(doing: &str, why: impl fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {doing}: {why}"))
}

fn start(command: &mut Command) -> Result<Child, Failure> {
    command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => failed("start ssh", "there is none: install openssh-client"),
        _ => failed("start ssh", e),
    })
}

impl Line {
    /// Opens it; ssh asks for what it needs to be told.
    pub async fn open(server: &Server) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("warren-").tempdir();
        let folder = folder.map_err(|e| failed("make a folder for the connection", e))?;
        let master = dial(server, folder.path().join("line")).await?;
        Ok(Self { server: server.clone(), master, forward: None, folder })
    }

    /// Opens it again, with what it carried.
    pub async fn again(&mut self) -> Result<(), Failure> {
        // A line that was cut leaves its socket.
        let _ = std::fs::remove_file(self.control());
        self.master = dial(&self.server, self.control()).await?;
        match self.forward.clone() {
            Some(words) => self.control_forward(&words),
            None => Ok(()),
        }
    }

    /// Waits until it drops.
    pub async fn ended(&mut self) {
        while matches!(self.master.0.try_wait(), Ok(None)) {
            sleep(LOOK).await;
        }
    }

    /// What warren says there; nothing where there is none.
    pub fn ask(&self) -> Result<Option<String>, Failure> {
        asked(self.by_control().arg("-T").arg("--").args([self.server.name(), ASK]))
    }

    /// Makes the proxy at a local port, `wanted` or a free one: `door` as the server sees it, or ssh's own.
    pub fn forward(&mut self, wanted: Option<u16>, door: Option<SocketAddr>) -> Result<u16, Failure> {
        let port = match wanted {
            Some(port) => port,
            None => free_port().map_err(|e| failed("find a free port", e))?,
        };
        let words = match door {
            Some(door) => ["-L".to_owned(), format!("127.0.0.1:{port}:{door}")],
            None => ["-D".to_owned(), format!("127.0.0.1:{port}")],
        };
        self.control_forward(&words)?;
        self.forward = Some(words.into());
        Ok(port)
    }

    fn control_forward(&self, words: &[String]) -> Result<(), Failure> {
        let mut ssh = self.by_control();
        ssh.args(["-O", "forward"]).args(words).arg("--").arg(self.server.name());
        let status = start(ssh.stdin(Stdio::null()).stdout(Stdio::null()))?.wait();
        match status {
            Ok(status) if status.success() => Ok(()),
            // Why, ssh has said.
            Ok(_) => Err(failed("forward a port", format!("ssh refuses {}", words.join(" ")))),
            Err(e) => Err(failed("forward a port", e)),
        }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("line")
    }

    fn by_control(&self) -> Command {
        let mut ssh = self.server.ssh();
        ssh.arg("-S").arg(self.control());
        ssh
    }
}

/// ssh, once it is in: then its control socket is there.
async fn dial(server: &Server, control: PathBuf) -> Result<Master, Failure> {
    let mut ssh = server.ssh();
    ssh.args(["-M", "-N", "-T", "-S"]).arg(&control);
    // Forwards of the user's own configuration are for other sessions, and may be taken by them.
    for option in [ALIVE, "ControlPersist=no", "ClearAllForwardings=yes", "RemoteCommand=none", "RequestTTY=no"] {
        ssh.args(["-o", option]);
    }
    ssh.arg("--").arg(server.name());
    let mut master = Master(start(ssh.stdin(Stdio::null()).stdout(Stdio::null()))?);
    loop {
        if control.exists() {
            return Ok(master);
        }
        match master.0.try_wait() {
            Ok(None) => sleep(LOOK).await,
            // Why, ssh has said.
            Ok(Some(status)) => return Err(failed("reach the server", format!("ssh to {server} ended ({status})"))),
            Err(e) => return Err(failed("wait for ssh", e)),
        }
    }
}

/// What warren says on a server, by a connection of its own.
pub fn ask_once(server: &Server) -> Result<Option<String>, Failure> {
    asked(server.ssh().args(["-T", "--"]).args([server.name(), ASK]))
}

/// 255 is ssh's own failure; every other code is that of what ran there.
fn asked(ssh: &mut Command) -> Result<Option<String>, Failure> {
    let child = start(ssh.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let output = child.wait_with_output().map_err(|e| failed("ask the server", e))?;
    match output.status.code() {
        Some(255) | None => Err(failed("ask the server", "ssh could not")),
        Some(_) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()).filter(|said| !said.is_empty())),
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_ssh_is_told() {
        let jump = |name: &str, port| Server::new(name, port).unwrap().jump();
        assert_eq!(jump("lab", None), "lab");
        assert_eq!(jump("admin@lab.example", Some(22217)), "admin@lab.example:22217");
        assert_eq!(jump("admin@2001:db8::1", Some(22)), "admin@[2001:db8::1]:22");
        for bad in ["", "-oProxyCommand=x", "a b"] {
            assert!(Server::new(bad, None).is_err(), "{bad}");
        }
    }
}
