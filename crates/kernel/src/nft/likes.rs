//! Likes, for a bridge, of what others' firewalls say of the interface whose place it takes: a rule behind the rule, a key
//! beside the key. They are known by their comments.

use std::collections::BTreeMap;

use model::address::IfName;
use model::foreign::naming::{Part, hex, is_broken, moved_key};
use model::foreign::{Layer, Marked, Mend};

use super::batch::Prepared;
use super::dump::{RawTable, body, comment, copy, number as be, write_compat, write_expression};
use super::encode::{self, message};
use super::mends::{number, place};
use super::naming::{Load, compared, is_ours, key, load, parts, sets};
use super::uapi::*;
use super::{Nft, Transaction};
use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{self, Writer, attrs, be_u64, find_attr, flags, text};

/// The type of interfaces' names, as nft numbers types of keys (datatype.h of nftables: TYPE_IFNAME); a concatenation is
/// of six bits for each part.
const TYPE_IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;
/// A name's width in a register (IFNAMSIZ of linux/if.h).
const WIDTH: usize = 16;
/// Registers of 16 bytes: NFT_REG_1 to NFT_REG_4.
const WIDE_REGISTERS: std::ops::RangeInclusive<u32> = 1..=4;

/// Puts the like of a rule behind it, which asks for the bridge where that asks for the interface; in sets of its own
/// where that has such.
///
/// # Errors
/// The kernel's refusal, such as ENOENT where the rule is gone.
pub fn add_twin(mend: &Mend) -> Result<()> {
    let Mend::Twin { family, table, chain, handle, port, index, bridge } = mend else { return Ok(()) };
    let what = place(*family, table, chain);
    let operation = "put the like of a rule into";
    let mut nft = Nft::open().context("open", "the firewall")?;
    let (of, raw) = (number(*family), nft.dump_table(number(*family), table).context("look at", what.clone())?);
    let messages = nft.dump_of(NFT_MSG_GETRULE, of, NFTA_RULE_TABLE, table).context("look at", what.clone())?;
    let is_it = |rule: &&[u8]| {
        find_attr(rule, NFTA_RULE_HANDLE).map(be_u64) == Some(*handle)
            && find_attr(rule, NFTA_RULE_CHAIN).map(text).as_deref() == Some(chain)
    };
    let (Some(original), Some(raw)) = (messages.iter().map(body).find(is_it), raw) else {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(KernelError::new(operation, what, gone));
    };
    let ends = Ends { port: port.as_str(), index: *index, bridge: bridge.as_str() };
    let mut like = Like::new(ends, &raw, *family);
    let all = parts(original, &sets(&raw));
    let bare: Vec<Part> = all.iter().map(|(_, part)| part.clone()).collect();
    let by_name = |part: &Part| {
        !part.is_exception() && part.is_told_by_name_alone() && is_broken(part, &bare, port, *index, bridge)
    };
    let by_name = all.iter().filter(|(_, part)| by_name(part)).filter_map(|(at, part)| Some((*at, part.side()?)));
    let list = find_attr(original, NFTA_RULE_EXPRESSIONS).unwrap_or(&[]);
    let expressions = like.expressions(list, &by_name.collect(), bridge);
    let mark = Marked { handle: *handle, port: port.clone(), index: *index, bridge: bridge.clone() };
    let bytes = message(NFT_MSG_NEWRULE, flags::CREATE | flags::APPEND, of, |w| {
        w.attr_str(NFTA_RULE_TABLE, table);
        w.attr_str(NFTA_RULE_CHAIN, chain);
        w.attr_be64(NFTA_RULE_POSITION, *handle);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            for expression in &expressions {
                w.nest(NFTA_LIST_ELEM, |w| {
                    w.raw(expression);
                });
            }
        });
        // What iptables-nft says of a rule of its own (its protocol, for instance) holds for its like.
        write_compat(w, original);
        w.attr(NFTA_RULE_USERDATA, &encode::comment(&Mend::twin_mark(&mark)));
    });
    let mut all: Vec<Prepared> = like.sets.into_iter().map(|bytes| Prepared::new(bytes, what.clone())).collect();
    all.push(Prepared::new(bytes, what.clone()));
    let mut transaction = Transaction::new();
    transaction.messages(all);
    nft.commit(&transaction).map_err(|e| KernelError::new(operation, what, e))
}

