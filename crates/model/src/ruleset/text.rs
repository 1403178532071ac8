//! nft text: what `nft -f` (1.0.6 and later) reads, for people, goldens and `export nft`.
//!
//! The order of everything is the table's own, so one table always gives one text. nft adds the dependencies of a
//! field itself (`meta nfproto`, `meta l4proto`, in the bridge family `ether type`); the netlink rendering of the
//! kernel crate adds the same ones.
//!
//! What nft's grammar does not let us write, and [`super::build`] must therefore not make:
//! - Names of tables, chains and sets cannot be quoted, so none may be a keyword: see [`is_plain_name`].
//! - A [`Statement::DnatMap`] with a port on an interval map is refused by nft 1.0.6 unless a match of `meta l4proto` with one
//!   protocol stands before it in the rule ("transport protocol mapping is only valid after …").
//! - `th sport 1 th dport 2` without a match of `meta l4proto` before it loads, but is listed as `@th,0,32`.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{
    Chain, ChainKind, CtStates, Element, Family, Field, Hook, HookPoint, IpFamily, KeyPart, MARK, Operand, Rule, Set,
    Statement, TABLE, Table, Type, Value, Verdict,
};

/// The longest comment in bytes that nft reads back (NFTNL_UDATA_COMMENT_MAXLEN of libnftnl less its zero).
const COMMENT_MAX: usize = 127;

/// One table.
#[must_use]
pub fn table(table: &Table) -> String {
    let mut out = format!("table {} {TABLE} {{\n\tcomment \"{}\"\n", table.family.word(), comment(MARK));
    for (name, set) in &table.sets {
        out.push('\n');
        write_set(&mut out, name, set);
    }
    for chain in &table.chains {
        out.push('\n');
        write_chain(&mut out, chain);
    }
    out.push_str("}\n");
    out
}

/// Several tables behind one another.
#[must_use]
pub fn tables(tables: &[Table]) -> String {
    tables.iter().map(table).collect::<Vec<_>>().join("\n")
}

/// Several tables as a script that replaces what stands under their names: `nft -f` of it twice is as once.
#[must_use]
pub fn script(all: &[Table]) -> String {
    let mut out = String::new();
    for table in all {
        let family = table.family.word();
        // `delete` alone fails where there is none; `destroy` is too new for nft 1.0.6.
        let _ = writeln!(out, "table {family} {TABLE}\ndelete table {family} {TABLE}\n");
    }
    out.push_str(&tables(all));
    out
}

/// A comment as both renderings write it: nft's strings have no escapes and end at 127 bytes.
#[must_use]
pub fn comment(text: &str) -> String {
    let mut out: String =
        text.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { '\'' } else { c }).collect();
    while out.len() > COMMENT_MAX {
        out.pop();
    }
    out
}

/// Whether nft reads `name` as the name of a chain or set whatever its keywords are, now and later: letters, digits,
/// `_` and `-`, a letter first, at most 32 bytes, and a `-` or `_` inside, which no keyword that could stand there
/// has.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let inner = name.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    inner
        && name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.contains(['-', '_'])
        && !name.ends_with('-')
}

/// Whether `statements` leave only packets of that IP version: what stands after them needs no match of its own.
#[must_use]
pub fn implies(statements: &[Statement], family: IpFamily) -> bool {
    let fits = |field: &Field| match family {
        IpFamily::V4 => matches!(field, Field::IpSaddr | Field::IpDaddr),
        IpFamily::V6 => matches!(field, Field::Ip6Saddr | Field::Ip6Daddr),
    };
    let number = u32::from(nfproto(family));
    statements.iter().any(|statement| match statement {
        Statement::Match { field: Field::NfProto, not: false, with: Operand::Number(n) } => *n == number,
        Statement::Match { field, .. } => fits(field),
        Statement::InSet { fields, .. } => fields.iter().any(fits),
        // It neither matches nor ends the rule where the map has nothing, but its dependencies do.
        Statement::DnatMap { fields, .. } => fields.iter().any(fits),
        _ => false,
    })
}

/// NFPROTO_* of linux/netfilter.h.
#[must_use]
pub fn nfproto(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    }
}

impl Type {
    /// nft's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Ether => "ether_addr",
            Self::IfName => "ifname",
            Self::Proto => "inet_proto",
            Self::Port => "inet_service",
            Self::NdTarget => "integer",
        }
    }
}

