//! Netlink: one codec and one socket for rtnetlink, nf_tables, conntrack and sock_diag (linux/netlink.h, RFC 3549).
//!
//! Plain and sequential: batching gains nothing for links and addresses, since the kernel's own cost dominates. The
//! kernel's words for an error (extended ACK) are kept with it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket as RawSocket, SocketAddr};

/// `NLM_F_*` of linux/netlink.h.
pub mod flags {
    /// It is a request.
    pub const REQUEST: u16 = 0x01;
    /// More messages of the same answer follow.
    pub const MULTI: u16 = 0x02;
    /// Answer with an acknowledgement, errors or none.
    pub const ACK: u16 = 0x04;
    /// Everything there is.
    pub const DUMP: u16 = 0x300;
    /// The dump was torn by a change.
    pub const DUMP_INTR: u16 = 0x10;
    /// Replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// Fail if it exists.
    pub const EXCL: u16 = 0x200;
    /// Make it if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add to the end.
    pub const APPEND: u16 = 0x800;
    /// In an error message: attributes follow (NLM_F_ACK_TLVS).
    pub const ACK_TLVS: u16 = 0x200;
    /// In an error message: the request's payload is left out (NLM_F_CAPPED).
    pub const CAPPED: u16 = 0x100;
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const HEADER: usize = 16;
/// No message is longer than 64 KiB but for its nested attributes' headers; dumps come in 32 KiB at most.
const RECEIVE: usize = 128 * 1024;
thread_local! {
    /// What datagrams are received into: one for each would be asked of the system and given back each time.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// What the kernel refused, in its own words where it gave any.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel answered a request with an error.
    #[error("{}{}", io::Error::from_raw_os_error(*.errno), .words.as_deref().map(|w| format!(": {w}")).unwrap_or_default())]
    Refused {
        /// The positive errno.
        errno: i32,
        /// The extended ACK's message (NLMSGERR_ATTR_MSG).
        words: Option<String>,
        /// The sequence number of the message that was refused.
        seq: u32,
    },
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel sent what we do not understand.
    #[error("the kernel's answer is malformed: {0}")]
    Malformed(&'static str),
    /// A dump was torn by changes again and again.
    #[error("the dump was interrupted by changes, time and again")]
    Interrupted,
}

impl NetlinkError {
    /// The kernel's errno, where it answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(e) => e.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the object was not there (ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL).
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// Writes one message, or several behind one another.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    start: usize,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A message's header; its length is written by [`Self::end`].
    pub fn begin(&mut self, kind: u16, flags: u16, seq: u32) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// Ends the message that [`Self::begin`] began.
    pub fn end(&mut self) -> &mut Self {
        self.pad();
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// The family's fixed header, or any other plain bytes; zeros follow up to a multiple of four.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = (4 + payload.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    /// An attribute of text with its terminating zero.
    pub fn attr_str(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An attribute of one byte.
    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// An attribute of two bytes in the machine's order.
    pub fn attr_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute of four bytes in the machine's order (rtnetlink).
    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute of four bytes in network order (nfnetlink).
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute of eight bytes in network order (nfnetlink).
    pub fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes, written by `fill`, with NLA_F_NESTED set.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[at + 2..at + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let over = self.bytes.len() % 4;
        if over != 0 {
            self.bytes.resize(self.bytes.len() + 4 - over, 0);
        }
    }

    /// How many bytes stand in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing stands in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// One received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// nlmsg_type
    pub kind: u16,
    /// nlmsg_flags
    pub flags: u16,
    /// nlmsg_seq
    pub seq: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// The attributes in `bytes`, as (type without its flags, payload). Stops at what is torn.
pub fn attrs(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

/// The first attribute of that type.
#[must_use]
pub fn find_attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, payload)| payload)
}

/// Text up to its terminating zero.
#[must_use]
pub fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|b| *b == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

/// Four bytes in the machine's order; 0 where they are not four.
#[must_use]
pub fn ne_u32(payload: &[u8]) -> u32 {
    payload.try_into().map(u32::from_ne_bytes).unwrap_or(0)
}

/// Four bytes in network order; 0 where they are not four.
#[must_use]
pub fn be_u32(payload: &[u8]) -> u32 {
    payload.try_into().map(u32::from_be_bytes).unwrap_or(0)
}

/// Eight bytes in network order; 0 where they are not eight.
#[must_use]
pub fn be_u64(payload: &[u8]) -> u64 {
    payload.try_into().map(u64::from_be_bytes).unwrap_or(0)
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it, wherever it is used.
pub struct Socket {
    raw: RawSocket,
    seq: u32,
}

impl Socket {
    /// Opens a socket of `protocol` (NETLINK_* of linux/netlink.h), with extended ACKs.
    pub fn open(protocol: isize) -> Result<Self> {
        let mut raw = RawSocket::new(protocol)?;
        raw.bind_auto()?;
        raw.set_ext_ack(true)?;
        // CAP_ACK leaves the request out of error messages; older kernels put the text behind it.
        raw.set_cap_ack(true)?;
        raw.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { raw, seq: 0 })
    }

    /// A sequence number for the next message.
    pub fn next_seq(&mut self) -> u32 {
        self.seq += 1;
        self.seq
    }

    /// The index of the interface of that name in the socket's network namespace (SIOCGIFINDEX, netdevice(7)). Unlike a
    /// request for the link it waits for nobody who changes any: the kernel has one lock for these, in all namespaces.
    ///
    /// # Errors
    /// ENODEV where there is none of the name, also where the name is too long for any.
    pub fn index_of(&self, name: &str) -> io::Result<u32> {
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 };
        let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
        if name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = byte as libc::c_char;
        }
        // SAFETY: the socket is open, and the request is a live ifreq, whose name ends with a zero.
        if unsafe { libc::ioctl(self.raw.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: this is the field that the kernel has written.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex }.unsigned_abs())
    }

    /// Sends what stands in `bytes`.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let sent = self.raw.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Malformed("a message was cut on its way")) }
    }

