//! Names as Knot's kdig asks for them, EDNS and DNSSEC's records included; and by many at once.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::process::Stdio;

use kernel::netns::Netns;

use crate::common::lab;
use crate::serve::Serve;
use crate::support::{Scene, at, settle};

const NETWORK: &str = one_lan!(
    r#"domain = "cnx.example"
dns = ["198.51.100.7"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
"#
);

const A: u16 = 1;
const TXT: u16 = 16;
const OPT: u16 = 41;
const RRSIG: u16 = 46;
/// A type that nobody knows (RFC 3597).
const UNKNOWN: u16 = 65280;

/// What a validating resolver says to a question, in at most so many bytes: signatures to who asks for them (DO), that
/// it has validated to who understands that (AD, DO), and what does not validate to who wants it all the same (CD).
fn validated(question: &[u8], by_tcp: bool) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    end += 5;
    let kind = word(end - 4);
    let (flags, edns) = (word(2), question[11] == 1);
    assert!(!edns || word(end + 1) == OPT);
    let wants_signatures = edns && question[end + 7] & 0x80 != 0;
    let (unchecked, understands) = (flags & 0x10 != 0, flags & 0x20 != 0 || wants_signatures);
    let bogus = question[13..].starts_with(b"bogus") && !unchecked;
    let mut records = Vec::new();
    let mut record = |kind: u16, data: &[u8]| {
        records.push(
            [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 1, 44], &(data.len() as u16).to_be_bytes(), data]
                .concat(),
        );
    };
    if !bogus {
        match kind {
            A => record(A, &[192, 0, 2, 80]),
            TXT => (0..20).for_each(|nth| record(TXT, &[&[100][..], &[b'a' + nth; 100]].concat())),
            _ => record(UNKNOWN, b"\x00anything\xff"),
        }
        if wants_signatures {
            // Algorithm 13, three labels, and a signature that nobody here looks at.
            let head =
                [&kind.to_be_bytes()[..], &[13, 2, 0, 0, 1, 44], &[0x70, 0, 0, 0, 0x60, 0, 0, 0, 0x12, 0x34]].concat();
            record(RRSIG, &[&head[..], b"\x07example\0", &[0x5a; 64]].concat());
        }
    }
    let code = if bogus { 2 } else { 0 };
    let ad = if understands && !unchecked && !bogus { 0x20 } else { 0 };
    let opt = [0, 0, 41, 4, 0xd0, 0, 0, if wants_signatures { 0x80 } else { 0 }, 0, 0, 0];
    let all: usize = end + records.iter().map(Vec::len).sum::<usize>() + opt.len();
    let cut = !by_tcp && all > if edns { usize::from(word(end + 3)) } else { 512 };
    if cut {
        records.clear();
    }
    let flags = 0x8080 | (flags & 0x0110) | ad | code | if cut { 0x200 } else { 0 };
    let mut answer = question[..2].to_vec();
    for word in [flags, 1, records.len() as u16, 0, u16::from(edns)] {
        answer.extend(word.to_be_bytes());
    }
    answer.extend(&question[12..end]);
    answer.extend(records.concat());
    if edns {
        answer.extend(opt);
    }
    answer
}

/// Serves that in the world, until the test ends.
pub fn resolver() {
    let world = Netns::open("world").unwrap();
    let (udp, tcp) = world.run(|| (UdpSocket::bind("198.51.100.7:53"), TcpListener::bind("198.51.100.7:53"))).unwrap();
    let (udp, tcp) = (udp.unwrap(), tcp.unwrap());
    std::thread::spawn(move || {
        let mut question = [0; 1500];
        loop {
            let Ok((length, client)) = udp.recv_from(&mut question) else { continue };
            let _ = udp.send_to(&validated(&question[..length], false), client);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            let mut question = [0; 1500];
            while stream.read_exact(&mut length).is_ok() {
                let question = &mut question[..usize::from(u16::from_be_bytes(length))];
                stream.read_exact(question).unwrap();
                let answer = validated(question, true);
                stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).unwrap();
            }
        }
    });
}

/// What kdig prints, without what differs from run to run.
fn kdig(place: &str, server: &str, words: &str) -> String {
    let mut command = at(place, "kdig");
    command.args(["+retry=2", "+timeout=5", "+nottl"]).arg(format!("@{server}")).args(words.split_whitespace());
    let output = command.stdin(Stdio::null()).output().expect("kdig is needed");
    let text = String::from_utf8(output.stdout).unwrap();
    let same = |line: &&str| !["Received", "Time", "From"].iter().any(|word| line.starts_with(&format!(";; {word}")));
    let text: Vec<&str> = text.lines().filter(same).map(|line| line.split("; id:").next().unwrap()).collect();
    text.join("\n")
}

#[test]
fn what_is_signed_comes_as_it_is_to_those_who_ask_for_it() {
    lab(|| {
        let scene = Scene::new();
        resolver();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        settle(&["cnx6"]);
        for words in [
            "signed.example A",
            "signed.EXAMPLE A +dnssec",
            "signed.example A +dnssec +tcp",
            "signed.example A +dnssec +cdflag",
            "signed.example A +noedns",
            "signed.example A +noedns +adflag",
            "signed.example A +edns +noadflag",
            "bogus.example A +dnssec",
            "bogus.example A +dnssec +cdflag",
            "signed.example TYPE65280 +dnssec",
            // Cut, then asked for again by TCP; and as it was cut.
            "long.example TXT +dnssec",
            "long.example TXT +dnssec +bufsize=1232",
            "long.example TXT +dnssec +bufsize=1232 +ignore",
            "long.example TXT +noedns +ignore",
            "long.example TXT +noedns +tcp",
        ] {
            let told = kdig("world", "198.51.100.7", words);
            assert!(told.contains("status:"), "{told}");
            // Once past the upstream resolver, once from what is remembered.
            for round in ["first", "second"] {
                assert_eq!(kdig("cnx6", "10.1.1.1", words), told, "{words}, the {round} time");
            }
        }
        // The upstream resolver tells these apart, or the comparison would prove nothing.
        let heard = |words: &str| kdig("cnx6", "10.1.1.1", words);
        assert!(heard("signed.example A +dnssec").contains("qr rd ra ad;"));
        assert!(heard("signed.example A +dnssec").contains("RRSIG\tA 13 2 300"));
        assert!(!heard("signed.example A +edns +noadflag").contains("RRSIG"));
        assert!(!heard("signed.example A +edns +noadflag").contains(" ad;"));
        assert!(heard("bogus.example A +dnssec").contains("status: SERVFAIL"));
        assert!(heard("bogus.example A +dnssec +cdflag").contains("qr rd ra cd;"));
        assert!(heard("long.example TXT +dnssec").contains("ANSWER: 21"));
        let cut = heard("long.example TXT +dnssec +bufsize=1232 +ignore");
        assert!(cut.contains(" tc"), "{cut}");
        // Ours, with all of EDNS.
        assert!(heard("cnx6.cnx.example A +dnssec").contains("qr aa rd ra;"));
        assert!(heard("cnx6.cnx.example A +edns=1").contains("ext-rcode: BADVERS"));
        assert!(heard("cnx6.cnx.example A +tcp +keepopen").contains("10.1.1.6"));
        let counts = scene.warren("--json status").ends(0).json()["services"]["dns"].clone();
        assert!(counts["cached"].as_u64().unwrap() >= 8, "{counts}");
        drop(serve);
        scene.warren("down").ends(0);
    });
}
