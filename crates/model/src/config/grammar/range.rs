//! Ranges of addresses: `10.1.1.100-10.1.1.199`.

use std::net::Ipv4Addr;

use toml::de::DeValue;

use crate::config::reader::{Bad, shown, text};

/// Addresses from the first to the last, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest.
    pub last: Ipv4Addr,
}

/// A range of IPv4 addresses.
pub fn address_range(value: &DeValue<'_>) -> Result<AddressRange, Bad> {
    let text = text(value)?;
    let bad = || {
        Bad::new(format!("\"{}\" is no range of IPv4 addresses", shown(&text)))
            .help("write one such as \"10.1.1.100-10.1.1.199\"")
    };
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let (first, last) = (first.trim().parse().map_err(|_| bad())?, last.trim().parse().map_err(|_| bad())?);
    if first > last {
        return Err(Bad::new("this range runs backwards").help(format!("write \"{last}-{first}\"")));
    }
    Ok(AddressRange { first, last })
}
