//! Others' rules that name an interface: once it is plugged into a bridge that takes its place, IP packets come and go
//! by the bridge, and such a rule matches no more, or, where it says "any but", too much.

use super::{Culprit, Layer, Mend, RuleRef, saved, saved::Saved};
use crate::address::IfName;

/// A name's width in the kernel's rules (IFNAMSIZ of linux/if.h).
const WIDTH: usize = 16;

/// A condition of a rule, as far as interfaces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An interface by its name.
    Name {
        /// Whether it is the one that the packet came by; else the one that it leaves by.
        inward: bool,
        /// Whether every other one is meant.
        not: bool,
        /// The name.
        name: String,
        /// Whether all are meant whose names begin so.
        begins: bool,
    },
    /// An interface by its number.
    Index {
        /// As of a name.
        inward: bool,
        /// As of a name.
        not: bool,
        /// The kernel's number of it.
        index: u32,
    },
    /// One of a set or map, whose keys hold a name or number among others, as the kernel has them.
    Within {
        /// Whether the keys hold numbers (four bytes), not names.
        numbers: bool,
        /// Whether all but these are meant.
        not: bool,
        /// The keys.
        keys: Vec<Vec<u8>>,
        /// Whose they are.
        of: Keys,
    },
    /// Anything else.
    Other(Vec<u8>),
}

/// A set's or map's kind, as far as another key can be put beside one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It is this rule's alone, and has no name (`{ "eth0", "lo" }`).
    Rule,
    /// It has a name, and takes another key at any time.
    Set(String),
    /// Its keys stand for ranges of names, end by themselves, or are never to change.
    Fixed,
}

/// A rule of another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Where it stands, and what it says.
    pub place: Culprit,
    /// What it asks, and does.
    pub parts: Vec<Part>,
}

/// The rules that would not do any more what they do, once `bridge` takes the place of `port`, whose number is `index`.
/// A rule beside which the same stands for the bridge is none, nor one that excepts both.
#[must_use]
pub fn lost<'a>(rules: &'a [Conditions], port: &IfName, index: u32, bridge: &IfName) -> Vec<&'a Culprit> {
    made_good(rules, port, index, bridge).into_iter().map(|(place, _)| place).collect()
}

/// The same, each with what makes it good: the like of the rule, behind it, that asks for the bridge, and keys for the
/// bridge in sets that have a name. None where nothing of that kind does: exceptions (`!= "eth0"`), interfaces by their
/// numbers in sets, and what can be used once alone (maps and chains without names that are not about interfaces).
#[must_use]
pub fn made_good<'a>(
    rules: &'a [Conditions],
    port: &IfName,
    index: u32,
    bridge: &IfName,
) -> Vec<(&'a Culprit, Option<Vec<Mend>>)> {
    let ends = Ends { port: port.as_str(), index, bridge: bridge.as_str() };
    let seen = rules.iter().filter(|rule| rule.place.family != Layer::Bridge);
    seen.filter(|rule| ends.loses(rule, rules)).map(|rule| (&rule.place, likes(rule, &ends, port, bridge))).collect()
}

/// All that makes something good.
#[must_use]
pub fn twins(rules: &[Conditions], port: &IfName, index: u32, bridge: &IfName) -> Vec<Mend> {
    let mut all: Vec<Mend> =
        made_good(rules, port, index, bridge).into_iter().filter_map(|(_, likes)| likes).flatten().collect();
    // Of a set that several rules ask.
    all.sort();
    all.dedup();
    all
}

