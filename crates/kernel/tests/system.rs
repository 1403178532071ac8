//! Namespaces, taps, switches, listeners, connections, privileges and facts, in real namespaces.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use common::{alone, is_real_root, lab, mac, name, net, nft, plug, rtnl, tool, up};
use kernel::conntrack::{self, Conntrack};
use kernel::netns::{Netns, UserNamespaceError, private_mounts, unshare_user};
use kernel::rtnl::{LinkChange, Rtnl};
use kernel::ways::Ways;
use kernel::{facts, privilege, sockdiag, sysctl, tap};
use model::address::Transport;
use model::state::{IpFamilyWord, Sysctl};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use rustix::thread::{CapabilitySet, UnshareFlags};

fn own_inode() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

/// Waits for what the kernel does on its own time, such as ending a namespace.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "in ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `f` on a thread without the capability, as are those that it starts.
fn without(capability: CapabilitySet, f: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective.remove(capability);
            rustix::thread::set_capabilities(None, sets).unwrap();
            f();
        });
        thread.join().unwrap();
    });
}

#[test]
fn a_named_namespace_is_the_one_that_ip_knows() {
    lab(|| {
        assert_eq!(Netns::list().unwrap(), [""; 0]);
        let guest = Netns::create("cnx6").unwrap();
        assert_eq!(Netns::list().unwrap(), ["cnx6"]);
        assert!(tool("ip netns list").contains("cnx6"));
        let told = tool("ip netns exec cnx6 ip link show lo");
        assert!(told.contains("UP") && told.contains("alias warren: guest cnx6"), "{told}");
        let link = guest.run(Rtnl::open).unwrap().unwrap().link(&name("lo")).unwrap();
        assert_eq!((link.up, link.alias.as_deref()), (true, Some("warren: guest cnx6")));
        assert_eq!(
            tool("ip netns exec cnx6 readlink /proc/self/ns/net").trim(),
            format!("net:[{}]", guest.inode().unwrap())
        );
        assert_eq!(Netns::open("cnx6").unwrap().inode().unwrap(), guest.inode().unwrap());

        let error = Netns::create("cnx6").unwrap_err();
        assert!(error.exists_already(), "{error}");
        assert_eq!(error.to_string(), "cannot make the network namespace cnx6: File exists (os error 17)");
        tool("ip netns add theirs");
        assert!(Netns::create("theirs").unwrap_err().exists_already());
        assert_eq!(Netns::list().unwrap(), ["cnx6", "theirs"]);
        assert_eq!(Netns::open("theirs").unwrap().label(), "theirs");
        assert_eq!(Netns::open("theirs").unwrap().guest().unwrap(), None);
        assert_eq!(guest.guest().unwrap().as_deref(), Some("cnx6"));

        Netns::delete("cnx6").unwrap();
        Netns::delete("theirs").unwrap();
        let error = Netns::delete("cnx6").unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("cnx6"), "{error}");
        assert!(Netns::open("cnx6").unwrap_err().is_absent());
        assert!(Netns::create("a/b").unwrap_err().to_string().contains("file name"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("nsfs"), "a mount is left: {mounts}");
        assert_eq!(fs::read_dir("/run/netns").unwrap().count(), 0, "a file is left");
    });
}

#[test]
fn a_namespace_ends_with_its_name_and_takes_its_cables_along() {
    lab(|| {
        let guest = Netns::create("cnx6").unwrap();
        let (port, eth0) = (name("v1"), name("eth0"));
        let netns = std::os::fd::AsFd::as_fd(&guest);
        let peer = kernel::rtnl::VethPeer { netns, name: &eth0, mac: mac("02:00:5e:10:00:06"), mtu: 1500 };
        rtnl().create_veth(&port, None, 1500, "warren: port", &peer).unwrap();
        Netns::delete("cnx6").unwrap();
        assert!(rtnl().link(&port).is_ok(), "our handle holds it");
        drop(guest);
        eventually("the cable is gone", || rtnl().link(&port).is_err());
    });
}

