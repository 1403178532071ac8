//! The small words of networking: interface names, hardware addresses, protocols.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface's name, as the kernel's `dev_valid_name` (net/core/dev.c) accepts it: 1 to 15 bytes,
/// neither `.` nor `..`, without `/`, `:` or white space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// The longest interface name in bytes: IFNAMSIZ of linux/if.h less its terminating zero.
pub const IFNAME_MAX: usize = 15;

/// Why a string is no interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IfNameError {
    /// Nothing in it.
    #[error("an interface name is empty")]
    Empty,
    /// Over [`IFNAME_MAX`] bytes.
    #[error("an interface name has at most 15 bytes, this one has {0}")]
    TooLong(usize),
    /// A character or word that the kernel does not take.
    #[error("an interface name has no '/', ':', white space or control characters, and is not '.' or '..'")]
    Forbidden,
}

impl IfName {
    /// Checks `name` and wraps it.
    pub fn new(name: impl Into<String>) -> Result<Self, IfNameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(IfNameError::Empty);
        }
        if name.len() > IFNAME_MAX {
            return Err(IfNameError::TooLong(name.len()));
        }
        let bad = |c: char| c == '/' || c == ':' || c == '"' || c == '*' || c.is_whitespace() || c.is_control();
        if name == "." || name == ".." || name.chars().any(bad) {
            return Err(IfNameError::Forbidden);
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;
    fn try_from(name: String) -> Result<Self, IfNameError> {
        Self::new(name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;
    fn from_str(name: &str) -> Result<Self, IfNameError> {
        Self::new(name)
    }
}

/// A hardware (Ethernet) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A string that is not six hexadecimal bytes with colons between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hardware address is six hexadecimal bytes with colons, such as 02:00:5e:10:00:01")]
pub struct MacError;

impl Mac {
    /// A locally administered unicast address (IEEE 802: bit 1 of the first byte set, bit 0 clear) made from
    /// `words`: the same words give the same address on every host, so a guest keeps it when it is made anew.
    #[must_use]
    pub fn derived(words: &[&str]) -> Self {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        for word in words {
            // The length in front keeps ["ab", "c"] and ["a", "bc"] apart.
            hash.update((word.len() as u64).to_be_bytes());
            hash.update(word.as_bytes());
        }
        let digest = hash.finalize();
        let mut bytes = [0u8; 6];
        bytes.copy_from_slice(&digest[..6]);
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Self(bytes)
    }

    /// The address that a station of this hardware address makes itself under a /64 (RFC 4291, appendix A).
    #[must_use]
    pub fn address_in(self, prefix: std::net::Ipv6Addr) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut octets = prefix.octets();
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        octets.into()
    }

    /// Its link-local address, as it makes it itself unless told otherwise.
    #[must_use]
    pub fn link_local(self) -> std::net::Ipv6Addr {
        self.address_in(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))
    }

    /// Whether one station owns it: the group bit (IEEE 802) is clear and it is not all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError)?;
            // from_str_radix would take a sign.
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() {
            return Err(MacError);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A transport protocol that has ports, by its IANA protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// 6
    Tcp,
    /// 17
    Udp,
}

impl Transport {
    /// The IANA protocol number, as IPPROTO_* of netinet/in.h.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// An inclusive range of ports, `first <= last`, both from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port; the same as `first` for a single one.
    pub last: u16,
}

impl Ports {
    /// One port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether it is one port.
    #[must_use]
    pub fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Whether the two have a port in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many ports.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn interface_names_as_the_kernel_takes_them() {
        assert!(IfName::new("br1").is_ok());
        assert!(IfName::new("fifteen-bytes-x").is_ok());
        assert_eq!(IfName::new("sixteen-bytes-xx"), Err(IfNameError::TooLong(16)));
        assert_eq!(IfName::new(""), Err(IfNameError::Empty));
        for bad in ["a/b", "a b", "..", "a:0"] {
            assert_eq!(IfName::new(bad), Err(IfNameError::Forbidden), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses_read_and_print_alike() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in
            ["02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "zz:00:5e:10:00:ff", "+2:00:5e:10:00:ff"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_addresses_are_local_unicast_and_steady() {
        let mac = Mac::derived(&["br1", "cnx6"]);
        assert_eq!(mac, Mac::derived(&["br1", "cnx6"]));
        assert_ne!(mac, Mac::derived(&["br1c", "nx6"]));
        assert!(mac.is_unicast());
        assert_eq!(mac.0[0] & 2, 2);
    }
}
