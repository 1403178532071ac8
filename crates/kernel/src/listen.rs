//! The sockets of the LANs' services: bound here, with privileges, and handed to a process without any.
//!
//! Names are answered on each LAN's own address and never on the wildcard, or answers would leave from another address
//! than the question came to. What DHCP and router advertisements use is bound to the bridge.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use model::address::{IfName, Transport};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::error::{Context as _, KernelError, Result, explained};
use crate::rtnl::Rtnl;
use crate::sockdiag;

/// DNS (RFC 1035).
pub const DNS: u16 = 53;
/// A DHCP server's port (RFC 2131).
const BOOTPS: u16 = 67;
/// Ether types (linux/if_ether.h).
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
/// ff02::2, all routers on the link (RFC 4291).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// How much may wait in a socket while its reader is being replaced, in bytes.
static WAITING: libc::c_int = 4 << 20;
/// Clients that wait to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// A UDP socket for names on one of this host's addresses. Fails with EADDRINUSE, and its owner, where the port is
/// taken.
pub fn dns_udp(address: IpAddr) -> Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(Domain::for_address((address, DNS).into()), Type::DGRAM, Some(Protocol::UDP))?;
        before_bind(&socket, address)?;
        enlarge(&socket)?;
        socket.bind(&SocketAddr::new(address, DNS).into())?;
        Ok(socket)
    };
    bind().map(Into::into).map_err(|e| taken(Transport::Udp, Some(address), DNS, e))
}

/// A TCP socket that listens for names on one of this host's addresses.
pub fn dns_tcp(address: IpAddr) -> Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(Domain::for_address((address, DNS).into()), Type::STREAM, Some(Protocol::TCP))?;
        before_bind(&socket, address)?;
        // Connections of an earlier process that wait for their end do not hold the port.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(address, DNS).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().map(Into::into).map_err(|e| taken(Transport::Tcp, Some(address), DNS, e))
}

/// A TCP socket that listens for whoever is on this host.
pub fn loopback(at: SocketAddr) -> Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        if !at.ip().is_loopback() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let socket = socket(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().map(Into::into).map_err(|e| taken(Transport::Tcp, Some(at.ip()), at.port(), e))
}

/// A TCP socket that listens for sites, whether this host has the address yet or not (IP_FREEBIND of ip(7)).
pub fn site(at: SocketAddr) -> Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        before_bind(&socket, at.ip())?;
        if at.is_ipv4() {
            socket.set_freebind_v4(true)?;
        }
        socket.set_reuse_address(true)?;
        // What it accepts has it too: answers are written whole, and none waits for a client's acknowledgement.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let address = Some(at.ip()).filter(|address| !address.is_unspecified());
    bind().map(Into::into).map_err(|e| taken(Transport::Tcp, address, at.port(), e))
}

/// Whatever holds the DHCP server's port on a bridge. It takes no datagram: a packet socket reads them, and this one
/// keeps others off the port and the kernel from refusing what it believes is sent to nobody.
pub fn dhcp_port(bridge: &IfName) -> Result<OwnedFd> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.attach_filter(&[ret(0)])?;
        socket.bind_device(Some(bridge.as_str().as_bytes()))?;
        socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), BOOTPS).into())?;
        Ok(socket)
    };
    bind().map(Into::into).map_err(|e| taken(Transport::Udp, None, BOOTPS, e))
}

/// A packet socket that reads what is sent to a DHCP server on a bridge, Ethernet header included, and sends whole
/// frames.
pub fn dhcp_frames(bridge: &IfName) -> Result<OwnedFd> {
    // IPv4, UDP, no later fragment, and behind the IP header's own length the destination port.
    let filter = [
        SockFilter::new(LD_H_ABS, 0, 0, 12),
        SockFilter::new(JEQ, 0, 8, u32::from(ETH_P_IP)),
        SockFilter::new(LD_B_ABS, 0, 0, 23),
        SockFilter::new(JEQ, 0, 6, 17),
        SockFilter::new(LD_H_ABS, 0, 0, 20),
        SockFilter::new(JSET, 4, 0, 0x1fff),
        SockFilter::new(LDX_MSH, 0, 0, 14),
        SockFilter::new(LD_H_IND, 0, 0, 16),
        SockFilter::new(JEQ, 0, 1, u32::from(BOOTPS)),
        ret(u32::MAX),
        ret(0),
    ];
    packet(bridge, ETH_P_IP, &filter).context("open a socket for DHCP on", bridge.as_str())
}

/// A packet socket for ARP on a bridge: to ask whether an address is somebody's.
pub fn arp_frames(bridge: &IfName) -> Result<OwnedFd> {
    packet(bridge, ETH_P_ARP, &[ret(u32::MAX)]).context("open a socket for ARP on", bridge.as_str())
}

