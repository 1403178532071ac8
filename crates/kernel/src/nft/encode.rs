//! A [`Table`] as netlink messages, as nft 1.0.6 itself would write it: `nft list` of it prints what it prints of the
//! text rendering (`model::ruleset::text`).

use std::collections::BTreeMap;

use model::ruleset::{
    ChainKind, Element, Family, Hook, HookPoint, KeyPart, MARK, Set, TABLE, Table, Type, Value, text,
};

use super::batch::Prepared;
use super::elements::{Counts, Tally};
use super::uapi::*;
use super::{expressions, family_number};
use crate::netlink::{Writer, flags};

/// Bytes of elements in one message: a nested attribute's length has 16 bits.
const ELEMENTS_MAX: usize = 60_000;

/// Begins a message of `family`; its sequence number is written when it is sent.
pub(super) fn message(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.begin((NFNL_SUBSYS_NFTABLES << 8) | kind, flags, 0);
    writer.raw(&[family, 0, 0, 0]);
    fill(&mut writer);
    writer.end();
    writer.into_bytes()
}

/// Everything of `table`, in an order that the kernel takes. `flags` are NFT_TABLE_F_*.
/// What `tally` has of its counted sets is counted on from there.
pub(super) fn create(table: &Table, table_flags: u32, tally: &Tally) -> Vec<Prepared> {
    let family = family_number(table.family);
    let word = table.family.word();
    let mut out = Vec::new();
    let bytes = message(NFT_MSG_NEWTABLE, flags::CREATE, family, |w| {
        w.attr_str(NFTA_TABLE_NAME, TABLE);
        w.attr_be32(NFTA_TABLE_FLAGS, table_flags);
        w.attr(NFTA_TABLE_USERDATA, &comment(MARK));
    });
    out.push(Prepared::new(bytes, format!("table {word} {TABLE}")));
    for chain in &table.chains {
        let bytes = message(NFT_MSG_NEWCHAIN, flags::CREATE, family, |w| {
            w.attr_str(NFTA_CHAIN_TABLE, TABLE);
            w.attr_str(NFTA_CHAIN_NAME, &chain.name);
            if let Some(hook) = chain.hook {
                write_hook(w, hook);
            }
        });
        out.push(Prepared::new(bytes, format!("chain {word} {TABLE} {}", chain.name)));
    }
    for (name, set) in &table.sets {
        let bytes = message(NFT_MSG_NEWSET, flags::CREATE, family, |w| write_set(w, name, set));
        out.push(Prepared::new(bytes, format!("{} {word} {TABLE} {name}", kind_word(set))));
    }
    for chain in &table.chains {
        for (at, rule) in chain.rules.iter().enumerate() {
            let bytes = message(NFT_MSG_NEWRULE, flags::CREATE | flags::APPEND, family, |w| {
                w.attr_str(NFTA_RULE_TABLE, TABLE);
                w.attr_str(NFTA_RULE_CHAIN, &chain.name);
                w.nest(NFTA_RULE_EXPRESSIONS, |w| expressions::write(w, table.family, rule));
                if !rule.comment.is_empty() {
                    w.attr(NFTA_RULE_USERDATA, &comment(&rule.comment));
                }
            });
            let what = format!("rule {} of chain {word} {TABLE} {}: {}", at + 1, chain.name, text::rule(rule));
            out.push(Prepared::new(bytes, what));
        }
    }
    // Elements stand last: where a batch is larger than the socket takes, they are what can follow in the next.
    for (name, set) in &table.sets {
        let counted = tally.get(name).filter(|_| set.counted);
        out.extend(elements(NFT_MSG_NEWSETELEM, table.family, name, set, set.elements.iter(), counted));
    }
    out
}

/// Deletes a table with all that is in it.
pub(super) fn delete(family: u8, name: &str) -> Prepared {
    let bytes = message(NFT_MSG_DELTABLE, 0, family, |w| {
        w.attr_str(NFTA_TABLE_NAME, name);
    });
    Prepared::new(bytes, format!("table {} {name}", super::family_word(family)))
}

fn kind_word(set: &Set) -> &'static str {
    if set.data.is_empty() { "set" } else { "map" }
}

/// A comment as libnftnl's user data.
pub(super) fn comment(words: &str) -> Vec<u8> {
    let words = text::comment(words);
    let mut bytes = vec![NFTNL_UDATA_COMMENT, words.len() as u8 + 1];
    bytes.extend_from_slice(words.as_bytes());
    bytes.push(0);
    bytes
}

fn write_hook(w: &mut Writer, hook: Hook) {
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.attr_be32(NFTA_HOOK_HOOKNUM, hook_number(hook.at));
        w.attr_be32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
    });
    w.attr_be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
    let kind = match hook.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    };
    w.attr_str(NFTA_CHAIN_TYPE, kind);
}

