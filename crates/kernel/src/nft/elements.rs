//! What is in our sets, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use model::address::{IfName, Mac};
use model::ruleset::{Element, Family, KeyPart, Set, TABLE, Type, Value};

use super::dump::{body, number};
use super::encode::{packed_width, width};
use super::uapi::*;
use super::{Nft, family_number};
use crate::netlink::{Message, NetlinkError, Result, attrs, be_u64, find_attr, text};

const FOREIGN: NetlinkError = NetlinkError::Malformed("an element that is none of its set's types");

/// A boundary of a plain interval set.
struct Bound<'a> {
    key: &'a [u8],
    end: bool,
    data: &'a [u8],
}

impl Nft {
    /// The elements of a set or map of our table of that family, which is declared as `set`; its own elements play no
    /// part. A range of one value is [`KeyPart::One`].
    ///
    /// # Errors
    /// The kernel's refusal, such as ENOENT where there is no such set; [`NetlinkError::Malformed`] where another put
    /// an element into it that ours cannot tell (a name with a wildcard, `*`).
    pub fn elements(&mut self, family: Family, name: &str, set: &Set) -> Result<BTreeSet<Element>> {
        let messages = self.element_messages(family_number(family), TABLE, name)?;
        let raw = messages
            .iter()
            .filter_map(|m| find_attr(body(m), NFTA_SET_ELEM_LIST_ELEMENTS))
            .flat_map(|list| attrs(list).map(|(_, element)| element));
        if set.interval && set.key.len() == 1 {
            return intervals(raw, set);
        }
        // They come in the order of the kernel's hash. Bytes are put in order sooner than values, and their order is the
        // values' own, so that the set finds them sorted.
        let mut sorted = raw
            .map(|element| Ok((bytes(element, NFTA_SET_ELEM_KEY).ok_or(FOREIGN)?, element)))
            .collect::<Result<Vec<_>>>()?;
        sorted.sort_unstable_by_key(|(key, _)| *key);
        sorted
            .into_iter()
            .map(|(from, element)| {
                let key = match bytes(element, NFTA_SET_ELEM_KEY_END).filter(|to| *to != from) {
                    None => unpack(from, &set.key, KeyPart::One)?,
                    Some(to) => {
                        let both = values(from, &set.key)?.into_iter().zip(values(to, &set.key)?);
                        both.map(|(from, to)| key_part(from, to)).collect()
                    }
                };
                let data = values(bytes(element, NFTA_SET_ELEM_DATA).unwrap_or(&[]), &set.data)?;
                let most = if set.held { most(element) } else { None };
                Ok(Element { key, data, most })
            })
            .collect()
    }
}

/// What an element has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the elements of each counted set of a table have counted, by the set's name and the element's key.
pub type Tally = BTreeMap<String, BTreeMap<Vec<KeyPart>, Counts>>;

impl Nft {
    /// What our table's counted sets have counted, of those declared in `sets`; nothing where there is no such set.
    ///
    /// # Errors
    /// As [`Self::elements`].
    pub fn tally(&mut self, family: Family, sets: &BTreeMap<String, Set>) -> Result<Tally> {
        let mut tally = Tally::new();
        for (name, set) in sets.iter().filter(|(_, set)| set.counted) {
            let messages = match self.element_messages(family_number(family), TABLE, name) {
                Err(e) if e.is_absent() => continue,
                messages => messages?,
            };
            if set.interval && set.key.len() == 1 {
                tally.insert(name.clone(), interval_counts(&messages, set)?);
                continue;
            }
            let lists = messages.iter().filter_map(|m| find_attr(body(m), NFTA_SET_ELEM_LIST_ELEMENTS));
            for (_, element) in lists.flat_map(attrs) {
                let from = values(bytes(element, NFTA_SET_ELEM_KEY).ok_or(FOREIGN)?, &set.key)?;
                let to = match bytes(element, NFTA_SET_ELEM_KEY_END) {
                    Some(to) => values(to, &set.key)?,
                    None => from.clone(),
                };
                let key = from.into_iter().zip(to).map(|(a, b)| key_part(a, b)).collect();
                tally.entry(name.clone()).or_default().insert(key, counts(element));
            }
        }
        Ok(tally)
    }
}

fn counts(element: &[u8]) -> Counts {
    let data = find_attr(element, NFTA_SET_ELEM_EXPR).and_then(|e| find_attr(e, NFTA_EXPR_DATA));
    let count = |kind| data.and_then(|data| find_attr(data, kind)).map_or(0, be_u64);
    Counts { packets: count(NFTA_COUNTER_PACKETS), bytes: count(NFTA_COUNTER_BYTES) }
}

