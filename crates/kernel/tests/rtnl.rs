//! Links, addresses, routes and neighbours in real namespaces, compared with what iproute2 tells of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use common::{lab, mac, name, net, plug, rtnl, tool, up, without_detection};
use kernel::netns::Netns;
use kernel::rtnl::{GROUP, LinkChange, NewRoute, Rtnl, VethPeer, header};
use kernel::sysctl;
use model::state::{IpFamilyWord, Sysctl};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_bridge_is_made_as_it_must_be() {
    lab(|| {
        let br1 = name("br1");
        let own = mac("02:00:5e:10:00:01");
        rtnl().create_bridge(&br1, Some(own), 1400, "warren: lan br1").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        let seen = rtnl().link(&br1).unwrap();
        assert_eq!(seen.kind.as_deref(), Some("bridge"));
        assert_eq!((seen.mac, seen.mtu, seen.up, seen.group), (Some(own), 1400, true, GROUP));
        assert_eq!(seen.alias.as_deref(), Some("warren: lan br1"));
        let bridge = seen.bridge.unwrap();
        assert_eq!((bridge.stp, bridge.forward_delay), (false, 0));
        assert!(!bridge.vlan_filtering && !bridge.mcast_snooping);
        let told = tool("ip -d link show br1");
        for word in [
            "mtu 1400",
            "02:00:5e:10:00:01",
            "alias warren: lan br1",
            "stp_state 0",
            "forward_delay 0 ",
            "mcast_snooping 0",
        ] {
            assert!(told.contains(word), "{word} is missing in {told}");
        }
        assert!(rtnl().links().unwrap().contains(&seen));

        let error = rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap_err();
        assert!(error.exists_already());
        assert_eq!(error.to_string(), "cannot make the bridge br1: File exists (os error 17)");
        assert_eq!(rtnl().link(&br1).unwrap().mtu, 1400, "a refusal leaves what is there");

        rtnl().delete_link(&br1).unwrap();
        let error = rtnl().delete_link(&br1).unwrap_err();
        assert!(error.is_absent());
        assert!(error.to_string().starts_with("cannot delete the link br1: No such device"), "{error}");
        assert!(rtnl().link(&br1).unwrap_err().is_absent());
    });
}

#[test]
fn a_bridge_keeps_its_mtu_and_address_whatever_is_plugged_in() {
    lab(|| {
        for mtu in [1500, 1400, 9000, 1280] {
            let (br1, own) = (name("br1"), mac("02:00:5e:10:00:01"));
            rtnl().create_bridge(&br1, Some(own), mtu, "warren: lan br1").unwrap();
            let _guest = plug("vcnx6", &[]);
            let small = LinkChange { mtu: Some(1300), master: Some(Some(br1.clone())), ..LinkChange::default() };
            rtnl().set_link(&name("vcnx6"), &small).unwrap();
            let seen = rtnl().link(&br1).unwrap();
            assert_eq!((seen.mtu, seen.mac), (mtu, Some(own)));
            rtnl().delete_link(&name("vcnx6")).unwrap();
            rtnl().delete_link(&br1).unwrap();
        }
    });
}

#[test]
fn a_cable_ends_in_its_namespace() {
    lab(|| {
        let guest = Netns::create("cnx6").unwrap();
        let (port, eth0) = (name("vcnx6"), name("eth0"));
        let (near, far) = (mac("02:00:5e:10:00:02"), mac("02:00:5e:10:00:03"));
        let peer = VethPeer { netns: guest.as_fd(), name: &eth0, mac: far, mtu: 1400 };
        rtnl().create_veth(&port, Some(near), 1450, "warren: port of cnx6", &peer).unwrap();
        let here = rtnl().link(&port).unwrap();
        assert_eq!((here.kind.as_deref(), here.mac, here.mtu, here.up), (Some("veth"), Some(near), 1450, false));
        assert_eq!((here.group, here.addr_gen), (GROUP, Some(header::IN6_ADDR_GEN_MODE_NONE)));
        assert!(!here.carrier);
        let mut inside = guest.run(Rtnl::open).unwrap().unwrap();
        let there = inside.link(&eth0).unwrap();
        assert_eq!((there.mac, there.mtu, there.peer), (Some(far), 1400, Some(here.index)));
        assert_eq!(here.peer, Some(there.index));
        assert_eq!(here.peer_netns, rtnl().netns_id(guest.as_fd()).unwrap());
        assert!(here.peer_netns.is_some());
        assert!(!rtnl().links().unwrap().iter().any(|l| l.name == "eth0"));
        assert!(tool("ip netns exec cnx6 ip link show eth0").contains("02:00:5e:10:00:03"));

        rtnl().set_link(&port, &up()).unwrap();
        inside.set_link(&eth0, &up()).unwrap();
        let here = rtnl().link(&port).unwrap();
        assert!(here.up && here.carrier);
        // The host has nothing to say on the guest's cable.
        assert!(!rtnl().addresses().unwrap().iter().any(|a| a.index == here.index));

        let error = rtnl().create_veth(&name("other"), None, 1500, "", &peer).unwrap_err();
        assert!(error.exists_already(), "{error}");
        assert!(error.to_string().contains("other") && error.to_string().contains("eth0"), "{error}");
        assert!(rtnl().link(&name("other")).unwrap_err().is_absent(), "half a cable is left");

        rtnl().delete_link(&port).unwrap();
        assert!(inside.link(&eth0).unwrap_err().is_absent());
        let unknown = Netns::unnamed("nobody's").unwrap();
        assert_eq!(rtnl().netns_id(unknown.as_fd()).unwrap(), None);
    });
}

