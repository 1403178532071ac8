//! "Did you mean": the known word that is nearest to what was written.

/// The one of `known` that `written` was probably meant to be, if any is near enough to be worth saying.
#[must_use]
pub fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = fold(written);
    let near = |word: &str| {
        let word = fold(word);
        let distance = strsim::damerau_levenshtein(&written, &word);
        // A third of the letters may be wrong, and one always; a word that merely begins alike is near as well.
        let allowed = (written.chars().count().max(word.chars().count()) / 3).max(1);
        let begins = written.len() >= 3 && (word.starts_with(&written) || written.starts_with(&word));
        (distance <= allowed || begins).then_some(distance)
    };
    // Very long input is no typing mistake, and comparing it would cost its square.
    if written.len() > 64 || written.is_empty() {
        return None;
    }
    known.into_iter().filter_map(|word| near(word).map(|distance| (distance, word))).min().map(|(_, word)| word)
}

/// Upper case and `_` for `-` are the commonest slips.
fn fold(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_words_are_found_and_far_ones_not() {
        let keys = ["address", "mode", "taps", "port-isolation", "mtu"];
        assert_eq!(closest("adress", keys), Some("address"));
        assert_eq!(closest("port_isolation", keys), Some("port-isolation"));
        assert_eq!(closest("Mode", keys), Some("mode"));
        assert_eq!(closest("addresses", keys), Some("address"));
        assert_eq!(closest("colour", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
