//! What a rule of another's says, as far as we understand it, close to how nft would write it. What is not understood
//! is named in brackets, never guessed; nothing is decided by these words.

use std::fmt::Write as _;

use super::dump::{number, rule_expressions, verdict};
use super::uapi::*;
use crate::netlink::{find_attr, text};

/// A rule, from its attributes.
pub(super) fn rule(attrs: &[u8]) -> String {
    let mut words: Vec<String> = Vec::new();
    // What the register holds that the next expression looks at.
    let mut loaded = String::new();
    for (name, data) in rule_expressions(attrs) {
        match name.as_str() {
            "meta" => loaded = meta(number(data, NFTA_META_KEY)),
            "payload" => loaded = payload(data),
            "ct" => loaded = ct(number(data, NFTA_CT_KEY)),
            "fib" => "fib".clone_into(&mut loaded),
            "bitwise" => {
                let mask = find_attr(data, NFTA_BITWISE_MASK).and_then(|m| find_attr(m, NFTA_DATA_VALUE));
                let _ = write!(loaded, " & {}", hex(mask.unwrap_or(&[])));
            }
            "cmp" => {
                let value = find_attr(data, NFTA_CMP_DATA).and_then(|d| find_attr(d, NFTA_DATA_VALUE)).unwrap_or(&[]);
                let sign = match number(data, NFTA_CMP_OP) {
                    NFT_CMP_EQ => "",
                    NFT_CMP_NEQ => "!= ",
                    2 => "< ",
                    3 => "<= ",
                    4 => "> ",
                    _ => ">= ",
                };
                words.push(format!("{loaded} {sign}{}", value_of(&loaded, value)));
            }
            "lookup" => {
                let set = find_attr(data, NFTA_LOOKUP_SET).map(text).unwrap_or_default();
                let not = if number(data, NFTA_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV != 0 { "!= " } else { "" };
                // A set without a name has another one each time that the rule is written.
                let set = if set.starts_with("__") { "{ … }".to_owned() } else { format!("@{set}") };
                words.push(format!("{loaded} {not}{set}"));
            }
            "immediate" => words.extend(find_attr(data, NFTA_IMMEDIATE_DATA).and_then(verdict).map(ending)),
            "reject" => words.push("reject".to_owned()),
            "match" => {
                let name = find_attr(data, NFTA_TARGET_NAME).map(text).unwrap_or_default();
                words.push(format!("[-m {name}]"));
            }
            "target" => {
                let name = find_attr(data, NFTA_TARGET_NAME).map(text).unwrap_or_default();
                words.push(format!("-j {name}"));
            }
            "counter" => {}
            other => words.push(format!("[{other}]")),
        }
    }
    words.join(" ")
}

fn meta(key: u32) -> String {
    match key {
        NFT_META_PROTOCOL => "meta protocol".to_owned(),
        4 => "iif".to_owned(),
        5 => "oif".to_owned(),
        NFT_META_IIFNAME => "iifname".to_owned(),
        NFT_META_OIFNAME => "oifname".to_owned(),
        NFT_META_NFPROTO => "meta nfproto".to_owned(),
        NFT_META_L4PROTO => "meta l4proto".to_owned(),
        other => format!("[meta {other}]"),
    }
}

fn ct(key: u32) -> String {
    match key {
        NFT_CT_STATE => "ct state".to_owned(),
        NFT_CT_STATUS => "ct status".to_owned(),
        other => format!("[ct {other}]"),
    }
}

/// nft's raw form, `@nh,96,32`: base, offset and length in bits.
fn payload(data: &[u8]) -> String {
    let base = match number(data, NFTA_PAYLOAD_BASE) {
        NFT_PAYLOAD_LL_HEADER => "ll",
        NFT_PAYLOAD_NETWORK_HEADER => "nh",
        NFT_PAYLOAD_TRANSPORT_HEADER => "th",
        _ => "ih",
    };
    match (base, number(data, NFTA_PAYLOAD_OFFSET), number(data, NFTA_PAYLOAD_LEN)) {
        ("th", 0, 2) => "th sport".to_owned(),
        ("th", 2, 2) => "th dport".to_owned(),
        (base, offset, length) => format!("@{base},{},{}", offset * 8, length * 8),
    }
}

fn value_of(what: &str, value: &[u8]) -> String {
    match (what, value) {
        ("iifname" | "oifname", name) => {
            // A name without its terminating zero stands for all that begin so.
            let all = if name.contains(&0) { "" } else { "*" };
            format!("\"{}{all}\"", text(name))
        }
        ("th sport" | "th dport", [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        ("meta l4proto", [6]) => "tcp".to_owned(),
        ("meta l4proto", [17]) => "udp".to_owned(),
        ("meta nfproto", [NFPROTO_IPV4]) => "ipv4".to_owned(),
        ("meta nfproto", [NFPROTO_IPV6]) => "ipv6".to_owned(),
        (_, value) => hex(value),
    }
}

fn hex(value: &[u8]) -> String {
    value.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn ending((code, chain): (i32, Option<String>)) -> String {
    let chain = chain.unwrap_or_default();
    match code {
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        NFT_JUMP => format!("jump {chain}"),
        NFT_GOTO => format!("goto {chain}"),
        NFT_RETURN => "return".to_owned(),
        other => format!("[verdict {other}]"),
    }
}
