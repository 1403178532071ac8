//! Other tools' firewalls: which rule of theirs stops what a network declares, and the smallest mend of it.
//!
//! What is found is the kernel's own word (it is asked in a lab, packet by packet). Decided here is where a mend goes,
//! and what a person would type to make it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::IfName;

pub mod naming;
pub mod saved;

/// What begins the comment of every rule of ours in another's table.
pub const RULE_MARK: &str = "warren: ";

/// firewalld's zone that trusts its interfaces. What may pass there is still decided by our own table.
pub const TRUSTED: &str = "trusted";

/// The name of firewalld's tables.
const FIREWALLD: &str = "firewalld";

/// A packet filter's address family, as nft calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames on a bridge.
    Bridge,
}

impl Layer {
    /// nft's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }

    /// Of nft's word; none for families that do not see what we forward.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Ip, Self::Ip6, Self::Inet, Self::Bridge].into_iter().find(|layer| layer.word() == word)
    }
}

/// The interfaces that packets come in and go out by, as one hook sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Way {
    /// In by; none for what the host itself sends.
    pub from: Option<IfName>,
    /// Out by; none for what is for the host itself, and where it is not known yet.
    pub to: Option<IfName>,
}

impl Way {
    /// The comment of a rule that lets this way pass.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{RULE_MARK}{self}")
    }

    /// What [`Self::mark`] was made of; none where it is no mark of ours.
    #[must_use]
    pub fn of_mark(comment: &str) -> Option<Self> {
        let (from, to) = comment.strip_prefix(RULE_MARK)?.split_once(" to ")?;
        let end = |word: &str| match word {
            HOST => Some(None),
            name => IfName::new(name).ok().map(Some),
        };
        Some(Self { from: end(from)?, to: end(to)? })
    }
}

/// What stands where a way has no interface: no interface can have the name.
const HOST: &str = "*";

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |name: &Option<IfName>| name.as_ref().map_or_else(|| HOST.to_owned(), ToString::to_string);
        write!(f, "{} to {}", end(&self.from), end(&self.to))
    }
}

/// The smallest thing that lets pass what another's firewall stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Mend {
    /// A rule of nf_tables that accepts, the first of its chain, with our mark as its comment.
    Accept {
        /// The table's family.
        family: Layer,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// What it accepts.
        way: Way,
    },
    /// An interface of ours put into a zone of firewalld's, for as long as firewalld runs.
    Zone {
        /// The zone.
        zone: String,
        /// Ours.
        interface: IfName,
    },
    /// A rule of iptables-legacy that accepts, the first of its chain, with our mark as its comment.
    Legacy {
        /// `Ip` or `Ip6`.
        family: Layer,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// What it accepts.
        way: Way,
    },
    /// The like of a rule that names an interface, behind it, for the bridge that takes the interface's place.
    Twin {
        /// The table's family.
        family: Layer,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The rule's handle.
        handle: u64,
        /// The interface.
        port: IfName,
        /// Its number here, by which rules may name it.
        index: u32,
        /// The bridge.
        bridge: IfName,
    },
    /// The bridge excepted as well by the rules that except the interface: they are written anew in their places, with one
    /// condition more, since nothing beside them could keep them from the bridge.
    Except {
        /// The table's family.
        family: Layer,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// What the rule asks and does, told apart from any other: its handle is another once it is written anew.
        print: String,
        /// The same, for people.
        text: String,
        /// How often the rule stands in the chain.
        count: usize,
        /// The interface.
        port: IfName,
        /// Its number here, by which rules may name it.
        index: u32,
        /// The bridge.
        bridge: IfName,
    },
    /// A key of a set or map that names the bridge, beside the one that names the interface in its place.
    Element {
        /// The table's family.
        family: Layer,
        /// The table.
        table: String,
        /// The set or map.
        set: String,
        /// The key with the bridge's name, two digits a byte, as the kernel has it.
        key: String,
        /// The interface.
        port: IfName,
        /// The bridge.
        bridge: IfName,
    },
    /// The like of a rule of iptables-legacy's, behind it.
    LegacyTwin {
        /// `Ip` or `Ip6`.
        family: Layer,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The rule, as iptables-legacy-save words it: its numbers do not stay.
        line: String,
        /// The interface.
        port: IfName,
        /// The bridge.
        bridge: IfName,
    },
}

