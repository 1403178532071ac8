//! `[host] take-over` of the real NetworkManager, told of the bridge in the uplink's place, and told back.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kernel::holders::networkmanager::process;
use rustix::process::{Signal, kill_process};

use crate::bridged::{OFFICE, Transfer, advertised, leases, office, ssh_line, sshd};
use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::foreign::bus;
use crate::networkd::{YAML, generate};
use crate::support::{PATIENCE, Running, Scene, Talk, all, reaches, serve, silent};
use crate::takeover::{eventually, is_learnt, lease, same, whole, with_take_over};

pub const FILE: &str = "/etc/NetworkManager/system-connections/office.nmconnection";
const PORT: &str = "/etc/NetworkManager/system-connections/br0-eth0.nmconnection";
/// The office's own way: a lease, further addresses that are fixed, and one that nobody could guess.
pub const LEASED: &str = "[connection]\nid=office\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\n\
                          interface-name=eth0\n\n[ethernet]\nwake-on-lan=0\n\n[ipv4]\nmethod=auto\naddress1=10.0.0.100/24\n\
                          route1=10.9.0.0/16,10.0.0.1\n\n[ipv6]\naddr-gen-mode=stable-privacy\nmethod=manual\n\
                          address1=2001:db8:a::100/64,2001:db8:a::1\n";

/// All of its IPv6 learnt from the office's router, and leased besides.
const LEARNT: &str = "[connection]\nid=office\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\ninterface-name=eth0\n\n\
                      [ipv4]\nmethod=manual\naddress1=10.0.0.100/24,10.0.0.1\n\n[ipv6]\naddr-gen-mode=stable-privacy\n\
                      method=auto\n";

/// NetworkManager is nobody's child once warren has begun it anew, and ends with this.
pub struct Daemon {
    _bus: Running,
}

