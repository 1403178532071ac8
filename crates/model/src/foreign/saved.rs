//! The tables of x_tables' own, as `iptables-legacy-save` prints them and `iptables-legacy-restore` reads them
//! (iptables-save(8)). Rules are kept as their owner's tool words them; of each only its target and our mark are read.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Culprit, Layer, Mend, RULE_MARK, RuleRef, Way};
use crate::address::IfName;

/// Targets that end a packet: xt_DROP is x_tables' own verdict, ipt_REJECT, and TARPIT of xtables-addons.
const ENDS: [&str; 3] = ["DROP", "REJECT", "TARPIT"];

/// The tables of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// `Ip` or `Ip6`.
    pub family: Layer,
    /// In the order in which they were printed.
    pub tables: Vec<SavedTable>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTable {
    /// Its name: `filter`, `raw`.
    pub name: String,
    /// Its chains, in order.
    pub chains: Vec<SavedChain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// `ACCEPT` or `DROP`; none for chains that are only jumped to.
    pub policy: Option<String>,
    /// Its rules, in order.
    pub rules: Vec<SavedRule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRule {
    /// Its number in the chain, from 1, as `iptables-legacy -L --line-numbers` shows it.
    pub number: u64,
    /// The line: `-A FORWARD -i tun0 -j ACCEPT`.
    pub text: String,
}

/// A line that is none of iptables-save(8)'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not understood: {text}")]
pub struct SavedError {
    /// Counted from 1.
    pub line: usize,
    /// What stands there.
    pub text: String,
}

impl Saved {
    /// Reads what the program printed, without counters (`-c`).
    ///
    /// # Errors
    /// The first line that is none of its format.
    pub fn parse(family: Layer, printed: &str) -> Result<Self, SavedError> {
        let mut tables: Vec<SavedTable> = Vec::new();
        let mut inside = false;
        for (nth, line) in printed.lines().enumerate() {
            let line = line.trim_end();
            let error = || SavedError { line: nth + 1, text: line.to_owned() };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('*') {
                tables.push(SavedTable { name: name.to_owned(), chains: Vec::new() });
                inside = true;
                continue;
            }
            let table = tables.last_mut().filter(|_| inside).ok_or_else(error)?;
            match line {
                "COMMIT" => inside = false,
                _ if line.starts_with(':') => table.chains.push(SavedChain::parse(line).ok_or_else(error)?),
                _ => table.take_rule(line).ok_or_else(error)?,
            }
        }
        if inside {
            let text = "the end, before COMMIT".to_owned();
            return Err(SavedError { line: printed.lines().count() + 1, text });
        }
        Ok(Self { family, tables })
    }

    /// For `iptables-legacy-restore`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for table in &self.tables {
            let _ = writeln!(out, "*{}", table.name);
            for chain in &table.chains {
                let _ = writeln!(out, ":{} {} [0:0]", chain.name, chain.policy.as_deref().unwrap_or("-"));
            }
            for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
                let _ = writeln!(out, "{}", rule.text);
            }
            out.push_str("COMMIT\n");
        }
        out
    }

    /// The same without rules of ours; the others keep the numbers that they have now.
    #[must_use]
    pub fn without_ours(mut self) -> Self {
        for chain in self.tables.iter_mut().flat_map(|table| &mut table.chains) {
            chain.rules.retain(|rule| !rule.is_ours(&chain.name));
        }
        self
    }

    /// The rules of ours.
    #[must_use]
    pub fn mends(&self) -> BTreeSet<Mend> {
        let mut out = BTreeSet::new();
        for table in &self.tables {
            for chain in &table.chains {
                let (family, table, name) = (self.family, &table.name, &chain.name);
                let ways = chain.rules.iter().filter_map(|rule| rule.way_of_ours(name));
                out.extend(ways.map(|way| Mend::Legacy { family, table: table.clone(), chain: name.clone(), way }));
                let likes = chain.rules.iter().filter_map(|rule| original(&rule.text));
                out.extend(likes.map(|(line, port, bridge)| Mend::LegacyTwin {
                    family,
                    table: table.clone(),
                    chain: name.clone(),
                    line,
                    port,
                    bridge,
                }));
            }
        }
        out
    }

    /// The chains that drop or reject, or whose policy drops: `chain ip filter FORWARD of iptables-legacy`.
    #[must_use]
    pub fn dropping(&self) -> Vec<String> {
        let mut out = Vec::new();
        for table in &self.tables {
            let drops = |chain: &&SavedChain| {
                chain.drops_by_policy() || chain.rules.iter().any(|rule| rule.ends_packets(&chain.name))
            };
            let chains = table.chains.iter().filter(drops);
            out.extend(
                chains.map(|c| format!("chain {} {} {} of iptables-legacy", self.family.word(), table.name, c.name)),
            );
        }
        out
    }

    /// What stopped a packet that came to the `nth` rule (from 1) of a chain, or by none to the chain's policy; none
    /// where that does not end packets.
    #[must_use]
    pub fn culprit(&self, table: &str, chain: &str, nth: Option<u64>) -> Option<Culprit> {
        let found = self.table(table)?.chains.iter().find(|c| c.name == chain)?;
        let rule = match nth {
            None if found.drops_by_policy() => None,
            None => return None,
            Some(nth) => {
                let at = usize::try_from(nth.checked_sub(1)?).ok()?;
                let rule = found.rules.get(at).filter(|rule| rule.ends_packets(chain))?;
                Some(RuleRef { handle: rule.number, text: rule.text.clone() })
            }
        };
        let (table, chain) = (table.to_owned(), chain.to_owned());
        Some(Culprit { legacy: true, family: self.family, table, chain, rule })
    }

    /// A culprit that was found in a copy of this, with the number that its rule has here: what the copy has more stands
    /// before it, first in its chain, or is the like of a rule that it stands behind, and told as that one.
    #[must_use]
    pub fn own(&self, copy: &Self, mut culprit: Culprit) -> Culprit {
        let rules = |of: &Self| {
            let chain = of.table(&culprit.table)?.chains.iter().find(|chain| chain.name == culprit.chain)?;
            Some(chain.rules.clone())
        };
        if let (Some(here), Some(there), Some(found)) = (rules(self), rules(copy), &mut culprit.rule) {
            let is_found = |rule: &SavedRule| rule.number == found.handle;
            // Where it is a like, the last rule before it that is none.
            let of_likes = there.iter().take_while(|rule| rule.number <= found.handle);
            let is_like = |rule: &SavedRule| original(&rule.text).is_some();
            let told = there.iter().find(|rule| is_found(rule) && is_like(rule));
            let number =
                told.and_then(|_| of_likes.filter(|rule| !is_like(rule)).last()).map_or(found.handle, |r| r.number);
            let text = told.and_then(|rule| original(&rule.text)).map_or(found.text.clone(), |(line, ..)| line);
            let behind = there.iter().rev().filter(|rule| !is_like(rule)).position(|rule| rule.number == number);
            let here: Vec<&SavedRule> = here.iter().filter(|rule| !is_like(rule)).collect();
            let own = behind.and_then(|behind| here.iter().rev().nth(behind)).filter(|rule| rule.text == text);
            if let Some(own) = own {
                *found = RuleRef { handle: own.number, text };
            }
        }
        culprit
    }

    /// A table by its name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&SavedTable> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl SavedTable {
    /// The names of its chains.
    #[must_use]
    pub fn chain_names(&self) -> BTreeSet<String> {
        self.chains.iter().map(|chain| chain.name.clone()).collect()
    }

    fn take_rule(&mut self, line: &str) -> Option<()> {
        let rest = line.strip_prefix("-A ")?;
        // No name of a chain has a space in it: iptables refuses it.
        let name = rest.split(' ').next()?;
        let chain = self.chains.iter_mut().find(|chain| chain.name == name)?;
        let number = chain.rules.len() as u64 + 1;
        chain.rules.push(SavedRule { number, text: line.to_owned() });
        Some(())
    }
}

