//! Bandwidths: `"100mbit"`.

use toml::de::DeValue;

use crate::config::reader::{Bad, shown, text};

/// A bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    /// In bits a second; never 0.
    pub bits: u64,
}

/// tc's decimal units (tc(8), "PARAMETERS").
const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

/// A number with one of the units bit, kbit, mbit and gbit; up to three decimals.
pub fn bandwidth(value: &DeValue<'_>) -> Result<Bandwidth, Bad> {
    let text = text(value)?;
    let bad = || {
        Bad::new(format!("\"{}\" is no bandwidth", shown(&text)))
            .help("write a number and bit, kbit, mbit or gbit, such as \"100mbit\"")
    };
    let lower = text.to_ascii_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, factor)| lower.strip_suffix(unit).map(|number| (number.trim_end(), *factor)))
        .ok_or_else(bad)?;
    let thousandths = thousandths(number).ok_or_else(bad)?;
    let bits = u128::from(thousandths) * u128::from(unit) / 1000;
    match u64::try_from(bits) {
        Ok(0) => Err(Bad::new("a bandwidth of nothing lets nothing through")),
        Ok(bits) => Ok(Bandwidth { bits }),
        Err(_) => Err(bad()),
    }
}

/// `1.5` as 1500.
fn thousandths(number: &str) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bandwidths() {
        let read = |text: &str| bandwidth(&DeValue::String(text.to_owned().into())).map(|b| b.bits);
        assert_eq!(read("100mbit").unwrap(), 100_000_000);
        assert_eq!(read("1.5gbit").unwrap(), 1_500_000_000);
        assert_eq!(read("64 kbit").unwrap(), 64_000);
        for bad in ["100", "mbit", "0mbit", "1e3mbit", "-1mbit", "99999999999999999999gbit", "1.2345mbit", "10mbps"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
