//! The chores of the project: `cargo xtask test` installs what the tests need and runs every test; `cargo xtask ci`
//! is what CI runs; `cargo xtask bench` measures.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Debian packages whose programs the tests use as peers and oracles, and the program by which each is known.
const PACKAGES: &[(&str, &str)] = &[
    ("nftables", "nft"),
    // Real resolvers, and those who ask them.
    ("dnsmasq-base", "dnsmasq"),
    ("bind9-dnsutils", "dig"),
    ("knot-dnsutils", "kdig"),
    ("dnsperf", "dnsperf"),
    ("isc-dhcp-client", "dhclient"),
    ("ndisc6", "rdisc6"),
    ("iptables", "iptables-nft"),
    ("iproute2", "ip"),
    ("iputils-ping", "ping"),
    ("iputils-arping", "arping"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    // A real authority of ACME.
    ("pebble", "pebble"),
    ("openssl", "openssl"),
    // A server and a client of HTTP/2, and the proxy that sites are held against.
    ("nghttp2-server", "nghttpd"),
    ("nghttp2-client", "nghttp"),
    ("nginx-light", "nginx"),
    // What loads web servers, and what torments them.
    ("nghttp2-client", "h2load"),
    ("wrk", "wrk"),
    ("slowhttptest", "slowhttptest"),
    // Clients and servers that people have.
    ("python3-websockets", "/usr/lib/python3/dist-packages/websockets"),
    ("python3-grpcio", "/usr/lib/python3/dist-packages/grpc"),
    ("socat", "socat"),
    ("util-linux", "nsenter"),
    ("procps", "sysctl"),
    ("strace", "strace"),
    // What the units that `install` writes are for: it runs in a container that plays the server.
    ("systemd", "systemd-run"),
    ("dbus", "dbus-daemon"),
    // What NetworkManager is linked with, which itself is only unpacked.
    ("libcurl3-gnutls", "/usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4"),
    ("libpsl5", "/usr/lib/x86_64-linux-gnu/libpsl.so.5"),
    ("libreadline8", "/usr/lib/x86_64-linux-gnu/libreadline.so.8"),
    // Real containers, and what their templates call.
    ("lxc", "lxc-create"),
    ("lxc-templates", "/usr/share/lxc/templates/lxc-debian"),
    ("distro-info", "debian-distro-info"),
    ("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    ("uidmap", "newuidmap"),
    ("busybox-static", "/usr/share/doc/busybox-static"),
    ("debootstrap", "debootstrap"),
    ("rsync", "rsync"),
    ("wget", "wget"),
    ("openssh-client", "ssh"),
    ("openssh-server", "sshd"),
    ("dnsmasq-base", "dnsmasq"),
    ("bsdutils", "script"),
    ("kmod", "depmod"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    // What firewalld is written in, and spoken to by.
    ("dbus-daemon", "dbus-daemon"),
    ("python3-dbus", "/usr/lib/python3/dist-packages/dbus"),
    ("python3-gi", "/usr/lib/python3/dist-packages/gi"),
    // A browser that `connect` starts, and what sees whether it asks a resolver.
    ("firefox-esr", "firefox-esr"),
    ("tcpdump", "tcpdump"),
    // A screen that nobody looks at, and a program of a guest's on it.
    ("xvfb", "Xvfb"),
    ("xauth", "xauth"),
    ("x11-utils", "xwininfo"),
    ("x11-utils", "xmessage"),
    // The one that the web page is driven in, and by what.
    ("chromium", "chromium"),
    ("nodejs", "node"),
    ("npm", "npm"),
    // A client of SOCKS.
    ("python3-socks", "/usr/lib/python3/dist-packages/socks.py"),
];

/// What `cargo xtask bench` measures with, and holds warren against.
const PEERS: &[(&str, &str)] = &[
    ("nftables", "nft"),
    ("iptables", "iptables-legacy-restore"),
    ("iproute2", "ip"),
    ("conntrack", "conntrack"),
    ("dnsmasq-base", "dnsmasq"),
    ("dnsperf", "dnsperf"),
    ("netavark", "/usr/lib/podman/netavark"),
    ("haproxy", "haproxy"),
    ("nginx-light", "nginx"),
    ("nghttp2-client", "h2load"),
    ("procps", "sysctl"),
    ("strace", "strace"),
    ("util-linux", "nsenter"),
    // `ssh -D`, and with its server the library that dante wants and only unpacking it does not bring.
    ("openssh-client", "ssh"),
    ("openssh-server", "sshd"),
];

type Done = Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("test") => test(&arguments[1..]),
        Some("ci") => ci(),
        Some("bench") => bench(&arguments[1..]),
        _ => Err("usage: cargo xtask test [ARGUMENTS OF cargo test] | ci | bench [PARTS]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn test(more: &[String]) -> Done {
    install(PACKAGES)?;
    debian()?;
    debian_kernel()?;
    for (folder, packages) in UNPACKED {
        unpacked(folder, packages)?;
    }
    playwright()?;
    // The tests of the whole binary run the one that people run.
    cargo(["build", "--release", "--package", "warren"])?;
    let arguments =
        ["test", "--workspace", "--no-fail-fast"].into_iter().map(str::to_owned).chain(more.iter().cloned());
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(root());
    // They wait for packets and timers more than they compute: half of the time, two keep no two processors busy.
    if env::var_os("RUST_TEST_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        command.env("RUST_TEST_THREADS", (processors * 2).to_string());
    }
    run(&mut command)
}

/// Measures warren beside its peers and writes docs/performance.md. Never a part of the tests: a machine that does other
/// things besides measures those.
fn bench(parts: &[String]) -> Done {
    install(PEERS)?;
    unpacked("socks-peers", &["microsocks", "dante-server"])?;
    cargo(["build", "--release", "--package", "warren", "--package", "warren-bench"])?;
    run(Command::new(built("warren-bench")?).args(parts))
}

fn ci() -> Done {
    cargo(["fmt", "--all", "--check"])?;
    cargo(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    test(&[])?;
    licences()?;
    examples()
}

/// Every example is rehearsed, as root and, where we are root, as a plain user too: neither may need the other.
fn examples() -> Done {
    let binary = built("warren")?;
    let mut examples: Vec<PathBuf> = fs::read_dir(root().join("examples"))
        .map_err(|e| format!("cannot list examples/: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("toml")))
        .collect();
    examples.sort();
    if examples.is_empty() {
        return Err("there is no example in examples/".to_owned());
    }
    for example in &examples {
        run(Command::new(&binary).arg("rehearse").arg(example))?;
    }
    if is_root()? {
        // Our target folder may lie where a plain user cannot look: the binary and the examples are copied.
        let folder = env::temp_dir().join(format!("warren-examples-{}", std::process::id()));
        let copy = || -> std::io::Result<()> {
            fs::create_dir(&folder)?;
            fs::copy(&binary, folder.join("warren"))?;
            for example in &examples {
                fs::copy(example, folder.join(example.file_name().unwrap_or_default()))?;
            }
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
        };
        copy().map_err(|e| format!("cannot copy the examples to {}: {e}", folder.display()))?;
        let mut all = Ok(());
        for example in &examples {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]);
            command
                .arg(folder.join("warren"))
                .arg("rehearse")
                .arg(folder.join(example.file_name().unwrap_or_default()));
            // No program may be needed beside the binary.
            all = all.and(run(command.env("PATH", "/usr/bin").current_dir("/")));
        }
        fs::remove_dir_all(&folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))?;
        all?;
    }
    Ok(())
}

/// Licences that everything in the dependency tree must offer one of; deny.toml says the same to cargo-deny.
const PERMISSIVE: [&str; 10] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unicode-3.0", "Zlib", "0BSD", "Unlicense", "BSL-1.0"];

/// What must not be in the dependency tree, whatever its licence.
const UNWANTED: [&str; 3] = ["aws-lc-rs", "aws-lc-sys", "openssl-sys"];

/// Holds the dependency tree to permissive licences, by what each crate says of itself.
fn licences() -> Done {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .map_err(|e| format!("cannot run cargo tree: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line = line.trim_end_matches(" (*)");
        let Some((package, licence)) = line.split_once('|') else { continue };
        // One crypto provider, ring; deny.toml says the same.
        if UNWANTED.iter().any(|name| package.starts_with(&format!("{name} "))) {
            return Err(format!("{package} is in the dependency tree; see deny.toml"));
        }
        // `A OR B` wants one of them, `A AND B` both; old manifests write `A/B` for the former.
        let fine = licence.replace('/', " OR ").split(" OR ").any(|choice| {
            choice.trim_matches(['(', ')']).split(" AND ").all(|l| {
                let l = l.trim_matches(['(', ')', ' ']);
                PERMISSIVE.contains(&l) || l.split(" WITH ").next().is_some_and(|l| PERMISSIVE.contains(&l))
            })
        });
        if !fine {
            return Err(format!("{package} is under {licence:?}, which is none of {}", PERMISSIVE.join(", ")));
        }
    }
    Ok(())
}

/// Debian 12's own kernel and its modules, unpacked for the test that boots it; it is never installed.
fn debian_kernel() -> Done {
    let folder = root().join("target/debian-kernel");
    if folder.join("boot").is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let package = match kernel_package()? {
        Some(package) => package,
        // An image without package lists.
        None => {
            apt(&["update", "--quiet"])?;
            kernel_package()?.ok_or("Debian's packages have no linux-image-6.1 for cloud machines")?
        }
    };
    run(Command::new("apt-get").args(["--quiet", "download", &package]).current_dir(&folder))?;
    let archives = fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut archives = archives.filter_map(|entry| Some(entry.ok()?.path()));
    let archive =
        archives.find(|path| path.extension() == Some(OsStr::new("deb"))).ok_or("apt-get download left no package")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&folder))?;
    fs::remove_file(&archive).map_err(|e| format!("cannot remove {}: {e}", archive.display()))
}

/// Packages of Debian 12's, unpacked below target for tests that run them in a lab; installed, one would guard this
/// machine, three configure it, and one answer its names.
const UNPACKED: &[(&str, &[&str])] = &[
    ("dhcpcd", &["dhcpcd-base"]),
    ("firewalld", &["firewalld", "python3-firewall", "python3-nftables"]),
    ("ifupdown", &["ifupdown"]),
    ("netplan", &["netplan.io", "libnetplan0"]),
    ("networkmanager", &["network-manager", "libnm0", "libndp0", "libteamdctl0", "libmm-glib0", "libbluetooth3"]),
    ("resolved", &["systemd-resolved"]),
    ("prometheus", &["prometheus"]),
];

fn unpacked(folder: &str, packages: &[&str]) -> Done {
    let folder = root().join("target").join(folder);
    let whole = folder.join("unpacked");
    if whole.exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let download = || run(Command::new("apt-get").args(["--quiet", "download"]).args(packages).current_dir(&folder));
    // An image may be without package lists, or its lists be old.
    download().or_else(|_| apt(&["update", "--quiet"]).and_then(|()| download()))?;
    let archives = fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let archives = archives.filter_map(|entry| Some(entry.ok()?.path()));
    for archive in archives.filter(|path| path.extension() == Some(OsStr::new("deb"))) {
        run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&folder))?;
        fs::remove_file(&archive).map_err(|e| format!("cannot remove {}: {e}", archive.display()))?;
    }
    fs::write(&whole, "").map_err(|e| format!("cannot write {}: {e}", whole.display()))
}

