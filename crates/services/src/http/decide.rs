//! What is made of a request before anything is sent anywhere: pure.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Uri, Version, request};
use ipnet::IpNet;
use model::network::{Site, Tls};
use model::sites::{self, Found, Sites, Table, path};

use super::tls::Secure;

/// Who asks, as its connection knows it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its end.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// What its TLS agreed on, where it came by TLS.
    pub secure: Option<Secure>,
    /// What guests were told of it last: most of its requests are for one host.
    told: RefCell<Option<Told>>,
}

/// What a guest is told of a client that asks for `host`.
#[derive(Clone, Debug)]
struct Told {
    host: HeaderValue,
    chain: HeaderValue,
    by: HeaderValue,
}

impl Client {
    /// At the ends of a connection.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr, secure: Option<Secure>) -> Self {
        Self { peer, local, secure, told: RefCell::default() }
    }
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a site's guests.
    Proxy {
        /// The site's place.
        site: usize,
    },
    /// It is sent elsewhere.
    Redirect {
        /// The URL.
        to: String,
        /// The site that sends it there, by its place.
        site: usize,
    },
    /// The site is closed.
    Closed {
        /// The site's place.
        site: usize,
    },
    /// It is no request that anybody here takes.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names no host, or several, or one that is none.
    Host,
    /// Its path leads above the root, or is none.
    Path,
    /// Its method is not for a proxy of this sort.
    Method,
    /// The host is nobody's here.
    UnknownHost,
    /// The host is known, and the path is no site's.
    UnknownPath,
    /// Its connection was opened for another host (RFC 9110, 15.5.20).
    Misdirected,
}

/// What becomes of a request: its host is written into its headers as it was meant, and nothing else is changed.
#[must_use]
pub fn decide(sites: &Sites, table: &Table, client: &Client, head: &mut request::Parts) -> Verdict {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Verdict::Refuse(Refusal::Method);
    }
    let Some(authority) = authority(head) else { return Verdict::Refuse(Refusal::Host) };
    let Some(host) = authority.to_str().ok().and_then(sites::host_of) else { return Verdict::Refuse(Refusal::Host) };
    if let Some(Secure { name: Some(name), .. }) = &client.secure
        && *name != host
    {
        return Verdict::Refuse(Refusal::Misdirected);
    }
    let path = match head.uri.path() {
        // Of the server as a whole.
        "*" if head.method == Method::OPTIONS => Some(Cow::Borrowed(&b"/"[..])),
        path => path::canonical(path),
    };
    let Some(path) = path else { return Verdict::Refuse(Refusal::Path) };
    let nth = match table.find(client.local, &host, &path) {
        Found::Site(nth) => nth,
        Found::NoPath => return Verdict::Refuse(Refusal::UnknownPath),
        Found::NoHost => return Verdict::Refuse(Refusal::UnknownHost),
    };
    let Some(site) = sites.sites.get(nth) else { return Verdict::Refuse(Refusal::UnknownHost) };
    let asked = head.uri.path_and_query().map_or("/", |asked| asked.as_str());
    if client.secure.is_none() && site.tls != Tls::Off {
        let port = secure_port(site, client.local);
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        return Verdict::Redirect { to: format!("https://{host}{port}{asked}"), site: nth };
    }
    if site.tls == Tls::Passthrough {
        // Its TLS is the guest's own, and this connection was opened for another name, or for none.
        return Verdict::Refuse(Refusal::Misdirected);
    }
    if site.maintenance.is_some() {
        return Verdict::Closed { site: nth };
    }
    if let Some(url) = &site.redirect {
        return Verdict::Redirect { to: url.replace("{uri}", asked), site: nth };
    }
    drop(host);
    head.headers.insert(HOST, authority);
    Verdict::Proxy { site: nth }
}

/// Where a site with TLS is asked by who came to `local` without: 443 where it listens there, else the port that he came
/// to where that is not the one for plain HTTP.
fn secure_port(site: &Site, local: SocketAddr) -> u16 {
    let ports = || site.entries.iter().map(|entry| entry.port);
    match local.port() {
        _ if ports().any(|port| port == 443) => 443,
        80 => ports().find(|port| *port != 80).unwrap_or(443),
        port => port,
    }
}

/// Whom a request is for: the URI's own authority (absolute form, and HTTP/2), else the one `Host`. Nothing where that
/// is missing or not one. What HTTP/2 says twice it must say alike (RFC 9113, 8.3.1).
fn authority(head: &request::Parts) -> Option<HeaderValue> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return None;
    }
    match head.uri.authority() {
        Some(authority) => {
            let text = authority.as_str();
            let differs = host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(text.as_bytes()));
            if text.contains('@') || differs && head.version == Version::HTTP_2 {
                return None;
            }
            HeaderValue::from_str(text).ok()
        }
        None => host.cloned(),
    }
}

// ---- what a guest is sent ----

/// Headers that are about one connection (RFC 9110, 7.6.1), and `Expect`, which is answered here.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What both ends want to speak instead of HTTP, where a client asks for it.
#[must_use]
pub fn upgrade(head: &request::Parts) -> Option<HeaderValue> {
    let asked = tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let to = head.headers.get(UPGRADE)?;
    // HTTP/2 in clear text by upgrade is deprecated (RFC 9113, 3.1), and a way past what is checked here.
    let other = to.to_str().is_ok_and(|to| !to.to_ascii_lowercase().contains("h2c"));
    (asked && other && head.version == Version::HTTP_11).then(|| to.clone())
}

