//! Rules of ours in others' tables, known by their comment; and others' tables as they are without them.

use std::collections::{BTreeMap, BTreeSet};

use model::foreign::{Layer, Mend, RULE_MARK, RuleRef, Way};
use model::ruleset::{Field, Operand, Rule, Statement, Value, Verdict};

use super::batch::Prepared;
use super::dump::{RawTable, body, comment};
use super::encode::{self, message};
use super::uapi::*;
use super::{Nft, TableName, Transaction, expressions, family_word, words};
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
            raw.objects.retain(|object| {
                object.kind != NFT_MSG_NEWRULE || !left_out(comment(&object.attrs, NFTA_RULE_USERDATA).as_deref())
            });
            let mut rules: BTreeMap<String, Vec<RuleRef>> = BTreeMap::new();
            for rule in self.listed(&table)? {
                if !left_out(rule.comment.as_deref()) {
                    rules.entry(rule.chain).or_default().push(RuleRef { handle: rule.handle, text: rule.text });
                }
            }
            out.push(ForeignTable { family, raw, rules });
        }
        Ok(out)
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
fn number(family: Layer) -> u8 {
    match family {
        Layer::Ip => NFPROTO_IPV4,
        Layer::Ip6 => NFPROTO_IPV6,
        Layer::Inet => NFPROTO_INET,
        Layer::Bridge => NFPROTO_BRIDGE,
    }
}

/// A rule of ours in another's table.
struct Marked {
    mend: Mend,
    handle: u64,
}

fn marked(nft: &mut Nft) -> netlink::Result<Vec<Marked>> {
    let mut out = Vec::new();
    for (table, family) in nft.others()? {
        for rule in nft.listed(&table)? {
            let Some(comment) = rule.comment.as_deref() else { continue };
            let (table, chain) = (table.name.clone(), rule.chain);
            let mend = match (Mend::of_twin_mark(comment), Way::of_mark(comment)) {
                (Some((handle, port, bridge)), _) => Mend::Twin { family, table, chain, handle, port, bridge },
                (None, Some(way)) => Mend::Accept { family, table, chain, way },
                (None, None) => continue,
            };
            out.push(Marked { mend, handle: rule.handle });
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
    Ok(marked(&mut nft).context("look at", what)?.into_iter().map(|m| m.mend).collect())
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

/// Puts the like of a rule behind it, which asks for the bridge where that asks for the interface.
///
/// # Errors
/// The kernel's refusal, such as ENOENT where the rule is gone.
pub fn add_twin(mend: &Mend) -> Result<()> {
    let Mend::Twin { family, table, chain, handle, port, bridge } = mend else { return Ok(()) };
    let what = place(*family, table, chain);
    let mut nft = Nft::open().context("open", "the firewall")?;
    let messages =
        nft.dump_of(NFT_MSG_GETRULE, number(*family), NFTA_RULE_TABLE, table).context("look at", what.clone())?;
    let is_it = |rule: &&[u8]| {
        find_attr(rule, NFTA_RULE_HANDLE).map(be_u64) == Some(*handle)
            && find_attr(rule, NFTA_RULE_CHAIN).map(text).as_deref() == Some(chain)
    };
    let Some(original) = messages.iter().map(body).find(is_it) else {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(KernelError::new("put the like of a rule into", what, gone));
    };
    let expressions = find_attr(original, NFTA_RULE_EXPRESSIONS).unwrap_or(&[]);
    let bytes = message(NFT_MSG_NEWRULE, flags::CREATE | flags::APPEND, number(*family), |w| {
        w.attr_str(NFTA_RULE_TABLE, table);
        w.attr_str(NFTA_RULE_CHAIN, chain);
        w.attr_be64(NFTA_RULE_POSITION, *handle);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            for (_, expression) in netlink::attrs(expressions) {
                w.nest(NFTA_LIST_ELEM, |w| renamed(w, expression, port.as_str(), bridge.as_str()));
            }
        });
        // What iptables-nft says of a rule of its own (its protocol, for instance) holds for its like.
        if let Some(compat) = find_attr(original, NFTA_RULE_COMPAT) {
            w.attr(NFTA_RULE_COMPAT, compat);
        }
        w.attr(NFTA_RULE_USERDATA, &encode::comment(&Mend::twin_mark(*handle, port, bridge)));
    });
    let mut transaction = Transaction::new();
    transaction.messages(vec![Prepared::new(bytes, what.clone())]);
    nft.commit(&transaction).map_err(|e| KernelError::new("put the like of a rule into", what, e))
}

/// An expression, with the one name compared to in place of the other: padded to the names' width, or with a zero
/// behind it.
fn renamed(w: &mut netlink::Writer, expression: &[u8], from: &str, to: &str) {
    let is_cmp = find_attr(expression, NFTA_EXPR_NAME).map(text).as_deref() == Some("cmp");
    let value = || find_attr(find_attr(find_attr(expression, NFTA_EXPR_DATA)?, NFTA_CMP_DATA)?, NFTA_DATA_VALUE);
    let named = value().filter(|value| is_cmp && value.contains(&0) && text(value) == from);
    let Some(value) = named else {
        w.raw(expression);
        return;
    };
    let mut new = [to.as_bytes(), b"\0"].concat();
    if value.len() > from.len() + 1 {
        new.resize(value.len(), 0);
    }
    w.attr_str(NFTA_EXPR_NAME, "cmp");
    w.nest(NFTA_EXPR_DATA, |w| {
        for (kind, payload) in netlink::attrs(find_attr(expression, NFTA_EXPR_DATA).unwrap_or(&[])) {
            if kind == NFTA_CMP_DATA {
                w.nest(NFTA_CMP_DATA, |w| {
                    w.attr(NFTA_DATA_VALUE, &new);
                });
            } else {
                w.attr(kind, payload);
            }
        }
    });
}

/// Takes the rule away again, wherever it stands in its chain.
///
/// # Errors
/// The kernel's refusal.
pub fn delete_mend(mend: &Mend) -> Result<()> {
    let (Mend::Accept { family, table, chain, .. } | Mend::Twin { family, table, chain, .. }) = mend else {
        return Ok(());
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

fn place(family: Layer, table: &str, chain: &str) -> String {
    format!("the chain {} {table} {chain}", family.word())
}
