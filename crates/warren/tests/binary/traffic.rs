//! What flows and what must not, as docs/traffic.md says, by connections of programs that are not ours. Beside each
//! that must not pass stands one of its sort that does, so that silence means something.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use crate::common::{lab, tool};
use crate::support::{
    CLIENT, CLIENT6, NEIGHBOUR, NEIGHBOUR6, PUBLIC, PUBLIC6, Running, Scene, Talk, all, at, listen, reaches, seen,
    serve, serve_udp, settle, silent,
};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24", "fd10:1:2::1/64"]
[lan.br3]
address = ["10.1.3.1/24", "fd10:1:3::1/64"]
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.cnx7]
kind = "netns"
lan = "br1"
address = ["10.1.1.7", "fd10:1:1::7"]
[guest.vault]
kind = "netns"
lan = "br2"
address = ["10.1.2.9", "fd10:1:2::9"]
[guest.attic]
kind = "netns"
lan = "br2"
address = ["10.1.2.10", "fd10:1:2::10"]
[guest.far]
kind = "netns"
lan = "br3"
address = ["10.1.3.9", "fd10:1:3::9"]
[[forward]]
listen = "8080"
to = "cnx6:80"
[[forward]]
listen = "8087"
to = "cnx7:80"
[[forward]]
listen = "8089"
to = "far:80"
[[forward]]
listen = "5353/udp"
to = "cnx6:53"
"#;

const GUESTS: [&str; 5] = ["cnx6", "cnx7", "vault", "attic", "far"];

/// The network, with a web server in every place.
fn everywhere(scene: &Scene) -> Vec<Running> {
    let mut servers: Vec<Running> = GUESTS.iter().map(|guest| serve(scene, guest, 80)).collect();
    servers.push(serve(scene, "world", 80));
    servers.push(serve(scene, "neighbour", 80));
    // What the host itself has for others, on every address of its.
    servers.push(serve(scene, "server", 2222));
    servers
}

/// Switched on by others' doing on many a machine, and in every new namespace of some.
pub fn bridge_netfilter(value: u8) {
    for family in ["iptables", "ip6tables", "arptables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        // Where the kernel has no br_netfilter there is nothing to be switched.
        if std::path::Path::new(&path).exists() {
            std::fs::write(path, value.to_string()).unwrap();
        } else {
            assert_eq!(value, 0, "this kernel has no br_netfilter to be tried with");
        }
    }
}

#[test]
fn forwards_lead_to_their_guests_with_the_clients_address_and_nothing_else_comes_in() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _servers = everywhere(&scene);
        for switch in [0, 1] {
            bridge_netfilter(switch);
            all(
                &format!("from outside, br_netfilter {switch}"),
                &[
                    reaches("world", "203.0.113.2:8080", "cnx6", CLIENT).by(CLIENT),
                    reaches("world", "203.0.113.2:8087", "cnx7", CLIENT).by(CLIENT),
                    reaches("world", "203.0.113.2:8089", "far", CLIENT).by(CLIENT),
                    reaches("world", "[2001:db8:113::2]:8080", "cnx6", CLIENT6).by(CLIENT6),
                    reaches("world", "[2001:db8:113::2]:8087", "cnx7", CLIENT6).by(CLIENT6),
                    reaches("neighbour", "203.0.113.2:8080", "cnx6", NEIGHBOUR),
                    reaches("neighbour", "[2001:db8:113::2]:8080", "cnx6", NEIGHBOUR6),
                    // The host's own services are not warren's business.
                    reaches("world", "203.0.113.2:2222", "server", CLIENT).by(CLIENT),
                    reaches("world", "[2001:db8:113::2]:2222", "server", CLIENT6).by(CLIENT6),
                    reaches("neighbour", "203.0.113.2:2222", "server", NEIGHBOUR),
                    // A neighbour, or a router, that sends the private subnet at us.
                    silent("neighbour", "10.1.1.6"),
                    silent("neighbour", "10.1.2.9"),
                    silent("neighbour", "[fd10:1:1::6]"),
                    silent("neighbour", "[fd10:1:2::9]"),
                    silent("world", "10.1.1.6").by(CLIENT),
                    silent("world", "10.1.3.9").by(CLIENT),
                    silent("world", "[fd10:1:1::6]").by(CLIENT6),
                    // The LANs' own gateway addresses.
                    silent("neighbour", "10.1.1.1:2222"),
                    silent("world", "10.1.2.1:2222").by(CLIENT),
                    silent("neighbour", "[fd10:1:1::1]:2222"),
                    // Where a forward listens is no other address of the host's.
                    silent("neighbour", "10.1.1.1:8080"),
                ],
            );
        }
    });
}