#[test]
fn every_namespace_is_visited_and_what_is_none_is_left_out() {
    lab(|| {
        assert!(Netns::visit(|_| Ok(())).unwrap().is_empty());
        let names: Vec<String> = (10..50).map(|n| format!("g{n}")).collect();
        let inodes: Vec<u64> = names.iter().map(|name| Netns::create(name).unwrap().inode().unwrap()).collect();
        let outside = own_inode();
        File::create("/run/netns/g11-none").unwrap();
        let seen = Netns::visit(|name| Ok((name.to_owned(), own_inode()))).unwrap();
        let seen = seen.into_iter().map(|(name, result)| (name, result.unwrap())).map(|(name, (asked, inode))| {
            assert_eq!(name, asked);
            (name, inode)
        });
        let seen: Vec<(String, u64)> = seen.collect();
        assert_eq!(seen, names.iter().cloned().zip(inodes).collect::<Vec<_>>());
        assert_eq!(own_inode(), outside);
        names.iter().for_each(|name| Netns::delete(name).unwrap());
    });
}

#[test]
fn what_a_killed_maker_left_is_no_namespace_and_no_hindrance() {
    lab(|| {
        fs::create_dir_all("/run/netns").unwrap();
        File::create("/run/netns/cnx6").unwrap();
        assert_eq!(Netns::list().unwrap(), [""; 0]);
        assert_eq!(Netns::open("cnx6").unwrap_err().errno(), Some(libc::EINVAL));
        Netns::create("cnx6").unwrap();
        assert_eq!(Netns::list().unwrap(), ["cnx6"]);
        Netns::delete("cnx6").unwrap();
        File::create("/run/netns/cnx7").unwrap();
        Netns::delete("cnx7").unwrap();
        assert_eq!(fs::read_dir("/run/netns").unwrap().count(), 0);
    });
}

#[test]
fn work_is_done_inside_and_the_caller_stays_outside() {
    lab(|| {
        let before = own_inode();
        let one = Netns::unnamed("one").unwrap();
        let two = Netns::unnamed("two").unwrap();
        assert_eq!(one.run(own_inode).unwrap(), one.inode().unwrap());
        assert_eq!(own_inode(), before);
        assert_eq!(Netns::current().unwrap().inode().unwrap(), before);
        assert!(one.run(Rtnl::open).unwrap().unwrap().link(&name("lo")).unwrap().up);
        // Sockets stay where they were made.
        let socket = one.run(|| UdpSocket::bind("127.0.0.1:5353").unwrap()).unwrap();
        let _same = two.run(|| UdpSocket::bind("127.0.0.1:5353").unwrap()).unwrap();
        socket.send_to(b"x", "127.0.0.1:5353").unwrap();
        let cookies = BTreeSet::from([
            one.cookie().unwrap(),
            two.cookie().unwrap(),
            Netns::current().unwrap().cookie().unwrap(),
            one.try_clone().unwrap().cookie().unwrap(),
        ]);
        assert_eq!(cookies.len(), 3);
        assert!(!cookies.contains(&0));
        let panic = std::panic::catch_unwind(|| one.run(|| panic!("inside")));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
        assert_eq!(own_inode(), before);
        without(CapabilitySet::SYS_ADMIN, || {
            assert_eq!(one.run(|| ()).unwrap_err().raw_os_error(), Some(libc::EPERM));
            let error = Netns::unnamed("three").unwrap_err().to_string();
            assert_eq!(error, "cannot make a network namespace: Operation not permitted (os error 1)");
        });
    });
}

#[test]
fn a_user_namespace_is_entered_once_alone_and_says_what_forbids_it() {
    lab(|| {
        // The test harness has a thread for itself.
        assert!(matches!(unshare_user(), Err(UserNamespaceError::Threads)));
        alone(|| {
            let network = own_inode();
            unshare_user().unwrap();
            assert!(rustix::process::geteuid().is_root());
            // The limit is the user namespace's own: this changes nobody else's.
            fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
            let error = unshare_user().unwrap_err().to_string();
            assert!(error.starts_with("user namespaces are forbidden here: user.max_user_namespaces is 0"), "{error}");
            assert_eq!(own_inode(), network);
        });
    });
}

#[test]
fn mounts_are_private() {
    lab(|| {
        let outer = fs::read_link("/proc/self/ns/mnt").unwrap();
        fs::write("/run/outside", "").unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                private_mounts(&["/run".as_ref()]).unwrap();
                assert_ne!(fs::read_link("/proc/thread-self/ns/mnt").unwrap(), outer);
                assert_eq!(fs::read_dir("/run").unwrap().count(), 0);
                fs::write("/run/inside", "").unwrap();
                let error = private_mounts(&["/run/nothing".as_ref()]).unwrap_err();
                assert!(error.is_absent() && error.to_string().contains("/run/nothing"), "{error}");
            });
            thread.join().unwrap();
        });
        assert!(fs::exists("/run/outside").unwrap() && !fs::exists("/run/inside").unwrap());
    });
}

