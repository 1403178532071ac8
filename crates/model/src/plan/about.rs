//! Which interface or namespace a step is about, as far as it is about one.

use super::Step;
use crate::state::Place;

impl Step {
    /// The name of the link or the namespace that it changes; none where it is about the whole host, or the rules.
    #[must_use]
    pub fn about(&self) -> Option<&str> {
        match self {
            Self::CreateNamespace { name } | Self::DeleteNamespace { name } => Some(name),
            Self::CreateLink { name, .. } | Self::DeleteLink { name, .. } | Self::ChangeLink { name, .. } => {
                Some(name.as_str())
            }
            Self::AddAddress { address } | Self::DeleteAddress { address } => Some(place(&address.at)),
            Self::AddRoute { route } | Self::DeleteRoute { route } => Some(place(&route.at)),
            Self::PlugPort { port, .. } | Self::UnplugPort { port, .. } => Some(port.master.as_str()),
            Self::SetShaper { link, .. } => Some(link.as_str()),
            Self::SetHold { from, to } => to.as_ref().or(from.as_ref()).map(|hold| hold.bridge.as_str()),
            Self::SetSysctl { sysctl, .. } => Some(&sysctl.scope),
            Self::Rules { .. }
            | Self::SetFile { .. }
            | Self::AddMend { .. }
            | Self::DeleteMend { .. }
            | Self::AddProxy { .. }
            | Self::DeleteProxy { .. } => None,
        }
    }
}

fn place(place: &Place) -> &str {
    place.namespace.as_deref().unwrap_or(place.link.as_str())
}