impl HookPoint {
    /// nft's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

impl Field {
    /// nft's words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::IifName => "iifname",
            Self::OifName => "oifname",
            Self::NfProto => "meta nfproto",
            Self::L4Proto => "meta l4proto",
            Self::IpSaddr => "ip saddr",
            Self::IpDaddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::ThSport => "th sport",
            Self::ThDport => "th dport",
            Self::IcmpType => "icmp type",
            Self::Icmp6Type => "icmpv6 type",
            Self::EtherSaddr => "ether saddr",
            Self::EtherDaddr => "ether daddr",
            Self::EtherType => "ether type",
            Self::ArpSaddrEther => "arp saddr ether",
            Self::ArpSaddrIp => "arp saddr ip",
            Self::NdTarget => ND_TARGET,
            Self::CtDaddr => "ct original ip daddr",
            Self::CtDaddr6 => "ct original ip6 daddr",
            Self::CtDport => "ct original proto-dst",
        }
    }
}

fn write_set(out: &mut String, name: &str, set: &Set) {
    let kind = if set.data.is_empty() { "set" } else { "map" };
    let _ = match typeof_words(&set.key) {
        Some(fields) => write!(out, "\t{kind} {name} {{\n\t\ttypeof {fields}"),
        None => write!(out, "\t{kind} {name} {{\n\t\ttype {}", types(&set.key)),
    };
    if !set.data.is_empty() {
        let _ = write!(out, " : {}", types(&set.data));
    }
    out.push('\n');
    if set.interval {
        out.push_str("\t\tflags interval\n");
    }
    if set.counted {
        out.push_str("\t\tcounter\n");
    }
    if set.held {
        let _ = writeln!(out, "\t\tct count over {DECLARED_COUNT}");
    }
    if !set.elements.is_empty() {
        let all: Vec<String> = set.elements.iter().map(element).collect();
        let _ = writeln!(out, "\t\telements = {{\n\t\t\t{}\n\t\t}}", all.join(",\n\t\t\t"));
    }
    out.push_str("\t}\n");
}

/// What a `held` set is declared with; each of its elements has a number of its own.
pub const DECLARED_COUNT: u32 = 65536;

/// The raw field that [`Field::NdTarget`] is to nft: bit and length behind the transport header's beginning.
const ND_TARGET: &str = "@th,64,128";

/// A set with a raw field in its key can only be declared by what is looked up in it.
fn typeof_words(key: &[Type]) -> Option<String> {
    let words = |kind: &Type| match kind {
        Type::Ipv4 => "ip saddr",
        Type::Ipv6 => "ip6 saddr",
        Type::Ether => "ether saddr",
        Type::IfName => "iifname",
        Type::Proto => "meta l4proto",
        Type::Port => "th dport",
        Type::NdTarget => ND_TARGET,
    };
    key.contains(&Type::NdTarget).then(|| key.iter().map(words).collect::<Vec<_>>().join(" . "))
}

fn types(types: &[Type]) -> String {
    types.iter().map(|t| t.word()).collect::<Vec<_>>().join(" . ")
}

/// An element as nft writes it: `192.0.2.1 . tcp . 80 : 10.0.0.1 . 8080`.
#[must_use]
pub fn element(element: &Element) -> String {
    let mut text = element.key.iter().map(part).collect::<Vec<_>>().join(" . ");
    if let Some(most) = element.most {
        let _ = write!(text, " ct count over {most}");
    }
    if !element.data.is_empty() {
        text.push_str(" : ");
        text.push_str(&element.data.iter().map(value).collect::<Vec<_>>().join(" . "));
    }
    text
}

fn part(part: &KeyPart) -> String {
    match part {
        KeyPart::One(one) => value(one),
        KeyPart::Range(first, last) if first == last => value(first),
        KeyPart::Range(first, last) => match prefix(first, last) {
            Some(length) => format!("{}/{length}", value(first)),
            None => format!("{}-{}", value(first), value(last)),
        },
    }
}

