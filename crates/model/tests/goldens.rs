//! Folders of files as people write them, and what is said of each. `UPDATE_GOLDENS=1` rewrites what is expected.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test reads its goldens")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use model::address::Transport;
use model::facts::{HostFacts, Listener};
use model::plan::{plan, undo};
use model::problem::{self, Problem};
use model::simulate::simulate;
use model::state::{Baseline, Ids, IpFamilyWord, Sysctl, desired, nothing};
use model::{config, network, ruleset};

fn cases(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(kind);
    let mut cases: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn facts(case: &Path) -> HostFacts {
    match fs::read_to_string(case.join("facts.json")) {
        Ok(text) => serde_json::from_str(&text).unwrap(),
        Err(_) => HostFacts::assumed("eth0".parse().unwrap()),
    }
}

fn place(text: &str, at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("{line}:{column}")
}

fn print(text: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let spot = text.get(problem.span.clone()).unwrap();
        let kind = serde_json::to_value(problem.kind).unwrap();
        let at = place(text, problem.span.start);
        writeln!(out, "{at} {}: {}\n    at: {spot:?}", kind.as_str().unwrap(), problem.message).unwrap();
        if let Some(help) = &problem.help {
            writeln!(out, "    help: {help}").unwrap();
        }
        if let Some((span, what)) = &problem.also {
            writeln!(out, "    also: {} {:?} {what}", place(text, span.start), text.get(span.clone()).unwrap())
                .unwrap();
        }
    }
    out
}

/// Compares, or rewrites; returns what differs.
fn compare(path: &Path, found: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    (expected != found).then(|| format!("== {}\n-- expected\n{expected}\n-- found\n{found}", path.display()))
}

#[test]
fn every_problem_is_told_as_it_should_be() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in cases("config") {
        let text = fs::read_to_string(case.join("warren.toml")).unwrap();
        let (config, mut problems) = config::parse(&text);
        if !config.torn {
            problems.extend(network::resolve(&config, &facts(&case)).err().into_iter().flatten());
        }
        if case.file_name().unwrap().to_str().unwrap().starts_with("unsupported") {
            problems.extend(network::unsupported(&config));
        }
        problem::sort(&mut problems);
        wrong.extend(compare(&case.join("problems.txt"), &print(&text, &problems)));
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 40, "{count} cases");
}

