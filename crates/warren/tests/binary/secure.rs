//! Sites by TLS: certificates from files and of our own, what is refused with which alert, and what passes untouched.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kernel::netns::Netns;

use crate::common::lab;
use crate::serve::Serve;
use crate::sites::web::{Web, body, curl, header, line, status};
use crate::support::{PATIENCE, Running, Scene, at, settle};

const NETWORK: &str = one_lan!(
    r#"[guest.a]
kind = "netns"
address = ["10.1.1.6"]
[guest.b]
kind = "netns"
address = ["10.1.1.7"]
[[site]]
host = ["www.example.org", "*.wild.example"]
to = ["a"]
hsts = true
tls = { cert = "FOLDER/site.pem", key = "FOLDER/site.key" }
[[site]]
host = ["own.example.org", "*.own.example.org"]
to = ["a"]
tls = "self-signed"
[[site]]
host = "pass.example.org"
to = ["b:8443"]
tls = "passthrough"
[[site]]
host = "told.example.org"
to = ["b:9443"]
tls = "passthrough"
proxy-protocol = "v1"
[[site]]
host = "plain.example.org"
to = ["a"]
[[site]]
host = "missing.example.org"
to = ["a"]
tls = { cert = "FOLDER/nothing.pem", key = "FOLDER/nothing.key" }
"#
);