#[test]
fn capabilities_count_over_the_namespace_that_is_meant() {
    lab(|| {
        assert_eq!(privilege::missing(), [""; 0]);
        without(CapabilitySet::NET_ADMIN, || assert_eq!(privilege::missing(), ["CAP_NET_ADMIN"]));
        without(CapabilitySet::SYS_ADMIN, || assert_eq!(privilege::missing(), ["CAP_SYS_ADMIN"]));
        alone(|| {
            // Root of a user namespace that the network does not belong to.
            unshare_user().unwrap();
            assert_eq!(privilege::missing(), ["CAP_NET_ADMIN"]);
            let error = rtnl().create_bridge(&name("br1"), None, 1500, "").unwrap_err();
            assert!(error.is_forbidden(), "{error}");
            // SAFETY: NEWNET closes no descriptor.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            assert_eq!(privilege::missing(), [""; 0]);
            rtnl().create_bridge(&name("br1"), None, 1500, "").unwrap();
        });
    });
}

#[test]
fn a_tap_belongs_to_whom_it_is_given() {
    lab(|| {
        let tap0 = name("tap0");
        let own = mac("02:00:5e:10:00:0a");
        let new =
            tap::NewTap { name: &tap0, mac: Some(own), mtu: 1400, alias: "warren: tap", owner: None, group: None };
        if let Err(error) = tap::available() {
            // A plain user, to whom this machine does not open the device: the reason is said.
            assert!(!is_real_root(), "{error}");
            let text = error.to_string();
            assert!(text.starts_with("cannot use /dev/net/tun: Permission denied"), "{text}");
            assert!(text.contains("/dev/net/tun is closed to us: it has mode 0"), "{text}");
            assert!(tap::create(&new).unwrap_err().is_forbidden());
            return;
        }
        let ids = [(None, None), (Some(0), Some(0)), (Some(1001), None), (Some(64055), Some(106))];
        for (owner, group) in ids {
            tap::create(&tap::NewTap { owner, group, ..new.clone() }).unwrap();
            assert_eq!(tap::owner(&tap0).unwrap(), (owner, group));
            let link = rtnl().link(&tap0).unwrap();
            assert_eq!((link.kind.as_deref(), link.mac, link.mtu, link.up), (Some("tun"), Some(own), 1400, false));
            assert_eq!((link.alias.as_deref(), link.carrier), (Some("warren: tap"), false));
            assert!(facts::is_ours(&link));
            let tun = link.tun.unwrap();
            assert!(tun.tap && tun.persistent);
            let told = tool("ip -d link show tap0");
            assert!(told.contains("tun type tap pi off") && told.contains("persist on"), "{told}");
            assert_eq!(told.contains(" user "), owner.is_some(), "{told}");
            assert_eq!(told.contains(" user root group root"), owner == Some(0), "{told}");

            let error = tap::create(&new).unwrap_err().to_string();
            assert!(
                error.contains("cannot make the tap device tap0") && error.contains("a link has that name"),
                "{error}"
            );
            tap::delete(&tap0).unwrap();
            assert!(tap::delete(&tap0).unwrap_err().is_absent());
            assert!(tap::owner(&tap0).unwrap_err().is_absent());
        }
        // What fails on the way leaves nothing.
        let small = tap::NewTap { mtu: 10, ..new.clone() };
        let error = tap::create(&small).unwrap_err().to_string();
        assert!(error.contains("tap0: Invalid argument"), "{error}");
        assert!(rtnl().link(&tap0).unwrap_err().is_absent());

        rtnl().create_bridge(&tap0, None, 1500, "").unwrap();
        assert!(tap::create(&new).is_err());
        let error = tap::delete(&tap0).unwrap_err().to_string();
        assert!(error.contains("it is no tap device"), "{error}");
        assert!(tap::owner(&tap0).is_err());
        assert!(rtnl().link(&tap0).is_ok());
        without(CapabilitySet::NET_ADMIN, || {
            let other = name("tap1");
            let error = tap::create(&tap::NewTap { name: &other, ..new.clone() }).unwrap_err();
            assert!(error.is_forbidden() && error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        });
    });
}

#[test]
fn a_tap_device_that_is_missing_is_said_to_be() {
    lab(|| {
        private_mounts(&["/dev/net".as_ref()]).unwrap();
        let error = tap::available().unwrap_err();
        assert!(error.is_absent());
        let text = error.to_string();
        assert!(text.starts_with("cannot use /dev/net/tun: No such file") && text.contains("modprobe tun"), "{text}");
    });
}

#[test]
fn switches_are_those_of_the_threads_namespace() {
    lab(|| {
        let other = Netns::unnamed("other").unwrap();
        rtnl().create_bridge(&name("br1"), None, 1500, "").unwrap();
        let forwarding = Sysctl::new(IpFamilyWord::Ipv4, "br1", "forwarding");
        let redirects = Sysctl::new(IpFamilyWord::Ipv4, "all", "send_redirects");
        assert_eq!(sysctl::read(&forwarding).unwrap().as_deref(), Some("0"));
        sysctl::write(&forwarding, "1").unwrap();
        assert_eq!(sysctl::read(&forwarding).unwrap().as_deref(), Some("1"));
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/br1/forwarding").unwrap(), "1\n");
        sysctl::write(&redirects, "0").unwrap();
        assert_eq!(other.run(|| sysctl::read(&redirects).unwrap()).unwrap().as_deref(), Some("1"));
        other.run(|| sysctl::write(&Sysctl::new(IpFamilyWord::Ipv6, "lo", "accept_ra"), "0")).unwrap().unwrap();

        assert_eq!(other.run(|| sysctl::read(&forwarding).unwrap()).unwrap(), None, "no such interface there");
        let unknown = Sysctl::new(IpFamilyWord::Ipv6, "br1", "no_such_switch");
        assert_eq!(sysctl::read(&unknown).unwrap(), None);
        assert!(!sysctl::exists(&unknown) && sysctl::exists(&forwarding));
        let error = sysctl::write(&unknown, "1").unwrap_err();
        assert!(error.is_absent(), "{error}");
        assert!(error.to_string().contains("net.ipv6.conf.br1.no_such_switch to 1"), "{error}");
        let error = sysctl::write(&forwarding, "many").unwrap_err().to_string();
        assert!(error.contains("Invalid argument") && error.contains("does not take this value"), "{error}");
        assert!(sysctl::read(&Sysctl::new(IpFamilyWord::Ipv4, "../../..", "x")).is_err());

        mount_bind("/proc/sys", "/proc/sys").unwrap();
        mount_remount("/proc/sys", MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        let error = sysctl::write(&forwarding, "0").unwrap_err();
        assert!(error.is_forbidden() && error.to_string().contains("mounted read-only"), "{error}");
        assert_eq!(sysctl::read(&forwarding).unwrap().as_deref(), Some("1"));
    });
}

#[test]
fn listeners_are_found_with_their_owners() {
    lab(|| {
        assert_eq!(sockdiag::listening().unwrap(), []);
        let tcp = TcpListener::bind("127.0.0.1:8080").unwrap();
        let both = TcpListener::bind("[::]:8081").unwrap();
        let six = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        six.set_only_v6(true).unwrap();
        six.bind(&"[::]:8082".parse::<SocketAddr>().unwrap().into()).unwrap();
        six.listen(1).unwrap();
        let udp = UdpSocket::bind("0.0.0.0:5353").unwrap();
        let mapped = UdpSocket::bind("[::1]:5354").unwrap();
        // These wait for nobody: a client, a connection, a socket that is bound and does not listen.
        let client = UdpSocket::bind("127.0.0.1:6000").unwrap();
        client.connect("127.0.0.1:5353").unwrap();
        let _connection = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&"127.0.0.1:8083".parse::<SocketAddr>().unwrap().into()).unwrap();

        let found = sockdiag::listening().unwrap();
        let seen: Vec<_> =
            found.iter().map(|l| (l.transport, l.address.to_string(), l.port, l.own_family_only)).collect();
        let wanted = [
            (Transport::Tcp, "127.0.0.1", 8080, true),
            (Transport::Tcp, "::", 8081, false),
            (Transport::Tcp, "::", 8082, true),
            (Transport::Udp, "0.0.0.0", 5353, true),
            (Transport::Udp, "::1", 5354, true),
        ];
        assert_eq!(seen, wanted.map(|(t, a, p, o)| (t, a.to_owned(), p, o)));
        assert_eq!(tool("ss -Htunl").lines().count(), found.len());

        let owners = sockdiag::owners(&found.iter().map(|l| l.inode).collect());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let own = format!("{} (pid {})", comm.trim(), std::process::id());
        assert_eq!(owners.len(), found.len());
        assert!(owners.values().all(|o| *o == own), "{owners:?}");
        assert!(sockdiag::owners(&BTreeSet::new()).is_empty());
        let inside = Netns::unnamed("other").unwrap().run(|| sockdiag::listening().unwrap()).unwrap();
        assert_eq!(inside, []);
        drop((tcp, both, six, udp, mapped, silent));
        assert_eq!(sockdiag::listening().unwrap(), []);
    });
}

#[test]
fn who_has_opened_a_connection_is_found_and_nobody_of_none() {
    lab(|| {
        let mut asked = sockdiag::SockDiag::open().unwrap();
        for to in ["127.0.0.1:8080", "[::1]:8080"] {
            let listener = TcpListener::bind(to).unwrap();
            let client = std::net::TcpStream::connect(to).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            let own = rustix::process::getuid().as_raw();
            assert_eq!(asked.user_of(from, accepted.local_addr().unwrap()).unwrap(), Some(own));
            // A socket that takes both families says so of IPv4 in IPv6's clothes (RFC 4291, 2.5.5.2).
            if let IpAddr::V4(four) = from.ip() {
                let mapped = SocketAddr::new(four.to_ipv6_mapped().into(), from.port());
                assert_eq!(asked.user_of(mapped, accepted.local_addr().unwrap()).unwrap(), Some(own));
            }
            let other = SocketAddr::new(from.ip(), 1);
            assert_eq!(asked.user_of(other, accepted.local_addr().unwrap()).unwrap(), None);
            let elsewhere = Netns::unnamed("other").unwrap();
            let there =
                elsewhere.run(|| sockdiag::SockDiag::open().unwrap().user_of(from, listener.local_addr().unwrap()));
            assert_eq!(there.unwrap().unwrap(), None);
            drop(client);
        }
    });
}

#[test]
fn what_is_remembered_of_ways_is_never_older_than_the_kernels_last_change() {
    lab(|| {
        tool("ip link add eth0 type veth peer name far");
        tool("ip link set eth0 up");
        tool("ip link set far up");
        tool("ip address add 203.0.113.2/24 dev eth0");
        tool("ip address add 2001:db8::2/64 dev eth0 nodad");
        let mut ways = Ways::open().unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        let mut elsewhere = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            let [first, again] = [(); 2].map(|()| ways.is_elsewhere(address).unwrap());
            assert_eq!([first, again], [rtnl.is_elsewhere(address).unwrap(); 2], "{text}");
            first
        };
        for (address, more, device) in [
            ("203.0.113.9", "/24", "eth0"),
            ("2001:db8::9", "/64 nodad", "eth0"),
            ("203.0.113.77", "/32", "lo"),
            ("2001:db8::77", "/128 nodad", "lo"),
        ] {
            assert!(elsewhere(address));
            tool(&format!("ip address add {address}{more} dev {device}"));
            // Of IPv6 the kernel does it a moment later (addrconf_dad_work), and says so then.
            let own = address.parse().unwrap();
            eventually("the address is the host's", || !Rtnl::open().unwrap().is_elsewhere(own).unwrap());
            assert!(!elsewhere(address), "{address} is the host's now");
            let length = more.trim_end_matches(" nodad");
            tool(&format!("ip address delete {address}{length} dev {device}"));
            assert!(elsewhere(address), "{address} is the host's no more");
        }
        tool("ip route add local 203.0.113.64/28 dev lo");
        assert!(!elsewhere("203.0.113.66"));
        tool("ip route delete local 203.0.113.64/28 dev lo");
        assert!(elsewhere("203.0.113.66"));
        tool("ip route add local 203.0.113.80/28 dev lo table 7");
        assert!(elsewhere("203.0.113.81"));
        tool("ip rule add to 203.0.113.80/28 lookup 7 priority 1");
        assert!(!elsewhere("203.0.113.81"));
        tool("ip rule delete priority 1");
        assert!(elsewhere("203.0.113.81"));
        // More changes than the socket holds.
        let many: String =
            (0..20_000).map(|n| format!("route replace 198.18.{}.{}/32 dev eth0\n", n / 250, n % 250)).collect();
        fs::write("/run/many", many).unwrap();
        assert!(elsewhere("203.0.113.67"));
        tool("ip -batch /run/many");
        tool("ip address add 203.0.113.67/24 dev eth0");
        assert!(!elsewhere("203.0.113.67"));
    });
}