/// The prefix length where the range is exactly a network, which is how nft itself writes it.
fn prefix(first: &Value, last: &Value) -> Option<u32> {
    let (first, last, width) = match (first, last) {
        (Value::Ipv4(a), Value::Ipv4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (Value::Ipv6(a), Value::Ipv6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return None,
    };
    let differing = first ^ last;
    let host = u128::BITS - differing.leading_zeros();
    let whole = differing.count_ones() == host && first & differing == 0;
    whole.then_some(width - host)
}

fn value(value: &Value) -> String {
    match value {
        Value::Ipv4(a) => a.to_string(),
        Value::Ipv6(a) => a.to_string(),
        Value::Ether(mac) => mac.to_string(),
        Value::IfName(name) => format!("\"{name}\""),
        Value::Proto(number) => protocol(*number),
        Value::Port(port) => port.to_string(),
        Value::NdTarget(a) => format!("{:#034x}", a.to_bits()),
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

fn write_chain(out: &mut String, chain: &Chain) {
    let _ = writeln!(out, "\tchain {} {{", chain.name);
    if let Some(Hook { at, kind, priority }) = chain.hook {
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let _ = writeln!(out, "\t\ttype {kind} hook {} priority {priority}; policy accept;", at.word());
    }
    for one in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule(one));
    }
    out.push_str("\t}\n");
}

/// A rule on one line.
#[must_use]
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    for (at, one) in rule.statements.iter().enumerate() {
        words.push(statement(one, &rule.statements[..at]));
    }
    if !rule.comment.is_empty() {
        words.push(format!("comment \"{}\"", comment(&rule.comment)));
    }
    words.join(" ")
}

fn statement(statement: &Statement, before: &[Statement]) -> String {
    match statement {
        Statement::Match { field, not, with } => matching(*field, *not, with),
        Statement::InSet { fields, not, set } => {
            format!("{} {}@{set}", concat(fields), if *not { "!= " } else { "" })
        }
        Statement::CtState(states) => format!("ct state {}", ct_states(*states)),
        Statement::CtDnat => "ct status dnat".to_owned(),
        Statement::FibLocal { of_input, not } => {
            let iif = if *of_input { " . iif" } else { "" };
            format!("fib daddr{iif} type {}local", if *not { "!= " } else { "" })
        }
        Statement::Counter => "counter".to_owned(),
        Statement::DnatMap { family, fields, map, .. } => {
            format!("dnat {} to {} map @{map}", ip(*family), concat(fields))
        }
        Statement::Dnat(address) => format!("dnat {} to {address}", ip(IpFamily::of(*address))),
        Statement::Snat(address) => format!("snat {} to {address}", ip(IpFamily::of(*address))),
        Statement::Masquerade(family) if implies(before, *family) => "masquerade".to_owned(),
        Statement::Masquerade(IpFamily::V4) => "meta nfproto ipv4 masquerade".to_owned(),
        Statement::Masquerade(IpFamily::V6) => "meta nfproto ipv6 masquerade".to_owned(),
        Statement::Syn => "tcp flags & (syn | rst) == syn".to_owned(),
        Statement::ClampMss => "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu".to_owned(),
        Statement::Verdict(verdict) => match verdict {
            Verdict::Accept => "accept".to_owned(),
            Verdict::Drop => "drop".to_owned(),
            Verdict::Return => "return".to_owned(),
            Verdict::Jump(chain) => format!("jump {chain}"),
            Verdict::Goto(chain) => format!("goto {chain}"),
        },
    }
}

fn ip(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn concat(fields: &[Field]) -> String {
    fields.iter().map(|f| f.words()).collect::<Vec<_>>().join(" . ")
}

fn matching(field: Field, not: bool, with: &Operand) -> String {
    let words = field.words();
    let op = if not { "!= " } else { "" };
    match with {
        Operand::Prefix(ipnet::IpNet::V6(net)) if field == Field::NdTarget => {
            // A number of as many bits as the prefix is long, rounded to bytes: only such prefixes are used.
            let bits = u32::from(net.prefix_len());
            format!("@th,64,{bits} {op}{:#x}", net.network().to_bits() >> (128 - bits.clamp(1, 128)))
        }
        Operand::Value(one) => format!("{words} {op}{}", value(one)),
        Operand::Prefix(net) => {
            let whole = match net.addr() {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            if net.prefix_len() == whole {
                format!("{words} {op}{}", net.addr())
            } else {
                format!("{words} {op}{}/{}", net.network(), net.prefix_len())
            }
        }
        Operand::Number(number) => format!("{words} {op}{}", number_word(field, *number)),
        Operand::GroupBit => {
            let op = if not { "!=" } else { "==" };
            format!("{words} & 01:00:00:00:00:00 {op} 01:00:00:00:00:00")
        }
    }
}

fn number_word(field: Field, number: u32) -> String {
    let word = match (field, number) {
        (Field::NfProto, 2) => "ipv4",
        (Field::NfProto, 10) => "ipv6",
        (Field::EtherType, 0x0800) => "ip",
        (Field::EtherType, 0x0806) => "arp",
        (Field::EtherType, 0x86dd) => "ip6",
        (Field::IcmpType, 0) => "echo-reply",
        (Field::IcmpType, 8) => "echo-request",
        (Field::Icmp6Type, 128) => "echo-request",
        (Field::Icmp6Type, 129) => "echo-reply",
        (Field::Icmp6Type, 133) => "nd-router-solicit",
        (Field::Icmp6Type, 134) => "nd-router-advert",
        (Field::Icmp6Type, 135) => "nd-neighbor-solicit",
        (Field::Icmp6Type, 136) => "nd-neighbor-advert",
        (Field::Icmp6Type, 137) => "nd-redirect",
        (Field::EtherType, other) => return format!("{other:#06x}"),
        (_, other) => return other.to_string(),
    };
    word.to_owned()
}

fn ct_states(states: CtStates) -> String {
    [(states.established, "established"), (states.related, "related"), (states.invalid, "invalid"), (states.new, "new")]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, word)| *word)
        .collect::<Vec<_>>()
        .join(",")
}

/// Whether a table's family has the field at all.
#[must_use]
pub fn has_field(family: Family, field: Field) -> bool {
    match family {
        Family::Inet => !matches!(field, Field::ArpSaddrEther | Field::ArpSaddrIp | Field::NdTarget),
        Family::Bridge => !matches!(field, Field::NfProto | Field::CtDaddr | Field::CtDaddr6 | Field::CtDport),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::IfName;

    #[test]
    fn a_small_table_reads_as_nft() {
        let mut set = Set::map(&[Type::Ipv4, Type::Proto, Type::Port], &[Type::Ipv4, Type::Port]);
        let key = [Value::Ipv4([192, 0, 2, 1].into()), Value::Proto(6), Value::Port(22210)];
        set.elements.insert(Element::of(key).to([Value::Ipv4([10, 1, 1, 6].into()), Value::Port(22)]));
        let name = IfName::new("eth0").map(Value::IfName);
        let rules = vec![
            Rule {
                statements: vec![Statement::DnatMap {
                    family: IpFamily::V4,
                    fields: vec![Field::IpDaddr, Field::L4Proto, Field::ThDport],
                    map: "forward-4".into(),
                    port: true,
                }],
                comment: "a \"quote\"".into(),
            },
            Rule {
                statements: vec![
                    Statement::Match {
                        field: Field::IifName,
                        not: true,
                        with: Operand::Value(name.unwrap_or_else(|e| panic!("{e}"))),
                    },
                    Statement::Masquerade(IpFamily::V4),
                ],
                comment: String::new(),
            },
        ];
        let hook = Some(Hook { at: HookPoint::Prerouting, kind: ChainKind::Nat, priority: -100 });
        let table = Table {
            family: Family::Inet,
            sets: [("forward-4".to_owned(), set)].into(),
            chains: vec![Chain { name: "nat-pre".into(), hook, rules }],
        };
        let expected = "table inet warren {\n\tcomment \"warren: made by warren up, changes here are undone\"\n\n\
            \tmap forward-4 {\n\t\ttype ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\n\
            \t\telements = {\n\t\t\t192.0.2.1 . tcp . 22210 : 10.1.1.6 . 22\n\t\t}\n\t}\n\n\
            \tchain nat-pre {\n\t\ttype nat hook prerouting priority -100; policy accept;\n\
            \t\tdnat ip to ip daddr . meta l4proto . th dport map @forward-4 comment \"a 'quote'\"\n\
            \t\tiifname != \"eth0\" meta nfproto ipv4 masquerade\n\t}\n}\n";
        assert_eq!(super::table(&table), expected);
    }

    #[test]
    fn ranges_that_are_networks_are_written_so() {
        let v4 = |a: [u8; 4]| Value::Ipv4(a.into());
        assert_eq!(part(&KeyPart::Range(v4([10, 0, 0, 0]), v4([10, 0, 0, 255]))), "10.0.0.0/24");
        assert_eq!(part(&KeyPart::Range(v4([10, 0, 0, 1]), v4([10, 0, 0, 255]))), "10.0.0.1-10.0.0.255");
        assert_eq!(part(&KeyPart::Range(v4([0, 0, 0, 0]), v4([255, 255, 255, 255]))), "0.0.0.0/0");
        assert_eq!(part(&KeyPart::Range(Value::Port(80), Value::Port(80))), "80");
    }

    #[test]
    fn names_that_nft_might_take_for_keywords() {
        assert!(is_plain_name("lan-br1"));
        for bad in ["fwd", "counter", "1-a", "a b-c", "x-", "-x", ""] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
