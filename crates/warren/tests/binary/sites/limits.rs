//! Limits of `[http]`, and clients that keep a connection and do nothing with it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Signal, kill_process};

use super::web::{self, Web, ask, body, connect, curl, header, status};
use super::{NETWORK, WWW, serve};
use crate::common::{lab, tool};
use crate::secure::{secure, until};
use crate::support::{PATIENCE, Running, Scene, at};

const ENTRY: &str = "203.0.113.2:80";
const MORE: &str = r#"
[[site]]
host = "own.example.org"
to = ["a"]
tls = "self-signed"
listen = ["80", "8443"]
[[site]]
host = "moved.example.org"
redirect = "https://www.example.org{uri}"
tls = "self-signed"
hsts = "1h"
[[site]]
host = "shut.example.org"
to = ["a"]
maintenance = true
tls = "self-signed"
hsts = "1h"
[http]
limits = { timeout = "1s", max-connections = 40 }
"#;

/// A hello as openssl sends it to a site.
fn hello(name: &str) -> Vec<u8> {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Netns::open("world").unwrap().run(bind).unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let mut client = at("world", "openssl");
    client.args(["s_client", "-connect", &to, "-servername", name]).stdin(Stdio::null());
    let running = Running::start(client.stdout(Stdio::null()).stderr(Stdio::null()));
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = vec![0; 5];
    stream.read_exact(&mut bytes).unwrap();
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    bytes.resize(5 + length, 0);
    stream.read_exact(&mut bytes[5..]).unwrap();
    drop(running);
    bytes
}

/// All that is said until the end; the test fails where that does not come.
fn heard(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("not cut")
        }
        _ => all,
    }
}

#[test]
fn who_keeps_a_connection_and_does_nothing_is_cut() {
    lab(|| {
        let scene = Scene::new();
        let text = NETWORK.replace("to = [\"a:80\", \"b:80\"]", "to = [\"a:80\"]");
        let serving = serve(&scene, &format!("{text}{MORE}"));
        let a = Web::start("a", 80);
        super::until("world", "http://203.0.113.2/", WWW, 200);
        let counted =
            |what: &str| scene.warren("--json status").ends(0).json()["services"]["http"][what].as_u64().unwrap();
        let open = || counted("open");
        let until_open = |wanted: u64| {
            let deadline = Instant::now() + PATIENCE;
            while open() != wanted {
                assert!(Instant::now() < deadline, "{} are open", open());
                std::thread::sleep(Duration::from_millis(20));
            }
        };

        // A hello that does not end, and a handshake that does not go on.
        let hello = hello("moved.example.org");
        for bytes in [&hello[..50], &hello[..]] {
            let mut stream = connect("world", "203.0.113.2:443".parse().unwrap());
            stream.write_all(bytes).unwrap();
            let said = heard(&mut stream);
            assert_eq!(said.is_empty(), bytes.len() == 50, "{} bytes", said.len());
        }

        // Who takes nothing of an answer, beside one who takes all of it.
        let mut greedy = connect("world", ENTRY.parse().unwrap());
        set_socket_recv_buffer_size(&greedy, 4096).unwrap();
        greedy.write_all(b"GET /big HTTP/1.1\r\nHost: www.example.org\r\n\r\n").unwrap();
        let big = ask("world", ENTRY, "GET /big HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n");
        assert!(big.join().unwrap().len() > 5_000_000);
        until_open(0);
        let taken = heard(&mut greedy).len();
        assert!(taken < 5_000_000, "{taken}");

        // Many who take nothing of what has no length: what waits for them is little.
        let memory = |what: &str| {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", serving.worker().as_raw_nonzero())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // The highest from now on (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{}/clear_refs", serving.worker().as_raw_nonzero()), "5").unwrap();
        let (before, taken) = (memory("VmRSS:"), counted("connections"));
        let greedy = [0; 38].map(|_| {
            let mut stream = connect("world", ENTRY.parse().unwrap());
            set_socket_recv_buffer_size(&stream, 4096).unwrap();
            stream.write_all(b"GET /chunked HTTP/1.1\r\nHost: www.example.org\r\n\r\n").unwrap();
            stream
        });
        until("all of them are taken", || counted("connections") == taken + 38);
        until_open(0);
        // Nor does the kernel go on offering it, as it does what was said before an orderly end.
        until("nothing is kept for them", || tool("ss -Htn state fin-wait-1").is_empty());
        for mut stream in greedy {
            let taken = heard(&mut stream).len();
            assert!(taken < 5_000_000, "{taken}");
        }
        let each = memory("VmHWM:").saturating_sub(before) / 38;
        assert!(each < 250, "{each} KiB for each");

        // Who is answered before the whole request is there, and goes on with it a byte at a time.
        let mut trickling = connect("world", ENTRY.parse().unwrap());
        trickling.write_all(b"POST /early HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 99999\r\n\r\n").unwrap();
        until("it is cut", || {
            // Nobody may take it any more.
            let _ = trickling.write_all(b"x");
            a.count("/early-ended") == 1
        });
        until_open(0);

        // Connections of all clients together.
        let entry: SocketAddr = ENTRY.parse().unwrap();
        let slow: Vec<_> = (0..40)
            .map(|nth| {
                let mut stream = connect(if nth % 2 == 0 { "world" } else { "neighbour" }, entry);
                stream.write_all(web::slow(nth).as_bytes()).unwrap();
                stream
            })
            .collect();
        until_open(40);
        assert_eq!(connect("world", entry).read(&mut [0]).unwrap_or(0), 0, "one too many");
        a.release();
        for mut stream in slow {
            assert!(String::from_utf8_lossy(&heard(&mut stream)).ends_with("slow\n"));
        }
        assert_eq!(body(&curl("world", "http://203.0.113.2/", WWW)), "a");

        // To TLS where that is not at 443, and what is said there alone.
        let trust = scene.folder().join("ca.pem");
        std::fs::write(&trust, scene.warren("ca").ends(0).out).unwrap();
        let plain = curl("world", "http://203.0.113.2/x?y", "--header Host:own.example.org");
        assert_eq!((status(&plain), header(&plain, "location")), (301, Some("https://own.example.org:8443/x?y")));
        let words = format!("--cacert {} --resolve own.example.org:8443:203.0.113.2", trust.display());
        assert_eq!(status(&curl("world", "https://own.example.org:8443/x?y", &words)), 200);
        let closed =
            curl("world", "https://own.example.org/", &format!("{words} --resolve own.example.org:443:203.0.113.2"));
        assert_eq!(status(&closed), 0, "443 is not its own");
        for (host, wanted) in [("moved.example.org", 301), ("shut.example.org", 503)] {
            let answer = secure(&trust, &format!("https://{host}/x"), "");
            assert_eq!(status(&answer), wanted, "{host}");
            assert_eq!(header(&answer, "strict-transport-security"), Some("max-age=3600"), "{host}");
            let plain = curl("world", "http://203.0.113.2/x", &format!("--header Host:{host}"));
            let told = (status(&plain), header(&plain, "location"), header(&plain, "strict-transport-security"));
            assert_eq!(told, (301, Some(&*format!("https://{host}/x")), None));
        }
        drop(serving);
    });
}