#[test]
fn guests_go_out_as_the_public_address_and_reach_no_more_than_they_may() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _servers = everywhere(&scene);
        for switch in [0, 1] {
            bridge_netfilter(switch);
            all(
                &format!("from inside, br_netfilter {switch}"),
                &[
                    reaches("cnx6", CLIENT, "world", PUBLIC),
                    reaches("cnx7", CLIENT, "world", PUBLIC),
                    reaches("far", CLIENT, "world", PUBLIC),
                    reaches("cnx6", "203.0.113.66", "neighbour", PUBLIC),
                    reaches("cnx6", "[2001:db8:100::7]", "world", PUBLIC6),
                    reaches("server", CLIENT, "world", PUBLIC),
                    reaches("server", "[2001:db8:100::7]", "world", PUBLIC6),
                    // Neighbours of one LAN.
                    reaches("cnx6", "10.1.1.7", "cnx7", "10.1.1.6"),
                    reaches("cnx7", "[fd10:1:1::6]", "cnx6", "fd10:1:1::7"),
                    // The host to all of them.
                    reaches("server", "10.1.1.6", "cnx6", "10.1.1.1"),
                    reaches("server", "10.1.2.9", "vault", "10.1.2.1"),
                    reaches("server", "[fd10:1:2::9]", "vault", "fd10:1:2::1"),
                    // Other LANs, their gateways, and the forwards to them.
                    silent("cnx6", "10.1.3.9"),
                    silent("cnx6", "10.1.2.9"),
                    silent("cnx6", "[fd10:1:3::9]"),
                    silent("far", "10.1.1.6"),
                    silent("cnx6", "10.1.3.1:2222"),
                    silent("cnx6", "203.0.113.2:8089"),
                    silent("far", "203.0.113.2:8080"),
                    // The host's own services, at whichever address.
                    silent("cnx6", "10.1.1.1:2222"),
                    silent("cnx6", "203.0.113.2:2222"),
                    silent("cnx6", "[fd10:1:1::1]:2222"),
                    silent("cnx6", "[2001:db8:113::2]:2222"),
                    // No way out of an isolated LAN, nor in.
                    reaches("vault", "10.1.2.10", "attic", "10.1.2.9"),
                    reaches("vault", "[fd10:1:2::10]", "attic", "fd10:1:2::9"),
                    silent("vault", CLIENT),
                    silent("vault", "[2001:db8:100::7]"),
                    silent("vault", "10.1.1.6"),
                    silent("vault", "203.0.113.2:8080"),
                    silent("vault", "10.1.2.1:2222"),
                    silent("vault", "203.0.113.2:2222"),
                ],
            );
            tool("nsenter --net=/run/netns/cnx6 -- ping -c 1 -W 5 10.1.1.1");
            tool("nsenter --net=/run/netns/cnx6 -- ping -c 1 -W 5 198.51.100.7");
            tool("nsenter --net=/run/netns/cnx6 -- ping -c 1 -W 5 2001:db8:100::7");
            tool("nsenter --net=/run/netns/vault -- ping -c 1 -W 5 10.1.2.1");
            let mut ping = at("vault", "ping");
            let lost = ping.args(["-c", "1", "-W", "0.5", CLIENT]).output().unwrap();
            assert_eq!(lost.status.code(), Some(1), "an isolated guest pings the world");
        }
    });
}

#[test]
fn forwards_work_at_the_public_address_from_inside_too() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _servers = everywhere(&scene);
        for switch in [0, 1] {
            bridge_netfilter(switch);
            all(
                &format!("hairpin, br_netfilter {switch}"),
                &[
                    // From a neighbour guest, from the guest itself, from the host.
                    reaches("cnx7", "203.0.113.2:8080", "cnx6", "10.1.1.1"),
                    reaches("cnx6", "203.0.113.2:8080", "cnx6", "10.1.1.1"),
                    reaches("server", "203.0.113.2:8080", "cnx6", PUBLIC),
                    reaches("cnx7", "[2001:db8:113::2]:8080", "cnx6", "fd10:1:1::1"),
                    reaches("cnx6", "[2001:db8:113::2]:8080", "cnx6", "fd10:1:1::1"),
                    reaches("server", "[2001:db8:113::2]:8080", "cnx6", PUBLIC6),
                    // A port that no forward has.
                    silent("cnx7", "203.0.113.2:8099"),
                ],
            );
        }
    });
}

