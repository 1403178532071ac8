//! Properties: what is crafted is read back, answers are known, and no bytes make it panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(a, b)| (IpAddr::V4(a.into()), IpAddr::V4(b.into()))),
        any::<(u128, u128)>().prop_map(|(a, b)| (IpAddr::V6(a.into()), IpAddr::V6(b.into()))),
    ]
}

fn probes() -> impl Strategy<Value = Craft> {
    let kinds = prop_oneof![Just(Kind::Tcp), Just(Kind::Udp), Just(Kind::Echo)];
    (addresses(), kinds, any::<(u16, u16, u32)>()).prop_map(|((source, destination), kind, (sport, dport, token))| {
        Craft { source, destination, kind, sport, dport, token }
    })
}

/// Whether the checksum behind the IP header is right: the sum over everything is then all ones.
fn checksum_holds(packet: &[u8]) -> bool {
    let ip = read_ip(packet).unwrap();
    let pseudo = match (ip.source, ip.destination) {
        _ if ip.protocol == ICMP => 0,
        (IpAddr::V4(a), IpAddr::V4(b)) => pseudo4(a, b, ip.protocol, ip.body.len()),
        (IpAddr::V6(a), IpAddr::V6(b)) => pseudo6(a, b, ip.protocol, ip.body.len()),
        _ => unreachable!(),
    };
    fold(pseudo + sum(ip.body)) == 0
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header4(a, b, protocol, body.len()),
        (IpAddr::V6(a), IpAddr::V6(b)) => header6(a, b, protocol, body.len(), 64),
        _ => unreachable!(),
    };
    packet.extend_from_slice(body);
    packet
}

