//! Rules of ours in others' tables, known by their comment; and others' tables as they are without them.

use std::collections::{BTreeMap, BTreeSet};

use model::foreign::{Layer, Marked, Mend, RULE_MARK, RuleRef, Way};
use model::ruleset::{Field, Operand, Rule, Statement, Value, Verdict};

use super::batch::Prepared;
use super::dump::{RawTable, body, comment};
use super::encode::{self, message};
use super::uapi::*;
use super::{Nft, TableName, Transaction, except, expressions, family_word, likes, words};
use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{self, be_u64, find_attr, flags, text};

/// A table of another's.
#[derive(Clone, Debug)]
pub struct ForeignTable {
    /// Its family.
    pub family: Layer,
    /// All of it but our rules.
    pub raw: RawTable,
    /// Its rules but ours, by chain, in order.
    pub rules: BTreeMap<String, Vec<RuleRef>>,
}

impl ForeignTable {
    /// The names of its chains.
    #[must_use]
    pub fn chains(&self) -> BTreeSet<String> {
        let chains = self.raw.objects.iter().filter(|o| o.kind == NFT_MSG_NEWCHAIN);
        chains.filter_map(|o| find_attr(&o.attrs, NFTA_CHAIN_NAME).map(text)).collect()
    }
}

/// A rule as it is in the kernel.
struct Listed {
    chain: String,
    handle: u64,
    comment: Option<String>,
    text: String,
}

impl Nft {
    /// The tables that are not ours, of the families that see what we forward, without rules that bear
    /// our mark.
    ///
    /// # Errors
    /// The kernel's refusal, such as EPERM without CAP_NET_ADMIN.
    pub fn foreign_tables(&mut self) -> netlink::Result<Vec<ForeignTable>> {
        self.tables_of_others(|comment| comment.is_some_and(|words| words.starts_with(RULE_MARK)))
    }

    /// The same as they are, with rules of ours.
    ///
    /// # Errors
    /// As [`Self::foreign_tables`].
    pub fn foreign_tables_with_ours(&mut self) -> netlink::Result<Vec<ForeignTable>> {
        self.tables_of_others(|_| false)
    }

    fn tables_of_others(&mut self, left_out: impl Fn(Option<&str>) -> bool) -> netlink::Result<Vec<ForeignTable>> {
        let mut out = Vec::new();
        for (table, family) in self.others()? {
            let Some(mut raw) = self.dump_table(table.family, &table.name)? else { continue };
            // By their handles, what is theirs and was written anew.
            let restored = self.restored(&table)?;
            raw.leave_out(&left_out);
            let mut rules: BTreeMap<String, Vec<RuleRef>> = BTreeMap::new();
            for rule in self.listed(&table)? {
                let is_ours = left_out(rule.comment.as_deref());
                let text = match restored.get(&rule.handle) {
                    Some(text) if is_ours => text.clone(),
                    _ if is_ours => continue,
                    _ => rule.text,
                };
                rules.entry(rule.chain).or_default().push(RuleRef { handle: rule.handle, text });
            }
            out.push(ForeignTable { family, raw, rules });
        }
        Ok(out)
    }

    /// What others' rules that were written anew for a bridge said before, by their handles.
    fn restored(&mut self, table: &TableName) -> netlink::Result<BTreeMap<u64, String>> {
        let messages = self.dump_of(NFT_MSG_GETRULE, table.family, NFTA_RULE_TABLE, &table.name)?;
        let handle = |rule: &[u8]| find_attr(rule, NFTA_RULE_HANDLE).map_or(0, be_u64);
        let restored = messages.iter().map(body).filter_map(|rule| Some((handle(rule), except::restored(rule)?.1)));
        Ok(restored.map(|(handle, rule)| (handle, words::rule(&rule))).collect())
    }

    pub(super) fn others(&mut self) -> netlink::Result<Vec<(TableName, Layer)>> {
        let tables = self.tables()?.into_iter().filter(|table| !table.is_ours());
        Ok(tables.filter_map(|table| Layer::of(family_word(table.family)).map(|layer| (table, layer))).collect())
    }

    fn listed(&mut self, table: &TableName) -> netlink::Result<Vec<Listed>> {
        let messages = self.dump_of(NFT_MSG_GETRULE, table.family, NFTA_RULE_TABLE, &table.name)?;
        let rule = |attrs: &[u8]| Listed {
            chain: find_attr(attrs, NFTA_RULE_CHAIN).map(text).unwrap_or_default(),
            handle: find_attr(attrs, NFTA_RULE_HANDLE).map_or(0, be_u64),
            comment: comment(attrs, NFTA_RULE_USERDATA),
            text: words::rule(attrs),
        };
        Ok(messages.iter().map(|m| rule(body(m))).collect())
    }

    /// The rules of a table by chain, as [`Self::foreign_tables`] tells them.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn handles(&mut self, family: Layer, table: &str) -> netlink::Result<BTreeMap<String, Vec<u64>>> {
        let name = TableName { family: number(family), name: table.to_owned(), comment: None, owner: None };
        let mut handles: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for rule in self.listed(&name)? {
            handles.entry(rule.chain).or_default().push(rule.handle);
        }
        Ok(handles)
    }
}

/// NFPROTO_* of linux/netfilter.h.
pub(super) fn number(family: Layer) -> u8 {
    match family {
        Layer::Ip => NFPROTO_IPV4,
        Layer::Ip6 => NFPROTO_IPV6,
        Layer::Inet => NFPROTO_INET,
        Layer::Bridge => NFPROTO_BRIDGE,
    }
}

