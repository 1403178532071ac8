//! What changes in the file while guests run, and guests of another hand.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use crate::common::tool;
use crate::lab::{Place, lab};
use crate::support::{Ran, which};

const BR2: &str = "[lan.br2]\naddress = [\"10.2.1.1/24\"]\n";

fn answers(address: &str) -> bool {
    Ran::of(Command::new("ping").args(["-c", "1", "-W", "2", address])).code == Some(0)
}

#[test]
fn a_changed_network_is_carried_into_a_guest_that_runs() {
    lab(|| {
        let place = Place::new();
        let table = |lan: &str, address: &str, more: &str| {
            format!("lan = \"{lan}\"\naddress = {address}\ntemplate = \"busybox\"\n{more}")
        };
        let write = |lan: &str, address: &str, more: &str| place.write(&[("cnx6", &table(lan, address, more))], BR2);
        let pid = || place.warren("--json guest list").json()["guests"][0]["pid"].clone();
        write("br1", "[\"10.1.1.6\"]", "");
        place.warren("up").ends(0);
        let first = pid();
        assert!(answers("10.1.1.6"));
        place.warren("plan --exit-code").says(0, &["Nothing to change"]);

        write("br1", "[\"10.1.1.66\", \"10.1.1.67\"]", "");
        place.warren("plan --exit-code").says(3, &["~ guest cnx6: change its settings"]);
        place.warren("up").says(0, &["cnx6: changed"]);
        assert!(answers("10.1.1.66") && answers("10.1.1.67") && !answers("10.1.1.6"));
        place
            .inside("cnx6", "ping -c 1 -W 2 198.51.100.7; cat /etc/hosts")
            .says(0, &["1 packets received", "10.1.1.66\tcnx6"]);

        // Another hardware address, and only the second of the addresses.
        write("br1", "[\"10.1.1.67\"]", "mac = \"02:00:00:00:00:67\"");
        place.warren("up").ends(0);
        place.inside("cnx6", "ip link show eth0").says(0, &["02:00:00:00:00:67"]);
        place.inside("cnx6", "ping -c 1 -W 2 198.51.100.7").ends(0);
        assert!(answers("10.1.1.67"));

        // To another LAN.
        write("br2", "[\"10.2.1.6\"]", "");
        place.warren("up").ends(0);
        let links = tool("bridge link");
        assert!(links.lines().any(|line| line.contains(" cnx6@") && line.contains("master br2")), "{links}");
        assert!(answers("10.2.1.6"));
        place.inside("cnx6", "ping -c 1 -W 2 10.2.1.1 && ping -c 1 -W 2 198.51.100.7").ends(0);
        assert_eq!(pid(), first, "it was restarted");
        place.warren("plan --exit-code").says(0, &["Nothing to change"]);

        // All of it is so after a restart, too.
        place.warren("guest restart cnx6").ends(0);
        assert!(answers("10.2.1.6"));
        let said = place.inside("cnx6", "ip -4 address show dev eth0; ip route").ends(0).out;
        assert!(said.contains("10.2.1.6/24") && said.contains("via 10.2.1.1") && !said.contains("10.1.1."), "{said}");

        // What only a start takes up is told: beforehand, and when it is done.
        let text = fs::read_to_string(&place.scene.config).unwrap();
        place.scene.write(&text.replace("config = [", "config = [\"lxc.environment = HAND=mine\", "));
        for command in ["plan", "up"] {
            place
                .warren(command)
                .says(0, &["cnx6", "its new configuration holds from its next start: `warren guest restart cnx6`"]);
        }
        place.warren("guest restart cnx6").ends(0);
        place.warren("plan --exit-code").says(0, &["Nothing to change"]);
        write("br2", "[\"10.2.1.6\"]", "privileged = true");
        place.warren("plan").says(0, &["`privileged` holds from a guest's making on"]);
        place.warren("up").says(0, &["`privileged` holds from a guest's making on"]);
        place.warren("down --guests").ends(0);
    });
}

#[test]
fn a_container_of_another_hand_is_taken_on_by_naming_it() {
    lab(|| {
        let place = Place::new();
        fs::create_dir(&place.lxc).unwrap();
        let config = place.scene.folder().join("old.conf");
        fs::write(
            &config,
            "# made by hand\nlxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\nlxc.net.0.flags = up\n\
             lxc.net.0.ipv4.address = 10.1.1.50/24\nlxc.net.0.ipv4.gateway = auto\nlxc.apparmor.profile = unconfined\n\
             lxc.environment = HAND=mine\n",
        )
        .unwrap();
        tool(&format!("{} -n old -P {} -t busybox -f {}", which("lxc-create"), place.lxc.display(), config.display()));
        fs::write(place.disk("old").join("etc/hostname"), "its-own\n").unwrap();
        fs::write(place.disk("old").join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        place.write(&[("old", "address = [\"10.1.1.50\"]")], "");
        place.warren("up").says(0, &["old: running"]);
        assert!(answers("10.1.1.50"));
        place.inside("old", "ping -c 1 -W 2 198.51.100.7").ends(0);
        let inside = place.inside("old", "cat /etc/hostname /etc/resolv.conf; cat /proc/self/uid_map").ends(0).out;
        assert!(inside.starts_with("its-own\nnameserver 192.0.2.1\n"), "{inside}");
        assert!(inside.contains("4294967295"), "it was privileged, and stays so: {inside}");
        let config = fs::read_to_string(place.lxc.join("old/config")).unwrap();
        for line in
            ["# made by hand", "lxc.environment = HAND=mine", "lxc.net.0.link = br1", "lxc.net.0.veth.pair = old"]
        {
            assert!(config.contains(line), "{line}:\n{config}");
        }
        assert!(!config.contains("lxcbr0"), "{config}");
        place.warren("plan --exit-code").says(0, &["Nothing to change"]);
        place.warren("down").ends(0);
        place.warren("up").says(0, &["old: plugged in"]);
        assert!(answers("10.1.1.50"));
        place.warren("down --guests").ends(0);
        place.warren("guest destroy --yes old").ends(0);
        place.has_nothing_of("old");
    });
}
