//! One forward more, behind the others of a file that is up, found out from the few forwards that it can touch instead
//! of from all of them.
//!
//! A forward touches another only where both take the same port, or mean the same guest; all else that it is held
//! against (LANs, guests, the host's own ports, sites) is in the rest of the file. So the file is read without most of
//! its forwards, once with the new one and once without it, and what differs is what the new one does. Nothing is
//! decided here that is not decided by [`network::load`] and [`plan`] on the shorter file; and whatever is unusual
//! about the file or the difference is left to the whole way. The property tests hold the two ways to be the same.

use crate::facts::HostFacts;
use crate::network::{self, Forward, Network};
use crate::plan::{Step, TableChange, plan};
use crate::services::Services;
use crate::state::{Baseline, Ids, desired};

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
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:,/-[]".contains(&b));
    if listen.is_empty() || to.is_empty() || !plain(listen) || !plain(to) {
        return None;
    }
    let outline = Outline::of(text)?;
    let new = Ports::of(listen)?;
    let before = outline.with(&outline.beside(new, to)?);
    let tail = format!("\n[[forward]]\nlisten = \"{listen}\"\nto = \"{to}\"\n");
    let after = format!("{before}{tail}");
    let load = |text: &str| network::load(text, facts).ok().map(|(_, network)| network);
    let (before, after) = (load(&before)?, load(&after)?);
    let forwards = after.forwards.strip_prefix(before.forwards.as_slice())?.to_vec();
    let alike = Network { forwards: before.forwards.clone(), ..after.clone() } == before;
    if !alike || forwards.is_empty() || after.fix_foreign || Services::of(&before) != Services::of(&after) {
        return None;
    }
    let state = |network: &Network| desired(network, &Baseline::default(), &Ids::default());
    let mut steps = plan(&state(&before), &state(&after)).steps;
    let (Some(Step::Rules { changes }), true) = (steps.pop(), steps.is_empty()) else { return None };
    let adds = |change: &TableChange| matches!(change, TableChange::Elements { remove, .. } if remove.is_empty());
    changes.iter().all(adds).then_some(Addition { tail, forwards, changes, around: after })
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

/// A file whose forwards stand behind everything else.
struct Outline<'a> {
    /// All before the first.
    head: &'a str,
    blocks: Vec<Block<'a>>,
}

/// A `[[forward]]`, from its header to before the next one's.
struct Block<'a> {
    text: &'a str,
    /// Where it is nothing but a `listen` without an address and a `to`: its ports, and its target without the port.
    plain: Option<(Ports, &'a str)>,
}

const HEADER: &str = "[[forward]]";

impl<'a> Outline<'a> {
    /// None where the text has lines that could be read in two ways without reading it whole, where other sections stand
    /// behind forwards, or where anything but a forward's own line ends it.
    fn of(text: &'a str) -> Option<Self> {
        if text.contains("\"\"\"") || text.contains("'''") || text.contains('\r') {
            return None;
        }
        let mut starts = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let bare = line.trim();
            let behind = bare.strip_prefix(HEADER).map(str::trim_start);
            if behind.is_some_and(|behind| behind.is_empty() || behind.starts_with('#')) {
                starts.push(at);
            } else if bare.starts_with('[') && !starts.is_empty() {
                return None;
            }
            at += line.len();
        }
        let (first, last) = (*starts.first()?, text.lines().next_back()?.trim());
        let ends_plainly = text.ends_with('\n') && (last.starts_with("listen") || last.starts_with("to"));
        if !ends_plainly {
            return None;
        }
        starts.push(text.len());
        let block = |pair: &[usize]| Block::of(text.get(pair[0]..pair[1]).unwrap_or_default());
        Some(Self { head: text.get(..first)?, blocks: starts.windows(2).map(block).collect() })
    }

    /// The forwards that a new one on those ports to that target might touch, in the file's order: those of its ports,
    /// those that are written in another way, and one of its target's, of single ports and of ranges each, so that what
    /// belongs to these is there already.
    fn beside(&self, new: Ports, to: &str) -> Option<Vec<&Block<'a>>> {
        let target = target_of(to);
        let (mut met, mut single, mut range) = (false, false, false);
        let mut chosen = Vec::new();
        for block in &self.blocks {
            let wanted = match block.plain {
                None => true,
                Some((ports, whose)) => {
                    let first_of_target = whose == target && !std::mem::replace(&mut met, true);
                    let shape = if ports.is_single() { &mut single } else { &mut range };
                    let first_of_shape = !std::mem::replace(shape, true);
                    ports.meets(new) || first_of_target || first_of_shape
                }
            };
            if wanted {
                chosen.push(block);
            }
            if chosen.len() > FEW {
                return None;
            }
        }
        Some(chosen)
    }

    fn with(&self, blocks: &[&Block<'_>]) -> String {
        std::iter::once(self.head).chain(blocks.iter().map(|block| block.text)).collect()
    }
}

impl<'a> Block<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, plain: Self::plain(text) }
    }

    fn plain(text: &'a str) -> Option<(Ports, &'a str)> {
        let (mut listen, mut to) = (None, None);
        for line in text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=')?;
            let value = value.trim_start().strip_prefix('"')?.strip_suffix('"')?;
            if value.contains(['"', '\\']) {
                return None;
            }
            let place = match key.trim_end() {
                "listen" => &mut listen,
                "to" => &mut to,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Some((Ports::of(listen?)?, target_of(to?)))
    }
}

/// A target without its port.
fn target_of(to: &str) -> &str {
    to.rsplit_once(':').map_or(to, |(target, _)| target)
}
