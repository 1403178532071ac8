//! Certificates by ACME, of a real authority: Debian's pebble, in the world.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::lab;
use crate::secure::{s_client, secure, until};
use crate::serve::Serve;
use crate::sites::web::{Web, body, curl, status};
use crate::support::{PATIENCE, Running, Scene, at, settle};

const NETWORK: &str = one_lan!(
    r#"dns = ["203.0.113.1"]
[guest.a]
kind = "netns"
address = ["10.1.1.6"]
[acme]
email = "root@example.org"
directory = "https://203.0.113.1:14000/dir"
[[site]]
host = ["www.example.org", "also.example.org"]
to = ["a"]
[[site]]
host = "alpn.example.org"
to = ["a"]
listen = "443"
[[site]]
host = "plain.example.org"
to = ["a"]
tls = "off"
"#
);

/// The authority: pebble, and who tells it where names are. It ends with this.
struct Authority {
    _pebble: Running,
    names: Option<Running>,
}

impl Authority {
    /// Whose certificates hold so many seconds.
    fn start(folder: &Path, seconds: u32) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        let openssl = |words: &str| {
            let output = Command::new("openssl").args(words.split_whitespace()).output().expect("openssl is needed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
        let (root, root_key, cert, key) = (file("root.pem"), file("root.key"), file("acme.pem"), file("acme.key"));
        openssl(&format!("{new} -subj /CN=root -out {root} -keyout {root_key}"));
        openssl(&format!(
            "{new} -subj /CN=pebble -addext subjectAltName=IP:203.0.113.1,DNS:acme.example.org -addext basicConstraints=critical,CA:FALSE \
             -CA {root} -CAkey {root_key} -out {cert} -keyout {key}"
        ));
        let config = serde_json::json!({ "pebble": {
            "listenAddress": "203.0.113.1:14000", "managementListenAddress": "203.0.113.1:15000",
            "certificate": cert, "privateKey": key, "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
            "externalAccountBindingRequired": false, "certificateValidityPeriod": seconds,
        }});
        fs::write(folder.join("pebble.json"), config.to_string()).unwrap();
        let mut pebble = at("world", "pebble");
        pebble.args(["-config", &file("pebble.json"), "-dnsserver", "203.0.113.1:53", "-strict"]);
        // Some nonces are refused, as servers do whose farm is large.
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "5").env("PEBBLE_AUTHZREUSE", "0");
        let log = fs::File::create(folder.join("pebble.log")).unwrap();
        pebble.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let pebble = Running::start(&mut pebble);
        let mut authority = Self { _pebble: pebble, names: None };
        authority.point_to("203.0.113.2");
        until("pebble answers", || {
            status(&curl("world", "https://203.0.113.1:14000/dir", &format!("--cacert {root}"))) == 200
        });
        authority
    }

