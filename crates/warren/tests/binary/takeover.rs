//! `[host] take-over`: the real ifupdown and dhclient, told of the bridge in the uplink's place, and told back.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::bridged::{OFFICE, advertised, leases, office, session, sshd};
use crate::common::snapshot::{Snapshot, assert_same, take};
use crate::common::{lab, tool};
use crate::support::{PATIENCE, Running, Scene, all, reaches, serve, settle, silent};

pub const INTERFACES: &str = "/etc/network/interfaces";
pub const OFFICES: &str = "/etc/network/interfaces.d/office";
const BASE: &str =
    "# This file is the office's.\nsource /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n";
const STATIC: &str = "# The office\nauto eth0 eth0:1\niface eth0 inet static\n\taddress 10.0.0.100/24\n\tgateway 10.0.0.1\n\
                      \tup ip route add 10.9.0.0/16 via 10.0.0.1 dev eth0\n\niface eth0 inet6 static\n    \
                      address 2001:db8:a::100/64\n    gateway 2001:db8:a::1\n    dad-attempts 0\n\
                      iface eth0:1 inet static\n    address 10.0.0.101/24\n# The end";
pub const LEASED: &str = "allow-hotplug eth0\niface eth0 inet dhcp\n";

pub fn with_take_over() -> String {
    OFFICE.replace("[host]\n", "[host]\ntake-over = true\n")
}

/// The office, whose server has what `interfaces.d/office` says by ifupdown, from Debian's package as `cargo xtask test`
/// unpacks it, laid over this lab's own view of the machine's files.
pub fn by_ifupdown(text: &str) -> Scene {
    let scene = office();
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/ifupdown").canonicalize();
    let unpacked = unpacked.expect("`cargo xtask test` unpacks ifupdown").display().to_string();
    fs::create_dir_all("/run/etc/upper").unwrap();
    fs::create_dir_all("/run/etc/work").unwrap();
    let over = "upperdir=/run/etc/upper,workdir=/run/etc/work";
    tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/etc:/etc,{over} /etc"));
    tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/sbin:/usr/sbin /usr/sbin"));
    tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/lib:/usr/lib /usr/lib"));
    tool("mount -t tmpfs tmpfs /var/lib/dhcp");
    // What the office said by hand is ifupdown's to say; and nobody's names are to be written.
    for line in ["ip address flush dev eth0 scope global", "ip -6 route flush dev eth0", "ip link set eth0 down"] {
        tool(line);
    }
    fs::write("/etc/dhcp/dhclient-enter-hooks.d/names", "make_resolv_conf() { :; }\n").unwrap();
    fs::create_dir_all("/etc/network/interfaces.d").unwrap();
    fs::write(INTERFACES, BASE).unwrap();
    fs::write(OFFICES, text).unwrap();
    fs::set_permissions(OFFICES, fs::Permissions::from_mode(0o640)).unwrap();
    scene
}

