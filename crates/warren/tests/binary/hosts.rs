//! `hosts-resolver`: the host itself knows guests by their names, as getent sees it; by /etc/hosts, and by the real
//! systemd-resolved.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::common::{lab, tool};
use crate::foreign::bus;
use crate::serve::{NETWORK, Serve, resolver, short};
use crate::support::{PATIENCE, Running, Scene};

/// An /etc that is this lab's alone, with a file of names that others have written.
pub fn own_etc(hosts: &str, resolv: &str) {
    for folder in ["/run/etc/upper", "/run/etc/work"] {
        fs::create_dir_all(folder).unwrap();
    }
    tool("mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc");
    for (path, text) in
        [("/etc/hosts", hosts), ("/etc/resolv.conf", resolv), ("/etc/nsswitch.conf", "hosts: files dns\n")]
    {
        let _ = fs::remove_file(path);
        fs::write(path, text).unwrap();
    }
}

/// What the host's own programs take a name for, IPv4 alone; or an address, by its name.
fn knows(database: &str, key: &str) -> Option<String> {
    let output = Command::new("getent").args([database, key]).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.lines().next()?.split_whitespace();
    words.nth(usize::from(database == "hosts")).map(str::to_owned)
}

#[track_caller]
fn becomes(key: &str, value: Option<&str>) {
    let database = if key.starts_with("10.") { "hosts" } else { "ahostsv4" };
    let deadline = Instant::now() + PATIENCE;
    while knows(database, key).as_deref() != value {
        assert!(Instant::now() < deadline, "{key} is {:?}, not {value:?}", knows(database, key));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn by_a_marked_block_that_leaves_others_lines_alone() {
    lab(|| {
        let scene = Scene::new();
        let others = "127.0.0.1 localhost\r\n192.0.2.9 printer # theirs\n\n# no newline";
        own_etc(others, "");
        fs::set_permissions("/etc/hosts", fs::Permissions::from_mode(0o604)).unwrap();
        let says = || fs::read_to_string("/etc/hosts").unwrap();
        let network = NETWORK.replace("\"www\"", "\"www\", \"printer\", \"ip6-localhost\"");
        scene.write(&network.replace("[host]", "[host]\nhosts-resolver = true"));
        // Brought up without serve, nobody answers for names.
        scene.warren("up").ends(0);
        assert_eq!(says(), others);
        let serve = Serve::start(&scene);
        becomes("www.cnx.example", Some("10.1.1.6"));
        for (name, address) in [("cnx6", "10.1.1.6"), ("alone", "10.1.2.6"), ("printer.cnx.example", "10.1.1.6")] {
            assert_eq!(knows("ahostsv4", name).as_deref(), Some(address), "{name}");
        }
        assert_eq!(knows("hosts", "10.1.1.6").as_deref(), Some("cnx6.cnx.example"));
        assert!(tool("getent ahostsv6 cnx6.cnx.example").contains("fd10:1:1::6"));
        // Names of others' are theirs.
        assert_eq!(knows("ahostsv4", "printer").as_deref(), Some("192.0.2.9"));
        assert_eq!(knows("ahostsv4", "localhost").as_deref(), Some("127.0.0.1"));
        assert!(!tool("getent ahosts printer").contains("10.1.1.6"));
        assert_eq!(knows("ahostsv4", "ip6-localhost"), None);
        let meta = fs::metadata("/etc/hosts").unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o604, 0, 0));
        assert!(says().starts_with(others));
        // What others write meanwhile stays, wherever they do.
        let edited = says().replace("10.1.1.6", "192.0.2.10 within\n10.1.1.6") + "192.0.2.11 later\n";
        fs::write("/etc/hosts", edited).unwrap();
        scene.write(&network.replace("[host]", "[host]\nhosts-resolver = false"));
        scene.warren("up").ends(0);
        becomes("www.cnx.example", None);
        let others = format!("{others}\n192.0.2.10 within\n192.0.2.11 later\n");
        assert_eq!(says(), others);
        scene.write(&network);
        scene.warren("up").ends(0);
        assert_eq!(knows("ahostsv4", "cnx6.cnx.example").as_deref(), Some("10.1.1.6"));
        // Killed, it leaves what is so; and what is changed without it is followed.
        kill_process(serve.pid(), Signal::KILL).unwrap();
        drop(serve);
        assert_eq!(knows("ahostsv4", "cnx6.cnx.example").as_deref(), Some("10.1.1.6"));
        scene.write(&network.replace("10.1.1.6\"", "10.1.1.16\""));
        scene.warren("up").ends(0);
        assert_eq!(knows("ahostsv4", "cnx6.cnx.example").as_deref(), Some("10.1.1.16"));
        scene.warren("rollback").ends(0);
        assert_eq!(knows("ahostsv4", "cnx6.cnx.example").as_deref(), Some("10.1.1.6"));
        scene.warren("down").ends(0);
        assert_eq!(says(), others);
        assert!(!PathBuf::from("/etc/.hosts.warren").exists());
    });
}