impl Daemon {
    /// As a boot begins it: once no other is on the bus.
    pub fn begin() {
        let gone = || !Command::new("nmcli").args(["-t", "general"]).output().unwrap().status.success();
        eventually("its end", gone);
        let mut command = Command::new("/usr/sbin/NetworkManager");
        command.arg("--no-daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(drop).unwrap();
    }

    pub fn end() {
        let deadline = Instant::now() + PATIENCE;
        while let Some((pid, _)) = process() {
            let _ = kill_process(pid, Signal::KILL);
            assert!(Instant::now() < deadline, "NetworkManager does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        Self::end();
    }
}

/// The office, whose server NetworkManager configures by `text`, from Debian's packages as `cargo xtask test` unpacks
/// them, laid over this lab's own view of the machine's files; what the office said by hand is its to say.
pub fn by_networkmanager(text: &str) -> (Scene, Daemon, Running) {
    by_networkmanager_beside(text, |_| ())
}

/// Beside what else is there when it begins.
fn by_networkmanager_beside(text: &str, beside: impl FnOnce(&Scene)) -> (Scene, Daemon, Running) {
    let write = || {
        fs::write(FILE, text).unwrap();
        fs::set_permissions(FILE, fs::Permissions::from_mode(0o600)).unwrap();
    };
    told(write, "office", beside)
}

/// Told by netplan, whose generator runs before it at a boot.
fn by_netplan(text: &str) -> (Scene, Daemon, Running) {
    told(|| generate(text), "netplan-eth0", |_| ())
}

/// What `write` leaves it to make of the uplink, a connection of that name.
fn told(write: impl FnOnce(), name: &str, beside: impl FnOnce(&Scene)) -> (Scene, Daemon, Running) {
    let scene = office();
    beside(&scene);
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/networkmanager").canonicalize();
    let unpacked = unpacked.expect("`cargo xtask test` unpacks networkmanager").display().to_string();
    for folder in ["upper", "work"] {
        fs::create_dir_all(format!("/run/etc/{folder}")).unwrap();
    }
    let over = "upperdir=/run/etc/upper,workdir=/run/etc/work";
    tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/etc:/etc,{over} /etc"));
    tool(&format!("mount -t overlay overlay -o lowerdir={unpacked}/usr:/usr /usr"));

    tool("mount -t tmpfs tmpfs /var/lib");
    fs::create_dir("/var/lib/NetworkManager").unwrap();
    // Where it may not write there, no udev is waited for.
    tool("mount -t sysfs -o ro sysfs /sys");
    for line in ["ip address flush dev eth0 scope global", "ip -6 route flush dev eth0", "ip link set eth0 down"] {
        tool(line);
    }
    let config = "[main]\nplugins=keyfile\nauth-polkit=false\ndns=none\nrc-manager=unmanaged\n";
    fs::write("/etc/NetworkManager/NetworkManager.conf", config).unwrap();
    write();
    let (daemon, leases) = (Daemon { _bus: bus(&scene) }, leases(&scene));
    Daemon::begin();
    is_active(name, "eth0");
    (scene, daemon, leases)
}

/// What is active, each with its device.
pub fn active() -> Vec<String> {
    let mut nmcli = Command::new("nmcli");
    let ran = nmcli.args(["-t", "-f", "NAME,DEVICE,STATE", "connection", "show", "--active"]).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    text.lines().filter(|line| !line.starts_with("lo:")).map(str::to_owned).collect()
}

#[track_caller]
pub fn is_active(name: &str, device: &str) {
    let wanted = format!("{name}:{device}:activated");
    let deadline = Instant::now() + PATIENCE;
    while !active().contains(&wanted) {
        assert!(Instant::now() < deadline, "{wanted} did not come about: {:?}", active());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Addresses, and the routes but for those that come of addresses by themselves.
fn stands_on(link: &str) -> String {
    let word = |line: &str, nth: usize| line.split_whitespace().nth(nth).unwrap_or_default().to_owned();
    let addresses = tool(&format!("ip -o address show dev {link}"));
    let mut lines: Vec<String> = addresses.lines().map(|line| word(line, 3)).collect();
    let routes = [tool(&format!("ip route show dev {link}")), tool(&format!("ip -6 route show dev {link}"))].concat();
    lines.extend(routes.lines().filter(|line| !line.contains("proto kernel")).map(|line| line.trim().to_owned()));
    lines.sort();
    lines.join("\n")
}

#[test]
fn networkmanager_is_told_of_the_bridge_and_told_back() {
    lab(|| {
        let (scene, _daemon, _leases) = by_networkmanager(LEASED);
        eventually("a lease", || !lease(&scene).1.is_empty() && tool("ip -4 route").contains("default"));
        let leased = lease(&scene).1;
        let address = leased[1].clone();
        crate::support::settle(&[]);
        let (before, file) = (take(), whole(FILE));
        // Without it nothing is touched, and everybody is told.
        scene.write(OFFICE);
        scene.warren("up").says(5, &["eth0 is configured by NetworkManager", "take-over = true", "external = true"]);
        scene.write(&with_take_over());
        scene.warren("plan").says(
            0,
            &[
                "~ file /etc/NetworkManager/system-connections/office",
                "    + type=bridge",
                "NetworkManager on br0 in place of eth0",
            ],
        );
        assert_eq!(whole(FILE), file);
        assert_same(&before, &take(), "after a look");

        let _sshd = sshd(&scene);
        let mut ssh = Talk::open("laptop", &ssh_line(&scene, &address));
        assert_eq!(ssh.ask("before"), "before");
        let transfer = Transfer::start();
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("the uplink is in br0"), "the uplink is in br0");
        scene.warren("confirm").ends(0);
        is_active("office", "br0");
        is_active("br0-eth0", "eth0");
        transfer.end("NetworkManager, up");
        let made = active().iter().filter(|line| line.starts_with("Wired connection")).count();
        assert_eq!(made, 0, "nothing is asked for a lease on a guest's cable: {:?}", active());
        let (text, mode, owner, group) = whole(FILE);
        assert_eq!((mode, owner, group), (file.1, file.2, file.3));
        assert_eq!(whole(PORT).1 & 0o7777, 0o600, "NetworkManager passes by what others may read");
        let (_guest, _host) = (serve(&scene, "rest", 80), serve(&scene, "server", 8000));
        let passes = [
            reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"),
            reaches("laptop", "10.0.0.100:8000", "server", "10.0.0.20"),
            reaches("laptop", "[2001:db8:a::100]:8000", "server", "2001:db8:a::20"),
            silent("laptop", "10.0.0.109"),
        ];
        all("in br0", &passes[..3]);
        scene.warren("plan --exit-code").ends(0);
        scene.warren("up").says(0, &["Nothing to change"]);
        let stands = stands_on("br0");
        assert!(
            stands.contains(&format!("{address}/24")) && !tool("ip -o -4 address show eth0").contains("inet"),
            "{stands}"
        );

        // Where it does not run, it is begun anew; what stands meanwhile stays.
        Daemon::end();
        scene.warren("plan --exit-code").says(3, &["NetworkManager on br0 in place of eth0"]);
        scene.warren("up").ends(0);
        is_active("office", "br0");
        assert_eq!(stands_on("br0"), stands);
        assert_eq!(ssh.ask("begun anew"), "begun anew");

        // What it makes of it by itself, from nothing, is what warren made of it, and warren takes it as its own.
        Daemon::end();
        for line in ["ip link delete br0", "ip address flush dev eth0", "ip link set eth0 down"] {
            tool(line);
        }
        fs::remove_dir_all("/run/NetworkManager").unwrap();
        Daemon::begin();
        is_active("office", "br0");
        let index = || tool("ip -o link show br0").split(':').next().unwrap().to_owned();
        let by_itself = index();
        scene.warren("up").ends(0);
        scene.warren("plan --exit-code").ends(0);
        assert_eq!(index(), by_itself);
        // One by its hardware address it has besides, which only a boot takes away.
        tool("ip -6 address delete fe80::ff:fe00:164/64 dev br0");
        assert_eq!(stands_on("br0"), stands);
        all("by NetworkManager", &passes[..3]);
        assert_eq!(lease(&scene).1, leased, "another lease, or another client's");

        assert_eq!(whole(FILE).0, text);
        let mut ssh = Talk::open("laptop", &ssh_line(&scene, &address));
        assert_eq!(ssh.ask("on the bridge"), "on the bridge");
        let transfer = Transfer::start();
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        transfer.end("NetworkManager, down");
        assert_eq!(whole(FILE), file);
        assert!(!Path::new(PORT).exists());
        is_active("office", "eth0");
        assert_eq!(lease(&scene).1, leased);
        same(&before, "after down");
        assert!(!scene.folder().join("state/taken-over.json").exists());
        // What a bridge cannot have is not touched.
        let odd = LEASED.replace("wake-on-lan=0", "cloned-mac-address=random");
        fs::write(FILE, &odd).unwrap();
        scene.warren("up").says(5, &["take-over cannot rewrite that", "`cloned-mac-address=random`"]);
        assert_eq!(fs::read_to_string(FILE).unwrap(), odd);
        fs::remove_file(FILE).unwrap();
        fs::write("/run/NetworkManager/system-connections/office.nmconnection", LEASED).unwrap();
        scene.warren("up").says(5, &["take-over cannot rewrite that", "was written by another program"]);
        assert_same(&before, &take(), "after the refusals");
    });
}

#[test]
fn what_networkmanager_learnt_of_a_router_goes_with_the_uplink() {
    lab(|| {
        let mut router = None;
        let (scene, _daemon, _leases) = by_networkmanager_beside(LEARNT, |scene| router = Some(advertised(scene)));
        let leased = is_learnt("eth0", &scene);
        let _host = serve(&scene, "server", 8000);
        let address = |link: &str| {
            let addresses = tool(&format!("ip -6 -o address show dev {link} scope global"));
            let of = |line: &str| line.split_whitespace().nth(3)?.strip_suffix("/64").map(str::to_owned);
            addresses.lines().find_map(of).unwrap()
        };
        let formed = address("eth0");
        let tries = [
            reaches("laptop", &format!("[{formed}]:8000"), "server", "2001:db8:a::20"),
            reaches("laptop", &format!("[{}]:8000", leased[1]), "server", "2001:db8:a::20"),
            silent("laptop", "[2001:db8:a::ff:fe00:165]:8000"),
        ];
        all("before", &tries);
        scene.up(&with_take_over(), &["rest"]);
        scene.warren("confirm").ends(0);
        is_active("office", "br0");
        assert_eq!((is_learnt("br0", &scene), address("br0")), (leased.clone(), formed.clone()));
        assert!(!tool("ip -6 -o address show dev eth0 scope global").contains("2001:"));
        all("on the bridge", &tries);
        scene.warren("plan --exit-code").ends(0);
        scene.warren("down").ends(0);
        is_active("office", "eth0");
        assert_eq!((is_learnt("eth0", &scene), address("eth0")), (leased, formed));
        all("and back", &tries);
        let heard = fs::read_to_string(scene.folder().join("heard6")).unwrap();
        assert!(heard.contains("DHCPREPLY") && !heard.contains("DHCPRELEASE"), "{heard}");
        drop(router);
    });
}

/// What netplan tells it: a lease, and what is fixed besides.
const NETPLAN: &str = "network:\n  version: 2\n  renderer: NetworkManager\n  ethernets:\n    eth0:\n      dhcp4: true\n      \
                       addresses: [10.0.0.100/24, \"2001:db8:a::100/64\"]\n      routes: [{ to: 10.9.0.0/16, via: 10.0.0.1 }]\n";
const BRIDGE: &str = "/etc/NetworkManager/system-connections/br0.nmconnection";

#[test]
fn what_netplan_tells_networkmanager_is_told_of_the_bridge_and_told_back() {
    lab(|| {
        let (scene, _daemon, _leases) = by_netplan(NETPLAN);
        eventually("a lease", || !lease(&scene).1.is_empty() && tool("ip -4 route").contains("default"));
        let leased = lease(&scene).1;
        let address = leased[1].clone();
        crate::support::settle(&[]);
        let made = "/run/NetworkManager/system-connections/netplan-eth0.nmconnection";
        let (before, files) = (take(), [YAML, made].map(whole));
        scene.write(OFFICE);
        let said = ["eth0 is configured by netplan", "take-over = true", "interfaces: [eth0]"];
        scene.warren("up").says(5, &said);
        scene.write(&with_take_over());
        scene.warren("plan").says(0, &["+ file /etc/NetworkManager/system-connections/br0.nmconnection"]);
        assert_same(&before, &take(), "after a look");

        let _sshd = sshd(&scene);
        let mut ssh = Talk::open("laptop", &ssh_line(&scene, &address));
        assert_eq!(ssh.ask("before"), "before");
        let transfer = Transfer::start();
        scene.up(&with_take_over(), &["rest"]);
        assert_eq!(ssh.ask("the uplink is in br0"), "the uplink is in br0");
        scene.warren("confirm").ends(0);
        let stands = || {
            is_active("br0", "br0");
            is_active("br0-eth0", "eth0");
            assert_eq!([YAML, made].map(whole), files);
            assert_eq!(lease(&scene).1, leased, "another lease, or another client's");
            assert!(!tool("ip -o -4 address show eth0").contains("inet"));
        };
        stands();
        transfer.end("netplan and NetworkManager, up");
        let (_guest, _host) = (serve(&scene, "rest", 80), serve(&scene, "server", 8000));
        let passes = [
            reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"),
            reaches("laptop", "[2001:db8:a::100]:8000", "server", "2001:db8:a::20"),
            silent("laptop", "10.0.0.109"),
        ];
        all("in br0", &passes);
        scene.warren("plan --exit-code").ends(0);

        // `netplan generate`, and what is read of it.
        generate(NETPLAN);
        tool("nmcli connection reload");
        stands();
        assert_eq!(ssh.ask("generated"), "generated");
        // What `netplan apply` does of it then (netplan/cli/commands/apply.py, `command_apply`).
        let _ = Command::new("nmcli").args(["device", "disconnect", "eth0"]).output().unwrap();
        Daemon::end();
        tool("ip address flush eth0");
        fs::remove_dir_all("/run/NetworkManager/devices").unwrap();
        Daemon::begin();
        stands();
        all("applied", &passes);
        scene.warren("up").ends(0);
        scene.warren("plan --exit-code").ends(0);
        stands();

        // As a boot does it: from nothing but the files.
        Daemon::end();
        for line in ["ip link delete br0", "ip address flush dev eth0", "ip link set eth0 down"] {
            tool(line);
        }
        fs::remove_dir_all("/run/NetworkManager").unwrap();
        generate(NETPLAN);
        Daemon::begin();
        is_active("br0", "br0");
        scene.warren("up").ends(0);
        scene.warren("plan --exit-code").ends(0);
        stands();
        all("by NetworkManager", &passes);

        let mut ssh = Talk::open("laptop", &ssh_line(&scene, &address));
        assert_eq!(ssh.ask("on the bridge"), "on the bridge");
        let transfer = Transfer::start();
        scene.warren("down").ends(0);
        assert_eq!(ssh.ask("and back"), "and back");
        transfer.end("netplan and NetworkManager, down");
        is_active("netplan-eth0", "eth0");
        assert_eq!([YAML, made].map(whole), files);
        assert!(!Path::new(PORT).exists() && !Path::new(BRIDGE).exists());
        assert_eq!(lease(&scene).1, leased);
        same(&before, "after down");
        assert!(!scene.folder().join("state/taken-over.json").exists());

        let yaml = |rest: &str| format!("network:\n  version: 2\n  renderer: NetworkManager\n  ethernets:\n{rest}");
        // Written as it is told, it makes the bridge, into which guests are plugged.
        let told = "    eth0: { dhcp4: false, dhcp6: false }\n  bridges:\n    br0:\n      interfaces: [eth0]\n      \
                    macaddress: 02:00:00:00:01:64\n      parameters: { stp: false, forward-delay: 0 }\n";
        generate(&yaml(&format!(
            "{told}      addresses: [10.0.0.100/24]\n      routes: [{{ to: default, via: 10.0.0.1 }}]\n"
        )));
        tool("nmcli connection reload");
        tool("nmcli connection up netplan-br0");
        tool("nmcli connection up netplan-eth0");
        is_active("netplan-br0", "br0");
        let external = OFFICE.replace("uplink = \"eth0\"", "uplink = \"br0\"");
        scene.up(&external.replace("ports = [\"eth0\"]", "external = true"), &["rest"]);
        let _guest = serve(&scene, "rest", 80);
        all("netplan's", &[reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"), silent("laptop", "10.0.0.109")]);
    });
}
