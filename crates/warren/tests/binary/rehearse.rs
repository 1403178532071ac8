//! `warren rehearse`, as root and as a plain user, with nothing but the binary; and the labs that it leaves.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::common::snapshot::{assert_same, take};
use crate::common::{is_real_root, lab, tool};
use crate::support::{PATIENCE, Ran, WARREN, bare, examples, write};

/// Whoever runs it: root, and where the tests are root's, a plain user too. Both have an empty environment, a binary
/// and files that they may read.
struct Players {
    folder: tempfile::TempDir,
    who: Vec<Option<u32>>,
}

impl Players {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(WARREN, folder.path().join("warren")).unwrap();
        let who = if is_real_root() { vec![None, Some(65534)] } else { vec![None] };
        Self { folder, who }
    }

    /// A file of his in a folder of his: to root of a user namespace, nobody else's have an owner that it knows.
    fn file(&self, who: Option<u32>, name: &str, text: &str) -> PathBuf {
        let home = self.folder.path().join(format!("home-{}", who.unwrap_or(0)));
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = home.join(name);
        write(&path, text);
        for place in [&home, &path] {
            std::os::unix::fs::chown(place, who, who).unwrap();
        }
        path
    }

    fn warren(&self, who: Option<u32>) -> Command {
        let mut command = bare(&self.folder.path().join("warren").display().to_string());
        become_one(&mut command, who);
        command
    }
}

fn become_one(command: &mut Command, who: Option<u32>) {
    command.current_dir("/");
    if let Some(id) = who {
        command.uid(id).gid(id);
    }
}

#[test]
fn every_example_holds_for_root_and_for_anybody() {
    lab(|| {
        let players = Players::new();
        let before = take();
        for example in examples() {
            let text = fs::read_to_string(&example).unwrap();
            for who in &players.who {
                let file = players.file(*who, &example.file_name().unwrap().to_string_lossy(), &text);
                let mut warren = players.warren(*who);
                let ran = Ran::of(warren.arg("rehearse").arg(&file));
                let ran = ran.says(0, &["the world", "WHAT", "EXPECTED", "SEEN", "TOOK", "probes held", "must not"]);
                assert!(!ran.out.contains("BROKEN"), "{}", ran.out);
                let how = if who.is_some() { "in a user namespace, without root" } else { "as root" };
                assert!(ran.out.contains(how), "{}", ran.out);
                let mut warren = players.warren(*who);
                let document = Ran::of(warren.arg("--json").arg("rehearse").arg(&file)).ends(0).json();
                assert_eq!(document["ok"], true);
                let probes = document["probes"].as_array().unwrap();
                let blocked = probes.iter().filter(|p| p["expected"] == "nothing").count();
                assert!(
                    blocked > 3 && probes.len() - blocked > 3,
                    "both sorts are tried: {blocked} of {}",
                    probes.len()
                );
                assert!(document["kept"].is_null());
            }
        }
        assert_same(&before, &take(), "a rehearsal touches nothing");
    });
}

#[test]
fn the_seed_s_table_names_what_was_stood_in_for_and_proves_the_forwards() {
    lab(|| {
        let players = Players::new();
        let seed = examples().into_iter().find(|e| e.ends_with("seed.toml")).unwrap();
        let text = fs::read_to_string(seed).unwrap();
        for who in &players.who {
            let file = players.file(*who, "seed.toml", &text);
            let begun = Instant::now();
            let ran = Ran::of(players.warren(*who).arg("rehearse").arg(&file)).says(
                0,
                &[
                    "cnx6: a network namespace stands in for its container",
                    "cnx7: a network namespace stands in for its container",
                    "site cnx.example.org",
                    "socks",
                    "forward 22210/tcp from the world",
                    "forward 22210/tcp from a neighbour",
                    "forward 22217/tcp from the host",
                    "a neighbour straight to cnx6",
                    "cnx6 not to the cloud's metadata",
                    "at the world:443 from 128.42.169.25",
                ],
            );
            // Two seconds for the binary's part; a debug build on a busy machine gets more.
            let took = begun.elapsed();
            assert!(took < PATIENCE, "{took:?}\n{}", ran.out);
        }
    });
}

/// Networks that the examples do not show.
const ODD: [(&str, &[&str]); 4] = [
    // A global IPv6 prefix leaves as it is, which the world must route back.
    (
        "[lan.br1]\naddress = [\"10.1.1.1/24\", \"2001:db8:77::1/64\"]\n\
         [guest.a]\nkind = \"netns\"\naddress = [\"10.1.1.2\", \"2001:db8:77::2\"]\n[[forward]]\nlisten = 80\nto = \"a\"\n",
        &["at the world:443 from 2001:db8:77::2", "out as the uplink's address, 2001:db8:77::/64 as it is"],
    ),
    (
        "[host]\npublic = [\"2001:db8:1::5\"]\n[lan.br1]\naddress = [\"fd10:1:1::1/64\"]\n\
         [guest.a]\nkind = \"netns\"\naddress = [\"fd10:1:1::6\"]\n[[forward]]\nlisten = 80\nto = \"a\"\n",
        &["from 2001:db8:1::5", "(out as 2001:db8:1::5)"],
    ),
    // An address that the hoster maps to the public one.
    (
        "[host]\npublic = [\"172.31.5.9\"]\n[lan.br1]\naddress = [\"10.1.1.1/30\"]\n\
         [guest.server]\nkind = \"netns\"\naddress = [\"10.1.1.2\"]\n\
         [[forward]]\nlisten = \"172.31.5.9:81/tcp,udp\"\nto = \"10.1.1.2:82\"\n",
        &["from 172.31.5.9", "(out as 172.31.5.9)", "forward 172.31.5.9:81/udp from the world"],
    ),
    ("", &["the world to the host"]),
];

