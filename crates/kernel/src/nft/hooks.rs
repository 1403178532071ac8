//! Other tables' base chains: who else sees packets, and may drop them.

use std::collections::{BTreeMap, BTreeSet};

use model::ruleset::HookPoint;

use super::dump::{RawTable, number, rule_expressions, verdict};
use super::encode::hook_number;
use super::uapi::*;
use super::{Nft, family_word};
use crate::netlink::{Result, attrs, find_attr, text};

/// A base chain of a table that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// NFPROTO_* of linux/netfilter.h.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Where it hangs.
    pub hook: HookPoint,
    /// Lower comes first.
    pub priority: i32,
    /// Whether what no rule decides is dropped.
    pub policy_drop: bool,
    /// Whether a rule of it, or of a chain that it leads to, drops or rejects.
    pub drops: bool,
}

impl std::fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chain {} {} {}", family_word(self.family), self.table, self.chain)
    }
}

impl Nft {
    /// The base chains of tables that are not ours, of the families that see what we forward (ip, ip6, inet,
    /// bridge), as the kernel lists them.
    ///
    /// # Errors
    /// The kernel's refusal, such as EPERM without CAP_NET_ADMIN.
    pub fn foreign_hooks(&mut self) -> Result<Vec<ForeignChain>> {
        let mut out = Vec::new();
        for table in self.tables()? {
            let seen = matches!(table.family, NFPROTO_INET | NFPROTO_IPV4 | NFPROTO_IPV6 | NFPROTO_BRIDGE);
            if !seen || table.is_ours() {
                continue;
            }
            // Of elements only those of verdict maps matter; others' sets can be long.
            let wanted = |set: &[u8]| number(set, NFTA_SET_DATA_TYPE) == NFT_DATA_VERDICT;
            if let Some(raw) = self.dump_with(table.family, &table.name, wanted)? {
                out.extend(base_chains(&raw));
            }
        }
        Ok(out)
    }
}

/// What the rules of a chain may do.
#[derive(Default)]
struct Effects {
    drops: bool,
    leads_to: BTreeSet<String>,
}

impl Effects {
    fn take(&mut self, (code, chain): (i32, Option<String>)) {
        self.drops |= code == NF_DROP.cast_signed();
        self.leads_to.extend(chain);
    }
}

fn base_chains(table: &RawTable) -> Vec<ForeignChain> {
    let mut verdicts: BTreeMap<String, Vec<(i32, Option<String>)>> = BTreeMap::new();
    for object in table.objects.iter().filter(|o| o.kind == NFT_MSG_NEWSETELEM) {
        let name = find_attr(&object.attrs, NFTA_SET_ELEM_LIST_SET).map(text).unwrap_or_default();
        let list = find_attr(&object.attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
        let all = attrs(list).filter_map(|(_, element)| verdict(find_attr(element, NFTA_SET_ELEM_DATA)?));
        verdicts.entry(name).or_default().extend(all);
    }
    let mut effects: BTreeMap<String, Effects> = BTreeMap::new();
    for object in table.objects.iter().filter(|o| o.kind == NFT_MSG_NEWRULE) {
        let chain = find_attr(&object.attrs, NFTA_RULE_CHAIN).map(text).unwrap_or_default();
        let effect = effects.entry(chain).or_default();
        for (name, data) in rule_expressions(&object.attrs) {
            match name.as_str() {
                "reject" => effect.drops = true,
                "immediate" => {
                    if let Some(one) = find_attr(data, NFTA_IMMEDIATE_DATA).and_then(verdict) {
                        effect.take(one);
                    }
                }
                "lookup" => {
                    let set = find_attr(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default();
                    for one in verdicts.get(&set).into_iter().flatten() {
                        effect.take(one.clone());
                    }
                }
                // x_tables' targets that end a packet, as iptables-nft loads them.
                "target" => {
                    let target = find_attr(data, NFTA_TARGET_NAME).map(text);
                    effect.drops |= matches!(target.as_deref(), Some("REJECT" | "DROP" | "TARPIT"));
                }
                _ => {}
            }
        }
    }
    table
        .objects
        .iter()
        .filter(|o| o.kind == NFT_MSG_NEWCHAIN)
        .filter_map(|object| {
            let hook = find_attr(&object.attrs, NFTA_CHAIN_HOOK)?;
            let at = number(hook, NFTA_HOOK_HOOKNUM);
            let chain = find_attr(&object.attrs, NFTA_CHAIN_NAME).map(text)?;
            Some(ForeignChain {
                family: table.family,
                table: table.name.clone(),
                hook: POINTS.into_iter().find(|point| hook_number(*point) == at)?,
                priority: number(hook, NFTA_HOOK_PRIORITY).cast_signed(),
                policy_drop: find_attr(&object.attrs, NFTA_CHAIN_POLICY).is_some_and(|p| p == NF_DROP.to_be_bytes()),
                drops: drops(&chain, &effects),
                chain,
            })
        })
        .collect()
}

const POINTS: [HookPoint; 5] =
    [HookPoint::Prerouting, HookPoint::Input, HookPoint::Forward, HookPoint::Output, HookPoint::Postrouting];

/// Whether the chain, or one that it leads to, drops.
fn drops(chain: &str, effects: &BTreeMap<String, Effects>) -> bool {
    let mut seen = BTreeSet::new();
    let mut left = vec![chain];
    while let Some(name) = left.pop() {
        if let (true, Some(effect)) = (seen.insert(name), effects.get(name)) {
            if effect.drops {
                return true;
            }
            left.extend(effect.leads_to.iter().map(String::as_str));
        }
    }
    false
}
