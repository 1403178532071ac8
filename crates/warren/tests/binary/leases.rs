//! Leases and router advertisements, by the clients that people have: dhclient, udhcpc, rdisc6, the kernel's own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Instant;

use kernel::netns::Netns;
use rustix::process::{Signal, kill_process};

use crate::common::{lab, tool};
use crate::serve::{Serve, short};
use crate::support::{CLIENT, PATIENCE, Scene, all, at, reaches, serve as web, settle, silent};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
domain = "cnx.example"
dns = ["198.51.100.7"]
dhcp = "10.1.1.100-10.1.1.103"
mtu = 1400
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
allowed-addresses = ["10.77.0.0/16"]
[guest.cnx7]
kind = "netns"
[[forward]]
listen = "22217/tcp"
to = "cnx7:22"
"#;

/// What a client's script is called with, and what it does: the address and the way out, as clients' own scripts do.
const SCRIPT: &str = r#"#!/bin/sh
env > RESULT.new
case "${reason:-$1}" in
BOUND|RENEW|REBIND|REBOOT|bound|renew)
  ip address flush dev eth0 scope global
  ip address add "${new_ip_address:-$ip}/24" dev eth0
  ip route replace default via "${new_routers:-$router}"
  mv RESULT.new RESULT ;;
esac
exit 0
"#;

/// A station plugged into the switch that the file does not know.
fn stranger(name: &str) {
    for line in [
        format!("ip netns add {name}"),
        format!("ip link add {name} type veth peer name eth0 netns {name}"),
        format!("ip link set {name} master br1 up"),
        format!("ip -n {name} link set lo up"),
        format!("ip -n {name} link set eth0 up"),
    ] {
        tool(&line);
    }
}

/// Has a client ask for a lease: what its script was told; nothing where it got none in its time.
fn lease(scene: &Scene, place: &str, client: &str, name: &str) -> Option<String> {
    let path = |kind: &str| scene.folder().join(format!("{place}-{client}.{kind}")).display().to_string();
    let (script, result) = (path("script"), path("result"));
    fs::write(&script, SCRIPT.replace("RESULT", &result)).unwrap();
    tool(&format!("chmod 755 {script}"));
    let _ = fs::remove_file(&result);
    let mut command = match client {
        "dhclient" => {
            let config = path("conf");
            let options = "subnet-mask, routers, domain-name, domain-name-servers, domain-search, interface-mtu, \
                           rfc3442-classless-static-routes, host-name";
            let rfc3442 = "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;";
            let text = format!("{rfc3442}\nsend host-name \"{name}\";\nrequest {options};\ntimeout 20;\n");
            fs::write(&config, text).unwrap();
            let mut command = at(place, "dhclient");
            command.args(["-4", "-1", "-cf", &config, "-sf", &script, "-lf", &path("leases"), "-pf", &path("pid")]);
            command.arg("eth0");
            command
        }
        _ => {
            let mut command = at(place, "busybox");
            command.args(["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "4", "-T", "2", "-s", &script]);
            command.args(["-x", &format!("hostname:{name}"), "-O", "search"]);
            command
        }
    };
    let output = command.stdin(Stdio::null()).output().unwrap();
    if client == "dhclient" && output.status.success() {
        // It goes on in the background, and writes down as whom.
        let deadline = Instant::now() + PATIENCE;
        let pid = loop {
            match fs::read_to_string(path("pid")) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => assert!(Instant::now() < deadline, "dhclient does not say its process"),
            }
        };
        tool(&format!("kill {}", pid.trim()));
    }
    let told = fs::read_to_string(&result).ok();
    assert!(told.is_some() || !output.status.success(), "{client}: {}", String::from_utf8_lossy(&output.stderr));
    told
}

fn value<'a>(told: &'a str, key: &str) -> &'a str {
    told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

#[test]
fn a_guest_without_an_address_is_leased_its_own_and_is_reached_at_it() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        let status = scene.warren("--json status").ends(0).json();
        let own = status["guests"][1]["addresses"][0].as_str().unwrap().to_owned();
        assert!(!tool("ip -n cnx7 address show eth0").contains(&own), "it is to ask for it");
        let told = lease(&scene, "cnx7", "dhclient", "cnx6").expect("dhclient is given a lease");
        for (key, expected) in [
            ("new_ip_address", own.as_str()),
            ("new_subnet_mask", "255.255.255.0"),
            ("new_routers", "10.1.1.1"),
            ("new_domain_name", "cnx.example"),
            ("new_domain_name_servers", "10.1.1.1"),
            ("new_interface_mtu", "1400"),
            ("new_host_name", "cnx7"),
            // 10.77/16 by the guest that it lies behind, and all else by the gateway.
            ("new_rfc3442_classless_static_routes", "16 10 77 10 1 1 6 0 10 1 1 1"),
        ] {
            assert_eq!(value(&told, key), expected, "{key} in\n{told}");
        }
        // The address works at its port, by its name, and from outside.
        assert_eq!(short("cnx6", "cnx7.cnx.example @10.1.1.1"), own);
        assert_eq!(short("cnx7", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        tool("nsenter --net=/run/netns/cnx7 -- ping -c 1 -w 10 198.51.100.7");
        let _web = web(&scene, "cnx7", 22);
        let by_forward = reaches("world", "203.0.113.2:22217", "cnx7", CLIENT).by(CLIENT);
        all("leased", &[by_forward, silent("world", &format!("{own}:22"))]);
        // The same for another client, and while the supervisor is away.
        kill_process(serve.pid(), Signal::KILL).unwrap();
        let told = lease(&scene, "cnx7", "udhcpc", "cnx7").expect("udhcpc is given a lease");
        assert_eq!((value(&told, "ip"), value(&told, "router")), (own.as_str(), "10.1.1.1"));
        assert_eq!(value(&told, "search"), "cnx.example");
        drop(serve);
        scene.warren("down").ends(0);
    });
}

