//! Neighbours that are kept apart, and LANs that are a part of the uplink's own subnet.

use std::path::Path;
use std::time::{Duration, Instant};

use kernel::apply::Engine;
use lab::{Capture, Lab, LabPlan, Prober, Vantage};
use model::network::load;
use model::probe::{Expect, Packet, PacketKind, Probe, Spot};

use crate::common::{must, tool};
use crate::{CONFIG, NEIGHBOURS, Stand, guest, read};

const APART: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.flat]
address = ["10.1.1.1/24", "fd00:1:1::1/64"]
port-isolation = true
taps = ["tap1"]
[lan.cell]
mode = "isolated"
address = ["10.1.2.1/24", "fd00:1:2::1/64"]
port-isolation = true
[guest.a]
kind = "netns"
lan = "flat"
address = ["10.1.1.6", "fd00:1:1::6"]
[guest.b]
kind = "netns"
lan = "flat"
address = ["10.1.1.7", "fd00:1:1::7"]
[guest.c]
kind = "netns"
lan = "flat"
address = ["10.1.1.8", "fd00:1:1::8"]
[guest.x]
kind = "netns"
lan = "cell"
address = ["10.1.2.6", "fd00:1:2::6"]
[guest.y]
kind = "netns"
lan = "cell"
address = ["10.1.2.7", "fd00:1:2::7"]
[[forward]]
listen = "2222"
to = "c:22"
[[allow]]
from = ["a"]
to = ["b"]
ports = ["22/tcp"]
"#;

pub fn neighbours_are_kept_apart() {
    let mut stand = Stand::up(APART);
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
        let rows = |row: &str| stand.probes().iter().filter(|probe| probe.row == row).count();
        assert_eq!(["allow", "G-G-apart", "G-H-forward"].map(rows), [2, 28, 4]);
    }
    // The bridge itself keeps them apart, but for who is reached at the public address.
    let isolated = |stand: &Stand, port: &str| {
        let shown = stand.server(&format!("bridge -details link show dev {port}"));
        assert!(shown.contains("isolated"), "{shown}");
        shown.contains("isolated on")
    };
    let ports = ["a", "b", "c", "x", "y", "tap1"].map(|port| isolated(&stand, port));
    assert_eq!(ports, [true, true, false, true, true, true]);
    // A guest that finds out whether its address is free is not told by the host that it is not.
    must(&guest("b"), "sysctl -q -w net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=1");
    must(&guest("b"), "ip -6 address del fd00:1:1::7/64 dev eth0");
    must(&guest("b"), "ip -6 address add fd00:1:1::7/64 dev eth0");
    let start = Instant::now();
    let shown = loop {
        let shown = must(&guest("b"), "ip -6 address show dev eth0 to fd00:1:1::7");
        if shown.contains("dadfailed") || !shown.contains("tentative") {
            break shown;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(!shown.contains("dadfailed"), "{shown}");
    // What somebody changed is put back.
    stand.server("bridge link set dev a isolated off");
    stand.server("ip -6 neigh del proxy fd00:1:1::6 dev flat");
    stand.server("sysctl -q -w net.ipv4.conf.flat.proxy_arp_pvlan=0 net.ipv6.conf.flat.proxy_ndp=0");
    stand.again(APART);
    assert!(isolated(&stand, "a"));
    stand.holds();
    // And what the file takes back, is.
    let open = APART.replace("port-isolation = true", "");
    stand.again(&open);
    assert!(!isolated(&stand, "a"));
    assert_eq!(stand.server("ip -6 neigh show proxy"), "");
    stand.holds();
}

const CARVED: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.part]
address = ["10.1.1.1/24", "2001:db8:113:0:1::1/80"]
[lan.open]
address = ["2001:db8:113:0:2::1/80"]
ingress = "allow"
[guest.a]
kind = "netns"
lan = "part"
address = ["10.1.1.6", "2001:db8:113:0:1::6"]
[guest.b]
kind = "netns"
lan = "part"
address = ["10.1.1.7", "2001:db8:113:0:1::7"]
[guest.o]
kind = "netns"
lan = "open"
address = ["2001:db8:113:0:2::6"]
[[forward]]
listen = "2222"
to = "a:22"
[[allow]]
from = ["world"]
to = ["b"]
ports = ["22/tcp"]
"#;