/// Which rule a rule of ours is the like of, or stands in the place of, and for the sake of which interface and bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The rule's handle.
    pub handle: u64,
    /// The interface.
    pub port: IfName,
    /// Its number.
    pub index: u32,
    /// The bridge.
    pub bridge: IfName,
}

impl Marked {
    fn parse(words: &str) -> Option<Self> {
        let (handle, rest) = words.split_once(", ")?;
        let (bridge, rest) = rest.split_once(" for ")?;
        let (port, index) = rest.split_once(' ')?;
        let (port, bridge) = (IfName::new(port).ok()?, IfName::new(bridge).ok()?);
        Some(Self { handle: handle.parse().ok()?, port, index: index.parse().ok()?, bridge })
    }
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} for {} {}", self.handle, self.bridge, self.port, self.index)
    }
}

impl Mend {
    /// The comment of a key for a bridge, beside the one for an interface.
    #[must_use]
    pub fn element_mark(port: &IfName, bridge: &IfName) -> String {
        format!("{RULE_MARK}{bridge} for {port}")
    }

    /// The interface and bridge that [`Self::element_mark`] was made of; none where it is no mark of ours.
    #[must_use]
    pub fn of_element_mark(comment: &str) -> Option<(IfName, IfName)> {
        let (bridge, port) = comment.strip_prefix(RULE_MARK)?.split_once(" for ")?;
        Some((IfName::new(port).ok()?, IfName::new(bridge).ok()?))
    }

    /// The comment of a rule that is another's twin.
    #[must_use]
    pub fn twin_mark(of: &Marked) -> String {
        format!("{RULE_MARK}as {of}")
    }

    /// What [`Self::twin_mark`] was made of; none where it is no mark of ours.
    #[must_use]
    pub fn of_twin_mark(comment: &str) -> Option<Marked> {
        Marked::parse(comment.strip_prefix(RULE_MARK)?.strip_prefix("as ")?)
    }

    /// The comment of a rule that excepts the bridge by what its expressions `at` those places ask, and before that had the
    /// comment `own`.
    #[must_use]
    pub fn except_mark(of: &Marked, at: &[usize], own: Option<&str>) -> String {
        let at = at.iter().map(usize::to_string).collect::<Vec<_>>().join(".");
        let own = own.map(|own| format!("; {own}")).unwrap_or_default();
        format!("{RULE_MARK}but {of} at {at}{own}")
    }

    /// What [`Self::except_mark`] was made of; none where it is no mark of ours.
    #[must_use]
    pub fn of_except_mark(comment: &str) -> Option<(Marked, Vec<usize>, Option<String>)> {
        let words = comment.strip_prefix(RULE_MARK)?.strip_prefix("but ")?;
        let (ours, own) = words.split_once("; ").map_or((words, None), |(ours, own)| (ours, Some(own.to_owned())));
        let (of, at) = ours.split_once(" at ")?;
        Some((Marked::parse(of)?, at.split('.').map(|at| at.parse().ok()).collect::<Option<_>>()?, own))
    }

    /// Whether it is the like, for a bridge, of another's rule or key for an interface.
    #[must_use]
    pub fn is_twin(&self) -> bool {
        matches!(self, Self::Twin { .. } | Self::Except { .. } | Self::Element { .. } | Self::LegacyTwin { .. })
    }

