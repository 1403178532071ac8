//! A Debian with systemd that plays the server: its network comes up at boot, whatever became of the last change. Its
//! programs are the machine's own (/usr is the same), the rest of it comes from LXC's cache.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::tool;
use crate::lab::{GROUPS, lab};
use crate::support::{Ran, WARREN, which};

/// What must come comes within this: a boot on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

const FILE: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
[guest.www]
address = ["10.1.1.7"]
template = "busybox"
privileged = true
config = ["lxc.mount.auto = cgroup:rw:force"]
[[forward]]
listen = "22210/tcp"
to = "cnx6:22"
"#;

pub struct Server {
    pub folder: tempfile::TempDir,
}

impl Server {
    /// The lab's own namespace is the world: a bridge with the router's address, and the server plugged in.
    fn new() -> Self {
        let net =
            "lxc.net.0.flags = up\nlxc.net.0.ipv4.address = 203.0.113.2/24\nlxc.net.0.ipv4.gateway = 203.0.113.1\n";
        Self::with(FILE, "auto lo\niface lo inet loopback\n", net)
    }

    /// One whose network is `file`'s for warren, `interfaces` for ifupdown, and `net` for LXC.
    pub fn with(file: &str, interfaces: &str, net: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for line in
            ["ip link add segment type bridge", "ip address add 203.0.113.1/24 dev segment", "ip link set segment up"]
        {
            tool(line);
        }
        let server = Self { folder };
        let cache = Path::new("/var/cache/lxc/debian");
        let cached = fs::read_dir(cache).into_iter().flatten().flatten();
        let cached =
            cached.map(|entry| entry.path()).find(|path| path.display().to_string().contains("rootfs-bookworm-"));
        let cached = cached.expect("the cache of LXC's Debian template is empty; `cargo xtask test` fills it");
        fs::create_dir_all(server.root()).unwrap();
        tool(&format!(
            "rsync -aHX --exclude=/usr/* --exclude=/var/cache/* {}/ {}/",
            cached.display(),
            server.root().display()
        ));
        fs::create_dir_all(server.root().join("usr")).unwrap();
        server.furnish(file, interfaces, net);
        server
    }

