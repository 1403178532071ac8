//! What was taken over of interfaces' managers, remembered beyond a boot.

use std::collections::BTreeMap;
use std::path::Path;

use model::address::IfName;
use model::facts::HostFacts;
use model::manager::{Managed, Manager};
use model::state::{TakenOver, in_place_of};

use crate::error::Result;
use crate::files;
use crate::rtnl::Rtnl;

/// Tells of managers that were taken over what they were: as with all that a bridge of ours has in an interface's place,
/// it is told as the interface's. A file is believed to be of that only while it says what we wrote.
pub fn look_through(facts: &mut HostFacts, taken: &BTreeMap<IfName, TakenOver>) -> Result<()> {
    if taken.is_empty() {
        return Ok(());
    }
    let links = Rtnl::open()?.links()?;
    for (port, taken) in taken {
        let Some(interface) = facts.interfaces.iter_mut().find(|interface| interface.name == *port) else { continue };
        // It was told anew to configure the interface.
        if interface.manager.as_ref().is_some_and(|manager| manager.by != Manager::Somebody) {
            continue;
        }
        let mut before = Vec::new();
        for (path, file) in &taken.files {
            let now = files::read(path)?;
            if now.as_ref().is_some_and(|now| file.wrote.contains(now)) {
                before.extend(file.before.clone().map(|text| (path.clone(), text)));
            }
        }
        let stands = links.iter().any(|link| {
            link.name == taken.bridge.as_str() && link.alias.as_deref().and_then(in_place_of).as_ref() == Some(port)
        });
        if stands || !before.is_empty() {
            let managed = Managed { holders: taken.holders.clone(), ..Managed::new(taken.by, before) };
            interface.manager = Some(managed);
        }
    }
    Ok(())
}

/// Whether the manager's files are this network's to rewrite, as far as that can be seen.
#[must_use]
pub fn are_ours(path: &str) -> bool {
    files::is_this_networks(Path::new(path))
}
