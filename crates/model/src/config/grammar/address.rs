//! Addresses and CIDRs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use toml::de::DeValue;

use crate::config::reader::{Bad, shown, text};

/// An address, whichever.
pub fn single(value: &DeValue<'_>) -> Result<IpAddr, Bad> {
    let text = text(value)?;
    parse(&text)
}

/// An address that one station can have: no multicast, no loopback, not all zero, no link-local IPv6.
pub fn station(value: &DeValue<'_>) -> Result<IpAddr, Bad> {
    let address = single(value)?;
    check_station(address)?;
    Ok(address)
}

/// The host's address with the LAN's prefix length: `10.1.1.1/24`.
pub fn host_cidr(value: &DeValue<'_>) -> Result<IpNet, Bad> {
    let text = text(value)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 24 } else { 64 };
        return Err(Bad::new(format!("{address} has no prefix length")).help(format!("write \"{address}/{length}\"")));
    }
    let net = parse_net(&text)?;
    check_station(net.addr())?;
    let shortest = if net.addr().is_ipv4() { 8 } else { 16 };
    if net.prefix_len() < shortest {
        return Err(Bad::new(format!("/{} is too large for a LAN", net.prefix_len()))
            .help(format!("use /{shortest} or a longer prefix")));
    }
    check_place(net)?;
    Ok(net)
}

/// A network: `10.0.0.0/8`.
pub fn cidr(value: &DeValue<'_>) -> Result<IpNet, Bad> {
    net_of(&text(value)?)
}

/// A network, or an address for a network of one.
pub fn cidr_or_address(value: &DeValue<'_>) -> Result<IpNet, Bad> {
    let text = text(value)?;
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => net_of(&text),
    }
}

fn net_of(text: &str) -> Result<IpNet, Bad> {
    let net = parse_net(text)?;
    if net.addr() == net.network() {
        return Ok(net);
    }
    let bad = Bad::new(format!("{net} is an address inside a network, not a network"));
    Err(bad.help(format!("write \"{}\", or \"{}\" for that address alone", net.trunc(), net.addr())))
}

/// Reads an address; helps where a prefix length or a port is too much.
pub(super) fn parse(text: &str) -> Result<IpAddr, Bad> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address);
    }
    let bad = Bad::new(format!("\"{}\" is no IP address", shown(text)));
    if let Ok(net) = text.parse::<IpNet>() {
        return Err(bad.help(format!("leave the prefix length out: \"{}\"", net.addr())));
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return Err(bad.help(format!("leave the port out: \"{}\"", socket.ip())));
    }
    Err(bad.help("write one such as \"203.0.113.5\" or \"2001:db8::5\""))
}

fn parse_net(text: &str) -> Result<IpNet, Bad> {
    text.parse::<IpNet>().map_err(|_| {
        let bad = Bad::new(format!("\"{}\" is no network in CIDR notation", shown(text)));
        bad.help("write one such as \"10.1.1.0/24\" or \"fd00:1::/64\"")
    })
}

/// Whether one station can have it and the world, or a LAN, can send to it.
pub(super) fn check_station(address: IpAddr) -> Result<(), Bad> {
    let what = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else {
        match address {
            IpAddr::V4(a) if a == Ipv4Addr::BROADCAST => "the broadcast address",
            IpAddr::V4(a) if a.octets()[0] == 0 => "an address of \"this network\" (0.0.0.0/8)",
            IpAddr::V6(a) if is_link_local(a) => "a link-local address, which the kernel makes by itself",
            IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 clothes",
            _ => return Ok(()),
        }
    };
    Err(Bad::new(format!("{address} is {what}")).help("write an address that one machine can have"))
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// Refuses a LAN's network and broadcast address as the host's own. A /31 and a /32 have neither (RFC 3021).
fn check_place(net: IpNet) -> Result<(), Bad> {
    let (what, first) = match net {
        IpNet::V4(n) if n.prefix_len() >= 31 => return Ok(()),
        IpNet::V4(n) => {
            let what = if n.addr() == n.network() {
                "the network itself"
            } else if n.addr() == n.broadcast() {
                "the LAN's broadcast address"
            } else {
                return Ok(());
            };
            (what, n.hosts().next().map(IpAddr::V4))
        }
        // An IPv6 prefix with nothing behind it is the subnet-router anycast address (RFC 4291, 2.6.1).
        IpNet::V6(n) if n.prefix_len() < 127 && n.addr() == n.network() => {
            let next = u128::from(n.network()).wrapping_add(1);
            ("the network itself", Some(IpAddr::V6(Ipv6Addr::from(next))))
        }
        IpNet::V6(_) => return Ok(()),
    };
    let bad = Bad::new(format!("{} is {what}, not an address of the host's", net.addr()));
    Err(match first {
        Some(first) => bad.help(format!("write the host's own address on the LAN: \"{first}/{}\"", net.prefix_len())),
        None => bad,
    })
}