    /// Every name has that address from now on, but for the authority's own.
    fn point_to(&mut self, address: &str) {
        self.names = None;
        let mut names = at("world", "pebble-challtestsrv");
        names.args(["-defaultIPv4", address, "-defaultIPv6", "", "-dns01", "203.0.113.1:53"]);
        names.args(["-management", "203.0.113.1:8055", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        self.names = Some(Running::start(names.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())));
        let own = r#"{"host":"acme.example.org.","addresses":["203.0.113.1"]}"#;
        let add = || curl("world", "http://203.0.113.1:8055/add-a", &format!("--data {own}"));
        until("names answer", || status(&add()) == 200);
    }

    /// What it signs with, of which every start has another.
    fn root(&self, folder: &Path) -> std::path::PathBuf {
        let words = format!("--cacert {}", folder.join("root.pem").display());
        let file = folder.join("issuer.pem");
        fs::write(&file, body(&curl("world", "https://203.0.113.1:15000/roots/0", &words))).unwrap();
        file
    }
}

fn serial(name: &str) -> String {
    let said = s_client(&format!("-servername {name}"));
    let certificate = said.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap_or_default();
    certificate.split("-----END").next().unwrap_or_default().to_owned()
}

#[test]
fn had_by_both_challenges_kept_and_renewed() {
    lab(|| {
        let scene = Scene::new();
        let folder = scene.folder().to_owned();
        let mut authority = Authority::start(&folder, 3600);
        scene.write(NETWORK);
        let root = folder.join("root.pem").display().to_string();
        let trusting = [("SSL_CERT_FILE", root.as_str())];
        let serve = Serve::start_with(&scene, &trusting);
        settle(&[]);
        let _guest = Web::start("a", 80);
        let issuer = authority.root(&folder);
        for name in ["www.example.org", "also.example.org", "alpn.example.org"] {
            let url = format!("https://{name}/");
            until(name, || status(&secure(&issuer, &url, "")) == 200);
        }
        let said = fs::read_to_string(folder.join("pebble.log")).unwrap();
        assert!(said.contains("http://www.example.org:80/.well-known/acme-challenge/"), "{said}");
        // Nobody is answered by proofs that nobody asks for, and the others have nothing of it.
        assert!(s_client("-servername alpn.example.org -alpn acme-tls/1").contains("SSL alert number 120"));
        let token = "http://203.0.113.2/.well-known/acme-challenge/x";
        assert_eq!(status(&curl("world", token, "--header Host:plain.example.org")), 200, "it is the guest's");
        assert!(s_client("-servername plain.example.org").contains("SSL alert number 112"));

        // What is kept is root's alone, and serves after a restart without the authority.
        let kept = folder.join("state/acme/203.0.113.1_14000_dir");
        for file in ["account.json", "www.example.org.pem", "also.example.org.pem", "alpn.example.org.pem"] {
            until(file, || kept.join(file).exists());
            assert_eq!(fs::metadata(kept.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        let shown = scene.warren("--json status").ends(0).json()["services"]["certificates"].clone();
        assert_eq!(shown.as_array().unwrap().len(), 3, "{shown}");
        assert!(shown.as_array().unwrap().iter().all(|one| one["by"] == "acme" && one["problem"].is_null()), "{shown}");
        let before = serial("www.example.org");
        assert!(!before.is_empty());
        drop(serve);
        authority.point_to("203.0.113.9");
        let serve = Serve::start_with(&scene, &trusting);
        assert_eq!(serial("www.example.org"), before);
        // A name that is not ours there has none, and the others are served.
        scene.write(&NETWORK.replace("\"also.example.org\"", "\"lost.example.org\""));
        scene.warren("up").ends(0);
        serve.hears("lost.example.org: no certificate from");
        assert!(s_client("-servername lost.example.org").contains("SSL alert number 80"));
        assert!(s_client("-servername also.example.org").contains("SSL alert number 112"));
        assert_eq!(status(&secure(&issuer, "https://www.example.org/", "")), 200);
        scene.warren("status").says(0, &["lost.example.org", "no certificate from"]);
        drop(serve);
    });
}

#[test]
fn renewed_before_its_end_by_the_same_account() {
    lab(|| {
        let scene = Scene::new();
        let folder = scene.folder().to_owned();
        let authority = Authority::start(&folder, 12);
        // By its name, which the LAN's resolver knows.
        scene.write(&NETWORK.replace("203.0.113.1:14000", "acme.example.org:14000"));
        let root = folder.join("root.pem").display().to_string();
        let _serve = Serve::start_with(&scene, &[("SSL_CERT_FILE", root.as_str())]);
        settle(&[]);
        let _guest = Web::start("a", 80);
        let issuer = authority.root(&folder);
        until("the first", || status(&secure(&issuer, "https://www.example.org/", "")) == 200);
        let (first, begun) = (serial("www.example.org"), Instant::now());
        until("the second", || serial("www.example.org") != first);
        assert!(begun.elapsed() > Duration::from_secs(3) && begun.elapsed() < PATIENCE);
        assert_eq!(status(&secure(&issuer, "https://www.example.org/", "")), 200);
        let said = fs::read_to_string(folder.join("pebble.log")).unwrap();
        let accounts = said.lines().filter(|line| line.contains("There are now") && line.contains("account"));
        assert_eq!(accounts.count(), 1, "{said}");
    });
}
