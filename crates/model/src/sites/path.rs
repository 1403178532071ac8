//! Paths as sites are looked up by: what is matched is what a backend would make of the path, what is sent there is the
//! path as it came, byte for byte.

use std::borrow::Cow;

/// A request's path (without its query) with escapes undone, dot segments followed (RFC 3986, 5.2.4) and slashes
/// merged. Nothing where it leads above the root, or an escape is none or is a NUL.
#[must_use]
pub fn canonical(path: &str) -> Option<Cow<'_, [u8]>> {
    let plain = path.starts_with('/') && !path.contains('%') && !path.contains("//") && !path.contains("/.");
    if plain {
        return Some(Cow::Borrowed(path.as_bytes()));
    }
    let decoded = unescaped(path.as_bytes())?;
    if decoded.first() != Some(&b'/') {
        return None;
    }
    let mut out: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = out.iter().rposition(|byte| *byte == b'/')?;
                out.truncate(parent);
            }
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if last {
            out.push(b'/');
        }
    }
    Some(Cow::Owned(out))
}

fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let value = digit(digits[0])? << 4 | digit(digits[1])?;
        if value == 0 {
            return None;
        }
        out.push(value);
        rest = behind;
    }
    Some(out)
}

/// Whether a site's path has that one below it, by whole segments: `/api` has `/api` and `/api/x`, and not `/apix`.
#[must_use]
pub fn covers(prefix: &[u8], path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    rest.is_empty() || prefix.ends_with(b"/") || rest.starts_with(b"/")
}
