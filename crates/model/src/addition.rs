//! One forward more, behind the others of a file that is up, found out from the few forwards that it can touch instead
//! of from all of them.
//!
//! A forward touches another only where both take the same port, or mean the same guest; all else that it is held
//! against (LANs, guests, the host's own ports, sites) is in the rest of the file. So the file is read without most of
//! its forwards, once with the new one and once without it, and what differs is what the new one does. Nothing is
//! decided here that is not decided by [`network::load`] and [`plan`] on the shorter file; and whatever is unusual
//! about the file or the difference is left to the whole way. The property tests hold the two ways to be the same.

use std::ops::Range;

use crate::facts::HostFacts;
use crate::network::{self, Forward, Network};
use crate::plan::{Step, TableChange, plan};
use crate::services::Services;
use crate::state::{Baseline, Ids, State, desired};

/// More forwards than these beside the new one are not looked at here.
const FEW: usize = 64;

/// What one forward more does.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// What comes behind the file's text.
    pub tail: String,
    /// What the network gets behind its other forwards: one for each protocol.
    pub forwards: Vec<Forward>,
    /// What our tables get: elements, and nothing else.
    pub changes: Vec<TableChange>,
    /// The network with the new forward and those that it might have touched: which flows to the new one's ports are
    /// granted follows from these.
    pub around: Network,
}

impl Addition {
    /// Whether a flow of that protocol to that port may be granted otherwise than before.
    #[must_use]
    pub fn concerns(&self, protocol: u8, port: u16) -> bool {
        let takes = |forward: &Forward| (forward.ports.first..=forward.ports.last).contains(&port);
        self.forwards.iter().any(|forward| forward.transport.number() == protocol && takes(forward))
    }
}

/// What `text` becomes by a forward from `listen` to `to`, on a host of which `facts` are known. `text` must be such that
/// it resolves on that host without a problem. None where the new forward is no good, or anything is unusual: then the
/// whole way says what it is.
#[must_use]
pub fn addition(text: &str, listen: &str, to: &str, facts: &HostFacts) -> Option<Addition> {
    Outline::of(text)?.addition(text, listen, to, facts, &mut None)
}

/// What the file meant without the new forward, as far as that one can touch it. One after the other they mostly touch the
/// same, so whoever adds many keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The shorter file, and what is known of the host.
    text: String,
    facts: HostFacts,
    network: Network,
    state: State,
}

impl Before {
    fn of(text: String, facts: &HostFacts) -> Option<Self> {
        let (_, network) = network::load(&text, facts).ok()?;
        Some(Self { state: state_of(&network), text, facts: facts.clone(), network })
    }
}

fn state_of(network: &Network) -> State {
    desired(network, &Baseline::default(), &Ids::default())
}

/// Single ports or a range, whatever the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Of a `listen` without an address; none of what is written in any other way.
    fn of(listen: &str) -> Option<Self> {
        let (ports, protocols) = listen.split_once('/').unwrap_or((listen, "tcp"));
        if !matches!(protocols, "tcp" | "udp" | "tcp,udp" | "udp,tcp") {
            return None;
        }
        let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Some(Self { first: port(first)?, last: port(last)? })
    }

    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn is_single(self) -> bool {
        self.first == self.last
    }
}

/// Where the forwards of a file stand, behind everything else, and what each takes. Whoever adds many keeps it with the
/// text: what it says of ten thousand forwards is not found out anew for one more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    blocks: Vec<Block>,
    /// The text's length.
    end: usize,
}

/// A `[[forward]]`, from its header to before the next one's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    start: usize,
    /// Where it is nothing but a `listen` without an address and a `to`: its ports, and where its target stands, without
    /// the port.
    plain: Option<(Ports, Range<usize>)>,
}

const HEADER: &str = "[[forward]]";

