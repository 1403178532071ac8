//! The command line's contract: exit codes, errors that say what to do, environment, JSON.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::common::snapshot::{assert_same, take};
use crate::common::{is_real_root, lab, tool};
use crate::support::{Ran, Scene, WARREN, bare, listen, settle, which, write};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
[[forward]]
listen = "22210/tcp"
to = "cnx6:22"
"#;

/// The same with a container, and a certificate for a site, which is not built yet.
const LATER: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
address = ["10.1.1.6"]
template = "debian"
[[site]]
host = "www.example.org"
to = ["cnx6"]
"#;

/// As a root that may do nothing, and as nobody.
fn unprivileged(scene: &Scene) -> Vec<Command> {
    let mut powerless = bare(&which("setpriv"));
    powerless.args(["--bounding-set=-all", "--inh-caps=-all", WARREN]);
    // Root of a user namespace that does not own the network.
    let mut elsewhere = bare(&which("unshare"));
    elsewhere.args(["--user", "--map-root-user", WARREN]);
    let mut commands = vec![powerless, elsewhere];
    if is_real_root() {
        use std::os::unix::process::CommandExt as _;
        let mut nobody = bare(WARREN);
        nobody.uid(65534).gid(65534);
        commands.push(nobody);
    }
    commands.iter_mut().for_each(|command| scene.tell(command));
    commands
}

#[test]
fn from_nothing_to_up_and_back() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write(NETWORK);
        scene.warren("validate").says(0, &["valid"]);
        scene.warren("status").says(0, &["No network"]);
        scene.warren("check").says(1, &["no network of warren's is up", "warren up"]);
        let plan = scene.warren("plan").says(0, &["+ bridge br1", "cnx6", "steps; `warren up` does them"]);
        assert!(!plan.out.contains('\u{1b}'), "colour where there is no terminal");
        scene.warren("plan --exit-code").ends(3);
        assert_same(&before, &take(), "validate, status, check and plan change nothing");

        scene.warren("up").says(0, &["The network is up"]);
        settle(&["cnx6"]);
        let up = take();
        assert!(tool("ip -n cnx6 route").contains("default via 10.1.1.1"));
        scene.warren("up").says(0, &["Nothing to change"]);
        scene.warren("plan --exit-code").says(0, &["Nothing to change"]);
        assert_same(&up, &take(), "the second up changes nothing");
        scene.warren("status").says(0, &["br1", "cnx6", "22210/tcp", "ssh -p 22210 root@", "As the file"]);
        assert_eq!(scene.warren("-q up").ends(0).out, "");

        tool("ip link set cnx6 nomaster");
        scene.warren("status").says(0, &["Not as it should be", "cnx6"]);
        scene.warren("plan --exit-code").ends(3);
        scene.warren("-v up").says(0, &["cable cnx6", "1 steps"]);
        settle(&["cnx6"]);
        assert_same(&up, &take(), "repaired");

        scene.warren("down").says(0, &["The network is down"]);
        settle(&[]);
        assert_same(&before, &take(), "down leaves nothing");
        scene.warren("down").says(0, &["Nothing to take away"]);
        scene.warren("status").says(0, &["No network"]);
        assert_eq!(std::fs::read_dir(scene.folder().join("state")).unwrap().count(), 0);
    });
}

