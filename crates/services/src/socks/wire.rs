//! SOCKS5 on the wire (RFC 1928). A reader is given what has come so far, and says what it is, or that there is more
//! to come; it believes no length.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const VERSION: u8 = 5;
/// NO AUTHENTICATION REQUIRED.
const NO_AUTHENTICATION: u8 = 0;
/// CONNECT.
const CONNECT: u8 = 1;
/// Types of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// The longest handshake: a greeting with 255 methods, then a request with a name of 255 bytes.
pub const LONGEST: usize = 2 + 255 + 4 + 1 + 255 + 2;

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It is connected.
    Succeeded = 0,
    /// Something else went wrong.
    Failed = 1,
    /// It may not go there.
    NotAllowed = 2,
    /// There is no way to that network.
    NetworkUnreachable = 3,
    /// Nobody answers there, or nobody knows the name.
    HostUnreachable = 4,
    /// Nothing listens there.
    Refused = 5,
    /// Something else than CONNECT.
    Command = 7,
    /// An address of no known type.
    Address = 8,
}

/// What was read, and how many bytes of it.
pub type Read<T> = Result<Option<(T, usize)>, Malformed>;

/// It is not SOCKS5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not SOCKS5")]
pub struct Malformed;

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To an address.
    Address(SocketAddr),
    /// To a name, as it was written: letters, digits, `-`, `_` and dots alone.
    Name(String, u16),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Whether a client that greets may come in without authentication; none where more is to come.
pub fn greeting(bytes: &[u8]) -> Read<bool> {
    match bytes {
        [] | [VERSION] => Ok(None),
        [VERSION, count, rest @ ..] => {
            let methods = rest.get(..usize::from(*count));
            Ok(methods.map(|methods| (methods.contains(&NO_AUTHENTICATION), 2 + methods.len())))
        }
        _ => Err(Malformed),
    }
}

/// The answer to a greeting.
#[must_use]
pub fn method(welcome: bool) -> [u8; 2] {
    [VERSION, if welcome { NO_AUTHENTICATION } else { 0xff }]
}

/// Where a client wants to go, or the code that it is refused with; none where more is to come.
pub fn request(bytes: &[u8]) -> Read<Result<Target, Code>> {
    match bytes {
        [VERSION, ..] | [] => {}
        _ => return Err(Malformed),
    }
    let [_, command, _reserved, kind, rest @ ..] = bytes else { return Ok(None) };
    let length = match (*kind, rest.first()) {
        (IPV4, _) => 4,
        (IPV6, _) => 16,
        (NAME, Some(length)) => 1 + usize::from(*length),
        (NAME, None) => return Ok(None),
        // How long it is cannot be known: nothing behind it can be read.
        _ => return Ok(Some((Err(Code::Address), 4))),
    };
    let (Some(address), Some(&[high, low])) = (rest.get(..length), rest.get(length..length + 2)) else {
        return Ok(None);
    };
    let all = 4 + length + 2;
    if *command != CONNECT {
        return Ok(Some((Err(Code::Command), all)));
    }
    let port = u16::from_be_bytes([high, low]);
    let at = |address: IpAddr| Target::Address(SocketAddr::new(address, port));
    let target = match *kind {
        IPV4 => <[u8; 4]>::try_from(address).ok().map(|four| at(four.into())),
        IPV6 => <[u8; 16]>::try_from(address).ok().map(|sixteen| at(sixteen.into())),
        _ => address.get(1..).and_then(|name| named(name, port)),
    };
    Ok(Some((target.ok_or(Code::HostUnreachable), all)))
}

/// An address that is written as a name is one, in brackets as well.
fn named(name: &[u8], port: u16) -> Option<Target> {
    let text = std::str::from_utf8(name).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Target::Address(SocketAddr::new(address, port)));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!text.is_empty() && text.bytes().all(plain)).then(|| Target::Name(text.to_owned(), port))
}

/// The answer to a request: what became of it, and the address that it left by.
#[must_use]
pub fn reply(code: Code, bound: Option<SocketAddr>) -> Vec<u8> {
    let bound = bound.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    let mut bytes = vec![VERSION, code as u8, 0];
    match bound.ip() {
        IpAddr::V4(address) => {
            bytes.push(IPV4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(IPV6);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(bound.port().to_be_bytes());
    bytes
}
