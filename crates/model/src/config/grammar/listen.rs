//! Where the world comes in: `[ADDRESS:]PORT[-PORT][/tcp,udp]`, `[IPv6]:PORT`, a bare number, `*`, `ADDRESS:*`.

use std::net::IpAddr;

use toml::de::DeValue;

use super::address::{check_station, parse};
use crate::address::{Ports, Transport};
use crate::config::closest;
use crate::config::reader::{Bad, shown, text};

/// What a forward listens on, or what is kept for management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The public address, or every one.
    pub address: Option<IpAddr>,
    /// What of it.
    pub what: What,
}

/// Ports, or all that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// These.
    Ports {
        /// One port or a range.
        ports: Ports,
        /// tcp, udp or both, each once.
        transports: Vec<Transport>,
    },
    /// A DMZ: every protocol and port that nothing else takes.
    Everything,
}

const EXAMPLE: &str = "write PORT, PORT-PORT or ADDRESS:PORT, with /tcp, /udp or /tcp,udp behind it: \"22210/tcp\"";

/// A forward's `listen`.
pub fn listen(value: &DeValue<'_>) -> Result<Listen, Bad> {
    if let Some(port) = bare_number(value)? {
        let what = What::Ports { ports: Ports::one(port), transports: vec![Transport::Tcp] };
        return Ok(Listen { address: None, what });
    }
    parse_listen(&text(value)?)
}

/// An element of `management`: an optional address and one port.
pub fn fixed_port(value: &DeValue<'_>) -> Result<Listen, Bad> {
    let listen = listen(value)?;
    match &listen.what {
        What::Ports { ports, .. } if ports.is_single() => Ok(listen),
        What::Ports { .. } => Err(Bad::new("this is a range").help("write each port as an element of its own")),
        What::Everything => {
            Err(Bad::new("everything cannot be kept for management").help("name the ports: \"22/tcp\""))
        }
    }
}

/// An element of an `[[allow]]`'s `ports`: `5432/tcp`, without an address.
pub fn ports(value: &DeValue<'_>) -> Result<(Ports, Vec<Transport>), Bad> {
    let listen = listen(value)?;
    match listen {
        Listen { address: Some(_), .. } => Err(Bad::new("a port without an address is wanted here")
            .help("write \"5432/tcp\", and the address in `from` or `to`")),
        Listen { what: What::Everything, .. } => {
            Err(Bad::new("\"*\" is no port").help("leave `ports` out to allow all of them"))
        }
        Listen { what: What::Ports { ports, transports }, .. } => Ok((ports, transports)),
    }
}

/// A bare number as a port; nothing where the value is no number.
pub(super) fn bare_number(value: &DeValue<'_>) -> Result<Option<u16>, Bad> {
    let DeValue::Integer(_) = value else { return Ok(None) };
    let number = crate::config::reader::number(value)?;
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(Bad::new(format!("{number} is no port")).help("ports go from 1 to 65535")),
    }
}

fn parse_listen(text: &str) -> Result<Listen, Bad> {
    let (place, protocols) = match text.rsplit_once('/') {
        Some((place, protocols)) => (place, Some(protocols)),
        None => (text, None),
    };
    let (address, port) = split(place)?;
    let address = address.map(public_address).transpose()?;
    if port == "*" {
        return match protocols {
            None => Ok(Listen { address, what: What::Everything }),
            Some(_) => Err(Bad::new("\"*\" is every protocol and port").help("leave the protocol out")),
        };
    }
    let ports = port_range(port)?;
    let transports = protocols.map_or_else(|| Ok(vec![Transport::Tcp]), transports)?;
    Ok(Listen { address, what: What::Ports { ports, transports } })
}

fn public_address(text: &str) -> Result<IpAddr, Bad> {
    let address = parse(text)?;
    if address.is_unspecified() {
        return Err(Bad::new(format!("{address} is no address of the host's"))
            .help("leave the address out to listen on every public one"));
    }
    check_station(address)?;
    Ok(address)
}

