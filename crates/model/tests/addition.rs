//! One forward more found out from a few is what it is found out from all: on random files, refusals included.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use model::addition::{Addition, Outline, addition};
use model::address::{IfName, Transport};
use model::facts::{HostFacts, Listener};
use model::flow::{Flow, Grants, Tuple};
use model::network::{Network, load};
use model::plan::{Step, plan};
use model::services::Services;
use model::state::{Baseline, Ids, desired};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// The host of these files: sshd on 22, and something of the host's own on 20003.
fn facts() -> HostFacts {
    let mut facts = HostFacts::assumed(IfName::new("eth0").unwrap());
    facts.ssh_ports = vec![22];
    facts.listeners.push(Listener {
        transport: Transport::Tcp,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 20_003,
        owner: Some("daemon (pid 7)".to_owned()),
    });
    facts
}

const HEADS: [&str; 5] = [
    "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n",
    "[host]\nuplink = \"eth0\"\n",
    "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\", \"2001:db8::2\"]\nmanagement = [\"20004\"]\n",
    "[host]\nuplink = \"eth0\"\nfix-foreign = true\n",
    "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[[site]]\nhost = \"a.example\"\nto = \"a:80\"\nlisten = [\"20005\"]\n",
];
const LANS: &str = "[lan.br1]\ndhcp = \"10.1.1.100-10.1.1.120\"\naddress = [\"10.1.1.1/24\", \"fd10:1:1::1/64\"]\n[lan.br2]\naddress = [\"10.1.2.1/24\"]\n\
    [lan.br3]\nmode = \"isolated\"\naddress = [\"10.1.3.1/24\"]\n\
    [guest.a]\nkind = \"netns\"\nlan = \"br1\"\naddress = [\"10.1.1.6\", \"fd10:1:1::6\"]\n\
    [guest.b]\nkind = \"reserved\"\nlan = \"br1\"\naddress = [\"10.1.1.7\"]\n\
    [guest.c]\nkind = \"vm\"\nlan = \"br2\"\naddress = [\"10.1.2.6\"]\nlimit = { in = \"1mbit\" }\n\
    [guest.d]\nkind = \"reserved\"\nlan = \"br3\"\naddress = [\"10.1.3.6\"]\n\
    [guest.e]\nkind = \"netns\"\nlan = \"br1\"\n";
/// Some are no good.
const LISTENS: [&str; 12] =
    ["P", "P/tcp", "P/udp", "P/tcp,udp", "P-Q", "P-Q/udp", "203.0.113.2:P", "*", "P/sctp", "Q-P", "0", "P"];
const TARGETS: [&str; 12] =
    ["a:T", "b:T", "c:T", "a", "c", "10.1.1.9:T", "10.1.1.6:T", "d:T", "nobody:T", "e:T", "a:T-T", "[fd10:1:1::9]:T"];
/// What else may stand in a forward, or by it.
const MORE: [&str; 8] = [
    "",
    "",
    "",
    "",
    "hairpin = false\n",
    "sources = [\"198.51.100.0/24\"]\n",
    "# of ours\n",
    "sources = [\n  \"192.0.2.1\",\n]\n",
];

#[derive(Clone, Debug)]
struct Sketch {
    listen: usize,
    to: usize,
    port: u16,
    more: usize,
    spelt: u8,
}

impl Sketch {
    fn listen(&self) -> String {
        let port = 20_000 + self.port;
        LISTENS[self.listen].replace('P', &port.to_string()).replace('Q', &(port + 3).to_string())
    }

    fn to(&self) -> String {
        let range = format!("{}-{}", 1000 + self.port, 1003 + self.port);
        TARGETS[self.to].replace("T-T", &range).replace('T', &(1000 + self.port % 7).to_string())
    }

    fn text(&self) -> String {
        let (listen, to, more) = (self.listen(), self.to(), MORE[self.more]);
        match self.spelt {
            0 if listen.parse::<u16>().is_ok() => format!("\n[[forward]]\nlisten = {listen}\nto = \"{to}\"\n{more}"),
            1 => format!("[[forward]] # here\nto = '{to}'\nlisten = \"{listen}\"\n{more}"),
            2 => format!("\n[[forward]]\n  to=\"{to}\"\n  listen = \"{listen}\"\n{more}\n"),
            _ => format!("\n[[forward]]\nlisten = \"{listen}\"\nto = \"{to}\"\n{more}"),
        }
    }
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let usual = prop_oneof![4 => 0usize..4, 1 => 4usize..12];
    let to = prop_oneof![4 => 0usize..5, 1 => 5usize..12];
    (usual, to, 0u16..40, 0usize..8, 0u8..8).prop_map(|(listen, to, port, more, spelt)| Sketch {
        listen,
        to,
        port,
        more,
        spelt,
    })
}

/// A file with those of the forwards that it takes, and another forward.
fn files() -> impl Strategy<Value = (String, Sketch)> {
    (0usize..5, prop::collection::vec(sketch(), 0..14), sketch()).prop_map(|(head, forwards, new)| {
        let mut text = format!("{}{LANS}", HEADS[head]);
        for forward in &forwards {
            let longer = text.clone() + &forward.text();
            if load(&longer, &facts()).is_ok() {
                text = longer;
            }
        }
        (text, new)
    })
}

