//! Killed at any point, the next run puts it right: every step of every example, and every touch of a file of ours.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use kernel::apply::{ApplyError, Confirm, Engine, Report, Watch, Wish};
use model::network::Network;
use model::plan::Step;
use model::state::Side;

use crate::common::snapshot::{Snapshot, assert_same, take, take_here};
use crate::common::{lab, without_detection};
use crate::support::{PATIENCE, Ran, Scene, bare, examples, settle, which};
use crate::{networkd, takeover};

/// The examples, as far as a lab can carry them: what a rehearsal stands in for is stood in for.
fn networks() -> Vec<(String, Network)> {
    let facts = kernel::facts::gather().unwrap();
    let load = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let (_, mut network) = model::network::load(&text, &facts).unwrap();
        lab::Lab::stand_in(&mut network);
        (path.file_name().unwrap().to_string_lossy().into_owned(), network)
    };
    examples().iter().map(load).collect()
}

/// warren's engine in a place. Its files are in memory: what is tried here is not the disk, and hundreds of syncs take
/// their time.
struct Server {
    scene: Scene,
    folder: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        Self::of(Scene::new())
    }

    fn of(scene: Scene) -> Self {
        Self { scene, folder: tempfile::tempdir_in("/run").unwrap() }
    }

    fn engine(&self) -> Engine {
        Engine::new(&self.folder.path().join("state"), &self.folder.path().join("run")).unwrap()
    }

    fn up(&self, network: &Network, watch: Watch) -> Result<Report, ApplyError> {
        self.engine().up(network, Path::new("/warren.toml"), false, watch)
    }

    fn goes_up(&self, network: &Network) -> Report {
        self.up(network, &mut |_, _| Ok(())).unwrap()
    }

    fn goes_down(&self) -> Report {
        self.engine().down(&mut |_, _| Ok(())).unwrap()
    }

    /// `up` that is killed before its step `at`; behind its last where it has no such step. Says whether that was the
    /// end of them.
    fn killed_in_up(&self, network: &Network, at: usize) -> bool {
        let is_over = std::cell::Cell::new(false);
        let code = forked(|| {
            let mut watch = |index: usize, _: &Step| {
                if index == at {
                    kill_self();
                }
                Ok(())
            };
            // All is done by then, and what was is still in the journal.
            let mut holds = || Err(String::from(if forked_exit(7) { "" } else { "never" }));
            let confirm = Confirm { patience: Duration::from_secs(1000), arm: &mut |_| Ok(()), holds: &mut holds };
            let config = Path::new("/warren.toml");
            let wish =
                Wish { network, config, text: "", facts: None, replace: false, lenient: false, confirm: Some(confirm) };
            i32::from(self.engine().carry(wish, &mut watch).is_err())
        });
        match code {
            None => {}
            Some(7) => is_over.set(true),
            Some(other) => panic!("up failed by itself ({other})"),
        }
        is_over.get()
    }

    /// The same of `down`; one that has no such step comes to its end.
    fn killed_in_down(&self, at: usize) -> bool {
        let code = forked(|| {
            let mut watch = |index: usize, _: &Step| {
                if index == at {
                    kill_self();
                }
                Ok(())
            };
            i32::from(self.engine().down(&mut watch).is_err())
        });
        match code {
            None => false,
            Some(0) => true,
            Some(other) => panic!("down failed by itself ({other})"),
        }
    }
}

fn kill_self() {
    // SAFETY: plain system calls.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

/// Ends the process as a kill would: nothing of it runs any more.
fn forked_exit(code: i32) -> bool {
    // SAFETY: ends the process without running what belongs to the parent.
    unsafe { libc::_exit(code) }
}

/// Runs `body` in a process of its own; its exit code, or nothing where it was killed.
fn forked(body: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child has one thread, the copy of this one, and glibc keeps its allocator usable over fork; it ends
    // by SIGKILL or _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        forked_exit(code);
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live integer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

#[track_caller]
fn is(expected: &Snapshot, when: &str) {
    // What comes a moment later than what it belongs to, as when IPv6 addresses settle, is waited for.
    let deadline = Instant::now() + PATIENCE;
    let mut seen = take_here();
    while seen != *expected && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        seen = take_here();
    }
    assert_same(expected, &seen, when);
}

/// How many steps `up` was killed after.
fn kill_each_up(server: &Server, nothing: &Snapshot, name: &str, network: &Network) -> usize {
    server.goes_up(network);
    settle(&[]);
    let up = take();
    server.goes_down();
    let mut tried = 0;
    for at in 0.. {
        let was_last = server.killed_in_up(network, at);
        let report = if at % 4 != 1 { server.goes_down() } else { server.goes_up(network) };
        assert!(report.recovered.is_some(), "{name}: killed before step {at}, and the journal was not found");
        if at % 4 == 1 {
            server.goes_down();
        }
        is(nothing, &format!("{name}: killed before step {at}"));
        tried += 1;
        if was_last {
            assert!(at >= 4, "{name} has only {at} steps");
            break;
        }
    }
    // What comes up after all that is what came up before it.
    server.goes_up(network);
    settle(&[]);
    assert_same(&up, &take(), name);
    server.goes_down();
    tried
}

#[test]
fn up_of_every_example_killed_after_any_step() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let nothing = take_here();
        let tried: usize =
            networks().iter().map(|(name, network)| kill_each_up(&server, &nothing, name, network)).sum();
        println!("up was killed after each of {tried} steps");
        assert!(tried > 100, "only {tried}");
    });
}