    fn furnish(&self, file: &str, interfaces: &str, net: &str) {
        let write = |path: &str, text: &str| {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/network/interfaces", interfaces);
        write("etc/hostname", "server\n");
        write("etc/fstab", "");
        // Another's firewall that begins with a clean slate, as Debian's does.
        write(
            "etc/nftables.conf",
            "#!/usr/sbin/nft -f\nflush ruleset\ntable inet theirs { chain input { type filter hook input priority 0; }; }\n",
        );
        let units = self.root().join("etc/systemd/system");
        for masked in ["sys-kernel-debug.mount", "lxc-net.service", "lxc.service", "systemd-timesyncd.service"] {
            let _ = fs::remove_file(units.join(masked));
            std::os::unix::fs::symlink("/dev/null", units.join(masked)).unwrap();
        }
        let wants = units.join("sysinit.target.wants");
        fs::create_dir_all(&wants).unwrap();
        let _ = fs::remove_file(wants.join("nftables.service"));
        std::os::unix::fs::symlink("/lib/systemd/system/nftables.service", wants.join("nftables.service")).unwrap();
        fs::create_dir_all(self.root().join("opt")).unwrap();
        fs::copy(WARREN, self.root().join("opt/warren")).unwrap();
        write("etc/warren/warren.toml", file);
        let groups = std::env::var(GROUPS).unwrap();
        let apparmor = if Path::new("/sys/kernel/security/apparmor").exists() {
            ""
        } else {
            "lxc.apparmor.profile = unconfined\n"
        };
        let config = format!(
            "lxc.include = /usr/share/lxc/config/common.conf\nlxc.include = /usr/share/lxc/config/nesting.conf\n\
             {apparmor}lxc.rootfs.path = dir:{}\nlxc.uts.name = server\nlxc.cgroup.dir = {groups}\n\
             lxc.mount.auto = proc:rw sys:rw cgroup:rw:force\nlxc.mount.entry = /usr usr none rbind,ro 0 0\n\
             lxc.mount.entry = tmpfs tmp tmpfs rw,create=dir 0 0\n\
             lxc.net.0.type = veth\nlxc.net.0.link = segment\nlxc.net.0.veth.pair = server\nlxc.net.0.name = eth0\n\
             {net}lxc.cgroup.devices.allow = c 10:200 rwm\nlxc.signal.halt = SIGRTMIN+4\n",
            self.root().display()
        );
        fs::write(self.folder.path().join("server/config"), config).unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("server/rootfs")
    }

    fn lxc(&self, program: &str) -> Command {
        let mut command = Command::new(which(program));
        command.args(["-n", "server", "-P"]).arg(self.folder.path());
        command
    }

    fn pid(&self) -> Option<u32> {
        let ran = Ran::of(self.lxc("lxc-info").args(["--pid", "--no-humanize"]));
        ran.out.trim().parse().ok()
    }

    pub fn start(&self) {
        Ran::of(self.lxc("lxc-start").args(["-d", "-l", "INFO", "-o"]).arg(self.folder.path().join("log"))).ends(0);
        self.is_up();
    }

    /// A shell's line in the server.
    pub fn run(&self, line: &str) -> Ran {
        let mut attach = self.lxc("lxc-attach");
        attach.args(["--clear-env", "--set-var", "PATH=/opt:/usr/sbin:/usr/bin:/sbin:/bin", "--", "sh", "-c", line]);
        Ran::of(&mut attach)
    }

    /// Waits until its systemd has started all that it will.
    fn is_up(&self) {
        let begun = Instant::now();
        loop {
            let said = self.run("[ -e /run/systemd/private ] && systemctl is-system-running --wait").out;
            if ["running", "degraded"].contains(&said.trim()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not come up: {said:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().rev().take(30).collect::<Vec<_>>().join("\n")
    }

    /// From within, as people do it; it is another first process that comes back.
    pub fn restart(&self) {
        let before = self.pid();
        self.run("systemctl --no-block reboot");
        let begun = Instant::now();
        while self.pid().is_none() || self.pid() == before {
            let jobs = || self.run("systemctl list-jobs --no-pager; journalctl --boot --no-pager --lines 30").out;
            assert!(begun.elapsed() < PATIENCE, "the server does not restart\n{}", jobs());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.is_up();
    }

    #[track_caller]
    pub fn journal_says(&self, unit: &str, words: &str) {
        let said = self.run(&format!("journalctl --boot --no-pager --unit {unit}")).out;
        assert!(said.contains(words), "{unit} does not say {words:?}:\n{said}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let say =
                "systemctl --failed --no-pager; journalctl --boot --no-pager --unit 'warren-*'; ip address; ip route";
            eprintln!("{}", self.run(say).out);
        }
        // The lab's end would do it too, with the folder in use until then.
        let _ = Ran::of(self.lxc("lxc-stop").arg("--kill"));
    }
}

#[test]
fn a_server_that_restarts() {
    lab(|| {
        let server = Server::new();
        server.start();
        // What this image fails in by itself is none of ours.
        let failed = server.run("systemctl --failed --no-legend --plain").out;
        nothing_may_come_up(&server);
        server
            .run("warren install")
            .says(0, &["warren-network.service is installed", "warren-serve.service", "warren-guests.service"]);
        let units = ["network", "serve", "guests"].map(|name| format!("/etc/systemd/system/warren-{name}.service"));
        let units = units.join(" ");
        let verified = server.run(&format!("systemd-analyze verify --man=no {units}")).ends(0);
        assert!(!verified.err.contains("warren"), "{}", verified.err);
        let after = server.run("systemctl show --property=After --property=Before warren-network.service").out;
        for name in ["nftables", "ufw", "firewalld", "netfilter-persistent"] {
            let after = after.lines().find(|line| line.starts_with("After=")).unwrap();
            assert!(after.contains(&format!("{name}.service")), "{after}");
        }
        assert!(
            after.lines().any(|line| line.starts_with("Before=") && line.contains("network-online.target")),
            "{after}"
        );

        // The first restart.
        server.restart();
        let status = server.run("warren --json status").ends(0).json();
        assert_eq!((&status["up"], &status["ok"]), (&true.into(), &true.into()), "{status}");
        assert_eq!(status["guests"][1]["container"], "running", "{status}");
        assert_eq!(server.run("systemctl --failed --no-legend --plain").out, failed);
        // Behind the firewall service that flushes everything, and before the guests.
        let when = |unit: &str, what: &str| -> u64 {
            let said = server.run(&format!("systemctl show --value --property={what} {unit}")).out;
            said.trim().parse().unwrap_or_else(|_| panic!("{unit}: {what}: {said:?}"))
        };
        let begun = |unit: &str| when(unit, "ExecMainStartTimestampMonotonic");
        let done = |unit: &str| when(unit, "ExecMainExitTimestampMonotonic");
        assert!(begun("warren-network") >= done("nftables"));
        assert!(begun("warren-guests") >= done("warren-network"));
        assert!(begun("warren-guests") >= when("warren-serve", "ActiveEnterTimestampMonotonic"));
        server.run("nft list table inet theirs && nft list table inet warren").ends(0);
        // From the world: the forward, and what is none.
        server.run("systemd-run --quiet ip netns exec cnx6 busybox nc -ll -p 22 -e echo it is cnx6").ends(0);
        let ask = |port: u16| {
            let line = format!("socat -T 3 - TCP4:203.0.113.2:{port},connect-timeout=3");
            Ran::of(Command::new("sh").args(["-c", &format!("{line} < /dev/null")]))
        };
        let begun_asking = Instant::now();
        while !ask(22210).out.contains("it is cnx6") {
            assert!(begun_asking.elapsed() < PATIENCE, "the forward does not work after a restart");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_ne!(ask(22211).code, Some(0));
        assert!(server.run("lxc-info -n www -s").out.contains("RUNNING"));

        served(&server);
        // A unit that is stopped takes nothing down.
        // Whose tables they are is another matter than that they are there.
        let network = "ip -br address show br1; nft list table inet warren | grep -m 1 comment";
        let before = server.run(network).out;
        server.run("systemctl stop warren-network warren-serve").ends(0);
        assert_eq!(server.run("systemctl is-active warren-serve").out.trim(), "inactive");
        assert_eq!(server.run(network).out, before);
        assert!(before.contains("10.1.1.1/24"), "{before}");
        server.run("systemctl start warren-serve").ends(0);

        // A change that nobody confirms: watched by a unit of systemd's own, in no session; killed, it is there again.
        let changed = "sed s/10.1.1/10.9.9/ /etc/warren/warren.toml > /etc/warren/new && \
                       mv /etc/warren/new /etc/warren/warren.toml && warren up --no-guests --confirm";
        server.run(&format!("{changed} 4")).ends(0);
        let watchdogs = "systemctl list-units --no-legend --plain 'warren-watchdog-*'";
        let unit = server.run(watchdogs).out;
        assert!(unit.contains("running"), "no unit watches: {unit:?}");
        server.run("systemctl kill --signal=KILL 'warren-watchdog-*'").ends(0);
        let begun = Instant::now();
        while !server.run("ip -br address show br1").out.contains("10.1.1.1/24") {
            assert!(begun.elapsed() < PATIENCE, "what was does not come back: {}", server.run(watchdogs).out);
            std::thread::sleep(Duration::from_millis(100));
        }
        while server.run(watchdogs).out.contains("warren") {
            assert!(begun.elapsed() < PATIENCE, "the watchdog stays");
            std::thread::sleep(Duration::from_millis(50));
        }
        // The same change, and a restart before anybody confirms it: the second. The file still says it.
        server.run("warren up --no-guests --confirm 3000").ends(0);
        // Whoever starts the unit anew in the meantime decides nothing about it.
        server.run("systemctl restart warren-network && systemctl is-active warren-network").ends(0);
        server.journal_says("warren-network", "awaits its confirmation for another");
        assert!(server.run("ip -br address show br1").out.contains("10.9.9.1/24"));
        assert!(server.run("warren --json status").ends(0).json()["confirm_within"].is_u64());
        server.restart();
        let addresses = server.run("ip -br address show br1").out;
        assert!(addresses.contains("10.1.1.1/24") && !addresses.contains("10.9.9"), "{addresses}");
        server.journal_says("warren-network", "was never confirmed");
        server.journal_says("warren-serve", "what is up is served as it is");
        server.run("systemctl is-active warren-serve").ends(0);
        assert!(server.run("cat /etc/warren/warren.toml").out.contains("10.9.9.1/24"));
        // Confirmed, it comes up by itself, without an uplink too: nothing waits for one.
        server.run("warren up --confirm 3000 && warren confirm").ends(0);
        let config = server.folder.path().join("server/config");
        let text = fs::read_to_string(&config).unwrap();
        let unplugged = text.lines().filter(|line| !line.starts_with("lxc.net.0")).collect::<Vec<_>>().join("\n");
        fs::write(&config, format!("{unplugged}\nlxc.net.0.type = empty\n")).unwrap();
        Ran::of(server.lxc("lxc-stop").args(["--timeout", "60"])).ends(0);
        server.start();
        assert!(!server.run("ip -br link").out.contains("eth0"));
        assert!(server.run("ip -br address show br1").out.contains("10.9.9.1/24"));
        let took = done("warren-network") - self::begun(&server, "warren-network");
        assert!(took < 20_000_000, "it took {took} us");
        assert!(server.run("lxc-info -n www -s").out.contains("RUNNING"));

        server.run("warren uninstall").says(0, &["warren-network.service is taken out", "stays up"]);
        assert_eq!(server.run("systemctl list-unit-files --no-legend 'warren-*'").out, "");
        assert_eq!(server.run("ss -Hlnu 'sport = 53'").out, "", "nobody serves");
        assert!(!server.run("ls -R /etc/systemd/system").out.contains("warren"));
        assert!(server.run("ip -br address show br1").out.contains("10.9.9.1/24"));
        server.run("warren uninstall").says(0, &["No unit of warren's is installed"]);
        server.run("warren down --guests").ends(0);
        assert!(!server.run("ip -br link").out.contains("br1"));
    });
}

/// What was put back does not come up by a unit: the network's fails, once, and `serve`'s waits for a person's `up`.
fn nothing_may_come_up(server: &Server) {
    server.run("warren up --no-guests --confirm 3000 && warren rollback && warren install").ends(0);
    assert_ne!(server.run("systemctl start warren-network").code, Some(0));
    server.run("systemctl start warren-serve").ends(0);
    let shown = |what: &str, unit: &str| {
        server.run(&format!("systemctl show --value --property={what} {unit}")).ends(0).out.trim().to_owned()
    };
    assert!(
        shown("StatusText", "warren-serve").contains("no network is up"),
        "{}",
        shown("StatusText", "warren-serve")
    );
    let (waits, tried) = (shown("MainPID", "warren-serve"), shown("ExecMainStartTimestampMonotonic", "warren-network"));
    assert_eq!(shown("ActiveState", "warren-network"), "failed");
    server.run("warren up").ends(0);
    let served = shown("StatusText", "warren-serve");
    assert!(served.contains("serving 1 LAN"), "{served}");
    assert_eq!((shown("MainPID", "warren-serve"), shown("NRestarts", "warren-serve")), (waits, "0".to_owned()));
    assert_eq!(shown("ExecMainStartTimestampMonotonic", "warren-network"), tried, "it was tried again");
    server.run("systemctl start warren-network").ends(0);
    server.run("warren uninstall").ends(0);
}

/// `serve` under a real systemd: killed, or hanging, it is there again; and the network was all the time.
fn served(server: &Server) {
    let main = || -> u32 {
        let said = server.run("systemctl show --value --property=MainPID warren-serve").out;
        said.trim().parse().unwrap_or_else(|_| panic!("{said:?}"))
    };
    let is_another = |before: u32| {
        let begun = Instant::now();
        while [0, before].contains(&main()) || server.run("systemctl is-active warren-serve").code != Some(0) {
            let why = || server.run("journalctl --boot --no-pager --lines 30 --unit warren-serve").out;
            assert!(begun.elapsed() < PATIENCE, "serve is not started again\n{}", why());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let first = main();
    let shown = server.run("systemctl show --value --property=StatusText warren-serve").out;
    assert!(shown.contains("serving 1 LAN"), "{shown}");
    let kernel = "ip -br address show br1; nft list table inet warren | grep -m 1 comment; lxc-info -n www -p";
    let before = server.run(kernel).out;
    server.run("systemctl kill --signal=KILL --kill-who=main warren-serve").ends(0);
    is_another(first);
    assert!(server.run("warren --json status").ends(0).json()["services"]["pid"].is_u64());
    let warned = server.run("journalctl --boot --no-pager --unit warren-serve --priority warning..warning").out;
    assert!(warned.contains("the supervisor is gone") && !warned.contains("serving\n"), "{warned}");
    // The file through it, as people reload a unit; one that is wrong is told.
    server.run("systemctl reload warren-serve").ends(0);
    server.run("cp -p /etc/warren/warren.toml /etc/warren/kept; echo '[lan' >> /etc/warren/warren.toml").ends(0);
    assert_ne!(server.run("systemctl reload warren-serve").code, Some(0));
    server.run("mv /etc/warren/kept /etc/warren/warren.toml; systemctl is-active warren-serve").ends(0);
    // One that gives no sign of life.
    let patience = "[Service]\\nWatchdogSec=1\\nTimeoutAbortSec=1";
    let folder = "/run/systemd/system/warren-serve.service.d";
    server.run(&format!("mkdir {folder}; printf '{patience}' > {folder}/soon.conf; systemctl daemon-reload")).ends(0);
    server.run("systemctl restart warren-serve").ends(0);
    let third = main();
    server.run(&format!("kill -STOP {third}")).ends(0);
    is_another(third);
    server.journal_says("warren-serve", "Watchdog timeout");
    server.run(&format!("rm -r {folder}; systemctl daemon-reload; systemctl restart warren-serve")).ends(0);
    assert_eq!(server.run(kernel).out, before, "the network, and who is in it, has seen nothing of it");
}

fn begun(server: &Server, unit: &str) -> u64 {
    let said = server.run(&format!("systemctl show --value --property=ExecMainStartTimestampMonotonic {unit}")).out;
    said.trim().parse().unwrap()
}
