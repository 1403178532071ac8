//! What others' rules ask of interfaces, for [`model::foreign::naming`].

use std::collections::BTreeMap;

use model::foreign::naming::{Conditions, Part};
use model::foreign::{Culprit, RULE_MARK, RuleRef};

use super::dump::{RawTable, body, comment, number, rule_expressions};
use super::uapi::*;
use super::{Nft, words};
use crate::error::{Context as _, Result};
use crate::netlink::{self, attrs, be_u64, find_attr, text};

/// Interface numbers (NFT_META_IIF and NFT_META_OIF of linux/netfilter/nf_tables.h).
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;

/// What was read of a packet's interfaces into a register.
#[derive(Clone, Copy)]
struct Load {
    register: u32,
    inward: bool,
    number: bool,
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
            let keys = keys(&raw);
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
                let parts = parts(rule, &keys);
                if parts.iter().any(|part| !matches!(part, Part::Other(_))) {
                    out.push(Conditions { place, parts });
                }
            }
        }
        Ok(out)
    }
}

/// The keys of each set.
fn keys(table: &RawTable) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut keys: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for object in table.objects.iter().filter(|o| o.kind == NFT_MSG_NEWSETELEM) {
        let set = find_attr(&object.attrs, NFTA_SET_ELEM_LIST_SET).map(text).unwrap_or_default();
        let list = find_attr(&object.attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
        let key = |element| Some(find_attr(find_attr(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?.to_vec());
        keys.entry(set).or_default().extend(attrs(list).filter_map(|(_, element)| key(element)));
    }
    keys
}

fn parts(rule: &[u8], keys: &BTreeMap<String, Vec<Vec<u8>>>) -> Vec<Part> {
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
                if let Some(load) = loads.first() {
                    let set = find_attr(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default();
                    let keys = keys.get(&set).cloned().unwrap_or_default();
                    parts.push(Part::Within { numbers: load.number, keys });
                } else {
                    parts.push(raw());
                }
                loads.clear();
            }
            _ => parts.push(raw()),
        }
    }
    parts
}

fn load(data: &[u8]) -> Option<Load> {
    let register = find_attr(data, NFTA_META_DREG).map(|_| number(data, NFTA_META_DREG))?;
    let (inward, is_number) = match number(data, NFTA_META_KEY) {
        NFT_META_IIFNAME => (true, false),
        NFT_META_OIFNAME => (false, false),
        META_IIF => (true, true),
        META_OIF => (false, true),
        _ => return None,
    };
    Some(Load { register, inward, number: is_number })
}

/// Equal, or not; of anything else nothing is said.
fn compared(load: Load, data: &[u8]) -> Option<Part> {
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
