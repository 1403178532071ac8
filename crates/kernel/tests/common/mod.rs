//! A place for tests that change networks: each runs in a process of its own, in namespaces of its own, whoever runs
//! it. A test fails where they cannot be had, and never touches the namespace that it was started in.
#![allow(clippy::unwrap_used, dead_code)]

pub mod snapshot;

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use kernel::netns::{self, Netns};
use kernel::rtnl::{LinkChange, Rtnl, VethPeer};
use model::address::{IfName, Mac};

/// The inode of the network namespace that the test was started in, told to the process inside.
const OUTSIDE: &str = "WARREN_TEST_OUTSIDE";

/// Runs `body` in a new network namespace (loopback up) with mounts of its own (an empty /run), as root of them: as a
/// plain user by a user namespace. The test binary is started again for the one test that `body` was written in, so
/// that it is a process with one thread, whose end ends everything.
pub fn lab<F: FnOnce()>(body: F) {
    if let Ok(outside) = std::env::var(OUTSIDE) {
        assert_ne!(outside, own_namespace().to_string(), "this is the namespace that the test was started in");
        if let Ok(first) = std::fs::metadata("/proc/1/ns/net") {
            assert_ne!(first.ino(), own_namespace(), "this is the machine's own network namespace");
        }
        body();
        return;
    }
    // `file::test::{{closure}}`
    let name = std::any::type_name::<F>();
    let test = name.strip_suffix("::{{closure}}").unwrap().split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(OUTSIDE, own_namespace().to_string());
    // SAFETY: the child has one thread, the copy of this one; what it calls until exec are system calls and small
    // allocations, and glibc keeps its allocator usable over fork.
    unsafe { command.pre_exec(|| enter().map_err(|e| std::io::Error::other(e.to_string()))) };
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A filter that matches nothing passes, too.
    let passed = output.status.success() && text.contains("test result: ok. 1 passed");
    assert!(passed, "{test} inside its namespaces: {}\n{text}\n{errors}", output.status);
    // What it has to say, such as how much it tried.
    print!("{text}");
}

/// Runs `body` in a process of one thread, as user namespaces want it: the test harness has two.
pub fn alone(body: impl FnOnce()) {
    // SAFETY: the child has one thread, the copy of this one; glibc keeps its allocator usable over fork, and nothing
    // else of the other thread's is used: the child ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err();
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live integer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the process of one thread failed");
}

fn own_namespace() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

fn enter() -> Result<(), Box<dyn std::error::Error>> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if !rustix::process::geteuid().is_root() {
        netns::unshare_user()?;
    }
    // SAFETY: NEWNET closes no descriptor.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)? };
    netns::private_mounts(&[Path::new("/run")])?;
    // The machine's own is not for tests to write.
    if Path::new("/etc/hosts").exists() {
        std::fs::copy("/etc/hosts", "/run/hosts")?;
        rustix::mount::mount_bind("/run/hosts", "/etc/hosts")?;
    }
    Rtnl::open()?.set_link(&IfName::new("lo")?, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(())
}

/// Whether the test runs with the machine's root behind it, and not as a plain user's.
pub fn is_real_root() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().eq(["0", "0", "4294967295"])
}

/// What a program prints; the test fails where it fails or is missing.
pub fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Interfaces made here from now on take an IPv6 address without asking around for a second whether somebody has it:
/// for tests that make hundreds of networks, of which none is about that.
#[allow(dead_code)]
pub fn without_detection() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/dad_transmits", "0").expect("a switch of this namespace");
}

/// Feeds `nft -f -`; the oracle's own program, to set a scene.
pub fn nft(rules: &str) {
    use std::io::Write as _;
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is needed");
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refused:\n{rules}");
}

/// An interface's name.
pub fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

/// An address with its prefix length.
pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A hardware address.
pub fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

/// A handle on the network that the calling thread is in.
pub fn rtnl() -> Rtnl {
    Rtnl::open().unwrap()
}

/// Nothing to change but what follows.
pub fn up() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

/// A guest in a namespace without a name: `port` here, `eth0` with `addresses` there, both switched on.
pub fn plug(port: &str, addresses: &[&str]) -> Netns {
    let guest = Netns::unnamed(port).unwrap();
    let eth0 = name("eth0");
    let own = Mac::derived(&[port]);
    let peer = VethPeer { netns: std::os::fd::AsFd::as_fd(&guest), name: &eth0, mac: own, mtu: 1500 };
    let mut here = rtnl();
    here.create_veth(&name(port), None, 1500, &format!("warren: {port}"), &peer).unwrap();
    here.set_link(&name(port), &up()).unwrap();
    let mut there = guest.run(Rtnl::open).unwrap().unwrap();
    there.set_link(&eth0, &up()).unwrap();
    for address in addresses {
        there.add_address(&eth0, net(address)).unwrap();
    }
    guest
}