    /// The line that makes it, for a person to type.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Self::Accept { chain, way, .. } | Self::Legacy { chain, way, .. } if is_ufw(chain) => ufw(way),
            Self::Accept { family, table, chain, way } if is_iptables(*family, chain) => {
                iptables(if *family == Layer::Ip6 { "ip6tables" } else { "iptables" }, table, chain, way)
            }
            Self::Accept { family, table, chain, way } => {
                let matches = |word: &str, name: &Option<IfName>| {
                    name.as_ref().map(|name| format!("{word} \"{name}\" ")).unwrap_or_default()
                };
                let ends = matches("iifname", &way.from) + &matches("oifname", &way.to);
                format!("nft insert rule {} {table} {chain} {ends}accept", family.word())
            }
            Self::Zone { zone, interface } => format!("firewall-cmd --zone={zone} --add-interface={interface}"),
            Self::Legacy { family, table, chain, way } => {
                let program = if *family == Layer::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" };
                iptables(program, table, chain, way)
            }
            Self::Twin { family, table, chain, handle, bridge, .. } => {
                format!("nft add rule {} {table} {chain} position {handle} … \"{bridge}\" …", family.word())
            }
            Self::Except { family, table, chain, text, bridge, .. } => {
                format!("nft replace rule {} {table} {chain} handle … {text} (and != \"{bridge}\")", family.word())
            }
            Self::Element { family, table, set, bridge, .. } => {
                format!("nft add element {} {table} {set} {{ … \"{bridge}\" … }}", family.word())
            }
            Self::LegacyTwin { family, table, line, port, bridge, .. } => {
                let program = if *family == Layer::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" };
                let like = saved::like(line, port, bridge).unwrap_or_default();
                format!("{program} -t {table} {}", like.replacen("-A ", "-I ", 1))
            }
        }
    }
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept { family, table, chain, way } => {
                write!(f, "accept {way} in chain {chain} of table {} {table}, another's", family.word())
            }
            Self::Zone { zone, interface } => write!(f, "{interface} in firewalld's zone {zone}"),
            Self::Legacy { family, table, chain, way } => {
                let family = family.word();
                write!(f, "accept {way} in chain {chain} of table {family} {table} of iptables-legacy, another's")
            }
            Self::Twin { family, table, chain, handle, port, bridge, .. } => {
                let family = family.word();
                write!(
                    f,
                    "the same for {bridge} as rule {handle} of chain {chain} of table {family} {table} has for {port}"
                )
            }
            Self::Except { family, table, chain, text, port, bridge, .. } => {
                let family = family.word();
                write!(
                    f,
                    "{bridge} excepted beside {port} by the rule \"{text}\" of chain {chain} of table {family} {table}, written anew"
                )
            }
            Self::Element { family, table, set, port, bridge, .. } => {
                let family = family.word();
                write!(f, "the same for {bridge} as set {set} of table {family} {table} has for {port}")
            }
            Self::LegacyTwin { family, table, line, port, bridge, .. } => {
                let family = family.word();
                write!(f, "the same for {bridge} as `{line}` of table {family} {table} of iptables-legacy for {port}")
            }
        }
    }
}

/// Chains that iptables' programs know: they keep to their form, and take no rule that they cannot read.
fn is_iptables(family: Layer, chain: &str) -> bool {
    const CHAINS: [&str; 6] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", DOCKER_USER];
    matches!(family, Layer::Ip | Layer::Ip6) && CHAINS.contains(&chain)
}

const DOCKER_USER: &str = "DOCKER-USER";

fn is_ufw(chain: &str) -> bool {
    chain.starts_with("ufw-user-") || chain.starts_with("ufw6-user-")
}

fn ufw(way: &Way) -> String {
    match (&way.from, &way.to) {
        (Some(from), Some(to)) => format!("ufw route allow in on {from} out on {to}"),
        (Some(from), None) => format!("ufw allow in on {from}"),
        (None, Some(to)) => format!("ufw allow out on {to}"),
        (None, None) => "ufw default allow".to_owned(),
    }
}

fn iptables(program: &str, table: &str, chain: &str, way: &Way) -> String {
    let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
    let end = |letter: &str, name: &Option<IfName>| name.as_ref().map(|n| format!("{letter} {n} ")).unwrap_or_default();
    format!("{program} {table}-I {chain} {}{}-j ACCEPT", end("-i", &way.from), end("-o", &way.to))
}

/// What stops a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Culprit {
    /// Whether it is iptables-legacy's, which nf_tables does not show.
    pub legacy: bool,
    /// The table's family.
    pub family: Layer,
    /// The table.
    pub table: String,
    /// The chain that the packet ended in.
    pub chain: String,
    /// The rule; none where the chain's policy did it.
    pub rule: Option<RuleRef>,
}

