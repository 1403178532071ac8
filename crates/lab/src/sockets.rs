//! The prober's sockets: raw ones that send and receive, and what the routing table says. A socket belongs to the
//! namespace that it was made in, so all of this is called inside ([`kernel::netns::Netns::run`]) and polled outside.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use kernel::netlink::{self, NetlinkError};
use model::address::Mac;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Seen};

/// The hardware type of loopback interfaces: ARPHRD_LOOPBACK of linux/if_arp.h.
const LOOPBACK: u16 = 772;

/// What one packet socket was handed.
pub(crate) struct Frame {
    /// Whether it came for us (linux/if_packet.h: PACKET_HOST), not for another or from us.
    pub to_us: bool,
    /// Whether it was seen leaving (PACKET_OUTGOING).
    pub leaving: bool,
    /// Whether the interface is a loopback one.
    pub loopback: bool,
    /// How many bytes of the buffer it fills.
    pub length: usize,
}

/// A buffer that the packets we look for, and what ICMP errors quote of them, fit into.
pub(crate) const BUFFER: usize = 2048;

/// Opens a packet socket without link headers for frames of `ethertype` (ETH_P_ALL: leaving ones too), on one
/// interface or (0) on all.
pub(crate) fn packet_socket(ethertype: u16, interface: u32) -> io::Result<Socket> {
    // Of protocol 0 at first: it sees nothing until it is bound, so no packet of another interface slips in.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), None)?;
    enlarge(&socket);
    socket.bind(&link_address(ethertype, interface, None))?;
    Ok(socket)
}

/// Room for a batch's packets at once; past the system's limit where we may.
fn enlarge(socket: &Socket) {
    let size: libc::c_int = 8 << 20;
    // SAFETY: the socket is open, and the pointer is to a live c_int of that size.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if forced != 0 {
        // Less room is no failure: packets are fetched between sends.
        let _ = socket.set_recv_buffer_size(size as usize);
    }
}

/// A packet socket's address: what is sent to it goes to `to` on that interface.
pub(crate) fn link_address(ethertype: u16, interface: u32, to: Option<Mac>) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the platform's socket address types.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = ethertype.to_be();
    link.sll_ifindex = interface as libc::c_int;
    if let Some(mac) = to {
        link.sll_halen = 6;
        link.sll_addr[..6].copy_from_slice(&mac.0);
    }
    // SAFETY: the storage was filled as a sockaddr_ll, as its family says, and that is its length.
    unsafe { SockAddr::new(storage, std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Reads a packet socket's address, where it is one.
fn read_link_address(address: SockAddr) -> Option<libc::sockaddr_ll> {
    if libc::c_int::from(address.family()) != libc::AF_PACKET {
        return None;
    }
    let mut storage = address.as_storage();
    // SAFETY: sockaddr_ll is one of the platform's socket address types, and the family says that it is this one.
    Some(*unsafe { storage.view_as::<libc::sockaddr_ll>() })
}

/// The hardware address of the interface that a packet socket is bound to.
pub(crate) fn hardware_address(socket: &Socket) -> io::Result<Option<Mac>> {
    let link = read_link_address(socket.local_addr()?);
    Ok(link.filter(|l| l.sll_halen == 6).map(|l| {
        let [a, b, c, d, e, f, ..] = l.sll_addr;
        Mac([a, b, c, d, e, f])
    }))
}

/// Fetches one frame of a packet socket's; none where none waits.
pub(crate) fn next_frame(socket: &Socket, buffer: &mut [u8; BUFFER]) -> io::Result<Option<Frame>> {
    // SAFETY: recvfrom writes at most the buffer's length into it, and an address of at most `length` bytes into the
    // storage, setting `length` to what it wrote.
    let received = unsafe {
        SockAddr::try_init(|storage, length| {
            let n = libc::recvfrom(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), BUFFER, 0, storage.cast(), length);
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })
    };
    let (length, address) = match received {
        Ok(received) => received,
        Err(e) => return nothing_waits(e),
    };
    let Some(link) = read_link_address(address) else {
        return Ok(Some(Frame { to_us: false, leaving: false, loopback: false, length }));
    };
    Ok(Some(Frame {
        to_us: link.sll_pkttype == libc::PACKET_HOST,
        leaving: link.sll_pkttype == libc::PACKET_OUTGOING,
        loopback: link.sll_hatype == LOOPBACK,
        length,
    }))
}

/// Errors that a non-blocking read gives without being broken: nothing is there, or (ENETDOWN) an interface went.
fn nothing_waits<T>(e: io::Error) -> io::Result<Option<T>> {
    match e.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
        _ => Err(e),
    }
}

/// Sockets that see what is delivered to this namespace itself, behind its input hook: a copy of each packet that
/// passed (raw(7), ipv6(7)).
pub(crate) fn delivered_sockets() -> io::Result<Vec<(Socket, Option<u8>)>> {
    let mut sockets = Vec::new();
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMPV4] {
        let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(protocol))?;
        enlarge(&socket);
        sockets.push((socket, None));
    }
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMPV6] {
        let socket = match Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(protocol)) {
            Ok(socket) => socket,
            // A kernel without IPv6 delivers none.
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => break,
            Err(e) => return Err(e),
        };
        enlarge(&socket);
        receive_destination(&socket)?;
        sockets.push((socket, Some(i32::from(protocol) as u8)));
    }
    Ok(sockets)
}

