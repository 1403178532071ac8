//! Where a forward goes: a guest or an address, with a port, a range or neither.

use std::net::IpAddr;

use toml::de::DeValue;

use super::address::check_station;
use super::listen::port_range;
use crate::address::Ports;
use crate::config::reader::{Bad, shown, text};

/// Where a forward goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// To whom.
    pub place: Place,
    /// To which ports; the same as listened on where unset.
    pub ports: Option<Ports>,
}

/// To whom a forward goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A guest, by its name.
    Guest(String),
    /// An address of a LAN.
    Address(IpAddr),
}

/// `GUEST`, `GUEST:PORT`, `ADDRESS:PORT-PORT`, `[IPv6]:PORT`, an address alone.
pub fn target(value: &DeValue<'_>) -> Result<Target, Bad> {
    if let DeValue::Integer(number) = value {
        let bad = Bad::wrong_type(value, "a guest or an address");
        return Err(bad.help(format!("write \"GUEST:{}\"", shown(number.as_str()))));
    }
    let text = text(value)?;
    let (host, ports) = pieces(&text)?;
    if ports.is_some_and(|ports| ports.contains('/')) {
        return Err(Bad::new("the protocol stands in `listen`").help("leave it out here"));
    }
    let ports = ports.map(port_range).transpose()?;
    let place = match host.parse::<IpAddr>() {
        Ok(address) => {
            check_station(address)?;
            Place::Address(address)
        }
        Err(_) if super::is_label(host) => Place::Guest(host.to_owned()),
        Err(_) => {
            let bad = Bad::new(format!("\"{}\" is neither a guest's name nor an address", shown(host)));
            return Err(bad.help("write one such as \"cnx6:22\" or \"10.1.1.6:22\""));
        }
    };
    Ok(Target { place, ports })
}

fn pieces(text: &str) -> Result<(&str, Option<&str>), Bad> {
    if let Some(inside) = text.strip_prefix('[') {
        let closed = inside.split_once(']').and_then(|(host, rest)| match rest.strip_prefix(':') {
            Some(ports) => Some((host, Some(ports))),
            None => rest.is_empty().then_some((host, None)),
        });
        return closed.ok_or_else(|| {
            Bad::new(format!("\"{}\" is no address and port", shown(text))).help("write \"[fd00:1::6]:22\"")
        });
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err(Bad::new(format!("\"{}\" can be read in two ways", shown(text)))
            .help("write an IPv6 address in brackets: \"[fd00:1::6]:22\"")),
        Some((host, ports)) => Ok((host, Some(ports))),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets() {
        let read = |text: &str| target(&DeValue::String(text.to_owned().into()));
        let guest = |name: &str, ports| Target { place: Place::Guest(name.to_owned()), ports };
        assert_eq!(read("cnx6").unwrap(), guest("cnx6", None));
        assert_eq!(read("cnx6:22").unwrap(), guest("cnx6", Some(Ports::one(22))));
        assert_eq!(read("cnx6:22-25").unwrap(), guest("cnx6", Some(Ports { first: 22, last: 25 })));
        let v6 = Place::Address("fd00::6".parse().unwrap());
        assert_eq!(read("[fd00::6]:22").unwrap(), Target { place: v6.clone(), ports: Some(Ports::one(22)) });
        assert_eq!(read("fd00::6").unwrap(), Target { place: v6, ports: None });
        for bad in ["", ":22", "cnx6:", "cnx6:0", "cnx6:22/tcp", "cnx_6:22", "fd00::g:22", "[fd00::6]22", "a:b:1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