fn changes(before: &Network, after: &Network) -> Vec<Step> {
    let state = |network: &Network| desired(network, &Baseline::default(), &Ids::default());
    plan(&state(before), &state(after)).steps
}

/// Flows to the new forward's ports and beside them, under every way in which they may have been begun.
fn flows() -> Vec<Flow> {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let ends = [ip("10.1.1.6"), ip("10.1.1.7"), ip("10.1.2.6"), ip("203.0.113.2")];
    let sources = [ip("198.51.100.9"), ip("192.0.2.1"), ip("10.1.1.7"), ip("203.0.113.2")];
    let mut all = Vec::new();
    for port in 20_000..20_044 {
        for (n, end) in ends.iter().enumerate() {
            let source = sources[(n + usize::from(port)) % sources.len()];
            for protocol in [6, 17] {
                let original = Tuple { source, destination: ends[3], source_port: 4000, destination_port: port };
                let inner = if *end == ends[3] { port } else { 1000 + port % 7 };
                let reply = Tuple { source: *end, destination: source, source_port: inner, destination_port: 4000 };
                all.push(Flow { protocol, original, reply });
            }
        }
    }
    all
}

fn is_the_same(text: &str, new: &Sketch, found: &Addition) {
    let before = load(text, &facts()).unwrap().1;
    let longer = format!("{text}{}", found.tail);
    let after = load(&longer, &facts()).unwrap_or_else(|problems| panic!("{longer}\n{problems:?}")).1;
    let grown = Network { forwards: [before.forwards.clone(), found.forwards.clone()].concat(), ..before.clone() };
    assert_eq!(grown, after, "{new:?}");
    assert_eq!(changes(&before, &after), [Step::Rules { changes: found.changes.clone() }], "{longer}");
    assert_eq!(Services::of(&before), Services::of(&after));
    let local = ["203.0.113.2".parse().unwrap(), "10.1.1.1".parse().unwrap(), "10.1.2.1".parse().unwrap()];
    let (whole, few, old) =
        (Grants::new(&after, &local), Grants::new(&found.around, &local), Grants::new(&before, &local));
    for flow in flows() {
        let concerned = found.concerns(flow.protocol, flow.original.destination_port);
        let stale = whole.is_stale(&flow);
        assert_eq!(stale, if concerned { few.is_stale(&flow) } else { old.is_stale(&flow) }, "{flow:?}\n{longer}");
    }
}

#[test]
fn the_files_are_good() {
    for head in HEADS {
        let text = format!("{head}{LANS}");
        if let Err(problems) = load(&text, &facts()) {
            panic!("{text}\n{problems:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn few_forwards_tell_what_all_tell((text, new) in files()) {
        if let Some(found) = addition(&text, &new.listen(), &new.to(), &facts()) {
            is_the_same(&text, &new, &found);
        }
    }

    /// What is kept of the last one says nothing else than what is found out anew: of the same file as it grows, of another
    /// one, and on a host that has changed.
    #[test]
    fn what_is_kept_says_what_is_found_out_anew(
        files in prop::collection::vec(files(), 1..3),
        more in prop::collection::vec((0usize..2, sketch(), any::<bool>()), 1..8),
    ) {
        let mut texts: Vec<String> = files.into_iter().map(|(text, _)| text).collect();
        let other = HostFacts { listeners: Vec::new(), ..facts() };
        let mut kept = None;
        for (which, new, changed) in more {
            let which = which % texts.len();
            let facts = if changed { &other } else { &facts() };
            let text = &mut texts[which];
            let anew = addition(text, &new.listen(), &new.to(), facts);
            let Some(outline) = Outline::of(text) else { continue };
            let found = outline.addition(text, &new.listen(), &new.to(), facts, &mut kept);
            prop_assert_eq!(&found, &anew);
            if let Some(found) = found {
                text.push_str(&found.tail);
            }
        }
    }
}

/// The ordinary is not left to the whole way, or all of this would be of no use; what is refused always is.
#[test]
fn the_ordinary_goes_the_short_way() {
    let mut runner = TestRunner::deterministic();
    let strategy = files();
    let (mut short, mut refused) = (0, 0);
    for _ in 0..300 {
        let (text, new) = strategy.new_tree(&mut runner).unwrap().current();
        let found = addition(&text, &new.listen(), &new.to(), &facts());
        let tail = format!("\n[[forward]]\nlisten = \"{}\"\nto = \"{}\"\n", new.listen(), new.to());
        if load(&format!("{text}{tail}"), &facts()).is_err() {
            refused += 1;
            assert_eq!(found, None, "{text}{tail}");
        }
        short += usize::from(found.is_some());
    }
    assert!(short >= 20 && refused >= 60, "{short} {refused}");
    let mut text = format!("{}{LANS}", HEADS[0]);
    for port in 0..500 {
        text += &format!("\n[[forward]]\nlisten = \"{}\"\nto = \"a:{}\"\n", 30_000 + port, 1000 + port);
    }
    let found = addition(&text, "40000", "a:22", &facts()).unwrap();
    assert!(found.around.forwards.len() < 4, "{:?}", found.around.forwards);
    assert_eq!(found.tail, "\n[[forward]]\nlisten = \"40000\"\nto = \"a:22\"\n");
}
