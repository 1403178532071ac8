//! A Debian whose uplink is systemd-networkd's and leased, taken over by warren: restarted once that is confirmed, and
//! again while nobody has confirmed it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use crate::boot::Server;
use crate::lab::lab;
use crate::support::Talk;
use crate::takeover::{FILE, Router, eventually};

const FOLLOWED: &str = "etc/systemd/network/20-office.network";
const NETWORK: &str = "[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n";

/// systemd-networkd, as `systemctl enable` has it begin; with a /sys that is not to be written it waits for no udev, which
/// this server has none of.
fn furnish(server: &Server) {
    let etc = server.root().join("etc/systemd");
    let units = etc.join("system");
    for (at, unit) in [
        ("multi-user.target.wants/systemd-networkd.service", "systemd-networkd.service"),
        ("dbus-org.freedesktop.network1.service", "systemd-networkd.service"),
        ("sockets.target.wants/systemd-networkd.socket", "systemd-networkd.socket"),
        ("network-online.target.wants/systemd-networkd-wait-online.service", "systemd-networkd-wait-online.service"),
        ("multi-user.target.wants/network-online.target", "network-online.target"),
    ] {
        fs::create_dir_all(units.join(at).parent().unwrap()).unwrap();
        let _ = fs::remove_file(units.join(at));
        symlink(format!("/lib/systemd/system/{unit}"), units.join(at)).unwrap();
    }
    fs::create_dir_all(units.join("systemd-networkd.service.d")).unwrap();
    fs::write(units.join("systemd-networkd.service.d/udev.conf"), "[Service]\nReadOnlyPaths=/sys\n").unwrap();
    fs::create_dir_all(etc.join("network")).unwrap();
    fs::write(server.root().join(FOLLOWED), NETWORK).unwrap();
}

#[test]
fn a_server_of_networkds_that_is_taken_over_restarts() {
    lab(|| {
        let server = Server::with(FILE, "auto lo\niface lo inet loopback\n", "lxc.net.0.hwaddr = 02:00:00:00:71:02\n");
        furnish(&server);
        let router = Router::start(&server);
        server.start();
        let files = || {
            let mut names: Vec<String> = fs::read_dir(server.root().join("etc/systemd/network"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        eventually("a lease", || !router.lease().is_empty());
        let lease = router.lease();
        let address = lease[1].clone();
        let has = |link: &str| {
            server.run(&format!("ip -4 -o address show dev {link}")).out.contains(&format!("{address}/24"))
        };
        eventually("the address", || has("eth0"));
        let before = files();
        assert_eq!(before, ["20-office.network"]);
        server.run("warren install").ends(0);

        // Nobody confirms it: a restart has what was before.
        server.run("warren up --confirm 600").ends(0);
        assert!(files().len() == 4 && has("br0"));
        server.restart();
        server.journal_says("warren-network", "was never confirmed");
        assert_eq!(files(), before);
        eventually("the address on the interface", || has("eth0"));
        assert!(!server.run("ip -br link").out.contains("br0"));
        assert_eq!(fs::read_to_string(server.root().join(FOLLOWED)).unwrap(), NETWORK);

        // Confirmed: what talks to it talks on, and a restart has it again.
        server.run("systemd-run --quiet --unit=echo socat TCP4-LISTEN:7,reuseaddr,fork EXEC:cat").ends(0);
        let listens = || server.run("ss -Hltn 'sport = :7'").out.contains(":7");
        eventually("an echo", listens);
        let mut talk = Talk::open("server", &format!("TCP4:{address}:7"));
        assert_eq!(talk.ask("before"), "before");
        server.run("warren up && warren confirm").ends(0);
        assert_eq!(talk.ask("on the bridge"), "on the bridge");
        drop(talk);
        let ours = files();
        assert_eq!(ours.len(), 4, "{ours:?}");

        server.restart();
        assert_eq!(files(), ours);
        eventually("the address on the bridge", || has("br0"));
        assert!(!has("eth0"), "{}", server.run("ip address").out);
        let status = server.run("warren --json status").ends(0).json();
        assert_eq!((&status["up"], &status["ok"]), (&true.into(), &true.into()), "{status}");
        server.run("warren plan --exit-code").ends(0);
        // Nothing of networkd's waits for what does not come.
        assert_eq!(server.run("systemctl is-active systemd-networkd-wait-online").out.trim(), "active");
        server.run("systemd-run --quiet --unit=echo socat TCP4-LISTEN:7,reuseaddr,fork EXEC:cat").ends(0);
        eventually("an echo", listens);
        let mut talk = Talk::open("server", &format!("TCP4:{address}:7"));
        assert_eq!(talk.ask("by networkd"), "by networkd");
        server.run("warren down").ends(0);
        assert_eq!(talk.ask("and back"), "and back");
        assert_eq!(files(), before);
        assert!(has("eth0") && !server.run("ip -br link").out.contains("br0"));
        assert_eq!(router.lease(), lease, "the same lease of the same client, through all of it");
    });
}
