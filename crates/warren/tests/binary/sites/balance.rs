//! The three ways to balance, and who is believed about the client.

use std::time::{Duration, Instant};

use super::web::{self, Web, ask, body, curl};
use super::{NETWORK, serve};
use crate::common::lab;
use crate::support::{PATIENCE, Scene};

/// The world's router at 203.0.113.1 is believed, and the neighbour is not.
const MORE: &str = r#"
[[site]]
host = "few.example.org"
to = ["a:80", "b:80"]
balance = "least-connections"
[[site]]
host = "same.example.org"
to = ["a:80", "b:80"]
balance = "client-hash"
[http]
trusted-proxies = ["203.0.113.1"]
"#;

#[test]
fn a_client_stays_with_its_guest_and_who_is_busy_is_spared() {
    lab(|| {
        let scene = Scene::new();
        let serving = serve(&scene, &format!("{NETWORK}{MORE}"));
        let (a, b) = (Web::start("a", 80), Web::start("b", 80));
        for host in ["few", "same"] {
            super::until("world", "http://203.0.113.2/", &format!("--header Host:{host}.example.org"), 200);
        }

        // One guest is busy with a request: the next ones are the other's, one after the other.
        let slow = web::slow(0).replace("www.example.org", "few.example.org");
        let slow = ask("world", "203.0.113.2:80", &slow);
        let deadline = Instant::now() + PATIENCE;
        while a.count("/slow") + b.count("/slow") < 1 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        let idle = if a.count("/slow") == 1 { "b" } else { "a" };
        for _ in 0..6 {
            assert_eq!(body(&curl("world", "http://203.0.113.2/", "--header Host:few.example.org")), idle);
        }
        a.release();
        b.release();
        assert!(slow.join().unwrap().ends_with("slow\n"));

        // Of whom a trusted proxy speaks, always to the same guest; and not all of them to one.
        let asked = |from: &str, client: u32| {
            let words = format!("--header Host:same.example.org --header X-Forwarded-For:192.0.2.{client}");
            body(&curl(from, "http://203.0.113.2/who", &words))
        };
        let first: Vec<String> = (0..16).map(|client| asked("world", client)).collect();
        assert!(["a", "b"].iter().all(|guest| first.iter().any(|to| to == guest)), "{first:?}");
        assert_eq!(first, (0..16).map(|client| asked("world", client)).collect::<Vec<_>>());
        let told = |guest: &Web| web::line(&guest.last(), "x-forwarded-for").join("|");
        let last = if first[15] == "a" { &a } else { &b };
        assert_eq!(told(last), "192.0.2.15, 203.0.113.1", "what it says is kept and added to");
        // Whoever else says the like is one client.
        let forged: Vec<String> = (0..16).map(|client| asked("neighbour", client)).collect();
        assert!(forged.iter().all(|to| *to == forged[0]), "{forged:?}");
        let last = if forged[0] == "a" { &a } else { &b };
        assert!(!told(last).contains("192.0.2."), "{}", told(last));

        // The clients of a guest that goes are the other's, and nobody else is moved.
        drop(b);
        super::until("world", "http://203.0.113.2/", "--header Host:same.example.org", 200);
        let left: Vec<String> = (0..16).map(|client| asked("world", client)).collect();
        assert!(left.iter().all(|to| to == "a"), "{left:?}");
        drop(serving);
    });
}