#[test]
fn every_example_turned_into_another_killed_after_any_step() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let nothing = take_here();
        let all = networks();
        let mut tried = 0;
        for (nth, (name, network)) in all.iter().enumerate() {
            let (from, before) = &all[(nth + 1) % all.len()];
            server.goes_up(before);
            settle(&[]);
            let up = take_here();
            for at in 0.. {
                let was_last = server.killed_in_up(network, at);
                let what = format!("{from} to {name}, killed before step {at}");
                let report = server.goes_up(before);
                assert!(report.recovered.is_some(), "{what}: the journal was not found");
                assert!(report.done.is_empty(), "{what}: what was undone was not what was:\n{}", report.done);
                is(&up, &what);
                tried += 1;
                if was_last {
                    break;
                }
            }
            server.goes_down();
            is(&nothing, &format!("{from}, down"));
        }
        println!("changes were killed after each of {tried} steps");
        assert!(tried > 100, "only {tried}");
    });
}

/// How many steps `down` was killed after.
fn kill_each_down(server: &Server, nothing: &Snapshot, name: &str, network: &Network) -> usize {
    server.goes_up(network);
    settle(&[]);
    let up = take_here();
    for at in 0.. {
        if server.killed_in_down(at) {
            assert!(at >= 4, "{name} has only {at} steps");
            is(nothing, &format!("{name}, down"));
            return at;
        }
        let what = format!("{name}, down, killed before step {at}");
        let report = server.goes_up(network);
        assert!(report.recovered.is_some(), "{what}: the journal was not found");
        assert!(report.done.is_empty(), "{what}: what was undone was not what was:\n{}", report.done);
        is(&up, &what);
    }
    0
}

#[test]
fn down_of_every_example_killed_after_any_step() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let nothing = take_here();
        let tried: usize =
            networks().iter().map(|(name, network)| kill_each_down(&server, &nothing, name, network)).sum();
        println!("down was killed after each of {tried} steps");
        assert!(tried > 100, "only {tried}");
    });
}

/// The uplink itself, plugged into a bridge and out again: no address is lost.
#[test]
fn an_uplink_that_moves_killed_after_any_step() {
    lab(|| {
        let server = Server::of(crate::bridged::office());
        let nothing = take_here();
        let text = crate::bridged::OFFICE;
        let (_, network) = model::network::load(text, &kernel::facts::gather().unwrap()).unwrap();
        let ups = kill_each_up(&server, &nothing, "bridged", &network);
        let downs = kill_each_down(&server, &nothing, "bridged", &network);
        println!("a moving uplink was killed after each of {} steps", ups + downs);
    });
}

