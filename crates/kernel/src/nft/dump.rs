//! Tables read from the kernel as messages that make them again: to put one back as it was found, or to copy it.
//!
//! Handles, use counts and owners are left out; counters and what is in sets are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use model::state::Dump;

use super::batch::Prepared;
use super::encode::message;
use super::uapi::*;
use super::{Nft, TableName, except, family_word, header, kind};
use crate::netlink::{Message, NetlinkError, Result, Writer, attrs, be_u32, be_u64, find_attr, flags, text};

/// A dumped message or list of elements ends before this: a nested attribute's length has 16 bits.
const ELEMENTS_MAX: usize = 60_000;
/// How long a dump is begun anew where others' commits come between its parts.
const PATIENCE: Duration = Duration::from_secs(5);

/// One object of a table: a NEW message without what the kernel numbers itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawObject {
    /// NFT_MSG_NEW*
    pub kind: u16,
    /// Its attributes.
    pub attrs: Vec<u8>,
}

/// A table as it is in the kernel, ours or another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTable {
    /// NFPROTO_* of linux/netfilter.h.
    pub family: u8,
    /// Its name.
    pub name: String,
    /// Its comment, as nft writes it.
    pub comment: Option<String>,
    /// In an order that makes them again: what is referred to stands before what refers to it.
    pub(super) objects: Vec<RawObject>,
}