/// A raw ICMPv6 socket that hears router solicitations on a bridge, and sends advertisements to it with the hop limit
/// that RFC 4861 wants.
pub fn router(bridge: &IfName) -> Result<OwnedFd> {
    let open = || -> io::Result<Socket> {
        let socket = socket(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        only_solicitations(&socket)?;
        socket.bind_device(Some(bridge.as_str().as_bytes()))?;
        let index = index(bridge)?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_unicast_hops_v6(255)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        Ok(socket)
    };
    open().map(Into::into).context("open a socket for router advertisements on", bridge.as_str())
}

/// The index of an interface; ENODEV where it is not there.
pub fn index(name: &IfName) -> io::Result<u32> {
    let links = Rtnl::open().and_then(|mut rtnl| rtnl.links()).map_err(io::Error::other)?;
    let link = links.into_iter().find(|link| link.name == name.as_str());
    link.map(|link| link.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

// ---- how they are made ----

fn socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind.cloexec(), protocol)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// An IPv6 address may still be in duplicate address detection.
fn before_bind(socket: &Socket, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)
        }
    }
}

/// The limit for others (net.core.rmem_max) is a few hundred small packets.
fn enlarge(socket: &Socket) -> io::Result<()> {
    let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open, and the pointer and size are of a live integer.
    let code = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const WAITING).cast(), size)
    };
    // Root of a user namespace may not; then the ordinary limit holds.
    if code == 0 { Ok(()) } else { socket.set_recv_buffer_size(WAITING.unsigned_abs() as usize) }
}

// Classic BPF (linux/filter.h, linux/bpf_common.h): class, size and mode in one number.
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_H_IND: u16 = 0x48;
const LDX_MSH: u16 = 0xb1;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;

fn ret(length: u32) -> SockFilter {
    SockFilter::new(RET, 0, 0, length)
}

/// A socket that sends whole frames by a bridge, and hears nothing.
pub(crate) fn sender(bridge: &IfName) -> io::Result<std::fs::File> {
    packet(bridge, ETH_P_ARP, &[ret(0)]).map(std::fs::File::from)
}

/// Nothing is received before the filter stands: the protocol is named by the bind alone (packet(7)).
fn packet(bridge: &IfName, protocol: u16, filter: &[SockFilter]) -> io::Result<OwnedFd> {
    let socket = socket(Domain::PACKET, Type::RAW, None)?;
    socket.attach_filter(filter)?;
    let on: libc::c_int = 1;
    // SAFETY: the socket is open, and the pointer and size are of a live integer.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    // Before 4.20 our own frames are heard, too, and are none that a server is sent.
    if code != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOPROTOOPT) {
        return Err(io::Error::last_os_error());
    }
    let index = index(bridge)?;
    // SAFETY: all zeros are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the socket is open, and the pointer and size are of the live address.
    let code = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if code == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// Router solicitations alone (ICMP6_FILTER of RFC 3542; linux/icmpv6.h: a bit set is a type that does not pass).
fn only_solicitations(socket: &Socket) -> io::Result<()> {
    const ICMP6_FILTER: libc::c_int = 1;
    const SOLICITATION: usize = 133;
    let mut blocked = [u32::MAX; 8];
    blocked[SOLICITATION / 32] &= !(1 << (SOLICITATION % 32));
    // SAFETY: the socket is open, and the pointer and size are of a live array.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            blocked.as_ptr().cast(),
            std::mem::size_of_val(&blocked) as libc::socklen_t,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The error of a bind, with who has the port.
fn taken(transport: Transport, address: Option<IpAddr>, port: u16, error: io::Error) -> KernelError {
    let what = match address {
        Some(address) => format!("{transport} port {port} of {address}"),
        None => format!("{transport} port {port}"),
    };
    if error.raw_os_error() != Some(libc::EADDRINUSE) {
        return KernelError::new("listen on", what, error);
    }
    // Only for the message: without it the error is the same.
    let waiting = sockdiag::listening().unwrap_or_default();
    let same = |other: &&sockdiag::Listening| {
        let overlaps = address.is_none_or(|own| other.address == own || other.address.is_unspecified());
        other.transport == transport && other.port == port && overlaps
    };
    let inodes = waiting.iter().filter(same).map(|other| other.inode).collect();
    let owner = sockdiag::owners(&inodes).into_values().next();
    let why = match owner {
        Some(owner) => format!("{owner} has it: let it listen on other addresses, or stop it"),
        None => "another program has it: `ss -lnp` says which".to_owned(),
    };
    KernelError::new("listen on", what, explained(error, why))
}