/// Who is named, and who is to be.
pub(super) struct Ends<'a> {
    pub port: &'a str,
    pub index: u32,
    pub bridge: &'a str,
}

impl Ends<'_> {
    /// Whether a comparison is with the interface: by name, by how names begin, or by number.
    fn is_meant(&self, part: &Part) -> bool {
        match part {
            Part::Name { name, begins: true, .. } => self.port.starts_with(name) && !self.bridge.starts_with(name),
            Part::Name { name, .. } => name == self.port,
            Part::Index { index, .. } => *index == self.index,
            Part::Within { .. } | Part::Other(_) => false,
        }
    }
}

/// A rule's like in the making.
pub(super) struct Like<'a> {
    ends: Ends<'a>,
    pub raw: &'a RawTable,
    family: Layer,
    /// The messages that make its own sets.
    pub sets: Vec<Vec<u8>>,
    /// Whether more than one of its conditions is about the interface.
    several: bool,
}

impl<'a> Like<'a> {
    pub(super) fn new(ends: Ends<'a>, raw: &'a RawTable, family: Layer) -> Self {
        Self { ends, raw, family, sets: Vec::new(), several: false }
    }

    /// An expression as it is; of a look into a set that is the rule's own, into one that holds the same.
    pub(super) fn copied(&mut self, expression: &[u8]) -> Vec<u8> {
        let mut w = Writer::new();
        match split(expression) {
            (name, data) if name == "lookup" => self.write_lookup(&mut w, expression, data, false),
            _ => write_expression(&mut w, expression),
        }
        w.into_bytes()
    }

    /// The rule's expressions, as they are to be. Instead of those at the places of `by_name` it is asked for the bridge's
    /// name; is it that of the interface which a packet came by?
    fn expressions(&mut self, list: &[u8], by_name: &BTreeMap<usize, bool>, bridge: &IfName) -> Vec<Vec<u8>> {
        let all: Vec<&[u8]> = attrs(list).map(|(_, expression)| expression).collect();
        self.several = self.hits(&all) > 1;
        let mut out: Vec<Vec<u8>> = Vec::new();
        // Which of them read an interface that was not looked at yet, and where.
        let mut loads: Vec<(usize, Load)> = Vec::new();
        for (at, expression) in all.into_iter().enumerate() {
            let (name, data) = split(expression);
            let mut w = Writer::new();
            if let Some(inward) = by_name.get(&at) {
                out.extend(asked(*inward, NFT_CMP_EQ, bridge));
                loads.clear();
                continue;
            }
            match name.as_str() {
                "meta" => {
                    loads.extend(load(data).map(|load| (out.len(), load)));
                    w.raw(expression);
                }
                "cmp" => {
                    match self.read_by(&loads, data) {
                        Some((from, load)) => {
                            if load.number {
                                // By its name it is found again whatever number it has.
                                out[from] = read_name(load);
                            }
                            self.write_compared(&mut w, expression, data);
                        }
                        None => {
                            w.raw(expression);
                        }
                    }
                    loads.clear();
                }
                "lookup" => {
                    self.write_lookup(&mut w, expression, data, !loads.is_empty());
                    loads.clear();
                }
                _ => write_expression(&mut w, expression),
            }
            out.push(w.into_bytes());
        }
        out
    }