/// Sends a datagram to `to` from a socket of its own, and waits until `server` has it.
fn flow(server: &UdpSocket, to: &str) -> (UdpSocket, SocketAddr) {
    let client = UdpSocket::bind(if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    client.send_to(b"hello", to).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (_, source) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(source.port(), client.local_addr().unwrap().port());
    (client, source)
}

#[test]
fn one_connection_is_forgotten_and_no_other() {
    lab(|| {
        conntrack::available().unwrap();
        nft("table inet t { chain o { type nat hook output priority -100;
             ip daddr 127.0.0.1 udp dport 9000 dnat ip to 127.0.0.1:9001
             ip6 daddr ::1 udp dport 9000 dnat ip6 to [::1]:9001
             }
             }");
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.entries().unwrap(), []);
        for (address, to) in [("127.0.0.1:9001", "127.0.0.1:9000"), ("[::1]:9001", "[::1]:9000")] {
            let server = UdpSocket::bind(address).unwrap();
            let (first, _) = flow(&server, to);
            let (second, _) = flow(&server, to);
            let before = conntrack.entries().unwrap();
            let port = first.local_addr().unwrap().port();
            let entry = before.iter().find(|e| e.original.source_port == port).unwrap().clone();
            let own: IpAddr = first.local_addr().unwrap().ip();
            assert_eq!((entry.transport, entry.zone, entry.mark), (17, 0, 0));
            assert_eq!((entry.original.source, entry.original.destination), (own, own));
            assert_eq!(entry.original.destination_port, 9000);
            assert_eq!((entry.reply.source_port, entry.reply.destination_port), (9001, port));
            assert!(entry.is_dnat() && !entry.is_snat() && !entry.is_answered());
            assert_eq!(entry.is_ipv4(), own.is_ipv4());
            assert_eq!(entry.to_string(), format!("udp {} -> {to}", first.local_addr().unwrap()));

            conntrack.delete(&entry).unwrap();
            let after = conntrack.entries().unwrap();
            assert!(!after.iter().any(|e| e.original.source_port == port));
            let other = second.local_addr().unwrap().port();
            assert!(after.iter().any(|e| e.original.source_port == other), "another's was forgotten, too");
            assert_eq!(after.len(), before.len() - 1);
            let error = conntrack.delete(&entry).unwrap_err();
            assert!(error.is_absent(), "{error}");
            assert!(error.to_string().starts_with("cannot forget the connection udp "), "{error}");
            // One of another number is not the one that was meant.
            first.send_to(b"again", to).unwrap();
            let again = conntrack.entries().unwrap();
            let mut again = again.into_iter().find(|e| e.original == entry.original).unwrap();
            again.id ^= 1;
            assert!(conntrack.delete(&again).unwrap_err().is_absent());
            again.id ^= 1;
            conntrack.delete(&again).unwrap();
        }
        let family = ["ipv4", "ipv6"].map(|f| tool(&format!("conntrack -L -f {f}")).lines().count());
        assert_eq!(family.iter().sum::<usize>(), conntrack.entries().unwrap().len());
        // A protocol without ports.
        tool("ping -c 1 127.0.0.1");
        let entries = conntrack.entries().unwrap();
        let echo = entries.iter().find(|e| e.transport == 1).unwrap();
        assert_eq!((echo.original.source_port, echo.to_string().as_str()), (0, "icmp 127.0.0.1 -> 127.0.0.1"));
        conntrack.delete(echo).unwrap();
        assert!(!conntrack.entries().unwrap().iter().any(|e| e.transport == 1));
        without(CapabilitySet::NET_ADMIN, || {
            let error = conntrack::available().unwrap_err();
            assert!(error.is_forbidden() && error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        });
    });
}

