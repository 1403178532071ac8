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
        /// As of a name.
        inward: bool,
        /// Whether the keys hold numbers (four bytes), not names.
        numbers: bool,
        /// Whether all but these are meant.
        not: bool,
        /// Whether a key is the name or number alone, and nothing is found by it.
        plain: bool,
        /// The keys.
        keys: Vec<Vec<u8>>,
        /// Ranges of keys, the first and the last of each: `"eth*"` is one.
        spans: Vec<(Vec<u8>, Vec<u8>)>,
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
    /// Its keys stand for ranges.
    Ranges,
    /// Its keys end by themselves, or are never to change.
    Fixed,
}

/// A rule of another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Where it stands, and what it says.
    pub place: Culprit,
    /// What it asks, and does.
    pub parts: Vec<Part>,
    /// The same in a few letters that no other rule has; of iptables-legacy's empty.
    pub print: String,
}

/// The rules that would not do any more what they do, once `bridge` takes the place of `port`, whose number is `index`.
/// A rule beside which the same stands for the bridge is none, nor one that excepts both.
#[must_use]
pub fn lost<'a>(rules: &'a [Conditions], port: &IfName, index: u32, bridge: &IfName) -> Vec<&'a Culprit> {
    made_good(rules, port, index, bridge).into_iter().map(|(place, _)| place).collect()
}

/// The same, each with what makes it good: the like of the rule, behind it, that asks for the bridge; the rule written anew
/// with the bridge excepted as well; keys for the bridge in sets that have a name. None where nothing of that kind does:
/// exceptions of keys of several parts, and of iptables-legacy's; maps that tell numbers apart, and chains without names.
#[must_use]
pub fn made_good<'a>(
    rules: &'a [Conditions],
    port: &IfName,
    index: u32,
    bridge: &IfName,
) -> Vec<(&'a Culprit, Option<Vec<Mend>>)> {
    let ends = Ends { port: port.as_str(), index, bridge: bridge.as_str() };
    let seen = rules.iter().filter(|rule| rule.place.family != Layer::Bridge);
    let lost = seen.filter(|rule| ends.loses(rule, rules));
    lost.map(|rule| (&rule.place, Likes { ends: &ends, port, bridge, rules }.of(rule))).collect()
}

/// Whether a condition would not hold of `bridge` as it does of `port`, whose number is `index`, and no other of `parts`
/// makes up for it.
#[must_use]
pub fn is_broken(part: &Part, parts: &[Part], port: &IfName, index: u32, bridge: &IfName) -> bool {
    let ends = Ends { port: port.as_str(), index, bridge: bridge.as_str() };
    ends.breaks(part) && !(part.is_exception() && ends.excepted(part, parts))
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

/// What is asked for: what makes a rule good for a bridge.
struct Likes<'a> {
    ends: &'a Ends<'a>,
    port: &'a IfName,
    bridge: &'a IfName,
    rules: &'a [Conditions],
}