    /// How many of the rule's conditions are about the interface.
    fn hits(&self, all: &[&[u8]]) -> usize {
        let mut loads: Vec<(usize, Load)> = Vec::new();
        let mut hits = 0;
        for (at, expression) in all.iter().enumerate() {
            let (name, data) = split(expression);
            match name.as_str() {
                "meta" => loads.extend(load(data).map(|load| (at, load))),
                "cmp" => {
                    hits += usize::from(self.read_by(&loads, data).is_some());
                    loads.clear();
                }
                "lookup" => {
                    let set = find_attr(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default();
                    let named = self.elements(&set).any(|element| self.moved(element).is_some());
                    hits += usize::from(named && !loads.is_empty());
                    loads.clear();
                }
                _ => {}
            }
        }
        hits
    }

    /// What read the interface that is compared to the one that is meant.
    fn read_by(&self, loads: &[(usize, Load)], cmp: &[u8]) -> Option<(usize, Load)> {
        let register = be(cmp, NFTA_CMP_SREG);
        let (at, load) = loads.iter().rev().find(|(_, load)| load.register == register).copied()?;
        let wide = !load.number || WIDE_REGISTERS.contains(&register);
        compared(load, cmp).filter(|part| wide && self.ends.is_meant(part)).map(|_| (at, load))
    }

    /// A comparison with the bridge's whole name.
    fn write_compared(&self, w: &mut Writer, expression: &[u8], data: &[u8]) {
        let mut name = self.ends.bridge.as_bytes().to_vec();
        name.resize(WIDTH, 0);
        copy(w, expression, |kind| kind != NFTA_EXPR_DATA);
        w.nest(NFTA_EXPR_DATA, |w| {
            copy(w, data, |kind| kind != NFTA_CMP_DATA);
            w.nest(NFTA_CMP_DATA, |w| {
                w.attr(NFTA_DATA_VALUE, &name);
            });
        });
    }

    /// A look into a set: where it is the rule's own, into one of the like's own, which holds the same, or where it is about
    /// interfaces what it says of the one for the bridge.
    fn write_lookup(&mut self, w: &mut Writer, expression: &[u8], data: &[u8], interfaces: bool) {
        let name = find_attr(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default();
        let found = self.raw.objects.iter().find(|object| {
            object.kind == NFT_MSG_NEWSET && find_attr(&object.attrs, NFTA_SET_NAME).map(text).as_deref() == Some(&name)
        });
        let anonymous = found.filter(|set| be(&set.attrs, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS != 0);
        let Some(set) = anonymous else {
            w.raw(expression);
            return;
        };
        let moved: Vec<Vec<u8>> = self.elements(&name).filter_map(|element| self.moved(element)).collect();
        let elements = match (interfaces && !moved.is_empty(), self.several) {
            (true, false) => moved,
            (true, true) => self.elements(&name).map(<[u8]>::to_vec).chain(moved).collect(),
            (false, _) => self.elements(&name).map(<[u8]>::to_vec).collect(),
        };
        let (id, new) = (
            self.sets.len() as u32 + 1,
            if be(&set.attrs, NFTA_SET_FLAGS) & NFT_SET_MAP != 0 { "__map%d" } else { "__set%d" },
        );
        self.write_set(&set.attrs, new, id, &elements);
        copy(w, expression, |kind| kind != NFTA_EXPR_DATA);
        w.nest(NFTA_EXPR_DATA, |w| {
            w.attr_str(NFTA_LOOKUP_SET, new);
            w.attr_be32(NFTA_LOOKUP_SET_ID, id);
            copy(w, data, |kind| kind != NFTA_LOOKUP_SET);
        });
    }

    /// A set as `set` is, of which the kernel makes the name, with these elements.
    fn write_set(&mut self, set: &[u8], name: &str, id: u32, elements: &[Vec<u8>]) {
        let family = number(self.family);
        self.sets.push(message(NFT_MSG_NEWSET, flags::CREATE, family, |w| {
            w.attr_str(NFTA_SET_TABLE, &self.raw.name);
            w.attr_str(NFTA_SET_NAME, name);
            w.attr_be32(NFTA_SET_ID, id);
            copy(w, set, |kind| !matches!(kind, NFTA_SET_TABLE | NFTA_SET_NAME | NFTA_SET_DESC));
            // It may hold more than that one.
            if let Some(concatenation) =
                find_attr(set, NFTA_SET_DESC).filter(|d| find_attr(d, NFTA_SET_DESC_CONCAT).is_some())
            {
                w.nest(NFTA_SET_DESC, |w| copy(w, concatenation, |kind| kind != NFTA_SET_DESC_SIZE));
            }
        }));
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            self.sets.push(message(NFT_MSG_NEWSETELEM, flags::CREATE, family, |w| {
                w.attr_str(NFTA_SET_ELEM_LIST_TABLE, &self.raw.name);
                w.attr_str(NFTA_SET_ELEM_LIST_SET, name);
                w.attr_be32(NFTA_SET_ELEM_LIST_SET_ID, id);
                w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    // A nested attribute's length has 16 bits.
                    while let Some(element) = rest.next_if(|e| w.len() + e.len() < 60_000 || w.len() < 4096) {
                        w.nest(NFTA_LIST_ELEM, |w| {
                            w.raw(element);
                        });
                    }
                });
            }));
        }
    }