#[test]
fn machines_get_their_taps_and_the_lines_to_copy() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        let address = "address = [\"10.1.1.1/24\"]\n";
        let taps = NETWORK.replace(address, &format!("{address}taps = [\"tap0\"]\n"));
        scene.write(&format!("{taps}[guest.win]\nkind = \"vm\"\naddress = [\"10.1.1.20\"]\n"));
        scene.warren("plan").says(0, &["tap tap0, plugged into br1", "tap win, plugged into br1"]);
        if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            // A plain user's lab, on a machine that gives the device to root alone.
            scene.warren("up").says(4, &["/dev/net/tun", "Permission denied", "restored"]);
            settle(&[]);
            assert_same(&before, &take(), "what failed is undone");
            scene.warren("rehearse").says(0, &["tap tap0: left out"]);
            return;
        }
        scene.warren("up").ends(0);
        assert!(tool("ip -details link show tap0").contains("tun type tap"));
        assert!(tool("bridge link show").contains("win:"));
        scene.warren("status").says(0, &["ifname=win", "<target dev='win'", "plugged in"]);
        tool("ip link set win nomaster");
        scene.warren("up").says(0, &["1 steps"]);
        // Another's by that name stays.
        scene.warren("down").ends(0);
        settle(&[]);
        assert_same(&before, &take(), "down leaves nothing");
        tool("ip tuntap add dev tap0 mode tap");
        scene.warren("up").says(5, &["the interface tap0", "in the way"]);
        assert!(tool("ip link show").contains("tap0"));
    });
}

#[test]
fn wrong_usage_ends_2() {
    lab(|| {
        let scene = Scene::new();
        scene.warren("").ends(2);
        scene.warren("dance").says(2, &["unrecognized subcommand"]);
        scene.warren("plan --no-such-option").ends(2);
        scene.warren("-q -v plan").ends(2);
        scene.warren("--help").says(0, &["rehearse", "validate", "WARREN_CONFIG"]);
        scene.warren("--version").says(0, &["warren 0."]);
        for command in ["validate", "plan", "up", "rehearse", "map", "export nft"] {
            scene.warren(command).says(2, &["cannot read the configuration", "-c FILE"]);
        }
        scene.write(NETWORK);
        scene.warren("map -o picture.png").says(2, &[".svg or .txt"]);
        scene.warren("up").ends(0);
        scene.warren("check --from nobody").says(2, &["nobody", "cnx6"]);
    });
}

#[test]
fn every_problem_of_a_file_is_told_with_its_place() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write("[host]\nuplinck = \"eth0\"\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n[guest.a]\nlan = \"br2\"\n");
        for command in ["validate", "plan", "up", "rehearse"] {
            let words = ["warren.toml:2:1", "uplinck", "did you mean", "warren.toml:6:7", "br2", "problems"];
            scene.warren(command).says(2, &words);
        }
        let document = scene.warren("--json validate").ends(2).json();
        assert_eq!(document["ok"], false);
        assert_eq!(document["exit"], 2);
        assert_eq!(document["problems"][0]["line"], 2);
        assert_eq!(document["problems"][0]["column"], 1);
        assert_same(&before, &take(), "nothing was changed");
    });
}

#[test]
fn what_is_not_built_yet_is_refused_by_up_and_named() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write(&format!("include = [\"conf.d/*.toml\"]\n{LATER}"));
        scene.warren("validate").says(0, &["valid", "`include`: not supported yet"]);
        let document = scene.warren("--json validate").ends(0).json();
        assert_eq!(document["not_supported_yet"].as_array().unwrap().len(), 1);
        for command in ["plan", "up"] {
            scene.warren(command).says(2, &["warren.toml:", "`include`: not supported yet"]);
        }
        assert_same(&before, &take(), "nothing was changed");
        scene.write(LATER);
        scene.warren("rehearse").says(0, &["stood in", "cnx6: a network namespace stands in for its container"]);
        assert_same(&before, &take(), "a rehearsal touches nothing");
    });
}

#[test]
fn without_privilege_it_says_which_is_missing() {
    lab(|| {
        let scene = Scene::new();
        let before = take();
        scene.write(NETWORK);
        for command in ["up", "down", "plan", "status", "check"] {
            for mut warren in unprivileged(&scene) {
                Ran::of(warren.arg(command)).says(4, &["CAP_NET_ADMIN", "run it as root", "warren rehearse"]);
            }
        }
        for mut warren in unprivileged(&scene) {
            let document = Ran::of(warren.args(["--json", "up"])).ends(4).json();
            assert_eq!(document["exit"], 4);
        }
        assert_same(&before, &take(), "nothing was changed");
        // What asks for none goes on without.
        let mut powerless = bare(&which("setpriv"));
        powerless.args(["--bounding-set=-all", "--inh-caps=-all", WARREN, "validate"]);
        scene.tell(&mut powerless);
        Ran::of(&mut powerless).ends(0);
    });
}

