//! A container on a bridged LAN: its address is the outer network's, and whoever stands there reaches it.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Instant;

use crate::common::tool;
use crate::lab::{GROUPS, Place, lab};
use crate::support::{PATIENCE, Ran, Running, at};

/// The outer network's router leases, from 203.0.113.150 on.
fn leases(place: &Place) -> Running {
    let folder = place.scene.folder().display();
    let mut dnsmasq = at("world", "dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--port=0", "--interface=segment", "--bind-interfaces"]);
    dnsmasq.args(["--conf-file=/dev/null", "--dhcp-range=203.0.113.150,203.0.113.180,255.255.255.0,1h"]);
    dnsmasq.args(["--no-ping", "--user=root"]);
    dnsmasq.arg(format!("--dhcp-leasefile={folder}/leases")).arg(format!("--pid-file={folder}/dnsmasq.pid"));
    Running::start(dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

fn get(from: &str, url: &str) -> Ran {
    Ran::of(at(from, "curl").args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", url]))
}

#[test]
fn a_container_has_its_address_from_the_outer_network() {
    lab(|| {
        let place = Place::new();
        let _leases = leases(&place);
        let groups = std::env::var(GROUPS).unwrap();
        place.scene.write(&format!(
            "[host]\nuplink = \"eth0\"\n[lan.br0]\nmode = \"bridged\"\nports = [\"eth0\"]\n\
             [guest.rest]\nconfig = [\"lxc.cgroup.dir = {groups}\"]\ntemplate = \"busybox\"\n"
        ));
        let before = tool("ip -o link");
        place.warren("up").says(0, &["The network is up", "rest: running"]);
        place.warren("confirm").ends(0);
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            let shown = place.inside("rest", "ip -4 -o address show dev eth0").out;
            let net = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1);
            if let Some(net) = net {
                break net.split('/').next().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "no lease came: {shown}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        let lease = std::fs::read_to_string(place.scene.folder().join("leases")).unwrap();
        assert!(address.starts_with("203.0.113.1") && lease.contains(&address), "{address}: {lease}");
        place.inside("rest", "mkdir -p /www && echo rest > /www/index.html && httpd -p 80 -h /www").ends(0);
        assert_eq!(get("neighbour", &format!("http://{address}/")).ends(0).out, "rest\n");
        place.inside("rest", "ping -c 1 -W 5 198.51.100.7").says(0, &["1 packets received"]);
        // By its own hardware address, which is not the server's.
        let mac = place.inside("rest", "cat /sys/class/net/eth0/address").ends(0).out.trim().to_owned();
        let known = tool(&format!("ip -n neighbour neighbour show {address}"));
        assert!(known.contains(&mac) && !tool("ip -o link show br0").contains(&mac), "{known}");
        assert!(lease.contains(&mac), "{lease}");
        // The server is somebody else, and has nothing there.
        get("neighbour", "http://203.0.113.2/").ends(7);
        place.warren("plan --exit-code").ends(0);
        place.warren("down --guests").ends(0);
        assert_eq!(tool("ip -o link"), before);
    });
}
