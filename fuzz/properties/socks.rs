//! Whatever a client of the developers' door says: it is read without a panic, never further than it goes, the same
//! however it was cut on its way; and no name that is let through could write a line of its own into a log.
#![allow(clippy::unwrap_used)]

use services::socks::decide::{Rules, Said};
use services::socks::wire::{self, Read, Target};

/// Holds for what a client says from its first byte on.
pub fn hold(data: &[u8]) {
    let Some((_, length)) = told(data, wire::greeting) else { return };
    let Some((asked, _)) = told(&data[length..], wire::request) else { return };
    match asked {
        Ok(Target::Name(name, _)) => {
            assert!(!name.is_empty() && name.len() <= 255);
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'), "{name:?}");
        }
        Ok(Target::Address(at)) => {
            // Nowhere leads to the host's own loopback.
            if let Ok(to) = Rules::default().check(at.ip(), Said::Here) {
                assert!(!to.is_loopback() && !to.is_unspecified() && !to.is_multicast() && to == to.to_canonical());
            }
            let answer = wire::reply(wire::Code::Succeeded, Some(at));
            assert_eq!(answer.len(), if at.is_ipv4() { 10 } else { 22 });
        }
        Err(code) => assert_ne!(code, wire::Code::Succeeded),
    }
}

/// What is read, if it is whole; with one byte less there is always more to come, and more behind it changes nothing.
fn told<T: PartialEq + std::fmt::Debug>(data: &[u8], read: fn(&[u8]) -> Read<T>) -> Option<(T, usize)> {
    let (value, length) = read(data).ok()??;
    assert!(length <= data.len() && length <= wire::LONGEST);
    let mut exact = data[..length].to_vec();
    let again = read(&exact).unwrap();
    // What cannot be measured is refused with all that came.
    if let Some((same, whole)) = again {
        assert_eq!((&same, whole), (&value, length));
    }
    exact.pop();
    if let Ok(Some((early, _))) = read(&exact) {
        assert_eq!(early, value, "read of less than it takes");
    }
    Some((value, length))
}
