//! The note's own story: two Debian servers with systemd and sshd on a LAN inside one server.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::tool;
use crate::lab::{Place, lab};
use crate::support::{self, Ran, Running, at, serve, which};

/// Where the template's script looks for Debian, and finds nothing but the names of its releases: the packages come
/// from its cache.
const MIRROR: &str = "http://127.0.0.1:8901/debian";

/// systemd answers once this file is there.
const WAIT: &str = "while [ ! -e /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait";

fn mirror(place: &Place) -> Running {
    let cache = fs::read_dir("/var/cache/lxc/debian").into_iter().flatten().flatten();
    let is_full = cache.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("rootfs-bookworm-"));
    assert!(is_full, "the cache of LXC's Debian template is empty; `cargo xtask test` fills it");
    let root = place.scene.folder().join("mirror");
    let architecture = tool("dpkg --print-architecture");
    for (folder, suite) in [
        ("dists/bookworm".to_owned(), "oldstable"),
        (format!("dists/testing/main/binary-{}", architecture.trim()), "testing"),
    ] {
        let folder = root.join("debian").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("Release"), format!("Suite: {suite}\n")).unwrap();
    }
    let httpd = Running::start(
        Command::new("busybox").args(["httpd", "-f", "-p", "127.0.0.1:8901", "-h"]).arg(root).stdin(Stdio::null()),
    );
    let ask =
        format!("curl --silent --fail --retry 50 --retry-delay 0 --retry-connrefused {MIRROR}/dists/bookworm/Release");
    assert!(tool(&ask).contains("oldstable"));
    httpd
}

/// From the world, by the key that the file puts in.
fn ssh(key: &Path, port: u16, line: &str) -> Ran {
    let mut ssh = at("world", "ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", key.with_extension("known").display()));
    ssh.args(["-o", "ConnectTimeout=10", "-i"]).arg(key).args(["-p", &port.to_string(), "root@203.0.113.2", line]);
    Ran::of(&mut ssh)
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.expect("ssh-keygen is needed").success());
}

/// Puts a program into a guest through `exec`'s standard input.
fn put_busybox(place: &Place, guest: &str) {
    let mut cat = place.command();
    let line = "cat > /usr/local/bin/busybox && chmod 755 /usr/local/bin/busybox";
    cat.args(["guest", "exec", guest, "--", "sh", "-c", line]);
    let ran = cat.stdin(fs::File::open(which("busybox")).unwrap()).status().unwrap();
    assert!(ran.success());
}

