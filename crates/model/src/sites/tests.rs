#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::choose::{Candidate, Vitals, pick};
use super::path::{canonical, covers};
use super::*;
use crate::network::{Balance, Health, ProxyProtocol, Tls, Upstream};

fn site(hosts: &[&str], path: &str, entries: &[&str]) -> Site {
    Site {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        path: path.to_owned(),
        to: vec![Backend { guest: "a".to_owned(), port: 80 }],
        redirect: None,
        balance: Balance::RoundRobin,
        health: Health::default(),
        tls: Tls::Off,
        entries: entries
            .iter()
            .map(|text| match text.parse::<SocketAddr>() {
                Ok(socket) => Entry { address: Some(socket.ip()), port: socket.port() },
                Err(_) => Entry { address: None, port: text.parse().unwrap() },
            })
            .collect(),
        hsts: None,
        maintenance: None,
        proxy_protocol: ProxyProtocol::Off,
        upstream: Upstream::Http1,
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn hosts_then_paths() {
    let sites = [
        site(&["www.example.org", "example.org"], "/", &["80"]),
        site(&["www.example.org"], "/api", &["80"]),
        site(&["www.example.org"], "/api/v2/", &["80"]),
        site(&["*.example.org"], "/", &["80"]),
        site(&["only.example.org"], "/inside", &["80"]),
        site(&["other.example.org"], "/", &["203.0.113.5:8080"]),
    ];
    let table = Table::of(&sites);
    let find = |host: &str, path: &str| table.find(at("192.0.2.1:80"), host, &canonical(path).unwrap());
    assert_eq!(find("www.example.org", "/"), Found::Site(0));
    assert_eq!(find("example.org", "/api"), Found::Site(0));
    assert_eq!(find("www.example.org", "/api"), Found::Site(1));
    assert_eq!(find("www.example.org", "/apix"), Found::Site(0));
    assert_eq!(find("www.example.org", "/api/v2"), Found::Site(1));
    assert_eq!(find("www.example.org", "/api/v2/"), Found::Site(2));
    assert_eq!(find("www.example.org", "/x/..//%61pi/./v2/y"), Found::Site(2));
    assert_eq!(find("a.example.org", "/api"), Found::Site(3));
    assert_eq!(find("a.b.example.org", "/"), Found::NoHost);
    assert_eq!(find(".example.org", "/"), Found::NoHost);
    // A whole name is not helped out by a wildcard.
    assert_eq!(find("only.example.org", "/"), Found::NoPath);
    assert_eq!(find("only.example.org", "/inside/x"), Found::Site(4));
    assert_eq!(find("example.com", "/"), Found::NoHost);
    // It listens elsewhere; there the wildcard has it.
    assert_eq!(find("other.example.org", "/"), Found::Site(3));
    assert_eq!(table.find(at("203.0.113.5:8080"), "other.example.org", b"/"), Found::Site(5));
    assert_eq!(table.find(at("203.0.113.6:8080"), "other.example.org", b"/"), Found::NoHost);
    assert_eq!(table.host(at("203.0.113.5:8080"), "other.example.org"), Some(5));
}

#[test]
fn hosts_as_they_are_written() {
    let good = [
        ("www.Example.org", "www.example.org"),
        ("example.org:8080", "example.org"),
        ("example.org.:80", "example.org"),
        ("[2001:DB8::5]:80", "2001:db8::5"),
        ("192.0.2.1", "192.0.2.1"),
    ];
    for (written, host) in good {
        assert_eq!(host_of(written).as_deref(), Some(host), "{written}");
    }
    for bad in [
        "",
        ":80",
        ".",
        "..",
        "a..b",
        "a..",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:123456",
        "[::1",
        "[x]",
        "a,b",
        "exämple.org",
        "a\u{0}",
    ] {
        assert_eq!(host_of(bad), None, "{bad:?}");
    }
}

#[test]
fn paths_as_a_backend_reads_them() {
    let good = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("//a///b/", "/a/b/"),
        ("/a/./b/.", "/a/b/"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a%2fb", "/a/b"),
        ("/a/..", "/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
    ];
    for (written, path) in good {
        assert_eq!(canonical(written).as_deref(), Some(path.as_bytes()), "{written}");
    }
    for bad in ["", "*", "a", "/..", "/a/../..", "/%2e%2e/", "/%", "/%4", "/%zz", "/%00"] {
        assert_eq!(canonical(bad), None, "{bad:?}");
    }
}

fn candidates<'a>(names: &'a [String], usable: &'a [bool], busy: &'a [usize]) -> Vec<Candidate<'a>> {
    let all = names.iter().zip(usable).zip(busy);
    all.map(|((name, usable), busy)| Candidate { name, usable: *usable, busy: *busy }).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("g{nth}")).collect()
}