#[test]
fn much_goes_through_and_nothing_of_it_is_lost() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _servers = everywhere(&scene);
        for url in ["http://203.0.113.2:8080/big", "http://[2001:db8:113::2]:8080/big"] {
            let got = at("world", "curl").args(["-sS", "--globoff", "--max-time", "20", url]).output().unwrap();
            assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
            let first = got.stdout.iter().position(|b| *b == b'\n').unwrap();
            assert!(got.stdout.starts_with(b"cnx6 "));
            assert_eq!(got.stdout.len() - first - 1, 1_000_000);
        }
    });
}

#[test]
fn datagrams_are_forwarded_with_the_clients_address() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        serve_udp("cnx6", 53);
        serve_udp("cnx7", 53);
        for switch in [0, 1] {
            bridge_netfilter(switch);
            for (from, to, source) in [
                ("world", "UDP4:203.0.113.2:5353,bind=198.51.100.7", CLIENT),
                ("world", "UDP6:[2001:db8:113::2]:5353,bind=[2001:db8:100::7]", CLIENT6),
                ("neighbour", "UDP4:203.0.113.2:5353", NEIGHBOUR),
                ("cnx7", "UDP4:203.0.113.2:5353", "10.1.1.1"),
                ("cnx6", "UDP4:203.0.113.2:5353", "10.1.1.1"),
                ("server", "UDP4:203.0.113.2:5353", PUBLIC),
                ("cnx6", "UDP4:10.1.1.7:53", "10.1.1.6"),
            ] {
                let heard = Talk::open(from, to).ask("who");
                let who = if to.contains("10.1.1.7") { "cnx7" } else { "cnx6" };
                assert_eq!(seen(&heard), Some((who.to_owned(), source.parse().unwrap())), "{from} to {to}");
            }
            for (from, to) in [
                ("neighbour", "UDP4:10.1.1.6:53"),
                ("far", "UDP4:203.0.113.2:5353"),
                ("far", "UDP4:10.1.1.6:53"),
                // The forward is UDP's alone, and of that port alone.
                ("world", "UDP4:203.0.113.2:8080"),
            ] {
                Talk::open(from, to).is_cut("who");
            }
        }
    });
}

#[test]
fn the_cloud_s_metadata_is_the_host_s_alone() {
    lab(|| {
        let scene = Scene::new();
        tool("ip -n world address add 169.254.169.254/32 dev lo");
        tool("ip -n world address add fd00:ec2::254/128 dev lo nodad");
        scene.up(NETWORK, &GUESTS);
        let _world = serve(&scene, "world", 80);
        all(
            "metadata",
            &[
                reaches("server", "169.254.169.254", "world", PUBLIC),
                reaches("server", "[fd00:ec2::254]", "world", PUBLIC6),
                reaches("cnx6", CLIENT, "world", PUBLIC),
                silent("cnx6", "169.254.169.254"),
                silent("cnx6", "[fd00:ec2::254]"),
                silent("vault", "169.254.169.254"),
            ],
        );
    });
}

#[test]
fn a_public_address_that_changes_needs_nobody_s_help() {
    lab(|| {
        let scene = Scene::new();
        let text = NETWORK.replace("public = [\"203.0.113.2\", \"2001:db8:113::2\"]\n", "");
        assert_ne!(text, NETWORK);
        scene.up(&text, &GUESTS);
        let _servers = everywhere(&scene);
        let at_first = [
            reaches("world", "203.0.113.2:8080", "cnx6", CLIENT).by(CLIENT),
            reaches("world", "[2001:db8:113::2]:8080", "cnx6", CLIENT6).by(CLIENT6),
            reaches("cnx6", CLIENT, "world", PUBLIC),
            reaches("cnx7", "203.0.113.2:8080", "cnx6", "10.1.1.1"),
            silent("cnx6", "203.0.113.2:2222"),
        ];
        all("the first address", &at_first);
        tool("ip address del 203.0.113.2/24 dev eth0");
        tool("ip address add 203.0.113.77/24 dev eth0");
        tool("ip -6 address add 2001:db8:113::77/64 dev eth0 nodad");
        tool("ip -6 address del 2001:db8:113::2/64 dev eth0");
        tool("ip route replace default via 203.0.113.1");
        all(
            "the next address",
            &[
                reaches("world", "203.0.113.77:8080", "cnx6", CLIENT).by(CLIENT),
                reaches("world", "[2001:db8:113::77]:8080", "cnx6", CLIENT6).by(CLIENT6),
                reaches("cnx6", CLIENT, "world", "203.0.113.77"),
                reaches("cnx6", "[2001:db8:100::7]", "world", "2001:db8:113::77"),
                reaches("cnx7", "203.0.113.77:8080", "cnx6", "10.1.1.1"),
                reaches("server", "203.0.113.77:8080", "cnx6", "203.0.113.77"),
                silent("cnx6", "203.0.113.77:2222"),
            ],
        );
        assert!(scene.warren("plan").ends(0).out.contains("Nothing to change"));
    });
}