/// Text that is no dump of ours.
#[derive(Debug, thiserror::Error)]
#[error("the saved table is damaged: {0}")]
pub struct DumpError(&'static str);

impl Nft {
    /// All tables of the namespace.
    ///
    /// # Errors
    /// The kernel's refusal, such as EPERM without CAP_NET_ADMIN.
    pub fn tables(&mut self) -> Result<Vec<TableName>> {
        let messages = self.socket.dump(kind(NFT_MSG_GETTABLE), |w| header(w, 0))?;
        Ok(messages.iter().map(table_name).collect())
    }

    /// A table with all that is in it; None where there is none of that name.
    ///
    /// # Errors
    /// The kernel's refusal; [`NetlinkError::Interrupted`] where others' commits never let it be read in one piece for five
    /// seconds.
    pub fn dump_table(&mut self, family: u8, name: &str) -> Result<Option<RawTable>> {
        self.dump_with(family, name, |_| true)
    }

    /// As [`Self::dump_table`], but only the elements of sets whose declaration `wanted` takes.
    pub(super) fn dump_with(
        &mut self,
        family: u8,
        name: &str,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<RawTable>> {
        let begin = Instant::now();
        loop {
            let before = self.generation()?;
            match self.dump_once(family, name, &wanted) {
                Ok(table) if self.generation()? == before => return Ok(table),
                Ok(_) | Err(NetlinkError::Interrupted) => {}
                // Something went away between two parts.
                Err(e) if e.is_absent() && self.generation()? != before => {}
                Err(e) => return Err(e),
            }
            if begin.elapsed() > PATIENCE {
                return Err(NetlinkError::Interrupted);
            }
            std::thread::yield_now();
        }
    }

    fn dump_once(&mut self, family: u8, name: &str, wanted: &impl Fn(&[u8]) -> bool) -> Result<Option<RawTable>> {
        let tables = self.socket.dump(kind(NFT_MSG_GETTABLE), |w| header(w, family))?;
        let found = tables.iter().map(|m| (table_name(m), m)).find(|(t, _)| t.family == family && t.name == name);
        let Some((TableName { comment, .. }, message)) = found else { return Ok(None) };
        let mut objects = vec![RawObject { kind: NFT_MSG_NEWTABLE, attrs: kept(NFT_MSG_NEWTABLE, body(message)) }];
        for (get, new, attribute) in [
            (NFT_MSG_GETOBJ, NFT_MSG_NEWOBJ, NFTA_OBJ_TABLE),
            (NFT_MSG_GETFLOWTABLE, NFT_MSG_NEWFLOWTABLE, NFTA_FLOWTABLE_TABLE),
            (NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, NFTA_CHAIN_TABLE),
        ] {
            for message in self.dump_of(get, family, attribute, name)? {
                objects.push(RawObject { kind: new, attrs: kept(new, body(&message)) });
            }
        }
        let mut later = Vec::new();
        for message in self.dump_of(NFT_MSG_GETSET, family, NFTA_SET_TABLE, name)? {
            let attrs = kept(NFT_MSG_NEWSET, body(&message));
            let set_flags = number(&attrs, NFTA_SET_FLAGS);
            let lists = if wanted(&attrs) { self.dump_elements(family, name, &attrs)? } else { Vec::new() };
            objects.push(RawObject { kind: NFT_MSG_NEWSET, attrs });
            // A constant set takes nothing more once a rule refers to it; of others the elements stand last, so that
            // they can be left to a later batch.
            let place = if set_flags & (NFT_SET_ANONYMOUS | NFT_SET_CONSTANT) != 0 { &mut objects } else { &mut later };
            place.extend(lists);
        }
        let rules = self.dump_of(NFT_MSG_GETRULE, family, NFTA_RULE_TABLE, name)?;
        let rules = rules.iter().map(|m| kept(NFT_MSG_NEWRULE, body(m))).collect();
        let ordered = order_rules(&objects, rules);
        objects.extend(ordered.into_iter().map(|attrs| RawObject { kind: NFT_MSG_NEWRULE, attrs }));
        objects.extend(later);
        Ok(Some(RawTable { family, name: name.to_owned(), comment, objects }))
    }

    /// The messages about objects of one table. Not every kernel filters by table for every kind.
    pub(super) fn dump_of(&mut self, get: u16, family: u8, attribute: u16, table: &str) -> Result<Vec<Message>> {
        let messages = self.socket.dump(kind(get), |w| {
            header(w, family);
            w.attr_str(attribute, table);
        })?;
        Ok(messages.into_iter().filter(|m| find_attr(body(m), attribute).map(text).as_deref() == Some(table)).collect())
    }

    /// The raw messages with a set's elements.
    pub(super) fn element_messages(&mut self, family: u8, table: &str, set: &str) -> Result<Vec<Message>> {
        self.socket.dump(kind(NFT_MSG_GETSETELEM), |w| {
            header(w, family);
            w.attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
            w.attr_str(NFTA_SET_ELEM_LIST_SET, set);
        })
    }

    fn dump_elements(&mut self, family: u8, table: &str, set: &[u8]) -> Result<Vec<RawObject>> {
        let name = find_attr(set, NFTA_SET_NAME).map(text).unwrap_or_default();
        let messages = self.element_messages(family, table, &name)?;
        let mut all: Vec<&[u8]> = messages
            .iter()
            .filter_map(|m| find_attr(body(m), NFTA_SET_ELEM_LIST_ELEMENTS))
            .flat_map(|list| attrs(list).map(|(_, element)| element))
            .collect();
        let plain = find_attr(set, NFTA_SET_DESC).and_then(|d| find_attr(d, NFTA_SET_DESC_CONCAT)).is_none();
        if number(set, NFTA_SET_FLAGS) & NFT_SET_INTERVAL != 0 && plain {
            // The kernel checks each boundary against those that are in already: from the lowest on, and an
            // interval's end before the next one's beginning, as nft does.
            all.sort_by_key(|element| {
                let end = number(element, NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END != 0;
                (find_attr(element, NFTA_SET_ELEM_KEY), !end)
            });
        }
        let mut rest = all.into_iter().peekable();
        let mut out = Vec::new();
        while rest.peek().is_some() {
            let mut w = Writer::new();
            w.attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
            w.attr_str(NFTA_SET_ELEM_LIST_SET, &name);
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                while let Some(element) = rest.next_if(|e| w.len() + e.len() < ELEMENTS_MAX || w.len() < 4096) {
                    w.nest(NFTA_LIST_ELEM, |w| {
                        w.raw(element);
                    });
                }
            });
            out.push(RawObject { kind: NFT_MSG_NEWSETELEM, attrs: w.into_bytes() });
        }
        Ok(out)
    }
}

impl RawObject {
    fn leave_out_elements(&mut self, is_it: impl Fn(&[u8]) -> bool) {
        let list = find_attr(&self.attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]);
        if !attrs(list).any(|(_, element)| is_it(element)) {
            return;
        }
        let mut w = Writer::new();
        copy(&mut w, &self.attrs, |kind| kind != NFTA_SET_ELEM_LIST_ELEMENTS);
        w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
            for (_, element) in attrs(list).filter(|(_, element)| !is_it(element)) {
                w.nest(NFTA_LIST_ELEM, |w| {
                    w.raw(element);
                });
            }
        });
        self.attrs = w.into_bytes();
    }
}

