//! Whether guests that sites are on are plugged in: the kernel says at once what a connection would find out late.

use std::collections::BTreeSet;

use kernel::rtnl::Rtnl;
use kernel::watch::{Seen, What};
use model::sites::Sites;

/// The cables of those guests.
#[derive(Debug, Default)]
pub struct Plugs {
    /// Guest and the host's end of its cable.
    cables: Vec<(String, String)>,
    /// Those that were plugged in once: of one that never was it may be that it plugs itself in elsewhere.
    known: BTreeSet<String>,
}

impl Plugs {
    /// Those of these sites from now on.
    pub fn follow(&mut self, sites: &Sites) {
        self.cables = sites.guests.iter().map(|guest| (guest.name.clone(), guest.port.to_string())).collect();
    }

    /// Whether one of them may have changed.
    pub fn concerns(&self, seen: &[Seen]) -> bool {
        let ours = |name: &str| self.cables.iter().any(|(_, port)| port == name);
        seen.iter().any(|seen| match &seen.what {
            What::Link(name) => ours(name),
            What::Unknown => !self.cables.is_empty(),
            _ => false,
        })
    }

    /// The guests that are not plugged in now, and were; none where the kernel does not tell.
    pub fn away(&mut self) -> BTreeSet<String> {
        if self.cables.is_empty() {
            return BTreeSet::new();
        }
        let Ok(links) = Rtnl::open().and_then(|mut rtnl| rtnl.links()) else { return BTreeSet::new() };
        let on: BTreeSet<&str> =
            links.iter().filter(|link| link.up && link.carrier).map(|link| link.name.as_str()).collect();
        let here = self.cables.iter().filter(|(_, port)| on.contains(port.as_str()));
        self.known.extend(here.map(|(guest, _)| guest.clone()));
        let gone = self.cables.iter().filter(|(guest, port)| self.known.contains(guest) && !on.contains(port.as_str()));
        gone.map(|(guest, _)| guest.clone()).collect()
    }
}
