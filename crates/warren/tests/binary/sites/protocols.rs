//! What is spoken through a site: upgrades, HTTP/2 from clients and to guests, the PROXY protocol.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::web::{self, Web, body, connect, curl, header, status};
use super::{NETWORK, serve, until};
use crate::common::lab;
use crate::support::{PATIENCE, Running, Scene, at};

const MORE: &str = r#"
[[site]]
host = "grpc.example.org"
to = ["b:8081"]
upstream = "h2c"
[[site]]
host = "told.example.org"
to = ["b:8082"]
proxy-protocol = "v1"
[[site]]
host = "real.example.org"
to = ["b:8083"]
proxy-protocol = true
[http]
access-log = { file = "LOG", format = "json" }
"#;

/// In a guest, telling what it is told of who asks.
fn nginx(folder: &Path) -> Command {
    let (at, temporary) = (folder.display(), super::nginx::temporary(folder));
    let conf = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/error.log;\nevents {{ }}\n\
         http {{ access_log off;\n{temporary}server {{ listen 8083 proxy_protocol;\n\
         location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_server_addr:$proxy_protocol_server_port\"; }} }} }}\n"
    );
    fs::write(folder.join("nginx.conf"), conf).unwrap();
    let mut nginx = crate::support::at("b", "nginx");
    nginx.arg("-e").arg(folder.join("error.log")).arg("-c").arg(folder.join("nginx.conf"));
    nginx.stdin(Stdio::null()).stdout(Stdio::null());
    nginx
}

#[test]
fn upgrades_streams_and_trailers_pass() {
    lab(|| {
        let scene = Scene::new();
        let log = scene.folder().join("access.json");
        let _serving = serve(&scene, &format!("{NETWORK}{}", MORE.replace("LOG", &log.display().to_string())));
        let a = Web::start("a", 80);

        // A WebSocket: what both ends say passes, as it is said.
        let mut socket = connect("world", "203.0.113.2:80".parse().unwrap());
        let head = "GET /ws HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        socket.write_all(head.as_bytes()).unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("HTTP/1.1 101 ") && header(&heard, "upgrade") == Some("websocket"), "{heard}");
        for frame in [&[0x81, 0x85, 1, 2, 3, 4, 0x69][..], &[0u8; 70_000]] {
            socket.write_all(frame).unwrap();
            let mut back = vec![1; frame.len()];
            socket.read_exact(&mut back).unwrap();
            assert_eq!(back, frame);
        }
        drop(socket);
        assert_eq!(web::line(&a.last(), "sec-websocket-version"), ["13"]);

        // An upgrade to HTTP/2 would be a way past what is looked at here: it is not asked of the guest.
        let words = "--header Host:www.example.org --http2";
        let answer = curl("world", "http://203.0.113.2/h2c", words);
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(!a.last().contains("upgrade") && !a.last().contains("http2-settings"), "{}", a.last());

        // A body and its answer at once: each chunk is sent when the one before it is back.
        let mut both = connect("world", "203.0.113.2:80".parse().unwrap());
        both.write_all(b"POST /echo HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut heard = Vec::new();
        for chunk in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
            both.write_all(chunk.as_bytes()).unwrap();
            while !heard.ends_with(chunk.as_bytes()) {
                let mut byte = [0];
                both.read_exact(&mut byte)
                    .unwrap_or_else(|e| panic!("{chunk}: {e}: {}", String::from_utf8_lossy(&heard)));
                heard.push(byte[0]);
            }
        }
        assert!(heard.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&heard));
        drop(both);

        // HTTP/2 from a client, to a guest of HTTP/1.1.
        let words = "--http2-prior-knowledge --header Host:www.example.org --header Cookie:a=1 --data-binary hello";
        let answer = curl("world", "http://203.0.113.2/count?two", words);
        assert!(answer.starts_with("HTTP/2 200"), "{answer}");
        assert!(a.last().starts_with("POST /count?two HTTP/1.1\r\n"), "{}", a.last());
        assert_eq!(web::line(&a.last(), "host"), ["www.example.org"]);
        assert_eq!(web::line(&a.last(), "content-length"), ["5"]);
        let answer = curl("world", "http://203.0.113.2/big", "--http2-prior-knowledge --header Host:www.example.org");
        assert_eq!(body(&answer).len(), 5_000_000);

        // HTTP/2 to a guest, with trailers.
        let pages = scene.folder().join("pages");
        fs::create_dir(&pages).unwrap();
        fs::write(pages.join("index.html"), "by h2c\n").unwrap();
        let mut nghttpd = at("b", "nghttpd");
        nghttpd.args(["--no-tls", "--trailer", "grpc-status: 0", "--htdocs"]).arg(&pages).arg("8081");
        let _nghttpd = Running::start(nghttpd.stdout(Stdio::null()).stderr(Stdio::null()));
        until("world", "http://203.0.113.2/", "--header Host:grpc.example.org", 200);
        let mut nghttp = at("world", "nghttp");
        nghttp.args(["-v", "-H", ":authority: grpc.example.org", "-H", "te: trailers", "http://203.0.113.2/"]);
        let answer = String::from_utf8(nghttp.output().expect("nghttp is needed").stdout).unwrap();
        assert!(answer.contains("by h2c") && answer.contains("grpc-status: 0"), "{answer}");

        // A guest that is told of the client by the PROXY protocol.
        let told = Web::start("b", 8082);
        until("world", "http://203.0.113.2/told", "--header Host:told.example.org", 200);
        let head = told.last();
        let (first, rest) = head.split_once("\r\n").unwrap();
        assert!(first.starts_with("PROXY TCP4 203.0.113.1 203.0.113.2 ") && first.ends_with(" 80"), "{head}");
        assert!(rest.starts_with("GET /told HTTP/1.1\r\n"), "{head}");

        // Of version 2, as nginx reads it.
        let running = Running::start(&mut nginx(scene.folder()));
        until("world", "http://203.0.113.2/", "--header Host:real.example.org", 200);
        for (from, to, told) in [
            ("world", "203.0.113.2", "203.0.113.1 203.0.113.2:80"),
            ("world", "[2001:db8:113::2]", "2001:db8:113::1 2001:db8:113::2:80"),
        ] {
            let answer = curl(from, &format!("http://{to}/"), "--header Host:real.example.org");
            assert_eq!(body(&answer), told);
        }
        // It takes nobody who does not say so.
        assert_eq!(status(&curl("server", "http://10.1.1.7:8083/", "")), 0);
        drop(running);

        // Each of them is an object in the log.
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap().lines().any(|line| line.contains("\"/told\"")) {
            assert!(Instant::now() < deadline);
        }
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let two = lines.iter().find(|line| line["target"] == "/count?two").unwrap();
        assert_eq!(
            (&two["version"], &two["guest"], &two["host"]),
            (&"HTTP/2.0".into(), &"a".into(), &"www.example.org".into())
        );
        drop(a);
    });
}
