//! `[host] take-over`: the real systemd-networkd, told of the bridge in the uplink's place, and told back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bridged::{Transfer, advertised, leases, office, session, ssh_line, sshd};
use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{PATIENCE, Running, Scene, Talk, all, reaches, serve, silent};
use crate::takeover::{is_learnt, lease, lease6, only, same, whole, with_take_over};

pub const FOLDER: &str = "/etc/systemd/network";
const FOLLOWED: &str = "/etc/systemd/network/20-office.network";
pub const STATIC: &str = "# The office\n[Match]\nName=eth0\n\n[Network]\nAddress=10.0.0.100/24\nAddress=2001:db8:a::100/64\n\
                      Gateway=10.0.0.1\nGateway=2001:db8:a::1\nIPv6AcceptRA=no\nIPv6DuplicateAddressDetection=0\n\n\
                      [Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.1\n";
/// By its hardware address, which its bridge has, too.
pub const LEASED: &str = "[Match]\nMACAddress=02:00:00:00:01:64\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n";
/// Its IPv6 learnt from the office's router, and leased besides.
const LEARNT: &str = "[Match]\nType=ether\n\n[Network]\nAddress=10.0.0.100/24\nGateway=10.0.0.1\nIPv6AcceptRA=yes\n\
                      DHCP=ipv6\n";
/// As cloud-init writes it.
const NETPLAN: &str = "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true\n      accept-ra: false\n      \
                       match:\n        macaddress: \"02:00:00:00:01:64\"\n      set-name: eth0\n";
pub const YAML: &str = "/etc/netplan/50-cloud-init.yaml";

/// systemd-networkd and the bus that it is spoken to over; they end with it.
pub struct Networkd {
    networkd: Option<Running>,
    _bus: Running,
    _leases: Running,
    heard: PathBuf,
}

/// The office, whose server has what networkd makes of `text`.
pub fn by_networkd(text: &str) -> (Scene, Networkd) {
    configured(|| fs::write(FOLLOWED, text).unwrap())
}

