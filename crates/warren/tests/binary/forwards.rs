//! `warren forward`: the file is edited, all else in it stays, and the kernel follows; where it cannot, both stay.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::support::{Scene, listen};

const NETWORK: &str = r#"# The office's own.
[host]
uplink = "eth0"
public = ["203.0.113.2"]

[lan.br1] # the switch
address = ["10.1.1.1/24"]

[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]

[[forward]] # ssh
listen = "22210/tcp"
to = "cnx6:22"
"#;

fn forwards() -> String {
    tool("nft --stateless list map inet warren forwards4")
}

#[test]
fn a_forward_comes_and_goes_with_all_else_untouched() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6"]);
        let before = take();
        let handles = || tool("nft --handle list chain inet warren forward");
        let rules = handles();

        scene.warren("forward add 8080 cnx6:80").says(0, &["1 steps"]);
        assert!(forwards().contains("tcp . 8080 counter : 10.1.1.6 . 80"));
        assert_eq!(handles(), rules, "a forward more is an element more: no rule is made anew");
        let text = fs::read_to_string(&scene.config).unwrap();
        assert_eq!(text, format!("{NETWORK}\n[[forward]]\nlisten = \"8080\"\nto = \"cnx6:80\"\n"));
        scene.warren("forward list").says(0, &["22210/tcp", "8080/tcp", "cnx6 (10.1.1.6:80)"]);
        let listed = scene.warren("--json forward list").ends(0).json();
        assert_eq!(listed["forwards"][1]["to"]["guest"], "cnx6");
        scene.warren("plan").says(0, &["Nothing to change"]);

        scene.warren("forward remove 8080/tcp").says(0, &["1 steps"]);
        assert_eq!(fs::read_to_string(&scene.config).unwrap(), NETWORK);
        assert_same(&before, &take(), "added and removed");
    });
}

#[test]
fn what_would_be_wrong_leaves_file_and_kernel_as_they_are() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6"]);
        let before = take();
        scene.warren("forward add 22210 cnx6:23").says(2, &["22210"]);
        scene.warren("forward add 8080 nobody:80").says(2, &["there is no guest \"nobody\""]);
        scene.warren("forward add nonsense cnx6").says(2, &["nonsense"]);
        scene.warren("forward remove 9090").says(2, &["no forward listens on 9090", "22210/tcp"]);
        let _taken = listen("server", "TCP-LISTEN:8443", "PIPE");
        scene.warren("forward add 8443 cnx6:443").says(5, &["socat", "8443/tcp"]);
        assert_eq!(fs::read_to_string(&scene.config).unwrap(), NETWORK);
        assert_same(&before, &take(), "nothing was changed");
    });
}

#[test]
fn where_nothing_is_up_only_the_file_changes() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let before = take();
        scene.warren("forward add 8080 cnx6:80").says(0, &["no network is up"]);
        assert!(fs::read_to_string(&scene.config).unwrap().ends_with("listen = \"8080\"\nto = \"cnx6:80\"\n"));
        assert_same(&before, &take(), "nothing was applied");
    });
}

/// How many forwards stand behind the record and behind what a boot brings up: those that came the short way.
fn added(scene: &Scene) -> (usize, usize) {
    let lines = |name: &str| fs::read_to_string(scene.folder().join(name)).map_or(0, |text| text.lines().count());
    // The first line of the one says what it continues.
    (lines("run/applied.more").saturating_sub(1), lines("state/boot.more"))
}

/// One forward more is not held against all the others where nothing is unusual; what it leaves is what `up` would.
#[test]
fn one_by_one_is_what_all_at_once_is() {
    lab(|| {
        let scene = Scene::new();
        let nothing = take();
        scene.up(NETWORK, &["cnx6"]);
        // The first `up` changes what is known of the host; what one more is held against is known from the next on.
        scene.warren("up").says(0, &["Nothing to change"]);
        let at_first = take();
        scene.warren("forward add 8080 cnx6:80").says(0, &["1 steps"]);
        scene.warren("forward add 8081/tcp cnx6:81").says(0, &["1 steps"]);
        let before_last = take();
        scene.warren("forward add 8082 cnx6").says(0, &["1 steps"]);
        assert_eq!(added(&scene), (3, 3));
        let last = take();
        scene.warren("plan").says(0, &["Nothing to change"]);
        scene.warren("status").says(0, &["As the file"]);
        // The same port again, and what is no forward: told as ever, and nothing is noted.
        scene.warren("forward add 8082 cnx6:22").says(2, &["8082"]);
        scene.warren("forward add 8083 nobody").says(2, &["there is no guest \"nobody\""]);
        assert_eq!(added(&scene), (3, 3));
        assert_same(&last, &take(), "refused");

        // What comes back is what was before the last of them, and not before the last `up`.
        scene.warren("rollback").ends(0);
        assert_same(&before_last, &take(), "rolled back");
        assert_eq!(added(&scene), (0, 0));
        scene.warren("up").says(0, &["1 steps"]);
        assert_same(&last, &take(), "up with what the file says");
        scene.warren("rollback").ends(0);
        assert_same(&before_last, &take(), "rolled back again");

        // One that is not like those that there are goes the whole way, and so does the next behind another's change.
        scene.warren("up").ends(0);
        scene.warren("forward add 9000-9009 cnx6").says(0, &["1 steps"]);
        assert_eq!(added(&scene), (0, 0));
        scene.warren("forward add 8084 cnx6").says(0, &["1 steps"]);
        assert_eq!(added(&scene), (1, 1));
        let whole = take();
        tool("nft flush chain inet warren forward");
        scene.warren("forward add 8085 cnx6").ends(0);
        scene.warren("forward remove 8085").ends(0);
        assert_same(&whole, &take(), "another's change is put right on the way");
        assert_eq!(added(&scene), (0, 0));

        scene.write(NETWORK);
        scene.warren("up").ends(0);
        assert_same(&at_first, &take(), "all of them gone");
        scene.warren("forward add 8080 cnx6:80").ends(0);
        scene.warren("down").ends(0);
        assert_same(&nothing, &take(), "down");
    });
}

/// A flow that went past a forward's port before there was one ends, the short way too; its neighbour stays.
#[test]
fn a_flow_that_the_new_forward_takes_ends() {
    lab(|| {
        let scene = Scene::new();
        scene.up(NETWORK, &["cnx6"]);
        scene.warren("up").says(0, &["Nothing to change"]);
        for port in [8080, 8081] {
            let flow = format!("-s 203.0.113.1 -d 203.0.113.2 --sport 999 --dport {port}");
            tool(&format!("conntrack -I -p tcp {flow} --state ESTABLISHED -t 100"));
        }
        scene.warren("forward add 8080 cnx6:80").says(0, &["1 steps", "1 flows that are no longer permitted"]);
        assert_eq!(added(&scene), (1, 1));
        let flows = tool("conntrack -L -p tcp");
        assert!(!flows.contains("dport=8080 ") && flows.contains("dport=8081 "), "{flows}");
    });
}