/// What drives a browser, below target: Playwright's core alone, which brings no browser of its own.
const PLAYWRIGHT: &str = "playwright-core@1.56.1";

fn playwright() -> Done {
    let folder = root().join("target/playwright");
    if folder.join("node_modules/playwright-core/package.json").exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save"];
    run(Command::new("npm").arg("install").args(quiet).arg("--prefix").arg(&folder).arg(PLAYWRIGHT))
}

/// What the metapackage of Debian's kernel for cloud machines stands for; it is empty itself.
fn kernel_package() -> Result<Option<String>, String> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()
        .map_err(|e| format!("cannot run apt-cache: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().find(|word| word.starts_with("linux-image-6.1.")).map(str::to_owned))
}

/// Runs apt-get, as root or by sudo.
fn apt(arguments: &[&str]) -> Done {
    let mut command = if is_root()? { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root()? {
        command.arg("apt-get");
    }
    run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdout(Stdio::null()))
}

/// Installs the packages whose programs are missing, as root or by sudo.
fn install(packages: &[(&str, &str)]) -> Done {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, program)| !on_path(program)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    apt(&["update", "--quiet"])?;
    apt(&[["install", "--yes", "--no-install-recommends"].as_slice(), &missing].concat())?;
    match packages.iter().find(|(_, program)| !on_path(program)) {
        None => Ok(()),
        Some((package, program)) => Err(format!("{package} is installed, and yet there is no {program}")),
    }
}

