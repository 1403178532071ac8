//! Packets of anybody's: whatever comes, nothing panics, nothing is said that cannot be read, and what is right is told
//! apart from what is not. The properties are the fuzzers' (fuzz/properties), and what those have found worth keeping
//! (fuzz/kept) is tried here each time.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use model::services::Services;
use proptest::prelude::*;
use services::dns::decide::Inside;
use services::dns::wire;

use self::dns::{lan, question};

#[path = "../../../fuzz/properties/config.rs"]
mod config;
#[path = "../../../fuzz/properties/dhcp.rs"]
mod dhcp;
#[path = "../../../fuzz/properties/dns.rs"]
mod dns;
#[path = "../../../fuzz/properties/http.rs"]
mod heads;
#[path = "../../../fuzz/properties/router.rs"]
mod router;
#[path = "../../../fuzz/properties/socks.rs"]
mod socks;

#[test]
fn what_fuzzers_found_holds() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/kept");
    for (name, hold) in [
        ("config", config::hold as fn(&[u8])),
        ("dhcp", dhcp::hold),
        ("dns", dns::hold),
        ("http", heads::hold),
        ("router", router::hold),
        ("socks", socks::hold),
    ] {
        let mut count = 0;
        for entry in std::fs::read_dir(kept.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            hold(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 10, "{count} of {name}");
    }
}

/// An answer of an upstream's with one A record for the question's name.
fn upstream(asked: &wire::Query, id: u16, address: Ipv4Addr, ttl: u32) -> Vec<u8> {
    let mut bytes = asked.upstream(id);
    bytes[2] |= 0x80;
    bytes[7] = 1;
    // Before its OPT record.
    let mut record = vec![0xc0, 12, 0, 1, 0, 1];
    record.extend(ttl.to_be_bytes());
    record.extend([0, 4]);
    record.extend(address.octets());
    let at = bytes.len() - 11;
    bytes.splice(at..at, record);
    bytes
}

fn everything(bytes: &[u8]) {
    dns::hold(bytes);
    dhcp::hold(bytes);
    router::hold(bytes);
    socks::hold(bytes);
}

proptest! {
    #[test]
    fn heads_of_any_sort(
        path in "(/|%2e|\\.|api|x|\\?|%00|//){0,9}", host in "(www\\.example\\.org|[a-z.:@]{0,9})(:80)?",
        lines in "((connection|host|forwarded|x-forwarded-for|x_real_ip|te|upgrade|cookie): [ -~]{0,20}\n){0,6}",
    ) {
        heads::hold(format!("GET /{path}\nhost: {host}\n{lines}").as_bytes());
        heads::hold(path.as_bytes());
        heads::hold(host.as_bytes());
    }

    #[test]
    fn bytes_of_any_sort(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        everything(&bytes);
    }

    #[test]
    fn messages_that_somebody_changed(
        name in "[a-zA-Z0-9.-]{1,60}", kind in any::<u16>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let Some(_) = wire::name(&name) else { return Ok(()) };
        let plain = question(&name, kind);
        let asked = wire::query(&plain).unwrap();
        let answered = upstream(&asked, 0x1234, Ipv4Addr::new(192, 0, 2, 1), 60);
        for mut bytes in [plain, answered] {
            everything(&bytes);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            everything(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            everything(&bytes);
        }
    }
}

#[test]
fn an_upstream_answer_is_handed_on_with_its_own_id_name_and_age() {
    let mut bytes = question("WORLD.example", 1);
    let asked = wire::query(&bytes).unwrap();
    let answer = upstream(&asked, 99, Ipv4Addr::new(192, 0, 2, 1), 60);
    assert!(wire::answer(&answer, 98, &asked).is_err(), "another's id");
    let other = wire::query(&question("other.example", 1)).unwrap();
    assert!(wire::answer(&answer, 99, &other).is_err(), "another's question");
    let answer = wire::answer(&answer, 99, &asked).unwrap();
    assert_eq!((answer.lifetime, &answer.addresses[..]), (60, &[IpAddr::from([192, 0, 2, 1])][..]));
    let reply = answer.reply(&asked, 10, 512);
    assert_eq!(reply[..2], [0x12, 0x34]);
    assert_eq!(reply[12..27], bytes[12..27], "as it was written");
    // No EDNS was asked with, so none is answered with.
    assert_eq!(reply[10..12], [0, 0]);
    assert_eq!(reply[reply.len() - 10..reply.len() - 6], 50u32.to_be_bytes());
    // With EDNS there is one.
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    let asked = wire::query(&bytes).unwrap();
    let reply = answer.reply(&asked, 10, asked.limit());
    assert_eq!(reply[10..12], [0, 1]);
    assert!(asked.edns.unwrap().dnssec);
}

#[test]
fn names_of_the_world_that_point_inside_are_known_in_every_dress() {
    let services = Services { lans: vec![lan()], hosts_resolver: true, ..Services::default() };
    let inside = Inside::of(&services);
    for address in ["10.1.1.200", "fd10:1:1::9", "::ffff:10.1.1.6", "127.0.0.1", "::1", "0.0.0.0"] {
        assert!(inside.holds(address.parse().unwrap()), "{address}");
    }
    for address in ["10.1.2.1", "192.0.2.1", "fd10:1:2::1"] {
        assert!(!inside.holds(address.parse().unwrap()), "{address}");
    }
}