#[test]
fn the_story_of_the_note() {
    lab(|| {
        let place = Place::new();
        let _world = serve(&place.scene, "world", 8080);
        let mirror = mirror(&place);
        let key = place.scene.folder().join("key");
        make_key(&key);
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let table = |nth: u8| {
            format!(
                "address = [\"10.1.1.{nth}\"]\ntemplate = \"debian\"\nargs = [\"-r\", \"bookworm\", \
                 \"--mirror={MIRROR}\"]\nssh-keys = [\"{}\"]",
                public.trim()
            )
        };
        let (six, seven) = (table(6), table(7));
        place.write(
            &[("cnx6", &six), ("cnx7", &seven)],
            "[[forward]]\nlisten = \"22210/tcp\"\nto = \"cnx6:22\"\n\n\
             [[forward]]\nlisten = \"22217/tcp\"\nto = \"cnx7:22\"\n",
        );
        place.warren("up").says(0, &["cnx6: running", "cnx7: running"]);
        drop(mirror);

        let links = tool("bridge link");
        for guest in ["cnx6", "cnx7"] {
            assert!(links.lines().any(|l| l.contains(&format!(" {guest}@")) && l.contains("master br1")), "{links}");
            // One mechanism, and so nothing that fails: networking.service neither.
            let line = format!("{WAIT}; systemctl --failed --no-legend; systemctl is-active networking ssh");
            assert_eq!(place.inside(guest, &line).ends(0).out, "running\nactive\nactive\n", "{guest}");
            put_busybox(&place, guest);
            place.inside(guest, "busybox ping -c 1 -W 5 10.1.1.1").says(0, &["1 packets received"]);
            let seen = place.inside(guest, "busybox wget -q -O - http://198.51.100.7:8080/").ends(0).out;
            assert_eq!(support::seen(&seen), Some(("world".to_owned(), "203.0.113.2".parse().unwrap())));
            place
                .inside(
                    guest,
                    &format!("mkdir /srv/www; echo {guest} > /srv/www/index.html; busybox httpd -p 80 -h /srv/www"),
                )
                .ends(0);
        }
        let page = Ran::of(Command::new("wget").args(["-q", "-O", "-", "http://10.1.1.7/"])).ends(0).out;
        assert_eq!(page, "cnx7\n");
        assert_eq!(ssh(&key, 22210, "hostname -f").ends(0).out, "cnx6.cnx.rice.edu\n");
        let said = ssh(&key, 22217, "hostname; echo ${SSH_CONNECTION}").ends(0).out;
        assert!(said.starts_with("cnx7\n203.0.113.1 ") && said.trim().ends_with("10.1.1.7 22"), "{said}");
        // By that key alone.
        let stranger = place.scene.folder().join("stranger");
        make_key(&stranger);
        ssh(&stranger, 22210, "true").says(255, &["Permission denied"]);

        // Nothing of the template's is shared.
        let own = |path: &str| ["cnx6", "cnx7"].map(|guest| place.inside(guest, &format!("cat {path}")).ends(0).out);
        for path in ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ssh/ssh_host_rsa_key.pub"] {
            let [one, other] = own(path);
            assert!(!one.is_empty() && one != other, "{path}");
        }
        assert_eq!(own("/etc/machine-id")[0].trim().len(), 32);
        place
            .inside("cnx6", "cat /etc/resolv.conf")
            .says(0, &["search cnx.rice.edu\nnameserver 10.1.1.1\nnameserver 198.51.100.7\n"]);

        // A restart from within keeps all of it.
        let pid = || place.warren("--json guest list").json()["guests"][1]["pid"].clone();
        let before = pid();
        ssh(&key, 22217, "systemctl reboot");
        let begun = std::time::Instant::now();
        while pid() == before || ssh(&key, 22217, "systemctl is-system-running --wait").out != "running\n" {
            assert!(begun.elapsed() < support::PATIENCE, "cnx7 does not come back");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }

        let begun = std::time::Instant::now();
        let ran = place.warren("down --guests").says(0, &["cnx6: stopped", "cnx7: stopped"]);
        assert!(!ran.err.contains("killed") && begun.elapsed().as_secs() < 15, "{}", ran.err);
        let links = tool("ip -o link");
        assert!(!links.contains("br1") && !links.contains("cnx"), "{links}");
        for guest in ["cnx6", "cnx7"] {
            assert!(place.disk(guest).join("srv/www/index.html").exists());
        }
        // The disk outlives a change of the file.
        let moved = six.replace("10.1.1.6", "10.1.1.66");
        place.write(&[("cnx6", &moved)], "[[forward]]\nlisten = \"22210/tcp\"\nto = \"cnx6:22\"\n");
        place.warren("up").says(0, &["cnx6: running"]);
        place.inside("cnx6", WAIT).ends(0);
        let said =
            ssh(&key, 22210, "hostname -i; cat /srv/www/index.html; systemctl is-system-running --wait").ends(0).out;
        assert_eq!(said, "10.1.1.66\ncnx6\nrunning\n");
        place.warren("down --guests").ends(0);
        leased_by_networkd(&place, &seven);
    });
}