impl RawTable {
    /// Leaves out the rules and elements whose comment `is_it`, with the sets that such a rule alone has.
    pub(super) fn leave_out(&mut self, is_it: &impl Fn(Option<&str>) -> bool) {
        let mut theirs = BTreeSet::new();
        // A rule of theirs that was written anew is what it was.
        for object in self.objects.iter_mut().filter(|object| object.kind == NFT_MSG_NEWRULE) {
            if is_it(comment(&object.attrs, NFTA_RULE_USERDATA).as_deref())
                && let Some((_, was)) = except::restored(&object.attrs)
            {
                object.attrs = was;
            }
        }
        self.objects.retain(|object| {
            if object.kind != NFT_MSG_NEWRULE || !is_it(comment(&object.attrs, NFTA_RULE_USERDATA).as_deref()) {
                return true;
            }
            let lookups = rule_expressions(&object.attrs).filter(|(name, _)| name == "lookup");
            theirs.extend(lookups.filter_map(|(_, data)| find_attr(data, NFTA_LOOKUP_SET).map(text)));
            false
        });
        let is_anonymous = |object: &RawObject| number(&object.attrs, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS != 0;
        let sets = self.objects.iter().filter(|object| object.kind == NFT_MSG_NEWSET && is_anonymous(object));
        let gone: BTreeSet<String> = sets
            .filter_map(|set| find_attr(&set.attrs, NFTA_SET_NAME).map(text))
            .filter(|name| theirs.contains(name))
            .collect();
        self.objects.retain(|object| {
            let name = match object.kind {
                NFT_MSG_NEWSET => NFTA_SET_NAME,
                NFT_MSG_NEWSETELEM => NFTA_SET_ELEM_LIST_SET,
                _ => return true,
            };
            !find_attr(&object.attrs, name).map(text).is_some_and(|name| gone.contains(&name))
        });
        for object in self.objects.iter_mut().filter(|object| object.kind == NFT_MSG_NEWSETELEM) {
            object.leave_out_elements(|element| is_it(comment(element, NFTA_SET_ELEM_USERDATA).as_deref()));
        }
        // A list without elements is refused.
        self.objects.retain(|object| {
            object.kind != NFT_MSG_NEWSETELEM
                || find_attr(&object.attrs, NFTA_SET_ELEM_LIST_ELEMENTS).is_some_and(|list| !list.is_empty())
        });
    }

    /// The messages that make the table again. `table_flags` are NFT_TABLE_F_* to set besides its own.
    pub(super) fn messages(&self, table_flags: u32) -> Vec<Prepared> {
        let mut sets = 0;
        let mut constant = BTreeSet::new();
        let mut rules: BTreeMap<String, u32> = BTreeMap::new();
        let mut out = Vec::new();
        for object in &self.objects {
            let attrs = object.attrs.as_slice();
            let mut message_flags = flags::CREATE;
            let mut may_follow = false;
            match object.kind {
                NFT_MSG_NEWRULE => message_flags |= flags::APPEND,
                NFT_MSG_NEWSET => {
                    sets += 1;
                    if number(attrs, NFTA_SET_FLAGS) & (NFT_SET_ANONYMOUS | NFT_SET_CONSTANT) != 0 {
                        constant.insert(find_attr(attrs, NFTA_SET_NAME).map(text));
                    }
                }
                NFT_MSG_NEWSETELEM => {
                    may_follow = !constant.contains(&find_attr(attrs, NFTA_SET_ELEM_LIST_SET).map(text));
                }
                _ => {}
            }
            let bytes = message(object.kind, message_flags, self.family, |w| match object.kind {
                NFT_MSG_NEWTABLE => {
                    let own = number(attrs, NFTA_TABLE_FLAGS) & NFT_TABLE_F_DORMANT;
                    copy(w, attrs, |kind| kind != NFTA_TABLE_FLAGS);
                    w.attr_be32(NFTA_TABLE_FLAGS, own | table_flags);
                }
                NFT_MSG_NEWRULE => {
                    w.raw(attrs);
                    write_compat(w, attrs);
                }
                NFT_MSG_NEWSET => {
                    w.raw(attrs);
                    w.attr_be32(NFTA_SET_ID, sets);
                }
                _ => {
                    w.raw(attrs);
                }
            });
            let mut what = self.describe(object);
            if object.kind == NFT_MSG_NEWRULE {
                let count = rules.entry(what.clone()).or_default();
                *count += 1;
                what = format!("rule {count} of {what}");
            }
            out.push(Prepared { bytes, what, may_follow });
        }
        out
    }

    fn describe(&self, object: &RawObject) -> String {
        let (word, attribute) = match object.kind {
            NFT_MSG_NEWTABLE => return format!("table {} {}", family_word(self.family), self.name),
            NFT_MSG_NEWCHAIN => ("chain", NFTA_CHAIN_NAME),
            NFT_MSG_NEWRULE => ("chain", NFTA_RULE_CHAIN),
            NFT_MSG_NEWSET => ("set", NFTA_SET_NAME),
            NFT_MSG_NEWSETELEM => ("elements of set", NFTA_SET_ELEM_LIST_SET),
            NFT_MSG_NEWOBJ => ("object", NFTA_OBJ_NAME),
            _ => ("flowtable", NFTA_FLOWTABLE_NAME),
        };
        let own = find_attr(&object.attrs, attribute).map(text).unwrap_or_default();
        format!("{word} {} {} {own}", family_word(self.family), self.name)
    }

    /// As text that [`Self::from_dump`] reads: an object a line, in hexadecimal.
    #[must_use]
    pub fn to_dump(&self) -> Dump {
        let line = |object: &RawObject| {
            let mut text = format!("{:02x}{:02x}", object.kind, self.family);
            for byte in &object.attrs {
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
            text
        };
        Dump(self.objects.iter().map(line).collect())
    }

    /// Reads what [`Self::to_dump`] wrote.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn from_dump(dump: &Dump) -> std::result::Result<Self, DumpError> {
        let mut objects = Vec::new();
        let mut of = None;
        for line in &dump.0 {
            let bytes = unhex(line).ok_or(DumpError("not hexadecimal"))?;
            let [kind, family, attrs @ ..] = bytes.as_slice() else { return Err(DumpError("too short")) };
            if *of.get_or_insert(*family) != *family {
                return Err(DumpError("of two families"));
            }
            objects.push(RawObject { kind: u16::from(*kind), attrs: attrs.to_vec() });
        }
        let (Some(family), Some(first)) = (of, objects.first()) else { return Err(DumpError("empty")) };
        if first.kind != NFT_MSG_NEWTABLE {
            return Err(DumpError("its first message makes no table"));
        }
        let name = find_attr(&first.attrs, NFTA_TABLE_NAME).map(text).ok_or(DumpError("a table without a name"))?;
        let comment = comment(&first.attrs, NFTA_TABLE_USERDATA);
        Ok(Self { family, name, comment, objects })
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn unhex(line: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

/// A message's attributes, behind struct nfgenmsg.
pub(super) fn body(message: &Message) -> &[u8] {
    message.payload.get(4..).unwrap_or(&[])
}

/// A number of four bytes in network order; 0 where the attribute is missing.
pub(super) fn number(attrs: &[u8], kind: u16) -> u32 {
    find_attr(attrs, kind).map_or(0, be_u32)
}

fn table_name(message: &Message) -> TableName {
    let attrs = body(message);
    TableName {
        family: message.payload.first().copied().unwrap_or(0),
        name: find_attr(attrs, NFTA_TABLE_NAME).map(text).unwrap_or_default(),
        comment: comment(attrs, NFTA_TABLE_USERDATA),
        owner: find_attr(attrs, NFTA_TABLE_OWNER).map(be_u32).filter(|&port| port != 0),
    }
}

/// The comment in an object's user data, which is its attribute `kind`: type, length, value, each one behind another.
pub(super) fn comment(object: &[u8], kind: u16) -> Option<String> {
    let mut rest = find_attr(object, kind)?;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == NFTNL_UDATA_COMMENT {
            return Some(text(value));
        }
        rest = &tail[value.len()..];
    }
    None
}

/// The attributes that a NEW message takes; handles, use counts, identifiers and padding are not among them.
fn kept(kind: u16, attrs: &[u8]) -> Vec<u8> {
    let keep: &[u16] = match kind {
        NFT_MSG_NEWTABLE => &[NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA],
        NFT_MSG_NEWCHAIN => &[
            NFTA_CHAIN_TABLE,
            NFTA_CHAIN_NAME,
            NFTA_CHAIN_HOOK,
            NFTA_CHAIN_POLICY,
            NFTA_CHAIN_TYPE,
            NFTA_CHAIN_COUNTERS,
            NFTA_CHAIN_FLAGS,
            NFTA_CHAIN_USERDATA,
        ],
        NFT_MSG_NEWRULE => &[NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA],
        NFT_MSG_NEWSET => &[
            NFTA_SET_TABLE,
            NFTA_SET_NAME,
            NFTA_SET_FLAGS,
            NFTA_SET_KEY_TYPE,
            NFTA_SET_KEY_LEN,
            NFTA_SET_DATA_TYPE,
            NFTA_SET_DATA_LEN,
            NFTA_SET_POLICY,
            NFTA_SET_DESC,
            NFTA_SET_TIMEOUT,
            NFTA_SET_GC_INTERVAL,
            NFTA_SET_USERDATA,
            NFTA_SET_OBJ_TYPE,
            NFTA_SET_EXPR,
            NFTA_SET_EXPRESSIONS,
        ],
        NFT_MSG_NEWOBJ => &[NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA, NFTA_OBJ_USERDATA],
        _ => &[NFTA_FLOWTABLE_TABLE, NFTA_FLOWTABLE_NAME, NFTA_FLOWTABLE_HOOK, NFTA_FLOWTABLE_FLAGS],
    };
    let mut w = Writer::new();
    copy(&mut w, attrs, |attribute| {
        keep.contains(&attribute) && (kind, attribute) != (NFT_MSG_NEWRULE, NFTA_RULE_EXPRESSIONS)
    });
    if let (NFT_MSG_NEWRULE, Some(list)) = (kind, find_attr(attrs, NFTA_RULE_EXPRESSIONS)) {
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            for (_, expression) in crate::netlink::attrs(list) {
                w.nest(NFTA_LIST_ELEM, |w| write_expression(w, expression));
            }
        });
    }
    w.into_bytes()
}

/// An expression as a NEW message takes it: of some the kernel dumps attributes that it refuses, or leaves out what it
/// asks for.
pub(super) fn write_expression(w: &mut Writer, expression: &[u8]) {
    let data = find_attr(expression, NFTA_EXPR_DATA).unwrap_or(&[]);
    let name = find_attr(expression, NFTA_EXPR_NAME).map(text);
    match name.as_deref() {
        // A written or removed TCP option: nft_exthdr_tcp_set_init and nft_exthdr_tcp_strip_init of nft_exthdr.c.
        Some("exthdr") if find_attr(data, NFTA_EXTHDR_DREG).is_none() => {
            let strips = find_attr(data, NFTA_EXTHDR_SREG).is_none();
            copy(w, expression, |kind| kind != NFTA_EXPR_DATA);
            w.nest(NFTA_EXPR_DATA, |w| {
                copy(w, data, |kind| match kind {
                    NFTA_EXTHDR_FLAGS => false,
                    NFTA_EXTHDR_OFFSET | NFTA_EXTHDR_LEN => !strips,
                    _ => true,
                });
            });
        }
        // nft_dynset_init of nft_dynset.c: several expressions want their flag, and a set without timeouts takes none.
        Some("dynset") => {
            let several = find_attr(data, NFTA_DYNSET_EXPRESSIONS).is_some();
            let no_timeout = find_attr(data, NFTA_DYNSET_TIMEOUT).map(be_u64) == Some(0);
            copy(w, expression, |kind| kind != NFTA_EXPR_DATA);
            w.nest(NFTA_EXPR_DATA, |w| {
                copy(w, data, |kind| match kind {
                    NFTA_DYNSET_FLAGS => false,
                    NFTA_DYNSET_TIMEOUT => !no_timeout,
                    _ => true,
                });
                let flag = if several { NFT_DYNSET_F_EXPR } else { 0 };
                w.attr_be32(NFTA_DYNSET_FLAGS, number(data, NFTA_DYNSET_FLAGS) | flag);
            });
        }
        _ => {
            w.raw(expression);
        }
    }
}

/// Copies attributes byte by byte, NLA_F_NESTED and all.
pub(super) fn copy(w: &mut Writer, bytes: &[u8], keep: impl Fn(u16) -> bool) {
    let mut rest = bytes;
    for (kind, payload) in attrs(bytes) {
        let whole = (4 + payload.len()).next_multiple_of(4).min(rest.len());
        if keep(kind) {
            w.raw(&rest[..whole]);
        }
        rest = &rest[whole..];
    }
}

/// The expressions in a list: name and data of each.
pub(super) fn expressions(list: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    attrs(list).map(|(_, expression)| {
        let name = find_attr(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
        (name, find_attr(expression, NFTA_EXPR_DATA).unwrap_or(&[]))
    })
}

/// The expressions of a rule.
pub(super) fn rule_expressions(rule: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    expressions(find_attr(rule, NFTA_RULE_EXPRESSIONS).unwrap_or(&[]))
}

/// The verdict of an `immediate`, or of a map's element: its code and chain.
pub(super) fn verdict(data: &[u8]) -> Option<(i32, Option<String>)> {
    let verdict = find_attr(data, NFTA_DATA_VERDICT)?;
    Some((number(verdict, NFTA_VERDICT_CODE).cast_signed(), find_attr(verdict, NFTA_VERDICT_CHAIN).map(text)))
}

/// Rules in an order that can be made again: a chain without a name of its own (`jump { … }`, NFT_CHAIN_BINDING)
/// takes no more rules once one jumps there. Within a chain the order stays.
fn order_rules(objects: &[RawObject], rules: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let binding: BTreeSet<String> = objects
        .iter()
        .filter(|o| o.kind == NFT_MSG_NEWCHAIN && number(&o.attrs, NFTA_CHAIN_FLAGS) & NFT_CHAIN_BINDING != 0)
        .filter_map(|o| find_attr(&o.attrs, NFTA_CHAIN_NAME).map(text))
        .collect();
    if binding.is_empty() {
        return rules;
    }
    let mut inner: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut outer = Vec::new();
    for rule in rules {
        let chain = find_attr(&rule, NFTA_RULE_CHAIN).map(text).unwrap_or_default();
        if binding.contains(&chain) {
            inner.entry(chain).or_default().push(rule);
        } else {
            outer.push(rule);
        }
    }
    let mut out = Vec::new();
    for rule in outer {
        place(rule, &mut inner, &mut out);
    }
    // Chains that nothing jumps to.
    out.extend(inner.into_values().flatten());
    out
}

fn place(rule: Vec<u8>, inner: &mut BTreeMap<String, Vec<Vec<u8>>>, out: &mut Vec<Vec<u8>>) {
    let targets: Vec<String> = rule_expressions(&rule)
        .filter(|(name, _)| name == "immediate")
        .filter_map(|(_, data)| verdict(find_attr(data, NFTA_IMMEDIATE_DATA)?)?.1)
        .collect();
    for target in targets {
        for one in inner.remove(&target).unwrap_or_default() {
            place(one, inner, out);
        }
    }
    out.push(rule);
}

/// NFTA_RULE_COMPAT, which the kernel does not dump: x_tables' matches and targets ask for the protocol that the
/// rule is about (nft_compat.c, nft_parse_compat), which earlier expressions of it compare.
pub(super) fn write_compat(w: &mut Writer, rule: &[u8]) {
    const IP_PROTOCOL_AT: u32 = 9;
    const IP6_NEXTHDR_AT: u32 = 6;
    if !rule_expressions(rule).any(|(name, _)| name == "match" || name == "target") {
        return;
    }
    let mut loaded = false;
    let mut found = (0, 0);
    for (name, data) in rule_expressions(rule) {
        match name.as_str() {
            "meta" => loaded = number(data, NFTA_META_KEY) == NFT_META_L4PROTO,
            "payload" => {
                let at = number(data, NFTA_PAYLOAD_OFFSET);
                loaded = number(data, NFTA_PAYLOAD_BASE) == NFT_PAYLOAD_NETWORK_HEADER
                    && number(data, NFTA_PAYLOAD_LEN) == 1
                    && (at == IP_PROTOCOL_AT || at == IP6_NEXTHDR_AT);
            }
            "cmp" if loaded => {
                let value = find_attr(data, NFTA_CMP_DATA).and_then(|d| find_attr(d, NFTA_DATA_VALUE));
                if let Some([protocol]) = value {
                    let inverted = number(data, NFTA_CMP_OP) == NFT_CMP_NEQ;
                    found = (u32::from(*protocol), if inverted { NFT_RULE_COMPAT_F_INV } else { 0 });
                }
                loaded = false;
            }
            _ => {}
        }
    }
    w.nest(NFTA_RULE_COMPAT, |w| {
        w.attr_be32(NFTA_RULE_COMPAT_PROTO, found.0);
        w.attr_be32(NFTA_RULE_COMPAT_FLAGS, found.1);
    });
}
