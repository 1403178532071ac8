//! Whatever comes to a resolver's socket, as a question or as an upstream resolver's answer: nothing panics, and what
//! is said to it can be read by whom it is for.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use model::address::{IfName, Mac};
use model::services::{LanServices, NamedHost};
use services::dns::decide::{Decision, Zone};
use services::dns::wire::{self, NoQuery, Query};

/// A LAN with one guest.
pub fn lan() -> LanServices {
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

/// A question without EDNS.
pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(wire::name(name).unwrap());
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// Holds for a packet of these bytes.
pub fn hold(bytes: &[u8]) {
    asked(bytes);
    let world = wire::query(&question("world.example", 1)).unwrap();
    answered(bytes, &world);
    // The question that this would be an answer to.
    if let Some(own) = question_of(bytes).and_then(|question| wire::query(&question).ok()) {
        answered(bytes, &own);
    }
}

/// As a question.
fn asked(bytes: &[u8]) {
    let lan = lan();
    let zone = Zone::of(&lan, [("laptop", IpAddr::from([10, 1, 1, 100]))].into_iter());
    let query = match wire::query(bytes) {
        Ok(query) => query,
        Err(NoQuery::Refuse { id, flags, rcode }) => {
            assert_eq!(wire::refusal(id, flags, rcode).len(), 12);
            return;
        }
        Err(NoQuery::Silence) => return,
    };
    for source in ["10.1.1.6", "fd10:1:1::6", "fe80::6", "192.0.2.1"] {
        match zone.decide(&query, source.parse().unwrap(), query.limit()) {
            Decision::Reply(reply) | Decision::Refuse(reply) => {
                assert!(reply.len() <= query.limit().max(bytes.len() + 11), "longer than it may be");
                assert_eq!(reply[..2], bytes[..2], "another's id");
                assert_eq!(wire::query(&reply), Err(NoQuery::Silence), "no answer");
                // Another warren above this one's guest could hand it on.
                assert!(wire::answer(&reply, query.id, &query).is_ok(), "an answer that cannot be read");
            }
            Decision::Forward => {
                let again = wire::query(&query.upstream(7)).unwrap();
                assert_eq!((&again.name, again.kind, again.class), (&query.name, query.kind, query.class));
                assert_eq!(again.unchecked, query.unchecked);
                assert_eq!(again.edns.unwrap().dnssec, query.edns.is_some_and(|edns| edns.dnssec));
            }
        }
    }
}

/// As an upstream resolver's answer to `asked`.
fn answered(bytes: &[u8], asked: &Query) {
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let Ok(answer) = wire::answer(bytes, id, asked) else { return };
    for (limit, edns) in [(512, false), (512, true), (1232, true), (65535, true)] {
        let edns = edns.then_some(wire::Edns { payload: 1232, dnssec: true, version: 0 });
        let asker = Query { id: 0x4321, edns, ..asked.clone() };
        let reply = answer.reply(&asker, 5, limit);
        assert!(reply.len() <= limit.max(12 + asked.name.len() + 4 + 11), "longer than it may be");
        let again = wire::answer(&reply, 0x4321, &asker).unwrap();
        match (answer.rcode, asker.edns) {
            (16.., None) => assert_eq!(again.rcode, 2),
            (rcode, _) => assert_eq!(again.rcode, rcode),
        }
        if !again.truncated {
            assert_eq!(again.addresses, answer.addresses);
            assert!(again.lifetime <= answer.lifetime, "it gets no younger");
        }
    }
}

/// The header and first question of an answer, as they were asked.
fn question_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            break;
        }
    }
    let mut question = bytes.get(..at + 4)?.to_vec();
    question[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    Some(question)
}