#[test]
fn datagrams_go_to_the_new_guest_once_the_forward_is_changed() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        serve_udp("cnx6", 53);
        serve_udp("cnx7", 53);
        // One that stays, to see that it does.
        let staying = NETWORK.to_owned() + "[[forward]]\nlisten = \"5354/udp\"\nto = \"cnx6:53\"\n";
        scene.up(&staying, &GUESTS);
        let flow =
            |port: u16, own: u16| Talk::open("world", &format!("UDP4:203.0.113.2:{port},bind=198.51.100.7:{own}"));
        let (mut moved, mut stays) = (flow(5353, 40001), flow(5354, 40002));
        assert_eq!(moved.ask("1"), "cnx6 198.51.100.7 1");
        assert_eq!(moved.ask("2"), "cnx6 198.51.100.7 2", "a flow goes on to where it went");
        assert_eq!(stays.ask("1"), "cnx6 198.51.100.7 1");
        let tracked = |port: u16| tool(&format!("conntrack -L -p udp --orig-port-dst {port}"));
        let before = tracked(5354);
        assert!(before.contains("sport=40002"), "{before}");

        let ran = scene.up(&staying.replacen("to = \"cnx6:53\"", "to = \"cnx7:53\"", 1), &GUESTS);
        assert!(ran.out.contains("1 flows"), "{}", ran.out);
        assert!(tracked(5354).contains("sport=40002"), "the other flow's entry went too");
        assert_eq!(moved.ask("3"), "cnx7 198.51.100.7 3", "a UDP flow went on to the guest that the forward has left");
        assert_eq!(stays.ask("2"), "cnx6 198.51.100.7 2");
        assert!(tracked(5353).contains("src=10.1.1.7"), "{}", tracked(5353));
    });
}

#[test]
fn what_is_established_lives_through_up_and_what_is_revoked_ends() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _echo = listen("cnx6", "TCP4-LISTEN:80,reuseaddr,fork", "EXEC:cat");
        let _world = listen("world", "TCP4-LISTEN:7,reuseaddr,fork", "EXEC:cat");
        let _foreign = listen("world", "TCP4-LISTEN:8,reuseaddr,fork", "EXEC:cat");
        let mut inward = Talk::open("world", "TCP4:203.0.113.2:8080,bind=198.51.100.7");
        let mut outward = Talk::open("cnx7", "TCP4:198.51.100.7:7");
        let mut hairpin = Talk::open("cnx7", "TCP4:203.0.113.2:8080");
        let mut hosts = Talk::open("server", "TCP4:198.51.100.7:8");
        let mut talk = |when: &str| {
            for (i, one) in [&mut inward, &mut outward, &mut hairpin, &mut hosts].into_iter().enumerate() {
                assert_eq!(one.ask(&format!("{i} {when}")), format!("{i} {when}"));
            }
        };
        talk("at first");
        scene.up(NETWORK, &GUESTS);
        talk("after an up that had nothing to do");
        let more = NETWORK.to_owned() + "[[forward]]\nlisten = \"9999\"\nto = \"cnx7:9\"\n";
        scene.up(&more, &GUESTS);
        talk("after an element more");
        let other = more.replace("[lan.br3]", "[lan.br4]\naddress = [\"10.1.4.1/24\"]\n[lan.br3]");
        scene.up(&other, &GUESTS);
        talk("after another LAN");
        // Makes the whole table be written anew. (One that was flushed would have let packets out as they are meanwhile,
        // for without rules the kernel does not even track.)
        tool("nft insert rule inet warren forward counter");
        assert!(scene.warren("plan").ends(0).out.contains("table inet warren"));
        scene.up(&other, &GUESTS);
        talk("after a repair of the whole table");

        let revoked = other.replace("listen = \"8080\"", "listen = \"8081\"");
        scene.up(&revoked, &GUESTS);
        inward.is_cut("after its forward went");
        hairpin.is_cut("after its forward went");
        assert_eq!(outward.ask("still here"), "still here");
        assert_eq!(hosts.ask("still here"), "still here");
        let mut anew = Talk::open("world", "TCP4:203.0.113.2:8081,bind=198.51.100.7");
        assert_eq!(anew.ask("by the new one"), "by the new one");
    });
}