/// A rule of another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// Its handle in nf_tables, as `nft -a list` shows it; of iptables-legacy its number in the chain.
    pub handle: u64,
    /// What it says, as far as we understand it; the rest is named in brackets.
    pub text: String,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, table, chain) = (self.family.word(), &self.table, &self.chain);
        let legacy = if self.legacy { " of iptables-legacy" } else { "" };
        match &self.rule {
            None => write!(f, "the policy of chain {chain} of table {family} {table}{legacy} (drop)"),
            Some(RuleRef { handle, text }) => {
                let number = if self.legacy { "number" } else { "handle" };
                write!(f, "the rule \"{text}\" ({number} {handle}) of chain {chain} of table {family} {table}{legacy}")
            }
        }
    }
}

/// A rule of another's that stops something declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub culprit: Culprit,
    /// On which way.
    pub way: Way,
    /// What of it: names of probes.
    pub flows: BTreeSet<String>,
    /// Whether it is answers alone that it stops.
    pub answers: bool,
    /// What lets it pass; none where none was found that does.
    pub mend: Option<Mend>,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let mut flows: Vec<&str> = self.flows.iter().map(String::as_str).take(SHOWN).collect();
        let more = format!("{} more", self.flows.len().saturating_sub(SHOWN));
        if self.flows.len() > SHOWN {
            flows.push(&more);
        }
        let what = if self.answers { "answers to: " } else { "" };
        write!(f, "{} stops {what}{} ({})", self.culprit, flows.join(", "), self.way)
    }
}

/// What is known of the table and base chain in which a packet was dropped.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Whether the table is iptables-legacy's.
    pub legacy: bool,
    /// The table's family.
    pub family: Layer,
    /// The table.
    pub table: &'a str,
    /// The base chain, in which the packet's way through the table began.
    pub base: &'a str,
    /// The names of all the table's chains.
    pub chains: &'a BTreeSet<String>,
    /// Interfaces of ours.
    pub ours: &'a BTreeSet<IfName>,
}

/// Where rules that accept `way` may go, the one that its tool keeps for that purpose first.
#[must_use]
pub fn mends(scene: &Scene<'_>, way: &Way) -> Vec<Mend> {
    if scene.table == FIREWALLD {
        // What is in its table is its own to write; a reload would take ours away.
        let ours = [&way.from, &way.to].into_iter().flatten().find(|name| scene.ours.contains(name));
        return ours.map(|name| Mend::Zone { zone: TRUSTED.to_owned(), interface: name.clone() }).into_iter().collect();
    }
    let kept_for_it = match (scene.family, scene.base) {
        (Layer::Ip, "FORWARD") => [DOCKER_USER, "ufw-user-forward"].as_slice(),
        (Layer::Ip6, "FORWARD") => &[DOCKER_USER, "ufw6-user-forward"],
        (Layer::Ip, "INPUT") => &["ufw-user-input"],
        (Layer::Ip6, "INPUT") => &["ufw6-user-input"],
        (Layer::Ip, "OUTPUT") => &["ufw-user-output"],
        (Layer::Ip6, "OUTPUT") => &["ufw6-user-output"],
        _ => &[],
    };
    let there = kept_for_it.iter().copied().filter(|chain| scene.chains.contains(*chain)).chain([scene.base]);
    if scene.legacy {
        return there.filter_map(|chain| legacy_mend(scene, chain, way)).collect();
    }
    there
        .map(|chain| Mend::Accept {
            family: scene.family,
            table: scene.table.to_owned(),
            chain: chain.to_owned(),
            way: way.clone(),
        })
        .collect()
}

