//! Packets of anybody's: whatever comes, nothing panics, nothing is said that cannot be read, and what is right is told
//! apart from what is not. The same functions are fuzzed (fuzz/); what that found is kept here.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use model::address::{IfName, Mac};
use model::services::{LanServices, NamedHost, Services};
use proptest::prelude::*;
use services::dhcp::wire as dhcp;
use services::dns::decide::{Decision, Inside, Zone};
use services::dns::wire::{self, NoQuery};
use services::ra::wire as ra;

fn lan() -> LanServices {
    LanServices {
        bridge: IfName::new("br1").unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: vec!["10.1.1.1/24".parse().unwrap(), "fd10:1:1::1/64".parse().unwrap()],
        domain: "cnx.example".to_owned(),
        hosts: vec![NamedHost {
            name: "cnx6".to_owned(),
            aliases: vec!["www".to_owned()],
            addresses: vec!["10.1.1.6".parse().unwrap(), "fd10:1:1::6".parse().unwrap()],
            mac: Mac([2, 0, 0, 0, 0, 6]),
        }],
        upstreams: vec!["198.51.100.7".parse().unwrap()],
        recursion: true,
        dhcp: None,
        advertised: None,
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(wire::name(name).unwrap());
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
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
    let lan = lan();
    let zone = Zone::of(&lan, [("laptop", IpAddr::from([10, 1, 1, 100]))].into_iter());
    match wire::query(bytes) {
        Ok(query) => {
            for source in ["10.1.1.6", "fd10:1:1::6", "192.0.2.1"] {
                match zone.decide(&query, source.parse().unwrap(), query.limit()) {
                    Decision::Reply(reply) | Decision::Refuse(reply) => {
                        assert!(reply.len() <= query.limit().max(bytes.len() + 11), "longer than it may be");
                        assert_eq!(reply[..2], bytes[..2], "another's id");
                        assert_eq!(wire::query(&reply), Err(NoQuery::Silence), "no answer");
                    }
                    Decision::Forward => {
                        let again = wire::query(&query.upstream(7)).unwrap();
                        assert_eq!((&again.name, again.kind), (&query.name, query.kind));
                    }
                }
            }
            let _ = wire::answer(bytes, query.id, &query);
        }
        Err(NoQuery::Refuse { id, flags, rcode }) => {
            assert_eq!(wire::refusal(id, flags, rcode).len(), 12);
        }
        Err(NoQuery::Silence) => {}
    }
    let asked = wire::query(&question("world.example", 1)).unwrap();
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    if let Ok(answer) = wire::answer(bytes, id, &asked) {
        for limit in [512, 1232, 65535] {
            assert!(answer.reply(&asked, 5, limit).len() <= limit.max(64));
        }
    }
    let _ = dhcp::ask(bytes);
    let _ = dhcp::claim(bytes);
    let _ = ra::is_solicitation(bytes);
}

proptest! {
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
    let services = Services { lans: vec![lan()], hosts_resolver: true };
    let inside = Inside::of(&services);
    for address in ["10.1.1.200", "fd10:1:1::9", "::ffff:10.1.1.6", "127.0.0.1", "::1", "0.0.0.0"] {
        assert!(inside.holds(address.parse().unwrap()), "{address}");
    }
    for address in ["10.1.2.1", "192.0.2.1", "fd10:1:2::1"] {
        assert!(!inside.holds(address.parse().unwrap()), "{address}");
    }
}