#[test]
fn turns_are_even_and_pass_over_the_dead() {
    let names = names(3);
    let dealt = |usable: [bool; 3]| {
        let mut counts = [0; 3];
        for turn in 0..30 {
            let all = candidates(&names, &usable, &[0; 3]);
            counts[pick(Balance::RoundRobin, all.into_iter(), turn, at("192.0.2.1:1").ip()).unwrap()] += 1;
        }
        counts
    };
    assert_eq!(dealt([true; 3]), [10, 10, 10]);
    let [a, b, c] = dealt([true, false, true]);
    assert_eq!((b, a + c), (0, 30));
}

#[test]
fn clients_are_spread_over_all() {
    let names = names(4);
    let mut counts = [0; 4];
    for last in 0..=255u8 {
        let all = candidates(&names, &[true; 4], &[0; 4]);
        counts[pick(Balance::ClientHash, all.into_iter(), 0, Ipv4Addr::new(192, 0, 2, last).into()).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (32..=96).contains(count)), "{counts:?}");
}

#[test]
fn three_failures_and_two_successes() {
    let health = Health::default();
    let mut vitals = Vitals::default();
    let seen = [false, false, true, false, false, false, true, false, true, true].map(|ok| vitals.note(ok, &health));
    let (dead, alive) = (Some(false), Some(true));
    assert_eq!(seen, [None, None, None, None, None, dead, None, None, None, alive]);
    assert!(vitals.alive());
}

proptest! {
    #[test]
    fn whoever_is_chosen_is_usable(
        all in prop::collection::vec((any::<bool>(), 0usize..9), 1..9), turn in any::<usize>(), client in any::<u32>(),
    ) {
        let names = names(all.len());
        let (usable, busy): (Vec<bool>, Vec<usize>) = all.into_iter().unzip();
        let client = IpAddr::V4(client.into());
        let all = candidates(&names, &usable, &busy);
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::ClientHash] {
            let chosen = pick(balance, all.iter().copied(), turn, client);
            prop_assert_eq!(chosen.is_some(), usable.contains(&true));
            let Some(chosen) = chosen else { continue };
            prop_assert!(usable[chosen]);
            match balance {
                Balance::LeastConnections => {
                    let least = all.iter().filter(|one| one.usable).map(|one| one.busy).min();
                    prop_assert_eq!(Some(busy[chosen]), least);
                }
                Balance::ClientHash => {
                    // Another's end moves nobody.
                    for gone in (0..all.len()).filter(|gone| *gone != chosen) {
                        let mut fewer = all.clone();
                        fewer[gone].usable = false;
                        prop_assert_eq!(pick(balance, fewer.into_iter(), turn + 1, client), Some(chosen));
                    }
                }
                Balance::RoundRobin => {}
            }
        }
    }

    #[test]
    fn canonical_paths_are_their_own(path in "(/|\\.|\\.\\.|a|%2e|%2f|b){0,12}") {
        let path = format!("/{path}");
        if let Some(once) = canonical(&path) {
            let text = std::str::from_utf8(&once).unwrap();
            prop_assert_eq!(canonical(text), Some(once.clone()));
            prop_assert!(covers(b"/", &once));
            prop_assert!(!text.contains("//") && !text.split('/').any(|segment| segment == ".."));
        }
    }
}
