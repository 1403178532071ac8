//! A hash of what a table does, apart from what it counts and what is in its named sets.

use sha2::{Digest as _, Sha256};

use super::dump::{RawObject, RawTable, number};
use super::uapi::*;
use crate::netlink::{attrs, find_attr, text};

/// SHA-256, in hexadecimal, of a table's flags and comment, its chains (type, hook, priority, policy, flags), its
/// sets' declarations and its rules' expressions and comments, in order, with what is in its anonymous sets.
///
/// Counters, handles, use counts, generations and the elements of named sets are no part of it: it is the same from
/// one dump to the next until somebody changes a rule, chain or set.
#[must_use]
pub fn fingerprint(table: &RawTable) -> String {
    let mut hash = Sha256::new();
    let mut anonymous = Vec::new();
    hash.update([table.family]);
    for object in &table.objects {
        let attrs = object.attrs.as_slice();
        match object.kind {
            NFT_MSG_NEWSET if number(attrs, NFTA_SET_FLAGS) & NFT_SET_ANONYMOUS != 0 => {
                anonymous.push(find_attr(attrs, NFTA_SET_NAME).map(text));
            }
            NFT_MSG_NEWSETELEM if !anonymous.contains(&find_attr(attrs, NFTA_SET_ELEM_LIST_SET).map(text)) => continue,
            _ => {}
        }
        hash_object(&mut hash, object);
    }
    hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// NFT_OBJECT_* of linux/netfilter/nf_tables.h whose data change by themselves.
const NFT_OBJECT_COUNTER: u32 = 1;
const NFT_OBJECT_QUOTA: u32 = 2;

fn hash_object(hash: &mut Sha256, object: &RawObject) {
    hash.update(object.kind.to_be_bytes());
    for (kind, payload) in attrs(&object.attrs) {
        match (object.kind, kind) {
            (NFT_MSG_NEWTABLE, NFTA_TABLE_FLAGS) => {
                // Owner and persistence come and go with the daemon.
                let flags = number(&object.attrs, kind) & NFT_TABLE_F_DORMANT;
                part(hash, kind, &flags.to_be_bytes());
            }
            (NFT_MSG_NEWCHAIN, NFTA_CHAIN_COUNTERS) => {}
            (NFT_MSG_NEWOBJ, NFTA_OBJ_DATA)
                if matches!(number(&object.attrs, NFTA_OBJ_TYPE), NFT_OBJECT_COUNTER | NFT_OBJECT_QUOTA) => {}
            (NFT_MSG_NEWRULE, NFTA_RULE_EXPRESSIONS) | (NFT_MSG_NEWSET, NFTA_SET_EXPRESSIONS) => {
                list(hash, kind, payload);
            }
            (NFT_MSG_NEWSET, NFTA_SET_EXPR) => expression(hash, payload),
            _ => part(hash, kind, payload),
        }
    }
}

/// With kind and length in front, so that no two different sequences look alike.
fn part(hash: &mut Sha256, kind: u16, payload: &[u8]) {
    hash.update(kind.to_be_bytes());
    hash.update((payload.len() as u64).to_be_bytes());
    hash.update(payload);
}

fn list(hash: &mut Sha256, kind: u16, payload: &[u8]) {
    part(hash, kind, &(attrs(payload).count() as u64).to_be_bytes());
    for (_, one) in attrs(payload) {
        expression(hash, one);
    }
}

fn expression(hash: &mut Sha256, bytes: &[u8]) {
    let name = find_attr(bytes, NFTA_EXPR_NAME).map(text).unwrap_or_default();
    part(hash, NFTA_EXPR_NAME, name.as_bytes());
    let data = find_attr(bytes, NFTA_EXPR_DATA).unwrap_or(&[]);
    for (kind, payload) in attrs(data) {
        match (name.as_str(), kind) {
            // What they have counted.
            ("counter" | "last", _) | ("quota", NFTA_QUOTA_CONSUMED) => {}
            ("dynset", NFTA_DYNSET_EXPR) => expression(hash, payload),
            ("dynset", NFTA_DYNSET_EXPRESSIONS) => list(hash, kind, payload),
            _ => part(hash, kind, payload),
        }
    }
}