/// As a boot does it; says what is up then.
pub fn ifup() -> String {
    let ran = Command::new("/usr/sbin/ifup").args(["-a", "--allow=auto"]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let ran = Command::new("/usr/sbin/ifup").args(["-a", "--allow=hotplug"]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    settle(&[]);
    up_by_ifup()
}

pub fn up_by_ifup() -> String {
    tool("/usr/sbin/ifquery --state")
}

/// A file's text, mode and owner.
pub fn whole(path: &str) -> (Vec<u8>, u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert!(meta.is_file(), "{path}");
    (fs::read(path).unwrap(), meta.mode(), meta.uid(), meta.gid())
}

pub fn only(folder: &str) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What comes a moment later than what it belongs to, as an IPv6 address's own route, is waited for.
#[track_caller]
pub fn same(before: &Snapshot, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    while take() != *before && Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_same(before, &take(), when);
}

#[test]
fn ifupdown_is_told_of_the_bridge_and_told_back() {
    lab(|| {
        let scene = by_ifupdown(STATIC);
        let noted = ifup();
        assert!(noted.contains("eth0=eth0\n") && noted.contains("eth0:1=eth0:1\n"), "{noted}");
        let (before, files) = (take(), [INTERFACES, OFFICES].map(whole));
        let folder = only("/etc/network/interfaces.d");
        // Without it nothing is touched, and everybody is told.
        scene.write(OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by ifupdown", "take-over = true", "external = true"]);
        scene.write(&with_take_over());
        scene.warren("plan").says(
            0,
            &["~ file /etc/network/interfaces.d/office", "    + iface br0 inet static", "on br0 in place of eth0"],
        );
        assert_eq!(files, [INTERFACES, OFFICES].map(whole));
        assert_same(&before, &take(), "after a look");

        let _sshd = sshd(&scene);
        let mut ssh = session(&scene);
        assert_eq!(ssh.ask("before"), "before");
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("the uplink is in br0"), "the uplink is in br0");
        scene.warren("confirm").ends(0);
        assert_eq!(whole(INTERFACES), files[0], "what says nothing of the uplink is not touched");
        let (text, mode, owner, group) = whole(OFFICES);
        assert_eq!((mode, owner, group), (files[1].1, files[1].2, files[1].3));
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("# The office\nauto eth0 br0 br0:1\n"), "{text}");
        assert_eq!(only("/etc/network/interfaces.d"), folder);
        let now = up_by_ifup();
        assert!(now.contains("br0=br0\n") && now.contains("br0:1=br0:1\n") && !now.contains("eth0:1"), "{now}");
        let _guest = serve(&scene, "rest", 80);
        let _host = serve(&scene, "server", 8000);
        let passes = [
            reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"),
            reaches("laptop", "10.0.0.100:8000", "server", "10.0.0.20"),
            reaches("laptop", "10.0.0.101:8000", "server", "10.0.0.20"),
            reaches("laptop", "[2001:db8:a::100]:8000", "server", "2001:db8:a::20"),
            silent("laptop", "10.0.0.109"),
        ];
        all("in br0", &passes[..4]);
        scene.warren("plan --exit-code").ends(0);
        scene.warren("up").says(0, &["Nothing to change"]);
        assert_eq!(String::from_utf8(whole(OFFICES).0).unwrap(), text);

        // What ifup makes of it by itself, from nothing, is what warren made of it, and warren takes it as its own.
        let stands = tool("ip -br address show br0");
        tool("/usr/sbin/ifdown -a --exclude=lo");
        assert!(!tool("ip -br address show br0").contains("10.0.0.100"));
        ifup();
        assert_eq!(tool("ip -br address show br0"), stands);
        scene.warren("plan --exit-code").ends(0);
        all("by ifup", &passes[..4]);

        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        assert_eq!([INTERFACES, OFFICES].map(whole), files);
        assert_eq!(only("/etc/network/interfaces.d"), folder);
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&up_by_ifup()), lines(&noted));
        same(&before, "after down");
        assert!(!scene.folder().join("state/taken-over.json").exists());
    });
}

#[test]
fn a_file_that_somebody_has_written_since_is_left_and_told() {
    lab(|| {
        let scene = by_ifupdown(STATIC);
        ifup();
        let before = take();
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        let edited = format!("{}\n# mine\n", fs::read_to_string(OFFICES).unwrap());
        fs::write(OFFICES, &edited).unwrap();
        scene.warren("plan --exit-code").ends(0);
        let stays = format!("{OFFICES} stays: somebody has written it");
        scene.warren("up").says(0, &[&stays]);
        assert_eq!(fs::read_to_string(OFFICES).unwrap(), edited);
        assert!(up_by_ifup().contains("br0=br0"));
        let told = scene.warren("down").says(0, &[&stays, "what it said before warren stands in"]);
        assert_eq!(fs::read_to_string(OFFICES).unwrap(), edited);
        let path = [told.out, told.err].concat().split("stands in ").nth(1).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(fs::read_to_string(Path::new(&path)).unwrap(), STATIC);
        same(&before, "after down");
        // Links are not followed, and what is not understood is not touched.
        for (text, why) in [
            (format!("{STATIC}\niface eth0 inet6 dhcp\n"), "no dhclient -6"),
            (STATIC.replace("\taddress 10.0.0.100", "\twpa-ssid x\n\taddress 10.0.0.100"), "`wpa-ssid`"),
        ] {
            fs::write(OFFICES, &text).unwrap();
            scene.warren("up").says(5, &["take-over cannot rewrite that", why]);
            assert_eq!(fs::read_to_string(OFFICES).unwrap(), text);
        }
        fs::write("/etc/network/elsewhere", STATIC).unwrap();
        fs::remove_file(OFFICES).unwrap();
        std::os::unix::fs::symlink("/etc/network/elsewhere", OFFICES).unwrap();
        scene.warren("up").says(5, &["is a link to another file"]);
        assert_same(&before, &take(), "after the refusals");
    });
}