#[test]
fn strangers_are_leased_the_range_and_nothing_that_is_anybodys() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        let status = scene.warren("--json status").ends(0).json();
        let pinned = status["guests"][1]["addresses"][0].as_str().unwrap().to_owned();
        for name in ["s1", "s2", "s3", "squatter"] {
            stranger(name);
        }
        // One of the range's is somebody's who was not given it.
        let range = (100..104).map(|last| format!("10.1.1.{last}"));
        let free: Vec<String> = range.filter(|address| *address != pinned).collect();
        tool(&format!("ip -n squatter address add {}/24 dev eth0", free[0]));
        let first = lease(&scene, "s1", "udhcpc", "laptop").expect("a lease");
        let second = lease(&scene, "s2", "dhclient", "cnx6").expect("another");
        let mut given = [value(&first, "ip").to_owned(), value(&second, "new_ip_address").to_owned()];
        assert_eq!(short("cnx6", "laptop.cnx.example @10.1.1.1"), given[0]);
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6", "a name of the file's is nobody else's");
        // Both are dead, the file is torn: leases hold.
        let worker = serve.worker();
        kill_process(serve.pid(), Signal::KILL).unwrap();
        kill_process(worker, Signal::KILL).unwrap();
        drop(serve);
        let path = scene.folder().join("state/leases");
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"0123abcd {\"lan\":\"br1\",\xff");
        fs::write(&path, text).unwrap();
        let serve = Serve::start(&scene);
        assert_eq!(short("cnx6", "laptop.cnx.example @10.1.1.1"), given[0]);
        let status = scene.warren("--json status").ends(0).json();
        assert_eq!(status["services"]["leases"].as_array().unwrap().len(), 2, "{}", status["services"]);
        let again = lease(&scene, "s1", "udhcpc", "laptop").expect("the same again");
        assert_eq!(value(&again, "ip"), given[0]);
        given.sort_unstable();
        assert_eq!(given[..], free[1..], "neither the guest's nor the squatter's");
        // Nothing is left, and nobody is given what is another's.
        assert_eq!(lease(&scene, "s3", "udhcpc", "s3"), None);
        let status = scene.warren("--json status").ends(0).json();
        assert!(status["services"]["dhcp"]["exhausted"].as_u64().unwrap() > 0, "{}", status["services"]);
        let own = lease(&scene, "cnx7", "udhcpc", "cnx7").expect("a guest's own is kept for it");
        assert_eq!(value(&own, "ip"), pinned);
        drop(serve);
        scene.warren("down").ends(0);
    });
}

/// A DISCOVER of that client.
fn discover(client: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![0u8; 236];
    bytes[0..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&client);
    bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    bytes
}

#[test]
fn clients_that_are_not_who_they_say_and_what_is_no_message_are_counted_and_not_answered() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        let socket = Netns::open("cnx6").unwrap().run(|| UdpSocket::bind((Ipv4Addr::new(10, 1, 1, 6), 68))).unwrap();
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let counts = || scene.warren("--json status").ends(0).json()["services"]["dhcp"].clone();
        let send = |bytes: &[u8]| socket.send_to(bytes, "10.1.1.1:67").unwrap();
        send(&discover([2, 0, 0, 9, 9, 9]));
        send(b"no message");
        send(&discover([2, 0, 0, 9, 9, 9])[..240]);
        // Beside them one that is answered.
        let link = tool("ip -n cnx6 -o link show eth0");
        let mac = link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let own: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        send(&discover(own.try_into().unwrap()));
        let mut buffer = [0; 1500];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.to_string(), "10.1.1.1:67");
        assert_eq!(buffer[16..20], [10, 1, 1, 6], "the one that was asked by right");
        assert!(length >= 300);
        let seen = counts();
        assert_eq!(
            (&seen["wrong_mac"], &seen["malformed"], &seen["offers"]),
            (&1.into(), &2.into(), &1.into()),
            "{seen}"
        );
        drop(serve);
        scene.warren("down").ends(0);
    });
}

#[test]
fn routers_tell_prefix_resolver_and_domain_and_stations_make_their_addresses() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        settle(&["cnx7"]);
        let output = Command::new("nsenter")
            .args(["--net=/run/netns/cnx7", "--", "rdisc6", "-1", "-w", "8000", "eth0"])
            .output();
        let told = String::from_utf8(output.expect("rdisc6 is needed").stdout).unwrap();
        for words in [
            "fd10:1:1::/64",
            "Recursive DNS server     : fd10:1:1::1",
            "DNS search list          : cnx.example",
            "1400 bytes",
        ] {
            assert!(told.contains(words), "{words:?} in\n{told}");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let addresses = tool("ip -n cnx7 -6 address show dev eth0 scope global");
            let routes = tool("ip -n cnx7 -6 route show default");
            if addresses.contains("fd10:1:1:") && !addresses.contains("tentative") && routes.contains("via fe80") {
                break;
            }
            assert!(Instant::now() < deadline, "no address by advertisement:\n{addresses}\n{routes}\n{told}");
        }
        tool("nsenter --net=/run/netns/cnx7 -- ping -6 -c 1 -w 10 2001:db8:100::7");
        drop(serve);
        scene.warren("down").ends(0);
    });
}
