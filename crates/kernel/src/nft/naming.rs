//! What others' rules ask of interfaces, for [`model::foreign::naming`].

use std::collections::BTreeMap;

use model::foreign::naming::{Conditions, Keys, Part};
use model::foreign::{Culprit, RULE_MARK, RuleRef};

use super::dump::{RawTable, body, comment, number, rule_expressions};
use super::uapi::*;
use super::{Nft, except, words};
use crate::error::{Context as _, Result};
use crate::netlink::{self, be_u64, find_attr, text};

/// A name's width in a key (IFNAMSIZ of linux/if.h).
const WIDTH: u32 = 16;

/// What was read of a packet's interfaces into a register.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub register: u32,
    pub inward: bool,
    pub number: bool,
}

/// A set of another's.
pub(super) struct Held {
    of: Keys,
    /// Whether it has no name.
    anonymous: bool,
    /// A key's length.
    length: u32,
    keys: Vec<Vec<u8>>,
    spans: Vec<(Vec<u8>, Vec<u8>)>,
    /// All of its elements, where it has no name that could stand for them.
    elements: Vec<Vec<u8>>,
}

/// Every rule of another's that asks by which interface a packet comes or goes.
///
/// # Errors
/// The kernel's refusal.
pub fn conditions() -> Result<Vec<Conditions>> {
    let what = "others' firewall rules";
    let mut nft = Nft::open().context("look at", what)?;
    nft.conditions().context("look at", what)
}

impl Nft {
    fn conditions(&mut self) -> netlink::Result<Vec<Conditions>> {
        let mut out = Vec::new();
        for (table, family) in self.others()? {
            let Some(raw) = self.dump_table(table.family, &table.name)? else { continue };
            let sets = sets(&raw);
            for message in self.dump_of(NFT_MSG_GETRULE, table.family, NFTA_RULE_TABLE, &table.name)? {
                let mut rule = body(&message);
                // What is written anew for a bridge is told as what it was.
                let restored = except::restored(rule);
                if let Some((_, restored)) = &restored {
                    rule = restored;
                } else if comment(rule, NFTA_RULE_USERDATA).is_some_and(|words| words.starts_with(RULE_MARK)) {
                    continue;
                }
                let handle = find_attr(rule, NFTA_RULE_HANDLE).map_or(0, be_u64);
                let place = Culprit {
                    legacy: false,
                    family,
                    table: table.name.clone(),
                    chain: find_attr(rule, NFTA_RULE_CHAIN).map(text).unwrap_or_default(),
                    rule: Some(RuleRef { handle, text: words::rule(rule) }),
                };
                let parts: Vec<Part> = parts(rule, &sets).into_iter().map(|(_, part)| part).collect();
                if parts.iter().any(|part| !matches!(part, Part::Other(_))) {
                    let print = except::print(rule, &raw);
                    out.push(Conditions { place, parts, print });
                }
            }
        }
        Ok(out)
    }
}

/// The sets by their names.
pub(super) fn sets(table: &RawTable) -> BTreeMap<String, Held> {
    let mut sets: BTreeMap<String, Held> = BTreeMap::new();
    for object in &table.objects {
        let attrs = object.attrs.as_slice();
        match object.kind {
            NFT_MSG_NEWSET => {
                let name = find_attr(attrs, NFTA_SET_NAME).map(text).unwrap_or_default();
                sets.insert(name.clone(), Held::new(attrs, name));
            }
            NFT_MSG_NEWSETELEM => {
                let name = find_attr(attrs, NFTA_SET_ELEM_LIST_SET).map(text).unwrap_or_default();
                let Some(held) = sets.get_mut(&name) else { continue };
                let list = find_attr(attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
                let theirs = netlink::attrs(list).filter(|(_, element)| !is_ours(element));
                theirs.for_each(|(_, element)| held.take(element));
                held.elements.sort();
            }
            _ => {}
        }
    }
    sets
}

impl Held {
    fn new(set: &[u8], name: String) -> Self {
        Self {
            anonymous: number(set, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS != 0,
            length: number(set, NFTA_SET_KEY_LEN),
            of: keys_of(set, name),
            keys: Vec::new(),
            spans: Vec::new(),
            elements: Vec::new(),
        }
    }

    /// Elements come from the lowest on, an interval's end (the first key behind it) before the next one's beginning.
    fn take(&mut self, element: &[u8]) {
        if self.anonymous {
            self.elements.push(element.to_vec());
        }
        let Some(first) = key(element).map(<[u8]>::to_vec) else { return };
        let last = find_attr(element, NFTA_SET_ELEM_KEY_END).and_then(|data| find_attr(data, NFTA_DATA_VALUE));
        let ends = number(element, NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END != 0;
        match (&self.of, last) {
            (Keys::Ranges, None) if ends => {
                if let Some((_, last)) = self.spans.last_mut() {
                    *last = before(&first);
                }
            }
            // Until its end is told, it has none.
            (Keys::Ranges, None) => self.spans.push((first.clone(), vec![u8::MAX; first.len()])),
            (_, Some(last)) => {
                if is_range_of_names(&first, last) {
                    self.spans.push((first.clone(), last.to_vec()));
                }
                self.keys.push(first);
            }
            (_, None) => self.keys.push(first),
        }
    }
}

/// Whether two keys of several parts have in one place two names that begin alike.
fn is_range_of_names(first: &[u8], last: &[u8]) -> bool {
    let width = WIDTH as usize;
    let mut places =
        (0..first.len()).step_by(4).filter_map(|at| Some((first.get(at..at + width)?, last.get(at..at + width)?)));
    places.any(|(first, last)| first != last && first[0].is_ascii_graphic() && first[0] == last[0])
}

/// The key before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let borrows = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrows {
            break;
        }
    }
    key
}

