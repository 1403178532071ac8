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