/// Fills the cache of LXC's Debian template, once: the tests that make Debian guests do so where there is no Internet.
fn debian() -> Done {
    let cache = Path::new("/var/cache/lxc/debian");
    let is_full = || {
        fs::read_dir(cache).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("rootfs-bookworm-")))
        })
    };
    if is_full() {
        return Ok(());
    }
    eprintln!("xtask: filling the cache of LXC's Debian template, which takes a minute");
    let folder = env::temp_dir().join(format!("warren-debian-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let sudo = if is_root()? { None } else { Some("sudo") };
    let root = |words: &[&OsStr]| {
        let mut words = sudo.map(OsStr::new).into_iter().chain(words.iter().copied());
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        run(&mut command)
    };
    let made = root(&[
        "lxc-create".as_ref(),
        "-n".as_ref(),
        "cache".as_ref(),
        "-P".as_ref(),
        folder.as_os_str(),
        "-t".as_ref(),
        "debian".as_ref(),
        "-f".as_ref(),
        "/dev/null".as_ref(),
        "--".as_ref(),
        "-r".as_ref(),
        "bookworm".as_ref(),
    ]);
    let removed = root(&["rm".as_ref(), "-rf".as_ref(), "--one-file-system".as_ref(), folder.as_os_str()]);
    made.and(removed)
}

/// Whether a program is where root's shell would find it: a plain user's PATH has no sbin.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path);
    folders.chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).exists())
}