/// What the office's router knows of the server's lease: the hardware address, the address, and the client identifier.
pub fn lease(scene: &Scene) -> (String, Vec<String>) {
    let text = fs::read_to_string(scene.folder().join("leases")).unwrap_or_default();
    let line = text.lines().find(|line| line.contains("02:00:00:00:01:64")).unwrap_or_default();
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    (words.first().cloned().unwrap_or_default(), words.into_iter().skip(1).collect())
}

/// The same of its IPv6 lease: until when; the identity association, the address and the DUID.
pub fn lease6(scene: &Scene) -> (String, Vec<String>) {
    let text = fs::read_to_string(scene.folder().join("leases6")).unwrap_or_default();
    let of = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let leases: Vec<Vec<String>> = text.lines().map(of).filter(|words| words.len() == 5).collect();
    assert!(leases.len() <= 1, "one server, one lease: {leases:?}");
    let Some([until, association, address, _, duid]) = leases.first().map(Vec::as_slice) else {
        return (String::new(), Vec::new());
    };
    (until.clone(), vec![association.clone(), address.clone(), duid.clone()])
}

/// Waits until the link has an address by the router's prefix and one that it leased, and a way to the router that the
/// router told of; the lease.
#[track_caller]
pub fn is_learnt(link: &str, scene: &Scene) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leased = lease6(scene).1;
        let addresses = tool(&format!("ip -6 -o address show dev {link} scope global"));
        let routes = tool(&format!("ip -6 route show default dev {link}"));
        let has = |end: &str, what: &str| {
            addresses.lines().any(|line| line.contains(what) && line.contains(end) && !line.contains("tentative"))
        };
        let is_leased = leased.get(1).is_some_and(|address| has("/128", &format!(" {address}/")));
        if is_leased && has("/64", " 2001:db8:a:") && routes.contains("via fe80::") {
            return leased;
        }
        assert!(Instant::now() < deadline, "{link}: {leased:?}\n{addresses}{routes}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

pub fn clients() -> Vec<String> {
    // Its children are called as it is until they run its script.
    let lines = || {
        let mut lines: Vec<String> = kernel::holders::dhclient::all().into_iter().map(|c| c.line.join(" ")).collect();
        lines.dedup();
        lines
    };
    lines()
}

/// Dhclient is nobody's child, and ends with this.
pub struct Clients;

impl Drop for Clients {
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let network = |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).map(|meta| meta.ino()).ok();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "dhclient" && network(&pid.to_string()) == network("self") {
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_raw(pid).unwrap(),
                    rustix::process::Signal::KILL,
                );
            }
        }
    }
}

