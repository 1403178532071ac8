//! Rules of others that except an interface, written anew in their places so that they except the bridge that takes its place
//! as well: with one condition more behind each exception, and a comment by which it is found again.

use model::foreign::naming::{Part, is_broken};
use model::foreign::{Layer, Marked, Mend};
use sha2::{Digest as _, Sha256};

use super::batch::Prepared;
use super::dump::{RawTable, body, comment, copy, rule_expressions, write_compat};
use super::encode::message;
use super::likes::{Ends, Like, asked};
use super::mends::{number, place};
use super::naming::{alike, anonymous, parts, sets};
use super::uapi::*;
use super::{Nft, TableName, Transaction, words};
use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{self, Writer, attrs, be_u64, find_attr, flags, text};

/// A value of libnftnl's user data ends before this: its length is one byte.
const COMMENT_MAX: usize = 254;
const OPERATION: &str = "write a rule anew in";

/// Writes the rules anew so that they except the bridge.
///
/// # Errors
/// The kernel's refusal; ENOENT where no such rule is there any more.
pub fn add(mend: &Mend) -> Result<()> {
    let Mend::Except { family, table, chain, print: wanted, port, index, bridge, .. } = mend else { return Ok(()) };
    change(mend, *family, table, |found, like| {
        let rule = found.attrs;
        if found.chain != *chain || of_mark(rule).is_some() || print(rule, like.raw) != *wanted {
            return Ok(None);
        }
        let all = parts(rule, &sets(like.raw));
        let bare: Vec<Part> = all.iter().map(|(_, part)| part.clone()).collect();
        let broken = all.iter().filter(|(_, part)| is_broken(part, &bare, port, *index, bridge));
        let behind: Vec<(usize, bool)> =
            broken.filter_map(|(at, part)| Some((*at, part.is_exception().then(|| part.side())??))).collect();
        let (mut at, mut expressions) = (Vec::new(), Vec::new());
        for (nth, expression) in list(rule).enumerate() {
            expressions.push(like.copied(expression));
            if let Some((_, inward)) = behind.iter().find(|(place, _)| *place == nth) {
                at.push(expressions.len());
                expressions.extend(asked(*inward, NFT_CMP_NEQ, bridge));
            }
        }
        let of = Marked { handle: found.handle, port: port.clone(), index: *index, bridge: bridge.clone() };
        let words = Mend::except_mark(&of, &at, comment(rule, NFTA_RULE_USERDATA).as_deref());
        if words.len() > COMMENT_MAX {
            let why = "its comment is too long for warren's mark beside it; shorten it";
            return Err(KernelError::new(OPERATION, place(*family, table, chain), std::io::Error::other(why)));
        }
        Ok(Some((expressions, user_data(rule, Some(&words)))))
    })
}

/// Writes the rules as they were. Those that are gone are no error.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn delete(mend: &Mend) -> Result<()> {
    let Mend::Except { family, table, chain, print: wanted, port, index, bridge, .. } = mend else { return Ok(()) };
    let done = change(mend, *family, table, |found, like| {
        let Some((of, was)) = restored(found.attrs) else { return Ok(None) };
        let is_it = (&of.port, &of.index, &of.bridge) == (port, index, bridge);
        if found.chain != *chain || !is_it || print(&was, like.raw) != *wanted {
            return Ok(None);
        }
        let expressions = list(&was).map(|expression| like.copied(expression)).collect();
        Ok(Some((expressions, find_attr(&was, NFTA_RULE_USERDATA).unwrap_or(&[]).to_vec())))
    });
    match done {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}

/// A rule as it stands.
struct Found<'a> {
    chain: String,
    handle: u64,
    attrs: &'a [u8],
}

/// A rule's expressions and user data.
type Written = (Vec<Vec<u8>>, Vec<u8>);

/// Replaces what `write` makes another rule of, in one transaction.
fn change(
    mend: &Mend,
    family: Layer,
    table: &str,
    write: impl Fn(&Found<'_>, &mut Like<'_>) -> Result<Option<Written>>,
) -> Result<()> {
    let Mend::Except { chain, port, index, bridge, .. } = mend else { return Ok(()) };
    let (what, of) = (place(family, table, chain), number(family));
    let mut nft = Nft::open().context("open", "the firewall")?;
    let gone = || KernelError::new(OPERATION, what.clone(), std::io::Error::from_raw_os_error(libc::ENOENT));
    let raw = nft.dump_table(of, table).context("look at", what.clone())?.ok_or_else(gone)?;
    let messages = nft.dump_of(NFT_MSG_GETRULE, of, NFTA_RULE_TABLE, table).context("look at", what.clone())?;
    let ends = Ends { port: port.as_str(), index: *index, bridge: bridge.as_str() };
    let mut like = Like::new(ends, &raw, family);
    let mut rules = Vec::new();
    for attrs in messages.iter().map(body) {
        let chain = find_attr(attrs, NFTA_RULE_CHAIN).map(text).unwrap_or_default();
        let found = Found { chain, handle: find_attr(attrs, NFTA_RULE_HANDLE).map_or(0, be_u64), attrs };
        let Some((expressions, words)) = write(&found, &mut like)? else { continue };
        let rule = with(attrs, &expressions, &words);
        rules.push(message(NFT_MSG_NEWRULE, flags::REPLACE, of, |w| {
            w.attr_str(NFTA_RULE_TABLE, table);
            w.attr_str(NFTA_RULE_CHAIN, &found.chain);
            w.attr_be64(NFTA_RULE_HANDLE, found.handle);
            copy(w, &rule, |kind| matches!(kind, NFTA_RULE_EXPRESSIONS | NFTA_RULE_USERDATA));
            write_compat(w, &rule);
        }));
    }
    if rules.is_empty() {
        return Err(gone());
    }
    let mut transaction = Transaction::new();
    transaction.messages(like.sets.into_iter().chain(rules).map(|b| Prepared::new(b, what.clone())).collect());
    nft.commit(&transaction).map_err(|e| KernelError::new(OPERATION, what, e))
}

