//! The documents are true: docs/json.md has every key of `--json`, what README.md and docs/guide.md show can be typed,
//! and links lead somewhere.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::common::{lab, nft, tool};
use crate::serve::Serve;
use crate::support::Scene;
use crate::watch;

const NETWORK: &str = one_lan!(
    r#"[guest.cnx6]
kind = "netns"
address = ["10.1.1.6"]
[[forward]]
listen = "203.0.113.2:22210"
to = "cnx6:22"
"#
);

/// Forwards that collide, a name that dangles.
const WRONG: &str = r#"
[lan.br1]
address = ["10.1.1.1/24"]
[guest.cnx6]
address = ["10.1.1.6"]
[[forward]]
listen = 80
to = "cnx6"
[[forward]]
listen = 80
to = "cnx7"
"#;

/// The keys that the page lists, by section.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let mut sections = BTreeMap::<String, BTreeSet<String>>::new();
    let mut section = String::new();
    for line in include_str!("../../../../docs/json.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        } else if let Some((key, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
            assert!(sections.entry(section.clone()).or_default().insert(key.to_owned()), "{section}: {key} twice");
        }
    }
    sections
}

fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn every_key_is_documented_and_every_documented_key_is_there() {
    lab(|| {
        let scene = Scene::new();
        let mut printed = BTreeMap::<&str, BTreeSet<String>>::new();
        let mut print = |section: &'static str, arguments: &str, code: i32| {
            let document = scene.warren(&format!("--json {arguments}")).ends(code).json();
            assert!(document["ok"].is_boolean());
            keys(&document, "", printed.entry(section).or_default());
            document
        };
        assert_eq!(print("init", "init --print", 0)["config"], Value::Null);
        scene.write(WRONG);
        print("failure", "validate", 2);
        scene.write(&format!("include = [\"conf.d/*.toml\"]\n{NETWORK}"));
        print("validate", "validate", 0);
        print("failure", "up", 2);
        // A container that warren cannot make is one guest's failure, not the network's.
        scene.write(&NETWORK.replace("kind = \"netns\"", "kind = \"lxc\""));
        let failed = print("up and down", "up", 1);
        assert_eq!(failed["guests"][0]["ok"], false);
        assert_eq!(print("status", "status", 0)["guests"][0]["kind"], "lxc");
        assert_eq!(print("guest list", "guest list", 0)["guests"][0]["name"], "cnx6");
        print("up and down", "down", 0);
        scene.write(NETWORK);
        assert_eq!(print("forward add and remove", "forward add 53/udp cnx6", 0)["up"], false);
        assert_eq!(print("status", "status", 0)["up"], false);
        assert_eq!(print("failure", "check", 1)["ok"], false);
        // Somebody else's firewall, which stops what the file declares.
        nft("table ip theirs { chain forward { type filter hook forward priority 0; iifname \"br1\" drop; }; }\n");
        assert_eq!(print("plan", "plan", 0)["foreign"][0]["table"], "theirs");
        print("up and down", "up", 0);
        assert_eq!(print("forward add and remove", "forward add 54/udp cnx6", 0)["foreign"][0]["from"], "br1");
        assert_eq!(print("check", "check", 1)["foreign"][0]["rule"]["text"], "iifname \"br1\" drop");
        print("forward add and remove", "forward remove 54/udp", 0);
        print("up and down", "down", 0);
        nft("delete table ip theirs\n");
        let planned = print("plan", "plan", 0);
        let done = print("up and down", "up", 0);
        assert_eq!(planned["steps"], done["steps"], "what was planned was done");
        for step in done["steps"].as_array().unwrap() {
            let word = format!("`{}`", step["step"].as_str().unwrap());
            assert!(include_str!("../../../../docs/json.md").contains(&word), "the step {word} is not on the page");
        }
        assert_eq!(print("status", "status", 0)["ok"], true);
        assert_eq!(print("check", "check", 0)["ok"], true);
        tool("ip link set cnx6 nomaster");
        let drifted = print("status", "status", 0);
        assert_eq!(drifted["ok"], false);
        assert_eq!(drifted["guests"][0]["plugged"], false);
        assert_eq!(drifted["guests"][0]["drift"], drifted["drift"]);
        assert_eq!(drifted["lans"][0]["drift"], serde_json::json!([]));
        let mend = print("plan", "plan --exit-code", 3);
        assert_eq!(mend["changes"], 1);
        assert_eq!(mend["steps"][0]["step"], "change-link");
        assert_eq!(drifted["drift"][0], mend["steps"][0]["words"]);
        assert_eq!(print("forward add and remove", "forward remove 53/udp", 0)["changes"], 2);
        print("up and down", "down", 0);
        print("up and down", "up --confirm 60", 0);
        assert!(print("status", "status", 0)["confirm_within"].is_u64());
        assert_eq!(print("confirm", "confirm", 0)["confirmed"], true);
        assert_eq!(print("rollback", "rollback", 0)["config"], Value::Null);
        print("failure", "rollback", 1);
        assert_eq!(print("install and uninstall", "install --print", 0)["units"][0]["name"], "warren-network.service");
        print("forward list", "forward list", 0);
        let pid = print("rehearse", "rehearse --keep", 0)["kept"]["pid"].as_u64().unwrap();
        tool(&format!("kill {pid}"));

        // What was put back does not come up by itself.
        scene.write(&format!("{NETWORK}# another\n"));
        let serving = Serve::start(&scene);
        serving.worker();
        tool("ip link set cnx6 nomaster");
        watch::repaired(&scene, 0);
        assert_eq!(print("status", "status", 0)["serve"]["last"][0]["steps"].as_array().unwrap().len(), 1);
        scene.warren("down").ends(0);
        drop(serving);

        let mut documented = documented();
        documented.remove("other guest commands").unwrap();
        // Of containers alone.
        documented.get_mut("rollback").unwrap().retain(|key| !key.starts_with("guests[]."));
        assert_eq!(
            documented.keys().map(String::as_str).collect::<Vec<_>>(),
            printed.keys().copied().collect::<Vec<_>>()
        );
        for (section, printed) in printed {
            let page = &documented[section];
            let missing: Vec<_> = printed.difference(page).collect();
            let gone: Vec<_> = page.difference(&printed).collect();
            assert!(
                missing.is_empty() && gone.is_empty(),
                "{section}: not on the page {missing:?}; not printed {gone:?}"
            );
        }
    });
}

