//! A Debian whose uplink is ifupdown's and leased, taken over by warren: restarted before it was confirmed, after it was,
//! and after `down`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::boot::{PATIENCE, Server};
use crate::common::tool;
use crate::lab::lab;
use crate::support::{Running, Talk};

pub const FILE: &str = r#"
[host]
uplink = "eth0"
take-over = true
[lan.br0]
mode = "bridged"
ports = ["eth0"]
[guest.rest]
kind = "netns"
address = ["203.0.113.104"]
"#;
const INTERFACES: &str = "# The server's.\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n";

/// The router's leases; who asked, as it heard them.
pub struct Router {
    folder: PathBuf,
    _dnsmasq: Running,
}

impl Router {
    pub fn start(server: &Server) -> Self {
        let folder = server.folder.path().to_owned();
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--port=0", "--interface=segment", "--bind-interfaces"]);
        dnsmasq.args(["--conf-file=/dev/null", "--dhcp-range=203.0.113.150,203.0.113.180,255.255.255.0,1h"]);
        dnsmasq.args(["--no-ping", "--user=root", "--log-dhcp"]);
        dnsmasq.arg(format!("--log-facility={}/heard", folder.display()));
        dnsmasq.arg(format!("--dhcp-leasefile={0}/leases", folder.display()));
        dnsmasq.arg(format!("--pid-file={}/dnsmasq.pid", folder.display()));
        let running = Running::start(dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        Self { folder, _dnsmasq: running }
    }

    /// Hardware address, address, name and client identifier of the one that leases.
    pub fn lease(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("leases")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= 1, "one server, one lease: {lines:?}");
        let mut words: Vec<String> =
            lines.first().map(|line| line.split(' ').map(str::to_owned).collect()).unwrap_or_default();
        words.drain(..words.len().min(1));
        words
    }

    /// How often a lease was given back, as ifdown does when the server goes down.
    fn released(&self) -> usize {
        fs::read_to_string(self.folder.join("heard")).unwrap().matches("DHCPRELEASE").count()
    }
}

/// Debian's ifupdown, laid over the lab's own view of the machine's programs, which the server sees as its own.
fn ifupdown() {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/ifupdown").canonicalize();
    let unpacked = unpacked.expect("`cargo xtask test` unpacks ifupdown").display().to_string();
    for (of, over) in [("sbin", "/usr/sbin"), ("lib", "/usr/lib")] {
        tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/{of}:{over} {over}"));
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_is_taken_over_restarts() {
    lab(|| {
        ifupdown();
        let server = Server::with(FILE, INTERFACES, "lxc.net.0.hwaddr = 02:00:00:00:71:02\n");
        let wants = server.root().join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        let _ = fs::remove_file(wants.join("networking.service"));
        std::os::unix::fs::symlink("/lib/systemd/system/networking.service", wants.join("networking.service")).unwrap();
        let router = Router::start(&server);
        server.start();
        let interfaces = || fs::read_to_string(server.root().join("etc/network/interfaces")).unwrap();
        eventually("a lease", || !router.lease().is_empty());
        let lease = router.lease();
        let address = lease[1].clone();
        let has = |link: &str| {
            server.run(&format!("ip -4 -o address show dev {link}")).out.contains(&format!("{address}/24"))
        };
        let clients = || server.run("pgrep -a dhclient").out.trim().to_owned();
        eventually("the address", || has("eth0"));
        let by_hand = clients();
        assert!(by_hand.ends_with(" eth0") && by_hand.lines().count() == 1, "{by_hand}");
        server.run("warren install").ends(0);
        assert!(server.run("systemctl show --property=After warren-network").out.contains("networking.service"));

        // Nobody confirms it: a restart has what was before.
        server.run("warren up --confirm 600").says(0, &["/etc/network/interfaces", "warren confirm"]);
        assert!(interfaces().contains("iface br0 inet dhcp") && has("br0"));
        let moved = clients();
        assert!(moved.ends_with(" br0") && moved.lines().count() == 1, "{moved}");
        server.restart();
        assert_eq!(interfaces(), INTERFACES);
        assert!(has("eth0"), "{}", server.run("ip address").out);
        assert!(!server.run("ip -br link").out.contains("br0"));
        server.journal_says("warren-network", "was never confirmed");
        assert!(clients().ends_with(" eth0") && clients().lines().count() == 1, "{}", clients());

        // Confirmed: what talks to it talks on, and a restart has it again.
        server.run("systemd-run --quiet --unit=echo socat TCP4-LISTEN:7,reuseaddr,fork EXEC:cat").ends(0);
        let listens = || server.run("ss -Hltn 'sport = :7'").out.contains(":7");
        eventually("an echo", listens);
        let mut talk = Talk::open("server", &format!("TCP4:{address}:7"));
        assert_eq!(talk.ask("before"), "before");
        let released = router.released();
        server.run("warren up && warren confirm").ends(0);
        assert_eq!(router.released(), released);
        assert_eq!(talk.ask("on the bridge"), "on the bridge");
        let rewritten = interfaces();
        drop(talk);
        server.restart();
        assert_eq!(interfaces(), rewritten);
        assert!(has("br0") && !has("eth0"), "{}", server.run("ip address").out);
        let status = server.run("warren --json status").ends(0).json();
        assert_eq!((&status["up"], &status["ok"]), (&true.into(), &true.into()), "{status}");
        server.run("warren plan --exit-code").ends(0);
        assert!(clients().ends_with(" br0") && clients().lines().count() == 1, "{}", clients());
        server
            .run("systemd-run --quiet --unit=rest ip netns exec rest socat TCP4-LISTEN:7,reuseaddr,fork EXEC:cat")
            .ends(0);
        server.run("systemd-run --quiet --unit=echo socat TCP4-LISTEN:7,reuseaddr,fork EXEC:cat").ends(0);
        eventually("an echo", listens);
        eventually("the guest", || {
            let from = "printf 'guest\\n' | socat -T 2 - TCP4:203.0.113.104:7,connect-timeout=2";
            Command::new("sh").args(["-c", from]).output().unwrap().stdout == b"guest\n"
        });

        // And back, as it was before the first touch.
        let mut talk = Talk::open("server", &format!("TCP4:{address}:7"));
        assert_eq!(talk.ask("on the bridge"), "on the bridge");
        let released = router.released();
        server.run("warren down").ends(0);
        assert_eq!(router.released(), released);
        assert_eq!(talk.ask("and back"), "and back");
        drop(talk);
        assert_eq!(interfaces(), INTERFACES);
        assert!(has("eth0"));
        server.run("warren uninstall").ends(0);
        server.restart();
        assert!(has("eth0"), "{}", server.run("ip address").out);
        assert!(!server.run("ip -br link").out.contains("br0"));
        assert!(clients().ends_with(" eth0") && clients().lines().count() == 1, "{}", clients());
        assert_eq!(router.lease(), lease, "the same lease of the same client, through all of it");
    });
}