    fn elements<'b>(&'b self, set: &'b str) -> impl Iterator<Item = &'b [u8]> {
        elements_of(self.raw, set)
    }

    fn moved(&self, element: &[u8]) -> Option<Vec<u8>> {
        moved(element, self.ends.port, self.ends.bridge, None)
    }
}

fn elements_of<'a>(table: &'a RawTable, set: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let of_it = |object: &&super::dump::RawObject| {
        object.kind == NFT_MSG_NEWSETELEM
            && find_attr(&object.attrs, NFTA_SET_ELEM_LIST_SET).map(text).as_deref() == Some(set)
    };
    let lists = table.objects.iter().filter(move |object| of_it(object));
    lists.flat_map(|o| {
        attrs(find_attr(&o.attrs, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[])).map(|(_, element)| element)
    })
}

/// An element with the one name in place of the other, and with a comment in place of its own; none where it does not name
/// the interface.
fn moved(element: &[u8], port: &str, bridge: &str, words: Option<&str>) -> Option<Vec<u8>> {
    let new = moved_key(key(element)?, port, bridge)?;
    let mut w = Writer::new();
    let value = |w: &mut Writer, kind, bytes: &[u8]| {
        w.nest(kind, |w| {
            w.attr(NFTA_DATA_VALUE, bytes);
        });
    };
    value(&mut w, NFTA_SET_ELEM_KEY, &new);
    let end = find_attr(element, NFTA_SET_ELEM_KEY_END).and_then(|data| find_attr(data, NFTA_DATA_VALUE));
    if let Some(end) = end {
        value(&mut w, NFTA_SET_ELEM_KEY_END, &moved_key(end, port, bridge)?);
    }
    copy(&mut w, element, |kind| match kind {
        NFTA_SET_ELEM_KEY | NFTA_SET_ELEM_KEY_END => false,
        NFTA_SET_ELEM_USERDATA => words.is_none(),
        _ => true,
    });
    if let Some(words) = words {
        w.attr(NFTA_SET_ELEM_USERDATA, &encode::comment(words));
    }
    Some(w.into_bytes())
}

/// Whether a packet comes (or leaves) by the bridge, or, of NFT_CMP_NEQ, does not: in the register that others use last.
pub(super) fn asked(inward: bool, operation: u32, bridge: &IfName) -> [Vec<u8>; 2] {
    let register = *WIDE_REGISTERS.end();
    let mut name = bridge.as_str().as_bytes().to_vec();
    name.resize(WIDTH, 0);
    let mut w = Writer::new();
    w.attr_str(NFTA_EXPR_NAME, "cmp");
    w.nest(NFTA_EXPR_DATA, |w| {
        w.attr_be32(NFTA_CMP_SREG, register);
        w.attr_be32(NFTA_CMP_OP, operation);
        w.nest(NFTA_CMP_DATA, |w| {
            w.attr(NFTA_DATA_VALUE, &name);
        });
    });
    [read_name(Load { register, inward, number: false }), w.into_bytes()]
}

/// An expression that reads an interface's name where another read its number.
fn read_name(load: Load) -> Vec<u8> {
    let mut w = Writer::new();
    w.attr_str(NFTA_EXPR_NAME, "meta");
    w.nest(NFTA_EXPR_DATA, |w| {
        w.attr_be32(NFTA_META_KEY, if load.inward { NFT_META_IIFNAME } else { NFT_META_OIFNAME });
        w.attr_be32(NFTA_META_DREG, load.register);
    });
    w.into_bytes()
}