fn likes(rule: &Conditions, ends: &Ends<'_>, port: &IfName, bridge: &IfName) -> Option<Vec<Mend>> {
    let Culprit { family, table, chain, rule: told, legacy } = &rule.place;
    let (family, table, chain) = (*family, table.clone(), chain.clone());
    let (port, bridge) = (port.clone(), bridge.clone());
    let once = |bytes: &[u8]| [&b"__map"[..], b"__chain"].iter().any(|n| bytes.windows(n.len()).any(|w| w == *n));
    let mut out = Vec::new();
    // Whether something stands in the rule itself.
    let mut within = false;
    for part in &rule.parts {
        match part {
            Part::Other(bytes) if once(bytes) => return None,
            Part::Other(_) => {}
            part if !ends.breaks(part) => {}
            Part::Name { not: true, .. } | Part::Index { not: true, .. } => return None,
            Part::Name { .. } | Part::Index { .. } => within = true,
            Part::Within { numbers: true, .. } | Part::Within { of: Keys::Fixed, .. } => return None,
            Part::Within { not: true, of: Keys::Rule, .. } => return None,
            Part::Within { of: Keys::Rule, .. } => within = true,
            Part::Within { of: Keys::Set(set), keys, .. } => {
                for key in keys.iter().filter_map(|key| ends.missing(key, keys)) {
                    let (table, set, port, bridge) = (table.clone(), set.clone(), port.clone(), bridge.clone());
                    out.push(Mend::Element { family, table, set, key: hex(&key), port, bridge });
                }
            }
        }
    }
    if within {
        let RuleRef { handle, text } = told.as_ref()?;
        out.push(if *legacy {
            // Its like is to be told from it again.
            let line = text.clone();
            saved::like(&line, &port, &bridge).filter(|like| saved::original(like).is_some_and(|o| o.0 == line))?;
            Mend::LegacyTwin { family, table, chain, line, port, bridge }
        } else {
            Mend::Twin { family, table, chain, handle: *handle, port, bridge }
        });
    }
    Some(out)
}

/// A key, as text of two digits a byte.
#[must_use]
pub fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What to do about one of them.
#[must_use]
pub fn advice(rule: &Culprit, port: &IfName, bridge: &IfName) -> String {
    let text = rule.rule.as_ref().map(|rule| rule.text.as_str()).unwrap_or_default();
    let (table, chain, family) = (&rule.table, &rule.chain, rule.family.word());
    let why = format!("it names {port}, whose place {bridge} takes, so it would not match as it does");
    let except = text.contains("!=") || text.contains("! -");
    let line = named(text, port.as_str(), bridge.as_str());
    // Of a set's keys nothing stands in the text.
    if except || text.contains("name @") || line == text {
        return format!("{why}; let it, or its set, name {bridge} as well, then try again");
    }
    if rule.legacy {
        let program = if rule.family == Layer::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" };
        return format!("{why}; put the same for {bridge} beside it, `{program} -t {table} {line}`, then try again");
    }
    format!("{why}; put the same for {bridge} beside it, `{line}` in chain {chain} of {family} {table}, then try again")
}

/// The text with the one name in place of the other, where it stands as a word.
fn named(text: &str, from: &str, to: &str) -> String {
    let of = |word: &str| {
        let bare = word.trim_matches('"').trim_end_matches(['*', '+']);
        // A wildcard stands for more than the one.
        if bare == from || (bare.len() < word.trim_matches('"').len() && from.starts_with(bare)) {
            if word.starts_with('"') { format!("\"{to}\"") } else { to.to_owned() }
        } else {
            word.to_owned()
        }
    };
    text.split(' ').map(of).collect::<Vec<_>>().join(" ")
}

fn same_chain(a: &Culprit, b: &Culprit) -> bool {
    (a.legacy, a.family, &a.table, &a.chain) == (b.legacy, b.family, &b.table, &b.chain)
}

/// Who is named, and who should be.
struct Ends<'a> {
    port: &'a str,
    index: u32,
    bridge: &'a str,
}