/// A certificate that signs itself, and its key.
fn certificate(folder: &Path, file: &str, names: &str) {
    let [cert, key] = ["pem", "key"].map(|end| folder.join(format!("{file}.{end}")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/CN=test", "-addext", &format!("subjectAltName={names}")]);
    let output = openssl.arg("-out").arg(cert).arg("-keyout").arg(key).output().expect("openssl is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What curl is answered by https, where the certificate is believed that `trust` holds.
pub fn secure(trust: &Path, url: &str, words: &str) -> String {
    let host = url.split('/').nth(2).unwrap();
    let words = format!("--cacert {} --resolve {host}:443:203.0.113.2 {words}", trust.display());
    curl("world", url, &words)
}

/// What openssl says of a connection from the world with these words.
pub fn s_client(words: &str) -> String {
    let mut openssl = at("world", "openssl");
    openssl.args(["s_client", "-connect", "203.0.113.2:443"]).args(words.split_whitespace()).stdin(Stdio::null());
    let output = openssl.output().expect("openssl is needed");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

/// Waits until it holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn certificates_of_files_and_of_our_own() {
    lab(|| {
        let scene = Scene::new();
        let folder = scene.folder().to_owned();
        certificate(&folder, "site", "DNS:www.example.org,DNS:*.wild.example");
        scene.write(&NETWORK.replace("FOLDER", &folder.display().to_string()));
        let serve = Serve::start(&scene);
        settle(&[]);
        let guest = Web::start("a", 80);
        let site = folder.join("site.pem");

        // By both protocols, and the guest is told.
        let answer = secure(&site, "https://www.example.org/x", "--http2");
        assert!(answer.starts_with("HTTP/2 200"), "{answer}");
        assert_eq!(
            (body(&answer), header(&answer, "strict-transport-security")),
            ("a".into(), Some("max-age=31536000"))
        );
        assert_eq!(line(&guest.last(), "x-forwarded-proto"), ["https"]);
        let answer = secure(&site, "https://a.wild.example/", "--http1.1 --tls-max 1.2");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let big = secure(&site, "https://www.example.org/big", "--http2");
        assert_eq!(big.len() - big.find("\r\n\r\n").unwrap() - 4, 5_000_000);
        // Who does not believe it is not served, and nobody by plain HTTP.
        let other = folder.join("site.key");
        assert_eq!(status(&secure(&other, "https://www.example.org/", "")), 0);
        let plain = curl("world", "http://203.0.113.2/x?y", "--header Host:www.example.org");
        assert_eq!((status(&plain), header(&plain, "location")), (301, Some("https://www.example.org/x?y")));
        assert_eq!(header(&plain, "strict-transport-security"), None);
        let post = curl("world", "http://203.0.113.2/", "--header Host:www.example.org --data x");
        assert_eq!(status(&post), 308);
        assert_eq!(status(&curl("world", "http://203.0.113.2/", "--header Host:plain.example.org")), 200);

        // The wrong host on a connection, and names that nobody has.
        for protocol in ["--http1.1", "--http2"] {
            for host in ["own.example.org", "pass.example.org", "nobody.example.org"] {
                let answer = secure(&site, "https://www.example.org/", &format!("{protocol} --header Host:{host}"));
                assert_eq!(status(&answer), 421, "{host} {protocol}");
            }
        }
        assert!(s_client("-servername www.example.org").contains("Verification error: self-signed certificate"));
        for (words, alert) in [
            ("-servername nobody.example.org", 112),
            ("-servername nobody.example.org -tls1_2", 112),
            ("-servername a.b.wild.example", 112),
            ("-servername plain.example.org", 112),
            ("-noservername", 109),
            ("-servername missing.example.org", 80),
            ("-servername www.example.org -alpn acme-tls/1", 120),
        ] {
            let said = s_client(words);
            assert!(said.contains(&format!("SSL alert number {alert}")), "{words}: {said}");
        }
        assert_ne!(s_client("-servername www.example.org -tls1_1 -cipher ALL:@SECLEVEL=0").matches("alert").count(), 0);

        // Of our own: believed by who has imported what `ca` prints.
        let ca = folder.join("ca.pem");
        fs::write(&ca, scene.warren("ca").ends(0).out).unwrap();
        assert_eq!(status(&secure(&ca, "https://own.example.org/", "")), 200);
        assert_eq!(status(&secure(&ca, "https://x.own.example.org/", "")), 200);
        assert_eq!(status(&secure(&site, "https://own.example.org/", "")), 0);
        for secret in ["ca.pem", "ca.key"] {
            let mode = fs::metadata(folder.join("state").join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }

        // Files that change are served without a word; broken ones are not, and said to be.
        let old = folder.join("old.pem");
        fs::copy(&site, &old).unwrap();
        let shown = |names: &str| {
            let all = scene.warren("--json status").ends(0).json()["services"]["certificates"].clone();
            let all = all.as_array().unwrap().clone();
            all.into_iter().find(|one| one["names"][0] == names).unwrap_or_default()
        };
        assert_eq!(shown("www.example.org")["by"], "files");
        assert!(shown("missing.example.org").is_null());
        fs::write(&site, "nothing").unwrap();
        until("the broken file is told", || shown("www.example.org")["problem"].is_string());
        serve.hears("the one before is served on");
        assert_eq!(status(&secure(&old, "https://www.example.org/", "")), 200);
        certificate(&folder, "site", "DNS:www.example.org");
        until("the new file is served", || status(&secure(&site, "https://www.example.org/", "")) == 200);
        assert_eq!(status(&secure(&old, "https://www.example.org/", "")), 0);
        assert!(shown("www.example.org")["problem"].is_null());
        scene.warren("status").says(0, &["CERTIFICATE", "self-signed", "O = test".trim_start_matches("O = ")]);
        // The authority outlives a restart.
        drop(serve);
        let _serve = Serve::start(&scene);
        assert_eq!(status(&secure(&ca, "https://own.example.org/", "")), 200);
    });
}

#[test]
fn what_passes_is_the_guests_own() {
    lab(|| {
        let scene = Scene::new();
        let folder = scene.folder().to_owned();
        certificate(&folder, "site", "DNS:www.example.org");
        certificate(&folder, "guest", "DNS:pass.example.org");
        scene.write(&NETWORK.replace("FOLDER", &folder.display().to_string()));
        let _serve = Serve::start(&scene);
        settle(&[]);
        let trust = folder.join("guest.pem");
        // Nobody answers there yet.
        assert_eq!(status(&secure(&trust, "https://pass.example.org/", "")), 0);
        let mut server = at("b", "openssl");
        server.args(["s_server", "-accept", "8443", "-www", "-quiet", "-cert"]).arg(&trust);
        server.arg("-key").arg(folder.join("guest.key")).stdin(Stdio::null()).stdout(Stdio::null());
        let _server = Running::start(server.stderr(Stdio::null()));
        until("the guest answers", || status(&secure(&trust, "https://pass.example.org/", "--http1.0")) == 200);
        assert_eq!(status(&secure(&folder.join("site.pem"), "https://pass.example.org/", "")), 0);
        let plain = curl("world", "http://203.0.113.2/", "--header Host:pass.example.org");
        assert_eq!((status(&plain), header(&plain, "location")), (301, Some("https://pass.example.org/")));

        // A guest that wants to know who comes.
        let listener = Netns::open("b").unwrap().run(|| TcpListener::bind("0.0.0.0:9443")).unwrap().unwrap();
        let asked = std::thread::spawn(|| secure(Path::new("/dev/null"), "https://told.example.org/", "--max-time 2"));
        let mut head = Vec::new();
        // What is not from there is a question after its health.
        while head.is_empty() {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 256];
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            while !head.windows(3).any(|three| three == [b'\n', 0x16, 3]) {
                match stream.read(&mut bytes).unwrap() {
                    0 => break,
                    count => head.extend_from_slice(&bytes[..count]),
                }
            }
        }
        let text = String::from_utf8_lossy(&head);
        assert!(text.starts_with("PROXY TCP4 203.0.113.1 203.0.113.2 ") && text.contains(" 443\r\n"), "{text}");
        assert_eq!(status(&asked.join().unwrap()), 0);
    });
}
