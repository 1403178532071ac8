//! Whatever stands in the file, it is read without a panic, and every problem has a place inside it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use self::config::read;

/// The fuzzers' own.
#[allow(dead_code)]
#[path = "../../../fuzz/properties/config.rs"]
mod config;

const EVERYTHING: &str = include_str!("config/good-everything/warren.toml");
const SEED: &str = include_str!("../../../examples/seed.toml");
const COLLISIONS: &str = include_str!("config/forward-collisions/warren.toml");
const SITES: &str = include_str!("config/site-problems/warren.toml");

/// Words that the grammars take apart, so that mutations hit more than the syntax.
fn word() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "nat",
        "bridged",
        "routed",
        "isolated",
        "*",
        "0",
        "-1",
        "22",
        "1-65535/tcp,udp",
        "[::]:1",
        "[",
        "]:",
        "10.1.1.1/24",
        "fd00::1/64",
        "0.0.0.0/0",
        "255.255.255.255/32",
        "::/0",
        "a:1-",
        "world",
        "br1",
        "a",
        "é",
        "\u{0}",
        "100mbit",
        "99999999999999999999",
        "10.1.1.255-10.1.1.0",
        "ff:ff:ff:ff:ff:ff",
        "lxc",
        "vm",
        "[[forward]]",
        "[lan.\"\"]",
        "{}",
        "[]",
        "'''",
        "\"",
        "\\u{10ffff}",
        "1e999",
        "nan",
        "1979-05-27",
        "true",
        "\r\n",
        "\u{feff}",
    ];
    prop_oneof![prop::sample::select(WORDS).prop_map(str::to_owned), "\\PC{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_arbitrary_text(text in "(?s).{0,200}") {
        read(&text);
    }

    #[test]
    fn of_mutated_examples(
        example in prop::sample::select(&[EVERYTHING, SEED, COLLISIONS, SITES][..]),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, word()), 1..5),
    ) {
        let mut text = example.to_owned();
        for (at, length, word) in cuts {
            let floor = |mut i: usize| { while !text.is_char_boundary(i) { i -= 1; } i };
            let start = floor(at.index(text.len() + 1));
            let end = floor((start + length).min(text.len())).max(start);
            text.replace_range(start..end, &word);
        }
        read(&text);
    }

    #[test]
    fn of_values_in_every_place(key in prop::sample::select(KEYS), value in word()) {
        let (section, key) = key;
        for written in [format!("\"{}\"", value.escape_default()), format!("[\"{}\"]", value.escape_default()), value.clone()] {
            read(&format!("{section}\n{key} = {written}\n"));
            read(&format!("[lan.br1]\naddress = [\"10.1.1.1/24\"]\n[guest.a]\naddress = [\"10.1.1.6\"]\n{section}\n{key} = {written}\n"));
        }
    }
}

/// The stack of a thread is 2 MiB here, and 8 MiB in the program.
#[test]
fn of_deep_nesting() {
    for deep in [100, 10_000, 200_000] {
        read(&format!("a = {}", "[".repeat(deep)));
        read(&format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)));
        read(&format!("a = {}", "{b=".repeat(deep)));
        read(&format!("{}a = 1", "a.".repeat(deep)));
        read(&format!("[{}a]", "a.".repeat(deep)));
        read(&format!("[lan.br1]\nlimit.{}a = 1", "a.".repeat(deep)));
        read(&format!("guest.a = {}1{}", "{ lan.a = ".repeat(deep), "}".repeat(deep)));
        read(&"[[forward]]\n".repeat(deep.min(10_000)));
    }
}

const KEYS: &[(&str, &str)] = &[
    ("[host]", "uplink"),
    ("[host]", "public"),
    ("[host]", "management"),
    ("[lan.br2]", "address"),
    ("[lan.br2]", "mode"),
    ("[lan.br2]", "taps"),
    ("[lan.br2]", "dhcp"),
    ("[lan.br2]", "mtu"),
    ("[guest.b]", "address"),
    ("[guest.b]", "mac"),
    ("[guest.b]", "limit"),
    ("[guest.b]", "tap"),
    ("[guest.b]", "aliases"),
    ("[[forward]]", "listen"),
    ("[[forward]]", "to"),
    ("[[forward]]", "sources"),
    ("[[allow]]", "from"),
    ("[[allow]]", "ports"),
    ("[[site]]", "host"),
    ("[[site]]", "to"),
    ("[[site]]", "listen"),
    ("[[site]]", "tls"),
    ("[[site]]", "health"),
    ("[socks]", "listen"),
    ("[check]", "reach"),
    ("", "lan"),
    ("", "guest"),
];