#[test]
fn a_connection_in_a_zone_is_forgotten_in_its_zone() {
    lab(|| {
        nft("table inet t { chain o { type filter hook output priority -300; udp dport 9001 ct zone set 7
             }
             chain p { type filter hook prerouting priority -300; udp dport 9001 ct zone set 7
             }
             chain c { type filter hook output priority 0; ct state new counter
             }
             }");
        let server = UdpSocket::bind("127.0.0.1:9001").unwrap();
        let _client = flow(&server, "127.0.0.1:9001");
        let mut conntrack = Conntrack::open().unwrap();
        let entries = conntrack.entries().unwrap();
        assert_eq!(entries.iter().map(|e| e.zone).collect::<Vec<_>>(), [7]);
        conntrack.delete(&entries[0]).unwrap();
        assert_eq!(conntrack.entries().unwrap(), []);
    });
}

#[test]
fn the_host_is_described_without_what_is_ours() {
    lab(|| {
        let _world = plug("up0", &["192.0.2.1/24", "2001:db8::1/64"]);
        // The uplink is not ours: it loses what the helper marked it with.
        let unmarked = LinkChange { alias: Some(String::new()), group: Some(0), ..LinkChange::default() };
        rtnl().set_link(&name("up0"), &unmarked).unwrap();
        for line in [
            "ip addr add 192.0.2.9/24 dev up0",
            "ip -6 addr add 2001:db8::9/64 dev up0 nodad",
            "ip -6 addr add fe80::9/64 dev up0 nodad",
            "ip route add default via 192.0.2.1 dev up0 metric 100",
            "ip route add 198.51.100.0/24 via 192.0.2.1",
            "ip -6 route add default via 2001:db8::1 dev up0 proto ra",
            "ip link add tun9 type bridge",
            "ip addr add 10.8.0.1/24 dev tun9",
            "ip link set tun9 up",
            "ip route add default via 10.8.0.2 metric 500",
        ] {
            tool(line);
        }
        let br1 = name("br1");
        rtnl().create_bridge(&br1, None, 1500, "warren: lan br1").unwrap();
        rtnl().set_link(&br1, &up()).unwrap();
        rtnl().add_address(&br1, net("10.1.1.1/24")).unwrap();
        let _listener = TcpListener::bind("0.0.0.0:8080").unwrap();

        let facts = facts::gather().unwrap();
        assert_eq!(facts.default_uplink, Some(name("up0")));
        let seen: Vec<_> = facts.interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(seen, ["lo", "up0", "tun9"]);
        let uplink = facts.interface(&name("up0")).unwrap();
        assert_eq!(uplink.addresses, [net("192.0.2.9/24"), net("2001:db8::9/64")]);
        assert_eq!((uplink.mtu, uplink.learnt_route, uplink.accept_ra), (1500, true, Some(1)));
        assert!(uplink.mac.is_some());
        let lo = facts.interface(&name("lo")).unwrap();
        assert_eq!((lo.mac, lo.learnt_route), (None, false));
        let routers: Vec<IpAddr> = ["192.0.2.1", "10.8.0.2", "2001:db8::1"].map(|a| a.parse().unwrap()).to_vec();
        assert_eq!(facts.routers, routers);
        let to: Vec<_> = facts.routes.iter().map(|r| (r.to, r.interface.as_ref().unwrap().as_str())).collect();
        assert!(to.contains(&(net("198.51.100.0/24"), "up0")) && to.contains(&(net("10.8.0.0/24"), "tun9")), "{to:?}");
        assert!(!to.iter().any(|(to, _)| *to == net("10.1.1.0/24") || to.prefix_len() == 0), "{to:?}");
        let listener = facts.listeners.iter().find(|l| l.port == 8080).unwrap();
        assert_eq!((listener.transport, listener.address.to_string().as_str()), (Transport::Tcp, "0.0.0.0"));
        assert!(listener.owner.as_deref().unwrap().ends_with(&format!("(pid {})", std::process::id())));
        assert!(facts.resolvers.iter().all(|r| !r.is_loopback()));
        assert_eq!(
            facts.ipv6_force_forwarding,
            fs::exists("/proc/sys/net/ipv6/conf/default/force_forwarding").unwrap()
        );
        // It is a value that can be written down and read again.
        let written = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<model::facts::HostFacts>(&written).unwrap(), facts);
        std::io::stdout().flush().unwrap();
    });
}
