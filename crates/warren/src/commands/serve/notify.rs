//! What the service manager is told (sd_notify(3)): that we serve, what we do, and that we live.

use std::env;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Where it listens: a path, or behind `@` a name without one.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long it waits for a sign of life, in microseconds, and whose.
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_OF: &str = "WATCHDOG_PID";

/// What is not for the programs that we start.
pub const OURS: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_OF];

/// The service manager, where there is one.
#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// How long it waits, and when it is to hear of us next.
    watchdog: Option<(Duration, Instant)>,
}

impl Notify {
    /// As the environment says. One that cannot be reached is none.
    pub fn from_environment() -> Self {
        let socket = env::var_os(SOCKET).and_then(|place| connect(&place).ok());
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = number(WATCHDOG_OF).is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number(WATCHDOG).filter(|usec| *usec > 0 && for_us && socket.is_some());
        let watchdog = patience.map(|usec| (Duration::from_micros(usec), Instant::now()));
        Self { socket, watchdog }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How long it waits for a sign of life.
    pub fn patience(&self) -> Option<Duration> {
        self.watchdog.map(|(patience, _)| patience)
    }

    /// When the next sign of life is due.
    pub fn due(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    /// The time for a sign of life has come: it is given where we are `well`.
    pub fn lives(&mut self, well: bool) {
        let Some((patience, due)) = &mut self.watchdog else { return };
        // sd_watchdog_enabled(3) asks for half; a little more often bears a loaded machine.
        *due = Instant::now() + *patience / 3;
        if well {
            self.send("WATCHDOG=1");
        }
    }

    /// We serve, and so it stands.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The file is being read again; [`Notify::ready`] says when that is done.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reading the file again"));
    }

    /// We end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=ending; the network stays");
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            // One that is too busy to read hears of the next.
            let _ = socket.send(text.as_bytes());
        }
    }
}

fn connect(place: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