fn split(expression: &[u8]) -> (String, &[u8]) {
    let name = find_attr(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
    (name, find_attr(expression, NFTA_EXPR_DATA).unwrap_or(&[]))
}

/// Puts the key for a bridge beside the one for the interface in its place.
///
/// # Errors
/// The kernel's refusal, such as ENOENT where that one is gone.
pub fn add_element(mend: &Mend) -> Result<()> {
    let Mend::Element { family, table, set, key: wanted, port, bridge } = mend else { return Ok(()) };
    let what = format!("the set {} {table} {set}", family.word());
    let operation = "put a key into";
    let mut nft = Nft::open().context("open", "the firewall")?;
    let words = Mend::element_mark(port, bridge);
    let raw = nft.dump_table(number(*family), table).context("look at", what.clone())?;
    let like = raw.iter().flat_map(|raw| elements_of(raw, set)).find_map(|element| {
        let is_it = moved_key(key(element)?, port.as_str(), bridge.as_str()).is_some_and(|key| hex(&key) == *wanted);
        is_it.then(|| moved(element, port.as_str(), bridge.as_str(), Some(&words)))?
    });
    let Some(element) = like else {
        return Err(KernelError::new(operation, what, std::io::Error::from_raw_os_error(libc::ENOENT)));
    };
    change(&mut nft, NFT_MSG_NEWSETELEM, (*family, table, set), &element)
        .map_err(|e| KernelError::new(operation, what, e))
}

/// Takes it away again. One that is gone is no error.
pub(super) fn delete_element(mend: &Mend) -> Result<()> {
    let Mend::Element { family, table, set, key: wanted, .. } = mend else { return Ok(()) };
    let what = format!("the set {} {table} {set}", family.word());
    let mut nft = Nft::open().context("open", "the firewall")?;
    let raw = nft.dump_table(number(*family), table).context("look at", what.clone())?;
    let mut ours = raw.iter().flat_map(|raw| elements_of(raw, set)).filter(|element| is_ours(element));
    let Some(element) = ours.find(|element| key(element).is_some_and(|key| hex(key) == *wanted)) else { return Ok(()) };
    let mut w = Writer::new();
    copy(&mut w, element, |kind| matches!(kind, NFTA_SET_ELEM_KEY | NFTA_SET_ELEM_KEY_END));
    change(&mut nft, NFT_MSG_DELSETELEM, (*family, table, set), &w.into_bytes())
        .map_err(|e| KernelError::new("take a key out of", what, e))
}

fn change(
    nft: &mut Nft,
    kind: u16,
    (family, table, set): (Layer, &str, &str),
    element: &[u8],
) -> std::result::Result<(), super::TransactionError> {
    let create = if kind == NFT_MSG_NEWSETELEM { flags::CREATE } else { 0 };
    let bytes = message(kind, create, number(family), |w| {
        w.attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
        w.attr_str(NFTA_SET_ELEM_LIST_SET, set);
        w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
            w.nest(NFTA_LIST_ELEM, |w| {
                w.raw(element);
            });
        });
    });
    let mut transaction = Transaction::new();
    transaction.messages(vec![Prepared::new(bytes, format!("an element of set {} {table} {set}", family.word()))]);
    nft.commit(&transaction)
}

/// The keys for bridges that we put into others' sets.
pub(super) fn elements(nft: &mut Nft) -> netlink::Result<Vec<Mend>> {
    let mut out = Vec::new();
    for (name, family) in nft.others()? {
        let sets = nft.dump_of(NFT_MSG_GETSET, name.family, NFTA_SET_TABLE, &name.name)?;
        let mut seen: BTreeMap<String, ()> = BTreeMap::new();
        for set in sets.iter().map(body).filter(|set| is_about_interfaces(set)) {
            seen.insert(find_attr(set, NFTA_SET_NAME).map(text).unwrap_or_default(), ());
        }
        for set in seen.into_keys() {
            let messages = nft.element_messages(name.family, &name.name, &set)?;
            let lists = messages.iter().filter_map(|m| find_attr(body(m), NFTA_SET_ELEM_LIST_ELEMENTS));
            for element in lists.flat_map(|list| attrs(list).map(|(_, element)| element)) {
                let words = comment(element, NFTA_SET_ELEM_USERDATA).unwrap_or_default();
                let Some(((port, bridge), key)) = Mend::of_element_mark(&words).zip(key(element).map(hex)) else {
                    continue;
                };
                let (table, set) = (name.name.clone(), set.clone());
                out.push(Mend::Element { family, table, set, key, port, bridge });
            }
        }
    }
    Ok(out)
}

/// Whether its keys hold interfaces' names, and others may be put in.
fn is_about_interfaces(set: &[u8]) -> bool {
    let mut types = be(set, NFTA_SET_KEY_TYPE);
    let mut named = false;
    while types != 0 {
        named |= types & ((1 << TYPE_BITS) - 1) == TYPE_IFNAME;
        types >>= TYPE_BITS;
    }
    named && be(set, NFTA_SET_FLAGS) & (NFT_SET_ANONYMOUS | NFT_SET_CONSTANT) == 0
}
