//! A rule's statements as nf_tables expressions, with the dependencies that nft 1.0.6 adds itself (src/payload.c,
//! payload_gen_dependency), so that nft lists them as it lists its own.

use std::net::IpAddr;

use model::ruleset::text::{implies, nfproto};
use model::ruleset::{CtStates, Family, Field, IpFamily, Operand, Rule, Statement, Verdict};

use super::encode::{value_bytes, write_data};
use super::uapi::*;
use crate::netlink::Writer;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ARPHRD_ETHER: u16 = 1;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ICMPV6: u8 = 58;

/// Everything is loaded from the first register on: 16 of four bytes each (enum nft_registers).
const REG: u32 = NFT_REG32_00;

/// Where a field is read from.
enum Source {
    /// meta, by key
    Meta(u32),
    /// The packet, by base and offset.
    Payload(u32, u32),
    /// The flow's original direction, by key.
    Original(u32),
}

/// Where it is, and how many bytes it has.
fn source(field: Field) -> (Source, usize) {
    use Source::{Meta, Original, Payload};
    const LL: u32 = NFT_PAYLOAD_LL_HEADER;
    const NH: u32 = NFT_PAYLOAD_NETWORK_HEADER;
    const TH: u32 = NFT_PAYLOAD_TRANSPORT_HEADER;
    match field {
        Field::IifName => (Meta(NFT_META_IIFNAME), 16),
        Field::OifName => (Meta(NFT_META_OIFNAME), 16),
        Field::NfProto => (Meta(NFT_META_NFPROTO), 1),
        Field::L4Proto => (Meta(NFT_META_L4PROTO), 1),
        Field::IpSaddr => (Payload(NH, 12), 4),
        Field::IpDaddr => (Payload(NH, 16), 4),
        Field::Ip6Saddr => (Payload(NH, 8), 16),
        Field::Ip6Daddr => (Payload(NH, 24), 16),
        Field::ThSport => (Payload(TH, 0), 2),
        Field::ThDport => (Payload(TH, 2), 2),
        Field::IcmpType | Field::Icmp6Type => (Payload(TH, 0), 1),
        Field::EtherDaddr => (Payload(LL, 0), 6),
        Field::EtherSaddr => (Payload(LL, 6), 6),
        Field::EtherType => (Payload(LL, 12), 2),
        Field::ArpSaddrEther => (Payload(NH, 8), 6),
        Field::ArpSaddrIp => (Payload(NH, 14), 4),
        Field::NdTarget => (Payload(TH, 8), 16),
        Field::CtDaddr => (Original(NFT_CT_DST_IP), 4),
        Field::CtDaddr6 => (Original(NFT_CT_DST_IP6), 16),
        Field::CtDport => (Original(NFT_CT_PROTO_DST), 2),
    }
}

/// Writes the rule's expressions into the list that `w` stands in.
pub(super) fn write(w: &mut Writer, family: Family, rule: &Rule) {
    let mut known = Known { family, network: None, transport: None, ethernet: family == Family::Bridge };
    for (at, statement) in rule.statements.iter().enumerate() {
        write_statement(w, &mut known, statement, &rule.statements[..at]);
    }
}

/// What earlier matches of the rule have settled.
struct Known {
    family: Family,
    /// The ethertype.
    network: Option<u16>,
    /// The IP protocol.
    transport: Option<u8>,
    /// That there is an Ethernet header.
    ethernet: bool,
}

impl Known {
    /// Matches what must hold for `field` to be there at all.
    fn depend(&mut self, w: &mut Writer, field: Field) {
        match field {
            Field::IpSaddr | Field::IpDaddr => self.network(w, ETH_P_IP, false),
            Field::Ip6Saddr | Field::Ip6Daddr => self.network(w, ETH_P_IPV6, false),
            Field::ArpSaddrEther | Field::ArpSaddrIp => self.network(w, ETH_P_ARP, true),
            Field::IcmpType => self.transport(w, IPPROTO_ICMP, ETH_P_IP),
            Field::Icmp6Type => self.transport(w, IPPROTO_ICMPV6, ETH_P_IPV6),
            Field::EtherSaddr | Field::EtherDaddr | Field::EtherType => {
                if !self.ethernet {
                    load_meta(w, NFT_META_IIFTYPE);
                    compare(w, false, &ARPHRD_ETHER.to_ne_bytes());
                    self.ethernet = true;
                }
            }
            Field::IifName
            | Field::OifName
            | Field::NfProto
            | Field::L4Proto
            | Field::ThSport
            | Field::ThDport
            | Field::NdTarget
            | Field::CtDaddr
            | Field::CtDaddr6
            | Field::CtDport => {}
        }
    }