/// The same where the uplink's manager is taken over: its files, its note of what is up and its client are where the
/// addresses are.
#[test]
fn an_uplink_that_is_taken_over_killed_after_any_step() {
    lab(|| {
        let server = Server::of(takeover::by_ifupdown(takeover::LEASED));
        let _clients = takeover::Clients;
        let _leases = crate::bridged::leases(&server.scene);
        takeover::ifup();
        for line in [
            "add table inet site",
            "add chain inet site in { type filter hook input priority 0 ; }",
            "add rule inet site in iifname \"eth0\" tcp dport 81 drop",
            "add rule inet site in iifname != \"eth0\" tcp dport 82 drop",
        ] {
            crate::common::tool(&format!("nft {line}"));
        }
        let file = "/etc/network/interfaces.d/office";
        let (nothing, noted, text) = (take_here(), takeover::up_by_ifup(), takeover::whole(file));
        let (_, network) =
            model::network::load(&takeover::with_take_over(), &kernel::facts::gather().unwrap()).unwrap();
        let is_back = |what: &str| {
            is(&nothing, what);
            assert_eq!(takeover::up_by_ifup(), noted, "{what}");
            assert_eq!(takeover::whole(file), text, "{what}");
            let clients = takeover::clients();
            assert!(clients.len() == 1 && clients[0].ends_with(" eth0"), "{what}: {clients:?}");
        };
        let is_up = |what: &str| {
            assert!(takeover::up_by_ifup().contains("br0=br0"), "{what}");
            let rules = crate::common::tool("nft list table inet site");
            assert!(rules.contains("iifname \"br0\"") && rules.contains("iifname != \"br0\""), "{what}: {rules}");
            assert_ne!(takeover::whole(file), text, "{what}");
            let clients = takeover::clients();
            assert!(clients.len() == 1 && clients[0].ends_with(" br0"), "{what}: {clients:?}");
        };
        let tried = kill_everywhere(&server, &network, 2, &is_up, &is_back);
        println!("a take-over was killed after each of {tried} steps");
        assert!(tried > 20, "only {tried}");
    });
}

/// `up` that takes over, and the `down` of it, killed before each step and behind the last: how many there are. Every
/// `again`th of them is followed by another `up`, the others by `down`.
fn kill_everywhere(
    server: &Server,
    network: &Network,
    again: usize,
    is_up: &dyn Fn(&str),
    is_back: &dyn Fn(&str),
) -> usize {
    let mut tried = 0;
    for at in 0.. {
        let was_last = server.killed_in_up(network, at);
        let what = format!("up, killed before step {at}");
        if at % again == 1 {
            apart(|| assert!(server.goes_up(network).recovered.is_some(), "{what}"));
            is_up(&what);
        }
        apart(|| drop(server.goes_down()));
        is_back(&what);
        tried += 1;
        if was_last {
            break;
        }
    }
    apart(|| drop(server.goes_up(network)));
    for at in 0.. {
        if server.killed_in_down(at) {
            break;
        }
        let what = format!("down, killed before step {at}");
        apart(|| {
            let report = server.goes_up(network);
            assert!(report.recovered.is_some() && report.done.is_empty(), "{what}: {}", report.done);
        });
        is_up(&what);
        tried += 1;
    }
    is_back("down");
    tried
}

/// And where that is networkd's: what it follows is where the addresses are, and it never takes them off.
#[test]
fn an_uplink_of_networkds_that_is_taken_over_killed_after_any_step() {
    lab(|| {
        without_detection();
        let (scene, _networkd) = networkd::by_networkd(networkd::LEASED);
        let server = Server::of(scene);
        let address = takeover::lease(&server.scene).1[1].clone();
        let network: Network = told_apart(&server, || {
            let facts = server.engine().facts().unwrap();
            model::network::load(&takeover::with_take_over(), &facts).unwrap().1
        });
        let on = |link: &str, file: &str, what: &str| {
            // An interface that leaves a bridge goes for a moment, as networkd hears it.
            takeover::eventually(what, || {
                let (state, follows) = networkd::state("eth0");
                assert_ne!(state, "failed", "{what}: {follows}");
                follows.ends_with(file)
            });
            let seen = crate::common::tool(&format!("ip -o -4 address show {link}"));
            assert!(seen.contains(&format!(" {address}/24")), "{what}: no {address} on {link}: {seen}");
        };
        let is_up = |what: &str| on("br0", "05-br0.port.network", what);
        let is_back = |what: &str| {
            on("eth0", "20-office.network", what);
            assert_eq!(takeover::only(networkd::FOLDER), ["20-office.network"], "{what}");
            assert_eq!(takeover::only("/run/systemd/network"), Vec::<String>::new(), "{what}");
        };
        let tried = kill_everywhere(&server, &network, 8, &is_up, &is_back);
        println!("a take-over of networkd's was killed after each of {tried} steps");
        assert!(tried > 20, "only {tried}");
        // Undone at once, where somebody does not answer any more.
        apart(|| {
            let mut holds = || Err("nobody answers".to_owned());
            let confirm = Confirm { patience: Duration::from_secs(1000), arm: &mut |_| Ok(()), holds: &mut holds };
            let config = Path::new("/warren.toml");
            let network = &network;
            let wish =
                Wish { network, config, text: "", facts: None, replace: false, lenient: false, confirm: Some(confirm) };
            let lost = server.engine().carry(wish, &mut |_, _| Ok(())).unwrap_err();
            assert!(matches!(&lost, ApplyError::Lost { leftovers, .. } if leftovers.is_empty()), "{lost}");
        });
        is_back("undone");
        let heard = std::fs::read_to_string(server.scene.folder().join("heard")).unwrap();
        assert!(heard.contains("DHCPACK") && !heard.contains("DHCPRELEASE"), "{heard}");
    });
}

