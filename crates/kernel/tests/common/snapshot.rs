//! A network namespace as tools that are not ours show it, made comparable: what the kernel numbers anew each time
//! (indices, timers, handles, counters) is left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tool;

/// Everything of the namespace that `down` must leave as it was, a section each.
pub type Snapshot = BTreeMap<String, String>;

/// Keys of `ip -json` that differ from one making of the same thing to the next.
const PASSING: [&str; 23] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "gc_timer",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "forward_delay_timer",
    "hold_timer",
    "message_age_timer",
    "stats",
    "stats64",
    "used",
    "link_pointtopoint",
    "valid_life_time",
    "preferred_life_time",
    "designated_port",
    "port_id",
    "id",
    "no",
    // Come a moment later than what they belong to: duplicate address detection, the carrier, a port's state.
    "tentative",
    "operstate",
    "state",
];

/// Looks at the calling thread's namespace, and at those that have names.
pub fn take() -> Snapshot {
    let mut sections = take_here();
    for name in namespaces() {
        let unlearnt = |answers: Vec<Value>| answers.into_iter().map(|answer| lines(unlearnt(answer)));
        let asked = ["address show", "route show", "link show"];
        let answers = unlearnt(batch(&format!("ip -json -details -netns {name}"), &asked));
        sections.extend(asked.iter().zip(answers).map(|(what, answer)| (format!("{name}: {what}"), answer)));
        let answers = unlearnt(batch(&format!("ip -6 -json -netns {name}"), &["route show"]));
        sections.extend(answers.map(|answer| (format!("{name}: -6 route show"), answer)));
    }
    sections
}

fn namespaces() -> Vec<String> {
    let mut namespaces: Vec<String> = tool("ip netns list").lines().map(first_word).collect();
    namespaces.sort();
    namespaces
}

/// Looks at the calling thread's namespace alone, and at the names of others.
pub fn take_here() -> Snapshot {
    let mut sections = Snapshot::new();
    // Some of ip's commands leave a filter behind for those after them: `link` comes last.
    for (program, asked) in [
        (
            "ip -json -details",
            [
                ("addresses", "address show"),
                ("routes", "route show table all"),
                ("rules", "rule show"),
                ("neighbour proxies", "neighbour show proxy"),
                ("links", "link show"),
            ]
            .as_slice(),
        ),
        ("ip -6 -json", &[("routes6", "route show table all"), ("rules6", "rule show")]),
    ] {
        let answers = batch(program, &asked.iter().map(|(_, line)| *line).collect::<Vec<_>>());
        let named = asked.iter().zip(answers).map(|((name, _), answer)| ((*name).to_owned(), lines(answer)));
        sections.extend(named);
    }
    let mut tables: Vec<String> = tool("nft --stateless list ruleset").split("\n}\n").map(sorted).collect();
    tables.sort();
    sections.insert("ruleset".to_owned(), tables.join("\n}\n"));
    sections.insert("sysctls".to_owned(), sysctls());
    // A counter stands among what a qdisc is.
    let settings = |line: &str| line.split(" direct_packets_stat").next().unwrap_or_default().to_owned();
    let mut qdiscs: Vec<String> = tool("tc qdisc show").lines().map(settings).collect();
    qdiscs.sort();
    sections.insert("qdiscs".to_owned(), qdiscs.join("\n"));
    sections.insert("namespaces".to_owned(), namespaces().join("\n"));
    sections
}

/// Fails with the sections that differ, and only those.
pub fn assert_same(before: &Snapshot, after: &Snapshot, when: &str) {
    let names = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let mut differences = String::new();
    for name in names {
        let (a, b) = (before.get(name), after.get(name));
        if a != b {
            let lines = |text: Option<&String>| {
                text.map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default()
            };
            let (a, b) = (lines(a), lines(b));
            differences.push_str(&format!("== {name}\n"));
            a.iter().filter(|line| !b.contains(line)).for_each(|line| differences.push_str(&format!("- {line}\n")));
            b.iter().filter(|line| !a.contains(line)).for_each(|line| differences.push_str(&format!("+ {line}\n")));
        }
    }
    assert!(differences.is_empty(), "{when}: the namespace is not what it was\n{differences}");
}

fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// A table with the elements of its sets and maps in a steady order: the kernel's is that of their coming.
fn sorted(table: &str) -> String {
    const OPENING: &str = "elements = {";
    // Whether a process keeps a table is no part of what it does.
    let table: String = table
        .lines()
        .filter(|line| !line.starts_with("\tflags ") && !line.is_empty())
        .map(|line| line.split(" # progname").next().unwrap_or(line).to_owned() + "\n")
        .collect();
    let mut pieces = table.split(OPENING);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (listed, rest) = piece.split_once('}').unwrap_or((piece, ""));
        let mut elements: Vec<&str> = listed.split(',').map(str::trim).collect();
        elements.sort_unstable();
        text.push_str(&format!("{OPENING} {} }}{rest}", elements.join(",\n")));
    }
    text.truncate(text.trim_end_matches(['}', '\n']).len());
    text
}

/// Every switch of every interface, in both families, and the forwarding of the whole host.
fn sysctls() -> String {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let conf = format!("/proc/sys/net/{family}/conf");
        for scope in std::fs::read_dir(&conf).expect("the interfaces' switches") {
            let scope = scope.expect("an interface's switches").path();
            // A link that has just gone takes a moment to take its switches along.
            let keys = match std::fs::read_dir(&scope) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                keys => keys.expect("an interface's switches"),
            };
            for key in keys {
                let path = key.expect("a switch").path();
                // Some (stable_secret) cannot be read while unset.
                if let Ok(value) = std::fs::read_to_string(&path) {
                    lines.push(format!("{} = {}", path.display(), value.trim()));
                }
            }
        }
    }
    for path in ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
        if let Ok(value) = std::fs::read_to_string(format!("/proc/sys/net/{path}")) {
            lines.push(format!("{path} = {}", value.trim()));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// Without what a guest has learnt from router advertisements, which comes when it comes.
fn unlearnt(mut value: Value) -> Value {
    if let Value::Array(list) = &mut value {
        list.retain(|object| object["protocol"] != "ra");
        for object in list.iter_mut() {
            if let Some(addresses) = object["addr_info"].as_array_mut() {
                addresses.retain(|address| address["dynamic"] != true);
            }
        }
        list.retain(|object| object["protocol"] != "kernel" || object["expires"].is_null());
    }
    value
}

/// What ip(8) answers to each of `commands`, asked by one process: a look at everything is taken thousands of times.
fn batch(program: &str, commands: &[&str]) -> Vec<Value> {
    use std::io::Write as _;
    let mut words = program.split_whitespace();
    let mut ip = std::process::Command::new(words.next().expect("a program"));
    ip.args(words).args(["-batch", "-"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut ip = ip.spawn().expect("ip is needed");
    let asked = ip.stdin.take().expect("a pipe").write_all((commands.join("\n") + "\n").as_bytes());
    let output = ip.wait_with_output().expect("ip's answers");
    assert!(asked.is_ok() && output.status.success(), "{program} refused one of {commands:?}");
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let answers: Vec<Value> = answers.collect::<Result<_, _>>().expect("JSON of ip's");
    assert_eq!(answers.len(), commands.len(), "{program}: an answer each");
    answers
}

/// One object a line, without what passes, in a steady order.
fn lines(mut value: Value) -> String {
    strip(&mut value);
    if let Value::Array(list) = &mut value {
        list.retain(|object| !is_late_route(object));
        for object in list.iter_mut().filter(|object| object["ifname"] != "eth0") {
            if let Some(addresses) = object["addr_info"].as_array_mut() {
                addresses.retain(|address| address["scope"] != "link");
            }
        }
    }
    let mut lines: Vec<String> =
        value.as_array().map(|a| a.iter().map(ToString::to_string).collect()).unwrap_or_default();
    lines.sort();
    lines.join("\n")
}

/// Link-local routes come when detection is through, and multicast ones with the carrier: of a bridge, when its first
/// port has one. The uplink's are settled.
fn is_late_route(object: &Value) -> bool {
    let to = object["dst"].as_str().unwrap_or_default();
    to.starts_with("fe80:") || (to == "ff00::/8" && object["dev"] != "eth0")
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !PASSING.contains(&key.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => {
            list.iter_mut().for_each(strip);
            list.retain(|v| !v.as_object().is_some_and(serde_json::Map::is_empty));
            list.retain(|v| v != "NO-CARRIER" && v != "LOWER_UP" && v != "linkdown");
        }
        _ => {}
    }
}