    fn network(&mut self, w: &mut Writer, ethertype: u16, by_header: bool) {
        if self.network == Some(ethertype) {
            return;
        }
        if self.family == Family::Inet && !self.ethernet {
            load_meta(w, NFT_META_NFPROTO);
            compare(w, false, &[if ethertype == ETH_P_IP { NFPROTO_IPV4 } else { NFPROTO_IPV6 }]);
        } else {
            if by_header || self.family == Family::Inet {
                load_payload(w, NFT_PAYLOAD_LL_HEADER, 12, 2);
            } else {
                load_meta(w, NFT_META_PROTOCOL);
            }
            compare(w, false, &ethertype.to_be_bytes());
        }
        self.network = Some(ethertype);
    }

    fn transport(&mut self, w: &mut Writer, protocol: u8, ethertype: u16) {
        if self.transport == Some(protocol) {
            return;
        }
        if protocol != IPPROTO_TCP && self.network.is_none() {
            self.network(w, ethertype, true);
        }
        load_meta(w, NFT_META_L4PROTO);
        compare(w, false, &[protocol]);
        self.transport = Some(protocol);
    }

    /// Learns from a match that was written.
    fn learn(&mut self, field: Field, bytes: &[u8]) {
        match (field, bytes) {
            (Field::L4Proto, [protocol]) => self.transport = Some(*protocol),
            (Field::NfProto, [NFPROTO_IPV4]) => self.network = Some(ETH_P_IP),
            (Field::NfProto, [NFPROTO_IPV6]) => self.network = Some(ETH_P_IPV6),
            (Field::EtherType, [a, b]) => self.network = Some(u16::from_be_bytes([*a, *b])),
            _ => {}
        }
    }
}

fn write_statement(w: &mut Writer, known: &mut Known, statement: &Statement, before: &[Statement]) {
    match statement {
        Statement::Match { field, not, with } => write_match(w, known, *field, *not, with),
        Statement::InSet { fields, not, set } => {
            load_concat(w, known, fields);
            expression(w, "lookup", |w| {
                w.attr_str(NFTA_LOOKUP_SET, set);
                w.attr_be32(NFTA_LOOKUP_SREG, REG);
                if *not {
                    w.attr_be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
                }
            });
        }
        Statement::CtState(states) => ct_flags(w, NFT_CT_STATE, ct_bits(*states)),
        Statement::CtDnat => ct_flags(w, NFT_CT_STATUS, IPS_DST_NAT),
        Statement::FibLocal { of_input, not } => {
            expression(w, "fib", |w| {
                w.attr_be32(NFTA_FIB_DREG, REG);
                w.attr_be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                w.attr_be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR | if *of_input { NFTA_FIB_F_IIF } else { 0 });
            });
            compare(w, *not, &RTN_LOCAL.to_ne_bytes());
        }
        Statement::Counter => expression(w, "counter", |_| {}),
        Statement::DnatMap { family, fields, map, port } => {
            load_concat(w, known, fields);
            expression(w, "lookup", |w| {
                w.attr_str(NFTA_LOOKUP_SET, map);
                w.attr_be32(NFTA_LOOKUP_SREG, REG);
                w.attr_be32(NFTA_LOOKUP_DREG, REG);
            });
            // The map's value is an address and behind it a port.
            let address_registers = match family {
                IpFamily::V4 => 1,
                IpFamily::V6 => 4,
            };
            nat(w, NFT_NAT_DNAT, *family, port.then_some(REG + address_registers));
        }
        Statement::Dnat(address) => nat_to(w, NFT_NAT_DNAT, *address),
        Statement::Snat(address) => nat_to(w, NFT_NAT_SNAT, *address),
        Statement::Masquerade(family) => {
            if !implies(before, *family) {
                load_meta(w, NFT_META_NFPROTO);
                compare(w, false, &[nfproto(*family)]);
                known.learn(Field::NfProto, &[nfproto(*family)]);
            }
            expression(w, "masq", |_| {});
        }
        Statement::Syn => syn(w, known),
        Statement::ClampMss => clamp_mss(w, known),
        Statement::Verdict(verdict) => write_verdict(w, verdict),
    }
}