/// networkd, told of the bridge, follows another file there, which has come meanwhile: it is not done in time, and has begun
/// to take off the interface what that no longer says.
#[test]
fn a_manager_that_fails_on_its_way_is_told_back() {
    lab(|| {
        without_detection();
        let (scene, _networkd) = networkd::by_networkd(networkd::STATIC);
        let server = Server::of(scene);
        let network: Network = told_apart(&server, || {
            let facts = server.engine().facts().unwrap();
            model::network::load(&takeover::with_take_over(), &facts).unwrap().1
        });
        settle(&[]);
        let (nothing, other) = (take_here(), "/etc/systemd/network/01-bridges.network");
        apart(|| {
            let mut comes = |_: usize, step: &Step| {
                if matches!(step, Step::SetHold { to: Some(hold), .. } if hold.on == Side::Bridge) {
                    std::fs::write(other, "[Match]\nName=br0\n\n[Network]\nLLDP=no\n").unwrap();
                }
                Ok(())
            };
            let failed = server.engine().up(&network, Path::new("/warren.toml"), false, &mut comes).unwrap_err();
            std::fs::remove_file(other).unwrap();
            assert!(matches!(&failed, ApplyError::Step { leftovers, .. } if leftovers.is_empty()), "{failed}");
        });
        is(&nothing, "undone");
        assert!(networkd::state("eth0").1.ends_with("20-office.network"), "{:?}", networkd::state("eth0"));
    });
}

/// The same where it is NetworkManager's, which is stopped meanwhile.
#[test]
fn an_uplink_of_networkmanagers_that_is_taken_over_killed_after_any_step() {
    use crate::networkmanager::{FILE, LEASED, active, by_networkmanager};
    lab(|| {
        let (scene, _daemon, _leases) = by_networkmanager(LEASED);
        let server = Server::of(scene);
        takeover::eventually("a lease", || crate::common::tool("ip -4 route").contains("default"));
        settle(&[]);
        let (nothing, text) = (take_here(), takeover::whole(FILE));
        let network: Network = told_apart(&server, || {
            let facts = server.engine().facts().unwrap();
            model::network::load(&takeover::with_take_over(), &facts).unwrap().1
        });
        let is_back = |what: &str| {
            is(&nothing, what);
            assert_eq!(takeover::whole(FILE), text, "{what}");
            assert!(active().contains(&"office:eth0:activated".to_owned()), "{what}: {:?}", active());
        };
        let is_up = |what: &str| {
            assert_ne!(takeover::whole(FILE), text, "{what}");
            assert!(active().contains(&"office:br0:activated".to_owned()), "{what}: {:?}", active());
        };
        let is_told = |what: &str| {
            // What is said of this host meanwhile is what was said before.
            let facts = server.engine().facts().unwrap();
            let eth0 = facts.interfaces.into_iter().find(|one| one.name.as_str() == "eth0");
            let manager = eth0.and_then(|one| one.manager).unwrap();
            assert!(manager.obstacle.is_none() && manager.by.word() == "NetworkManager", "{what}: {manager:?}");
        };
        let steps = told_apart(&server, || {
            let mut steps = Vec::new();
            let mut watch = |_: usize, step: &Step| {
                steps.push(matches!(step, Step::SetHold { .. }));
                Ok(())
            };
            drop(server.up(&network, &mut watch).unwrap());
            steps
        });
        is_up("up");
        apart(|| drop(server.goes_down()));
        // Stopped, and begun anew.
        let stopped = steps.iter().position(|is_hold| *is_hold).unwrap();
        server.killed_in_up(&network, stopped + 2);
        apart(|| is_told("stopped"));
        apart(|| drop(server.goes_down()));
        is_back("stopped");
        let tried = kill_everywhere(&server, &network, 8, &is_up, &is_back);
        println!("a take-over of NetworkManager's was killed after each of {tried} steps");
        assert!(tried > 20, "only {tried}");
    });
}

/// What is found out in a process of its own: what asks over D-Bus leaves threads behind, which those that are forked
/// later would lack.
fn told_apart<T: serde::Serialize + serde::de::DeserializeOwned>(server: &Server, body: impl FnOnce() -> T) -> T {
    let file = server.folder.path().join("told.json");
    apart(|| std::fs::write(&file, serde_json::to_vec(&body()).unwrap()).unwrap());
    serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
}

