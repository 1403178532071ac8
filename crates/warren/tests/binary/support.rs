//! A server, a world and a neighbour, made by `ip`; programs that run in them; and warren, run as people run it.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use serde_json::Value;

use crate::common::tool;

/// What must come comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What has not come within this does not come. Only ever beside something of the same sort that does come.
pub const SILENCE: Duration = Duration::from_millis(800);

/// The binary under test.
pub const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// A client beyond the router, in both families.
pub const CLIENT: &str = "198.51.100.7";
pub const CLIENT6: &str = "2001:db8:100::7";
/// The server on the uplink's segment.
pub const PUBLIC: &str = "203.0.113.2";
pub const PUBLIC6: &str = "2001:db8:113::2";
/// The neighbour there.
pub const NEIGHBOUR: &str = "203.0.113.66";
pub const NEIGHBOUR6: &str = "2001:db8:113::66";

/// The examples of the repository.
pub fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut examples: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    examples.sort();
    assert!(examples.len() >= 3);
    examples
}

/// How a run of warren ended.
#[derive(Debug)]
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { line, code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Fails unless it ended so.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}\n{}", self.line, self.out, self.err);
        self
    }

    /// Fails unless it ended so, and every one of `words` stands in what it told people.
    #[track_caller]
    pub fn says(self, code: i32, words: &[&str]) -> Self {
        let ran = self.ends(code);
        for word in words {
            assert!(
                ran.out.contains(word) || ran.err.contains(word),
                "{}\ndoes not say {word:?}:\n{}\n{}",
                ran.line,
                ran.out,
                ran.err
            );
        }
        ran
    }

    /// The one document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}\n{}", self.line, self.out, self.err));
        assert_eq!(value["version"], 1, "{}", self.line);
        assert!(value["ok"].is_boolean(), "{}", self.line);
        value
    }
}

/// A command that is told nothing of where it runs: no PATH, no variables.
pub fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "");
    command
}

/// Where a program of the tests' lies, for those that are started without a PATH.
pub fn which(program: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is needed")).display().to_string()
}

/// The server is the calling thread's namespace; around it a world and a neighbour, and a folder for warren's files.
pub struct Scene {
    folder: tempfile::TempDir,
    pub config: PathBuf,
}

impl Scene {
    /// All three, connected.
    pub fn new() -> Self {
        for line in [
            "ip netns add world",
            "ip netns add neighbour",
            "ip -n world link set lo up",
            "ip -n world link add segment type bridge",
            "ip link add eth0 type veth peer name to-server netns world",
            "ip -n neighbour link add eth0 type veth peer name to-neighbour netns world",
            "ip -n world link set to-server master segment up",
            "ip -n world link set to-neighbour master segment up",
            "ip -n world link set segment up",
            "ip link set eth0 up",
            "ip -n neighbour link set eth0 up",
            "ip -n world address add 203.0.113.1/24 dev segment",
            "ip -n world address add 2001:db8:113::1/64 dev segment nodad",
            "ip -n world address add 198.51.100.7/32 dev lo",
            "ip -n world address add 2001:db8:100::7/128 dev lo nodad",
            "ip address add 203.0.113.2/24 dev eth0",
            "ip address add 2001:db8:113::2/64 dev eth0 nodad",
            "ip route add default via 203.0.113.1",
            "ip route add default via 2001:db8:113::1",
            "ip -n neighbour address add 203.0.113.66/24 dev eth0",
            "ip -n neighbour address add 2001:db8:113::66/64 dev eth0 nodad",
            // The attack of a neighbour that knows the subnets behind the server.
            "ip -n neighbour route add 10.1.0.0/16 via 203.0.113.2",
            "ip -n neighbour route add fd10:1::/32 via 2001:db8:113::2",
            "ip -n world route add 10.1.0.0/16 via 203.0.113.2",
            "ip -n world route add fd10:1::/32 via 2001:db8:113::2",
        ] {
            tool(line);
        }
        settle(&[]);
        Self::bare()
    }