/// NF_INET_* of linux/netfilter.h; NF_BR_* of linux/netfilter_bridge.h are the same.
pub(super) fn hook_number(at: HookPoint) -> u32 {
    match at {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

/// The type's number in nft (enum datatypes of src/datatype.h), which the kernel only keeps.
fn type_number(kind: Type) -> u32 {
    match kind {
        Type::NdTarget => 4,
        Type::Ipv4 => 7,
        Type::Ipv6 => 8,
        Type::Ether => 9,
        Type::Proto => 12,
        Type::Port => 13,
        Type::IfName => 41,
    }
}

/// Bytes of a value.
pub(super) fn width(kind: Type) -> usize {
    match kind {
        Type::Ipv4 => 4,
        Type::Ipv6 | Type::IfName | Type::NdTarget => 16,
        Type::Ether => 6,
        Type::Proto => 1,
        Type::Port => 2,
    }
}

/// Bytes of a value or concatenation: in a concatenation each field is padded to four.
pub(super) fn packed_width(types: &[Type]) -> usize {
    match types {
        [one] => width(*one),
        several => several.iter().map(|t| width(*t).next_multiple_of(4)).sum(),
    }
}

fn types_number(types: &[Type]) -> u32 {
    // TYPE_BITS of src/datatype.h.
    types.iter().fold(0, |number, kind| (number << 6) | type_number(*kind))
}

fn byteorder(types: &[Type]) -> u32 {
    match types {
        [Type::IfName] => BYTEORDER_HOST_ENDIAN,
        [_] => BYTEORDER_BIG_ENDIAN,
        _ => BYTEORDER_INVALID,
    }
}

/// `typeof @th,64,128`
const TYPEOF_TARGET: [u8; 40] =
    hex(b"0326000407000000011e000400000000010400000000020403000000030440000000040480000000");
/// `typeof iifname . ether saddr . @th,64,128`
const TYPEOF_PINNED_TARGET: [u8; 88] = hex(
    b"035600040d000000014e000e00040900000001060004060000000114000407000000010c0004110000000104020000000226000407000000\
      011e000400000000010400000000020403000000030440000000040480000000",
);

/// Reads hexadecimal, passing over everything else.
const fn hex<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (mut at, mut digits) = (0, 0);
    while at < text.len() {
        let digit = match text[at] {
            b @ b'0'..=b'9' => b - b'0',
            b @ b'a'..=b'f' => b - b'a' + 10,
            _ => {
                at += 1;
                continue;
            }
        };
        bytes[digits / 2] = bytes[digits / 2] << 4 | digit;
        digits += 1;
        at += 1;
    }
    assert!(digits == 2 * N, "as many bytes as are declared");
    bytes
}

fn write_set(w: &mut Writer, name: &str, set: &Set) {
    w.attr_str(NFTA_SET_TABLE, TABLE);
    w.attr_str(NFTA_SET_NAME, name);
    let mut set_flags = 0;
    if set.interval {
        set_flags |= NFT_SET_INTERVAL;
        if set.key.len() > 1 {
            set_flags |= NFT_SET_CONCAT;
        }
    }
    if !set.data.is_empty() {
        set_flags |= NFT_SET_MAP;
    }
    w.attr_be32(NFTA_SET_FLAGS, set_flags);
    w.attr_be32(NFTA_SET_KEY_TYPE, types_number(&set.key));
    w.attr_be32(NFTA_SET_KEY_LEN, packed_width(&set.key) as u32);
    let mut user = vec![NFTNL_UDATA_SET_KEYBYTEORDER, 4];
    user.extend_from_slice(&byteorder(&set.key).to_ne_bytes());
    if !set.data.is_empty() {
        w.attr_be32(NFTA_SET_DATA_TYPE, types_number(&set.data));
        w.attr_be32(NFTA_SET_DATA_LEN, packed_width(&set.data) as u32);
        user.extend_from_slice(&[NFTNL_UDATA_SET_DATABYTEORDER, 4]);
        user.extend_from_slice(&byteorder(&set.data).to_ne_bytes());
    }
    // nft lists a key with a raw field by what is looked up (NFTNL_UDATA_SET_KEY_TYPEOF of libnftnl), written as nft
    // 1.0.6 writes it itself for the only two such keys that there are.
    match set.key.as_slice() {
        [Type::NdTarget] => user.extend_from_slice(&TYPEOF_TARGET),
        [Type::IfName, Type::Ether, Type::NdTarget] => user.extend_from_slice(&TYPEOF_PINNED_TARGET),
        _ => {}
    }
    if set.counted {
        w.nest(NFTA_SET_EXPR, |w| {
            w.attr_str(NFTA_EXPR_NAME, "counter");
            w.nest(NFTA_EXPR_DATA, |_| {});
        });
    }
    if set.held {
        w.nest(NFTA_SET_EXPR, |w| write_count(w, text::DECLARED_COUNT));
    }
    // The kernel wants a number; rules name their sets by name.
    w.attr_be32(NFTA_SET_ID, 1);
    if set.interval && set.key.len() > 1 {
        w.nest(NFTA_SET_DESC, |w| {
            w.nest(NFTA_SET_DESC_CONCAT, |w| {
                for kind in &set.key {
                    w.nest(NFTA_LIST_ELEM, |w| {
                        w.attr_be32(NFTA_SET_FIELD_LEN, width(*kind) as u32);
                    });
                }
            });
        });
    }
    w.attr(NFTA_SET_USERDATA, &user);
}

/// A value's bytes, without padding but for a name's.
pub(super) fn value_bytes(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Ipv4(a) => out.extend_from_slice(&a.octets()),
        Value::Ipv6(a) | Value::NdTarget(a) => out.extend_from_slice(&a.octets()),
        Value::Ether(mac) => out.extend_from_slice(&mac.0),
        Value::IfName(name) => {
            let mut bytes = [0; 16];
            // An IfName has at most 15 bytes.
            bytes[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(&bytes);
        }
        Value::Proto(number) => out.push(*number),
        Value::Port(port) => out.extend_from_slice(&port.to_be_bytes()),
    }
}

/// A value, or a concatenation with its padding.
fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Value>, out: &mut Vec<u8>) {
    let several = values.len() > 1;
    for value in values {
        value_bytes(value, out);
        if several {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
}

fn first(part: &KeyPart) -> &Value {
    match part {
        KeyPart::One(value) | KeyPart::Range(value, _) => value,
    }
}

fn last(part: &KeyPart) -> &Value {
    match part {
        KeyPart::One(value) | KeyPart::Range(_, value) => value,
    }
}

/// The bytes one above, as a number in network order; None past the end.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// Messages that add or delete elements, each under 64 KiB.
pub(super) fn elements<'a>(
    kind: u16,
    family: Family,
    name: &str,
    set: &Set,
    elements: impl Iterator<Item = &'a Element>,
    counted: Option<&BTreeMap<Vec<KeyPart>, Counts>>,
) -> Vec<Prepared> {
    let number = family_number(family);
    let message_flags = if kind == NFT_MSG_NEWSETELEM { flags::CREATE } else { 0 };
    let mut elements = elements.peekable();
    let mut out = Vec::new();
    while let Some(head) = elements.peek() {
        let begin = text::element(head);
        let mut count = 0;
        let bytes = message(kind, message_flags, number, |w| {
            w.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            w.attr_str(NFTA_SET_ELEM_LIST_SET, name);
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                while w.len() < ELEMENTS_MAX {
                    let Some(element) = elements.next() else { break };
                    write_element(w, set, element, counted.and_then(|counted| counted.get(&element.key)));
                    count += 1;
                }
            });
        });
        let word = kind_word(set);
        let what = match count {
            1 => format!("element {{ {begin} }} of {word} {} {TABLE} {name}", family.word()),
            _ => format!("{count} elements from {{ {begin} }} on of {word} {} {TABLE} {name}", family.word()),
        };
        out.push(Prepared { bytes, what, may_follow: kind == NFT_MSG_NEWSETELEM });
    }
    out
}

