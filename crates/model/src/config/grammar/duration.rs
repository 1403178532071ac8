//! Spans of time: `"5s"`, `"500ms"`, or a bare number of seconds.

use toml::de::DeValue;

use crate::config::reader::{Bad, count, shown, text};

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds {
    /// In thousandths; never 0.
    pub millis: u64,
}

/// A bare number of seconds, or a number with ms, s, m or h.
pub fn duration(value: &DeValue<'_>) -> Result<Seconds, Bad> {
    let too_long = || Bad::new("this is longer than anybody waits");
    if matches!(value, DeValue::Integer(_)) {
        let millis = count(value)?.checked_mul(1000).ok_or_else(too_long)?;
        return Ok(Seconds { millis });
    }
    let text = text(value)?;
    let bad =
        || Bad::new(format!("\"{}\" is no span of time", shown(&text))).help("write one such as \"5s\" or \"500ms\"");
    // "ms" stands before "s" and "m", which it ends and begins with.
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
        .ok_or_else(bad)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(too_long)?;
    if millis == 0 { Err(bad()) } else { Ok(Seconds { millis }) }
}
