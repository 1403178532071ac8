//! Machines: Debian 12's own kernel carries the examples; and a machine behind a tap of warren's is a guest like any.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::common::{lab, tool};
use crate::qemu::Machine;
use crate::support::{Scene, WARREN, examples};

/// Everything as root; then as a plain user, where they may make user namespaces and where not.
const REHEARSALS: &str = r#"
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
"#;

#[test]
fn the_examples_hold_on_debian_s_own_kernel() {
    let machine = Machine::new(REHEARSALS);
    machine.install(Path::new(WARREN), "warren");
    let folder = machine.root().join("examples");
    fs::create_dir(&folder).unwrap();
    for example in examples() {
        fs::copy(&example, folder.join(example.file_name().unwrap())).unwrap();
    }
    let said = machine.boot(&[]).finish();
    assert!(said.contains("KERNEL 6.1."), "{said}");
    let held = said.lines().filter(|line| line.starts_with("ROOT ") && line.trim_end().ends_with(" 0")).count();
    assert_eq!(held, examples().len(), "{said}");
    assert!(said.contains("USER 0"), "{said}");
    assert!(said.contains("FORBIDDEN 4"), "{said}");
    assert!(said.contains("kernel.unprivileged_userns_clone is 0"), "the setting is named:\n{said}");
}

const NETWORK: &str = one_lan!(
    r#"[guest.win]
kind = "vm"
address = ["10.1.1.20"]
[[forward]]
listen = "8080"
to = "win:80"
[[forward]]
listen = "8081"
to = "win:81"
"#
);

/// What must pass, and beside it what must not: the host's own port, and an address that is not its own.
const GUEST: &str = r#"
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
ip link set eth0 up
ip address add 10.1.1.20/24 dev eth0
ip route add default via 10.1.1.1
ping -c 1 -W 10 10.1.1.1 > /dev/null; echo "GATEWAY $?"
ping -c 1 -W 10 198.51.100.7 > /dev/null; echo "WORLD $?"
nc -w 2 10.1.1.1 22 < /dev/null > /dev/null; echo "HOST $?"
ip address add 10.1.1.21/24 dev eth0
ping -c 2 -W 2 -I 10.1.1.21 198.51.100.7 > /dev/null; echo "SPOOFED $?"
ip address del 10.1.1.21/24 dev eth0
mkdir -p /www; echo "a page of the machine's" > /www/index.html
httpd -p 80 -h /www
echo READY
nc -l -p 81 < /dev/null
"#;

#[test]
fn a_machine_behind_a_tap_is_a_guest_like_any() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &[]);
        assert!(tool("bridge link show dev win").contains("master br1"));
        // The line that people are told to copy.
        let told = scene.warren("status").ends(0);
        let line = told.out.lines().find_map(|line| line.strip_prefix("win: -netdev")).expect("QEMU's line");
        let line = format!("-netdev{line}");
        let mut machine = Machine::new(GUEST).boot(&line.split_whitespace().collect::<Vec<_>>());
        machine.await_word("READY");
        let page = tool("nsenter --net=/run/netns/world curl --silent --max-time 20 http://203.0.113.2:8080/");
        assert_eq!(page, "a page of the machine's\n");
        // Nobody listens behind the tap for what was not forwarded.
        let closed = std::process::Command::new("nsenter")
            .args(["--net=/run/netns/world", "curl", "--silent", "--max-time", "2", "http://10.1.1.20/"])
            .output()
            .unwrap();
        assert!(!closed.status.success(), "the private address is reached from the world");
        tool("nsenter --net=/run/netns/world socat -u /dev/null TCP:203.0.113.2:8081");
        let said = machine.finish();
        for held in ["GATEWAY 0", "WORLD 0", "HOST 1", "SPOOFED 1"] {
            assert!(said.contains(held), "{held} is not among what the machine says:\n{said}");
        }
        scene.warren("down").ends(0);
    });
}