#[test]
fn a_download_comes_whole_while_up_runs_again_and_again() {
    use std::io::Read as _;
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _guest = serve(&scene, "cnx6", 80);
        let mut curl = at("world", "curl");
        curl.args(["-sS", "--max-time", "60", "http://203.0.113.2:8080/huge"]);
        let mut download = Running::start(curl.stdout(std::process::Stdio::piped()));
        let mut pipe = download.0.stdout.take().unwrap();
        let mut begun = [0; 1000];
        pipe.read_exact(&mut begun).unwrap();
        // Nobody reads on for a while, so the guest cannot have sent all of it.
        for round in 0..4 {
            let text = format!("{NETWORK}[[forward]]\nlisten = \"{}\"\nto = \"cnx7:9\"\n", 9000 + round);
            scene.up(&text, &GUESTS);
            assert!(tool("conntrack -L -p tcp --orig-port-dst 8080").contains("ESTABLISHED"));
        }
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).unwrap();
        assert!(download.0.wait().unwrap().success());
        let heading = begun.iter().position(|b| *b == b'\n').unwrap() + 1;
        assert_eq!(begun.len() + rest.len() - heading, 50_000_000);
    });
}

#[test]
fn a_guest_that_takes_another_s_address_is_not_heard() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let _servers = everywhere(&scene);
        for switch in [0, 1] {
            bridge_netfilter(switch);
            // The neighbour's, one that nobody has, and the gateway's; beside its own, by which it is heard.
            for (address, gone) in [("10.1.1.7/24", "cnx7"), ("10.1.1.99/24", ""), ("10.1.1.1/24", "")] {
                tool(&format!("ip -n cnx6 address add {address} dev eth0"));
                let source = address.split('/').next().unwrap();
                let mut tries = vec![
                    reaches("cnx6", CLIENT, "world", PUBLIC).by("10.1.1.6"),
                    silent("cnx6", CLIENT).by(source),
                    reaches("world", "203.0.113.2:8087", "cnx7", CLIENT).by(CLIENT),
                ];
                if gone.is_empty() {
                    tries.push(silent("cnx6", "10.1.1.7").by(source));
                }
                all(&format!("{address} on cnx6, br_netfilter {switch}"), &tries);
                tool(&format!("ip -n cnx6 address del {address} dev eth0"));
            }
            // Who has it: cnx7 alone answers, though cnx6 would like to.
            tool("ip -n cnx6 address add 10.1.1.7/24 dev eth0");
            let asked = tool("arping -c 2 -w 5 -I br1 10.1.1.7");
            let answers: std::collections::BTreeSet<&str> =
                asked.lines().filter_map(|line| line.split(['[', ']']).nth(1)).collect();
            let mac = tool("ip -n cnx7 -br link show eth0").split_whitespace().nth(2).unwrap().to_uppercase();
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), [mac.as_str()], "{asked}");
            tool("ip -n cnx6 address del 10.1.1.7/24 dev eth0");
            // Another's hardware address.
            let own = tool("ip -n cnx6 -br link show eth0").split_whitespace().nth(2).unwrap().to_owned();
            tool("ip -n cnx6 link set eth0 address 02:00:00:00:00:77");
            all("another hardware address", &[silent("cnx6", CLIENT), reaches("cnx7", CLIENT, "world", PUBLIC)]);
            tool(&format!("ip -n cnx6 link set eth0 address {own}"));
            tool("ip -n cnx6 route replace default via 10.1.1.1");
            all("its own again", &[reaches("cnx6", CLIENT, "world", PUBLIC)]);
        }
    });
}

#[test]
fn down_leaves_nothing_that_leads_inside() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let servers = everywhere(&scene);
        all("up", &[reaches("world", "203.0.113.2:8080", "cnx6", CLIENT).by(CLIENT)]);
        drop(servers);
        scene.warren("down").ends(0);
        let _server = serve(&scene, "server", 2222);
        all("down", &[reaches("world", "203.0.113.2:2222", "server", CLIENT).by(CLIENT)]);
        let refused = Command::new("nsenter")
            .args(["--net=/run/netns/world", "--", "curl", "-sS", "--max-time", "10", "http://203.0.113.2:8080"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(7), "CURLE_COULDNT_CONNECT: refused by the host itself");
        assert_eq!(tool("ip netns list").lines().count(), 2);
        assert_eq!(tool("nft list ruleset"), "");
        settle(&[]);
    });
}
