#![allow(clippy::unwrap_used)]
use http::Request;
use model::network::{Backend, Balance, Entry, Health, Http as Limits, ProxyProtocol, Site, Upstream};

use super::*;

fn site(host: &str, tls: Tls) -> Site {
    Site {
        hosts: vec![host.to_owned()],
        path: "/".to_owned(),
        to: vec![Backend { guest: "a".to_owned(), port: 80 }],
        redirect: None,
        balance: Balance::RoundRobin,
        health: Health::default(),
        tls,
        entries: [80, 443].map(|port| Entry { address: None, port }).to_vec(),
        hsts: None,
        maintenance: None,
        proxy_protocol: ProxyProtocol::Off,
        upstream: Upstream::Http1,
    }
}

fn sites() -> Sites {
    let moved = Site { redirect: Some("https://www.example.org{uri}".to_owned()), ..site("old.example", Tls::Off) };
    let all = vec![site("plain.example", Tls::Off), site("safe.example", Tls::SelfSigned), moved];
    Sites { sites: all, http: Limits::default(), ..Sites::default() }
}

fn client(peer: &str, secure: Option<&str>) -> Client {
    let secure = secure.map(|name| Secure { name: (!name.is_empty()).then(|| name.to_owned()) });
    let local = if secure.is_some() { "192.0.2.1:443" } else { "192.0.2.1:80" };
    Client::new(peer.parse().unwrap(), local.parse().unwrap(), secure)
}

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn verdict(client: &Client, uri: &str, headers: &[(&str, &str)]) -> Verdict {
    let sites = sites();
    decide(&sites, &Table::of(&sites.sites), client, &mut head(uri, headers))
}

#[test]
fn what_a_request_comes_to() {
    use Refusal::{Host, Misdirected, UnknownHost};
    let plain = client("198.51.100.7:4000", None);
    let refused = |client: &Client, uri: &str, headers: &[(&str, &str)], why| {
        assert_eq!(verdict(client, uri, headers), Verdict::Refuse(why), "{uri} {headers:?}");
    };
    assert_eq!(verdict(&plain, "/", &[("host", "plain.example")]), Verdict::Proxy { site: 0 });
    assert_eq!(verdict(&plain, "/", &[("host", "PLAIN.example.:80")]), Verdict::Proxy { site: 0 });
    // The absolute form's host counts.
    assert_eq!(verdict(&plain, "http://plain.example/", &[("host", "safe.example")]), Verdict::Proxy { site: 0 });
    refused(&plain, "/", &[("host", "other.example")], UnknownHost);
    refused(&plain, "/", &[], Host);
    refused(&plain, "/", &[("host", "plain.example"), ("host", "plain.example")], Host);
    // To TLS with what was asked; and elsewhere.
    let to = "https://safe.example/a?b=%20".to_owned();
    assert_eq!(verdict(&plain, "/a?b=%20", &[("host", "safe.example:80")]), Verdict::Redirect { to, site: 1 });
    let to = "https://www.example.org/a?b".to_owned();
    assert_eq!(verdict(&plain, "/a?b", &[("host", "old.example")]), Verdict::Redirect { to, site: 2 });
    // By TLS for the host that the connection was opened for alone.
    let secure = client("198.51.100.7:4000", Some("safe.example"));
    assert_eq!(verdict(&secure, "/", &[("host", "safe.example")]), Verdict::Proxy { site: 1 });
    refused(&secure, "/", &[("host", "plain.example")], Misdirected);
    let nameless = client("198.51.100.7:4000", Some(""));
    assert_eq!(verdict(&nameless, "/", &[("host", "safe.example")]), Verdict::Proxy { site: 1 });
}

#[test]
fn http2_says_its_host_once() {
    let sites = sites();
    let table = Table::of(&sites.sites);
    let ask = |host: &str| {
        let mut head = head("http://plain.example/", &[("host", host)]);
        head.version = Version::HTTP_2;
        decide(&sites, &table, &client("198.51.100.7:4000", None), &mut head)
    };
    assert_eq!(ask("plain.example"), Verdict::Proxy { site: 0 });
    assert_eq!(ask("safe.example"), Verdict::Refuse(Refusal::Host));
}

