//! A file of any sort is read and resolved without a panic, and every problem has a place inside it.
#![allow(clippy::unwrap_used)]

use model::facts::HostFacts;
use model::network;
use model::problem::Problem;
use model::services::Services;

/// Holds for a file of these bytes.
pub fn hold(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
}

/// Reads it in every way, and holds the problems to what is promised of them.
pub fn read(text: &str) {
    let facts = HostFacts::assumed("eth0".parse().unwrap());
    match network::load(text, &facts) {
        // What is fine for the file is fine for what follows from it.
        Ok((_, network)) => drop(Services::of(&network)),
        Err(problems) => told(text, &problems),
    }
    // What could be read of a broken file is resolved without a panic as well.
    let (config, _) = model::config::parse(text);
    let _ = network::resolve(&config, &facts);
}

/// Each problem names a place of the file's, and they come in its order.
fn told(text: &str, problems: &[Problem]) {
    assert!(!problems.is_empty(), "refused without a word");
    for problem in problems {
        let places = std::iter::once(&problem.span).chain(problem.also.as_ref().map(|(span, _)| span));
        for span in places {
            assert!(text.get(span.clone()).is_some(), "{problem:?} is not in the file");
        }
        assert!(!problem.message.ends_with('.'), "{}", problem.message);
    }
    assert!(problems.is_sorted_by_key(|problem| problem.span.start), "not in the file's order");
}
