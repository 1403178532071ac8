//! What `status` counts: of forwards, guests and LANs, and kept.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

use crate::common::{lab, tool};
use crate::support::{Ran, Scene, all, at, reaches, serve, silent};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2", "2001:db8:113::2"]
[lan.br1]
address = ["10.1.1.1/24", "fd10:1:1::1/64"]
[guest.www]
kind = "netns"
lan = "br1"
address = ["10.1.1.6", "fd10:1:1::6"]
[guest.idle]
kind = "netns"
lan = "br1"
address = ["10.1.1.7"]
[[forward]]
listen = "8080"
to = "www:80"
[[forward]]
listen = "8081"
to = "www:80"
[[forward]]
listen = "9000-9010"
to = "www"
[[forward]]
listen = "203.0.113.2:7000-7010"
to = "www"
[[forward]]
listen = "203.0.113.2:6000"
to = "www:80"
[[forward]]
listen = "203.0.113.2:5000-5003"
to = "www:78-81"
# Its guest has no IPv6 address.
[[forward]]
listen = "4000"
to = "idle:80"
"#;

fn fetch(url: &str) {
    let mut curl = Command::new("nsenter");
    curl.args(["--net=/run/netns/world", "curl", "--silent", "--globoff", "--max-time", "20", "--output", "/dev/null"]);
    Ran::of(curl.arg(url)).ends(0);
}

fn status(scene: &Scene) -> Value {
    scene.warren("--json status").ends(0).json()
}

/// Connections and bytes of each forward, in the file's order.
fn forwards(status: &Value) -> Vec<(u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap();
    let all = status["forwards"].as_array().unwrap().iter();
    all.map(|f| (number(&f["connections"]), number(&f["carried"]["bytes"]))).collect()
}

fn guest<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["guests"].as_array().unwrap().iter().find(|guest| guest["name"] == name).unwrap()
}

#[test]
fn what_each_forward_guest_and_lan_did_is_counted_and_kept() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["www", "idle"]);
        let _servers: Vec<_> = [80, 9003, 7007].map(|port| serve(&scene, "www", port)).into();
        let _others = ["world", "idle"].map(|place| serve(&scene, place, 80));
        let untouched = status(&scene);
        assert_eq!(forwards(&untouched), vec![(0, 0); 7]);

        // A megabyte by each in turn, the first twice and by IPv6 as well.
        let page = 1_000_000..1_200_000;
        for (url, which, times) in [
            ("http://203.0.113.2:8080/big", 0, 1),
            ("http://[2001:db8:113::2]:8080/big", 0, 2),
            ("http://203.0.113.2:8081/big", 1, 1),
            ("http://203.0.113.2:9003/big", 2, 1),
            ("http://203.0.113.2:7007/big", 3, 1),
            ("http://203.0.113.2:6000/big", 4, 1),
            ("http://203.0.113.2:5002/big", 5, 1),
            ("http://203.0.113.2:4000/big", 6, 1),
        ] {
            let before = forwards(&status(&scene));
            fetch(url);
            let after = forwards(&status(&scene));
            for (nth, (before, after)) in before.iter().zip(&after).enumerate() {
                if nth == which {
                    assert_eq!(after.0, times, "{url}");
                    assert!(page.contains(&(after.1 - before.1)), "{url}: {before:?} {after:?}");
                } else {
                    assert_eq!(before, after, "{url}: forward {nth}");
                }
            }
        }
        let now = status(&scene);
        let www = guest(&now, "www");
        assert_eq!(www["connections"]["taken"], 7, "{www}");
        assert!(www["sent"]["bytes"].as_u64().unwrap() > 7_000_000, "{www}");
        assert_eq!(guest(&now, "idle")["connections"], serde_json::json!({ "begun": 0, "taken": 1 }));

        // What a guest begins, with the world and with the host; and what is dropped.
        all(
            "from a guest",
            &[
                reaches("idle", "198.51.100.7", "world", "203.0.113.2"),
                silent("idle", "169.254.169.254"),
                silent("idle", "10.1.1.1:22"),
            ],
        );
        Ran::of(at("idle", "ping").args(["-c", "1", "-W", "20", "10.1.1.1"])).ends(0);
        let now = status(&scene);
        assert_eq!(guest(&now, "idle")["connections"]["begun"], 2, "{}", guest(&now, "idle"));
        let lan = &now["lans"][0];
        assert!(lan["dropped"]["from"]["packets"].as_u64().unwrap() >= 2, "{lan}");
        assert_eq!(lan["connections"]["begun"], 2, "{lan}");
        assert_eq!(lan["connections"]["taken"], 8, "{lan}");
        let table = scene.warren("status").ends(0).out;
        assert!(table.contains("TRAFFIC") && table.contains("8080/tcp"), "{table}");

        // Kept: with a forward more, and where the rules are made anew.
        let before = forwards(&now);
        for more in ["[[forward]]\nlisten = \"1234\"\nto = \"idle:80\"\n", "[lan.br2]\naddress = [\"10.2.1.1/24\"]\n"] {
            scene.write(&format!("{NETWORK}{more}"));
            scene.warren("up").ends(0);
            let now = status(&scene);
            assert_eq!(forwards(&now)[..7], before[..], "{more}");
            assert_eq!(guest(&now, "idle")["connections"]["begun"], 2);
            assert!(now["lans"][0]["dropped"]["from"]["packets"].as_u64().unwrap() >= 2);
        }
        assert!(tool("nft list table inet warren").contains("carried_range_tcp"));
        scene.warren("down").ends(0);
    });
}