impl SavedChain {
    /// `:FORWARD DROP [0:0]`, `:DOCKER-USER - [0:0]`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(':')?.split(' ');
        let (name, policy) = (words.next()?.to_owned(), words.next()?);
        let policy = (policy != "-").then(|| policy.to_owned());
        Some(Self { name, policy, rules: Vec::new() })
    }

    fn drops_by_policy(&self) -> bool {
        self.policy.as_deref() == Some("DROP")
    }
}

impl SavedRule {
    fn ends_packets(&self, chain: &str) -> bool {
        // What lets our own traffic pass is no one's culprit, whatever its chain is called; the like of a rule is as that.
        let words = words(&self.text);
        let target = words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1));
        self.way_of_ours(chain).is_none() && target.is_some_and(|target| ENDS.contains(&target.as_str()))
    }

    fn is_ours(&self, chain: &str) -> bool {
        self.way_of_ours(chain).is_some() || original(&self.text).is_some()
    }

    /// Which way it lets pass, where it is exactly what we write.
    fn way_of_ours(&self, chain: &str) -> Option<Way> {
        let at = self.text.find(RULE_MARK)?;
        let comment = self.text.get(at..)?.split('"').next()?;
        let way = Way::of_mark(comment)?;
        (self.text == format!("-A {}", specification(chain, &way))).then_some(way)
    }
}