#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about: {:?}", clients());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_lease_goes_on_by_the_same_client_on_the_bridge() {
    lab(|| {
        let scene = by_ifupdown(LEASED);
        let _clients = Clients;
        let _leases: Running = leases(&scene);
        ifup();
        let (mut until, leased) = lease(&scene);
        let address = leased[1].clone();
        assert!(address.starts_with("10.0.0.1"), "{leased:?}");
        let before = take();
        let files = whole(OFFICES);
        let _sshd = sshd(&scene);
        let mut ssh = crate::support::Talk::open("laptop", &crate::bridged::ssh_line(&scene, &address));
        assert_eq!(ssh.ask("before"), "before");
        // Another second, so that a lease that goes on is seen to.
        let mut renewed = |what: &str| {
            eventually(what, || {
                let (now, same) = lease(&scene);
                assert_eq!(same, leased, "another lease, or another client's");
                now > until
            });
            until = lease(&scene).0;
        };
        std::thread::sleep(std::time::Duration::from_millis(1100));
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("on the bridge"), "on the bridge");
        scene.warren("confirm").ends(0);
        let running = clients();
        assert!(running.len() == 1 && running[0].ends_with(" br0"), "{running:?}");
        renewed("a renewed lease, from the bridge");
        assert!(tool("ip -o -4 address show br0").contains(&format!("{address}/24")));
        assert!(!tool("ip -o -4 address show eth0").contains("inet"));
        let text = String::from_utf8(whole(OFFICES).0).unwrap();
        assert!(text.starts_with("allow-hotplug eth0\nauto br0\n") && text.contains("iface br0 inet dhcp\n"), "{text}");
        scene.warren("plan --exit-code").ends(0);
        scene.warren("up").says(0, &["Nothing to change"]);
        assert_eq!(clients(), running);

        // Between the two: none at all, as where it died; and one on each, as where somebody was killed on the way.
        drop(Clients);
        eventually("its end", || clients().is_empty());
        scene.warren("plan --exit-code").says(3, &["dhclient on br0 in place of eth0"]);
        scene.warren("up").ends(0);
        let is_one = |on: &str| {
            let running = clients();
            assert!(running.len() == 1 && running[0].ends_with(on), "{running:?}");
        };
        is_one(" br0");
        tool("dhclient -nw -4 -i -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases eth0");
        eventually("one on each", || clients().len() == 2);
        scene.warren("up").ends(0);
        is_one(" br0");

        std::thread::sleep(std::time::Duration::from_millis(1100));
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        let running = clients();
        assert!(running.len() == 1 && running[0].ends_with(" eth0"), "{running:?}");
        renewed("a renewed lease, from the interface");
        assert_eq!(whole(OFFICES), files);
        same(&before, "after down");
        assert_eq!(only("/var/lib/dhcp").iter().filter(|name| name.contains("br0")).count(), 0);
    });
}