/// A rule of ours in another's table, or of another's that was written anew.
struct Found {
    mend: Mend,
    handle: u64,
    /// The rule that it is the like of, or was.
    of: Option<u64>,
}

fn marked(nft: &mut Nft) -> netlink::Result<Vec<Found>> {
    let mut out = Vec::new();
    for (table, family) in nft.others()? {
        let all = nft.listed(&table)?;
        if all.iter().any(|rule| rule.comment.as_deref().is_some_and(|words| Mend::of_except_mark(words).is_some())) {
            let anew = except::standing(nft, &table, family)?;
            out.extend(anew.into_iter().map(|(mend, handle, of)| Found { mend, handle, of: Some(of) }));
        }
        for rule in all {
            let Some(comment) = rule.comment.as_deref() else { continue };
            let (table, chain) = (table.name.clone(), rule.chain);
            let (mend, of) = match (Mend::of_twin_mark(comment), Way::of_mark(comment)) {
                (Some(Marked { handle, port, index, bridge }), _) => {
                    (Mend::Twin { family, table, chain, handle, port, index, bridge }, Some(handle))
                }
                (None, Some(way)) => (Mend::Accept { family, table, chain, way }, None),
                (None, None) => continue,
            };
            out.push(Found { mend, handle: rule.handle, of });
        }
    }
    Ok(out)
}

/// The mends of ours that stand in others' tables.
///
/// # Errors
/// The kernel's refusal.
pub fn mends() -> Result<BTreeSet<Mend>> {
    let what = "others' firewall rules";
    let mut nft = Nft::open().context("look at", what)?;
    let mut found: BTreeSet<Mend> = marked(&mut nft).context("look at", what)?.into_iter().map(|m| m.mend).collect();
    found.extend(likes::elements(&mut nft).context("look at", what)?);
    Ok(found)
}

/// The handle of each like of a rule that stands in others' tables, and of each rule that was written anew, with the handle
/// of the rule that it is the like of, or was.
///
/// # Errors
/// The kernel's refusal.
pub fn handles_of_likes() -> Result<BTreeMap<u64, u64>> {
    let what = "others' firewall rules";
    let mut nft = Nft::open().context("look at", what)?;
    let all = marked(&mut nft).context("look at", what)?;
    Ok(all.into_iter().filter_map(|found| Some((found.handle, found.of?))).collect())
}

/// Puts the rule first in its chain.
///
/// # Errors
/// The kernel's refusal, such as ENOENT where the table or chain is gone, EPERM where a daemon owns the table alone.
pub fn add_mend(family: Layer, table: &str, chain: &str, way: &Way) -> Result<()> {
    let is = |field, name: &model::address::IfName| Statement::Match {
        field,
        not: false,
        with: Operand::Value(Value::IfName(name.clone())),
    };
    let from = way.from.as_ref().map(|name| is(Field::IifName, name));
    let to = way.to.as_ref().map(|name| is(Field::OifName, name));
    let end = [Statement::Counter, Statement::Verdict(Verdict::Accept)];
    let rule = Rule { statements: from.into_iter().chain(to).chain(end).collect(), comment: way.mark() };
    // Neither names nor verdict depend on the family.
    let bytes = message(NFT_MSG_NEWRULE, flags::CREATE, number(family), |w| {
        w.attr_str(NFTA_RULE_TABLE, table);
        w.attr_str(NFTA_RULE_CHAIN, chain);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| expressions::write(w, model::ruleset::Family::Inet, &rule));
        w.attr(NFTA_RULE_USERDATA, &encode::comment(&rule.comment));
    });
    let what = place(family, table, chain);
    let mut transaction = Transaction::new();
    transaction.messages(vec![Prepared::new(bytes, what.clone())]);
    let mut nft = Nft::open().context("open", "the firewall")?;
    nft.commit(&transaction).map_err(|e| KernelError::new("put a rule into", what, e))
}

/// Takes the rule away again, wherever it stands in its chain.
///
/// # Errors
/// The kernel's refusal.
pub fn delete_mend(mend: &Mend) -> Result<()> {
    let (family, table, chain) = match mend {
        Mend::Accept { family, table, chain, .. } | Mend::Twin { family, table, chain, .. } => (family, table, chain),
        Mend::Except { .. } => return except::delete(mend),
        Mend::Element { .. } => return likes::delete_element(mend),
        Mend::Zone { .. } | Mend::Legacy { .. } | Mend::LegacyTwin { .. } => return Ok(()),
    };
    let what = place(*family, table, chain);
    let mut nft = Nft::open().context("open", "the firewall")?;
    let mut transaction = Transaction::new();
    for found in marked(&mut nft).context("look at", what.clone())?.iter().filter(|m| m.mend == *mend) {
        let bytes = message(NFT_MSG_DELRULE, 0, number(*family), |w| {
            w.attr_str(NFTA_RULE_TABLE, table);
            w.attr_str(NFTA_RULE_CHAIN, chain);
            w.attr_be64(NFTA_RULE_HANDLE, found.handle);
        });
        transaction.messages(vec![Prepared::new(bytes, what.clone())]);
    }
    nft.commit(&transaction).map_err(|e| KernelError::new("take a rule out of", what, e))
}

pub(super) fn place(family: Layer, table: &str, chain: &str) -> String {
    format!("the chain {} {table} {chain}", family.word())
}