#[test]
fn a_port_that_somebody_listens_on_is_a_conflict_that_names_him() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let before = take();
        let listener = listen("server", "TCP4-LISTEN:22210,reuseaddr", "EXEC:cat");
        let owner = format!("socat (pid {})", listener.0.id());
        for command in ["plan", "up"] {
            scene.warren(command).says(5, &["warren.toml", &owner, "22210/tcp"]);
        }
        let document = scene.warren("--json up").ends(5).json();
        assert_eq!(document["problems"][0]["kind"], "conflict");
        scene.warren("validate").ends(0);
        assert_same(&before, &take(), "nothing was changed");
        drop(listener);
        // Of another protocol, or on loopback alone, it is in nobody's way.
        let _udp = listen("server", "UDP4-RECVFROM:22210,fork", "EXEC:cat");
        let _loopback = listen("server", "TCP4-LISTEN:22210,bind=127.0.0.1,reuseaddr", "EXEC:cat");
        scene.warren("up").ends(0);
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_a_conflict() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        for (make, unmake) in [
            ("ip route add 10.1.0.0/16 via 203.0.113.1", "ip route del 10.1.0.0/16"),
            ("ip route add 10.1.1.128/25 via 203.0.113.1", "ip route del 10.1.1.128/25"),
            ("ip address add 10.1.1.77/24 dev eth0", "ip address del 10.1.1.77/24 dev eth0"),
        ] {
            tool(make);
            let before = take();
            scene.warren("up").says(5, &["warren.toml:5:12", "10.1.1.0/24 overlaps", "eth0"]);
            assert_same(&before, &take(), make);
            tool(unmake);
        }
        scene.warren("up").ends(0);
    });
}

#[test]
fn what_is_another_s_stays_and_is_a_conflict() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        for (make, unmake, named) in [
            ("ip link add br1 type bridge", "ip link del br1", "the interface br1"),
            ("ip link add cnx6 type veth peer name other0", "ip link del cnx6", "the interface cnx6"),
            ("ip netns add cnx6", "ip netns del cnx6", "the network namespace cnx6"),
            ("nft add table inet warren", "nft delete table inet warren", "the table inet warren"),
        ] {
            tool(make);
            settle(&[]);
            let before = take();
            for command in ["plan", "up", "up --replace"] {
                scene.warren(command).says(5, &[named, "in the way"]);
            }
            assert_eq!(scene.warren("--json up").ends(5).json()["exit"], 5);
            assert_same(&before, &take(), make);
            tool(unmake);
        }
        scene.warren("up").ends(0);
    });
}

#[test]
fn another_file_s_network_is_replaced_only_when_asked() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        scene.warren("up").ends(0);
        settle(&["cnx6"]);
        let up = take();
        let other = scene.folder().join("other.toml");
        write(&other, &NETWORK.replace("22210", "22211"));
        let by = |arguments: &str| Ran::of(scene.command().arg("-c").arg(&other).args(arguments.split_whitespace()));
        by("up").says(2, &["warren.toml", "--replace", "warren down"]);
        assert_same(&up, &take(), "refused");
        by("up --replace").ends(0);
        assert!(tool("nft list table inet warren").contains("22211"));
        by("up").says(0, &["Nothing to change"]);
        // Now it is the first that is another one.
        scene.warren("up").says(2, &["other.toml", "--replace"]);
        // A file has one name, from wherever it is called.
        let mut near = scene.command();
        Ran::of(near.current_dir(scene.folder()).args(["-c", "other.toml", "up"])).says(0, &["Nothing to change"]);
    });
}