impl Outline {
    /// None where the text has lines that could be read in two ways without reading it whole, where other sections stand
    /// behind forwards, or where anything but a forward's own line ends it.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let last = text.lines().next_back()?.trim();
        if !text.ends_with('\n') || !(last.starts_with("listen") || last.starts_with("to")) || text.contains('\r') {
            return None;
        }
        let mut reader = Reader { blocks: Vec::new(), listen: None, to: None, odd: false };
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(length) = reader.as_we_write(at, rest) {
                at += length;
                continue;
            }
            let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
            reader.line(at, rest.get(..length)?)?;
            at += length;
        }
        reader.end();
        (!reader.blocks.is_empty()).then_some(Self { blocks: reader.blocks, end: text.len() })
    }

    /// As [`addition`], of the text that this is the outline of. `kept` has what the last one was held against.
    #[must_use]
    pub fn addition(
        &self,
        text: &str,
        listen: &str,
        to: &str,
        facts: &HostFacts,
        kept: &mut Option<Before>,
    ) -> Option<Addition> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:,/-[]".contains(&b));
        if listen.is_empty() || to.is_empty() || !plain(listen) || !plain(to) || text.len() != self.end {
            return None;
        }
        let before = self.beside(text, Ports::of(listen)?, to)?;
        let tail = format!("\n[[forward]]\nlisten = \"{listen}\"\nto = \"{to}\"\n");
        let (_, after) = network::load(&format!("{before}{tail}"), facts).ok()?;
        let known = kept.take().filter(|kept| kept.text == before && kept.facts == *facts);
        let before = match known {
            Some(known) => known,
            None => Before::of(before, facts)?,
        };
        let Before { network: had, state, .. } = kept.insert(before);
        let forwards = after.forwards.strip_prefix(had.forwards.as_slice())?.to_vec();
        let alike = Network { forwards: had.forwards.clone(), ..after.clone() } == *had;
        if !alike || forwards.is_empty() || after.fix_foreign || Services::of(had) != Services::of(&after) {
            return None;
        }
        let mut steps = plan(state, &state_of(&after)).steps;
        let (Some(Step::Rules { changes }), true) = (steps.pop(), steps.is_empty()) else { return None };
        let adds = |change: &TableChange| matches!(change, TableChange::Elements { remove, .. } if remove.is_empty());
        changes.iter().all(adds).then_some(Addition { tail, forwards, changes, around: after })
    }

    /// The outline of the text with the tail of an [`Addition`] to it.
    pub fn grow(&mut self, tail: &str) {
        let Some(Self { blocks, end }) = Self::of(tail) else { return };
        let moved = |block: Block| Block {
            start: block.start + self.end,
            plain: block.plain.map(|(ports, target)| (ports, target.start + self.end..target.end + self.end)),
        };
        self.blocks.extend(blocks.into_iter().map(moved));
        self.end += end;
    }

    /// The file without all forwards but those that a new one on those ports to that target might touch, in the file's
    /// order: those of its ports, those that are written in another way, and one of its target's, of single ports and of
    /// ranges each, so that what belongs to these is there already.
    fn beside(&self, text: &str, new: Ports, to: &str) -> Option<String> {
        let target = target_of(to);
        let (mut met, mut single, mut range) = (false, false, false);
        let mut chosen = text.get(..self.blocks.first()?.start)?.to_owned();
        let mut count = 0;
        for (nth, block) in self.blocks.iter().enumerate() {
            let wanted = match &block.plain {
                None => true,
                Some((ports, whose)) => {
                    let first_of_target =
                        !met && text.get(whose.clone()) == Some(target) && !std::mem::replace(&mut met, true);
                    let shape = if ports.is_single() { &mut single } else { &mut range };
                    let first_of_shape = !std::mem::replace(shape, true);
                    ports.meets(new) || first_of_target || first_of_shape
                }
            };
            if wanted {
                let end = self.blocks.get(nth + 1).map_or(self.end, |next| next.start);
                chosen.push_str(text.get(block.start..end)?);
                count += 1;
            }
            if count > FEW {
                return None;
            }
        }
        Some(chosen)
    }
}

/// Reads a text line by line, each once: a file of ten thousand forwards has thirty thousand.
struct Reader {
    blocks: Vec<Block>,
    /// Of the block that is read.
    listen: Option<Ports>,
    to: Option<Range<usize>>,
    /// Whether anything else stands in it.
    odd: bool,
}