fn keys_of(set: &[u8], name: String) -> Keys {
    let flags = number(set, NFTA_SET_FLAGS);
    let is_concatenated = find_attr(set, NFTA_SET_DESC).and_then(|d| find_attr(d, NFTA_SET_DESC_CONCAT)).is_some();
    let changes = NFT_SET_TIMEOUT | NFT_SET_EVAL;
    if flags & NFT_SET_INTERVAL != 0 && !is_concatenated {
        return Keys::Ranges;
    }
    if flags & changes != 0 {
        return Keys::Fixed;
    }
    match (flags & NFT_SET_ANONYMOUS != 0, flags & NFT_SET_CONSTANT != 0) {
        (true, _) => Keys::Rule,
        (false, true) => Keys::Fixed,
        (false, false) => Keys::Set(name),
    }
}

/// An element's key.
pub(super) fn key(element: &[u8]) -> Option<&[u8]> {
    find_attr(find_attr(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)
}

/// Whether it is a key for a bridge that we put in.
pub(super) fn is_ours(element: &[u8]) -> bool {
    comment(element, NFTA_SET_ELEM_USERDATA).is_some_and(|words| words.starts_with(RULE_MARK))
}

/// What a rule asks and does, each with the number of the expression that it stands in.
pub(super) fn parts(rule: &[u8], sets: &BTreeMap<String, Held>) -> Vec<(usize, Part)> {
    let mut parts = Vec::new();
    // What was read since it was last looked at.
    let mut loads: Vec<Load> = Vec::new();
    for (at, (name, data)) in rule_expressions(rule).enumerate() {
        let raw = || Part::Other([name.as_bytes(), data].concat());
        match name.as_str() {
            // What it has counted is nothing that it says.
            "counter" | "last" => {}
            "quota" => parts.push((at, Part::Other(told(name.as_bytes(), data, NFTA_QUOTA_CONSUMED)))),
            "meta" => match load(data) {
                Some(load) => loads.push(load),
                None => parts.push((at, raw())),
            },
            "cmp" => {
                let register = number(data, NFTA_CMP_SREG);
                let load = loads.iter().rev().find(|load| load.register == register).copied();
                parts.push((at, load.and_then(|load| compared(load, data)).unwrap_or_else(raw)));
                loads.clear();
            }
            "lookup" => {
                let held = find_attr(data, NFTA_LOOKUP_SET).map(text).and_then(|set| sets.get(&set));
                let part = match (loads.first(), held) {
                    (Some(load), Some(held)) => within(*load, loads.len(), held, data),
                    // Its name is another in every rule, and says nothing.
                    (None, Some(held)) if held.anonymous => Part::Other(alike(data, held)),
                    _ => raw(),
                };
                parts.push((at, part));
                loads.clear();
            }
            _ => parts.push((at, raw())),
        }
    }
    parts
}

/// A look into a set for what was read of `interfaces` of a packet's, the first of which is `load`.
fn within(load: Load, interfaces: usize, held: &Held, lookup: &[u8]) -> Part {
    let width = if load.number { 4 } else { WIDTH };
    Part::Within {
        inward: load.inward,
        numbers: load.number,
        not: number(lookup, NFTA_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV != 0,
        plain: interfaces == 1 && held.length == width && find_attr(lookup, NFTA_LOOKUP_DREG).is_none(),
        keys: held.keys.clone(),
        spans: held.spans.clone(),
        of: held.of.clone(),
    }
}

/// All of an expression but one of its attributes.
fn told(name: &[u8], data: &[u8], but: u16) -> Vec<u8> {
    let mut bytes = name.to_vec();
    for (kind, payload) in netlink::attrs(data).filter(|(kind, _)| *kind != but) {
        bytes.extend(kind.to_ne_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// The set without a name that is asked, where it is one.
pub(super) fn anonymous<'a>(lookup: &[u8], sets: &'a BTreeMap<String, Held>) -> Option<&'a Held> {
    let held = find_attr(lookup, NFTA_LOOKUP_SET).map(text).and_then(|set| sets.get(&set));
    held.filter(|held| held.anonymous)
}

/// What is asked of a set without a name, as it is the same for every set that holds the same.
pub(super) fn alike(lookup: &[u8], held: &Held) -> Vec<u8> {
    let mut bytes = told(b"lookup", lookup, NFTA_LOOKUP_SET);
    bytes.extend(held.elements.concat());
    bytes
}

pub(super) fn load(data: &[u8]) -> Option<Load> {
    let register = find_attr(data, NFTA_META_DREG).map(|_| number(data, NFTA_META_DREG))?;
    let (inward, is_number) = match number(data, NFTA_META_KEY) {
        NFT_META_IIFNAME => (true, false),
        NFT_META_OIFNAME => (false, false),
        NFT_META_IIF => (true, true),
        NFT_META_OIF => (false, true),
        _ => return None,
    };
    Some(Load { register, inward, number: is_number })
}

/// Equal, or not; of anything else nothing is said.
pub(super) fn compared(load: Load, data: &[u8]) -> Option<Part> {
    let value = find_attr(find_attr(data, NFTA_CMP_DATA)?, NFTA_DATA_VALUE)?;
    let not = match number(data, NFTA_CMP_OP) {
        NFT_CMP_EQ => false,
        NFT_CMP_NEQ => true,
        _ => return None,
    };
    let inward = load.inward;
    if load.number {
        return Some(Part::Index { inward, not, index: u32::from_ne_bytes(value.try_into().ok()?) });
    }
    // Without its terminating zero it stands for all that begin so.
    Some(Part::Name { inward, not, name: text(value), begins: !value.contains(&0) })
}
