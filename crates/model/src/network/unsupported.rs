//! What the contract has and this version does not build yet. It is refused where it is written, never ignored.

use std::ops::Range;

use super::Mode;
use crate::config::{Config, Lan, Spanned};
use crate::problem::{self, Problem};

/// Every part of `config` that this version does not build, in the file's order.
#[must_use]
pub fn unsupported(config: &Config) -> Vec<Problem> {
    let mut list = Vec::new();
    let mut found = |place: Option<Range<usize>>, what: &str| {
        list.extend(place.map(|span| Problem::unsupported(span, what)));
    };
    found(config.include.clone(), "`include`");
    config.lans.iter().for_each(|lan| of_lan(lan, &mut found));
    problem::sort(&mut list);
    list
}

fn of_lan(lan: &Lan, found: &mut impl FnMut(Option<Range<usize>>, &str)) {
    // On a bridged LAN they are plugged in; elsewhere an interface would be taken from whoever has it.
    found(at(&lan.ports).filter(|_| lan.mode() != Mode::Bridged), "`ports` of a LAN that is not bridged");
    // The outer network leases there.
    found(at(&lan.dhcp).filter(|_| lan.mode() == Mode::Bridged), "`dhcp` of a bridged LAN");
}

fn at<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(|value| value.span.clone())
}