fn write_match(w: &mut Writer, known: &mut Known, field: Field, not: bool, with: &Operand) {
    known.depend(w, field);
    let (_, width) = source(field);
    match with {
        Operand::Value(value) => {
            let mut bytes = Vec::with_capacity(16);
            value_bytes(value, &mut bytes);
            load(w, field, REG, width);
            compare(w, not, &bytes);
            if !not {
                known.learn(field, &bytes);
            }
        }
        Operand::Number(number) => {
            let bytes = &number.to_be_bytes()[4 - width.min(4)..];
            load(w, field, REG, width);
            compare(w, not, bytes);
            if !not {
                known.learn(field, bytes);
            }
        }
        Operand::Prefix(net) => {
            let (bytes, length) = match net.network() {
                IpAddr::V4(a) => (a.octets().to_vec(), usize::from(net.prefix_len())),
                IpAddr::V6(a) => (a.octets().to_vec(), usize::from(net.prefix_len())),
            };
            if length > 0 && length.is_multiple_of(8) {
                // Whole bytes are compared without a mask.
                load(w, field, REG, length / 8);
                compare(w, not, &bytes[..length / 8]);
            } else {
                let mask: Vec<u8> = (0..width).map(|at| mask_byte(length, at)).collect();
                load(w, field, REG, width);
                bitwise_and(w, &mask);
                compare(w, not, &bytes);
            }
        }
        Operand::GroupBit => {
            let bit = [1, 0, 0, 0, 0, 0];
            load(w, field, REG, width);
            bitwise_and(w, &bit);
            compare(w, not, &bit);
        }
    }
}

fn mask_byte(prefix: usize, at: usize) -> u8 {
    let bits = prefix.saturating_sub(at * 8).min(8);
    // 8 bits shifted by 8 would overflow a byte.
    (0xff00_u16 >> bits).to_be_bytes()[1]
}

fn syn(w: &mut Writer, known: &mut Known) {
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const FLAGS_AT: u32 = 13;
    known.transport(w, IPPROTO_TCP, ETH_P_IP);
    load_payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, FLAGS_AT, 1);
    bitwise_and(w, &[SYN | RST]);
    compare(w, false, &[SYN]);
}

fn clamp_mss(w: &mut Writer, known: &mut Known) {
    syn(w, known);
    expression(w, "rt", |w| {
        w.attr_be32(NFTA_RT_KEY, NFT_RT_TCPMSS);
        w.attr_be32(NFTA_RT_DREG, REG);
    });
    expression(w, "byteorder", |w| {
        w.attr_be32(NFTA_BYTEORDER_SREG, REG);
        w.attr_be32(NFTA_BYTEORDER_DREG, REG);
        w.attr_be32(NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON);
        w.attr_be32(NFTA_BYTEORDER_LEN, 2);
        w.attr_be32(NFTA_BYTEORDER_SIZE, 2);
    });
    expression(w, "exthdr", |w| {
        w.attr_be32(NFTA_EXTHDR_SREG, REG);
        w.attr_u8(NFTA_EXTHDR_TYPE, TCPOPT_MAXSEG);
        w.attr_be32(NFTA_EXTHDR_OFFSET, 2);
        w.attr_be32(NFTA_EXTHDR_LEN, 2);
        w.attr_be32(NFTA_EXTHDR_OP, NFT_EXTHDR_OP_TCPOPT);
    });
}

fn nat_to(w: &mut Writer, kind: u32, address: IpAddr) {
    let bytes = match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    expression(w, "immediate", |w| {
        w.attr_be32(NFTA_IMMEDIATE_DREG, REG);
        write_data(w, NFTA_IMMEDIATE_DATA, &bytes);
    });
    nat(w, kind, IpFamily::of(address), None);
}

