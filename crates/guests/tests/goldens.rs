//! What is written for a guest, beside the text that is expected. `UPDATE_GOLDENS=1` rewrites what is expected.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use guests::Settings;
use guests::lxc::{self, Block, Ids};
use guests::prepare::{self, Edit, Found, Mechanism};

fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(expected, found, "{}", path.display());
}

fn settings(addresses: &[&str], gateways: &[&str]) -> Settings {
    Settings {
        name: "cnx6".into(),
        domain: "cnx.rice.edu".into(),
        dns: ["128.42.178.32", "128.42.209.32"].map(|a| a.parse().unwrap()).to_vec(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        gateways: gateways.iter().map(|a| a.parse().unwrap()).collect(),
        mac: "02:00:00:00:00:06".parse().unwrap(),
        mtu: 1500,
        lan: "br1".parse().unwrap(),
        port: "cnx6".parse().unwrap(),
        hairpin: true,
        isolated: true,
        limited: true,
    }
}

fn both() -> Settings {
    settings(&["10.1.1.6/24", "10.1.1.16/24", "fd10:1::6/64"], &["10.1.1.1", "fd10:1::1"])
}

fn show(edits: &[Edit]) -> String {
    let mut text = String::new();
    for edit in edits {
        match edit {
            Edit::Write { path, text: content, mode, folder_mode } => {
                writeln!(text, "== {path} {mode:o}, its folder {folder_mode:o}\n{content}").unwrap();
            }
            Edit::Link { path, to } => writeln!(text, "== {path} -> {to}\n").unwrap(),
            Edit::Remove { path } => writeln!(text, "== {path} away\n").unwrap(),
        }
    }
    text
}

#[test]
fn every_mechanism_gets_its_files() {
    let debian = Found { ifupdown: true, systemd: true, sshd: true, ..Found::default() };
    let hosts = "127.0.0.1   localhost\n127.0.1.1   template\n10.1.1.99 cnx6 # before\n10.9.9.9 other\n::1 localhost\n";
    let cases = [
        ("ifupdown.txt", Found { hosts: Some(hosts.into()), ..debian.clone() }, Mechanism::Ifupdown),
        ("alpine.txt", Found { ifupdown: true, openrc_off: true, ..Found::default() }, Mechanism::Ifupdown),
        (
            "networkd.txt",
            Found { networkd: true, resolved: true, ifupdown: true, ..Found::default() },
            Mechanism::Networkd,
        ),
        (
            "netplan.txt",
            Found { netplan: true, networkd: true, resolved: true, ..Found::default() },
            Mechanism::Netplan,
        ),
        (
            "busybox.txt",
            Found { rcs: Some("#!/bin/sh\n/bin/syslogd\n/bin/mount -a\n/bin/udhcpc\n".into()), ..Found::default() },
            Mechanism::Lxc,
        ),
    ];
    for (name, found, mechanism) in cases {
        assert_eq!(prepare::mechanism(&found), mechanism, "{name}");
        let mut text = show(&prepare::network(&found, &both()));
        text.push_str("# ---- without an address of its own ----\n\n");
        text.push_str(&show(&prepare::network(&found, &settings(&[], &[]))));
        compare(name, &text);
    }
}

#[test]
fn the_first_boot_makes_a_copy_a_guest_of_its_own() {
    let found = Found { systemd: true, authorized_keys: Some("ssh-ed25519 AAAA there".into()), ..Found::default() };
    let keys = ["ssh-ed25519 AAAA there".to_owned(), " ssh-ed25519 BBBB new ".to_owned()];
    let mut text = show(&prepare::first_boot(&found, &keys, false, "0123456789abcdef0123456789abcdef"));
    text.push_str("# ---- privileged, nothing to put in ----\n\n");
    text.push_str(&show(&prepare::first_boot(&found, &keys[..1], true, "0123456789abcdef0123456789abcdef")));
    text.push_str("# ---- no systemd ----\n\n");
    text.push_str(&show(&prepare::first_boot(
        &Found::default(),
        &keys[1..],
        false,
        "0123456789abcdef0123456789abcdef",
    )));
    compare("first-boot.txt", &text);
}

const DEBIAN: &str = "# Template used to create this container: /usr/share/lxc/templates/lxc-debian\n\
    lxc.apparmor.profile = generated\nlxc.net.0.type = empty\nlxc.rootfs.path = dir:/var/lib/lxc/cnx6/rootfs\n\
    lxc.include = /usr/share/lxc/config/debian.common.conf\nlxc.tty.max = 4\nlxc.uts.name = cnx6\nlxc.arch = amd64\n";
const OTHERS: &str = "lxc.include = /usr/share/lxc/config/common.conf\nlxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\n\
    # lxc.net.0.hwaddr = a remark\nlxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\nlxc.uts.name = old\n";

fn block<'a>(settings: &'a Settings, further: &'a [String]) -> Block<'a> {
    Block {
        settings,
        ids: Some(Ids { first: 1_879_048_192, count: 65536, idmapped: false }),
        sets_addresses: false,
        without_apparmor: false,
        plugged: "/var/lib/lxc/cnx6/plugged",
        console: "/var/lib/lxc/cnx6/console.log",
        further,
        made_by_us: true,
    }
}

#[test]
fn lxc_configurations_keep_what_others_wrote() {
    let settings = both();
    let further = ["lxc.cgroup2.memory.max = 1G".to_owned()];
    let debian = block(&settings, &further);
    let mut text = format!("# ---- Debian's template ----\n{}", lxc::compose(DEBIAN, &debian));
    let busybox = Block { sets_addresses: true, without_apparmor: true, further: &[], ..debian };
    writeln!(
        text,
        "\n# ---- LXC sets the addresses, no AppArmor ----\n{}",
        lxc::compose("lxc.tty.max = 5\n", &busybox)
    )
    .unwrap();
    writeln!(text, "# ---- privileged ----\n{}", lxc::compose("", &Block { ids: None, ..debian })).unwrap();
    writeln!(text, "# ---- made by others ----\n{}", lxc::compose(OTHERS, &Block { made_by_us: false, ..debian }))
        .unwrap();
    writeln!(
        text,
        "# ---- the script ----\n{}",
        lxc::plugged_script(&settings, Some("'/usr/bin/warren' 'guest' 'plugged' 'cnx6'"))
    )
    .unwrap();
    compare("lxc.txt", &text);
}

#[test]
fn writing_again_changes_nothing_and_only_the_block_is_ours() {
    let (one, two) = (both(), settings(&["10.2.1.6/24"], &["10.2.1.1"]));
    let ours = block(&one, &[]);
    for before in [DEBIAN, OTHERS, "", "lxc.tty.max = 5"] {
        let first = lxc::compose(before, &ours);
        assert_eq!(lxc::compose(&first, &ours), first);
        // Another block in its place, and back.
        assert_eq!(lxc::compose(&lxc::compose(&first, &block(&two, &[])), &ours), first);
        // What somebody adds behind it stays.
        let added = format!("{first}lxc.mount.entry = /srv srv none bind 0 0\n");
        assert!(lxc::compose(&added, &ours).contains("lxc.mount.entry = /srv srv none bind 0 0\n"));
    }
    let cases = [("lxc.arch", "amd64"), ("lxc.rootfs.path", "dir:/var/lib/lxc/cnx6/rootfs"), ("lxc.uts.name", "cnx6")];
    for (key, value) in cases {
        assert_eq!(lxc::value(DEBIAN, key), Some(value));
    }
    assert_eq!(lxc::value(OTHERS, "lxc.net.0.hwaddr"), None);
    assert_eq!(lxc::mapped(OTHERS), [(100_000, 65536), (100_000, 65536)]);
}
