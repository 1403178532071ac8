//! What attackers try on a site: what becomes of it stands in docs/sites.md.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::web::{self, Web, ask, body, connect, curl, status};
use super::{NETWORK, WWW, serve};
use crate::common::lab;
use crate::support::Scene;

const ENTRY: &str = "203.0.113.2:80";
const LIMITS: &str = "[http]\nlimits = { timeout = \"1s\", max-header = 8192, max-connections-per-client = 150 }\n";

/// Every one, with the status that it is answered; 0: the connection is closed without a word.
const REFUSED: &[(&str, &str, u16)] = &[
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 3, 4\r\n\r\nabcd", 400),
    ("a signed length", "POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: +3\r\n\r\nabc", 400),
    (
        "chunked is not last",
        "POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("no chunked", "POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "a space before the colon",
        "POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("a folded line", "GET / HTTP/1.1\r\nHost: www.example.org\r\nX-A: b\r\n c\r\n\r\n", 400),
    ("a CR in a value", "GET / HTTP/1.1\r\nHost: www.example.org\r\nX-A: b\rX-C: d\r\n\r\n", 400),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: www.example.org\r\nX-A: b\0\r\n\r\n", 400),
    ("a space in a name", "GET / HTTP/1.1\r\nHost: www.example.org\r\nX A: b\r\n\r\n", 400),
    ("two hosts", "GET / HTTP/1.1\r\nHost: www.example.org\r\nHost: old.example.org\r\n\r\n", 400),
    ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
    ("a host that is none", "GET / HTTP/1.1\r\nHost: www.example.org/x\r\n\r\n", 400),
    ("a user in the authority", "GET http://me@www.example.org/ HTTP/1.1\r\nHost: www.example.org\r\n\r\n", 400),
    ("above the root", "GET /a/../../b HTTP/1.1\r\nHost: www.example.org\r\n\r\n", 400),
    ("above the root, escaped", "GET /%2e%2e/b HTTP/1.1\r\nHost: www.example.org\r\n\r\n", 400),
    ("a NUL in the path", "GET /%00 HTTP/1.1\r\nHost: www.example.org\r\n\r\n", 400),
    ("a tunnel", "CONNECT 10.1.1.6:22 HTTP/1.1\r\nHost: 10.1.1.6:22\r\n\r\n", 405),
    ("a trace", "TRACE / HTTP/1.1\r\nHost: www.example.org\r\n\r\n", 405),
    ("no version", "GET /\r\n\r\n", 400),
    ("another version", "GET / HTTP/3.0\r\nHost: www.example.org\r\n\r\n", 400),
];

/// Chunks that are none: no guest is shown a whole request.
const CHUNKS: [&str; 5] =
    ["0x1\r\na\r\n0\r\n\r\n", "-1\r\na\r\n0\r\n\r\n", "fffffffffffffffff\r\na", "1\r\nab\r\n0\r\n\r\n", "1\na\n0\n\n"];

#[test]
fn what_attackers_try_comes_to_nothing() {
    lab(|| {
        let scene = Scene::new();
        let _serving =
            serve(&scene, &format!("{}{LIMITS}", NETWORK.replace("to = [\"a:80\", \"b:80\"]", "to = [\"a:80\"]")));
        let a = Web::start("a", 80);
        super::until("world", "http://203.0.113.2/first", WWW, 200);

        // All at once: each ends when its connection does.
        let tried: Vec<_> = REFUSED.iter().map(|(_, bytes, _)| ask("world", ENTRY, bytes)).collect();
        let chunks: Vec<_> = CHUNKS
            .iter()
            .map(|chunks| {
                let head = "POST /chunks HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n";
                ask("world", ENTRY, &format!("{head}{chunks}"))
            })
            .collect();
        // Both framings: the chunks count, the length does not come to the guest, and nothing behind is read.
        let both =
            ["Content-Length: 38\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 38"];
        let both = both.map(|framing| {
            let behind = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
            ask("world", ENTRY, &format!("POST /both HTTP/1.1\r\nHost: www.example.org\r\n{framing}\r\n\r\n{behind}"))
        });
        // Absolute form: its host counts. The path passes byte for byte.
        let fine = [
            ("GET http://www.example.org/absolute HTTP/1.1\r\nHost: closed.example.org\r\n\r\n", "/absolute"),
            (
                "GET /a%2Fb//c/./%7e;x=1?q=/../%2e%00&& HTTP/1.1\r\nHost: WWW.example.org:80\r\n\r\n",
                "/a%2Fb//c/./%7e;x=1?q=/../%2e%00&&",
            ),
        ];
        let fine = fine.map(|(bytes, path)| (ask("world", ENTRY, bytes), path));
        let many: String = (0..200).map(|nth| format!("X-{nth}: 1\r\n")).collect();
        let huge = format!("X-Huge: {}\r\n", "x".repeat(9000));
        let heads = [many, huge]
            .map(|lines| ask("world", ENTRY, &format!("GET /heads HTTP/1.1\r\nHost: www.example.org\r\n{lines}\r\n")));
        let begun = Instant::now();
        let slow_body =
            ask("world", ENTRY, "POST /slow-body HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 9\r\n\r\nx");
        let slow_head = ask("world", ENTRY, "GET /slow-head HTTP/1.1\r\nHost: www.exa");
        let silent = ask("world", ENTRY, "");

        let mut wrong = Vec::new();
        for ((name, _, wanted), answer) in REFUSED.iter().zip(tried) {
            let answer = answer.join().unwrap();
            if status(&answer) != *wanted {
                wrong.push(format!("{name}: {answer:?}"));
            }
        }
        for (chunk, answer) in CHUNKS.iter().zip(chunks) {
            let answer = answer.join().unwrap();
            if status(&answer) == 200 && !a.heads().is_empty() && a.count("/chunks") > 0 {
                wrong.push(format!("{chunk:?}: {answer:?}"));
            }
        }
        for answer in both {
            let answer = answer.join().unwrap();
            if status(&answer) != 200 || answer.matches("HTTP/1.1 ").count() != 1 {
                wrong.push(format!("both framings: {answer:?}"));
            }
        }
        for (answer, path) in fine {
            let answer = answer.join().unwrap();
            let head = a.heads().into_iter().find(|head| head.split(' ').nth(1) == Some(path));
            if status(&answer) != 200 || head.is_none() {
                wrong.push(format!("{path}: {answer:?}"));
            }
        }
        for answer in heads {
            let answer = answer.join().unwrap();
            if status(&answer) != 431 {
                wrong.push(format!("too long a head: {answer:?}"));
            }
        }
        let answer = slow_body.join().unwrap();
        if status(&answer) != 408 {
            wrong.push(format!("a slow body: {answer:?}"));
        }
        for answer in [slow_head, silent] {
            let answer = answer.join().unwrap();
            if status(&answer) / 100 == 2 {
                wrong.push(format!("a slow head: {answer:?}"));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "who is slow is cut: {:?}", begun.elapsed());
        for head in a.heads().iter().filter(|head| head.contains("/both")) {
            if head.contains("content-length") == head.contains("transfer-encoding") {
                wrong.push(format!("both framings: {head:?}"));
            }
        }
        for path in ["/smuggled", "/heads", "/chunks", "/slow-body"] {
            if a.count(path) > 0 {
                wrong.push(format!("a guest was asked for {path}"));
            }
        }
        let absolute = a.heads().into_iter().find(|head| head.contains("/absolute")).unwrap();
        assert_eq!(web::line(&absolute, "host"), ["www.example.org"]);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        // A guest that answers more than it was asked poisons nobody's answer, and one that answers nonsense is told of.
        assert_eq!(body(&curl("world", "http://203.0.113.2/more", WWW)), "a");
        for _ in 0..3 {
            assert_eq!(body(&curl("world", "http://203.0.113.2/", WWW)), "a");
        }
        assert_eq!(status(&curl("world", "http://203.0.113.2/nonsense", WWW)), 502);

        // One that says two framings at once is believed in chunks, and never asked again by that connection.
        let ways = [
            ("GET", "/chunked", false),
            ("GET", "/framed", true),
            ("POST", "/chunked", false),
            ("POST", "/framed", true),
        ];
        for (nth, (method, path, closed)) in ways.into_iter().enumerate() {
            let (length, body) = if method == "POST" { ("Content-Length: 1\r\n", "x") } else { ("", "") };
            let ask_for = |path: &str, more: &str| {
                format!("{method} {path} HTTP/1.1\r\nHost: www.example.org\r\n{length}{more}\r\n{body}")
            };
            let asked = ask_for(path, "") + &ask_for("/behind", "Connection: close\r\n");
            let answers = ask("world", ENTRY, &asked).join().unwrap();
            assert!(answers.ends_with("\r\n\r\na\n") && answers.len() > 5_000_000, "{path}: {} bytes", answers.len());
            let head = answers.split("\r\n\r\n").next().unwrap();
            assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
            crate::secure::until(path, || a.count(&format!("{path}-{closed}")) == 1 + nth / 2);
        }

        rapid_reset(&a);

        // Connections beyond a client's share are closed; others' are taken.
        let entry: SocketAddr = ENTRY.parse().unwrap();
        let held: Vec<_> = (0..150).map(|_| connect("neighbour", entry)).collect();
        let mut over = connect("neighbour", entry);
        assert_eq!(over.read(&mut [0]).unwrap_or(0), 0, "one too many");
        assert_eq!(body(&curl("world", "http://203.0.113.2/", WWW)), "a");
        drop(held);
        let shown = scene.warren("--json status").ends(0).json();
        assert!(shown["services"]["http"]["limited"].as_u64().unwrap() >= 1, "{shown}");
    });
}

/// CVE-2023-44487: streams that are opened and reset at once. The connection is ended, and the guest is spared.
fn rapid_reset(a: &Web) {
    let mut stream = connect("world", ENTRY.parse().unwrap());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for nth in 0..5000u32 {
        // GET, http, /, and the authority, by the static table (RFC 7541).
        let block = [&[0x82, 0x86, 0x84, 0x41, 15][..], b"www.example.org"].concat();
        bytes.extend(frame(1, 0x5, nth * 2 + 1, &block));
        bytes.extend(frame(3, 0, nth * 2 + 1, &8u32.to_be_bytes()));
    }
    let before = a.heads().len();
    // Whoever is cut off cannot write to the end.
    let _ = stream.write_all(&bytes);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let mut goodbye = None;
    let mut rest = heard.as_slice();
    while let [a, b, c, kind, _, _, _, _, _, behind @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = behind.get(..length) else { break };
        if *kind == 7 {
            goodbye = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &behind[length..];
    }
    // ENHANCE_YOUR_CALM; a connection that was reset may have lost the word.
    assert!(matches!(goodbye, Some(11) | None), "{goodbye:?}");
    assert!(a.heads().len() - before < 1000, "{} requests came to the guest", a.heads().len() - before);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}