/// Of a plain interval set, where a range is known by its first value until its bounds are put together.
fn interval_counts(messages: &[Message], set: &Set) -> Result<BTreeMap<Vec<KeyPart>, Counts>> {
    let raw = || {
        let lists = messages.iter().filter_map(|m| find_attr(body(m), NFTA_SET_ELEM_LIST_ELEMENTS));
        lists.flat_map(attrs).map(|(_, element)| element)
    };
    let mut by_first = BTreeMap::new();
    for element in raw().filter(|element| number(element, NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END == 0) {
        let first = values(bytes(element, NFTA_SET_ELEM_KEY).ok_or(FOREIGN)?, &set.key)?;
        by_first.insert(first, counts(element));
    }
    let counts = |element: Element| {
        let first = element.key.iter().map(|part| match part {
            KeyPart::One(value) | KeyPart::Range(value, _) => value.clone(),
        });
        let counts = by_first.get(&first.collect::<Vec<_>>()).copied().unwrap_or_default();
        (element.key, counts)
    };
    Ok(intervals(raw(), set)?.into_iter().map(counts).collect())
}

/// How many flows an element takes, where it is one that holds them.
fn most(element: &[u8]) -> Option<u32> {
    let expression = find_attr(element, NFTA_SET_ELEM_EXPR)?;
    let is_count = find_attr(expression, NFTA_EXPR_NAME).map(text).as_deref() == Some("connlimit");
    let data = find_attr(expression, NFTA_EXPR_DATA).filter(|_| is_count)?;
    (number(data, NFTA_CONNLIMIT_FLAGS) == NFT_CONNLIMIT_F_INV).then(|| number(data, NFTA_CONNLIMIT_COUNT))
}

fn key_part(from: Value, to: Value) -> KeyPart {
    if from == to { KeyPart::One(from) } else { KeyPart::Range(from, to) }
}

fn bytes(element: &[u8], kind: u16) -> Option<&[u8]> {
    find_attr(find_attr(element, kind)?, NFTA_DATA_VALUE)
}

/// An interval reaches to the next boundary, its own end or another's beginning, or to the very last value.
fn intervals<'a>(raw: impl Iterator<Item = &'a [u8]>, set: &Set) -> Result<BTreeSet<Element>> {
    let mut bounds = raw
        .map(|element| {
            let key = bytes(element, NFTA_SET_ELEM_KEY).ok_or(FOREIGN)?;
            let end = number(element, NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END != 0;
            Ok(Bound { key, end, data: bytes(element, NFTA_SET_ELEM_DATA).unwrap_or(&[]) })
        })
        .collect::<Result<Vec<_>>>()?;
    bounds.sort_by_key(|bound| (bound.key, !bound.end));
    let mut out = BTreeSet::new();
    for (at, bound) in bounds.iter().enumerate().filter(|(_, bound)| !bound.end) {
        let last = match bounds.get(at + 1) {
            Some(next) => predecessor(next.key),
            None => vec![0xff; bound.key.len()],
        };
        let from = values(bound.key, &set.key)?;
        let to = values(&last, &set.key)?;
        let key = from.into_iter().zip(to).map(|(a, b)| key_part(a, b)).collect();
        out.insert(Element { key, data: values(bound.data, &set.data)?, most: None });
    }
    Ok(out)
}

/// The bytes one below, as a number in network order.
fn predecessor(bytes: &[u8]) -> Vec<u8> {
    let mut before = bytes.to_vec();
    for byte in before.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    before
}

/// A value, or the padded values of a concatenation. The kernel pads what it dumps to whole registers of four bytes.
fn values(bytes: &[u8], types: &[Type]) -> Result<Vec<Value>> {
    unpack(bytes, types, |value| value)
}

/// The same, each as `made` of it.
fn unpack<T>(bytes: &[u8], types: &[Type], made: impl Fn(Value) -> T) -> Result<Vec<T>> {
    if bytes.len() < packed_width(types) {
        return Err(FOREIGN);
    }
    let mut rest = bytes;
    types
        .iter()
        .map(|kind| {
            let value = value(rest, *kind).ok_or(FOREIGN)?;
            rest = rest.get(width(*kind).next_multiple_of(4)..).unwrap_or(&[]);
            Ok(made(value))
        })
        .collect()
}

fn value(bytes: &[u8], kind: Type) -> Option<Value> {
    let bytes = bytes.get(..width(kind))?;
    Some(match kind {
        Type::Ipv4 => Value::Ipv4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Type::Ipv6 => Value::Ipv6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        Type::NdTarget => Value::NdTarget(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        Type::Ether => Value::Ether(Mac(bytes.try_into().ok()?)),
        Type::IfName => Value::IfName(IfName::new(text(bytes)).ok()?),
        Type::Proto => Value::Proto(*bytes.first()?),
        Type::Port => Value::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
    })
}