impl Reader {
    /// A forward at `at` of one port, as `warren forward add` writes it: its length. None of what is spelt in any other
    /// way, for [`Self::line`] to read; this reads nothing that it reads otherwise, but a forward at once.
    fn as_we_write(&mut self, at: usize, rest: &str) -> Option<usize> {
        let value = rest.strip_prefix(HEADER)?.strip_prefix("\nlisten = \"")?;
        let digits = value.bytes().position(|b| !b.is_ascii_digit()).filter(|digits| *digits > 0)?;
        let (port, behind) = value.split_at_checked(digits)?;
        let target = behind.strip_prefix("\"\nto = \"")?;
        let length = target.bytes().position(|b| matches!(b, b'"' | b'\\' | b'\n'))?;
        let (target, behind) = target.split_at_checked(length)?;
        let end = rest.len() - behind.strip_prefix("\"\n")?.len();
        let port = port.parse().ok()?;
        self.end();
        self.blocks.push(Block { start: at, plain: None });
        self.listen = Some(Ports { first: port, last: port });
        let start = at + rest.len() - behind.len() - length;
        self.to = Some(start..start + target_of(target).len());
        Some(end)
    }

    /// A line that begins at `at`. None where it cannot be read without reading all of the text.
    fn line(&mut self, at: usize, line: &str) -> Option<()> {
        let bare = line.trim_ascii();
        if bare.is_empty() {
            return Some(());
        }
        if let Some((key, value)) = plain_pair(bare)
            && !self.blocks.is_empty()
        {
            // The value stands before the line's last quote.
            let end = at + line.trim_ascii_end().len() - 1;
            let start = end - value.len();
            match key {
                "listen" if self.listen.is_none() => {
                    self.listen = Ports::of(value);
                    self.odd |= self.listen.is_none();
                }
                "to" if self.to.is_none() => self.to = Some(start..start + target_of(value).len()),
                _ => self.odd = true,
            }
            return Some(());
        }
        let behind = bare.strip_prefix(HEADER).map(str::trim_ascii_start);
        if behind.is_some_and(str::is_empty) {
            self.end();
            self.blocks.push(Block { start: at, plain: None });
            return Some(());
        }
        if bare.contains("\"\"\"") || bare.contains("'''") {
            return None;
        }
        if behind.is_some_and(|behind| behind.starts_with('#')) {
            self.end();
            self.blocks.push(Block { start: at, plain: None });
        } else if bare.starts_with('[') && !self.blocks.is_empty() {
            return None;
        } else {
            self.odd = true;
        }
        Some(())
    }

    /// The block that was read has come to its end.
    fn end(&mut self) {
        let (listen, to) = (self.listen.take(), self.to.take());
        let odd = std::mem::take(&mut self.odd);
        if let Some(block) = self.blocks.last_mut() {
            block.plain = listen.zip(to).filter(|_| !odd);
        }
    }
}

/// A key, and its value where that stands in plain quotes up to the end of the line.
fn plain_pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim_ascii_start().strip_prefix('"')?.strip_suffix('"')?;
    (!value.bytes().any(|b| matches!(b, b'"' | b'\\'))).then_some((key.trim_ascii_end(), value))
}

/// A target without its port.
fn target_of(to: &str) -> &str {
    to.rsplit_once(':').map_or(to, |(target, _)| target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outline, each line by itself.
    fn by_lines(text: &str) -> Option<Vec<Block>> {
        let mut reader = Reader { blocks: Vec::new(), listen: None, to: None, odd: false };
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            reader.line(at, line)?;
            at += line.len();
        }
        reader.end();
        Some(reader.blocks)
    }

    #[test]
    fn a_forward_read_at_once_is_one_read_line_by_line() {
        let ports = ["1", "65535", "65536", "080", "", "80-90", "80/udp", " 80", "+80", "８０"];
        let targets = ["g:22", "g", ":", "[2001:db8::1]:80", r#"a\"b:1"#, "ä:1", "", "g:22 ", "'''"];
        let behind = ["", "\n", "to = \"h:1\"\n", "log = true\n", "# why\n", " ", "x", "[[forward]]\n", "\"\n"];
        let mut plain = 0;
        for port in ports {
            for target in targets {
                for more in behind {
                    let new = format!("[[forward]]\nlisten = \"{port}\"\nto = \"{target}\"\n{more}");
                    let text = format!("[lan.a]\n\n{new}\n[[forward]]\nlisten = \"7\"\nto = \"g:7\"\n");
                    let outline = Outline::of(&text).map(|outline| outline.blocks);
                    assert_eq!(outline, by_lines(&text), "{text}");
                    plain += usize::from(outline.is_some_and(|blocks| blocks.iter().all(|b| b.plain.is_some())));
                }
            }
        }
        assert!(plain > 50, "{plain} files of nothing but plain forwards");
    }
}