fn sent(peer: &str, trusted: &[&str], headers: &[(&str, &str)]) -> HeaderMap {
    let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
    let mut head = head("/", &[&[("host", "plain.example")], headers].concat());
    outgoing(&mut head, &client(peer, None), &trusted, false);
    head.headers
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn trusted_proxies_are_believed_and_others_not() {
    let said = [
        ("x-forwarded-for", "192.0.2.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "h"),
        ("forwarded", "for=x"),
    ];
    let forged = sent("198.51.100.7:4000", &["203.0.113.0/24"], &said);
    assert_eq!(values(&forged, "x-forwarded-for"), ["198.51.100.7"]);
    assert_eq!(values(&forged, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&forged, "x-forwarded-host"), ["plain.example"]);
    assert_eq!(values(&forged, "forwarded"), ["for=198.51.100.7;host=\"plain.example\";proto=http"]);
    let told = sent("203.0.113.9:4000", &["203.0.113.0/24"], &said);
    assert_eq!(values(&told, "x-forwarded-for"), ["192.0.2.9, 203.0.113.9"]);
    assert_eq!(values(&told, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&told, "x-forwarded-host"), ["h"]);
    assert_eq!(values(&told, "forwarded"), ["for=x, for=203.0.113.9;host=\"plain.example\";proto=http"]);
    // A client that asks for another host is told of anew.
    let known = client("198.51.100.7:4000", None);
    for host in ["plain.example", "plain.example", "old.example"] {
        let mut head = head("/", &[("host", host)]);
        outgoing(&mut head, &known, &[], false);
        assert_eq!(values(&head.headers, "x-forwarded-host"), [host]);
        assert_eq!(values(&head.headers, "forwarded"), [format!("for=198.51.100.7;host=\"{host}\";proto=http")]);
    }
    let six = sent("[2001:db8::7]:4000", &[], &[]);
    assert_eq!(values(&six, "forwarded"), ["for=\"[2001:db8::7]\";host=\"plain.example\";proto=http"]);
}

#[test]
fn the_real_client_is_the_last_that_nobody_vouches_for() {
    let trusted: Vec<IpNet> = vec!["203.0.113.0/24".parse().unwrap()];
    let real = |peer: &str, chain: &str| {
        let head = head("/", &[("x-forwarded-for", chain)]);
        real_client(&head.headers, &client(peer, None), &trusted).to_string()
    };
    assert_eq!(real("198.51.100.7:1", "192.0.2.9"), "198.51.100.7");
    assert_eq!(real("203.0.113.9:1", "1.1.1.1, 192.0.2.9, 203.0.113.8"), "192.0.2.9");
    assert_eq!(real("203.0.113.9:1", "nonsense"), "203.0.113.9");
    assert_eq!(real("203.0.113.9:1", "203.0.113.8"), "203.0.113.8");
}

#[test]
fn what_is_about_one_connection_goes_no_further() {
    let headers = [
        ("connection", "close, X-Mine, Host"),
        ("x-mine", "1"),
        ("keep-alive", "1"),
        ("te", "trailers, gzip"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("proxy-connection", "close"),
        ("x-real-ip", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let left = sent("198.51.100.7:4000", &[], &headers);
    let mut names: Vec<&str> = left.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cookie", "forwarded", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);
    assert_eq!(values(&left, "cookie"), ["a=1; b=2"]);
    let mut head = head("/", &[("te", "trailers, gzip"), ("host", "plain.example")]);
    outgoing(&mut head, &client("198.51.100.7:4000", None), &[], true);
    assert_eq!(values(&head.headers, "te"), ["trailers"]);
}

#[test]
fn hsts_is_said_by_tls_alone() {
    let said = |secure: bool| {
        let (mut headers, site) = (HeaderMap::new(), Site { hsts: Some(300), ..site("safe.example", Tls::SelfSigned) });
        strict(&mut headers, &site, &client("198.51.100.7:4000", secure.then_some("safe.example")));
        headers.get(STRICT_TRANSPORT_SECURITY).map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!((said(true).as_deref(), said(false)), (Some("max-age=300"), None));
}

/// The bytes of HAProxy's proxy-protocol.txt, 2.1 and 2.2.
#[test]
fn heads_of_the_proxy_protocol() {
    let (peer, local) = ("192.0.2.1:56324".parse().unwrap(), "192.0.2.11:443".parse().unwrap());
    assert_eq!(proxy_header(true, peer, local), b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x0b\xdc\x04\x01\xbb";
    assert_eq!(proxy_header(false, peer, local), binary);
    let (peer, local) = ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
    let binary = proxy_header(false, peer, local);
    assert_eq!((binary.len(), &binary[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
}
