//! `init` on servers of five kinds: what it writes is valid, holds in a rehearsal, and comes up there.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{PATIENCE, Running, Scene, at, settle};

/// The LAN's addresses in a file that `init` wrote, with one of a guest's for each.
fn addresses(text: &str) -> (Vec<ipnet::IpNet>, Vec<String>) {
    let line = text.lines().find(|line| line.starts_with("address = ")).unwrap();
    let nets: Vec<ipnet::IpNet> = line.split('"').skip(1).step_by(2).map(|net| net.parse().unwrap()).collect();
    let guests = nets.iter().map(|net| {
        let text = net.addr().to_string();
        format!("{}6", text.strip_suffix('1').unwrap())
    });
    let guests = guests.collect();
    (nets, guests)
}

fn pings(from: &str, to: &str) -> bool {
    let mut ping = at(from, "ping");
    ping.args(["-n", "-c", "1", "-W", "1", to]);
    ping.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[track_caller]
fn reaches(from: &str, to: &str) {
    let begun = Instant::now();
    while !pings(from, to) {
        assert!(begun.elapsed() < PATIENCE, "{from} does not reach {to}");
    }
}

/// From nothing to a guest that goes out, and back. `said` stands in the file, `silent` answers no guest, and `world`
/// does; `uncommented` is what the owner takes the `#` off.
fn comes_up(scene: &Scene, said: &[&str], uncommented: &[&str], world: &[&str], silent: &[&str]) {
    settle(&[]);
    let before = take();
    scene.warren("init").says(0, &["is written", "warren rehearse"]);
    let text = std::fs::read_to_string(&scene.config).unwrap();
    for words in said {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    // What is there is somebody's work.
    scene.warren("init").says(1, &["is there already", "--print"]);
    assert_eq!(std::fs::read_to_string(&scene.config).unwrap(), text);
    assert_same(&before, &take(), "init changes nothing");
    scene.warren("validate").says(0, &["valid"]);
    scene.warren("rehearse").ends(0);
    scene.warren("up").ends(0);
    let (nets, guests) = addresses(&text);
    for net in &nets {
        assert!(tool("ip address show").contains(&net.to_string()), "{net}");
    }

    let list: Vec<String> = guests.iter().map(|address| format!("\"{address}\"")).collect();
    let mut whole = format!("{text}\n[guest.probe]\nkind = \"netns\"\naddress = [{}]\n", list.join(", "));
    for line in uncommented {
        assert!(whole.contains(&format!("# {line}")), "{line:?} is not in\n{text}");
        whole = whole.replace(&format!("# {line}"), line);
    }
    scene.write(&whole);
    scene.warren("up").ends(0);
    settle(&["probe"]);
    world.iter().for_each(|to| reaches("probe", to));
    for to in silent {
        reaches("server", to);
        assert!(!pings("probe", to), "a guest reaches {to}");
    }
    scene.warren("rehearse").ends(0);
    scene.warren("down").ends(0);
    settle(&[]);
    assert_same(&before, &take(), "down");
}

#[test]
fn a_server_with_fixed_addresses() {
    lab(|| {
        let scene = Scene::new();
        let said = ["uplink = \"eth0\"", "public = [\"203.0.113.2\", \"2001:db8:113::2\"]", "2001:db8:113:0:1::1/80"];
        comes_up(&scene, &said, &[], &["198.51.100.7", "2001:db8:100::7"], &[]);
    });
}

#[test]
fn a_server_whose_address_is_leased() {
    lab(|| {
        let scene = Scene::new();
        tool("ip address flush dev eth0 scope global");
        let folder = scene.folder().display();
        let mut dnsmasq = at("world", "dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--port=0", "--interface=segment", "--bind-interfaces"]);
        dnsmasq.args([
            "--conf-file=/dev/null",
            "--dhcp-range=203.0.113.150,203.0.113.180,255.255.255.0,1h",
            "--no-ping",
        ]);
        dnsmasq.args([
            "--user=root",
            &format!("--dhcp-leasefile={folder}/leases"),
            &format!("--pid-file={folder}/pid"),
        ]);
        let _leases = Running::start(dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let script = scene.folder().join("got");
        let lines = "#!/bin/sh\n[ \"$1\" = bound ] && ip address replace $ip/24 dev $interface valid_lft $lease preferred_lft \
                     $lease && ip route replace default via $router\nexit 0\n";
        std::fs::write(&script, lines).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut client = Command::new("busybox");
        client.args(["udhcpc", "-i", "eth0", "-f", "-t", "50", "-T", "1", "-s"]).arg(&script);
        let _client = Running::start(client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let begun = Instant::now();
        while !tool("ip -4 address show dev eth0").contains("203.0.113.1") || !tool("ip route").contains("default") {
            assert!(begun.elapsed() < PATIENCE, "no lease");
            std::thread::sleep(Duration::from_millis(50));
        }
        comes_up(&scene, &["configured by", "leased or learnt"], &[], &["198.51.100.7"], &[]);
        assert!(!std::fs::read_to_string(&scene.config).unwrap().contains("\npublic"));
    });
}

#[test]
fn a_server_with_a_gateway_on_the_link_and_a_64() {
    lab(|| {
        let scene = Scene::new();
        for line in [
            "ip address flush dev eth0 scope global",
            "ip address add 203.0.113.77/32 dev eth0",
            "ip route add 172.31.1.1 dev eth0",
            "ip route replace default via 172.31.1.1 dev eth0",
            "ip -6 address add 2001:db8:1:2::2/64 dev eth0 nodad",
            "ip -6 route replace default via fe80::1 dev eth0",
            "ip -n world address flush dev segment scope global",
            "ip -n world address add 172.31.1.1/32 dev segment",
            "ip -n world route add 203.0.113.77 dev segment",
            "ip -n world -6 address add fe80::1/64 dev segment nodad",
            "ip -n world -6 route add 2001:db8:1:2::/64 dev segment",
        ] {
            tool(line);
        }
        let said = ["172.31.1.1 is in none of its networks", "2001:db8:1:2:1::1/80", "\"203.0.113.77\""];
        comes_up(&scene, &said, &[], &["198.51.100.7", "2001:db8:100::7"], &[]);
    });
}

#[test]
fn a_server_in_an_office() {
    lab(|| {
        let scene = crate::bridged::office();
        let said = ["(10.0.0.100", "# mode  = \"bridged\"", "# ports = [\"eth0\"]"];
        comes_up(&scene, &said, &[], &["198.51.100.7"], &[]);
    });
}

#[test]
fn a_server_with_docker_and_a_vpn() {
    lab(|| {
        let scene = Scene::new();
        for line in [
            "ip link add docker0 type bridge",
            "ip address add 172.17.0.1/16 dev docker0",
            "ip link set docker0 up",
            "ip netns add container",
            "ip link add veth0 type veth peer name eth0 netns container",
            "ip link set veth0 master docker0 up",
            "ip -n container link set eth0 up",
            "ip -n container address add 172.17.0.2/16 dev eth0",
            "ip -n container route add default via 172.17.0.1",
            // The VPN: another machine at the end of a wire of its own, with the first of the networks that are proposed.
            "ip netns add vpn",
            "ip link add wg0 type veth peer name eth0 netns vpn",
            "ip link set wg0 up",
            "ip address add 10.1.0.2/32 peer 10.1.0.1/32 dev wg0",
            "ip route add 10.1.0.0/16 dev wg0",
            "ip -n vpn link set eth0 up",
            "ip -n vpn address add 10.1.0.1/16 dev eth0",
            "ip -n vpn route add default via 10.1.0.2",
            // As Docker has it: forwarding on, and what is not its own dropped.
            "sysctl -q net.ipv4.ip_forward=1",
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            "iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        ] {
            tool(line);
        }
        let said =
            ["docker0 (Docker): 172.17.0.0/16", "wg0 (a VPN)", "10.1.0.0/16", "chain ip filter FORWARD", "10.2.1.1/24"];
        comes_up(&scene, &said, &["fix-foreign = true"], &["198.51.100.7"], &["172.17.0.2", "10.1.0.1"]);
    });
}

#[test]
fn who_may_not_write_is_told_and_print_shows_it_all_the_same() {
    lab(|| {
        let scene = Scene::new();
        let shown = scene.warren("init --print").ends(0).out;
        assert!(shown.contains("[lan.br1]") && !scene.config.exists(), "{shown}");
        let nowhere = scene.folder().join("new/folder/warren.toml");
        let mut elsewhere = scene.command();
        crate::support::Ran::of(elsewhere.arg("-c").arg(&nowhere).arg("init")).ends(0);
        assert_eq!(std::fs::read_to_string(nowhere).unwrap().trim_end(), shown.trim_end());
        let document = scene.warren("--json init").ends(0).json();
        assert_eq!(document["text"], std::fs::read_to_string(&scene.config).unwrap());
    });
}