/// What stands behind `-A`, `-I` or `-D`, worded as iptables-save words it.
fn specification(chain: &str, way: &Way) -> String {
    let end = |letter: &str, name: Option<&IfName>| name.map(|name| format!("{letter} {name} ")).unwrap_or_default();
    let (from, to) = (end("-i", way.from.as_ref()), end("-o", way.to.as_ref()));
    format!("{chain} {from}{to}-m comment --comment \"{}\" -j ACCEPT", way.mark())
}

/// For `iptables-legacy-restore --noflush`: puts our rule first in its chain.
#[must_use]
pub fn insertion(table: &str, chain: &str, way: &Way) -> String {
    format!("*{table}\n-I {}\nCOMMIT\n", specification(chain, way))
}

/// For `iptables-legacy-restore --noflush`: takes our rule out of its chain, as often as it stands there.
#[must_use]
pub fn removal(saved: &Saved, table: &str, chain: &str, way: &Way) -> Option<String> {
    let found = saved.table(table)?.chains.iter().find(|c| c.name == chain)?;
    let ours = found.rules.iter().filter(|rule| rule.way_of_ours(chain).as_ref() == Some(way)).count();
    let line = format!("-D {}\n", specification(chain, way));
    (ours > 0).then(|| format!("*{table}\n{}COMMIT\n", line.repeat(ours)))
}

/// The like of a rule, for the bridge that takes an interface's place: `bridge` where that asks for `port`, or for all
/// whose names begin like its, and a comment by which it is known. None where it does not ask for it so.
#[must_use]
pub fn like(line: &str, port: &IfName, bridge: &IfName) -> Option<String> {
    let mut written: Option<&str> = None;
    let mut out: Vec<&str> = Vec::new();
    // Names stand before all that may be quoted.
    let (plain, quoted) = line.split_at(line.find('"').unwrap_or(line.len()));
    let mut before = ["", ""];
    for word in plain.split(' ') {
        let is_end = matches!(before[1], "-i" | "-o");
        let meant = word == port.as_str() || word.strip_suffix('+').is_some_and(|head| port.as_str().starts_with(head));
        if is_end && meant {
            if before[0] == "!" || written.is_some_and(|other| other != word) {
                return None;
            }
            written = Some(word);
        }
        out.push(if is_end && meant { bridge.as_str() } else { word });
        before = [before[1], word];
    }
    let mark = format!("-m comment --comment \"{RULE_MARK}as {}, {bridge} for {port}\"", written?);
    Some(format!("{}{quoted} {mark}", out.join(" ")))
}

/// The rule that [`like`] was made of, the interface and the bridge; none where it is no like.
#[must_use]
pub fn original(like: &str) -> Option<(String, IfName, IfName)> {
    let begin = format!("-m comment --comment \"{RULE_MARK}as ");
    let at = like.rfind(&begin)?;
    let (mark, rest) = like.get(at + begin.len()..)?.split_once('"')?;
    let (written, names) = mark.split_once(", ")?;
    let (bridge, port) = names.split_once(" for ")?;
    let (port, bridge) = (IfName::new(port).ok()?, IfName::new(bridge).ok()?);
    let line = format!("{}{}", like.get(..at)?.trim_end(), rest);
    let (plain, quoted) = line.split_at(line.find('"').unwrap_or(line.len()));
    let mut before = "";
    let mut words = Vec::new();
    for word in plain.split(' ') {
        let is_it = matches!(before, "-i" | "-o") && word == bridge.as_str();
        words.push(if is_it { written } else { word });
        before = word;
    }
    Some((format!("{}{quoted}", words.join(" ")), port, bridge))
}

/// For `iptables-legacy-restore --noflush`: puts the like of a rule right behind it; none where the rule is gone.
#[must_use]
pub fn like_insertion(saved: &Saved, table: &str, chain: &str, line: &str, ends: (&IfName, &IfName)) -> Option<String> {
    let found = saved.table(table)?.chains.iter().find(|c| c.name == chain)?;
    let number = found.rules.iter().find(|rule| rule.text == line)?.number + 1;
    let like = like(line, ends.0, ends.1)?;
    let rest = like.strip_prefix(&format!("-A {chain} "))?;
    Some(format!("*{table}\n-I {chain} {number} {rest}\nCOMMIT\n"))
}

