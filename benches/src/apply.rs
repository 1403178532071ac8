//! What warren takes as a whole process, beside the same done by others and by the bare system calls.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use kernel::netns::Netns;
use kernel::rtnl::{LinkChange, NewRoute, Rtnl, VethPeer};
use model::address::{IfName, Mac};

use crate::measure::{Bound, Row, absolute, compared, in_turns};
use crate::replay::Recording;
use crate::scene::{Outcome, Scene, forwards, inside, run, run_with, told};
use crate::serve::until;

const ROUNDS: usize = 7;
const GUESTS: usize = 500;
/// Where Debian's package puts it: podman runs it, and nobody else.
const NETAVARK: &str = "/usr/lib/podman/netavark";

/// Milliseconds of a program as a whole.
pub fn whole(command: &mut Command) -> Outcome<f64> {
    let began = Instant::now();
    let output = told(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output(), "a program")?;
    let passed = began.elapsed().as_secs_f64() * 1e3;
    match output.status.success() {
        true => Ok(passed),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The file of the many guests, with as many forwards besides.
fn crowd(forwards: usize) -> String {
    let mut text =
        "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.0.1/16\"]\n".to_owned();
    for n in 0..GUESTS {
        text.push_str(&format!(
            "[guest.g{n}]\nkind = \"netns\"\naddress = [\"10.1.{}.{}\"]\n",
            1 + n / 200,
            1 + n % 200
        ));
    }
    for n in 0..forwards {
        text.push_str(&format!(
            "[[forward]]\nlisten = \"{}\"\nto = \"g{}:{}\"\n",
            20_000 + n,
            n % GUESTS,
            1000 + n / GUESTS
        ));
    }
    text
}

/// The same guests by bare netlink, in order, with nothing decided, journalled or looked at.
fn crowd_by_netlink(server: &str) -> Outcome<f64> {
    let server = told(Netns::open(server), server)?;
    let began = Instant::now();
    let made = server.run(|| {
        let mut here = Rtnl::open()?;
        let (bridge, eth0) = (IfName::new("br1")?, IfName::new("eth0")?);
        here.create_bridge(&bridge, None, 1500, "")?;
        here.add_address(&bridge, "10.1.0.1/16".parse()?)?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        here.set_link(&bridge, &up)?;
        let plugged = LinkChange { master: Some(Some(bridge.clone())), up: Some(true), ..LinkChange::default() };
        for n in 0..GUESTS {
            let name = format!("g{n}");
            let guest = Netns::create(&name)?;
            let port = IfName::new(&name)?;
            let peer = VethPeer { netns: guest.as_fd(), name: &eth0, mac: Mac::derived(&[&name]), mtu: 1500 };
            here.create_veth(&port, None, 1500, &name, &peer)?;
            here.set_link(&port, &plugged)?;
            let mut there = guest.run(Rtnl::open)??;
            there.set_link(&IfName::new("lo")?, &up)?;
            there.set_link(&eth0, &up)?;
            there.add_address(&eth0, format!("10.1.{}.{}/16", 1 + n / 200, 1 + n % 200).parse()?)?;
            let default = "0.0.0.0/0".parse()?;
            there.add_route(&NewRoute::new(default, Some(IpAddr::from([10, 1, 0, 1])), &eth0))?;
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    });
    let passed = began.elapsed().as_secs_f64() * 1e3;
    told(told(made, "a thread")?, "the guests by netlink")?;
    Ok(passed)
}

fn crowd_gone(server: &str) -> Outcome<()> {
    for n in 0..GUESTS {
        told(Netns::delete(&format!("g{n}")), "a guest")?;
    }
    run(server, &["ip", "link", "delete", "br1"])
}

/// What an `up` of ten thousand forwards takes.
pub fn up_of_forwards() -> Outcome<Vec<Row>> {
    let scene = Scene::new("fwd")?;
    scene.write(&forwards(10_000))?;
    let recording = Recording::of(&scene)?;
    let rules = scene.folder().join("rules.nft");
    scene.warren_done(&["up"])?;
    let listed = told(inside(&scene.server, &["nft", "list", "ruleset"]).output(), "nft")?;
    told(fs::write(&rules, listed.stdout), "the rules")?;
    scene.warren_done(&["down"])?;
    let path = rules.display().to_string();
    let measured = in_turns(
        ROUNDS,
        &mut [
            &mut || {
                let took = whole(&mut scene.warren(&["-q", "up"]))?;
                scene.warren_done(&["down"])?;
                Ok(took)
            },
            &mut || recording.replayed(),
            &mut || {
                let took = whole(&mut inside(&scene.server, &["nft", "-f", &path]))?;
                run(&scene.server, &["nft", "flush", "ruleset"])?;
                Ok(took)
            },
        ],
    )?;
    let [ours, replay, nft] = &measured[..] else { return Err("three figures".to_owned()) };
    let work = "`up` from nothing with 10,000 forwards, whole process";
    Ok(vec![
        compared(work, "ms", ours, "its netlink bytes, sent again", replay, ("≤ 3", Bound::Most(3.0))),
        compared("the same", "ms", ours, "nft -f of its rules", nft, ("", Bound::Most(1.0))),
    ])
}

/// Guests by programs, fewer of them: each takes long enough.
const BY_PROGRAMS: usize = 25;

/// The same guests by a program run for each step.
fn crowd_by_ip(server: &str) -> Outcome<f64> {
    let steps = |words: String| run(server, &words.split(' ').collect::<Vec<_>>());
    let began = Instant::now();
    steps("ip link add br1 type bridge".to_owned())?;
    steps("ip address add 10.1.0.1/16 dev br1".to_owned())?;
    steps("ip link set br1 up".to_owned())?;
    for n in 0..BY_PROGRAMS {
        let guest = format!("h{n}");
        for words in [
            format!("ip netns add {guest}"),
            format!("ip link add {guest} type veth peer name eth0 netns {guest}"),
            format!("ip link set {guest} master br1 up"),
            format!("ip -n {guest} link set lo up"),
            format!("ip -n {guest} link set eth0 up"),
            format!("ip -n {guest} address add 10.1.1.{}/16 dev eth0", 1 + n),
            format!("ip -n {guest} route add default via 10.1.0.1"),
        ] {
            steps(words)?;
        }
    }
    let passed = began.elapsed().as_secs_f64() * 1e3;
    for n in 0..BY_PROGRAMS {
        steps(format!("ip netns delete h{n}"))?;
    }
    steps("ip link delete br1".to_owned())?;
    Ok(passed / BY_PROGRAMS as f64)
}

/// The same by netavark, which is run for each guest.
fn crowd_by_netavark(server: &str, folder: &std::path::Path) -> Outcome<f64> {
    let config = folder.display().to_string();
    let options = |n: usize| {
        serde_json::json!({
            "container_id": format!("{n:064x}"), "container_name": format!("c{n}"),
            "networks": { "bench": { "interface_name": "eth0", "static_ips": [format!("10.1.1.{}", 1 + n)] } },
            "network_info": { "bench": {
                "name": "bench", "id": "0".repeat(64), "driver": "bridge", "network_interface": "nv0",
                "subnets": [{ "subnet": "10.1.0.0/16", "gateway": "10.1.0.1" }],
                "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            } },
        })
        .to_string()
    };
    let act = |what: &str, n: usize| {
        let place = format!("/run/netns/c{n}");
        run_with(server, &[NETAVARK, "--config", &config, what, &place], &options(n))
    };
    let began = Instant::now();
    for n in 0..BY_PROGRAMS {
        run("", &["ip", "netns", "add", &format!("c{n}")])?;
        act("setup", n)?;
    }
    let passed = began.elapsed().as_secs_f64() * 1e3;
    for n in 0..BY_PROGRAMS {
        act("teardown", n)?;
        run("", &["ip", "netns", "delete", &format!("c{n}")])?;
    }
    Ok(passed / BY_PROGRAMS as f64)
}

/// What five hundred guests take.
pub fn up_of_guests() -> Outcome<Vec<Row>> {
    let (ours, bare) = (Scene::new("gst")?, Scene::new("raw")?);
    ours.write(&crowd(0))?;
    let per_guest = |ms: f64| ms / GUESTS as f64;
    let measured = in_turns::<String>(
        3,
        &mut [
            &mut || {
                let took = whole(&mut ours.warren(&["-q", "up"]))?;
                ours.warren_done(&["-q", "down"])?;
                Ok(per_guest(took))
            },
            &mut || {
                let took = crowd_by_netlink(&bare.server)?;
                crowd_gone(&bare.server)?;
                Ok(per_guest(took))
            },
            &mut || crowd_by_ip(&bare.server),
            &mut || crowd_by_netavark(&bare.server, bare.folder()),
        ],
    )?;
    let [up, netlink, ip, netavark] = &measured[..] else { return Err("four figures".to_owned()) };
    let work = "`up` with 500 netns guests, each";
    Ok(vec![
        compared(work, "ms", up, "bare netlink", netlink, ("≤ 1.5", Bound::Most(1.5))),
        compared("the same", "ms", up, "`ip` run for each step", ip, ("", Bound::Most(f64::MAX))),
        compared("the same", "ms", up, "netavark run for each guest", netavark, ("", Bound::Most(f64::MAX))),
    ])
}

/// Waits until the kernel no longer looks for others with IPv6 addresses, as it does for some seconds after `up`: one after
/// the other, behind the lock that whoever looks at links wants too. Each that it is through with is news of the host.
pub fn looked_for_others() -> Outcome<()> {
    let look = |_: &str| Ok(Rtnl::open()?.addresses()?.iter().any(|address| address.is_unusable()));
    let is_looking = || {
        let all = told(Netns::visit(look), "the namespaces")?;
        all.into_iter().try_fold(false, |any, (name, looks)| Ok::<_, String>(any | told(looks, &name)?))
    };
    until("the kernel has looked for others with its addresses", || Ok(!is_looking()?))
}

/// What 500 guests and 10,000 forwards take.
pub fn many_of_both() -> Outcome<Vec<Row>> {
    let ours = Scene::new("both")?;
    ours.write(&crowd(10_000))?;
    ours.warren_done(&["-q", "up"])?;
    let planned = || in_turns(ROUNDS, &mut [&mut || whole(&mut ours.warren(&["plan"]))]);
    let at_once = planned()?;
    looked_for_others()?;
    let plan = planned()?;
    let mut first = true;
    let down = in_turns::<String>(
        3,
        &mut [&mut || {
            if !std::mem::take(&mut first) {
                ours.warren_done(&["-q", "up"])?;
            }
            whole(&mut ours.warren(&["-q", "down"]))
        }],
    )?;
    Ok(vec![
        absolute(
            "`plan` with nothing to do, 500 guests and 10,000 forwards",
            "ms",
            &plan[0],
            ("≤ 100 ms", Bound::Most(100.0)),
        ),
        absolute("the same in the first seconds after that `up`", "ms", &at_once[0], ("", Bound::Most(f64::MAX))),
        absolute("`down` of the same", "ms", &down[0], ("≤ 1 s", Bound::Most(1000.0))),
    ])
}

/// Whole processes that need no server.
pub fn alone() -> Outcome<Vec<Row>> {
    let warren = crate::scene::warren();
    let seed = format!("{}/../examples/seed.toml", env!("CARGO_MANIFEST_DIR"));
    let measured = in_turns(
        ROUNDS,
        &mut [
            &mut || whole(Command::new(&warren).args(["rehearse", &seed])),
            &mut || whole(Command::new(&warren).arg("--version")),
            &mut || Ok::<f64, String>(told(fs::metadata(&warren), "the binary")?.len() as f64 / 1e6),
        ],
    )?;
    Ok(vec![
        absolute("`rehearse examples/seed.toml`, whole process", "ms", &measured[0], ("≤ 1 s", Bound::Most(1000.0))),
        absolute("`warren --version`, whole process", "ms", &measured[1], ("", Bound::Most(f64::MAX))),
        absolute("the binary", "MB", &measured[2], ("", Bound::Most(f64::MAX))),
    ])
}