#[test]
fn odd_networks_hold_too() {
    lab(|| {
        let players = Players::new();
        for (text, words) in ODD {
            for who in &players.who {
                let file = players.file(*who, "odd.toml", text);
                Ran::of(players.warren(*who).arg("rehearse").arg(&file)).says(0, words);
            }
        }
    });
}

#[test]
fn quiet_says_nothing_where_all_held() {
    lab(|| {
        let players = Players::new();
        let file = players.file(None, "warren.toml", "[lan.br1]\naddress = [\"10.1.1.1/24\"]\n");
        let ran = Ran::of(players.warren(None).arg("-q").arg("rehearse").arg(&file)).ends(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    });
}

const NETWORK: &str = r#"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
[guest.cnx7]
kind = "netns"
address = ["10.1.1.7"]
[[forward]]
listen = "22210/tcp"
to = "cnx6:22"
"#;

/// A lab that `rehearse --keep` has left.
struct Kept {
    pid: u32,
    who: Option<u32>,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    doors: Vec<(String, String)>,
}

impl Kept {
    fn rehearse(players: &Players, who: Option<u32>, file: &Path) -> Self {
        let mut warren = players.warren(who);
        let ran = Ran::of(warren.args(["rehearse", "--keep"]).arg(file)).says(0, &["The lab stands, held by process"]);
        let after = |word: &str| ran.out.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in {}", ran.out));
        let pid = after("held by process ").split(';').next().unwrap().parse().unwrap();
        let doors = ran.out.lines().map(str::trim).filter(|line| line.starts_with("nsenter "));
        let doors = doors.map(|line| (line.rsplit('/').next().unwrap().to_owned(), line.to_owned())).collect();
        let exported = after("export ").lines().next().unwrap();
        let pairs = exported.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let environment = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { pid, who, binary: players.folder.path().join("warren"), environment, doors }
    }

    /// A program behind one of the printed doors.
    fn at(&self, place: &str, program: &str) -> Ran {
        let line = &self.doors.iter().find(|(name, _)| name == place).unwrap_or_else(|| panic!("no door to {place}")).1;
        let mut words = line.split_whitespace().chain(["--"]).chain(program.split_whitespace());
        let mut command = Command::new(words.next().unwrap());
        become_one(&mut command, self.who);
        Ran::of(command.args(words).envs(self.environment.iter().cloned()))
    }

    fn warren(&self, arguments: &str) -> Ran {
        self.at("server", &format!("{} {arguments}", self.binary.display()))
    }

    /// The network namespaces in it, by inode.
    fn namespaces(&self) -> Vec<String> {
        let listed = self.at("server", "stat --format %i /run/netns/server /run/netns/world /run/netns/neighbour");
        listed.ends(0).out.split_whitespace().map(str::to_owned).collect()
    }

    /// Ends it as the printed line says, and sees that nothing holds any of its namespaces.
    fn end(self) {
        let namespaces = self.namespaces();
        assert_eq!(namespaces.len(), 3);
        tool(&format!("kill {}", self.pid));
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = holders(&namespaces) {
            assert!(Instant::now() < deadline, "after kill {}, {left}", self.pid);
            std::thread::yield_now();
        }
    }
}

/// Who is in one of these network namespaces, or has one mounted.
fn holders(namespaces: &[String]) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        path.file_name()?.to_str()?.bytes().all(|b| b.is_ascii_digit()).then_some(path)
    });
    for process in processes {
        // Processes come and go.
        let place = fs::read_link(process.join("ns/net")).unwrap_or_default().display().to_string();
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        for inode in namespaces {
            let name = format!("net:[{inode}]");
            if place == name || mounts.contains(&name) {
                return Some(format!("{} holds {name}", process.display()));
            }
        }
    }
    None
}

