//! A server in which containers start: namespaces of its own for network, mounts and processes, with /sys, /run and
//! /etc of its own. Its first process is the test; when that ends, however it does, every guest ends.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Ran, Scene};

/// The inode of the network namespace that the test was started in, told to the process inside.
const OUTSIDE: &str = "WARREN_GUESTS_OUTSIDE";
/// The folder of the control groups that the lab's guests are in.
pub const GROUPS: &str = "WARREN_GUESTS_GROUPS";

/// What LXC needs to see of a machine. Its tools look for interfaces in /sys/class/net, which is that of the namespace
/// that /sys was mounted in; the control groups that this hides are put back. What is written to /etc (usermod's
/// subordinate ids) is the lab's alone.
const PRELUDE: &str = "set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/lock /run/groups /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mount --rbind /sys/fs/cgroup /run/groups
mount -t sysfs sysfs /sys
mount --rbind /run/groups /sys/fs/cgroup
ip link set lo up
exec \"$@\"";

/// Runs `body` in such a place; the test binary is started again for the one test that `body` was written in.
pub fn lab<F: FnOnce()>(body: F) {
    if let Ok(outside) = std::env::var(OUTSIDE) {
        assert_ne!(outside, own_namespace().to_string(), "this is the namespace that the test was started in");
        assert_eq!(std::process::id(), 1, "this is a process of the machine's own");
        body();
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "containers need root");
    // `guests::file::test::{{closure}}`
    let name = std::any::type_name::<F>();
    let test = name.strip_suffix("::{{closure}}").unwrap().split_once("::").unwrap().1;
    let groups = format!("warren-test-{}-{}", std::process::id(), test.replace("::", "-"));
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", PRELUDE, "lab"]);
    command.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(OUTSIDE, own_namespace().to_string()).env(GROUPS, &groups);
    let output = command.stdin(Stdio::null()).output().expect("unshare is needed");
    remove_groups(&groups);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A filter that matches nothing passes, too.
    let passed = output.status.success() && text.contains("test result: ok. 1 passed");
    assert!(passed, "{test} in its lab: {}\n{text}\n{errors}", output.status);
}

fn own_namespace() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

/// A killed guest leaves its control groups behind. They are empty by now.
fn remove_groups(name: &str) {
    fn remove(folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        // What cannot be removed does no harm: no other lab has its name.
        let _ = std::fs::remove_dir(folder);
    }
    let root = Path::new("/sys/fs/cgroup");
    remove(&root.join(name));
    for controller in std::fs::read_dir(root).into_iter().flatten().flatten() {
        remove(&controller.path().join(name));
    }
}

/// The scene of the binary's tests, and a folder for containers.
pub struct Place {
    pub scene: Scene,
    pub lxc: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let scene = Scene::new();
        // The user ids of an unprivileged guest pass through it.
        std::fs::set_permissions(scene.folder(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let lxc = scene.folder().join("lxc");
        Self { scene, lxc }
    }

    /// The configuration: a LAN with `guests`' tables and whatever else there is.
    pub fn write(&self, guests: &[(&str, &str)], more: &str) {
        let groups = std::env::var(GROUPS).unwrap();
        let mut text =
            "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
                        domain = \"cnx.rice.edu\"\ndns = [\"198.51.100.7\"]\n\n"
                .to_owned();
        for (name, table) in guests {
            // What the file hands on to LXC keeps these guests apart from those of other labs.
            text.push_str(&format!("[guest.{name}]\nconfig = [\"lxc.cgroup.dir = {groups}\"]\n{table}\n\n"));
        }
        text.push_str(more);
        self.scene.write(&text);
    }

    /// Warren, with arguments that have no blanks.
    pub fn warren(&self, arguments: &str) -> Ran {
        Ran::of(self.command().args(arguments.split_whitespace()))
    }

    /// A shell's line inside a guest.
    pub fn inside(&self, guest: &str, line: &str) -> Ran {
        Ran::of(self.command().args(["guest", "exec", guest, "--", "sh", "-c", line]))
    }

    pub fn command(&self) -> Command {
        let mut command = self.scene.command();
        command.env("WARREN_LXC_PATH", &self.lxc);
        command
    }

    /// A guest's root file system on the disk.
    pub fn disk(&self, guest: &str) -> PathBuf {
        self.lxc.join(guest).join("rootfs")
    }

    /// Nothing of a guest's, nor of its making, is there.
    #[track_caller]
    pub fn has_nothing_of(&self, guest: &str) {
        let names: Vec<String> = std::fs::read_dir(&self.lxc)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().all(|name| !name.contains(guest)), "{names:?}");
    }
}