fn is_root() -> Result<bool, String> {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of one's own /proc entry is who one is, without a call that std has not.
    fs::metadata("/proc/self").map(|m| m.uid() == 0).map_err(|e| format!("cannot look at /proc/self: {e}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where cargo puts a program of a release: below `target`, unless CARGO_TARGET_DIR or somebody's configuration says
/// another place.
fn built(program: &str) -> Result<PathBuf, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // One key of a long line of JSON; only a quote or a backslash in the path would be written otherwise.
    let behind = text.split_once("\"target_directory\":\"").map(|(_, behind)| behind);
    let folder = behind.and_then(|behind| behind.split('"').next()).filter(|folder| !folder.contains('\\'));
    let folder = folder.ok_or("cargo metadata names no target folder")?;
    Ok(Path::new(folder).join("release").join(program))
}

fn cargo(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
    run(Command::new(env!("CARGO")).args(arguments).current_dir(root()))
}

fn run(command: &mut Command) -> Done {
    let line =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|a| a.to_string_lossy().into_owned());
    let line = line.collect::<Vec<_>>().join(" ");
    eprintln!("xtask: {line}");
    let begun = Instant::now();
    let status = command.status().map_err(|e| format!("cannot run {line}: {e}"))?;
    eprintln!("xtask: {} s for {line}", begun.elapsed().as_secs());
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}