impl Ends<'_> {
    /// Whether a rule does not do any more what it does, beside all that stand.
    fn loses(&self, rule: &Conditions, rules: &[Conditions]) -> bool {
        let hit: Vec<&Part> = rule.parts.iter().filter(|part| self.breaks(part)).collect();
        if hit.is_empty() {
            return false;
        }
        let except = |part: &&Part| matches!(part, Part::Name { not: true, .. } | Part::Index { not: true, .. });
        if hit.iter().any(|part| matches!(part, Part::Within { .. })) {
            return true;
        }
        if hit.iter().any(except) {
            return !hit.iter().filter(|part| except(part)).all(|part| self.excepted(part, &rule.parts));
        }
        let twin: Vec<Part> = rule.parts.iter().map(|part| self.moved(part)).collect();
        !rules.iter().any(|other| same_chain(&other.place, &rule.place) && other.parts == twin)
    }

    /// Whether a condition holds otherwise of the bridge than of the port.
    fn breaks(&self, part: &Part) -> bool {
        match part {
            Part::Name { name, begins, .. } => {
                matches(name, *begins, self.port) && !matches(name, *begins, self.bridge)
            }
            Part::Index { index, .. } => *index == self.index,
            Part::Within { numbers: true, keys, .. } => {
                keys.iter().any(|key| words(key, 4).any(|(_, word)| word == self.index.to_ne_bytes()))
            }
            Part::Within { numbers: false, keys, .. } => keys.iter().any(|key| self.missing(key, keys).is_some()),
            Part::Other(_) => false,
        }
    }

    /// The key that names the bridge where this one names the port, where there is none such.
    fn missing(&self, key: &[u8], keys: &[Vec<u8>]) -> Option<Vec<u8>> {
        moved_key(key, self.port, self.bridge).filter(|twin| !keys.contains(twin))
    }

    /// Whether a rule that excepts the port excepts the bridge too.
    fn excepted(&self, part: &Part, parts: &[Part]) -> bool {
        let side = |part: &Part| match part {
            Part::Name { inward, .. } | Part::Index { inward, .. } => Some(*inward),
            Part::Within { .. } | Part::Other(_) => None,
        };
        parts.iter().any(|other| match other {
            Part::Name { not: true, name, begins, .. } => {
                side(other) == side(part) && matches(name, *begins, self.bridge)
            }
            _ => false,
        })
    }

    /// The condition as it should be for the bridge.
    fn moved(&self, part: &Part) -> Part {
        match part {
            Part::Name { inward, not, .. } | Part::Index { inward, not, .. } if self.breaks(part) => {
                Part::Name { inward: *inward, not: *not, name: self.bridge.to_owned(), begins: false }
            }
            _ => part.clone(),
        }
    }
}

fn matches(name: &str, begins: bool, of: &str) -> bool {
    if begins { of.starts_with(name) } else { of == name }
}

/// A set's key with `bridge` wherever it names `port`; none where it does not.
#[must_use]
pub fn moved_key(key: &[u8], port: &str, bridge: &str) -> Option<Vec<u8>> {
    let (port, bridge) = (padded(port), padded(bridge));
    let mut twin = key.to_vec();
    for (at, _) in words(key, WIDTH).filter(|(_, word)| *word == port) {
        twin.get_mut(at..at + WIDTH)?.copy_from_slice(&bridge);
    }
    (twin != key).then_some(twin)
}