impl Likes<'_> {
    fn of(&self, rule: &Conditions) -> Option<Vec<Mend>> {
        let once = |bytes: &[u8]| [&b"__map"[..], b"__chain"].iter().any(|n| bytes.windows(n.len()).any(|w| w == *n));
        if rule.parts.iter().any(|part| matches!(part, Part::Other(bytes) if once(bytes))) {
            return None;
        }
        let broken = || rule.parts.iter().filter(|part| self.ends.breaks(part));
        let (of_sets, in_rule): (Vec<&Part>, Vec<&Part>) = broken().partition(|part| part.takes_keys());
        let mut out: Vec<Mend> = of_sets.into_iter().flat_map(|part| self.keys(rule, part)).collect();
        let (not, asked): (Vec<&Part>, Vec<&Part>) = in_rule.into_iter().partition(|part| part.is_exception());
        let not: Vec<&Part> = not.into_iter().filter(|part| !self.ends.excepted(part, &rule.parts)).collect();
        if !asked.is_empty() {
            // The rule itself holds of nothing any more, so what it excepts is its like's matter.
            let can =
                asked.iter().all(|part| part.can_be_asked()) && not.iter().all(|part| part.can_be_excepted_anew());
            out.push(self.twin(rule).filter(|_| can)?);
        } else if !not.is_empty() {
            out.push(self.except(rule).filter(|_| not.iter().all(|part| part.can_be_excepted()))?);
        }
        Some(out)
    }

    fn keys(&self, rule: &Conditions, part: &Part) -> Vec<Mend> {
        let Part::Within { of: Keys::Set(set), keys, .. } = part else { return Vec::new() };
        let Culprit { family, table, .. } = &rule.place;
        let missing = keys.iter().filter_map(|key| self.ends.missing(key, keys));
        let key = |key: Vec<u8>| Mend::Element {
            family: *family,
            table: table.clone(),
            set: set.clone(),
            key: hex(&key),
            port: self.port.clone(),
            bridge: self.bridge.clone(),
        };
        missing.map(key).collect()
    }

    fn twin(&self, rule: &Conditions) -> Option<Mend> {
        let Culprit { family, table, chain, rule: told, legacy } = &rule.place;
        let (family, table, chain) = (*family, table.clone(), chain.clone());
        let (port, index, bridge) = (self.port.clone(), self.ends.index, self.bridge.clone());
        let RuleRef { handle, text } = told.as_ref()?;
        if !legacy {
            return Some(Mend::Twin { family, table, chain, handle: *handle, port, index, bridge });
        }
        // Its like is to be told from it again.
        let line = text.clone();
        saved::like(&line, &port, &bridge).filter(|like| saved::original(like).is_some_and(|o| o.0 == line))?;
        Some(Mend::LegacyTwin { family, table, chain, line, port, bridge })
    }

    fn except(&self, rule: &Conditions) -> Option<Mend> {
        let Culprit { family, table, chain, rule: told, legacy } = &rule.place;
        // A rule of iptables-legacy's names one interface a side.
        let text = told.as_ref().filter(|_| !legacy)?.text.clone();
        let same = |other: &&Conditions| same_chain(&other.place, &rule.place) && other.print == rule.print;
        Some(Mend::Except {
            family: *family,
            table: table.clone(),
            chain: chain.clone(),
            print: rule.print.clone(),
            text,
            count: self.rules.iter().filter(same).count(),
            port: self.port.clone(),
            index: self.ends.index,
            bridge: self.bridge.clone(),
        })
    }
}

impl Part {
    /// Whether it holds of all but what it names.
    #[must_use]
    pub fn is_exception(&self) -> bool {
        matches!(self, Self::Name { not: true, .. } | Self::Index { not: true, .. } | Self::Within { not: true, .. })
    }

    /// Whether it asks a set that can be given another name.
    fn takes_keys(&self) -> bool {
        matches!(self, Self::Within { numbers: false, of: Keys::Set(_), spans, .. } if spans.is_empty())
    }

    /// Whether a set of the rule's own holds the names, one by one.
    fn holds_names(&self) -> bool {
        matches!(self, Self::Within { numbers: false, of: Keys::Rule, spans, .. } if spans.is_empty())
    }

    /// Whether the bridge can be asked for in its place.
    fn can_be_asked(&self) -> bool {
        !matches!(self, Self::Within { .. }) || self.holds_names() || self.is_plain()
    }

    /// Whether a rule that asks for the bridge can except it here.
    fn can_be_excepted_anew(&self) -> bool {
        !matches!(self, Self::Within { .. }) || self.holds_names()
    }

    /// Whether a condition behind it can except the bridge as well.
    fn can_be_excepted(&self) -> bool {
        !matches!(self, Self::Within { .. }) || self.is_plain()
    }

