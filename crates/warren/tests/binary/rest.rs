//! `plan` where nothing is to be done: what is known to stand is not asked for again, and whatever has changed is noticed
//! all the same.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{lab, tool};
use crate::mutations::{GUESTS, NETWORK, mutations, next, run};
use crate::serve::Serve;
use crate::support::{PATIENCE, Ran, Scene, WARREN};

/// How many of all mutations are tried, none of which `plan` has to see: it has to say the same in both ways.
const SAMPLE: usize = 24;

/// NFT_MSG_GETSETELEM, as strace(1) shows a message's type where it knows no better.
const GET_ELEMENTS: [&str; 2] = ["0xa0d", "NFT_MSG_GETSETELEM"];

/// `warren plan`, and whether it had our sets' elements told.
fn traced(scene: &Scene) -> (Ran, bool) {
    let log = scene.folder().join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=sendto", "-o"]).arg(&log).args([WARREN, "--json", "plan"]);
    scene.tell(&mut command);
    let ran = Ran::of(&mut command);
    let asked = std::fs::read_to_string(log).unwrap();
    assert!(asked.contains("NLM_F_DUMP"), "{asked}");
    (ran, GET_ELEMENTS.iter().any(|kind| asked.contains(kind)))
}

/// A running `serve` looks after the network, and knows again after another's commit what it knew.
#[test]
fn what_serve_finds_whole_is_known_again() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let _serve = Serve::start(&scene);
        let rests = || {
            let (ran, asked) = traced(&scene);
            changes(&ran) == 0 && !asked
        };
        let until_rests = |when: &str| {
            let deadline = Instant::now() + 2 * PATIENCE;
            while !rests() {
                assert!(Instant::now() < deadline, "{when}");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        until_rests("serve has brought it up");
        // Another's commit is none of ours, but the number is another: serve hears of it, looks, and notes the new one.
        let note = || std::fs::read(scene.folder().join("run/rest.json")).unwrap();
        let before = note();
        tool("nft add table inet another");
        until_rests("serve has looked past another's table");
        assert_ne!(before, note());
        // What serve puts back it has looked at.
        tool("ip address delete 10.1.1.1/24 dev br1");
        until_rests("serve has put an address back");
    });
}

fn changes(ran: &Ran) -> u64 {
    ran.json()["changes"].as_u64().unwrap()
}

#[test]
fn elements_are_told_only_where_somebody_has_changed_a_firewall_the_file_or_the_host() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let rests = |when: &str| {
            let (ran, asked) = traced(&scene);
            assert_eq!((changes(&ran), asked), (0, false), "{when}");
        };
        rests("after the first up");
        rests("once more");

        // Each is noticed, or found to be none of ours, by the whole way; the next `up` knows again.
        for (what, line, found) in [
            ("an element less", "", 1),
            ("another's table", "nft add table inet another", 0),
            ("a fact of the host", "ip address add 192.0.2.77/32 dev eth0", 0),
        ] {
            let line = if what == "an element less" { one_element() } else { line.to_owned() };
            tool(&line);
            let (ran, asked) = traced(&scene);
            assert_eq!((changes(&ran), asked), (found, true), "{what}");
            scene.warren("up").ends(0);
            rests(what);
        }

        // What is no firewall's is seen without asking for elements first.
        tool("ip -n cnx7 route del default");
        assert_eq!(changes(&scene.warren("--json plan")), 1, "a route less");
        scene.warren("up").ends(0);
        rests("after a route");

        // A byte of the file, whatever it means.
        scene.write(&format!("{NETWORK}\n# the end\n"));
        let (ran, asked) = traced(&scene);
        assert_eq!((changes(&ran), asked), (0, true), "a comment");
        scene.write(&NETWORK.replace("\"8080\"", "\"8081\""));
        assert_eq!(changes(&scene.warren("--json plan")), 1, "another port");
        scene.warren("up").ends(0);
        rests("after another port");

        // What is noted is about what is up.
        scene.warren("down").ends(0);
        assert!(changes(&scene.warren("--json plan")) > 10, "nothing is up");
        scene.warren("up").ends(0);
        rests("up again");

        // Forwards that come one by one, behind all else, are known, unless somebody has changed something between them.
        let (head, rest) = NETWORK.split_once("[[forward]]").unwrap();
        let (_, rest) = rest.split_once("[[allow]]").unwrap();
        scene.up(&format!("{head}[[allow]]{rest}[[forward]]\nlisten = \"8080\"\nto = \"cnx6:80\"\n"), &GUESTS);
        let add = |port: u16| scene.warren(&format!("forward add {port} cnx6:22")).ends(0);
        let one_by_one =
            || std::fs::read_to_string(scene.folder().join("run/applied.more")).unwrap().lines().count() - 1;
        for port in [9100, 9101, 9102] {
            add(port);
            rests("after a forward more");
        }
        let before = one_by_one();
        assert!(before >= 2, "{before}");
        tool("nft add table inet third");
        add(9103);
        assert_eq!(one_by_one(), before + 1);
        let (ran, asked) = traced(&scene);
        assert_eq!((changes(&ran), asked), (0, true), "another's table before a forward");
    });
}

/// Takes an element out of a set of ours.
fn one_element() -> String {
    let line =
        mutations().into_iter().map(|mutation| mutation.what).find(|what| what.starts_with("nft delete element"));
    line.unwrap()
}

#[test]
fn plan_says_the_same_whether_it_knows_what_stood_or_not() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &GUESTS);
        let note = scene.folder().join("run/rest.json");
        let mut seed = 7;
        let mut all = mutations();
        for at in (1..all.len()).rev() {
            all.swap(at, usize::try_from(next(&mut seed) % (at as u64 + 1)).unwrap());
        }
        let (mut tried, mut seen) = (0, 0);
        for mutation in &all {
            if tried == SAMPLE {
                break;
            }
            if !mutation.done.iter().all(|line| run(&line.replace('{', "'{").replace('}', "}'"))) {
                continue;
            }
            tried += 1;
            let said = |ran: Ran| (ran.code, ran.out);
            let known = said(scene.warren("--json plan"));
            let noted = std::fs::read(&note).unwrap();
            std::fs::remove_file(&note).unwrap();
            let whole = said(scene.warren("--json plan"));
            assert_eq!(known, whole, "{}", mutation.what);
            std::fs::write(&note, noted).unwrap();
            seen += usize::from(!known.1.contains("\"changes\":0") && !known.1.contains("\"changes\": 0"));
            for line in &mutation.back {
                assert!(run(line), "{line}");
            }
            scene.warren("up").ends(0);
        }
        assert_eq!(tried, SAMPLE);
        assert!(seen > SAMPLE / 2, "{seen} of {SAMPLE} are something to be done");
    });
}