#[test]
fn a_kept_lab_can_be_stepped_into_and_ends_when_told() {
    lab(|| {
        let players = Players::new();
        let before = take();
        for who in &players.who {
            let file = players.file(*who, "warren.toml", NETWORK);
            let kept = Kept::rehearse(&players, *who, &file);
            let places: Vec<&str> = kept.doors.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(places, ["server", "world", "neighbour", "cnx6"]);
            assert!(kept.at("server", "ip -br address").ends(0).out.contains("10.1.1.1/24"));
            assert!(kept.at("cnx6", "ip -br address").ends(0).out.contains("10.1.1.6/24"));
            assert!(kept.at("world", "ip -br address").ends(0).out.contains("198.51.100.7"));
            assert!(!kept.at("world", "ip -br address").ends(0).out.contains("10.1.1.1"));
            kept.at("cnx6", "ping -c 1 -W 5 198.51.100.7").ends(0);
            kept.at("world", "ping -c 1 -W 5 203.0.113.2").ends(0);
            kept.at("neighbour", "ping -c 1 -W 0.5 10.1.1.6").ends(1);
            kept.warren("status").says(0, &["br1", "cnx6", "As the file"]);
            kept.warren("plan --exit-code").ends(0);
            kept.warren("check").says(0, &["probes held"]);
            kept.end();
        }
        assert_same(&before, &take(), "a lab that was kept touches nothing");
    });
}

#[test]
fn a_kept_lab_is_told_to_programs_and_to_the_quiet_too() {
    lab(|| {
        let players = Players::new();
        let file = players.file(None, "warren.toml", NETWORK);
        let mut warren = players.warren(None);
        let document = Ran::of(warren.args(["--json", "rehearse", "--keep"]).arg(&file)).ends(0).json();
        let pid = document["kept"]["pid"].as_u64().unwrap();
        let doors = document["kept"]["step_in"].as_array().unwrap();
        let places: Vec<&str> = doors.iter().map(|door| door["place"].as_str().unwrap()).collect();
        assert_eq!(places, ["server", "world", "neighbour", "cnx6", "cnx7"]);
        let line = doors[4]["line"].as_str().unwrap();
        assert!(tool(&format!("{line} -- ip -br address")).contains("10.1.1.7/24"));
        tool(&format!("kill {pid}"));

        let mut warren = players.warren(None);
        let quiet =
            Ran::of(warren.args(["-q", "rehearse", "--keep"]).arg(&file)).says(0, &["The lab stands", "nsenter"]);
        let pid = quiet.out.split("held by process ").nth(1).unwrap().split(';').next().unwrap();
        tool(&format!("kill {pid}"));
    });
}

/// What may be done behind warren's back, where, and what must be told of it.
const BREAKAGES: [(&str, &[&str], &[&str]); 6] = [
    (
        "another's table that drops forwarding",
        &[
            "server nft add table inet evil",
            "server nft add chain inet evil forward { type filter hook forward priority 0 ; policy drop ; }",
        ],
        &["cnx6 out to the world", "forward 22210/tcp from the world", "evil"],
    ),
    (
        "a forward to a wrong port",
        &[
            "server nft delete element inet warren forwards4 { tcp . 22210 }",
            "server nft add element inet warren forwards4 { tcp . 22210 : 10.1.1.6 . 23 }",
        ],
        &["forward 22210/tcp from the host", "not as it should be"],
    ),
    ("a taken address", &["cnx7 ip address add 10.1.1.6/24 dev eth0"], &["who answers for cnx6"]),
    ("a guest unplugged", &["server ip link set cnx6 nomaster"], &["cnx6 to its gateway", "cable cnx6"]),
    (
        "the firewall gone",
        &["server nft delete table inet warren"],
        &["a neighbour straight to cnx6", "cnx6 not to its gateway's port 22", "table inet warren"],
    ),
    ("no forwarding", &["server sysctl -q net.ipv4.conf.br1.forwarding=0"], &["cnx6 out to the world", "forwarding"]),
];

#[test]
fn a_network_broken_behind_warren_s_back_is_told_by_the_probes_that_fail() {
    lab(|| {
        let players = Players::new();
        let file = players.file(None, "warren.toml", NETWORK);
        for (what, how, told) in BREAKAGES {
            let kept = Kept::rehearse(&players, None, &file);
            let kept = Kept { doors: with_cnx7(&kept), ..kept };
            kept.warren("check").ends(0);
            for line in how {
                let (place, program) = line.split_once(' ').unwrap();
                kept.at(place, program).ends(0);
            }
            let checked = kept.warren("check");
            assert!(checked.out.contains("BROKEN"), "{what}: {}", checked.out);
            checked.says(1, told);
            assert_eq!(kept.warren("--json check").ends(1).json()["ok"], false, "{what}");
            kept.end();
        }
    });
}

/// Only one guest's door is printed, to show how.
fn with_cnx7(kept: &Kept) -> Vec<(String, String)> {
    let mut doors = kept.doors.clone();
    let line = doors.iter().find(|(name, _)| name == "cnx6").unwrap().1.replace("/cnx6", "/cnx7");
    doors.push(("cnx7".to_owned(), line));
    doors
}

#[test]
fn where_user_namespaces_are_forbidden_the_setting_is_named() {
    lab(|| {
        let players = Players::new();
        let file = players.file(None, "warren.toml", NETWORK);
        // In a user namespace of its own none may be made inside: the setting is each one's.
        let script = format!(
            "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all {} rehearse {}",
            players.folder.path().join("warren").display(),
            file.display()
        );
        let mut unshare = Command::new("unshare");
        Ran::of(unshare.args(["--user", "--map-root-user", "sh", "-c", &script]))
            .says(4, &["user.max_user_namespaces", "sysctl -w"]);
    });
}