    /// Whether it asks for the interface alone, and for it to be among some.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Within { plain: true, .. })
    }

    /// Whether its set tells of the bridge by nothing that can be put beside what it tells of the interface.
    #[must_use]
    pub fn is_told_by_name_alone(&self) -> bool {
        self.is_plain() && !self.holds_names() && !self.takes_keys()
    }

    /// Whether it is about the interface that a packet came by, not about the one that it leaves by; none where it is about
    /// neither.
    #[must_use]
    pub fn side(&self) -> Option<bool> {
        match self {
            Self::Name { inward, .. } | Self::Index { inward, .. } | Self::Within { inward, .. } => Some(*inward),
            Self::Other(_) => None,
        }
    }
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
    let program = if rule.family == Layer::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" };
    if rule.legacy && text.contains("! -") {
        // It takes one interface a side.
        let side = if text.contains("! -o ") { "-o" } else { "-i" };
        return format!(
            "{why}; have it jump to a chain of its own that begins with `{side} {port} -j RETURN` and `{side} {bridge} -j RETURN` \
             and then does what it does (`{program} -t {table} -N …`), then try again"
        );
    }
    let except = text.contains("!=") || text.contains("! -");
    let line = named(text, port.as_str(), bridge.as_str());
    if text.contains("__chain") {
        return format!(
            "{why}; give the chain in it a name (`nft add chain {family} {table} …`), and put the same for {bridge} beside it, \
             then try again"
        );
    }
    // Of a set's keys nothing stands in the text.
    if except || text.contains("name @") || text.contains("name {") || line == text {
        return format!("{why}; let it, or its set, name {bridge} as well, then try again");
    }
    if rule.legacy {
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
        let hit = rule.parts.iter().filter(|part| self.breaks(part));
        let (not, asked): (Vec<&Part>, Vec<&Part>) = hit.partition(|part| part.is_exception());
        if asked.is_empty() {
            return !not.iter().all(|part| self.excepted(part, &rule.parts));
        }
        if asked
            .iter()
            .any(|part| matches!(part, Part::Within { plain: false, .. } | Part::Within { of: Keys::Set(_), .. }))
        {
            return true;
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
            Part::Within { numbers: false, plain, keys, spans, .. } => {
                let within = |name: &str| spans.iter().any(|span| spanned(span, name, *plain));
                keys.iter().any(|key| self.missing(key, keys).is_some()) || (within(self.port) && !within(self.bridge))
            }
            Part::Other(_) => false,
        }
    }

    /// The key that names the bridge where this one names the port, where there is none such.
    fn missing(&self, key: &[u8], keys: &[Vec<u8>]) -> Option<Vec<u8>> {
        moved_key(key, self.port, self.bridge).filter(|twin| !keys.contains(twin))
    }

    /// Whether a rule that excepts the port excepts the bridge too.
    fn excepted(&self, part: &Part, parts: &[Part]) -> bool {
        parts.iter().any(|other| match other {
            Part::Name { not: true, name, begins, .. } => {
                other.side() == part.side() && matches(name, *begins, self.bridge)
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
            Part::Within { inward, not: false, plain: true, .. } if self.breaks(part) => {
                Part::Name { inward: *inward, not: false, name: self.bridge.to_owned(), begins: false }
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

/// Whether a name lies in a range of keys; of keys with several parts, in a range of names that begin alike.
fn spanned((first, last): &(Vec<u8>, Vec<u8>), name: &str, plain: bool) -> bool {
    let name = padded(name);
    let mut places = words(first, WIDTH).zip(words(last, WIDTH)).filter(|((at, _), _)| !plain || *at == 0);
    places.any(|((_, first), (_, last))| {
        let alike = plain || (first != last && first[0] != 0 && first[0] == last[0]);
        alike && first <= &name[..] && &name[..] <= last
    })
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
                print: String::new(),
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
            let spans = Vec::new();
            let part = Part::Within { inward: true, numbers, not: false, plain: false, keys, spans, of: Keys::Rule };
            let rule = Conditions { place: place.clone(), parts: vec![part], print: String::new() };
            lost(&[rule], &port, 7, &bridge).len()
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
