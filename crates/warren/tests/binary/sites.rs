//! `[[site]]`: the web by name, asked with curl and by hand from the world, the guests and the host.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{lab, tool};
use crate::serve::Serve;
use crate::support::{PATIENCE, Scene, settle};

mod attacks;
mod balance;
mod limits;
mod nginx;
mod protocols;
mod real;
mod tools;
pub mod web;

use web::{Web, ask, body, curl, header, status};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[lan.br2]
mode = "isolated"
address = ["10.1.2.1/24"]
[guest.a]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.b]
kind = "netns"
lan = "br1"
address = ["10.1.1.7"]
[guest.alone]
kind = "netns"
lan = "br2"
address = ["10.1.2.6"]
[guest.machine]
kind = "reserved"
lan = "br1"
address = ["10.1.1.8"]
[[site]]
host = ["www.example.org", "*.wild.example"]
to = ["a:80", "b:80"]
[[site]]
host = "www.example.org"
path = "/api"
to = ["alone:8080"]
[[site]]
host = "old.example.org"
redirect = "https://www.example.org/"
[[site]]
host = "lost.example.org"
to = ["a:8090"]
health = { path = "/health", interval = "100ms", failures = 2, successes = 1 }
[[site]]
host = "plug.example.org"
to = ["machine:80"]
[[site]]
host = "closed.example.org"
to = ["a:80"]
maintenance = "back <soon>"
"#;

/// The network, served; its guests settled.
fn serve<'a>(scene: &'a Scene, text: &str) -> Serve<'a> {
    scene.write(text);
    let serve = Serve::start(scene);
    settle(&[]);
    serve
}