#[test]
fn every_network_means_what_it_should() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in cases("resolve") {
        let text = fs::read_to_string(case.join("warren.toml")).unwrap();
        let (config, problems) = config::parse(&text);
        assert_eq!(problems, [], "{}", case.display());
        let network = network::resolve(&config, &facts(&case)).map_err(|p| print(&text, &p)).unwrap();
        let json = serde_json::to_string_pretty(&network).unwrap() + "\n";
        wrong.extend(compare(&case.join("network.json"), &json));
        let warnings: String =
            model::hoster::warnings(&network, &facts(&case)).into_iter().map(|warning| warning + "\n").collect();
        if !warnings.is_empty() || case.join("warnings.txt").exists() {
            wrong.extend(compare(&case.join("warnings.txt"), &warnings));
        }
        let again: network::Network = serde_json::from_str(&json).unwrap();
        assert_eq!(again, network, "{}", case.display());
        // What `up` itself changes of the host, and our own services there, change nothing of it; but a bridge forwards where
        // the interface did whose place it takes.
        for other in afterwards(&facts(&case)) {
            assert_eq!(other.lasting(), facts(&case).lasting(), "{}", case.display());
            if network.lans.iter().all(|lan| lan.outer.is_none()) {
                assert_eq!(network::resolve(&config, &other).ok().as_ref(), Some(&network), "{}", case.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 6, "{compared}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The host as a network that came up may leave it: forwarding, with routes learnt all the same, and with warren's
/// services on its ports.
fn afterwards(facts: &HostFacts) -> Vec<HostFacts> {
    let mut forwarding = facts.clone();
    for interface in &mut forwarding.interfaces {
        interface.forwards = (!interface.forwards.0, !interface.forwards.1);
        interface.accept_ra = interface.accept_ra.map(|value| if value > 0 { 3 - value.min(2) } else { value });
    }
    let mut served = facts.clone();
    for port in [22, 53, 67, 80, 443, 1080, 8080] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let (address, owner) = ("0.0.0.0".parse().unwrap(), Some("warren (pid 7)".to_owned()));
            served.listeners.push(Listener { transport, address, port, owner });
        }
    }
    vec![forwarding, served]
}

/// What `init` writes for a host is a network on that very host, with nothing in its way.
#[test]
fn what_init_writes_is_a_network_on_the_host_it_is_for() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in cases("init") {
        let facts = facts(&case);
        let sights = fs::read_to_string(case.join("sights.json")).map_or_else(
            |_| model::init::Sights { chains: Some(Vec::new()), peer: None },
            |text| serde_json::from_str(&text).unwrap(),
        );
        let proposal = model::init::propose(&facts, &sights);
        wrong.extend(compare(&case.join("warren.toml"), &proposal.text));
        let (_, network) = network::load(&proposal.text, &facts)
            .map_err(|p| panic!("{}:\n{}", case.display(), print(&proposal.text, &p)))
            .unwrap();
        assert_eq!(network.lans[0].addresses, proposal.addresses, "{}", case.display());
        // The guests and the forward are fit to be uncommented.
        let (head, tail) = proposal.text.split_once("\n# A container").unwrap();
        let examples = tail.lines().skip(1).take_while(|line| !line.starts_with("# Other networks"));
        let bare = examples.filter(|line| line.contains(" = ") || line.starts_with("# [")).map(|line| &line[2..]);
        let whole = format!("{head}\n{}\n", bare.collect::<Vec<_>>().join("\n"));
        let (_, network) = network::load(&whole, &facts)
            .map_err(|p| panic!("{}:\n{whole}\n{}", case.display(), print(&whole, &p)))
            .unwrap();
        assert_eq!((network.guests.len(), network.forwards.len()), (2, 1), "{}", case.display());
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 7, "{count} cases");
}

#[test]
fn the_seed_is_clean() {
    let text = include_str!("../../../examples/seed.toml");
    let (_, network) =
        network::load(text, &HostFacts::assumed("eth0".parse().unwrap())).map_err(|p| print(text, &p)).unwrap();
    assert_eq!(network.lans.len(), 1);
    assert_eq!(network.guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["cnx6", "cnx7"]);
    assert_eq!(network.forwards.len(), 2);
}

/// The network of a case's file; of `current.toml` for what is up before, where there is one.
fn network_of(case: &Path, file: &str) -> Option<network::Network> {
    let text = fs::read_to_string(case.join(file)).ok()?;
    let (config, problems) = config::parse(&text);
    assert!(problems.is_empty(), "{}/{file}: {problems:?}", case.display());
    Some(network::resolve(&config, &facts(case)).unwrap())
}

/// `warren.toml` over `current.toml` (or over nothing): what is planned, what undoes it, and the ruleset.
#[test]
fn every_plan_is_what_it_should_be() {
    let mut differences = Vec::new();
    for case in cases("plan") {
        // What the uplink had before the first touch.
        let forwarding = |family| Sysctl::new(family, "eth0", "forwarding");
        let force = Sysctl::new(IpFamilyWord::Ipv6, "eth0", "force_forwarding");
        let switches = [(forwarding(IpFamilyWord::Ipv4), "0".to_owned()), (force, "0".to_owned())];
        let baseline = Baseline { sysctls: switches.into(), ..Baseline::default() };
        let state = |network: &network::Network| desired(network, &baseline, &Ids::default());
        let wanted = network_of(&case, "warren.toml").unwrap();
        let current = network_of(&case, "current.toml").map_or_else(|| nothing(&baseline), |n| state(&n));
        let goal = state(&wanted);
        let there = plan(&current, &goal);
        let back = undo(&there);
        assert_eq!(simulate(current.clone(), &there), goal, "{}", case.display());
        assert_eq!(simulate(goal, &back), current, "{}", case.display());
        differences.extend(compare(&case.join("plan.txt"), &there.to_string()));
        differences.extend(compare(&case.join("undo.txt"), &back.to_string()));
        let ruleset = ruleset::text::tables(&ruleset::build(&wanted));
        differences.extend(compare(&case.join("ruleset.nft"), &ruleset));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