    /// The folder alone: whoever asks has made a place of another shape.
    pub fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("warren.toml");
        Self { folder, config }
    }

    /// A folder that is gone with the scene.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the file, as root would.
    pub fn write(&self, text: &str) -> &Path {
        write(&self.config, text);
        &self.config
    }

    /// Warren, with everything by environment variables, and nothing else in the environment.
    pub fn warren(&self, arguments: &str) -> Ran {
        Ran::of(self.command().args(arguments.split_whitespace()))
    }

    /// The same, to be added to.
    pub fn command(&self) -> Command {
        let mut command = bare(WARREN);
        self.tell(&mut command);
        command
    }

    /// Tells a program where warren's files are.
    pub fn tell(&self, command: &mut Command) {
        command
            .env("WARREN_CONFIG", &self.config)
            .env("WARREN_STATE_DIR", self.folder.path().join("state"))
            .env("WARREN_RUN_DIR", self.folder.path().join("run"))
            // Containers of the machine's own are not ours to look at.
            .env("WARREN_LXC_PATH", self.folder.path().join("lxc"));
    }

    /// The file, carried; its guests settled.
    #[track_caller]
    pub fn up(&self, text: &str, guests: &[&str]) -> Ran {
        self.write(text);
        let ran = self.warren("up").ends(0);
        settle(guests);
        ran
    }
}