/// For `iptables-legacy-restore --noflush`: takes the like of a rule out, as often as it stands there.
#[must_use]
pub fn like_removal(saved: &Saved, table: &str, chain: &str, line: &str) -> Option<String> {
    let found = saved.table(table)?.chains.iter().find(|c| c.name == chain)?;
    let likes = found.rules.iter().filter(|rule| original(&rule.text).is_some_and(|(of, ..)| of == line));
    let lines: String = likes.map(|rule| format!("-D{}\n", rule.text.strip_prefix("-A").unwrap_or_default())).collect();
    (!lines.is_empty()).then(|| format!("*{table}\n{lines}COMMIT\n"))
}

/// Whether iptables reads a name as it stands: `+` at a name's end would mean all that begin so, and quotes and
/// backslashes are its own.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@'))
}

/// A line's words, with what stands in double quotes as one (xtables_save_string of libxtables).
fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.get_or_insert_default().push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => out.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PRINTED: &str = r#"# Generated by iptables-save v1.8.9
*filter
:INPUT ACCEPT [12:800]
:FORWARD DROP [0:0]
:THEIRS - [0:0]
-A FORWARD -i br1 -o eth0 -m comment --comment "warren: br1 to eth0" -j ACCEPT
-A FORWARD -m comment --comment "say \"-j DROP\" here" -j THEIRS
-A FORWARD -p udp -m comment --comment "warren: br1 to eth0" -j ACCEPT
-A THEIRS -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
# Completed
"#;

    fn way() -> Way {
        Way { from: Some(IfName::new("br1").unwrap()), to: Some(IfName::new("eth0").unwrap()) }
    }

    #[test]
    fn what_is_read_is_written_again() {
        let saved = Saved::parse(Layer::Ip, PRINTED).unwrap();
        assert_eq!(Saved::parse(Layer::Ip, &saved.text()).unwrap(), saved);
        for (torn, line) in [("-A FORWARD -j DROP\n", 1), ("*filter\n", 2), ("*filter\n-A NONE -j DROP\nCOMMIT\n", 2)] {
            assert_eq!(Saved::parse(Layer::Ip, torn).unwrap_err().line, line, "{torn}");
        }
    }

    #[test]
    fn only_what_we_write_is_ours() {
        let saved = Saved::parse(Layer::Ip, PRINTED).unwrap();
        let ours =
            Mend::Legacy { family: Layer::Ip, table: "filter".to_owned(), chain: "FORWARD".to_owned(), way: way() };
        assert_eq!(saved.mends(), [ours].into());
        let line = r#"-i br1 -o eth0 -m comment --comment "warren: br1 to eth0" -j ACCEPT"#;
        let taken = format!("*filter\n-D FORWARD {line}\nCOMMIT\n");
        assert_eq!(removal(&saved, "filter", "FORWARD", &way()), Some(taken));
        assert_eq!(insertion("filter", "FORWARD", &way()), format!("*filter\n-I FORWARD {line}\nCOMMIT\n"));
        let theirs = saved.clone().without_ours();
        assert!(theirs.mends().is_empty());
        assert_eq!(removal(&theirs, "filter", "FORWARD", &way()), None);
        let numbers: Vec<u64> = theirs.tables[0].chains[1].rules.iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, [2, 3], "the numbers are the owner's");
    }

    #[test]
    fn policies_and_rules_that_end_packets_are_culprits() {
        let saved = Saved::parse(Layer::Ip, PRINTED).unwrap();
        let name = |chain, nth| saved.culprit("filter", chain, nth).map(|culprit| culprit.to_string());
        assert_eq!(
            name("FORWARD", None).unwrap(),
            "the policy of chain FORWARD of table ip filter of iptables-legacy (drop)"
        );
        assert_eq!(
            name("THEIRS", Some(1)).unwrap(),
            "the rule \"-A THEIRS -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\" (number 1) \
             of chain THEIRS of table ip filter of iptables-legacy"
        );
        // A mend more in the copy, or one less, is no other rule.
        let fewer = Saved::parse(Layer::Ip, &saved.clone().without_ours().text()).unwrap();
        let third = "-A FORWARD -p udp -m comment --comment \"warren: br1 to eth0\" -j DROP";
        let change = |of: &Saved| Saved::parse(Layer::Ip, &of.text().replace(&third.replace("DROP", "ACCEPT"), third));
        let (saved_with, fewer) = (change(&saved).unwrap(), change(&fewer).unwrap());
        let found = fewer.culprit("filter", "FORWARD", Some(2)).unwrap();
        assert_eq!(saved_with.own(&fewer, found).rule.unwrap().handle, 3);
        let found = saved_with.culprit("filter", "FORWARD", Some(3)).unwrap();
        assert_eq!(fewer.own(&saved_with, found).rule.unwrap().handle, 2);
        for passing in [("INPUT", None), ("THEIRS", None), ("FORWARD", Some(1)), ("FORWARD", Some(2)), ("NONE", None)] {
            assert_eq!(name(passing.0, passing.1), None, "{passing:?}");
        }
        let says = |chain: &str| format!("chain ip filter {chain} of iptables-legacy");
        assert_eq!(saved.dropping(), [says("FORWARD"), says("THEIRS")]);
    }

    #[test]
    fn a_like_tells_what_it_is_the_like_of() {
        let (port, bridge): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let made = |line: &str| like(line, &port, &bridge);
        for line in [
            "-A INPUT -i eth0 -p tcp -m tcp --dport 81 -j DROP",
            "-A INPUT ! -s 10.0.0.0/8 -i eth+ -j DROP",
            r#"-A INPUT -i eth0 -m comment --comment "say -i eth0 \"here\"" -j ACCEPT"#,
            "-A OUTPUT -o eth0 -j LOG --log-prefix eth0",
        ] {
            let like = made(line).unwrap();
            assert!(like.contains(" br0 "), "{like}");
            assert_eq!(original(&like), Some((line.to_owned(), port.clone(), bridge.clone())), "{like}");
            // As the kernel's owner prints it: matches before targets.
            let (head, mark) = like.rsplit_once(" -m comment ").unwrap();
            let (matches, target) = head.rsplit_once(" -j ").unwrap();
            let printed = format!("{matches} -m comment {mark} -j {target}");
            assert_eq!(original(&printed).unwrap().0, line, "{printed}");
        }
        for line in ["-A INPUT -i eth1 -j DROP", "-A INPUT ! -i eth0 -j DROP", "-A FORWARD -i eth0 -o eth+ -j DROP"] {
            assert_eq!(made(line), None, "{line}");
        }
        assert_eq!(original(r#"-A INPUT -i br0 -m comment --comment "warren: br1 to eth0" -j ACCEPT"#), None);
    }

    #[test]
    fn a_like_stands_behind_its_rule_and_is_told_as_that() {
        let (port, bridge): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let text = |rules: &[&str]| format!("*filter\n:INPUT ACCEPT [0:0]\n{}\nCOMMIT\n", rules.join("\n"));
        let rules = ["-A INPUT -i lo -j ACCEPT", "-A INPUT -i eth0 -j DROP", "-A INPUT -p tcp -j REJECT"];
        let saved = Saved::parse(Layer::Ip, &text(&rules)).unwrap();
        let put = like_insertion(&saved, "filter", "INPUT", rules[1], (&port, &bridge)).unwrap();
        let mark = r#"-m comment --comment "warren: as eth0, br0 for eth0""#;
        assert_eq!(put, format!("*filter\n-I INPUT 3 -i br0 -j DROP {mark}\nCOMMIT\n"));
        assert_eq!(like_insertion(&saved, "filter", "INPUT", "-A INPUT -i eth0 -j ACCEPT", (&port, &bridge)), None);
        let like = format!("-A INPUT -i br0 {mark} -j DROP");
        let with = Saved::parse(Layer::Ip, &text(&[rules[0], rules[1], &like, rules[2]])).unwrap();
        assert_eq!(with.clone().without_ours().tables[0].chains[0].rules.len(), 3);
        let taken = like_removal(&with, "filter", "INPUT", rules[1]).unwrap();
        assert_eq!(taken, format!("*filter\n-D INPUT -i br0 {mark} -j DROP\nCOMMIT\n"));
        assert_eq!(like_removal(&saved, "filter", "INPUT", rules[1]), None);
        assert_eq!(with.mends().len(), 1);
        // What is behind it has the number that it has without.
        let found = with.culprit("filter", "INPUT", Some(4)).unwrap();
        assert_eq!(saved.own(&with, found).rule.unwrap().handle, 3);
        let by_like = with.culprit("filter", "INPUT", Some(3)).unwrap();
        let own = saved.own(&with, by_like).rule.unwrap();
        assert_eq!((own.handle, own.text.as_str()), (2, rules[1]));
    }
}