/// The blocks of a page that are fenced as `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

const README: &str = include_str!("../../../../README.md");
const GUIDE: &str = include_str!("../../../../docs/guide.md");

#[test]
fn what_the_readme_draws_is_what_is_drawn() {
    lab(|| {
        let scene = Scene::new();
        scene.write(&blocks(README, "toml")[0]);
        let drawn = scene.warren("map").ends(0).out;
        assert_eq!(drawn.trim_end(), blocks(README, "text")[0].trim_end());
        assert_eq!(scene.warren("--json validate").ends(0).json()["not_supported_yet"], serde_json::json!([]));
        scene.warren("rehearse").ends(0);
    });
}

/// `cargo run -- -c examples/seed.toml map -o docs/map.svg` draws it anew.
#[test]
fn the_picture_in_the_readme_is_the_one_that_is_drawn() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert!(README.contains("](docs/map.svg)") && README.contains("](examples/seed.toml)"));
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, code: i32| {
        let mut command = crate::support::bare(crate::support::WARREN);
        command.arg("-c").arg(root.join("examples/seed.toml")).args(["map", "-o"]).arg(folder.path().join(name));
        crate::support::Ran::of(&mut command).ends(code)
    };
    draw("map.svg", 0);
    draw("map.txt", 0);
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(folder.path().join("map.svg")), read(root.join("docs/map.svg")));
    assert!(read(folder.path().join("map.txt")).contains("cnx6  10.1.1.6  (lxc)  ◄ 22210/tcp to :22"));
    assert!(draw("map.png", 2).err.contains(".svg or .txt"));
    assert!(!folder.path().join("map.png").exists());
}

#[test]
fn what_the_guide_shows_is_a_network() {
    lab(|| {
        let scene = Scene::new();
        scene.write(&blocks(GUIDE, "toml").concat());
        assert_eq!(scene.warren("--json validate").ends(0).json()["not_supported_yet"], serde_json::json!([]));
        scene.warren("rehearse").ends(0);
    });
}

#[test]
fn every_command_that_is_shown_is_one() {
    lab(|| {
        let scene = Scene::new();
        let help = scene.warren("--help").ends(0).out;
        let known: Vec<&str> =
            help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
        for line in [README, GUIDE].iter().flat_map(|page| blocks(page, "sh")).collect::<String>().lines() {
            let line = line.split('#').next().unwrap().replace("target/release/warren", "warren");
            let Some((_, typed)) = line.trim().split_once("warren ") else { continue };
            let mut words =
                typed.split_whitespace().skip_while(|word| word.starts_with('-') || word.ends_with(".toml"));
            let command = words.next().unwrap();
            assert!(known.contains(&command), "there is no `warren {command}`");
            let usage = scene.warren(&format!("{command} --help")).ends(0).out;
            for option in words.filter(|word| word.starts_with("--")) {
                assert!(usage.contains(option), "`warren {command}` has no {option}");
            }
        }
    });
}

#[test]
fn links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|p| root.join(p)).into();
    pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(link.starts_with("https://") || target.exists(), "{}: {link}", page.display());
        }
    }
}

/// Both are made from the command line itself; real shells and man take them.
#[test]
fn completions_and_the_manual_are_taken_by_those_they_are_for() {
    let scene_free = |arguments: &str| {
        crate::support::Ran::of(crate::support::bare(crate::support::WARREN).args(arguments.split(' ')))
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = scene_free(&format!("completions {shell}")).ends(0).out;
        assert!(script.contains("rehearse"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("warren.bash");
    std::fs::write(&script, scene_free("completions bash").ends(0).out).unwrap();
    let line = format!("source {}; complete -p warren", script.display());
    let known = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
    let page = scene_free("man").ends(0).out;
    assert!(page.contains(".TH warren 1") && page.contains("rehearse"), "{page}");
    scene_free("completions tcsh").ends(2);
}
