//! The host itself resolves guests' names: through systemd-resolved where it runs, which is told for each LAN's bridge
//! to ask us for that LAN's names and no others; else, and where nobody asks resolved, by a marked block in /etc/hosts.
//! Never is a LAN's address the host's resolver for anything else, so we are never our own upstream.

mod file;
mod resolved;

use model::services::{LanServices, Services};

use self::file::Access;
use self::resolved::{Resolved, Told};
use crate::error::Result;

/// What was done about the host's names, so that it is not done again.
#[derive(Debug, Default)]
pub struct HostNames {
    told: Option<Told>,
    /// What was noted last: the same is not told again and again.
    noted: Option<String>,
}

impl HostNames {
    /// Lets the host resolve what `services` names, and nothing that they do not name any more; without `hosts_resolver`
    /// nothing. Says, once, what it has done another way than is to be expected.
    ///
    /// # Errors
    /// Where /etc/hosts cannot be read or written.
    pub fn follow(&mut self, services: &Services) -> Result<Option<String>> {
        let wanted: &[LanServices] = if services.hosts_resolver { &services.lans } else { &[] };
        let (is_asked, refused) = match self.tell(wanted) {
            Ok(is_asked) => (is_asked, None),
            Err(e) => (false, Some(format!("{e}; guests' names stand in /etc/hosts instead"))),
        };
        let access = file::write(if is_asked { &[] } else { wanted })?;
        let is_anothers = access == Access::Anothers && !is_asked && !wanted.is_empty();
        let note = match refused {
            None if is_anothers => {
                Some("/etc/hosts is another network's: guests' names are not written there".to_owned())
            }
            other => other,
        };
        let is_new = note != self.noted;
        self.noted.clone_from(&note);
        Ok(note.filter(|_| is_new))
    }

    /// Tells systemd-resolved what it does not know yet. Whether it is there, and asked by this host.
    fn tell(&mut self, wanted: &[LanServices]) -> Result<bool> {
        let Some(resolved) = Resolved::find()? else {
            self.told = None;
            return Ok(false);
        };
        let told = Told::of(&resolved, wanted)?;
        if self.told.as_ref() != Some(&told) {
            let before = self.told.take();
            for lan in wanted {
                resolved.tell(lan)?;
            }
            for bridge in before.iter().flat_map(Told::bridges).filter(|b| wanted.iter().all(|lan| lan.bridge != **b)) {
                // It may be gone, and with it what resolved knew of it.
                let _ = resolved.revert(bridge);
            }
            self.told = Some(told);
        }
        Ok(self.told.as_ref().is_some_and(|told| told.is_asked))
    }

    /// We do not answer any more, though the network stays: what we have told systemd-resolved is taken back. /etc/hosts
    /// needs nobody who answers, and stays as it is.
    pub fn rest(&mut self) {
        let Some(told) = self.told.take() else { return };
        if let Ok(Some(resolved)) = Resolved::find() {
            for bridge in told.bridges() {
                // It may be gone, and with it what resolved knew of it.
                let _ = resolved.revert(bridge);
            }
        }
    }
}

/// The names that stand in /etc/hosts, where any of ours do, follow `services`: for whoever changes the network while no
/// `serve` runs.
///
/// # Errors
/// Where /etc/hosts cannot be written.
pub fn refresh(services: &Services) -> Result<()> {
    let wanted: &[LanServices] = if services.hosts_resolver { &services.lans } else { &[] };
    if file::has_names()? { file::write(wanted).map(drop) } else { Ok(()) }
}

/// Takes our names out of /etc/hosts. With a bridge goes what systemd-resolved was told of it.
///
/// # Errors
/// Where /etc/hosts cannot be written.
pub fn forget() -> Result<()> {
    file::write(&[]).map(drop)
}