/// A file that nobody else may write to.
pub fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until no IPv6 address here or in `guests` is tentative.
pub fn settle(guests: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = vec!["ip -6 address show tentative".to_owned()];
    lines.extend(guests.iter().map(|guest| format!("ip -n {guest} -6 address show tentative")));
    for line in lines {
        while tool(&line).contains("inet6") {
            assert!(Instant::now() < deadline, "{line}: stay tentative");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Without detection, too, the kernel puts an address's own route beside it a moment later (addrconf_dad_work of
    // net/ipv6/addrconf.c).
    let routed = || {
        let routes = tool("ip -6 route show table local type local");
        let routes: Vec<&str> = routes.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        let all = tool("ip -6 -o address show up");
        let mut all = all.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
        all.all(|address| routes.contains(&address))
    };
    while !routed() {
        assert!(Instant::now() < deadline, "an address has no route:\n{}", tool("ip -6 -o address show up"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program in a place: `server` is where we are, everything else a namespace's name.
pub fn at(place: &str, program: &str) -> Command {
    if place == "server" {
        return Command::new(program);
    }
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{place}")).arg("--").arg(program);
    command
}

/// A program that runs beside the test, with all that it starts, until this is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// The lines of a pipe as they come.
pub fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody may want to hear it any more, but the pipe must not fill.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// socat in a place, listening at `address`, each client served by `how` of socat's; returns once it listens.
pub fn listen(place: &str, address: &str, how: &str) -> Running {
    let mut command = at(place, "socat");
    command.args(["-d", "-d", address, how]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running::start(&mut command);
    let said = lines(running.0.stderr.take().unwrap());
    // The latter of a datagram socket; both are bound by then.
    let ready = ["listening on", "receiving on"];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if ready.iter().any(|word| line.contains(word)) => return running,
            Ok(line) => assert!(!line.contains(" E "), "socat {address} in {place}: {line}"),
            Err(e) => panic!("socat {address} in {place} does not listen: {e}"),
        }
    }
}

/// Says who answers and whom it sees.
const HTTP: &str = r#"#!/bin/sh
read -r verb path rest
while read -r line && [ ${#line} -gt 1 ]; do :; done
printf 'HTTP/1.0 200 OK\r\n\r\n%s %s\n' NAME "$SOCAT_PEERADDR"
[ "$path" = /big ] && head -c 1000000 /dev/zero
[ "$path" = /huge ] && head -c 50000000 /dev/zero
exit 0
"#;

/// A web server on `port`, of both families, that tells its name and the client's address.
pub fn serve(scene: &Scene, place: &str, port: u16) -> Running {
    let script = program(scene, &format!("http-{place}"), &HTTP.replace("NAME", place));
    listen(place, &format!("TCP6-LISTEN:{port},ipv6only=0,reuseaddr,fork"), &format!("EXEC:{script}"))
}

/// Answers each datagram that comes to `port` at `place`, of both families, with its own name, the client's address and
/// what came, until the test ends. One answer for a datagram: socat's forks now and then give two.
pub fn serve_udp(place: &'static str, port: u16) {
    let socket = Netns::open(place).unwrap().run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut heard = [0; 1500];
        loop {
            // An error is an ICMP answer to an earlier datagram of ours.
            let Ok((length, client)) = socket.recv_from(&mut heard) else { continue };
            let said = String::from_utf8_lossy(&heard[..length]);
            let answer = format!("{place} {} {}\n", client.ip().to_canonical(), said.trim());
            let _ = socket.send_to(answer.as_bytes(), client);
        }
    });
}

fn program(scene: &Scene, name: &str, text: &str) -> String {
    let path = scene.folder().join(name);
    // A script that runs must not be written to.
    if !path.exists() {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    path.display().to_string()
}

/// What a server said of a client: its own name, and the address that it saw.
pub fn seen(text: &str) -> Option<(String, IpAddr)> {
    let mut words = text.lines().next()?.split(' ');
    let (name, peer) = (words.next()?, words.next()?);
    let peer: IpAddr = peer.trim_matches(['[', ']']).parse().ok()?;
    Some((name.to_owned(), peer.to_canonical()))
}

/// A request, and what must come of it.
#[derive(Clone, Debug)]
pub struct Try {
    pub from: &'static str,
    pub source: Option<&'static str>,
    pub to: String,
    /// Who answers, and what client it sees; nothing where nobody may be heard.
    pub expect: Option<(&'static str, &'static str)>,
}

/// `from` asks `to` by HTTP; `who` answers, and has seen the client as `source`.
pub fn reaches(from: &'static str, to: &str, who: &'static str, source: &'static str) -> Try {
    Try { from, source: None, to: to.to_owned(), expect: Some((who, source)) }
}

/// `from` asks `to` by HTTP, and hears nothing.
pub fn silent(from: &'static str, to: &str) -> Try {
    Try { from, source: None, to: to.to_owned(), expect: None }
}

impl Try {
    /// With that address of the asker's.
    pub fn by(mut self, source: &'static str) -> Self {
        self.source = Some(source);
        self
    }

    fn start(&self) -> Child {
        let mut curl = at(self.from, "curl");
        let patience = if self.expect.is_some() { PATIENCE } else { SILENCE };
        curl.args(["--silent", "--show-error", "--globoff", "--noproxy", "*"]);
        curl.args(["--connect-timeout", &patience.as_secs_f64().to_string()]);
        curl.args(["--max-time", &PATIENCE.as_secs().to_string()]);
        if let Some(source) = self.source {
            curl.args(["--interface", source]);
        }
        curl.arg(format!("http://{}/", self.to));
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl is needed")
    }

    fn judge(&self, child: Child) -> Result<(), String> {
        let output = child.wait_with_output().unwrap();
        let (code, heard) = (output.status.code(), seen(&String::from_utf8_lossy(&output.stdout)));
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match self.expect {
            Some((who, source)) => {
                let wanted = (who.to_owned(), source.parse::<IpAddr>().unwrap());
                if heard.as_ref() == Some(&wanted) { Ok(()) } else { Err(format!("{self:?}: {heard:?} {error}")) }
            }
            // CURLE_OPERATION_TIMEDOUT: what must not pass is dropped, not refused.
            None if code == Some(28) && heard.is_none() => Ok(()),
            None => Err(format!("{self:?}: ended {code:?}: {heard:?} {error}")),
        }
    }
}

/// All at once, since silence takes its time; fails with those that did not go as they must.
#[track_caller]
pub fn all(when: &str, tries: &[Try]) {
    assert!(tries.iter().any(|t| t.expect.is_some()), "silence proves nothing alone");
    let started: Vec<(&Try, Child)> = tries.iter().map(|t| (t, t.start())).collect();
    let wrong: Vec<String> = started.into_iter().filter_map(|(t, child)| t.judge(child).err()).collect();
    assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
}

/// A conversation by lines, over whatever socat can open.
pub struct Talk {
    _socat: Running,
    to: ChildStdin,
    from: Receiver<String>,
}

impl Talk {
    pub fn open(place: &str, address: &str) -> Self {
        let mut command = at(place, "socat");
        command.args(["-", address]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut socat = Running::start(&mut command);
        let (to, from) = (socat.0.stdin.take().unwrap(), lines(socat.0.stdout.take().unwrap()));
        Self { _socat: socat, to, from }
    }

    fn say(&mut self, line: &str) {
        // At once: socat would make a datagram of each write.
        self.to.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What comes back for a line.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no answer to {line}: {e}"))
    }

    /// Nothing comes back for a line.
    #[track_caller]
    pub fn is_cut(&mut self, line: &str) {
        self.say(line);
        match self.from.recv_timeout(SILENCE) {
            Ok(heard) => panic!("{heard:?} came back for {line}"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}