/// Splits `ADDRESS:REST`, `[IPv6]:REST` and `REST`.
pub(super) fn split(text: &str) -> Result<(Option<&str>, &str), Bad> {
    if let Some(inside) = text.strip_prefix('[') {
        let Some((address, rest)) = inside.split_once(']') else {
            return Err(Bad::new(format!("\"{}\" has no ] behind the address", shown(text)))
                .help("write an IPv6 address in brackets: \"[2001:db8::5]:80\""));
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(Bad::new(format!("\"{}\" is no IPv6 address", shown(address)))
                .help("only IPv6 addresses stand in brackets: \"[2001:db8::5]:80\""));
        }
        return match rest.strip_prefix(':') {
            Some(rest) => Ok((Some(address), rest)),
            None => Err(Bad::new(format!("\"{}\" has no port", shown(text)))
                .help(format!("write the port behind the address: \"[{address}]:80\""))),
        };
    }
    match text.rsplit_once(':') {
        Some((address, rest)) if address.contains(':') => {
            let bad = Bad::new(format!("\"{}\" can be read in two ways", shown(text)));
            let help = match address.parse::<std::net::Ipv6Addr>() {
                Ok(v6) => format!("write an IPv6 address in brackets: \"[{v6}]:{}\"", shown(rest)),
                Err(_) => "write an IPv6 address in brackets: \"[2001:db8::5]:80\"".to_owned(),
            };
            Err(bad.help(help))
        }
        Some((address, rest)) => Ok((Some(address), rest)),
        None if text.parse::<IpAddr>().is_ok() => {
            let bad = Bad::new(format!("\"{text}\" has no port"));
            Err(bad.help(format!("write \"{text}:80\", or \"{text}:*\" for everything")))
        }
        None => Ok((None, text)),
    }
}

/// `PORT` or `PORT-PORT`.
pub(super) fn port_range(text: &str) -> Result<Ports, Bad> {
    let Some((first, last)) = text.split_once('-') else { return port_text(text).map(Ports::one) };
    let ports = Ports { first: port_text(first)?, last: port_text(last)? };
    if ports.first > ports.last {
        return Err(
            Bad::new(format!("the range {text} runs backwards")).help(format!("write {}-{}", ports.last, ports.first))
        );
    }
    Ok(ports)
}

/// A port, in digits alone.
pub fn port_text(text: &str) -> Result<u16, Bad> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ if digits => Err(Bad::new(format!("{} is no port", shown(text))).help("ports go from 1 to 65535")),
        _ => Err(Bad::new(format!("\"{}\" is no port", shown(text))).help(EXAMPLE)),
    }
}

fn transports(text: &str) -> Result<Vec<Transport>, Bad> {
    let mut found = Vec::new();
    for word in text.split(',') {
        let transport = match word.trim() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => return Err(Bad::reserved("SCTP")),
            other => {
                let bad = Bad::new(format!("\"{}\" is no protocol that has ports here", shown(other)));
                return Err(match closest(other, ["tcp", "udp"]) {
                    Some(word) => bad.help(format!("did you mean `{word}`?")),
                    None => bad.help("write /tcp, /udp or /tcp,udp"),
                });
            }
        };
        if found.contains(&transport) {
            return Err(Bad::new(format!("{transport} stands there twice")));
        }
        found.push(transport);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Listen, Bad> {
        listen(&DeValue::String(text.to_owned().into()))
    }

    fn ports(text: &str) -> (Option<String>, u16, u16, Vec<Transport>) {
        let listen = read(text).unwrap();
        let What::Ports { ports, transports } = listen.what else { panic!("{text} is a DMZ") };
        (listen.address.map(|a| a.to_string()), ports.first, ports.last, transports)
    }

    #[test]
    fn what_the_contract_has() {
        use Transport::{Tcp, Udp};
        assert_eq!(ports("22210"), (None, 22210, 22210, vec![Tcp]));
        assert_eq!(ports("22210/tcp"), (None, 22210, 22210, vec![Tcp]));
        assert_eq!(ports("53/tcp,udp"), (None, 53, 53, vec![Tcp, Udp]));
        assert_eq!(ports("1-65535/udp"), (None, 1, 65535, vec![Udp]));
        assert_eq!(ports("203.0.113.5:80-90"), (Some("203.0.113.5".into()), 80, 90, vec![Tcp]));
        assert_eq!(ports("[2001:db8::5]:80/udp"), (Some("2001:db8::5".into()), 80, 80, vec![Udp]));
        assert_eq!(read("*").unwrap(), Listen { address: None, what: What::Everything });
        assert_eq!(read("[2001:db8::5]:*").unwrap().what, What::Everything);
        assert_eq!(read("203.0.113.5:*").unwrap().address, Some("203.0.113.5".parse().unwrap()));
    }

    #[test]
    fn what_it_has_not() {
        for bad in [
            "",
            "0",
            "65536",
            "-1",
            "+1",
            "90-80",
            "80-",
            "-80",
            "80/",
            "80/tpc",
            "80/tcp,tcp",
            "*/tcp",
            "2001:db8::5:80",
            "[2001:db8::5]",
            "[2001:db8::5",
            "[203.0.113.5]:80",
            "203.0.113.5",
            "0.0.0.0:80",
            "[::]:80",
            "host:80",
            "127.0.0.1:80",
            "80 /tcp",
            "224.0.0.1:80",
            ":80",
            "80:",
            "/tcp",
            "80/sctp",
            "80-90-100",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