proptest! {
    #[test]
    fn crafted_probes_are_read_back(probe in probes(), padding in 0usize..24) {
        let mut packet = craft(&probe).unwrap();
        prop_assert!(checksum_holds(&packet));
        if probe.source.is_ipv4() {
            prop_assert_eq!(fold(sum(&packet[..20])), 0);
        }
        // Short Ethernet frames are padded.
        packet.resize(packet.len() + padding, 0);
        let seen = read(&packet).unwrap();
        prop_assert_eq!(seen, Seen {
            source: probe.source,
            destination: probe.destination,
            kind: probe.kind,
            token: Some(probe.token),
            sport: probe.sport,
            dport: if probe.kind == Kind::Echo { 0 } else { probe.dport },
            // Sent from and to one port, a datagram and its echo are alike; the prober never does that.
            answer: None,
        });
        prop_assert!(!seen.is_reply());
    }

    #[test]
    fn mixed_families_give_no_packet(a in any::<u32>(), b in any::<u128>(), probe in probes()) {
        let mixed = Craft { source: IpAddr::V4(a.into()), destination: IpAddr::V6(b.into()), ..probe };
        prop_assert!(craft(&mixed).is_none());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (read(&bytes), Arp::read(&bytes), Ethernet::read(&bytes), neighbour_advertised(&bytes));
        for protocol in [ICMP, TCP, UDP, ICMPV6, bytes.first().copied().unwrap_or(0)] {
            let _ = read_body(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), protocol, &bytes);
            // Behind a whole header more of the parser is reached.
            let _ = read(&ip(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), protocol, &bytes));
            let v6 = ip(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), protocol, &bytes);
            let _ = (read(&v6), neighbour_advertised(&v6));
        }
    }

    #[test]
    fn torn_and_bent_packets_make_no_panic(probe in probes(), cut in 0usize..80, at in 0usize..80, with in any::<u8>()) {
        let mut packet = craft(&probe).unwrap();
        packet.truncate(cut);
        if let Some(byte) = packet.get_mut(at) {
            *byte = with;
        }
        let _ = read(&packet);
    }

    #[test]
    fn tcp_answers_are_known(probe in probes(), syn_ack in any::<bool>(), seq in any::<u32>()) {
        let mut body = Vec::new();
        body.extend_from_slice(&probe.dport.to_be_bytes());
        body.extend_from_slice(&probe.sport.to_be_bytes());
        body.extend_from_slice(&seq.to_be_bytes());
        body.extend_from_slice(&probe.token.wrapping_add(1).to_be_bytes());
        body.extend_from_slice(&[0x50, if syn_ack { SYN | ACK } else { RST | ACK }, 0, 0, 0, 0, 0, 0]);
        let seen = read(&ip(probe.destination, probe.source, TCP, &body)).unwrap();
        prop_assert_eq!(seen.token, Some(probe.token));
        prop_assert_eq!(seen.answer, Some(if syn_ack { Answer::Accepted } else { Answer::Reset }));
        prop_assert_eq!((seen.sport, seen.dport), (probe.dport, probe.sport));
    }

    #[test]
    fn echoed_datagrams_are_answers(probe in probes()) {
        prop_assume!(probe.sport != probe.dport);
        let sent = udp(&probe);
        let mut back = sent.clone();
        back[..2].copy_from_slice(&sent[2..4]);
        back[2..4].copy_from_slice(&sent[..2]);
        let seen = read(&ip(probe.destination, probe.source, UDP, &back)).unwrap();
        prop_assert_eq!((seen.token, seen.answer), (Some(probe.token), Some(Answer::Accepted)));
    }

    #[test]
    fn echo_replies_are_answers(probe in probes()) {
        let mut body = echo(&probe);
        let v4 = probe.source.is_ipv4();
        body[0] = if v4 { ECHO_REPLY_4 } else { ECHO_REPLY_6 };
        let seen = read(&ip(probe.destination, probe.source, if v4 { ICMP } else { ICMPV6 }, &body)).unwrap();
        prop_assert_eq!((seen.token, seen.answer), (Some(probe.token), Some(Answer::Accepted)));
    }

    #[test]
    fn icmp_errors_are_known_by_what_they_quote(probe in probes(), code in 0u8..16, whole in any::<bool>()) {
        let sent = craft(&probe).unwrap();
        let v4 = probe.source.is_ipv4();
        let quoted = if whole { sent.len() } else if v4 { 28 } else { 48 };
        let mut body = vec![if v4 { UNREACHABLE_4 } else { UNREACHABLE_6 }, code, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(&sent[..quoted]);
        let seen = read(&ip(probe.destination, probe.source, if v4 { ICMP } else { ICMPV6 }, &body)).unwrap();
        prop_assert_eq!((seen.kind, seen.sport), (probe.kind, probe.sport));
        if whole || probe.kind == Kind::Tcp {
            prop_assert_eq!(seen.token, Some(probe.token));
        } else {
            prop_assert_eq!(seen.token, None);
        }
        let expected = match (v4, code) {
            (true, 3) | (false, 4) => Refusal::Port,
            (true, 9 | 10 | 13) | (false, 1 | 5 | 6) => Refusal::Prohibited,
            _ => Refusal::Unreachable,
        };
        prop_assert_eq!(seen.answer, Some(Answer::Error(expected)));
    }

    #[test]
    fn arp_and_frames_are_read_back(a in any::<[u8; 6]>(), b in any::<[u8; 6]>(), x in any::<u32>(), y in any::<u32>(), asks in any::<bool>()) {
        let arp = Arp { asks, sender_mac: Mac(a), sender: x.into(), target_mac: Mac(b), target: y.into() };
        let payload = arp.bytes();
        prop_assert_eq!(Arp::read(&payload), Some(arp));
        let frame = Ethernet { destination: Mac(b), source: Mac(a), ethertype: ETHERTYPE_ARP, payload: &payload };
        let bytes = frame.bytes();
        prop_assert_eq!(Ethernet::read(&bytes), Some(frame));
    }

    #[test]
    fn solicitations_are_whole_and_advertisements_are_read(target in any::<u128>(), source in any::<u128>(), from in any::<[u8; 6]>()) {
        let (packet, group) = neighbour_solicit(source.into(), target.into(), Mac(from));
        prop_assert!(checksum_holds(&packet));
        prop_assert_eq!(&group.0[3..], &target.to_be_bytes()[13..]);
        prop_assert_eq!(neighbour_advertised(&packet), None);
        let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        body.extend_from_slice(&target.to_be_bytes());
        body.extend_from_slice(&[2, 1]);
        body.extend_from_slice(&from);
        let advert = ip(IpAddr::V6(target.into()), IpAddr::V6(source.into()), ICMPV6, &body);
        prop_assert_eq!(neighbour_advertised(&advert), Some((target.into(), Mac(from))));
    }
}

#[test]
fn a_datagram_of_somebodys_own_has_no_token() {
    let (a, b) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
    let seen = read(&ip(a, b, UDP, &[0, 53, 0x30, 0x39, 0, 9, 0, 0, b'x'])).unwrap();
    assert_eq!((seen.token, seen.answer, seen.sport, seen.dport), (None, None, 53, 12345));
}

#[test]
fn what_is_neither_a_probe_nor_an_answer_is_passed_over() {
    let (a, b) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
    let data = [0, 22, 0, 23, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, ACK, 0, 0, 0, 0, 0, 0];
    assert_eq!(read(&ip(a, b, TCP, &data)), None);
    let mut fragment = ip(a, b, UDP, &[0; 20]);
    fragment[7] = 1;
    assert_eq!(read(&fragment), None);
}