fn write_element(w: &mut Writer, set: &Set, element: &Element, counts: Option<&Counts>) {
    let mut from = Vec::with_capacity(32);
    pack(element.key.iter().map(first), &mut from);
    let plain_interval = set.interval && set.key.len() == 1;
    w.nest(NFTA_LIST_ELEM, |w| {
        write_data(w, NFTA_SET_ELEM_KEY, &from);
        if set.interval && !plain_interval {
            // The kernel would take a single value without its end, but nft 1.0.6 lists such a one wrongly.
            let mut to = Vec::with_capacity(from.len());
            pack(element.key.iter().map(last), &mut to);
            write_data(w, NFTA_SET_ELEM_KEY_END, &to);
        }
        if !element.data.is_empty() {
            let mut data = Vec::with_capacity(20);
            pack(element.data.iter(), &mut data);
            write_data(w, NFTA_SET_ELEM_DATA, &data);
        }
        if let Some(most) = element.most {
            w.nest(NFTA_SET_ELEM_EXPR, |w| write_count(w, most));
        }
        if let Some(counts) = counts {
            w.nest(NFTA_SET_ELEM_EXPR, |w| {
                w.attr_str(NFTA_EXPR_NAME, "counter");
                w.nest(NFTA_EXPR_DATA, |w| {
                    w.attr(NFTA_COUNTER_BYTES, &counts.bytes.to_be_bytes());
                    w.attr(NFTA_COUNTER_PACKETS, &counts.packets.to_be_bytes());
                });
            });
        }
    });
    if plain_interval {
        let mut to = Vec::with_capacity(from.len());
        pack(element.key.iter().map(last), &mut to);
        // An interval ends before the next one begins; the one to the very end needs no end.
        if let Some(end) = successor(&to) {
            w.nest(NFTA_LIST_ELEM, |w| {
                w.attr_be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                write_data(w, NFTA_SET_ELEM_KEY, &end);
            });
        }
    }
}

/// `ct count over`
fn write_count(w: &mut Writer, most: u32) {
    w.attr_str(NFTA_EXPR_NAME, "connlimit");
    w.nest(NFTA_EXPR_DATA, |w| {
        w.attr_be32(NFTA_CONNLIMIT_COUNT, most);
        w.attr_be32(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
    });
}

/// A value in its nest (nft_data_attributes).
pub(super) fn write_data(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| {
        w.attr(NFTA_DATA_VALUE, bytes);
    });
}
