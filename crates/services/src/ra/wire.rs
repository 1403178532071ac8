//! Router advertisements and solicitations as bytes (RFC 4861, RFC 8106). The kernel fills the checksum in.

use model::services::LanServices;

use crate::dns::wire::name;

/// How long this host is a default router, in seconds: the longest there is, so that guests keep their way out for
/// hours while nobody advertises it.
const ROUTER: u16 = 9000;
/// How long a prefix may be used, and how long for new connections, in seconds.
const VALID: u32 = 86400;
const PREFERRED: u32 = 14400;
/// How long resolver and domain are believed, in seconds.
const NAMES: u32 = 9000;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Prefix flags: on the link; for addresses that stations make themselves.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// Whether a packet is a router solicitation: its type, and options of which none is empty.
#[must_use]
pub fn is_solicitation(packet: &[u8]) -> bool {
    let Some((header, mut options)) = packet.split_at_checked(8) else { return false };
    if header[0] != SOLICITATION || header[1] != 0 {
        return false;
    }
    while let [_, length, ..] = options {
        let Some((_, behind)) = options.split_at_checked(usize::from(*length) * 8).filter(|_| *length > 0) else {
            return false;
        };
        options = behind;
    }
    options.is_empty()
}

/// What a LAN is told; none where it has no IPv6.
#[must_use]
pub fn advertisement(lan: &LanServices) -> Option<Vec<u8>> {
    let told = lan.advertised.as_ref()?;
    let lifetime = if told.router { ROUTER } else { 0 };
    // Type, code, checksum; hop limit, flags (addresses and more come from here, not from DHCPv6), router's lifetime.
    let mut bytes = vec![ADVERTISEMENT, 0, 0, 0, 64, 0];
    bytes.extend_from_slice(&lifetime.to_be_bytes());
    // Reachable time and retransmission: the stations' own affair.
    bytes.extend_from_slice(&[0; 8]);
    // Our hardware address.
    bytes.extend_from_slice(&[1, 1]);
    bytes.extend_from_slice(&lan.mac.0);
    bytes.extend_from_slice(&[5, 1, 0, 0]);
    bytes.extend_from_slice(&lan.mtu.to_be_bytes());
    for prefix in &told.prefixes {
        let flags = if prefix.prefix_len() == 64 { ON_LINK | AUTONOMOUS } else { ON_LINK };
        bytes.extend_from_slice(&[3, 4, prefix.prefix_len(), flags]);
        bytes.extend_from_slice(&VALID.to_be_bytes());
        bytes.extend_from_slice(&PREFERRED.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&prefix.network().octets());
    }
    bytes.extend_from_slice(&[25, 3, 0, 0]);
    bytes.extend_from_slice(&NAMES.to_be_bytes());
    bytes.extend_from_slice(&told.resolver.octets());
    if let Some(domain) = name(&lan.domain) {
        // In units of eight bytes, padded with zeros; a name has 255 at most.
        let units = (8 + domain.len()).div_ceil(8);
        bytes.extend_from_slice(&[31, units as u8, 0, 0]);
        bytes.extend_from_slice(&NAMES.to_be_bytes());
        let end = bytes.len() + units * 8 - 8;
        bytes.extend_from_slice(&domain);
        bytes.resize(end, 0);
    }
    Some(bytes)
}