#[test]
fn a_file_that_others_may_write_to_is_refused() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let mode = |path: &std::path::Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for bad in [0o666, 0o620, 0o602] {
            mode(&scene.config, bad);
            for command in ["plan", "up"] {
                scene.warren(command).says(2, &["warren.toml", &format!("mode {bad:04o}"), "chmod go-w"]);
            }
        }
        mode(&scene.config, 0o644);
        mode(scene.folder(), 0o1777);
        scene.warren("up").says(2, &["mode 1777", "chmod go-w"]);
        mode(scene.folder(), 0o755);
        if is_real_root() {
            std::os::unix::fs::chown(&scene.config, Some(65534), None).unwrap();
            scene.warren("up").says(2, &["belongs to user 65534", "chown root"]);
            // Who runs sudo may own it.
            Ran::of(scene.command().env("SUDO_UID", "65534").arg("plan")).ends(0);
            std::os::unix::fs::chown(&scene.config, Some(0), None).unwrap();
        }
        assert!(!tool("ip link").contains("br1"));
        scene.warren("up").ends(0);
    });
}

#[test]
fn options_go_before_the_environment_and_files_where_they_say() {
    lab(|| {
        let scene = Scene::new();
        let folder = scene.folder();
        scene.write("this is no TOML");
        let good = folder.join("good.toml");
        write(&good, NETWORK);
        scene.warren("validate").ends(2);
        Ran::of(scene.command().arg("-c").arg(&good).arg("validate")).ends(0);
        Ran::of(scene.command().arg("validate").arg(&good)).ends(0);
        let mut elsewhere = scene.command();
        elsewhere.arg("-c").arg(&good).arg("--state-dir").arg(folder.join("s")).arg("--run-dir").arg(folder.join("r"));
        Ran::of(elsewhere.arg("up")).ends(0);
        assert!(folder.join("s/baseline.json").exists() && folder.join("r/applied.json").exists());
        assert!(!folder.join("state").exists() && !folder.join("run").exists());
        for private in ["s", "r"] {
            assert_eq!(folder.join(private).metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        }
        let mut down = scene.command();
        Ran::of(down.arg("--state-dir").arg(folder.join("s")).arg("--run-dir").arg(folder.join("r")).arg("down"))
            .says(0, &["The network is down"]);
        scene.warren("down").says(0, &["Nothing to take away"]);
    });
}

#[test]
fn colour_is_a_terminal_s_alone_and_not_where_no_color_is_set() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        // script(1) gives it a terminal.
        let on_terminal = |no_color: Option<&str>| {
            let mut script = Command::new("script");
            scene.tell(script.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm"));
            if let Some(value) = no_color {
                script.env("NO_COLOR", value);
            }
            Ran::of(script.args(["--quiet", "--return", "--command", &format!("{WARREN} plan"), "/dev/null"]))
                .ends(0)
                .out
        };
        assert!(on_terminal(None).contains("\u{1b}[32m"));
        assert!(on_terminal(Some("")).contains("\u{1b}[32m"));
        assert!(!on_terminal(Some("1")).contains('\u{1b}'));
        assert!(!scene.warren("plan").ends(0).out.contains('\u{1b}'));
    });
}

#[test]
fn map_and_export_need_nothing() {
    lab(|| {
        let scene = Scene::new();
        scene.write(LATER);
        let drawn = scene.warren("map").says(0, &["the world", "eth0", "br1", "cnx6", "www.example.org"]);
        let file = scene.folder().join("picture.txt");
        Ran::of(scene.command().args(["map", "-o"]).arg(&file)).ends(0);
        assert_eq!(std::fs::read_to_string(file).unwrap().trim_end(), drawn.out.trim_end());
        let exported = scene.warren("export nft").ends(0).out;
        crate::common::nft(&exported);
        assert!(tool("nft list ruleset").contains("table inet warren"));
    });
}
