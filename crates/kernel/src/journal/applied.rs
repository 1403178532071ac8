//! The record: what was applied last. It is kept in mind by who has read or written it, for as long as the file is the
//! same.

use std::sync::{Arc, PoisonError};

use super::version::{RecordVersion, Version};
use super::{RECORD, Record, Result, Store, remove};

/// The record as it was read or written last.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of which files; nothing where nothing is known.
    of: Option<RecordVersion>,
    record: Option<Arc<Record>>,
    /// Whether nothing had come since it was written.
    bare: bool,
}

impl Store {
    /// What was applied last; a damaged record counts as none, for everything in it can be had again.
    pub fn record(&self) -> Result<Option<Record>> {
        Ok(self.recorded()?.map(|record| (*record).clone()))
    }

    /// The same for who only reads it: with many forwards a copy takes a while.
    pub fn recorded(&self) -> Result<Option<Arc<Record>>> {
        let path = self.run.join(RECORD);
        // Before it is read: what is put in its place meanwhile is read the next time.
        let version = Version::of(&path).map(|version| (version, Version::of(&self.additions_path())));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if version.is_some() && known.of == version {
            return Ok(known.record.clone());
        }
        let same = known.bare && version.is_some() && known.of.map(|(own, _)| own) == version.map(|(own, _)| own);
        let own = if same { known.record.clone() } else { self.undamaged(&path)?.map(Arc::new) };
        let added = self.added();
        let bare = added.is_empty();
        let record = if bare { own } else { own.map(|own| Arc::new((*own).clone().with_added(added))) };
        *known = Known { of: version, record: record.clone(), bare };
        Ok(record)
    }

    /// Notes what was applied.
    pub fn write_record(&self, record: Arc<Record>) -> Result<()> {
        self.write_passing(RECORD, &*record)?;
        self.forget_added()?;
        self.forget_rest()?;
        // Whoever writes it has the lock, so it is this one that lies there.
        let of = Version::of(&self.run.join(RECORD)).map(|version| (version, None));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { of, record: Some(record), bare: true };
        Ok(())
    }

    /// Nothing is applied any more.
    pub fn remove_record(&self) -> Result<()> {
        remove(&self.run.join(RECORD))?;
        self.forget_rest()?;
        self.forget_added()
    }
}