/// As a boot does it: what netplan makes of `text`.
pub fn generate(text: &str) {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/netplan").canonicalize();
    let unpacked = unpacked.expect("`cargo xtask test` unpacks netplan");
    fs::create_dir_all("/etc/netplan").unwrap();
    fs::write(YAML, text).unwrap();
    fs::set_permissions(YAML, fs::Permissions::from_mode(0o600)).unwrap();
    let mut generate = Command::new(unpacked.join("usr/libexec/netplan/generate"));
    let library = fs::read_dir(unpacked.join("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    let library = library.map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let ran = generate.env("LD_LIBRARY_PATH", library).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

/// The same, told by netplan, whose generator runs before networkd at a boot.
fn by_netplan() -> (Scene, Networkd) {
    configured(|| {
        generate(NETPLAN);
        // A veth has no permanent address: it is matched as by earlier netplans, by the one that its bridge has, too.
        let made = "/run/systemd/network/10-netplan-eth0.network";
        let text = fs::read_to_string(made).unwrap();
        assert!(text.starts_with("[Match]\nPermanentMACAddress=02:00:00:00:01:64\nName=eth0\n"), "{text}");
        fs::write(made, text.replace("Permanent", "").replace("Name=eth0\n", "")).unwrap();
    })
}

fn configured(write: impl FnOnce()) -> (Scene, Networkd) {
    configured_beside(write, |_| ())
}

/// Beside what else is there when networkd begins.
fn configured_beside(write: impl FnOnce(), beside: impl FnOnce(&Scene)) -> (Scene, Networkd) {
    let scene = office();
    beside(&scene);
    fs::create_dir_all("/run/etc/upper").unwrap();
    fs::create_dir_all("/run/etc/work").unwrap();
    tool("mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc");
    // What the office said by hand is networkd's to say.
    for line in ["ip address flush dev eth0 scope global", "ip -6 route flush dev eth0", "ip link set eth0 down"] {
        tool(line);
    }
    fs::create_dir_all(FOLDER).unwrap();
    write();
    fs::create_dir_all("/run/dbus").unwrap();
    let mut bus = Command::new("dbus-daemon");
    bus.args(["--system", "--nofork", "--nopidfile"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let bus = Running::start(&mut bus);
    eventually("a bus", || Path::new("/run/dbus/system_bus_socket").exists());
    // As its unit has systemd make it.
    tool(
        "install -d -o systemd-network -g systemd-network /run/systemd/netif /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp",
    );
    let leases = leases(&scene);
    let heard = PathBuf::from("/run/networkd.log");
    let networkd = Networkd { networkd: Some(start(&heard)), _bus: bus, _leases: leases, heard };
    eventually("a configured eth0", || state("eth0").0 == "configured");
    (scene, networkd)
}

/// Where /sys is not to be written, nobody waits for udev, which a container has none of.
fn start(heard: &Path) -> Running {
    let mut command = Command::new("unshare");
    let line = "mount --bind /sys /sys && mount -o remount,bind,ro /sys && exec /lib/systemd/systemd-networkd";
    command.args(["--mount", "sh", "-c", line]).env("SYSTEMD_LOG_LEVEL", "debug").env("SYSTEMD_LOG_TARGET", "console");
    Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(heard).unwrap()))
}

/// What networkd notes of a link: its state, and what it follows.
pub fn state(link: &str) -> (String, String) {
    let index = tool(&format!("ip -o link show {link}")).split(':').next().unwrap().to_owned();
    let path = format!("/run/systemd/netif/links/{index}");
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().to_owned();
    (value("ADMIN_STATE="), value("NETWORK_FILE="))
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What becomes of an address, as the kernel tells it.
struct Watch {
    monitor: Option<Running>,
    path: PathBuf,
    address: String,
    on: String,
}

impl Networkd {
    /// As a boot does it: from nothing but its files.
    fn boots(&mut self) {
        self.networkd = None;
        let _ = fs::remove_dir_all("/run/systemd/network");
        for folder in ["links", "leases"] {
            for entry in fs::read_dir(format!("/run/systemd/netif/{folder}")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        tool("ip link set eth0 down");
        tool("ip address flush dev eth0");
        tool("ip link delete br0");
        self.networkd = Some(start(&self.heard));
        eventually("br0", || tool("ip -br link").contains("br0 "));
        eventually("a configured br0", || state("br0").0 == "configured" && state("eth0").0 == "configured");
    }
}

impl Drop for Networkd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let heard = fs::read_to_string(&self.heard).unwrap_or_default();
            let lines: Vec<&str> = heard.lines().collect();
            eprintln!("networkd says:\n{}", lines[lines.len().saturating_sub(400)..].join("\n"));
            eprintln!("{}{}", tool("ip address"), tool("ip route"));
        }
    }
}

impl Watch {
    /// `on` is where it is at first.
    fn begin(scene: &Scene, address: &str, on: &str) -> Self {
        let path = scene.folder().join("addresses");
        let mut ip = Command::new("ip");
        ip.args(["-o", "-4", "monitor", "address"]).stdin(Stdio::null()).stdout(File::create(&path).unwrap());
        let monitor = Running::start(&mut ip);
        let watch = Self { monitor: Some(monitor), path, address: format!(" {address}/"), on: on.to_owned() };
        watch.hears("192.0.2.1");
        watch
    }

    fn hears(&self, sign: &str) {
        eventually("a monitor", || {
            tool(&format!("ip address add {sign}/32 dev lo"));
            tool(&format!("ip address delete {sign}/32 dev lo"));
            fs::read_to_string(&self.path).unwrap().contains(sign)
        });
    }

    /// That it was on some link at all times, and is on that one now alone.
    #[track_caller]
    fn ends(mut self, at_last: &str) {
        self.hears("192.0.2.2");
        drop(self.monitor.take());
        let text = fs::read_to_string(&self.path).unwrap();
        let mut on = BTreeSet::from([self.on.clone()]);
        for line in text.lines().filter(|line| line.contains(&self.address)) {
            let (gone, rest) = line.strip_prefix("Deleted ").map_or((false, line), |rest| (true, rest));
            let link = rest.split_whitespace().nth(1).unwrap().to_owned();
            if gone {
                on.remove(&link)
            } else {
                on.insert(link)
            };
            assert!(!on.is_empty(), "there was a moment without it: {text}");
        }
        assert_eq!(on, BTreeSet::from([at_last.to_owned()]), "{text}");
    }
}

#[test]
fn networkd_is_told_of_the_bridge_and_told_back() {
    lab(|| {
        let (scene, mut networkd) = by_networkd(STATIC);
        let (before, file, folder) = (take(), whole(FOLLOWED), only(FOLDER));
        // Without it nothing is touched, and everybody is told.
        scene.write(crate::bridged::OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by systemd-networkd", "take-over = true", "Kind=bridge"]);
        scene.write(&with_take_over());
        scene
            .warren("plan")
            .says(0, &["+ file /etc/systemd/network/05-br0.netdev", "systemd-networkd on br0 in place of eth0"]);
        assert_same(&before, &take(), "after a look");

        let _sshd = sshd(&scene);
        let mut ssh = session(&scene);
        assert_eq!(ssh.ask("before"), "before");
        let watch = Watch::begin(&scene, "10.0.0.100", "eth0");
        let transfer = Transfer::start();
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("the uplink is in br0"), "the uplink is in br0");
        scene.warren("confirm").ends(0);
        transfer.end("systemd-networkd, up");
        watch.ends("br0");
        assert_eq!(whole(FOLLOWED), file, "others may follow it");
        assert_eq!(state("br0").1, "/etc/systemd/network/05-br0.network");
        assert_eq!(state("eth0"), ("configured".to_owned(), "/etc/systemd/network/05-br0.port.network".to_owned()));
        let _guest = serve(&scene, "rest", 80);
        let _host = serve(&scene, "server", 8000);
        let passes = [
            reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"),
            reaches("laptop", "10.0.0.100:8000", "server", "10.0.0.20"),
            reaches("laptop", "[2001:db8:a::100]:8000", "server", "2001:db8:a::20"),
            silent("laptop", "10.0.0.109"),
        ];
        all("in br0", &passes);
        scene.warren("plan --exit-code").ends(0);
        scene.warren("up").says(0, &["Nothing to change"]);

        // What networkd makes of it by itself, from nothing, warren takes as its own.
        networkd.boots();
        let stands = tool("ip -br address show br0");
        assert!(stands.contains("10.0.0.100/24") && stands.contains("2001:db8:a::100/64"), "{stands}");
        assert!(!tool("ip -o -4 address show eth0").contains("inet"));
        all("by networkd", &passes[1..3]);
        scene.warren("up").ends(0);
        assert_eq!(tool("ip -br address show br0"), stands);
        scene.warren("confirm");
        scene.warren("plan --exit-code").ends(0);
        all("by networkd", &passes);
        assert_eq!(ssh.ask("by networkd"), "by networkd");

        let watch = Watch::begin(&scene, "10.0.0.100", "br0");
        let transfer = Transfer::start();
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        transfer.end("systemd-networkd, down");
        watch.ends("eth0");
        assert_eq!((whole(FOLLOWED), only(FOLDER)), (file, folder));
        same(&before, "after down");
        assert_eq!(only("/run/systemd/network"), Vec::<String>::new());
        assert!(!scene.folder().join("state/taken-over.json").exists());
        // And again, before networkd has read its files anew; and where it has stopped meanwhile.
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        assert_eq!(state("br0").1, "/etc/systemd/network/05-br0.network");
        scene.warren("down").ends(0);
        same(&before, "after another down");
        // Nor where another file would be followed on the bridge.
        let other = "/etc/systemd/network/01-bridges.network";
        fs::write(other, "[Match]\nName=br*\n\n[Network]\nLLDP=no\n").unwrap();
        scene.warren("up").says(5, &["take-over cannot rewrite that", "01-bridges.network may fit br0, too"]);
        fs::remove_file(other).unwrap();
        networkd.networkd = None;
        scene.warren("up").says(5, &["take-over cannot rewrite that", "systemd-networkd does not run"]);
        same(&before, "after the refusal");
    });
}

#[test]
fn a_lease_of_networkds_goes_on_on_the_bridge() {
    lab(|| {
        let (scene, _networkd) = by_netplan();
        let (mut until, leased) = lease(&scene);
        let address = leased[1].clone();
        let before = take();
        let _sshd = sshd(&scene);
        let mut ssh = Talk::open("laptop", &ssh_line(&scene, &address));
        assert_eq!(ssh.ask("before"), "before");
        let mut renewed = |what: &str| {
            eventually(what, || {
                let (now, same) = lease(&scene);
                assert_eq!(same, leased, "another lease, or another client's");
                now > until
            });
            until = lease(&scene).0;
        };
        scene.write(crate::bridged::OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by netplan", "take-over = true", "interfaces: [eth0]"]);
        std::thread::sleep(Duration::from_millis(1100));
        let watch = Watch::begin(&scene, &address, "eth0");
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("on the bridge"), "on the bridge");
        scene.warren("confirm").ends(0);
        assert_eq!(state("br0").1, "/etc/systemd/network/05-br0.network");
        assert_eq!(fs::read_to_string(YAML).unwrap(), NETPLAN);
        renewed("a renewed lease, from the bridge");
        watch.ends("br0");
        scene.warren("plan --exit-code").ends(0);
        std::thread::sleep(Duration::from_millis(1100));
        let watch = Watch::begin(&scene, &address, "br0");
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        renewed("a renewed lease, from the interface");
        watch.ends("eth0");
        // That it ends is networkd's to see to, and no more the kernel's, until it reads its files again.
        let mut unended = before.clone();
        unended.insert("addresses".to_owned(), before["addresses"].replace("\"dynamic\":true,", ""));
        same(&unended, "after down");
        let heard = fs::read_to_string(scene.folder().join("heard")).unwrap();
        assert!(heard.contains("DHCPACK") && !heard.contains("DHCPRELEASE"), "{heard}");
    });
}

/// As images for clouds have it: whatever comes is asked for a lease.
const ALL: &str = "[Match]\nName=e* b* r* f* l*\n\n[Network]\nDHCP=yes\n";
const NAT: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24"]
taps = ["left"]
[guest.rest]
kind = "netns"
address = ["10.1.1.5"]
limit = "100mbit"
"#;

#[test]
fn networkd_leaves_links_of_ours_alone_whatever_else_it_is_told() {
    lab(|| {
        let (scene, networkd) = configured(|| fs::write(FOLLOWED, ALL).unwrap());
        let before = take();
        // What it does with a bridge that nobody tells it to leave alone.
        tool("ip link add br9 up type bridge");
        tool("ip link add right0 up type veth peer name left0");
        tool("ip link set left0 up master br9");
        eventually("its bridge", || state("br9") == ("configuring".to_owned(), FOLLOWED.to_owned()));
        let asked = |link: &str| {
            let heard = fs::read_to_string(&networkd.heard).unwrap();
            heard.lines().any(|line| line.starts_with(&format!("{link}: ")) && line.contains("DHCPv4 client: STARTED"))
        };
        eventually("its client", || asked("br9"));
        for link in ["br9", "right0"] {
            tool(&format!("ip link delete {link}"));
        }
        let is_left = || {
            let links = tool("ip -br link");
            let ours = ["br1", "rest", "left", "ifb-rest"];
            for link in ours {
                assert!(links.contains(&format!("{link} ")) || links.contains(&format!("{link}@")), "{link}: {links}");
                eventually(link, || state(link) == ("unmanaged".to_owned(), String::new()));
                assert!(!asked(link), "{link}");
            }
            assert_eq!(state("eth0").1, FOLLOWED);
        };
        scene.up(NAT, &["rest"]);
        is_left();
        scene.warren("plan --exit-code").ends(0);
        let _guest = serve(&scene, "rest", 80);
        let passes = [reaches("server", "10.1.1.5", "rest", "10.1.1.1"), silent("laptop", "10.1.1.5")];
        all("beside networkd", &passes);
        // Nor where it begins anew, or is told of something else; and a guest more is told of before it is there.
        tool("busctl call org.freedesktop.network1 /org/freedesktop/network1 org.freedesktop.network1.Manager Reload");
        is_left();
        let more = format!("{NAT}[guest.fresh]\nkind = \"netns\"\naddress = [\"10.1.1.6\"]\n");
        scene.up(&more, &["rest", "fresh"]);
        eventually("fresh", || state("fresh").0 == "unmanaged");
        assert!(!asked("fresh"));
        is_left();
        all("with one more", &passes);
        scene.warren("down").ends(0);
        assert_eq!(only("/run/systemd/network"), Vec::<String>::new());
        same(&before, "after down");
    });
}

#[test]
fn what_networkd_learnt_of_a_router_goes_with_the_uplink() {
    lab(|| {
        let mut router = None;
        let (scene, _networkd) =
            configured_beside(|| fs::write(FOLLOWED, LEARNT).unwrap(), |scene| router = Some(advertised(scene)));
        let _host = serve(&scene, "server", 8000);
        let leased = is_learnt("eth0", &scene);
        let tries = [
            reaches("laptop", "[2001:db8:a::ff:fe00:164]:8000", "server", "2001:db8:a::20"),
            reaches("laptop", &format!("[{}]:8000", leased[1]), "server", "2001:db8:a::20"),
            silent("laptop", "[2001:db8:a::ff:fe00:165]:8000"),
        ];
        all("before", &tries);
        let until = lease6(&scene).0;
        std::thread::sleep(Duration::from_millis(1100));
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        assert_eq!(state("br0").1, "/etc/systemd/network/05-br0.network");
        assert_eq!(is_learnt("br0", &scene), leased, "another lease, or another client's");
        assert!(!tool("ip -6 -o address show dev eth0 scope global").contains("2001:"));
        all("on the bridge", &tries);
        eventually("a renewed lease, from the bridge", || lease6(&scene).0 > until);
        let until = lease6(&scene).0;
        std::thread::sleep(Duration::from_millis(1100));
        scene.warren("down").ends(0);
        assert_eq!(is_learnt("eth0", &scene), leased, "another lease, or another client's");
        all("and back", &tries);
        eventually("a renewed lease, from the interface", || lease6(&scene).0 > until);
        assert_eq!(is_learnt("eth0", &scene), leased, "another lease, or another client's");
        drop(router);
    });
}