/// A rule's attributes with other expressions and user data.
fn with(rule: &[u8], expressions: &[Vec<u8>], words: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    copy(&mut w, rule, |kind| !matches!(kind, NFTA_RULE_EXPRESSIONS | NFTA_RULE_USERDATA));
    w.nest(NFTA_RULE_EXPRESSIONS, |w| {
        for expression in expressions {
            w.nest(NFTA_LIST_ELEM, |w| {
                w.raw(expression);
            });
        }
    });
    if !words.is_empty() {
        w.attr(NFTA_RULE_USERDATA, words);
    }
    w.into_bytes()
}

fn list(rule: &[u8]) -> impl Iterator<Item = &[u8]> {
    attrs(find_attr(rule, NFTA_RULE_EXPRESSIONS).unwrap_or(&[])).map(|(_, expression)| expression)
}

/// The user data of a rule with another comment.
fn user_data(rule: &[u8], words: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(words) = words {
        out.extend([NFTNL_UDATA_COMMENT, words.len() as u8 + 1]);
        out.extend(words.as_bytes());
        out.push(0);
    }
    let mut rest = find_attr(rule, NFTA_RULE_USERDATA).unwrap_or(&[]);
    while let [kind, length, tail @ ..] = rest {
        let Some((value, behind)) = tail.split_at_checked(usize::from(*length)) else { break };
        if *kind != NFTNL_UDATA_COMMENT {
            out.extend([*kind, *length]);
            out.extend(value);
        }
        rest = behind;
    }
    out
}

fn of_mark(rule: &[u8]) -> Option<(Marked, Vec<usize>, Option<String>)> {
    Mend::of_except_mark(&comment(rule, NFTA_RULE_USERDATA)?)
}

/// The attributes of a rule as it was before it was written anew, and its mark; none where it was not, or where what we
/// wrote into it is not there any more.
pub(super) fn restored(rule: &[u8]) -> Option<(Marked, Vec<u8>)> {
    let (of, at, own) = of_mark(rule)?;
    let all: Vec<&[u8]> = list(rule).collect();
    let mut kept = Vec::new();
    let mut nth = 0;
    while let Some(expression) = all.get(nth) {
        if at.contains(&nth) {
            let pair = [expression, all.get(nth + 1)?];
            let ours = [true, false].iter().any(|inward| {
                let ours = asked(*inward, NFT_CMP_NEQ, &of.bridge);
                pair.iter().zip(&ours).all(|(there, ours)| same(there, ours))
            });
            if !ours {
                return None;
            }
            nth += 2;
            continue;
        }
        kept.push(expression.to_vec());
        nth += 1;
    }
    let was = with(rule, &kept, &user_data(rule, own.as_deref()));
    Some((of, was))
}

/// Whether two expressions say the same: the kernel numbers registers as it likes.
fn same(a: &[u8], b: &[u8]) -> bool {
    let told = |expression: &[u8]| {
        let data = find_attr(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
        let name = find_attr(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
        let register = if name == "meta" { NFTA_META_DREG } else { NFTA_CMP_SREG };
        let rest: Vec<(u16, Vec<u8>)> =
            attrs(data).filter(|(kind, _)| *kind != register).map(|(kind, value)| (kind, value.to_vec())).collect();
        (name, rest)
    };
    told(a) == told(b)
}

/// What tells a rule from any other of its chain: what it asks and does, and its comment; not what it has counted.
pub(super) fn print(rule: &[u8], table: &RawTable) -> String {
    let sets = sets(table);
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (name, data) in rule_expressions(rule) {
        part(name.as_bytes());
        match (name.as_str(), anonymous(data, &sets)) {
            ("counter" | "last", _) => {}
            ("lookup", Some(held)) => part(&alike(data, held)),
            ("quota", _) => attrs(data).filter(|(kind, _)| *kind != NFTA_QUOTA_CONSUMED).for_each(|(_, v)| part(v)),
            _ => part(data),
        }
    }
    part(comment(rule, NFTA_RULE_USERDATA).unwrap_or_default().as_bytes());
    hash.finalize().iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Those of a table's rules that were written anew, each with its handle and the one that it had.
pub(super) fn standing(nft: &mut Nft, name: &TableName, family: Layer) -> netlink::Result<Vec<(Mend, u64, u64)>> {
    let Some(raw) = nft.dump_table(name.family, &name.name)? else { return Ok(Vec::new()) };
    let mut out: Vec<(Mend, u64, u64)> = Vec::new();
    for message in nft.dump_of(NFT_MSG_GETRULE, name.family, NFTA_RULE_TABLE, &name.name)? {
        let rule = body(&message);
        let Some((Marked { handle, port, index, bridge }, was)) = restored(rule) else { continue };
        let mend = Mend::Except {
            family,
            table: name.name.clone(),
            chain: find_attr(rule, NFTA_RULE_CHAIN).map(text).unwrap_or_default(),
            print: print(&was, &raw),
            text: words::rule(&was),
            count: 1,
            port,
            index,
            bridge,
        };
        out.push((mend, find_attr(rule, NFTA_RULE_HANDLE).map_or(0, be_u64), handle));
    }
    // Each says how often it stands there.
    let counts: Vec<usize> =
        out.iter().map(|(mend, ..)| out.iter().filter(|(other, ..)| other == mend).count()).collect();
    for ((mend, ..), times) in out.iter_mut().zip(counts) {
        if let Mend::Except { count, .. } = mend {
            *count = times;
        }
    }
    Ok(out)
}
