//! What others' rules ask of interfaces, for [`model::foreign::naming`].

use std::collections::BTreeMap;

use model::foreign::naming::{Conditions, Keys, Part};
use model::foreign::{Culprit, RULE_MARK, RuleRef};

use super::dump::{RawTable, body, comment, number, rule_expressions};
use super::uapi::*;
use super::{Nft, words};
use crate::error::{Context as _, Result};
use crate::netlink::{self, be_u64, find_attr, text};

/// What was read of a packet's interfaces into a register.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub register: u32,
    pub inward: bool,
    pub number: bool,
}

/// A set of another's.
struct Held {
    of: Keys,
    keys: Vec<Vec<u8>>,
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
                let rule = body(&message);
                if comment(rule, NFTA_RULE_USERDATA).is_some_and(|words| words.starts_with(RULE_MARK)) {
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
                let parts = parts(rule, &sets);
                if parts.iter().any(|part| !matches!(part, Part::Other(_))) {
                    out.push(Conditions { place, parts });
                }
            }
        }
        Ok(out)
    }
}

/// The sets by their names.
fn sets(table: &RawTable) -> BTreeMap<String, Held> {
    let mut sets: BTreeMap<String, Held> = BTreeMap::new();
    for object in &table.objects {
        let attrs = object.attrs.as_slice();
        match object.kind {
            NFT_MSG_NEWSET => {
                let name = find_attr(attrs, NFTA_SET_NAME).map(text).unwrap_or_default();
                sets.insert(name.clone(), Held { of: keys_of(attrs, name), keys: Vec::new(), elements: Vec::new() });
            }
            NFT_MSG_NEWSETELEM => {
                let name = find_attr(attrs, NFTA_SET_ELEM_LIST_SET).map(text).unwrap_or_default();
                let Some(held) = sets.get_mut(&name) else { continue };
                let list = find_attr(attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
                for (_, element) in netlink::attrs(list).filter(|(_, element)| !is_ours(element)) {
                    held.keys.extend(key(element).map(<[u8]>::to_vec));
                    if held.of == Keys::Rule {
                        held.elements.push(element.to_vec());
                    }
                }
                held.elements.sort();
            }
            _ => {}
        }
    }
    sets
}

fn keys_of(set: &[u8], name: String) -> Keys {
    let flags = number(set, NFTA_SET_FLAGS);
    let is_concatenated = find_attr(set, NFTA_SET_DESC).and_then(|d| find_attr(d, NFTA_SET_DESC_CONCAT)).is_some();
    let changes = NFT_SET_TIMEOUT | NFT_SET_EVAL;
    if flags & changes != 0 || (flags & NFT_SET_INTERVAL != 0 && !is_concatenated) {
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

fn parts(rule: &[u8], sets: &BTreeMap<String, Held>) -> Vec<Part> {
    let mut parts = Vec::new();
    // What was read since it was last looked at.
    let mut loads: Vec<Load> = Vec::new();
    for (name, data) in rule_expressions(rule) {
        let raw = || Part::Other([name.as_bytes(), data].concat());
        match name.as_str() {
            // What it has counted is nothing that it says.
            "counter" => {}
            "meta" => match load(data) {
                Some(load) => loads.push(load),
                None => parts.push(raw()),
            },
            "cmp" => {
                let register = number(data, NFTA_CMP_SREG);
                let load = loads.iter().rev().find(|load| load.register == register).copied();
                parts.push(load.and_then(|load| compared(load, data)).unwrap_or_else(raw));
                loads.clear();
            }
            "lookup" => {
                let held = find_attr(data, NFTA_LOOKUP_SET).map(text).and_then(|set| sets.get(&set));
                parts.push(match (loads.first(), held) {
                    (Some(load), Some(held)) => Part::Within {
                        numbers: load.number,
                        not: number(data, NFTA_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV != 0,
                        keys: held.keys.clone(),
                        of: held.of.clone(),
                    },
                    // Its name is another in every rule, and says nothing.
                    (None, Some(held)) if held.of == Keys::Rule => Part::Other(alike(data, held)),
                    _ => raw(),
                });
                loads.clear();
            }
            _ => parts.push(raw()),
        }
    }
    parts
}

/// What is asked of a set without a name, as it is the same for every set that holds the same.
fn alike(lookup: &[u8], held: &Held) -> Vec<u8> {
    let mut bytes = b"lookup".to_vec();
    for (kind, payload) in netlink::attrs(lookup).filter(|(kind, _)| *kind != NFTA_LOOKUP_SET) {
        bytes.extend(kind.to_ne_bytes());
        bytes.extend_from_slice(payload);
    }
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