#[test]
fn a_dhclient_that_nobody_else_runs_goes_on_on_the_bridge() {
    lab(|| {
        let scene = by_ifupdown("# Nothing of the uplink's.\n");
        let (_clients, _leases) = (Clients, leases(&scene));
        tool("ip link set eth0 up");
        tool("dhclient -4 -i -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases eth0");
        settle(&[]);
        let leased = lease(&scene).1;
        let address = leased[1].clone();
        let (before, running) = (take(), clients());
        scene.write(OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by a DHCP client", "take-over = true"]);
        assert_eq!(clients(), running);
        let _sshd = sshd(&scene);
        let mut ssh = crate::support::Talk::open("laptop", &crate::bridged::ssh_line(&scene, &address));
        assert_eq!(ssh.ask("before"), "before");
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        assert_eq!(ssh.ask("on the bridge"), "on the bridge");
        let is_one = |on: &str| {
            let running = clients();
            assert!(running.len() == 1 && running[0].ends_with(on), "{running:?}");
        };
        is_one(" br0");
        assert!(tool("ip -o -4 address show br0").contains(&format!("{address}/24")));
        scene.warren("plan --exit-code").ends(0);
        assert_eq!(fs::read_to_string(OFFICES).unwrap(), "# Nothing of the uplink's.\n");
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        is_one(" eth0");
        assert_eq!(lease(&scene).1, leased, "another lease, or another client's");
        same(&before, "after down");
        // One that is for every interface is nobody's to move.
        drop(Clients);
        eventually("its end", || clients().is_empty());
        tool("dhclient -4 -i -pf /run/dhclient.pid -lf /var/lib/dhcp/dhclient.leases eth0");
        scene.warren("up").says(5, &["take-over cannot rewrite that", "-lf, -pf"]);
    });
}

/// But for how long what was learnt is good for yet.
fn timeless(snapshot: &Snapshot) -> Snapshot {
    let without = |text: &String| {
        let mut parts = text.split("\"expires\":");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    snapshot.iter().map(|(part, text)| (part.clone(), without(text))).collect()
}

/// One that is ended while it runs a script leaves that script behind, and what it does comes after all that we have done.
#[test]
fn what_a_client_has_begun_is_over_before_its_address_moves() {
    lab(|| {
        let scene = by_ifupdown(LEASED);
        let _clients = Clients;
        let _leases: Running = leases(&scene);
        ifup();
        let leased = lease(&scene).1;
        let is_it = "[ \"$interface\" = eth0 ] && [ \"$reason\" != PREINIT ]";
        for (when, what) in [("enter", "echo > /run/begun; sleep 2"), ("exit", "echo > /run/over")] {
            fs::write(format!("/etc/dhcp/dhclient-{when}-hooks.d/slow"), format!("if {is_it}; then {what}; fi\n"))
                .unwrap();
        }
        scene.write(&with_take_over());
        scene.warren("up --confirm 600").ends(0);
        scene.warren("down").ends(0);
        eventually("a script on its way", || fs::exists("/run/begun").unwrap());
        scene.warren("up --confirm 600").ends(0);
        eventually("its end", || fs::exists("/run/over").unwrap());
        let addresses = tool("ip -o -4 address");
        assert!(
            !addresses.contains(" eth0 ") && addresses.contains(&format!("br0    inet {}/24", leased[1])),
            "{addresses}"
        );
        scene.warren("plan --exit-code").ends(0);
        scene.warren("down").ends(0);
        crate::confirm::watchdogs_end(&scene);
    });
}

/// Both families leased, and an address of each that is fixed.
const LEASED6: &str = "auto eth0\niface eth0 inet dhcp\niface eth0 inet6 dhcp\n    up ip -6 address add 2001:db8:a::100/64 \
                       dev eth0 nodad\n";

#[test]
fn a_lease_of_dhcpv6_goes_on_by_the_same_client_on_the_bridge() {
    lab(|| {
        let scene = by_ifupdown(LEASED6);
        let (_clients, _leases, _router) = (Clients, leases(&scene), advertised(&scene));
        ifup();
        let leased = is_learnt("eth0", &scene);
        let (files, before) = (whole(OFFICES), take());
        let running = |on: &str| {
            let running = clients();
            assert_eq!(running.len(), 2, "{running:?}");
            assert!(running.iter().all(|line| line.ends_with(on)), "{running:?}");
            assert!(running.iter().any(|line| line.contains(" -6 ")), "{running:?}");
        };
        running(" eth0");
        let heard = |what: &str| {
            let text = fs::read_to_string(scene.folder().join("heard6")).unwrap();
            assert!(!text.contains("DHCPRELEASE") && !text.contains("DHCPDECLINE"), "{text}");
            text.matches(what).count()
        };
        let _host = serve(&scene, "server", 8000);
        let tries = [
            reaches("laptop", "[2001:db8:a::100]:8000", "server", "2001:db8:a::20"),
            reaches("laptop", &format!("[{}]:8000", leased[1]), "server", "2001:db8:a::20"),
            silent("laptop", "[2001:db8:a::101]:8000"),
        ];
        all("before", &tries);
        let _echo = crate::support::listen("server", "TCP6-LISTEN:7,reuseaddr,fork", "EXEC:cat");
        // By what is fixed, and by what is leased.
        let mut talks = ["2001:db8:a::100", &leased[1]]
            .map(|address| crate::support::Talk::open("laptop", &format!("TCP6:[{address}]:7")));
        let mut talk = |word: &str| talks.iter_mut().for_each(|talk| assert_eq!(talk.ask(word), word));
        talk("before");
        scene.write(OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by ifupdown", "take-over = true"]);
        let confirmed = heard("DHCPCONFIRM");
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        talk("on the bridge");
        running(" br0");
        eventually("a lease that is asked about, from the bridge", || heard("DHCPCONFIRM") > confirmed);
        assert_eq!(is_learnt("br0", &scene), leased, "another lease, or another client's");
        assert!(!tool("ip -6 -o address show dev eth0 scope global").contains("2001:"));
        let fixed = "inet6 2001:db8:a::100/64 scope global";
        let text = tool("ip -6 -o address show dev br0");
        assert!(text.lines().any(|line| line.contains(fixed) && line.contains("valid_lft forever")), "{text}");
        all("on the bridge", &tries);
        let text = String::from_utf8(whole(OFFICES).0).unwrap();
        assert!(text.contains("iface br0 inet6 dhcp\n"), "{text}");
        scene.warren("plan --exit-code").ends(0);

        // Killed while what is fixed was kept from it: the next one has it be fixed again.
        drop(Clients);
        eventually("its end", || clients().is_empty());
        tool("ip -6 address change 2001:db8:a::100/64 dev br0 valid_lft 2147483647 preferred_lft 2147483647 nodad");
        scene.warren("plan --exit-code").says(3, &["dhclient -6 on br0 in place of eth0"]);
        scene.warren("up").ends(0);
        running(" br0");
        let text = tool("ip -6 -o address show dev br0");
        assert!(text.lines().any(|line| line.contains(fixed) && line.contains("valid_lft forever")), "{text}");

        let confirmed = heard("DHCPCONFIRM");
        scene.warren("down").ends(0);
        talk("and back");
        running(" eth0");
        eventually("a lease that is asked about, from the interface", || heard("DHCPCONFIRM") > confirmed);
        assert_eq!(is_learnt("eth0", &scene), leased, "another lease, or another client's");
        all("and back", &tries);
        assert_eq!(whole(OFFICES), files);
        let now = || timeless(&take());
        eventually("what was before", || now() == timeless(&before));
        assert_eq!(only("/var/lib/dhcp").iter().filter(|name| name.contains("br0")).count(), 0);
        assert_eq!(heard("DHCPSOLICIT"), 1);
    });
}

#[test]
fn other_dhcp_clients_are_found_and_told_of_the_bridge() {
    lab(|| {
        let scene = by_ifupdown("# Nothing of the uplink's.\n");
        let _leases = leases(&scene);
        tool("ip link set eth0 up");
        settle(&[]);
        let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/dhcpcd").canonicalize();
        let dhcpcd = unpacked.expect("`cargo xtask test` unpacks dhcpcd").join("usr/sbin/dhcpcd");
        tool("mount -t tmpfs tmpfs /var/lib");
        fs::create_dir("/var/lib/dhcpcd").unwrap();
        // As Debian's package has it set the address: without an end.
        let script = "#!/bin/sh\n[ \"$1\" = bound ] && ip address add \"$ip/$mask\" dev \"$interface\"\n";
        fs::write("/run/bound", script).unwrap();
        fs::set_permissions("/run/bound", fs::Permissions::from_mode(0o755)).unwrap();
        let with = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let running = Running::start(&mut command);
            eventually(program, || tool("ip -4 -o address show dev eth0").contains("10.0.0.1"));
            running
        };
        let is_refused = || {
            let before = tool("ip -br address");
            scene.write(OFFICE);
            let said = ["eth0 is configured by a DHCP client", "let the DHCP client run on br0", "take-over = true"];
            scene.warren("up").says(5, &said);
            scene.write(&with_take_over());
            scene.warren("up").says(5, &["take-over cannot rewrite that", "of DHCP clients only dhclient is moved"]);
            assert_eq!(tool("ip -br address"), before);
        };
        let udhcpc = with("busybox", &["udhcpc", "-f", "-i", "eth0", "-s", "/run/bound"]);
        is_refused();
        // Beside it, the same without one goes.
        drop(udhcpc);
        scene.write(&with_take_over());
        scene.warren("plan").ends(0);
        tool("ip address flush dev eth0");
        let _dhcpcd = with(&dhcpcd.display().to_string(), &["-4", "-B", "--script", "/bin/true", "eth0"]);
        is_refused();
    });
}
