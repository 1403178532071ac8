//! Tools that load and torment web servers, of Debian's: h2load, wrk and slowhttptest.

use std::process::Stdio;
use std::time::Instant;

use super::web::Web;
use super::{NETWORK, WWW, serve};
use crate::common::lab;
use crate::hosts::own_etc;
use crate::support::{PATIENCE, Scene, at};

const MORE: &str = r#"
[[site]]
host = "own.example.org"
to = ["a"]
tls = "self-signed"
[http]
limits = { timeout = "2s" }
"#;

/// What a tool says in the world.
#[track_caller]
fn says(words: &str) -> String {
    let mut all = words.split_whitespace();
    let output = at("world", all.next().unwrap()).args(all).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
    said
}

#[test]
fn loads_are_carried_and_slow_clients_are_cut_while_others_are_served() {
    lab(|| {
        let scene = Scene::new();
        own_etc("127.0.0.1 localhost\n203.0.113.2 www.example.org own.example.org\n", "");
        let _serving = serve(&scene, &format!("{NETWORK}{MORE}"));
        let _guests = [Web::start("a", 80), Web::start("b", 80)];
        super::until("world", "http://203.0.113.2/", WWW, 200);
        crate::secure::until("there is a certificate", || {
            super::status(&super::curl("world", "https://own.example.org/", "--insecure")) == 200
        });

        for (protocol, url) in [
            ("--h1", "http://www.example.org/"),
            ("--no-tls-proto=h2c", "http://www.example.org/"),
            ("--h1", "https://own.example.org/"),
            ("--npn-list=h2", "https://own.example.org/"),
        ] {
            let said =
                says(&format!("h2load {protocol} --requests 1000 --clients 16 --max-concurrent-streams 4 {url}"));
            assert!(said.contains(" 1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{protocol} {url}: {said}");
            assert!(said.contains("status codes: 1000 2xx"), "{protocol} {url}: {said}");
        }
        let said = says("wrk --threads 1 --connections 16 --duration 1s http://www.example.org/");
        assert!(said.contains(" requests in ") && !said.contains("rrors") && !said.contains("Non-2xx"), "{said}");

        // 80 clients each, all at once, that take longer than the longest that anybody here waits for them.
        for (attack, what) in [("-H", "heads"), ("-B", "bodies")] {
            let words =
                [attack, "-c", "80", "-r", "80", "-i", "1", "-l", "60", "-p", "5", "-u", "http://www.example.org/"];
            let mut command = at("world", "slowhttptest");
            let slow = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let began = Instant::now();
            let attack = slow.spawn().unwrap();
            let mut served = 0;
            let said = std::thread::scope(|scope| {
                let attack = scope.spawn(|| attack.wait_with_output().unwrap());
                while !attack.is_finished() {
                    assert_eq!(super::status(&super::curl("world", "http://www.example.org/", "")), 200);
                    served += 1;
                    assert!(began.elapsed() < PATIENCE, "slow {what} are not cut");
                }
                attack.join().unwrap()
            });
            assert!(began.elapsed().as_secs() >= 1, "slow {what} are held until their time is over");
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.contains("No open connections left"), "slow {what}: {said}");
            assert!(served > 0 && !said.contains("service available:   NO"), "slow {what}: {said}");
        }
    });
}
