//! A container's bandwidth, through all that makes its cable anew.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use crate::common::tool;
use crate::lab::{Place, lab};
use crate::stream::Stream;
use crate::support::PATIENCE;

fn guest(limit: &str) -> String {
    format!("address = [\"10.1.1.6\"]\ntemplate = \"busybox\"\n{limit}")
}

#[test]
fn a_container_keeps_its_limit_however_it_restarts() {
    lab(|| {
        let place = Place::new();
        let write = |limit: &str| place.write(&[("cnx6", &guest(limit))], "");
        let pid = || place.warren("--json guest list").json()["guests"][0]["pid"].as_u64();
        let is_set = |rate: &str, when: &str| {
            let classes = tool("tc class show dev cnx6") + &tool("tc class show dev ifb-cnx6");
            assert_eq!(classes.matches(&format!("rate {rate} ceil {rate}")).count(), 2, "{when}: {classes}");
            assert!(tool("tc filter show dev cnx6 ingress").contains("ifb-cnx6"), "{when}");
            place.warren("plan --exit-code").says(0, &["Nothing to change"]);
        };
        let holds = |rate: f64| {
            let inside = pid().unwrap().to_string();
            Stream::open("server", &inside, "10.1.1.6").has(rate);
            Stream::open(&inside, "world", "198.51.100.7").has(rate);
        };
        write("limit = \"20mbit\"");
        place.warren("up").ends(0);
        is_set("20Mbit", "after its first start");
        place.warren("guest restart cnx6").ends(0);
        is_set("20Mbit", "after a restart");
        let before = pid();
        // The shell may be ended along with the rest before it says so.
        place.inside("cnx6", "reboot");
        let deadline = Instant::now() + PATIENCE;
        let answers = || crate::support::Ran::of(std::process::Command::new("ping").args(["-c1", "-W1", "10.1.1.6"]));
        while pid().is_none() || pid() == before || answers().code != Some(0) {
            assert!(Instant::now() < deadline, "it does not come back");
        }
        is_set("20Mbit", "after it restarted by itself");
        holds(20e6);
        write("limit = \"30mbit\"");
        place.warren("plan").says(0, &["~ limit at cnx6: at most 20mbit leaves", "at most 30mbit leaves"]);
        place.warren("up").ends(0);
        is_set("30Mbit", "changed while it runs");
        // While it does not run, the file means something all the same.
        place.warren("guest stop cnx6").ends(0);
        write("limit = \"10mbit\"");
        place.warren("up --no-guests").ends(0);
        place.warren("guest start cnx6").ends(0);
        is_set("10Mbit", "changed while it was stopped");
        // The guest goes on, without a limit, and so it does when it restarts.
        place.warren("down").ends(0);
        let qdiscs = || tool("tc qdisc show");
        assert!(tool("ip link show cnx6").contains("cnx6"));
        assert!(!qdiscs().contains("htb") && !qdiscs().contains("ingress"), "{}", qdiscs());
        place.warren("up").ends(0);
        is_set("10Mbit", "plugged in again");
        write("");
        place.warren("up").ends(0);
        assert!(!qdiscs().contains("htb") && !qdiscs().contains("ingress"), "{}", qdiscs());
        place.warren("down --guests").ends(0);
    });
}