pub fn a_part_of_the_uplinks_own_subnet() {
    let mut stand = Stand::up(CARVED);
    assert!(stand.lab.plan().segments.iter().any(|s| s.prefix == "2001:db8:113::/64".parse().unwrap()));
    for on in [true, false] {
        stand.br_netfilter(on);
        stand.holds();
    }
    // Nobody else sends it here: a neighbour asks on the link, and is answered by the host for guests alone.
    let asks = |address: &str| {
        let _ = tool(stand.lab.neighbour(), "ip -6 neigh flush dev eth0");
        let _ = tool(stand.lab.neighbour(), &format!("ping -6 -c 1 -W 3 {address}"));
        must(stand.lab.neighbour(), &format!("ip -6 neigh show {address}"))
    };
    assert!(asks("2001:db8:113:0:2::6").contains("lladdr"), "a guest");
    assert!(asks("2001:db8:113:0:1::6").contains("lladdr"), "a guest that is closed");
    for address in ["2001:db8:113:0:1::1", "2001:db8:113:0:1::99"] {
        let seen = asks(address);
        assert!(!seen.contains("lladdr"), "{address}: {seen}");
    }
    stand.again(&CARVED.replace("[[allow]]\nfrom = [\"world\"]", "[[allow]]\nfrom = [\"192.0.2.0/24\"]"));
    stand.holds();
    stand.down();
    let left = stand.server("ip -6 neigh show proxy");
    assert_eq!(left, "");
    for switch in ["proxy_ndp", "forwarding"] {
        assert_eq!(stand.server(&format!("sysctl -n net.ipv6.conf.eth0.{switch}")).trim(), "0", "{switch}");
    }
}

/// A default route that the host learnt from its router is there after `up`, without another advertisement, and is
/// learnt again afterwards.
pub fn the_host_keeps_its_own_way_out() {
    for text in [CARVED, NEIGHBOURS] {
        let sketch = read(text);
        let lab = Lab::build(LabPlan::of(&sketch).unwrap()).unwrap();
        must(lab.server(), "sysctl -q -w net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.accept_ra_defrtr=1");
        let learnt = || must(lab.server(), "ip -6 route show default proto ra");
        let advertise = || {
            let source = "fe80::1".parse().unwrap();
            let frame = model::probe::Frame {
                ether_source: model::address::Mac::derived(&["router"]),
                ether_destination: model::address::Mac([0x33, 0x33, 0, 0, 0, 1]),
                content: model::probe::Content::Route { source },
            };
            let probe = Probe {
                name: "a router speaks".to_owned(),
                row: String::new(),
                from: Spot::Neighbour,
                packet: Packet { to: "ff02::1".parse().unwrap(), kind: PacketKind::Frame(frame) },
                expect: Expect::Blocked { at: Vec::new() },
            };
            let netns = lab.neighbour().try_clone().unwrap();
            let vantage = Vantage { spot: Spot::Neighbour, netns, capture: Capture::Incoming };
            Prober::open(&[vantage]).unwrap().run(&[probe]).unwrap();
            let start = Instant::now();
            while learnt().is_empty() {
                assert!(start.elapsed() < Duration::from_secs(20), "no route is learnt");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        advertise();
        let before = learnt();
        let facts = lab.server().run(|| kernel::facts::gather().unwrap()).unwrap();
        let mut network = load(text, &facts).unwrap_or_else(|problems| panic!("{problems:#?}")).1;
        Lab::stand_in(&mut network);
        let folder = tempfile::tempdir().unwrap();
        let engine = || Engine::new(&folder.path().join("state"), &folder.path().join("run")).unwrap();
        let up = || engine().up(&network, Path::new(CONFIG), false, &mut |_, _| Ok(())).map(drop);
        lab.server().run(up).unwrap().unwrap();
        assert!(before.contains("fe80::1") && learnt().contains("fe80::1"), "{before}: {}", learnt());
        must(lab.server(), "ip -6 route del default proto ra");
        advertise();
        lab.server().run(|| engine().down(&mut |_, _| Ok(())).map(drop)).unwrap().unwrap();
        assert_eq!(must(lab.server(), "sysctl -n net.ipv6.conf.eth0.accept_ra").trim(), "1");
        assert!(learnt().contains("fe80::1"), "it is there after down");
    }
}
