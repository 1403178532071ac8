//! Ten thousand forwards to two hundred guests.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{CLIENT, Scene, all, reaches, serve};

const GUESTS: usize = 200;
const FORWARDS: usize = 10_000;

fn network() -> String {
    let mut text =
        "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.0.1/16\"]\n".to_owned();
    for guest in 0..GUESTS {
        write!(text, "[guest.g{guest}]\nkind = \"netns\"\naddress = [\"10.1.1.{}\"]\n", guest + 1).unwrap();
    }
    for forward in 0..FORWARDS {
        let (port, guest, to) = (20_000 + forward, forward % GUESTS, 1000 + forward / GUESTS);
        write!(text, "[[forward]]\nlisten = \"{port}\"\nto = \"g{guest}:{to}\"\n").unwrap();
    }
    text
}

#[test]
fn ten_thousand_forwards_and_two_hundred_guests_go_up_change_and_down() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        let text = network();
        scene.up(&text, &[]);
        // The last of them all: port 29999, to g199's 1049.
        let _last = serve(&scene, "g199", 1049);
        let _other = serve(&scene, "g7", 80);
        // What no forward names is the host's own.
        let own = serve(&scene, "server", 9999);
        let undeclared = reaches("world", "203.0.113.2:9999", "server", CLIENT).by(CLIENT);
        let last = reaches("world", "203.0.113.2:29999", "g199", CLIENT).by(CLIENT);
        all("at first", &[last.clone(), undeclared.clone()]);
        // Rules, chains, sets and maps bear a handle; elements do not.
        let handles = || tool("nft -a --stateless list table inet warren").matches("# handle").count();
        let rules = handles();
        assert!((20..200).contains(&rules), "{rules} rules, chains and sets for so many forwards");

        drop(own);

        // One forward more is one element more, and nothing else.
        scene.write(&format!("{text}[[forward]]\nlisten = \"9999\"\nto = \"g7:80\"\n"));
        let plan = scene.warren("--json plan").ends(0).json();
        let steps = plan["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 1, "{steps:?}");
        let changed = scene.warren("plan").ends(0).out;
        assert!(changed.contains("9999") && !changed.contains("2999"), "{changed}");
        scene.warren("up").ends(0);
        all("with one more", &[last.clone(), reaches("world", "203.0.113.2:9999", "g7", CLIENT).by(CLIENT)]);
        assert_eq!(handles(), rules, "no rule more");

        // Every other one goes elsewhere, and a hundred guests go.
        let mut fewer = text.clone();
        for guest in (0..GUESTS).step_by(2) {
            fewer = fewer
                .replace(&format!("[guest.g{guest}]\nkind = \"netns\"\naddress = [\"10.1.1.{}\"]\n", guest + 1), "");
            fewer = fewer.replace(&format!("to = \"g{guest}:"), &format!("to = \"g{}:", guest + 1));
        }
        scene.write(&fewer);
        scene.warren("up").ends(0);
        assert_eq!(tool("ip netns list").lines().filter(|line| line.starts_with('g')).count(), GUESTS / 2);
        let _own = serve(&scene, "server", 9999);
        all("with half of the guests", &[last, undeclared]);

        scene.warren("down").ends(0);
        assert_same(&before, &take(), "down");
    });
}