#[test]
fn links_are_changed_one_thing_at_a_time() {
    lab(|| {
        let (br1, port) = (name("br1"), name("vcnx6"));
        rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap();
        let _guest = plug("vcnx6", &[]);
        let set = |change: LinkChange| rtnl().set_link(&port, &change);
        let seen = || rtnl().link(&port).unwrap();
        let nothing = LinkChange::default;

        set(LinkChange { mtu: Some(1320), ..nothing() }).unwrap();
        assert_eq!(seen().mtu, 1320);
        let error = set(LinkChange { mtu: Some(10), ..nothing() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot set the MTU of vcnx6: Invalid argument"), "{error}");
        // The kernel's own words come with it.
        assert!(error.to_string().contains("mtu less than device minimum"), "{error}");

        set(LinkChange { mac: Some(mac("02:00:5e:10:00:09")), ..nothing() }).unwrap();
        assert_eq!(seen().mac, Some(mac("02:00:5e:10:00:09")));
        let error = set(LinkChange { mac: Some(mac("01:00:5e:10:00:09")), ..nothing() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot set the hardware address of vcnx6: "), "{error}");

        set(LinkChange { alias: Some("warren: other".into()), ..nothing() }).unwrap();
        assert_eq!(seen().alias.as_deref(), Some("warren: other"));
        set(LinkChange { alias: Some(String::new()), ..nothing() }).unwrap();
        assert_eq!(seen().alias, None);

        let error = set(LinkChange { hairpin: Some(true), ..nothing() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot change the bridge port vcnx6: "), "{error}");
        set(LinkChange { master: Some(Some(br1.clone())), hairpin: Some(true), isolated: Some(true), ..nothing() })
            .unwrap();
        let link = seen();
        assert_eq!(link.master, Some(rtnl().index_of(&br1).unwrap()));
        assert!(link.hairpin && link.isolated);
        let told = tool("bridge -d link show dev vcnx6");
        assert!(told.contains("hairpin on") && told.contains("isolated on") && told.contains("master br1"), "{told}");
        set(LinkChange { hairpin: Some(false), isolated: Some(false), ..nothing() }).unwrap();
        let link = seen();
        assert!(!link.hairpin && !link.isolated);
        set(LinkChange { master: Some(None), ..nothing() }).unwrap();
        assert_eq!(seen().master, None);
        let error = set(LinkChange { master: Some(Some(name("br9"))), ..nothing() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot plug in vcnx6 into br9: No such device"), "{error}");
        let into_no_bridge = LinkChange { master: Some(Some(name("lo"))), ..nothing() };
        let error = set(into_no_bridge).unwrap_err();
        assert!(error.to_string().starts_with("cannot plug in vcnx6: Operation not supported"), "{error}");

        set(LinkChange { up: Some(false), ..nothing() }).unwrap();
        assert!(!seen().up);
        assert!(rtnl().set_link(&name("absent"), &up()).unwrap_err().is_absent());
        set(nothing()).unwrap();
    });
}

#[test]
fn links_of_a_group_go_at_once() {
    lab(|| {
        let guests: Vec<_> = (0..20).map(|n| plug(&format!("v{n}"), &[])).collect();
        tool("ip link add others type bridge");
        rtnl().create_bridge(&name("br1"), None, 1500, "warren: lan br1").unwrap();
        rtnl().delete_group(GROUP).unwrap();
        let left: Vec<_> = rtnl().links().unwrap().into_iter().map(|l| l.name).collect();
        assert_eq!(left, ["lo", "others"]);
        assert!(rtnl().delete_group(GROUP).unwrap_err().is_absent());
        assert!(rtnl().delete_group(0).is_err(), "group 0 is everybody's");
        drop(guests);
    });
}

#[test]
fn addresses_serve_at_once() {
    lab(|| {
        let br1 = name("br1");
        rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        for address in ["10.1.1.1/24", "192.0.2.1/32", "2001:db8:1::1/64"] {
            rtnl().add_address(&br1, net(address)).unwrap();
        }
        let index = rtnl().index_of(&br1).unwrap();
        let all = rtnl().addresses().unwrap();
        for address in ["10.1.1.1/24", "192.0.2.1/32", "2001:db8:1::1/64"] {
            let found = all.iter().find(|a| a.index == index && a.net == net(address)).unwrap();
            assert!(found.is_permanent() && !found.is_unusable() && !found.is_link_local(), "{found:?}");
            assert_eq!((found.scope, found.peer), (0, None));
        }
        assert!(all.iter().any(|a| a.net == net("127.0.0.1/8")));
        let told = tool("ip addr show br1");
        assert!(told.contains("inet 10.1.1.1/24 brd 10.1.1.255 scope global"), "{told}");
        assert!(told.contains("inet 192.0.2.1/32 scope global"), "{told}");
        assert!(told.contains("inet6 2001:db8:1::1/64 scope global nodad"), "{told}");
        // No detection of doubles: it can be bound although the bridge has no carrier.
        UdpSocket::bind("[2001:db8:1::1]:53").unwrap();

        let error = rtnl().add_address(&br1, net("10.1.1.1/24")).unwrap_err();
        assert!(error.exists_already());
        assert!(error.to_string().starts_with("cannot add the address 10.1.1.1/24 to br1: "), "{error}");
        rtnl().delete_address(&br1, net("10.1.1.1/24")).unwrap();
        rtnl().delete_address(&br1, net("2001:db8:1::1/64")).unwrap();
        assert!(!tool("ip addr show br1").contains("2001:db8"));
        for gone in ["10.1.1.1/24", "2001:db8:1::1/64"] {
            let error = rtnl().delete_address(&br1, net(gone)).unwrap_err();
            assert!(error.is_absent(), "{error}");
        }
        let error = rtnl().add_address(&name("br9"), net("10.1.1.1/24")).unwrap_err();
        assert!(error.to_string().starts_with("cannot add the address 10.1.1.1/24 to br9: No such device"), "{error}");

        // A point-to-point address: ours is ours, whichever attribute it stands in.
        tool("ip addr add 10.9.9.1 peer 10.9.9.2/32 dev br1");
        let all = rtnl().addresses().unwrap();
        let found = all.iter().find(|a| a.peer.is_some()).unwrap();
        assert_eq!((found.net, found.peer), (net("10.9.9.1/32"), Some(ip("10.9.9.2"))));
    });
}

#[test]
fn routes_come_and_go() {
    lab(|| {
        let br1 = name("br1");
        rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        rtnl().add_address(&br1, net("10.1.1.1/24")).unwrap();
        rtnl().add_address(&br1, net("2001:db8:1::1/64")).unwrap();
        let index = rtnl().index_of(&br1).unwrap();
        let wanted = [
            ("0.0.0.0/0", Some("10.1.1.254")),
            ("::/0", Some("2001:db8:1::fe")),
            ("198.51.100.7/32", None),
            ("2001:db8:7::/48", Some("2001:db8:1::7")),
            ("203.0.113.0/24", Some("2001:db8:1::7")),
        ];
        for (to, via) in wanted {
            let route = NewRoute::new(net(to), via.map(ip), &br1);
            rtnl().add_route(&route).unwrap();
            let all = rtnl().routes().unwrap();
            let found = all.iter().find(|r| r.to == net(to) && r.protocol == kernel::rtnl::PROTOCOL).unwrap();
            assert_eq!((found.via, found.oif, found.table), (via.map(ip), Some(index), 254));
            assert_eq!(found.is_default(), to.ends_with("/0"));
            assert!(rtnl().add_route(&route).unwrap_err().exists_already());
        }
        let told = tool("ip route show");
        assert!(told.contains("default via 10.1.1.254 dev br1"), "{told}");
        assert!(told.contains("198.51.100.7 dev br1") && told.contains("scope link"), "{told}");
        assert!(told.contains("203.0.113.0/24 via inet6 2001:db8:1::7 dev br1"), "{told}");
        let told = tool("ip -6 route show");
        assert!(told.contains("default via 2001:db8:1::fe dev br1"), "{told}");
        for (to, via) in wanted {
            let route = NewRoute::new(net(to), via.map(ip), &br1);
            rtnl().delete_route(&route).unwrap();
            let error = rtnl().delete_route(&route).unwrap_err();
            assert!(error.is_absent(), "{error}");
        }
        let unreachable = NewRoute::new(net("0.0.0.0/0"), Some(ip("192.0.2.1")), &br1);
        let error = rtnl().add_route(&unreachable).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot add the route 0.0.0.0/0 via 192.0.2.1 by br1: Network is unreachable"),
            "{text}"
        );
        assert!(text.contains("Nexthop has invalid gateway"), "the kernel's own words: {text}");
    });
}

#[test]
fn all_that_a_route_can_be_is_read() {
    lab(|| {
        tool("ip link add d0 type bridge");
        tool("ip addr add 10.1.1.1/24 dev d0");
        tool("ip -6 addr add 2001:db8:1::1/64 dev d0 nodad");
        tool("ip link set d0 up");
        let index = rtnl().index_of(&name("d0")).unwrap();
        tool(
            "ip route add 198.51.100.0/24 metric 77 src 10.1.1.1 nexthop via 10.1.1.2 dev d0 nexthop via 10.1.1.3 dev d0",
        );
        tool("ip -6 route add default via 2001:db8:1::2 dev d0 proto ra metric 512");
        tool("ip route add default via 10.1.1.9 dev d0 table 1000");
        tool("ip route add unreachable 192.0.2.0/24");
        let main = rtnl().routes().unwrap();
        let hops: Vec<_> = main.iter().filter(|r| r.to == net("198.51.100.0/24")).collect();
        assert_eq!(hops.iter().map(|r| r.via).collect::<Vec<_>>(), [Some(ip("10.1.1.2")), Some(ip("10.1.1.3"))]);
        assert!(hops.iter().all(|r| r.metric == 77 && r.source == Some(ip("10.1.1.1")) && r.oif == Some(index)));
        let learnt = main.iter().find(|r| r.protocol == header::RTPROT_RA).unwrap();
        assert_eq!((learnt.to, learnt.via, learnt.metric), (net("::/0"), Some(ip("2001:db8:1::2")), 512));
        assert!(!main.iter().any(|r| r.table == 1000 || r.to == net("192.0.2.0/24")));
        let all = rtnl().all_routes().unwrap();
        assert!(all.iter().any(|r| r.table == 1000 && r.via == Some(ip("10.1.1.9"))));
        assert!(all.iter().any(|r| r.to == net("192.0.2.0/24") && r.kind == 7));
        assert!(all.iter().any(|r| r.table == 255 && r.to == net("127.0.0.1/32")));
    });
}

/// Who was sought while nobody was plugged in is found once somebody is, however long the kernel would wait.
#[test]
fn who_was_sought_in_vain_is_asked_again() {
    lab(|| {
        without_detection();
        let br1 = name("br1");
        rtnl().create_bridge(&br1, Some(mac("02:00:5e:10:00:01")), 1500, "").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        tool("ip address add 10.1.1.1/24 dev br1");
        tool("ip address add fd00:1::1/64 dev br1");
        for family in ["ipv4", "ipv6"] {
            let hour = format!("/proc/sys/net/{family}/neigh/br1/retrans_time_ms");
            std::fs::write(hour, "3600000").unwrap();
        }
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while !holds() {
                assert!(std::time::Instant::now() < deadline, "{what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let usable = || rtnl().addresses().unwrap().iter().all(|address| !address.is_unusable());
        // Somebody else is plugged in, and out again: with nobody there, ever, the kernel asks nobody by IPv6.
        let other = plug("p9", &[]);
        tool("ip link set p9 master br1");
        until("addresses", &usable);
        tool("ip link delete p9");
        drop(other);
        // By then the kernel has forgotten who was there.
        until("no carrier", &|| rtnl().link(&br1).unwrap().operstate != 6);
        let guests = ["10.1.1.6", "fd00:1::6"].map(ip);
        let _waiting = guests.map(|guest| {
            let from = if guest.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(from).unwrap();
            socket.send_to(b"waiting", (guest, 9)).unwrap();
            socket
        });
        let state = |guest| rtnl().neighbours().unwrap().into_iter().find(|n| n.address == guest).map(|n| n.state);
        assert_eq!(guests.map(state), [Some(1), Some(1)], "sought");
        let guest = plug("p6", &["10.1.1.6/24", "fd00:1::6/64"]);
        tool("ip link set p6 master br1");
        until("the guest's addresses", &|| guest.run(usable).unwrap());
        assert_eq!(kernel::seek::ask_again(&[name("br2")]).unwrap(), 0, "of another bridge");
        assert_eq!(guests.map(state), [Some(1), Some(1)], "still sought");
        assert_eq!(kernel::seek::ask_again(&[br1]).unwrap(), 2);
        until("found", &|| guests.map(state).iter().all(|state| state.is_some_and(|state| state & 0x02 != 0)));
    });
}

#[test]
fn neighbours_are_written_down_and_answered_for() {
    lab(|| {
        tool("ip link add d0 type bridge");
        tool("ip link set d0 up");
        let d0 = name("d0");
        for address in ["10.1.1.6", "2001:db8::6"].map(ip) {
            rtnl().set_neighbour(&d0, address, mac("02:00:5e:10:00:06")).unwrap();
            let found = rtnl().neighbours().unwrap().into_iter().find(|n| n.address == address).unwrap();
            assert_eq!((found.mac, found.state, found.proxy), (Some(mac("02:00:5e:10:00:06")), 0x80, false));
            assert!(tool("ip neigh show dev d0").contains(&format!("{address} lladdr 02:00:5e:10:00:06 PERMANENT")));
            rtnl().delete_neighbour(&d0, address).unwrap();
            assert!(rtnl().delete_neighbour(&d0, ip("10.1.1.99")).unwrap_err().is_absent());
            rtnl().add_neighbour_proxy(&d0, address).unwrap();
            assert!(rtnl().neighbours().unwrap().iter().any(|n| n.address == address && n.proxy));
            assert!(tool("ip neigh show proxy").contains(&address.to_string()));
            rtnl().delete_neighbour_proxy(&d0, address).unwrap();
            let error = rtnl().delete_neighbour_proxy(&d0, address).unwrap_err();
            assert!(error.is_absent(), "{error}");
            assert!(error.to_string().starts_with(&format!("cannot stop answering for {address} on d0")), "{error}");
        }
    });
}

#[test]
fn guests_on_a_bridge_find_each_other_by_both_families() {
    lab(|| {
        let br1 = name("br1");
        rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        let one = plug("v1", &["10.1.1.6/24", "2001:db8:1::6/64"]);
        let two = plug("v2", &["10.1.1.7/24", "2001:db8:1::7/64"]);
        for port in ["v1", "v2"] {
            let into = LinkChange { master: Some(Some(br1.clone())), ..LinkChange::default() };
            rtnl().set_link(&name(port), &into).unwrap();
        }
        for (from, to) in [("10.1.1.6:0", "10.1.1.7:9000"), ("[2001:db8:1::6]:0", "[2001:db8:1::7]:9000")] {
            let server = two.run(|| UdpSocket::bind(to).unwrap()).unwrap();
            let client = one.run(|| UdpSocket::bind(from).unwrap()).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(b"hello", to).unwrap();
            let mut buffer = [0; 16];
            let (length, source) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], source), (&b"hello"[..], client.local_addr().unwrap()));
        }
        // Isolated ports hear the host and not each other.
        for port in ["v1", "v2"] {
            rtnl().set_link(&name(port), &LinkChange { isolated: Some(true), ..LinkChange::default() }).unwrap();
        }
        let server = two.run(|| UdpSocket::bind("10.1.1.7:9001").unwrap()).unwrap();
        let client = one.run(|| UdpSocket::bind("10.1.1.6:0").unwrap()).unwrap();
        client.send_to(b"hello", "10.1.1.7:9001").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(server.recv_from(&mut [0; 16]).is_err());
    });
}

#[test]
fn a_kernel_without_ipv6_on_an_interface_is_no_hindrance() {
    lab(|| {
        let all = Sysctl::new(IpFamilyWord::Ipv6, "default", "disable_ipv6");
        sysctl::write(&all, "1").unwrap();
        rtnl().create_bridge(&name("br1"), None, 1500, "warren: lan br1").unwrap();
        let _guest = plug("v1", &["10.1.1.6/24"]);
        // Below 1280 bytes an interface has no IPv6 at all.
        let small = LinkChange { mtu: Some(1000), addr_gen: Some(1), ..LinkChange::default() };
        rtnl().set_link(&name("v1"), &small).unwrap();
        rtnl().set_link(&name("v1"), &small).unwrap();
    });
}
