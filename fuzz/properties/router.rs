//! Whatever comes to a router's socket is told apart: solicitations are read without a panic, and what we advertise
//! ourselves is none.
#![allow(clippy::unwrap_used)]

use model::address::{IfName, Mac};
use model::services::{Advertised, LanServices};
use services::ra::wire;

/// Holds for a packet of these bytes, and for a LAN whose domain they spell.
pub fn hold(data: &[u8]) {
    if wire::is_solicitation(data) {
        assert!(data.len() >= 8 && data[..2] == [133, 0] && (data.len() - 8).is_multiple_of(8));
    }
    let Ok(domain) = std::str::from_utf8(data) else { return };
    let told = wire::advertisement(&LanServices {
        bridge: IfName::new("br1").unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: vec!["fd10:1:1::1/64".parse().unwrap()],
        domain: domain.to_owned(),
        hosts: Vec::new(),
        upstreams: Vec::new(),
        recursion: true,
        dhcp: None,
        advertised: Some(Advertised {
            prefixes: vec!["fd10:1:1::/64".parse().unwrap()],
            router: true,
            resolver: "fd10:1:1::1".parse().unwrap(),
        }),
    })
    .unwrap();
    assert!(!wire::is_solicitation(&told));
    // Options fill it to its end, and none is empty (RFC 4861, 4.6).
    let mut rest = &told[16..];
    while let [_, length, ..] = rest {
        assert!(*length > 0);
        rest = &rest[usize::from(*length) * 8..];
    }
    assert!(rest.is_empty());
}
