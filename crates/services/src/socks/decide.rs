//! Where one may go from here. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::ruleset::{METADATA4, METADATA6};
use model::services::SocksService;

/// Where clouds tell a host its secrets: nearly all of them, AWS by IPv6, Google by IPv6, Alibaba, Azure's agent.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(METADATA4),
    IpAddr::V6(METADATA6),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Why one may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The host itself, or its loopback.
    Host,
    /// Whoever is on the same link, without an address of its own (RFC 3927, RFC 4291).
    LinkLocal,
    /// The cloud's metadata.
    Metadata,
    /// Everybody, or nobody.
    NoHost,
    /// A LAN that `lans` leaves out.
    Closed,
    /// A name of the world's points inside (DNS rebinding).
    Rebinding,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "that is this host itself",
            Self::LinkLocal => "that is a link-local address",
            Self::Metadata => "that is the cloud's metadata",
            Self::NoHost => "that is no host's address",
            Self::Closed => "`lans` of [socks] leaves that LAN out",
            Self::Rebinding => "a name of the world's that points inside",
        })
    }
}

/// What is known of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    own: Vec<IpAddr>,
    inside: Vec<IpNet>,
    closed: Vec<IpNet>,
}

/// Who says that one should go to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The client, or a zone of ours.
    Here,
    /// A resolver of the world's.
    World,
}

impl Rules {
    /// Of a network.
    #[must_use]
    pub fn of(service: &SocksService) -> Self {
        Self { own: service.own.clone(), inside: service.inside.clone(), closed: service.closed.clone() }
    }

    /// The address to connect to, where one may: IPv4 in IPv6's clothes (RFC 4291, 2.5.5.2) is taken for what it is.
    /// What else of the host's there is, the kernel has to be asked.
    pub fn check(&self, address: IpAddr, said: Said) -> Result<IpAddr, Refusal> {
        let address = address.to_canonical();
        self.look_at(address, said)?;
        if let IpAddr::V6(address) = address
            && let Some(within) = embedded(address)
        {
            self.look_at(within.into(), said)?;
        }
        Ok(address)
    }

    fn look_at(&self, address: IpAddr, said: Said) -> Result<(), Refusal> {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        let refusal = if METADATA.contains(&address) {
            Refusal::Metadata
        } else if address.is_loopback() || self.own.contains(&address) {
            Refusal::Host
        } else if is_link_local(address) {
            Refusal::LinkLocal
        } else if is_no_host(address) {
            Refusal::NoHost
        } else if within(&self.closed) {
            Refusal::Closed
        } else if said == Said::World && within(&self.inside) {
            Refusal::Rebinding
        } else {
            return Ok(());
        };
        Err(refusal)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// 0.0.0.0/8 is this host or nobody, 240.0.0.0/4 is reserved (RFC 6890), and broadcast with it.
fn is_no_host(address: IpAddr) -> bool {
    let reserved = match address {
        IpAddr::V4(address) => address.octets()[0] == 0 || address.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    address.is_unspecified() || address.is_multicast() || reserved
}

/// The IPv4 address that a translator or a tunnel makes of an IPv6 one: ::/96 (RFC 4291), 64:ff9b::/96 (RFC 6052),
/// 2002::/16 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let four = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(four(high, low)),
        [0x2002, high, low, ..] => Some(four(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rules() -> Rules {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        Rules {
            own: ["10.1.1.1", "203.0.113.2"].map(|text| text.parse().unwrap()).to_vec(),
            inside: vec![net("10.1.1.0/24"), net("10.1.2.0/24")],
            closed: vec![net("10.1.2.0/24")],
        }
    }

    fn check(text: &str, said: Said) -> Result<String, Refusal> {
        rules().check(text.parse().unwrap(), said).map(|address| address.to_string())
    }

    #[test]
    fn never_the_host_its_link_or_the_clouds_metadata() {
        for (address, refusal) in [
            ("127.0.0.1", Refusal::Host),
            ("127.7.7.7", Refusal::Host),
            ("::1", Refusal::Host),
            ("10.1.1.1", Refusal::Host),
            ("203.0.113.2", Refusal::Host),
            ("169.254.169.254", Refusal::Metadata),
            ("fd00:ec2::254", Refusal::Metadata),
            ("169.254.1.1", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("0.0.0.0", Refusal::NoHost),
            ("0.1.2.3", Refusal::NoHost),
            ("::", Refusal::NoHost),
            ("224.0.0.1", Refusal::NoHost),
            ("255.255.255.255", Refusal::NoHost),
            ("ff02::1", Refusal::NoHost),
            ("10.1.2.6", Refusal::Closed),
            // The same in other clothes.
            ("::ffff:127.0.0.1", Refusal::Host),
            ("::ffff:10.1.1.1", Refusal::Host),
            ("::ffff:169.254.169.254", Refusal::Metadata),
            ("::ffff:10.1.2.6", Refusal::Closed),
            ("::127.0.0.1", Refusal::Host),
            ("64:ff9b::169.254.169.254", Refusal::Metadata),
            ("64:ff9b::7f00:1", Refusal::Host),
            ("2002:7f00:1::", Refusal::Host),
        ] {
            assert_eq!(check(address, Said::Here), Err(refusal), "{address}");
        }
    }

    #[test]
    fn guests_and_the_world_but_no_name_of_the_worlds_that_points_inside() {
        for (address, to) in [
            ("10.1.1.6", "10.1.1.6"),
            ("::ffff:10.1.1.6", "10.1.1.6"),
            ("198.51.100.7", "198.51.100.7"),
            ("2001:db8:100::7", "2001:db8:100::7"),
            ("64:ff9b::198.51.100.7", "64:ff9b::c633:6407"),
            ("169.253.0.1", "169.253.0.1"),
        ] {
            assert_eq!(check(address, Said::Here).as_deref(), Ok(to), "{address}");
        }
        assert_eq!(check("10.1.1.6", Said::World), Err(Refusal::Rebinding));
        assert_eq!(check("::ffff:10.1.1.6", Said::World), Err(Refusal::Rebinding));
        assert!(check("198.51.100.7", Said::World).is_ok());
    }
}