    /// The messages of one datagram.
    pub fn receive(&self) -> Result<Vec<Message>> {
        self.receive_with(0)
    }

    /// The messages of one datagram where one is there already; None instead of waiting. nf_tables answers a batch
    /// before `send` returns, so what is not there then never comes.
    pub fn receive_ready(&self) -> Result<Option<Vec<Message>>> {
        match self.receive_with(libc::MSG_DONTWAIT) {
            Ok(messages) => Ok(Some(messages)),
            Err(NetlinkError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn receive_with(&self, flags: libc::c_int) -> Result<Vec<Message>> {
        // A large buffer lets the kernel fill dumps 32 KiB at a time (netlink_dump in net/netlink/af_netlink.c), which
        // spares it from walking large sets from their beginning for each small piece.
        let mut bytes = BUFFER.take();
        bytes.clear();
        bytes.reserve_exact(RECEIVE);
        let length = loop {
            match self.raw.recv(&mut bytes, flags | libc::MSG_TRUNC) {
                Ok(length) => break length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    BUFFER.set(bytes);
                    return Err(e.into());
                }
            }
        };
        let Some(mut rest) = bytes.get(..length) else {
            return Err(NetlinkError::Malformed("a datagram is larger than our buffer"));
        };
        let mut messages = Vec::new();
        while rest.len() >= HEADER {
            let length = ne_u32(&rest[..4]) as usize;
            let Some(payload) = rest.get(HEADER..length) else {
                return Err(NetlinkError::Malformed("a message is longer than its datagram"));
            };
            messages.push(Message {
                kind: u16::from_ne_bytes([rest[4], rest[5]]),
                flags: u16::from_ne_bytes([rest[6], rest[7]]),
                seq: ne_u32(&rest[8..12]),
                payload: payload.to_vec(),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        BUFFER.set(bytes);
        Ok(messages)
    }

    /// Sends one request built by `fill` (which writes the family header and attributes) and waits for its
    /// acknowledgement.
    pub fn request(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) -> Result<()> {
        let seq = self.next_seq();
        let mut writer = Writer::new();
        writer.begin(kind, flags | flags::ACK, seq);
        fill(&mut writer);
        writer.end();
        self.send(writer.bytes())?;
        loop {
            for message in self.receive()? {
                if message.seq == seq && message.kind == NLMSG_ERROR {
                    return ack(&message);
                }
            }
        }
    }

    /// Sends a dump request and gathers its answer; asks again where changes tore it.
    pub fn dump(&mut self, kind: u16, fill: impl Fn(&mut Writer)) -> Result<Vec<Message>> {
        self.get(kind, flags::DUMP, fill)
    }

    /// Sends a request that is answered with messages: a dump, or one object.
    pub fn get(&mut self, kind: u16, flags: u16, fill: impl Fn(&mut Writer)) -> Result<Vec<Message>> {
        for _ in 0..16 {
            if let Some(messages) = self.get_once(kind, flags, &fill)? {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    fn get_once(&mut self, kind: u16, flags: u16, fill: impl Fn(&mut Writer)) -> Result<Option<Vec<Message>>> {
        let seq = self.next_seq();
        let is_dump = flags & flags::DUMP == flags::DUMP;
        let mut writer = Writer::new();
        writer.begin(kind, flags, seq);
        fill(&mut writer);
        writer.end();
        self.send(writer.bytes())?;
        let mut found = Vec::new();
        let mut torn = false;
        loop {
            for message in self.receive()? {
                if message.seq != seq {
                    continue;
                }
                torn |= message.flags & flags::DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => return Ok((!torn).then_some(found)),
                    NLMSG_ERROR => {
                        if let Err(e) = ack(&message) {
                            // nf_tables ends a dump that a commit tore with EINTR.
                            return if e.errno() == Some(libc::EINTR) { Ok(None) } else { Err(e) };
                        }
                        return Ok(Some(found));
                    }
                    NLMSG_OVERRUN => return Ok(None),
                    // A single object, or why there is none, is all that answers who asks for no acknowledgement.
                    _ if !is_dump => return Ok(Some(vec![message])),
                    _ => found.push(message),
                }
            }
        }
    }

    /// Takes part in a multicast group (NETLINK_ADD_MEMBERSHIP).
    pub fn join(&mut self, group: u32) -> Result<()> {
        Ok(self.raw.add_membership(group)?)
    }

    /// The underlying socket, for options.
    #[must_use]
    pub fn raw(&self) -> &RawSocket {
        &self.raw
    }

    /// Enlarges the socket's buffers to `bytes` past the system's limit where we have CAP_NET_ADMIN in the initial
    /// namespace, else as far as net.core.*mem_max lets us.
    pub fn enlarge(&self, bytes: usize) {
        let value = bytes as libc::c_int;
        for (force, plain) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)] {
            if !self.set_option(force, value) {
                self.set_option(plain, value);
            }
        }
    }

    /// The most bytes that one `send` takes (netlink_sendmsg refuses more than SO_SNDBUF less 32 with EMSGSIZE).
    #[must_use]
    pub fn send_limit(&self) -> usize {
        let mut value: libc::c_int = 0;
        let mut size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as self is, and both pointers are to live values of their sizes.
        let code = unsafe {
            libc::getsockopt(
                self.raw.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw mut value).cast(),
                &raw mut size,
            )
        };
        if code == 0 { usize::try_from(value).unwrap_or(0).saturating_sub(32) } else { 0 }
    }

    /// Sets SO_SNDBUF within the system's limit, net.core.wmem_max; the kernel doubles the number.
    pub fn set_send_buffer(&self, bytes: usize) {
        self.set_option(libc::SO_SNDBUF, bytes as libc::c_int);
    }

    fn set_option(&self, option: libc::c_int, value: libc::c_int) -> bool {
        let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as self is, and the pointer is to a live c_int of that size.
        unsafe {
            libc::setsockopt(self.raw.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), size) == 0
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

/// Reads an NLMSG_ERROR message: an acknowledgement, or the kernel's refusal with its words.
pub fn ack(message: &Message) -> Result<()> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = message.payload.get(..4).ok_or(NetlinkError::Malformed("a short error message"))?;
    let errno = -i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
    if errno == 0 {
        return Ok(());
    }
    let words = (message.flags & flags::ACK_TLVS != 0)
        .then(|| {
            let inner = message.payload.get(4..8).map_or(HEADER, |l| ne_u32(l) as usize);
            let skip = if message.flags & flags::CAPPED != 0 { HEADER } else { inner };
            find_attr(message.payload.get((4 + skip).next_multiple_of(4)..)?, NLMSGERR_ATTR_MSG).map(text)
        })
        .flatten();
    Err(NetlinkError::Refused { errno, words, seq: message.seq })
}