#[test]
fn an_entry_that_another_program_has_is_refused() {
    lab(|| {
        let scene = Scene::new();
        let other = TcpListener::bind("0.0.0.0:80").unwrap();
        scene.write(NETWORK);
        scene.warren("up").says(5, &["listens on 80/tcp, where this site would", "let the site `listen` elsewhere"]);
        scene.warren("serve").says(5, &["listens on 80/tcp"]);
        drop(other);
        scene.up(NETWORK, &[]);
        scene.warren("down").ends(0);
    });
}

#[test]
fn who_is_being_answered_when_serve_ends_is_answered() {
    lab(|| {
        let scene = Scene::new();
        let mut serving = serve(&scene, &NETWORK.replace("to = [\"a:80\", \"b:80\"]", "to = [\"a:80\"]"));
        let a = Web::start("a", 80);
        super::until("world", "http://203.0.113.2/", WWW, 200);
        // One that is kept for the next request, and one in the middle of its answer.
        let mut kept = connect("world", ENTRY.parse().unwrap());
        kept.write_all(b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n").unwrap();
        assert!(kept.read(&mut [0; 4096]).unwrap() > 0);
        let asked = ask("world", ENTRY, "GET /slow HTTP/1.1\r\nHost: www.example.org\r\n\r\n");
        let deadline = Instant::now() + PATIENCE;
        while a.count("/slow") == 0 {
            assert!(Instant::now() < deadline, "it is not asked");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(serving.pid(), Signal::TERM).unwrap();
        // Nobody new is taken, and the one is waited for.
        while status(&curl("world", "http://203.0.113.2/", &format!("{WWW} --max-time 1"))) != 0 {
            assert!(Instant::now() < deadline, "it still takes clients");
        }
        assert!(serving.process.0.try_wait().unwrap().is_none(), "it did not wait");
        a.release();
        let answer = asked.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("slow\n"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(heard(&mut kept), b"");
        assert!(serving.process.0.wait().unwrap().success());
    });
}