/// Whether the client takes trailers: what gRPC asks for.
fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Takes out what is about one connection, and what the `Connection` header says is; but never the host.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).filter(|name| *name != HOST).collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    // Most have none of them, and a look at each name is less than a search for each of these.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// Makes a request's head one for a guest: what is about the connection goes, and what says where it comes from is ours
/// unless a trusted proxy said it. The path stays what it was, byte for byte.
pub fn outgoing(head: &mut request::Parts, client: &Client, trusted: &[IpNet], http2: bool) {
    let trailers = http2 && wants_trailers(&head.headers);
    strip(&mut head.headers);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    crumbs(&mut head.headers);
    forwarded(head, client, trusted);
    head.version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    // Guests that speak HTTP/1.1 are asked for the path alone.
    if !http2 && (head.uri.scheme().is_some() || head.uri.authority().is_some()) {
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
}

/// Cookies that HTTP/2 brought in pieces are one line to HTTP/1.1 (RFC 9113, 8.2.3).
fn crumbs(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
            headers.insert(COOKIE, whole);
        }
    }
}

fn forwarded(head: &mut request::Parts, client: &Client, trusted: &[IpNet]) {
    let peer = client.peer.ip().to_canonical();
    let headers = &mut head.headers;
    let host = headers.get(HOST).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
    let scheme = if client.secure.is_some() { "https" } else { "http" };
    let proto = HeaderValue::from_static(scheme);
    if is_trusted(peer, trusted) {
        let before = [joined(headers, &FORWARDED_FOR), joined(headers, &FORWARDED)];
        if let Some(told) = tell(peer, host, scheme, before) {
            headers.insert(FORWARDED_FOR, told.chain);
            headers.insert(FORWARDED, told.by);
            headers.entry(FORWARDED_HOST).or_insert(told.host);
        }
        headers.entry(FORWARDED_PROTO).or_insert(proto);
        return;
    }
    forget(headers);
    let mut known = client.told.borrow_mut();
    if known.as_ref().is_none_or(|told| told.host != host) {
        *known = tell(peer, host, scheme, Default::default());
    }
    if let Some(told) = &*known {
        headers.insert(FORWARDED_FOR, told.chain.clone());
        headers.insert(FORWARDED, told.by.clone());
        headers.insert(FORWARDED_HOST, told.host.clone());
    }
    headers.insert(FORWARDED_PROTO, proto);
}

/// What is told of `peer`, behind what is said already. Nothing only for a host of strange bytes, which was refused
/// before.
fn tell(peer: IpAddr, host: HeaderValue, scheme: &str, [mut chain, mut by]: [String; 2]) -> Option<Told> {
    // Writing to a String cannot fail.
    let _ = write!(chain, "{peer}");
    let named = host.to_str().ok()?;
    let _ = match peer {
        IpAddr::V4(_) => write!(by, "for={peer};host=\"{named}\";proto={scheme}"),
        IpAddr::V6(_) => write!(by, "for=\"[{peer}]\";host=\"{named}\";proto={scheme}"),
    };
    let value = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text)).ok();
    Some(Told { host, chain: value(chain)?, by: value(by)? })
}

/// What is said already, for more to be said behind it.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .fold(String::new(), |all, one| all + one + ", ")
}

/// Takes out whatever a client says of where it comes from, however it writes it: to CGI's descendants `-` and `_` are
/// one.
fn forget(headers: &mut HeaderMap) {
    let says = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        let begins = |with: &[u8]| {
            let alike = |(a, b): (&u8, &u8)| a == b || *a == b'_' && *b == b'-';
            name.len() >= with.len() && name.iter().zip(with).all(alike)
        };
        begins(b"x-forwarded") || begins(b"x-real-ip") || name == b"forwarded"
    };
    if headers.keys().any(says) {
        let named: Vec<HeaderName> = headers.keys().filter(|name| says(name)).cloned().collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Who asks: the peer, or behind trusted proxies whoever the last of them that is not trusted says.
#[must_use]
pub fn real_client(headers: &HeaderMap, client: &Client, trusted: &[IpNet]) -> IpAddr {
    let mut real = client.peer.ip().to_canonical();
    if trusted.is_empty() || !is_trusted(real, trusted) {
        return real;
    }
    let values = headers.get_all(FORWARDED_FOR);
    let said: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).collect();
    for address in said.iter().rev() {
        let Ok(address) = address.trim().parse::<IpAddr>() else { break };
        real = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    real
}

// ---- what a client is sent ----

/// What a site wants its clients to know by TLS alone: that it is asked by TLS alone (RFC 6797, 7.1).
pub fn strict(headers: &mut HeaderMap, site: &Site, client: &Client) {
    if let Some(seconds) = site.hsts.filter(|_| client.secure.is_some())
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={seconds}"))
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
}

/// Whether a request may be sent a second time when nobody knows what became of the first (RFC 9110, 9.2.2), as far as
/// nothing is lost by it: what changes nothing.
#[must_use]
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The head of the PROXY protocol (HAProxy's proxy-protocol.txt): version 1 is text, version 2 binary.
#[must_use]
pub fn proxy_header(version1: bool, peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (from, to) = (peer.ip().to_canonical(), local.ip().to_canonical());
    if version1 {
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {from} {to} {} {}\r\n", peer.port(), local.port()).into_bytes();
    }
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    let mut head = SIGNATURE.to_vec();
    // Version 2, PROXY; then family and STREAM, and the length of the addresses.
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            head.extend([0x21, 0x11, 0, 12]);
            head.extend(from.octets());
            head.extend(to.octets());
        }
        (from, to) => {
            let six = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            head.extend([0x21, 0x21, 0, 36]);
            head.extend(six(from));
            head.extend(six(to));
        }
    }
    head.extend(peer.port().to_be_bytes());
    head.extend(local.port().to_be_bytes());
    head
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