fn padded(name: &str) -> [u8; WIDTH] {
    let mut bytes = [0; WIDTH];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// What stands in a key at each four bytes, as parts of a concatenation are laid out.
fn words(key: &[u8], width: usize) -> impl Iterator<Item = (usize, &[u8])> {
    (0..key.len()).step_by(4).filter_map(move |at| Some((at, key.get(at..at + width)?)))
}

/// The rules of iptables-legacy's tables but ours: `-i NAME` and `-o NAME`, where a plus at the end is a wildcard.
#[must_use]
pub fn of_saved(saved: &Saved) -> Vec<Conditions> {
    let mut out = Vec::new();
    for table in &saved.clone().without_ours().tables {
        for chain in &table.chains {
            out.extend(chain.rules.iter().map(|rule| Conditions {
                place: Culprit {
                    legacy: true,
                    family: saved.family,
                    table: table.name.clone(),
                    chain: chain.name.clone(),
                    rule: Some(RuleRef { handle: rule.number, text: rule.text.clone() }),
                },
                parts: of_line(&rule.text),
            }));
        }
    }
    out
}

fn of_line(line: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut words = line.split(' ').peekable();
    let mut not = false;
    while let Some(word) = words.next() {
        match word {
            "!" => {
                not = true;
                continue;
            }
            "-i" | "-o" => {
                let written = words.next().unwrap_or_default();
                let name = written.trim_end_matches('+');
                let begins = name.len() < written.len();
                parts.push(Part::Name { inward: word == "-i", not, name: name.to_owned(), begins });
            }
            _ => parts.push(Part::Other(if not { format!("! {word}") } else { word.to_owned() }.into_bytes())),
        }
        not = false;
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(rules: &[&str]) -> Vec<u64> {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{}\nCOMMIT\n", rules.join("\n"));
        let saved = Saved::parse(Layer::Ip, &text).unwrap();
        let (port, bridge) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let all = of_saved(&saved);
        lost(&all, &port, 2, &bridge).iter().map(|place| place.rule.as_ref().unwrap().handle).collect()
    }

    #[test]
    fn a_rule_for_the_port_wants_its_like_for_the_bridge() {
        assert_eq!(found(&["-A INPUT -i eth0 -p tcp -j DROP"]), [1]);
        assert_eq!(found(&["-A INPUT -i eth0 -p tcp -j DROP", "-A INPUT -i br0 -p tcp -j DROP"]), [0u64; 0]);
        assert_eq!(found(&["-A INPUT -i eth0 -p tcp -j DROP", "-A INPUT -i br0 -p udp -j DROP"]), [1]);
        assert_eq!(found(&["-A INPUT -i eth1 -p tcp -j DROP", "-A INPUT -i lo -j ACCEPT"]), [0u64; 0]);
    }

    #[test]
    fn wildcards_and_exceptions_are_seen() {
        assert_eq!(found(&["-A INPUT -i eth+ -j DROP"]), [1]);
        assert_eq!(found(&["-A INPUT -i eth+ -j DROP", "-A INPUT -i br0 -j DROP"]), [0u64; 0]);
        assert_eq!(found(&["-A INPUT -i b+ -j DROP", "-A INPUT -i + -j DROP"]), [0u64; 0]);
        assert_eq!(found(&["-A INPUT ! -i eth0 -j DROP"]), [1]);
        assert_eq!(found(&["-A INPUT ! -i eth0 -j DROP", "-A INPUT ! -i br0 -j DROP"]), [1]);
        assert_eq!(found(&["-A INPUT ! -i docker0 -j DROP"]), [0u64; 0]);
    }

    #[test]
    fn keys_of_sets_are_looked_into() {
        let (port, bridge): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let place = Culprit { legacy: false, family: Layer::Inet, table: "t".into(), chain: "c".into(), rule: None };
        let lost = |numbers, keys: Vec<Vec<u8>>| {
            let part = Part::Within { numbers, not: false, keys, of: Keys::Rule };
            lost(&[Conditions { place: place.clone(), parts: vec![part] }], &port, 7, &bridge).len()
        };
        let key = |name: &str, rest: &[u8]| [&padded(name)[..], rest].concat();
        assert_eq!(lost(false, vec![key("eth0", &[]), key("lo", &[])]), 1);
        assert_eq!(lost(false, vec![key("eth0", &[]), key("br0", &[])]), 0);
        assert_eq!(lost(false, vec![key("eth0", &[0, 22, 0, 0]), key("br0", &[0, 80, 0, 0])]), 1);
        assert_eq!(lost(false, vec![key("eth00", &[])]), 0);
        assert_eq!(lost(true, vec![7u32.to_ne_bytes().to_vec()]), 1);
        assert_eq!(lost(true, vec![8u32.to_ne_bytes().to_vec()]), 0);
    }

    #[test]
    fn what_to_write_is_told() {
        let (port, bridge): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let rule = |legacy, text: &str| Culprit {
            legacy,
            family: Layer::Ip,
            table: "filter".into(),
            chain: "INPUT".into(),
            rule: Some(RuleRef { handle: 4, text: text.into() }),
        };
        let told = advice(&rule(true, "-A INPUT -i eth0 -j DROP"), &port, &bridge);
        assert!(told.contains("`iptables-legacy -t filter -A INPUT -i br0 -j DROP`"), "{told}");
        let told = advice(&rule(false, "iifname \"eth*\" th dport 80 drop"), &port, &bridge);
        assert!(told.contains("`iifname \"br0\" th dport 80 drop` in chain INPUT of ip filter"), "{told}");
        let told = advice(&rule(false, "iifname != \"eth0\" drop"), &port, &bridge);
        assert!(told.contains("name br0 as well"), "{told}");
    }
}