/// In a process of its own.
#[track_caller]
fn apart(body: impl FnOnce()) {
    let ended = forked(|| {
        body();
        0
    });
    assert_eq!(ended, Some(0));
}

const ONE: &str = r#"
[host]
uplink = "eth0"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
"#;

/// The system calls by which our files change, and the network with them but for netlink's.
const CALLS: &str = "rename,unlink,fsync,write,mkdir,mount,umount2";

/// The binary, killed by strace(1) at its `nth` such call; whether it came to its end before.
fn survives(scene: &Scene, arguments: &str, nth: usize) -> bool {
    let mut strace = bare(&which("strace"));
    scene.tell(&mut strace);
    strace.args(["--quiet=all", "-o", "/dev/null", "-e", &format!("trace={CALLS}")]);
    strace.args(["-e", &format!("inject={CALLS}:signal=KILL:when={nth}"), "--", crate::support::WARREN]);
    let ran = Ran::of(strace.args(arguments.split_whitespace()));
    match ran.code {
        Some(0) => true,
        // strace ends as its tracee did.
        None | Some(137) => false,
        Some(_) => panic!("{ran:?}"),
    }
}

/// Between the steps there are the journal, the baseline and the record: each write, sync, rename and removal of theirs.
#[test]
fn killed_at_any_touch_of_a_file() {
    lab(|| {
        without_detection();
        let scene = Scene::new();
        let nothing = take_here();
        let kill_each = |prepare: &dyn Fn(), arguments: &str, next: &str, expected: &Snapshot| {
            for nth in 1.. {
                prepare();
                let over = survives(&scene, arguments, nth);
                scene.warren(next).ends(0);
                is(expected, &format!("{arguments}, killed at call {nth}, then {next}"));
                scene.warren("down").ends(0);
                is(&nothing, &format!("{arguments}, killed at call {nth}, then {next}, then down"));
                if over {
                    return nth - 1;
                }
            }
            0
        };
        scene.up(ONE, &[]);
        let up = take_here();
        scene.warren("down").ends(0);
        let bring_up = || {
            scene.warren("up").ends(0);
        };
        let mut tried = 0;
        tried += kill_each(&|| {}, "up", "up", &up);
        tried += kill_each(&bring_up, "down", "up", &up);
        tried += kill_each(&bring_up, "rollback", "down", &nothing);
        // A forward that comes the short way: it has no journal, and the file says what comes next.
        let with_one = || {
            scene.write(&format!("{ONE}[[forward]]\nlisten = \"8080\"\nto = \"cnx6:80\"\n"));
            scene.warren("up").ends(0);
            scene.warren("up").says(0, &["Nothing to change"]);
        };
        tried += kill_each(&with_one, "forward add 8081 cnx6:80", "down", &nothing);
        with_one();
        let one = take_here();
        scene.warren("forward add 8081 cnx6:80").ends(0);
        let two = take_here();
        scene.warren("down").ends(0);
        for nth in 1.. {
            with_one();
            let over = survives(&scene, "forward add 8081 cnx6:80", nth);
            let added = std::fs::read_to_string(&scene.config).unwrap().contains("8081");
            scene.warren("up").ends(0);
            is(if added { &two } else { &one }, &format!("forward add, killed at call {nth}, then up"));
            scene.warren("plan").says(0, &["Nothing to change"]);
            if over {
                tried += nth - 1;
                break;
            }
        }
        scene.warren("down").ends(0);
        println!("killed at each of {tried} calls");
        assert!(tried > 30, "only {tried}");
    });
}

/// A journal that is not whole was not ours to begin with, or is the disk's fault: it is seen, told, and passed over.
#[test]
fn a_torn_journal_is_seen() {
    lab(|| {
        without_detection();
        let server = Server::new();
        let nothing = take_here();
        server.scene.write(ONE);
        let warren = |arguments: &str| {
            let mut command = server.scene.command();
            let folder = |name: &str| server.folder.path().join(name);
            command.env("WARREN_STATE_DIR", folder("state")).env("WARREN_RUN_DIR", folder("run"));
            Ran::of(command.args(arguments.split_whitespace()))
        };
        for (name, network) in networks() {
            assert!(!server.killed_in_up(&network, 6));
            let journal = server.folder.path().join("state/journal.json");
            let whole = std::fs::read(&journal).unwrap();
            std::fs::write(&journal, &whole[..whole.len() / 2]).unwrap();
            warren("up --replace").says(0, &["torn"]);
            warren("status").says(0, &["As the file"]);
            warren("down").ends(0);
            is(&nothing, &format!("{name}, after a torn journal, up and down"));
        }
    });
}
