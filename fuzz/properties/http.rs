//! Whatever a client of a site asks, as a head that hyper could read: nothing panics, and what a guest is sent is one
//! request for one host, whose ways are not the client's to say. And whatever a guest answers: it is the same in
//! whatever pieces it comes.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use model::network::{Balance, Entry, Health, ProxyProtocol, Site, Tls, Upstream};
use model::sites::path::{canonical, covers};
use model::sites::{Sites, Table, host_of};
use services::http::decide::{Client, Verdict, decide, outgoing, upgrade};
use services::http::wire::{Framing, Piece, read_head};

fn sites() -> Sites {
    let site = |host: &str, path: &str| Site {
        hosts: vec![host.to_owned()],
        path: path.to_owned(),
        to: Vec::new(),
        redirect: None,
        balance: Balance::RoundRobin,
        health: Health::default(),
        tls: Tls::Off,
        entries: vec![Entry { address: None, port: 80 }],
        hsts: None,
        maintenance: None,
        proxy_protocol: ProxyProtocol::Off,
        upstream: Upstream::Http1,
    };
    let all = vec![site("www.example.org", "/"), site("www.example.org", "/api"), site("*.example.org", "/")];
    Sites { sites: all, ..Sites::default() }
}

/// A head of lines: method and target, then headers. Nothing where hyper would not have read it either.
fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    for line in lines.take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request.into_parts().0)
}

/// Holds for a head of these bytes.
pub fn hold(bytes: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let whole = answer(bytes, &method, bytes.len().max(1));
        for step in [1, 2, 5] {
            assert_eq!(answer(bytes, &method, step), whole, "by {step}");
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        words(text);
    }
    let (sites, client) = (sites(), client());
    let table = Table::of(&sites.sites);
    for (version, http2) in [(Version::HTTP_11, false), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
        let Some(mut head) = head(bytes) else { return };
        head.version = version;
        let asked = head.uri.path_and_query().map(ToString::to_string);
        let Verdict::Proxy { site } = decide(&sites, &table, &client, &mut head) else { continue };
        let path = head.uri.path().to_owned();
        assert_eq!(site == 1, canonical(&path).is_some_and(|path| covers(b"/api", &path)) && site != 2, "{path}");
        let _ = upgrade(&head);
        outgoing(&mut head, &client, &[], http2);
        assert_eq!(head.uri.path_and_query().map(ToString::to_string), asked, "the path as it came");
        let all = |name: &str| head.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("host").len(), 1);
        assert!(all("host")[0].to_str().is_ok_and(|host| host_of(host).is_some()));
        assert_eq!(all("x-forwarded-for"), ["198.51.100.7"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("x-forwarded-host"), all("host"));
        assert_eq!(all("forwarded").len(), 1);
        for gone in ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "x-real-ip"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
    }
}

fn client() -> Client {
    Client::new("198.51.100.7:4000".parse().unwrap(), "203.0.113.2:80".parse().unwrap(), None)
}

/// As a host, and as a path.
fn words(text: &str) {
    if let Some(host) = host_of(text) {
        assert_eq!(host_of(&host).as_deref().map(str::len), Some(host.len()).filter(|_| !host.contains(':')));
    }
    if let Some(path) = canonical(text) {
        assert!(covers(b"/", &path) && !path.windows(2).any(|pair| pair == b"//"));
        assert!(!path.split(|byte| *byte == b'/').any(|segment| segment == b".." || segment == b"."));
    }
}

/// What is read of a guest's answer that comes in pieces of `step` bytes: status, headers, body, trailers, and what of
/// it is left. Nothing where it is none, or not all there.
fn answer(bytes: &[u8], method: &Method, step: usize) -> Option<(u16, HeaderMap, Vec<u8>, HeaderMap, usize)> {
    let (mut pieces, mut read) = (bytes.chunks(step), BytesMut::new());
    let mut answer = loop {
        match read_head(&mut read, method).ok()? {
            Some(answer) => break answer,
            None => read.extend_from_slice(pieces.next()?),
        }
    };
    let (mut body, mut behind) = (Vec::new(), HeaderMap::new());
    loop {
        match answer.framing.take(&mut read).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(trailers) => behind = trailers,
            Piece::Over => break,
            Piece::More => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None if answer.framing == Framing::Rest => break,
                None => return None,
            },
        }
    }
    assert!(answer.headers.get_all("content-length").iter().count() <= 1, "lengths");
    let left = read.len() + pieces.map(<[u8]>::len).sum::<usize>();
    Some((answer.status.as_u16(), answer.headers, body, behind, left))
}
