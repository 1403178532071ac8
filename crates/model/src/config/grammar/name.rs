//! Names: of interfaces, guests, zones and sites; and hardware addresses.

use toml::de::DeValue;

use crate::address::{IFNAME_MAX, IfName, IfNameError, Mac};
use crate::config::reader::{Bad, shown, text};

/// An interface's name.
pub fn if_name(value: &DeValue<'_>) -> Result<IfName, Bad> {
    interface(&text(value)?)
}

/// The same, of text.
pub(crate) fn interface(text: &str) -> Result<IfName, Bad> {
    IfName::new(text).map_err(|error| {
        let bad = Bad::new(format!("\"{}\" is no interface name: {error}", shown(text)));
        match error {
            IfNameError::TooLong(_) => {
                let end = (0..=IFNAME_MAX).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
                bad.help(format!("shorten it, for example to \"{}\"", &text[..end]))
            }
            IfNameError::Empty | IfNameError::Forbidden => bad,
        }
    })
}

/// A hardware address that one station can have.
pub fn mac(value: &DeValue<'_>) -> Result<Mac, Bad> {
    let text = text(value)?;
    let mac: Mac = text.parse().map_err(|error| {
        let bad = Bad::new(format!("\"{}\" is no hardware address", shown(&text)));
        // What Windows and Cisco print.
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let others = text.chars().filter(|c| !c.is_ascii_hexdigit()).all(|c| matches!(c, '-' | '.' | ':'));
        if digits.len() == 12 && others {
            let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
            bad.help(format!("write \"{}\"", pairs.join(":").to_lowercase()))
        } else {
            bad.help(format!("{error}"))
        }
    })?;
    if mac.is_unicast() {
        return Ok(mac);
    }
    Err(Bad::new(format!("{mac} is a group's address, which no station may have"))
        .help("the first byte must be even; 02 is free to use"))
}

/// Whether `text` is a DNS label as host names have them (RFC 1123, 2.1): 1 to 63 letters, digits and hyphens, a
/// hyphen neither first nor last.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is labels with dots between them, 253 bytes at most (RFC 1035, 2.3.4).
fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Checks a guest's name.
pub fn guest_name(text: &str) -> Result<(), Bad> {
    if matches!(text, "host" | "world" | "localhost") {
        return Err(Bad::new(format!("\"{text}\" already means something else")).help("give the guest another name"));
    }
    if is_label(text) {
        return Ok(());
    }
    let bad = Bad::new(format!("\"{}\" is no host name", shown(text)));
    let mended: String = text.chars().map(|c| if matches!(c, '_' | '.' | ' ') { '-' } else { c }).collect();
    let mended = mended.trim_matches('-');
    let rule = "a host name is 1 to 63 letters, digits and hyphens, a hyphen neither first nor last";
    Err(if is_label(mended) { bad.help(format!("write \"{mended}\": {rule}")) } else { bad.help(rule) })
}

/// A zone such as `cnx.rice.edu`; a dot at the end is dropped.
pub fn dns_name(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    let name = text.strip_suffix('.').unwrap_or(&text);
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(Bad::new(format!("\"{}\" is no DNS name", shown(&text))).help("write one such as \"lab.example.org\""))
}

/// A further name in a guest's zone: labels, without the zone.
pub fn relative_name(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    if is_name(&text) {
        return Ok(text);
    }
    Err(Bad::new(format!("\"{}\" is no DNS name", shown(&text)))
        .help("write a name such as \"www\"; the LAN's domain comes behind it"))
}

/// A site's host name, with `*.` in front for a level below it.
pub fn site_host(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    let name = text.strip_prefix("*.").unwrap_or(&text);
    if is_name(name) {
        return Ok(text.to_ascii_lowercase());
    }
    let bad = Bad::new(format!("\"{}\" is no site's name", shown(&text)));
    let help = if text.contains("://") || text.contains('/') {
        "write the name alone, and a path in `path`"
    } else if text.contains(':') {
        "write the name alone, and a port in `listen`"
    } else {
        "write one such as \"www.example.org\" or \"*.example.org\""
    };
    Err(bad.help(help))
}