/// The real systemd-resolved, from Debian's package as `cargo xtask test` unpacks it; ready when it is returned.
fn resolved() -> Running {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/resolved").canonicalize();
    let program = unpacked.expect("`cargo xtask test` unpacks systemd-resolved").join("lib/systemd/systemd-resolved");
    fs::create_dir_all("/run/systemd/resolve").unwrap();
    let mut command = Command::new(program);
    let running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    let deadline = Instant::now() + PATIENCE;
    while short("server", "localhost @127.0.0.53 +tries=1 +timeout=1") != "127.0.0.1" {
        assert!(Instant::now() < deadline, "systemd-resolved does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

#[test]
fn by_systemd_resolved_which_is_never_our_own_upstream() {
    lab(|| {
        let scene = Scene::new();
        let _world = resolver();
        let hosts = "127.0.0.1 localhost\n";
        own_etc(hosts, "nameserver 127.0.0.53\n");
        // Whom it runs as; in a plain user's namespace there is but one.
        let users = fs::read_to_string("/etc/passwd").unwrap();
        fs::write("/etc/passwd", format!("systemd-resolve:x:0:0::/:/bin/false\n{users}")).unwrap();
        fs::create_dir_all("/etc/systemd").unwrap();
        fs::write("/etc/systemd/resolved.conf", "[Resolve]\nDNS=198.51.100.7\nLLMNR=yes\n").unwrap();
        let _bus = bus(&scene);
        let first = resolved();
        becomes("world.example", Some("198.51.100.80"));
        // Guests' resolvers are the host's own, whom resolved tells.
        let network = NETWORK.replace("dns = [", "# dns = [");
        scene.write(&network);
        let serve = Serve::start(&scene);
        becomes("www.cnx.example", Some("10.1.1.6"));
        becomes("10.1.1.6", Some("cnx6.cnx.example"));
        becomes("alone.br2.internal", Some("10.1.2.6"));
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), hosts);
        // The world's names are none that resolved asks us for.
        let queries = || scene.warren("--json status").ends(0).json()["services"]["dns"]["queries"].as_u64().unwrap();
        let before = queries();
        becomes("world.example", Some("198.51.100.80"));
        becomes("other.example", None);
        assert_eq!(queries(), before);
        // A bridge that was made anew is another one to it; and so is a resolved that knows nothing of us.
        tool("ip link delete br1");
        serve.hears("repaired");
        becomes("www.cnx.example", Some("10.1.1.6"));
        // By resolved, not for want of it.
        let deadline = Instant::now() + PATIENCE;
        while fs::read_to_string("/etc/hosts").unwrap() != hosts {
            assert!(Instant::now() < deadline, "resolved is not told of the bridge");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Held, since whatever the kernel still has to tell of the repair has serve look again: without resolved it would
        // write /etc/hosts, and another resolved it would tell.
        kill_process(serve.pid(), Signal::STOP).unwrap();
        drop(first);
        fs::remove_dir_all("/run/systemd/resolve").unwrap();
        let second = resolved();
        assert_eq!(knows("ahostsv4", "www.cnx.example"), None);
        kill_process(serve.pid(), Signal::CONT).unwrap();
        tool("ip link set br2 mtu 1400");
        serve.hears("repaired");
        becomes("www.cnx.example", Some("10.1.1.6"));
        // Told to end, we are asked no more.
        kill_process(serve.pid(), Signal::TERM).unwrap();
        becomes("www.cnx.example", None);
        drop(serve);
        // Somebody has it ask us for everything: we are among its resolvers then, and none of our own.
        drop(second);
        fs::write("/etc/systemd/resolved.conf", "[Resolve]\nDNS=10.1.1.1 198.51.100.7\n").unwrap();
        let _third = resolved();
        let told = fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap();
        assert!(told.contains("nameserver 10.1.1.1\n") && told.contains("nameserver 198.51.100.7\n"), "{told}");
        let serve = Serve::start(&scene);
        becomes("world.example", Some("198.51.100.80"));
        assert_eq!(short("cnx6", "other.example @10.1.1.1"), "");
        let dns = scene.warren("--json status").ends(0).json()["services"]["dns"].clone();
        assert!(dns["forwarded"].as_u64().unwrap() >= 2 && dns["failed"] == 0 && dns["limited"] == 0, "{dns}");
        drop(serve);
        scene.warren("down").ends(0);
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), hosts);
    });
}