/// Waits until the request is answered with that status.
#[track_caller]
fn until(from: &str, url: &str, words: &str, wanted: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = curl(from, url, words);
        if status(&answer) == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{url}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a request with that header is answered, and not with that status.
#[track_caller]
fn until_not(from: &str, name: &str, unwanted: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = curl(from, "http://203.0.113.2/", &format!("--header {name}"));
        if ![0, unwanted].contains(&status(&answer)) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const WWW: &str = "--header Host:www.example.org";

#[test]
fn by_name_and_path_to_the_guests() {
    lab(|| {
        let scene = Scene::new();
        let serving = serve(&scene, NETWORK);
        let (a, b) = (Web::start("a", 80), Web::start("b", 80));
        let alone = Web::start("alone", 8080);
        // In turn, from the world, in both families.
        let names: Vec<String> = (0..4).map(|_| body(&curl("world", "http://203.0.113.2/x?y=%20", WWW))).collect();
        assert_eq!(names.iter().filter(|name| *name == "a").count(), 2, "{names:?}");
        assert_eq!(names.iter().filter(|name| *name == "b").count(), 2, "{names:?}");
        assert_eq!(status(&curl("world", "http://[2001:db8:113::2]/", WWW)), 200);
        assert_eq!(body(&curl("world", "http://203.0.113.2/api/x", WWW)), "alone");
        assert_eq!(status(&curl("world", "http://203.0.113.2/", "--header Host:x.wild.example")), 200);
        for (host, wanted) in [("nobody.example.org", 404), ("x.y.wild.example", 404), ("203.0.113.2", 404)] {
            let answer = curl("world", "http://203.0.113.2/", &format!("--header Host:{host}"));
            assert_eq!(status(&answer), wanted, "{host}");
        }
        let elsewhere = curl("world", "http://203.0.113.2/x", "--header Host:old.example.org");
        assert_eq!((status(&elsewhere), header(&elsewhere, "location")), (301, Some("https://www.example.org/")));
        let closed = curl("world", "http://203.0.113.2/", "--header Host:closed.example.org");
        assert_eq!(status(&closed), 503);
        assert!(closed.contains("back &lt;soon&gt;"), "{closed}");

        // Guests that may go out come in as well, the isolated one does not, and nobody at the gateway's address.
        assert_eq!(status(&curl("a", "http://203.0.113.2/", WWW)), 200);
        let refused = curl("alone", "http://203.0.113.2/", &format!("{WWW} --connect-timeout 0.5"));
        assert_eq!(status(&refused), 0, "{refused}");
        assert_eq!(status(&curl("a", "http://10.1.1.1/", &format!("{WWW} --connect-timeout 0.5"))), 0);
        assert_eq!(status(&curl("server", "http://203.0.113.2/", WWW)), 200);

        // Who asks is told by us, and not by him.
        let forged = "--header X-Forwarded-For:1.2.3.4 --header X_Forwarded_Host:x --header Forwarded:for=1.2.3.4 \
                      --header X-Real-IP:1.2.3.4 --header X-Forwarded-Proto:https --header Connection:x-secret,host \
                      --header X-Secret:1";
        curl("world", "http://203.0.113.2/api/forged", &format!("{WWW} {forged}"));
        let head = alone.last();
        assert_eq!(web::line(&head, "x-forwarded-for"), ["203.0.113.1"], "{head}");
        assert_eq!(web::line(&head, "x-forwarded-proto"), ["http"], "{head}");
        assert_eq!(web::line(&head, "x-forwarded-host"), ["www.example.org"], "{head}");
        assert_eq!(web::line(&head, "forwarded"), ["for=203.0.113.1;host=\"www.example.org\";proto=http"], "{head}");
        assert_eq!(web::line(&head, "host"), ["www.example.org"], "{head}");
        assert!(!head.contains("1.2.3.4") && !head.contains("x_forwarded") && !head.contains("x-secret"), "{head}");
        assert!(head.starts_with("GET /api/forged HTTP/1.1\r\n"), "{head}");

        // What a guest takes and loses is asked once more, where nothing is lost by it.
        assert_eq!(body(&curl("world", "http://203.0.113.2/api/once", WWW)), "alone");
        let closed = Web::start("a", 8090);
        until("world", "http://203.0.113.2/", "--header Host:lost.example.org", 200);
        assert_eq!(status(&curl("world", "http://203.0.113.2/lost", "--header Host:lost.example.org")), 200);
        assert_eq!(closed.count("/lost"), 2);
        drop(closed);
        let closed = Web::start("a", 8090);
        until("world", "http://203.0.113.2/", "--header Host:lost.example.org", 200);
        assert_eq!(status(&curl("world", "http://203.0.113.2/lost", "--header Host:lost.example.org --data a=1")), 502);
        assert_eq!(closed.count("/lost"), 1, "a POST is sent once");

        // Connections to guests are kept for the next request.
        let counted =
            |what: &str| scene.warren("--json status").ends(0).json()["services"]["http"][what].as_u64().unwrap();
        let before = (counted("requests"), counted("dialled"));
        let urls = " http://203.0.113.2/api/kept".repeat(30);
        curl("world", "http://203.0.113.2/api/kept", &format!("{WWW}{urls}"));
        assert_eq!(counted("requests") - before.0, 31);
        assert!(counted("dialled") - before.1 <= 2, "{} were dialled", counted("dialled") - before.1);

        // One that says that it is sick is passed over until it is well.
        closed.is_sick(true);
        until("world", "http://203.0.113.2/", "--header Host:lost.example.org", 503);
        closed.is_sick(false);
        until("world", "http://203.0.113.2/", "--header Host:lost.example.org", 200);

        // One guest less, then none.
        drop(a);
        for _ in 0..4 {
            assert_eq!(body(&curl("world", "http://203.0.113.2/", WWW)), "b");
        }
        drop(b);
        let nobody = curl("world", "http://203.0.113.2/", WWW);
        assert_eq!((status(&nobody), header(&nobody, "retry-after")), (503, Some("5")));
        let _b = Web::start("b", 80);
        until("world", "http://203.0.113.2/", WWW, 200);

        let shown = scene.warren("--json status").ends(0).json();
        assert_eq!(shown["sites"][1]["to"][0]["guest"], "alone");
        assert!(shown["services"]["http"]["requests"].as_u64().unwrap() >= 15, "{shown}");
        scene.warren("status").says(0, &["SITE", "www.example.org/api", "alone:8080", "sites: "]);
        scene.warren("down").ends(0);
        drop(serving);
        let deadline = Instant::now() + PATIENCE;
        while tool("ss -Hltn").contains(":80 ") {
            assert!(Instant::now() < deadline, "somebody listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn what_changes_is_followed_and_nobody_is_cut() {
    lab(|| {
        let scene = Scene::new();
        // The listeners stand before the address is there.
        tool("ip address del 203.0.113.2/24 dev eth0");
        let text = NETWORK.replace("\"*.wild.example\"]", "\"*.wild.example\"]\nhealth = { interval = \"200ms\" }");
        let serving = serve(&scene, &text);
        let (a, b) = (Web::start("a", 80), Web::start("b", 80));
        assert_eq!(status(&curl("world", "http://203.0.113.2/", &format!("{WWW} --connect-timeout 0.5"))), 0);
        tool("ip address add 203.0.113.2/24 dev eth0");
        tool("ip route replace default via 203.0.113.1");
        until("world", "http://203.0.113.2/", WWW, 200);

        // 64 connections that are busy while the file is changed and read again.
        let slow: Vec<_> = (0..64).map(|nth| ask("world", "203.0.113.2:80", &web::slow(nth))).collect();
        let deadline = Instant::now() + PATIENCE;
        while a.count("/slow") + b.count("/slow") < 64 {
            assert!(Instant::now() < deadline, "{} and {}", a.count("/slow"), b.count("/slow"));
            std::thread::sleep(Duration::from_millis(5));
        }
        let changed = text.replace("path = \"/api\"", "path = \"/other\"");
        scene.write(&changed);
        scene.warren("up").ends(0);
        a.release();
        b.release();
        for answer in slow {
            let answer = answer.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("slow\n"), "{answer}");
        }
        assert_eq!(body(&curl("world", "http://203.0.113.2/api", WWW)).len(), 1, "the path is no site's own any more");

        // The guest with a new address is found there, by its name.
        scene.up(&changed.replace("10.1.1.7", "10.1.1.9"), &[]);
        drop(b);
        let b = Web::start("b", 80);
        let before = b.count("/moved");
        for _ in 0..4 {
            assert_eq!(status(&curl("world", "http://203.0.113.2/moved", WWW)), 200);
        }
        assert!(b.count("/moved") > before);

        // One that is unplugged goes out at once: no request waits for it.
        let shown = scene.warren("--json status").ends(0).json();
        let (port, mac) = (shown["guests"][3]["port"].as_str().unwrap(), shown["guests"][3]["mac"].as_str().unwrap());
        tool("ip netns add machine");
        tool(&format!("ip link add {port} type veth peer name eth0 address {mac} netns machine"));
        tool("ip -n machine address add 10.1.1.8/24 dev eth0");
        tool("ip -n machine link set eth0 up");
        tool(&format!("ip link set {port} master br1 up"));
        let _machine = Web::start("machine", 80);
        const PLUG: &str = "--header Host:plug.example.org";
        until("world", "http://203.0.113.2/", PLUG, 200);
        tool("ip -n machine link set eth0 down");
        let begun = Instant::now();
        until("world", "http://203.0.113.2/", PLUG, 503);
        assert!(begun.elapsed() < Duration::from_millis(2000), "{:?}", begun.elapsed());
        tool("ip -n machine link set eth0 up");
        until("world", "http://203.0.113.2/", PLUG, 200);
        scene.warren("down").ends(0);
        drop(serving);
    });
}

/// An upload that is read while it comes, an answer that is sent while it is made, and both written down.
#[test]
fn bodies_flow_and_requests_are_written_down() {
    lab(|| {
        let scene = Scene::new();
        let log = scene.folder().join("log/access.log");
        let http = format!("[http]\naccess-log = \"{}\"\nlimits = {{ max-body = 3000000 }}\n", log.display());
        let serving = serve(&scene, &format!("{NETWORK}{http}"));
        let (a, b) = (Web::start("a", 80), Web::start("b", 80));
        let big = scene.folder().join("big");
        fs::write(&big, vec![b'x'; 2_000_000]).unwrap();
        for words in ["--data-binary @BIG", "--upload-file BIG --header Transfer-Encoding:chunked"] {
            let words = words.replace("BIG", &big.display().to_string());
            let answer = curl("world", "http://203.0.113.2/count", &format!("{WWW} {words}"));
            assert_eq!(answer.lines().last(), Some("2000000"), "{words}");
        }
        fs::write(&big, vec![b'x'; 3_000_001]).unwrap();
        for words in ["--data-binary @BIG", "--upload-file BIG --header Transfer-Encoding:chunked"] {
            let words = words.replace("BIG", &big.display().to_string());
            assert_eq!(status(&curl("world", "http://203.0.113.2/count", &format!("{WWW} {words}"))), 413, "{words}");
        }
        let before = pipes(&serving);
        let answer = curl("world", "http://203.0.113.2/big", WWW);
        assert_eq!(pipes(&serving), before + 2, "one pipe, kept for the next");
        assert!(answer.split_once("\r\n\r\n").is_some_and(|(_, body)| body == web::big()));
        assert_eq!(a.count("/") + b.count("/"), 0);
        let deadline = Instant::now() + PATIENCE;
        let lines = loop {
            let text = fs::read_to_string(&log).unwrap();
            if text.lines().count() >= 5 {
                break text;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let last = lines.lines().last().unwrap();
        assert!(last.starts_with("203.0.113.1 - - ["), "{last}");
        assert!(last.contains("] \"GET /big HTTP/1.1\" 200 5000000 \"-\" \"curl/"), "{last}");
        assert_eq!(lines.matches(" 413 ").count(), 2, "{lines}");
        long_answers();
        let cut = curl("world", "http://203.0.113.2/cut", WWW);
        assert!(web::big().starts_with(cut.split_once("\r\n\r\n").unwrap().1), "what came of it is it");
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap().contains("\"GET /cut HTTP/1.1\" 200 1000000 ") {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that was moved away is followed by another.
        fs::rename(&log, log.with_extension("1")).unwrap();
        scene.warren("up").ends(0);
        curl("world", "http://203.0.113.2/again", WWW);
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap_or_default().contains("GET /again ") {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Ends of pipes that the worker has.
fn pipes(serving: &Serve<'_>) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", serving.worker().as_raw_nonzero())).unwrap();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.display().to_string().starts_with("pipe:")).count()
}

/// Long answers come each as it is, one behind the other, beside short ones, and to clients of HTTP/1.0.
fn long_answers() {
    let asked = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\n{more}\r\n");
    let row = [asked("/big", ""), asked("/short", ""), asked("/big", ""), asked("/big", "Connection: close\r\n")];
    let several = [0; 4].map(|_| ask("world", "203.0.113.2:80", &row.concat()));
    let old = ask("world", "203.0.113.2:80", "GET /big HTTP/1.0\r\nHost: www.example.org\r\n\r\n");
    let big = web::big();
    for answers in several {
        let answers = answers.join().unwrap();
        let mut rest = answers.as_str();
        for long in [true, false, true, true] {
            let (head, behind) = rest.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let (body, next) = behind.split_at(if long { big.len() } else { 2 });
            assert!(if long { body == big } else { ["a\n", "b\n"].contains(&body) });
            rest = next;
        }
        assert_eq!(rest, "");
    }
    assert!(old.join().unwrap().split_once("\r\n\r\n").is_some_and(|(_, body)| body == big));
}
