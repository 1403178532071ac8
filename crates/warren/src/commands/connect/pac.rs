//! Proxy auto-configuration: just the LAN's names and addresses go through the proxy. It asks no resolver, which would
//! tell the network here what is looked for there.

use std::net::{Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use model::web::{Inside, proxy_pac};

use super::learn::Learned;

/// The script, for a proxy at that port of this machine.
pub fn pac(learned: &Learned, port: u16) -> String {
    let mut inside = Inside {
        domains: learned.domains.iter().map(|domain| domain.to_lowercase()).collect(),
        nets: learned.nets.iter().copied().collect(),
        ..Inside::default()
    };
    for guest in &learned.guests {
        inside.names.extend([&guest.name].into_iter().chain(&guest.aliases).map(|name| name.to_lowercase()));
        inside.nets.extend(guest.addresses.iter().copied().map(IpNet::from));
    }
    proxy_pac(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &inside)
}

/// The same as an address of its own.
pub fn as_url(script: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut url = "data:application/x-ns-proxy-autoconfig;base64,".to_owned();
    for three in script.as_bytes().chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for nth in 0..4 {
            let digit = bits >> (18 - 6 * nth) & 63;
            url.push(if nth <= three.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::as_url;

    #[test]
    fn base64() {
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(as_url(text), format!("data:application/x-ns-proxy-autoconfig;base64,{code}"), "RFC 4648, 10");
        }
    }
}