/// The other server again, which now asks for its address by systemd-networkd; its table as it was.
fn leased_by_networkd(place: &Place, table: &str) {
    let system = place.disk("cnx7").join("etc/systemd/system");
    for wanted in ["multi-user.target.wants", "network-online.target.wants"] {
        fs::remove_file(system.join(wanted).join("networking.service")).unwrap();
    }
    let networkd = system.join("multi-user.target.wants/systemd-networkd.service");
    std::os::unix::fs::symlink("/lib/systemd/system/systemd-networkd.service", networkd).unwrap();
    // The template's Debian has no udev, for which networkd would wait as long as it can write to /sys.
    let unit = "[Unit]\nDefaultDependencies=no\nBefore=systemd-networkd.service\n\n[Service]\nType=oneshot\n\
                ExecStart=/bin/mount -o remount,bind,ro /sys\n";
    fs::write(system.join("sys.service"), unit).unwrap();
    let needs = system.join("systemd-networkd.service.requires");
    fs::create_dir(&needs).unwrap();
    std::os::unix::fs::symlink("/etc/systemd/system/sys.service", needs.join("sys.service")).unwrap();
    // Beside what warren writes for it, all that a server may tell.
    let more = place.disk("cnx7").join("etc/systemd/network/10-warren.network.d");
    fs::create_dir_all(&more).unwrap();
    fs::write(more.join("more.conf"), "[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n").unwrap();
    let router = "[guest.router]\nkind = \"netns\"\naddress = [\"10.1.1.9\"]\nallowed-addresses = [\"10.77.0.0/16\"]\n";
    place.write(&[("cnx7", &table.replace("address = [\"10.1.1.7\"]\n", ""))], router);
    let text = fs::read_to_string(&place.scene.config).unwrap();
    let text = text.replace("[lan.br1]\n", "[lan.br1]\nmtu = 1400\ndhcp = \"10.1.1.100-10.1.1.120\"\n");
    place.scene.write(&text);
    let mut serve = place.command();
    let serve = Running::start(serve.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()));
    let own = |status: serde_json::Value| {
        let guests = status["guests"].as_array().cloned().unwrap_or_default();
        let own = guests.into_iter().find(|guest| guest["name"] == "cnx7")?;
        Some(own["addresses"][0].as_str()?.to_owned())
    };
    let begun = std::time::Instant::now();
    // What it was leased, as networkd wrote it down.
    let (own, lease) = loop {
        let own = own(place.warren("--json status").json());
        let lease = own.as_ref().map(|_| place.inside("cnx7", "cat /run/systemd/netif/leases/*"));
        match (own, lease) {
            (Some(own), Some(lease)) if lease.code == Some(0) => break (own, lease.out),
            _ if begun.elapsed() < 2 * support::PATIENCE => {}
            (own, _) => {
                let look =
                    "systemctl status systemd-networkd; networkctl status eth0; mount; ls /lib/systemd/systemd-udevd";
                panic!("networkd is leased nothing: {own:?}\n{}", place.inside("cnx7", look).out);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let has = |key: &str| lease.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    for (key, value) in [
        ("ADDRESS", own.as_str()),
        ("NETMASK", "255.255.255.0"),
        ("SERVER_ADDRESS", "10.1.1.1"),
        ("MTU", "1400"),
        ("DNS", "10.1.1.1"),
        ("DOMAINNAME", "cnx.rice.edu"),
        ("DOMAIN_SEARCH_LIST", "cnx.rice.edu"),
        ("HOSTNAME", "cnx7"),
        ("CLASSLESS_ROUTES", "10.77.0.0/16,10.1.1.9 0.0.0.0/0,10.1.1.1"),
    ] {
        assert_eq!(has(key), value, "{key} in\n{lease}");
    }
    let routes = place.inside("cnx7", "busybox ip route").ends(0).out;
    for route in ["default via 10.1.1.1", "10.77.0.0/16 via 10.1.1.9"] {
        assert!(routes.contains(route), "{routes}");
    }
    let seen = place.inside("cnx7", "busybox wget -q -O - http://198.51.100.7:8080/").ends(0).out;
    assert_eq!(support::seen(&seen), Some(("world".to_owned(), "203.0.113.2".parse().unwrap())));
    place.warren("down --guests").ends(0);
    drop(serve);
}
