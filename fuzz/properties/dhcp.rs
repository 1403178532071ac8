//! Whatever frames come to a DHCP server: nothing panics, and each answer is a whole frame with right checksums, for
//! an address that its client may have.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use model::address::{IfName, Mac};
use model::network::LeaseRange;
use model::services::{Dhcp, LanServices, NamedHost};
use services::dhcp::decide::{Action, Table};
use services::dhcp::leases;
use services::dhcp::wire::{self, Answer, Told};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const GUEST: Mac = Mac([2, 0, 0, 0, 0, 6]);

/// A LAN with one guest, and a range of four addresses for others.
fn lan() -> LanServices {
    LanServices {
        bridge: IfName::new("br1").unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: vec!["10.1.1.1/24".parse().unwrap()],
        domain: "cnx.example".to_owned(),
        hosts: vec![NamedHost {
            name: "cnx6".to_owned(),
            aliases: Vec::new(),
            addresses: vec!["10.1.1.6".parse().unwrap()],
            mac: GUEST,
        }],
        upstreams: Vec::new(),
        recursion: true,
        dhcp: Some(Dhcp {
            server: SERVER,
            subnet: "10.1.1.0/24".parse().unwrap(),
            router: true,
            range: Some(LeaseRange { first: Ipv4Addr::new(10, 1, 1, 100), last: Ipv4Addr::new(10, 1, 1, 103) }),
            taken: [SERVER, Ipv4Addr::new(10, 1, 1, 6)].into(),
            routes: vec![("10.77.0.0/16".parse().unwrap(), Ipv4Addr::new(10, 1, 1, 6))],
        }),
        advertised: None,
    }
}

/// Holds for these bytes: as one frame, and as a few messages, each with its length in front and in a frame of ours.
pub fn hold(data: &[u8]) {
    let _ = wire::claim(data);
    let _ = leases::read(&String::from_utf8_lossy(data), 1000);
    let lan = lan();
    let mut table = Table::default();
    asked(&mut table, &lan, data, 1000);
    let (mut rest, mut now) = (data, 1000);
    while let Some((&length, behind)) = rest.split_first() {
        let (message, behind) = behind.split_at(usize::from(length).min(behind.len()));
        asked(&mut table, &lan, &framed(message), now);
        (rest, now) = (behind, now + 7);
    }
    let mut seen = std::collections::BTreeSet::new();
    assert!(table.leases(now).all(|lease| seen.insert(lease.address)), "one address, two leases");
}

/// Who it is from and what it wants by its first bytes, its options by the rest.
fn framed(message: &[u8]) -> Vec<u8> {
    let (head, options) = message.split_at(message.len().min(6));
    let byte = |at: usize| head.get(at).copied().unwrap_or_default();
    let client = [2, 0, 0, 0, 0, byte(0) % 8];
    let mut bootp = vec![0; 236];
    bootp[..3].copy_from_slice(&[1, 1, 6]);
    bootp[4..8].copy_from_slice(&[byte(1), 0, 0, 0]);
    bootp[10] = byte(2) & 0x80;
    if byte(3) != 0 {
        bootp[12..16].copy_from_slice(&[10, 1, 1, byte(3)]);
    }
    bootp[28..34].copy_from_slice(&client);
    bootp.extend([99, 130, 83, 99, 53, 1, byte(4) % 9]);
    if byte(5) != 0 {
        bootp.extend([50, 4, 10, 1, 1, byte(5)]);
    }
    bootp.extend(options);
    let mut frame = vec![0xff; 6];
    frame.extend(client);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((28 + bootp.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    frame.extend((8 + bootp.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(bootp);
    frame
}

fn asked(table: &mut Table, lan: &LanServices, frame: &[u8], now: u64) {
    let Ok(ask) = wire::ask(frame) else { return };
    let mut actions = table.asked(lan, &ask, now);
    // Whatever else has it answers for one address in two.
    while let Some(action) = actions.pop() {
        match action {
            Action::Probe(address) => {
                let holder = (address.octets()[3] % 2 == 0).then_some(Mac([2, 0, 0, 0, 1, 0]));
                actions.extend(table.probed(lan, address, holder, now));
            }
            Action::Answer(answer) => whole(lan, &answer),
            Action::Record(lease) => {
                let line = leases::line(&lease);
                let read = leases::read(&line, 0);
                assert_eq!(read.first(), (lease.until > 0).then_some(&lease));
            }
            Action::Count(_) => {}
        }
    }
}

/// An answer is one that a client can read, and gives nobody what is another's.
fn whole(lan: &LanServices, answer: &Answer) {
    let dhcp = lan.dhcp.as_ref().unwrap();
    if let Some(yours) = answer.yours {
        let own = answer.to.client == GUEST;
        let fine = if own { yours == Ipv4Addr::new(10, 1, 1, 6) } else { dhcp.range.unwrap().contains(yours) };
        assert!(fine && (own || !dhcp.taken.contains(&yours)), "{yours} for {:?}", answer.to.client);
    }
    let told = Told {
        mac: lan.mac,
        server: dhcp.server,
        subnet: dhcp.subnet,
        router: dhcp.router,
        domain: lan.domain.clone(),
        mtu: 1500,
        routes: dhcp.routes.clone(),
        name: None,
    };
    let frame = wire::frame(answer, &told);
    let (header, datagram) = frame[14..].split_at(20);
    assert_eq!(sum(header), 0xffff, "the header's checksum");
    assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), frame.len() - 14);
    let mut pseudo = header[12..20].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend((datagram.len() as u16).to_be_bytes());
    pseudo.extend(datagram);
    assert_eq!(sum(&pseudo), 0xffff, "the datagram's checksum");
    let message = &datagram[8..];
    assert!(message.len() >= 300);
    assert_eq!(message[4..8], answer.to.xid.to_be_bytes());
    let mut rest = &message[240..];
    while rest[0] != 255 {
        rest = &rest[2 + usize::from(rest[1])..];
    }
}

/// The Internet's sum (RFC 1071): all ones over what has a right checksum.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
