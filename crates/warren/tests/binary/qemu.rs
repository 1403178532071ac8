//! Machines in QEMU (software emulation), booted from Debian 12's own kernel, which users run and the test machines do
//! not, and an initramfs of busybox. `cargo xtask test` puts the kernel in target/debian-kernel.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a boot and all that follows may take on a loaded machine; it is some 20 s on an idle one.
const PATIENCE: Duration = Duration::from_secs(400);

/// How every machine begins.
const BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
/bin/busybox ln -s /bin/busybox /sbin/modprobe
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/net
mount -t tmpfs tmpfs /run
"#;

/// Modules that networks are made of.
const MODULES: [&str; 11] = [
    "kernel/net",
    "kernel/lib",
    "kernel/drivers/virtio",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/virtio_net.ko",
    "kernel/drivers/net/net_failover.ko",
    "modules.order",
    "modules.builtin",
    "modules.builtin.modinfo",
    "kernel/crypto",
];

/// A machine to be booted.
pub struct Machine {
    folder: tempfile::TempDir,
    image: PathBuf,
}

/// A machine that runs; its serial line is heard.
pub struct Booted {
    qemu: Child,
    serial: Receiver<String>,
    /// All that it said.
    pub said: String,
    /// Its files go with it.
    _machine: Machine,
}

impl Machine {
    /// A machine that does `script` and powers itself off.
    pub fn new(script: &str) -> Self {
        let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debian-kernel");
        let image = only(&kernel.join("boot"), "vmlinuz-");
        let folder = tempfile::tempdir().unwrap();
        let machine = Self { folder, image };
        furnish(&machine.root(), &only(&kernel.join("lib/modules"), "6.1."));
        let init = machine.root().join("init");
        fs::write(&init, format!("{BEGIN}{script}\npoweroff -f\n")).unwrap();
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    /// Its root file system, until it is booted.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Puts a program with its libraries into it.
    pub fn install(&self, program: &Path, name: &str) {
        let place = self.root().join("bin").join(name);
        // With its symbols it is ten times as large.
        run(Command::new("strip").arg("-o").arg(&place).arg(program));
        // Of a static program ldd says so, and fails.
        let linked = Command::new("ldd").arg(&place).output().expect("ldd is needed");
        let libraries = String::from_utf8(linked.stdout).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let place = self.root().join(&library[1..]);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }

    /// Boots it, with more arguments for QEMU.
    pub fn boot(self, arguments: &[&str]) -> Booted {
        let initramfs = self.folder.path().join("initramfs");
        fs::write(&initramfs, archive(&self.root())).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-cpu", "max", "-m", "768", "-nographic", "-no-reboot", "-nodefaults"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet"])
            .args(arguments)
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86 is needed");
        let mut line = qemu.stdout.take().unwrap();
        let (sender, serial) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = line.read(&mut chunk) {
                // Nobody hears it any more where the test has failed.
                let _ = sender.send(String::from_utf8_lossy(&chunk[..count]).into_owned());
            }
        });
        Booted { qemu, serial, said: String::new(), _machine: self }
    }
}

impl Booted {
    /// Waits until it has said `word`.
    pub fn await_word(&mut self, word: &str) {
        self.hear(|said| said.contains(word));
        assert!(self.said.contains(word), "the machine ended before it said {word}:\n{}", self.said);
    }

    /// Waits until it has powered itself off; all that it said.
    pub fn finish(mut self) -> String {
        self.hear(|_| false);
        self.qemu.wait().unwrap();
        std::mem::take(&mut self.said)
    }

    fn hear(&mut self, enough: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.said) {
            match self.serial.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(more) => self.said.push_str(&more),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("the machine does not come to an end:\n{}", self.said),
            }
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The one entry of a folder that begins so.
fn only(folder: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}: `cargo xtask test` puts Debian's kernel there", folder.display()));
    let mut found = entries
        .map(|e| e.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    found.next().unwrap_or_else(|| panic!("nothing in {} begins with {prefix}", folder.display()))
}

/// A root file system of busybox and the modules.
fn furnish(root: &Path, modules: &Path) {
    for folder in ["bin", "sbin", "proc", "sys", "dev", "run", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is needed");
    let version = modules.file_name().unwrap().to_str().unwrap();
    let there = root.join("lib/modules").join(version);
    for part in MODULES {
        let (from, to) = (modules.join(part), there.join(part));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-r").arg(from).arg(to));
    }
    run(Command::new("depmod").arg("-b").arg(root).arg(version));
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder as a cpio archive of the sort that the kernel unpacks
/// (Documentation/driver-api/early-userspace/buffer-format.rst: newc), all of it root's.
fn archive(root: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().to_str().unwrap().as_bytes().to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            number += 1;
            member(&mut out, number, meta.mode(), path.strip_prefix(root).unwrap().to_str().unwrap(), &content);
        }
    }
    member(&mut out, 0, 0, "TRAILER!!!", &[]);
    out
}

fn member(out: &mut Vec<u8>, number: usize, mode: u32, name: &str, content: &[u8]) {
    let fields = [number as u32, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    fields.iter().for_each(|field| write!(out, "{field:08x}").unwrap());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}
