//! `[web]`: what a browser and Prometheus read on this host, by curl; and what they may not.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::common::{lab, tool};
use crate::serve::{NETWORK, Serve, short};
use crate::support::{PATIENCE, Ran, Scene, at};
use crate::watch::repaired;

const PAGE: &str = "http://127.0.0.1:7117";

/// What curl prints: with its options, the status code behind it.
fn curl(place: &str, words: &[&str]) -> (String, String) {
    let mut command = at(place, "curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--write-out", "\n%{http_code}"]);
    let ran = Ran::of(command.args(words));
    let (body, code) = ran.out.rsplit_once('\n').unwrap();
    (body.to_owned(), code.to_owned())
}

/// Prometheus' own judge of what it is to read.
fn check_metrics(text: &str) {
    let promtool = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/prometheus/usr/bin/promtool");
    let mut judge = Command::new(promtool);
    let judge = judge.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut judge = judge.spawn().expect("`cargo xtask test` unpacks prometheus");
    judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[test]
fn the_state_for_who_has_the_token_and_nobody_else() {
    lab(|| {
        let scene = Scene::new();
        scene.write(&format!(
            "{NETWORK}[[forward]]\nlisten = \"22210/tcp\"\nto = \"cnx6:22\"\n[web]\nlisten = [\"127.0.0.1:7117\", \"[::1]:7117\"]\n"
        ));
        let serve = Serve::start(&scene);
        let file = scene.folder().join("state/web-token");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let token = fs::read_to_string(&file).unwrap().trim().to_owned();
        assert_eq!(token.len(), 64);
        let bearer = format!("Authorization: Bearer {token}");
        let known = |words: &[&str]| curl("server", &[&["-H", bearer.as_str()], words].concat());
        let code = |words: &[&str]| curl("server", words).1;

        // Without it, or with another, nothing but the way in, which there is none of yet.
        let (status, metrics) = (format!("{PAGE}/api/status"), format!("{PAGE}/metrics"));
        for path in ["/", "/page.css", "/page.js", "/api/status", "/metrics", "/elsewhere"] {
            assert_eq!(code(&[&format!("{PAGE}{path}")]), "401", "{path}");
        }
        assert_eq!(code(&["-H", "Authorization: Bearer 0123456789abcdef", &status]), "401");
        let (why, code_of_pac) = curl("server", &[&format!("{PAGE}/proxy.pac")]);
        assert!(code_of_pac == "404" && why.contains("[socks]"), "{code_of_pac} {why}");
        // As a bearer's, by both addresses; or once in the address, then as a cookie.
        for place in [PAGE, "http://[::1]:7117", "http://localhost:7117"] {
            let (page, code) = known(&[&format!("{place}/")]);
            assert!(code == "200" && page.contains("<title>warren</title>"), "{place}: {code} {page}");
            assert_eq!(page.matches("data-key=\"guest:cnx6\"").count(), 2, "on a screen and on a phone");
        }
        let jar = scene.folder().join("jar").display().to_string();
        let (head, entered) =
            curl("server", &["--include", "--cookie-jar", &jar, &format!("{PAGE}/api/status?token={token}")]);
        assert_eq!(entered, "303");
        assert!(head.contains("location: /api/status\r\n"), "{head}");
        assert!(head.contains("; HttpOnly; SameSite=Strict; Path=/"), "{head}");
        assert_eq!(code(&["--cookie", &jar, &status]), "200");
        // Another's name for us, and whatever changes something.
        for host in ["evil.example", "evil.example:7117", "10.1.1.1"] {
            assert_eq!(known(&["-H", &format!("Host: {host}"), &status]).1, "403", "{host}");
        }
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(known(&["--request", method, &status]).1, "405", "{method}");
        }
        assert_eq!(known(&["--head", &status]).1, "200");
        // Guests ask in vain, whom the host answers for names.
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        assert_eq!(curl("cnx6", &["--connect-timeout", "1", "-H", &bearer, "http://10.1.1.1:7117/"]).1, "000");

        // It is the document that `status` prints, and the numbers are in it.
        let (text, _) = known(&[&status]);
        let shown: Value = serde_json::from_str(&text).unwrap();
        let printed = scene.warren("--json status").ends(0).json();
        for key in ["config", "forwards", "uplink", "ok", "up", "drift", "public"] {
            assert_eq!(shown[key], printed[key], "{key}");
        }
        assert_eq!(shown["services"]["pid"], printed["services"]["pid"]);
        tool("ip link set br2 mtu 1400");
        repaired(&scene, 0);
        let worker = serve.worker();
        kill_process(worker, Signal::KILL).unwrap();
        serve.hears("started again");
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        // The next one lets in whom the last one did.
        let (text, code) = known(&[&metrics]);
        assert_eq!(code, "200");
        check_metrics(&text);
        for line in [
            "warren_up 1",
            "warren_ok 1",
            "warren_forward_connections_total{address=\"\",ports=\"22210\",transport=\"tcp\",to=\"cnx6\"} 0",
            "warren_dns_queries_total 1",
            "warren_dns_answers_total{source=\"zone\"} 1",
            "warren_repairs_total 1",
            "warren_repair_causes_total{cause=\"link\"} 1",
            "warren_worker_restarts_total 1",
            "warren_worker_up 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("warren_guest_bytes_total{guest=\"cnx6\",direction=\"sent\"} "), "{text}");

        // So many at once, who may say nothing, and one more is closed; when they are gone there is room.
        let idle: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect("127.0.0.1:7117").unwrap()).collect();
        let mut more = TcpStream::connect("127.0.0.1:7117").unwrap();
        more.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(more.read(&mut [0]).unwrap(), 0, "one too many is let in");
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.1.1"), "10.1.1.6");
        drop(idle);
        let deadline = Instant::now() + PATIENCE;
        while known(&[&format!("{PAGE}/")]).1 != "200" {
            assert!(Instant::now() < deadline, "there is no room again");
            std::thread::sleep(Duration::from_millis(20));
        }
        // A token that others may read is none.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        kill_process(serve.pid(), Signal::HUP).unwrap();
        serve.hears("others may read it");
        drop(serve);
        scene.warren("down").ends(0);
    });
}
