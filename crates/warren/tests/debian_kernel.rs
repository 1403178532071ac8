//! Users run Debian 12's own kernel, not the test machines': it is booted in QEMU (software emulation) with warren in
//! its initramfs, and the examples are rehearsed there. `cargo xtask test` puts the kernel in target/debian-kernel.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What the machine does: everything as root; then as a plain user, where they may make user namespaces and where not.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
/bin/busybox ln -s /bin/busybox /sbin/modprobe
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/net
mount -t tmpfs tmpfs /run
modprobe tun
chmod 666 /dev/net/tun
echo "nobody:x:65534:65534::/:/bin/sh" > /etc/passwd
echo "KERNEL $(uname -r)"
for example in /examples/*; do
    warren rehearse $example
    echo "ROOT $example $?"
done
sysctl -w kernel.unprivileged_userns_clone=1
su nobody -c "warren rehearse /examples/seed.toml"
echo "USER $?"
sysctl -w kernel.unprivileged_userns_clone=0
su nobody -c "warren rehearse /examples/seed.toml"
echo "FORBIDDEN $?"
poweroff -f
"#;

/// What the boot and all rehearsals may take on a loaded machine; it is some 20 s on an idle one.
const PATIENCE: Duration = Duration::from_secs(400);

#[test]
fn the_examples_hold_on_debian_s_own_kernel() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debian-kernel");
    let image = only(&kernel.join("boot"), "vmlinuz-");
    let modules = only(&kernel.join("lib/modules"), "6.1.");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    furnish(&root, &modules);
    let initramfs = folder.path().join("initramfs");
    fs::write(&initramfs, archive(&root)).unwrap();
    let said = boot(&image, &initramfs);
    assert!(said.contains("KERNEL 6.1."), "{said}");
    let examples = fs::read_dir(root.join("examples")).unwrap().count();
    assert!(examples >= 3);
    let held = said.lines().filter(|line| line.starts_with("ROOT ") && line.trim_end().ends_with(" 0")).count();
    assert_eq!(held, examples, "{said}");
    assert!(said.contains("USER 0"), "{said}");
    assert!(said.contains("FORBIDDEN 4"), "{said}");
    assert!(said.contains("kernel.unprivileged_userns_clone is 0"), "the setting is named:\n{said}");
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

/// A root file system of busybox, warren with its libraries, the examples, and the modules that networks are made of.
fn furnish(root: &Path, modules: &Path) {
    for folder in ["bin", "sbin", "proc", "sys", "dev", "run", "tmp", "etc", "examples"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is needed");
    let warren = root.join("bin/warren");
    // With its symbols it is ten times as large.
    run(Command::new("strip").arg("-o").arg(&warren).arg(env!("CARGO_BIN_EXE_warren")));
    // Of a static program ldd says so, and fails.
    let linked = Command::new("ldd").arg(&warren).arg("/bin/busybox").output().expect("ldd is needed");
    let libraries = String::from_utf8(linked.stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
        let place = root.join(&library[1..]);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(library, place).unwrap();
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for example in fs::read_dir(examples).unwrap().map(|e| e.unwrap().path()) {
        fs::copy(&example, root.join("examples").join(example.file_name().unwrap())).unwrap();
    }
    let version = modules.file_name().unwrap().to_str().unwrap();
    let there = root.join("lib/modules").join(version);
    for part in [
        "kernel/net",
        "kernel/lib",
        "kernel/drivers/net/veth.ko",
        "kernel/drivers/net/tun.ko",
        "modules.order",
        "modules.builtin",
    ] {
        let (from, to) = (modules.join(part), there.join(part));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-r").arg(from).arg(to));
    }
    run(Command::new("depmod").arg("-b").arg(root).arg(version));
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
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

/// Boots until the machine powers itself off; what it said on its serial line.
fn boot(image: &Path, initramfs: &Path) -> String {
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-m", "768", "-nographic", "-no-reboot", "-net", "none"])
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-system-x86 is needed");
    let mut serial = machine.stdout.take().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = serial.read(&mut chunk) {
            // Nobody hears it any more where the test has failed.
            let _ = sender.send(String::from_utf8_lossy(&chunk[..count]).into_owned());
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(more) => said.push_str(&more),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                machine.kill().unwrap();
                machine.wait().unwrap();
                panic!("the machine does not come to an end:\n{said}");
            }
        }
    }
    machine.wait().unwrap();
    said
}