/// Has a raw IPv6 socket tell where each packet was addressed to: it hands out no IP header (IPV6_RECVPKTINFO).
fn receive_destination(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the socket is open, and the pointer is to a live c_int of that size.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Fetches one packet of a socket of [`delivered_sockets`]: outer none where none waits, inner none where it is
/// nothing of ours.
pub(crate) fn next_delivered(
    socket: &Socket,
    protocol: Option<u8>,
    buffer: &mut [u8; BUFFER],
) -> io::Result<Option<Option<Seen>>> {
    let Some(protocol) = protocol else {
        return match next_frame(socket, buffer)? {
            Some(frame) => Ok(Some(packet::read(buffer.get(..frame.length).unwrap_or(&[])))),
            None => Ok(None),
        };
    };
    match next_of_ipv6(socket, buffer) {
        Ok((length, source, destination)) => {
            let body = buffer.get(..length).unwrap_or(&[]);
            Ok(Some(packet::read_body(source.into(), destination.into(), protocol, body)))
        }
        Err(e) => nothing_waits(e),
    }
}

fn next_of_ipv6(socket: &Socket, buffer: &mut [u8; BUFFER]) -> io::Result<(usize, Ipv6Addr, Ipv6Addr)> {
    /// Aligned as control messages must be.
    #[repr(align(8))]
    struct Control([u8; 128]);
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER };
    let mut destination = Ipv6Addr::UNSPECIFIED;
    // SAFETY: every pointer in the header is to a live buffer of the length told beside it, and recvmsg stays within
    // them. The control messages are walked by libc's macros, which check against the length that recvmsg has set; an
    // IPV6_PKTINFO message holds an in6_pktinfo, read unaligned. The address is zeroed before and written by recvmsg.
    let (length, from) = unsafe {
        SockAddr::try_init(|storage, size| {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = storage.cast();
            header.msg_namelen = *size;
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
            let n = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
            let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
            *size = header.msg_namelen;
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                if (*message).cmsg_level == libc::IPPROTO_IPV6 && (*message).cmsg_type == libc::IPV6_PKTINFO {
                    let info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                    destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
            Ok(n)
        })
    }?;
    let source = from.as_socket_ipv6().map_or(Ipv6Addr::UNSPECIFIED, |a| *a.ip());
    Ok((length, source, destination))
}

/// Sockets that send whole IP packets by the namespace's own routes, rules and neighbours.
pub(crate) struct SendSockets {
    v4: Socket,
    /// None where the kernel has no IPv6.
    v6: Option<Socket>,
    /// For whole frames.
    link: Socket,
}

impl SendSockets {
    pub(crate) fn open() -> io::Result<Self> {
        // IPPROTO_RAW: the header is ours, and nothing is received.
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        let v4 = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), raw)?;
        v4.set_header_included_v4(true)?;
        let v6 = match Socket::new(Domain::IPV6, Type::RAW.nonblocking(), raw) {
            Ok(socket) => {
                socket.set_header_included_v6(true)?;
                Some(socket)
            }
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(e) => return Err(e),
        };
        // Of protocol 0: it receives nothing.
        let link = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        Ok(Self { v4, v6, link })
    }

    /// Sends a whole frame, its header and all, by that interface.
    pub(crate) fn send_frame(&self, frame: &[u8], interface: u32) -> io::Result<()> {
        let ethertype = frame.get(12..14).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
        self.link.send_to(frame, &link_address(ethertype, interface, None)).map(|_| ())
    }

    pub(crate) fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = match (to, &self.v6) {
            (IpAddr::V4(_), _) => &self.v4,
            (IpAddr::V6(_), Some(socket)) => socket,
            (IpAddr::V6(_), None) => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(|_| ())
    }
}

/// What the routing table says of a destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The source that a packet would bear.
    pub source: Option<IpAddr>,
    /// The interface that it would leave by.
    pub interface: u32,
    /// Whether the destination is this namespace's own.
    pub local: bool,
}

/// Of linux/rtnetlink.h and linux/if_addr.h.
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Asks the kernel for the route to `to`.
pub(crate) fn route(socket: &mut netlink::Socket, to: IpAddr) -> Result<Route, NetlinkError> {
    let answers = socket.get(RTM_GETROUTE, 0, |w| {
        let (family, bits) = if to.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
        // rtmsg: family and destination length, the rest zero.
        w.raw(&[family as u8, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).attr(RTA_DST, &octets(to));
    })?;
    let payload = &answers.first().ok_or(NetlinkError::Malformed("no route and no error"))?.payload;
    let attributes = payload.get(12..).unwrap_or(&[]);
    Ok(Route {
        source: netlink::find_attr(attributes, RTA_PREFSRC).and_then(read_address),
        interface: netlink::find_attr(attributes, RTA_OIF).map_or(0, netlink::ne_u32),
        local: payload.get(7) == Some(&RTN_LOCAL),
    })
}

/// The interface that holds `address`.
pub(crate) fn interface_of(socket: &mut netlink::Socket, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let wanted = octets(address);
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let answers = socket.dump(RTM_GETADDR, |w| {
        w.raw(&[family as u8, 0, 0, 0, 0, 0, 0, 0]);
    })?;
    Ok(answers.iter().find_map(|message| {
        let attributes = message.payload.get(8..)?;
        // Of a point-to-point link IFA_ADDRESS is the other end's.
        let own = netlink::find_attr(attributes, IFA_LOCAL).or_else(|| netlink::find_attr(attributes, IFA_ADDRESS))?;
        (own == wanted).then(|| netlink::ne_u32(message.payload.get(4..8).unwrap_or(&[])))
    }))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// The number of the interface `name` in the calling thread's namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the name is a live string with its terminating zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A packet socket that asks and hears who has an address: ARP for IPv4, neighbour discovery for IPv6.
pub(crate) fn who_has_socket(v6: bool, interface: u32) -> io::Result<Socket> {
    packet_socket(if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_ARP }, interface)
}