/// None where iptables would read an interface's name as something else.
fn legacy_mend(scene: &Scene<'_>, chain: &str, way: &Way) -> Option<Mend> {
    let mut way = way.clone();
    // "Can't use -i with POSTROUTING", though the kernel knows it there.
    if scene.base == "POSTROUTING" {
        way.from = None;
    }
    let plain = [&way.from, &way.to].into_iter().flatten().all(|name| saved::is_plain(name.as_str()));
    let (table, chain) = (scene.table.to_owned(), chain.to_owned());
    plain.then_some(Mend::Legacy { family: scene.family, table, chain, way })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn way(from: &str, to: &str) -> Way {
        let end = |text: &str| (!text.is_empty()).then(|| name(text));
        Way { from: end(from), to: end(to) }
    }

    fn commands(family: Layer, table: &str, base: &str, chains: &[&str], way: &Way) -> Vec<String> {
        commands_in(false, family, table, base, chains, way)
    }

    fn commands_in(legacy: bool, family: Layer, table: &str, base: &str, chains: &[&str], way: &Way) -> Vec<String> {
        let chains = chains.iter().map(ToString::to_string).collect();
        let ours = [name("br1")].into();
        let scene = Scene { legacy, family, table, base, chains: &chains, ours: &ours };
        mends(&scene, way).iter().map(Mend::command).collect()
    }

    #[test]
    fn legacy_tables_are_told_by_their_own_programs() {
        let legacy = |family, table, base, chains: &[&str], way| commands_in(true, family, table, base, chains, way);
        let out = way("br1", "eth0");
        assert_eq!(
            legacy(Layer::Ip, "filter", "FORWARD", &["FORWARD", "DOCKER-USER"], &out),
            [
                "iptables-legacy -I DOCKER-USER -i br1 -o eth0 -j ACCEPT",
                "iptables-legacy -I FORWARD -i br1 -o eth0 -j ACCEPT"
            ]
        );
        assert_eq!(
            legacy(Layer::Ip6, "filter", "FORWARD", &["ufw6-user-forward"], &out),
            ["ufw route allow in on br1 out on eth0", "ip6tables-legacy -I FORWARD -i br1 -o eth0 -j ACCEPT"]
        );
        assert_eq!(
            legacy(Layer::Ip, "mangle", "POSTROUTING", &[], &out),
            ["iptables-legacy -t mangle -I POSTROUTING -o eth0 -j ACCEPT"]
        );
        // `br+` is every bridge to iptables.
        assert!(legacy(Layer::Ip, "filter", "FORWARD", &[], &way("br+", "eth0")).is_empty());
    }

    #[test]
    fn a_mark_is_read_back() {
        for way in [way("br1", "eth0"), way("br1", ""), way("", "br1"), way("", "")] {
            assert_eq!(Way::of_mark(&way.mark()), Some(way));
        }
        for other in ["br1 to eth0", "warren: ", "warren: br1", "warren: br1 to an interface's name"] {
            assert_eq!(Way::of_mark(other), None, "{other}");
        }
    }

    #[test]
    fn each_tool_is_told_in_its_own_words() {
        let out = way("br1", "eth0");
        assert_eq!(
            commands(Layer::Ip, "filter", "FORWARD", &["FORWARD", "DOCKER-USER"], &out),
            ["iptables -I DOCKER-USER -i br1 -o eth0 -j ACCEPT", "iptables -I FORWARD -i br1 -o eth0 -j ACCEPT"]
        );
        assert_eq!(
            commands(Layer::Ip6, "filter", "FORWARD", &["FORWARD", "ufw6-user-forward"], &out)[0],
            "ufw route allow in on br1 out on eth0"
        );
        assert_eq!(
            commands(Layer::Ip, "filter", "INPUT", &["INPUT", "ufw-user-input"], &way("br1", ""))[0],
            "ufw allow in on br1"
        );
        assert_eq!(
            commands(Layer::Inet, "firewalld", "filter_FORWARD", &["filter_FORWARD"], &out),
            ["firewall-cmd --zone=trusted --add-interface=br1"]
        );
        assert!(commands(Layer::Inet, "firewalld", "filter_OUTPUT", &[], &way("", "eth0")).is_empty());
        assert_eq!(
            commands(Layer::Inet, "mine", "fwd", &["fwd"], &out),
            [r#"nft insert rule inet mine fwd iifname "br1" oifname "eth0" accept"#]
        );
        assert_eq!(
            commands(Layer::Ip, "mangle", "FORWARD", &["FORWARD"], &way("", "br1")),
            ["iptables -t mangle -I FORWARD -o br1 -j ACCEPT"]
        );
    }
}