fn nat(w: &mut Writer, kind: u32, family: IpFamily, port: Option<u32>) {
    expression(w, "nat", |w| {
        w.attr_be32(NFTA_NAT_TYPE, kind);
        w.attr_be32(NFTA_NAT_FAMILY, u32::from(nfproto(family)));
        w.attr_be32(NFTA_NAT_REG_ADDR_MIN, REG);
        if let Some(register) = port {
            w.attr_be32(NFTA_NAT_REG_PROTO_MIN, register);
        }
    });
}

fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT.cast_signed(), None),
        Verdict::Drop => (NF_DROP.cast_signed(), None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    };
    expression(w, "immediate", |w| {
        w.attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        w.nest(NFTA_IMMEDIATE_DATA, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| {
                w.attr_be32(NFTA_VERDICT_CODE, code.cast_unsigned());
                if let Some(chain) = chain {
                    w.attr_str(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

/// Loads the fields behind one another, as a set's key is packed.
fn load_concat(w: &mut Writer, known: &mut Known, fields: &[Field]) {
    for field in fields {
        known.depend(w, *field);
    }
    let mut register = REG;
    for field in fields {
        let (_, width) = source(*field);
        load(w, *field, register, width);
        register += width.div_ceil(4) as u32;
    }
}

fn load(w: &mut Writer, field: Field, register: u32, width: usize) {
    match source(field).0 {
        Source::Meta(key) => load_meta_to(w, key, register),
        Source::Payload(base, offset) => load_payload_to(w, base, offset, width, register),
        Source::Original(key) => expression(w, "ct", |w| {
            w.attr_be32(NFTA_CT_KEY, key);
            w.attr_be32(NFTA_CT_DREG, register);
            w.attr_u8(NFTA_CT_DIRECTION, IP_CT_DIR_ORIGINAL);
        }),
    }
}

fn load_meta(w: &mut Writer, key: u32) {
    load_meta_to(w, key, REG);
}

fn load_meta_to(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.attr_be32(NFTA_META_KEY, key);
        w.attr_be32(NFTA_META_DREG, register);
    });
}

fn load_payload(w: &mut Writer, base: u32, offset: u32, width: usize) {
    load_payload_to(w, base, offset, width, REG);
}

fn load_payload_to(w: &mut Writer, base: u32, offset: u32, width: usize, register: u32) {
    expression(w, "payload", |w| {
        w.attr_be32(NFTA_PAYLOAD_DREG, register);
        w.attr_be32(NFTA_PAYLOAD_BASE, base);
        w.attr_be32(NFTA_PAYLOAD_OFFSET, offset);
        w.attr_be32(NFTA_PAYLOAD_LEN, width as u32);
    });
}

fn compare(w: &mut Writer, not: bool, bytes: &[u8]) {
    expression(w, "cmp", |w| {
        w.attr_be32(NFTA_CMP_SREG, REG);
        w.attr_be32(NFTA_CMP_OP, if not { NFT_CMP_NEQ } else { NFT_CMP_EQ });
        write_data(w, NFTA_CMP_DATA, bytes);
    });
}

fn bitwise_and(w: &mut Writer, mask: &[u8]) {
    expression(w, "bitwise", |w| {
        w.attr_be32(NFTA_BITWISE_SREG, REG);
        w.attr_be32(NFTA_BITWISE_DREG, REG);
        w.attr_be32(NFTA_BITWISE_LEN, mask.len() as u32);
        write_data(w, NFTA_BITWISE_MASK, mask);
        write_data(w, NFTA_BITWISE_XOR, &vec![0; mask.len()]);
    });
}

/// Any of the bits of a conntrack word is set; the words are in the machine's order.
fn ct_flags(w: &mut Writer, key: u32, bits: u32) {
    expression(w, "ct", |w| {
        w.attr_be32(NFTA_CT_KEY, key);
        w.attr_be32(NFTA_CT_DREG, REG);
    });
    bitwise_and(w, &bits.to_ne_bytes());
    compare(w, true, &0_u32.to_ne_bytes());
}

/// NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h.
fn ct_bits(states: CtStates) -> u32 {
    [(states.invalid, 1), (states.established, 2), (states.related, 4), (states.new, 8)]
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, bit)| bit)
        .sum()
}

fn expression(w: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.attr_str(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, fill);
    });
}
