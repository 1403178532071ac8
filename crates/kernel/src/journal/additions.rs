//! Forwards that came one by one since the record was written: a line each, behind the record and behind what a boot
//! brings up. Both are long where there are many forwards, and one more is no reason to write them anew; whoever reads
//! them reads these lines with them.
//!
//! A line bears its own checksum, and the file says which record it continues: by that record's checksum, so one that
//! was written anew has no additions. Killed between its forward and its line, a run leaves what any other drift is.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use model::facts::HostFacts;
use model::network::Forward;
use model::ruleset::Family;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BOOT, Boot, Identity, RECORD, Record, Result, Store, StoreError, checksum, fingerprint, io_error, remove};

const ADDITIONS: &str = "applied.more";
const BOOT_ADDITIONS: &str = "boot.more";
/// More than so many are written into the record.
const MOST: usize = 256;

/// What one forward more may be held against, without the record being read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// Of the record that is continued, and of what a boot brings up: their checksums.
    record: String,
    boot: String,
    identity: Identity,
    /// The file.
    pub config: PathBuf,
    /// The SHA-256 of what it says.
    pub text: String,
    /// The SHA-256 of what was known of the host when it was found to be good.
    pub facts: String,
    /// The fingerprints of our tables.
    pub tables: BTreeMap<Family, String>,
}

/// A forward that came since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// What came behind the file's text.
    pub tail: String,
    /// What came behind the network's forwards.
    pub forwards: Vec<Forward>,
    /// The SHA-256 of what the file says since then.
    pub text: String,
    /// The number of nf_tables' last commit since then, where that was this forward's and none came between.
    #[serde(default)]
    pub commit: Option<u32>,
}

/// A forward that a boot brings up since.
#[derive(Serialize, Deserialize)]
struct Booted {
    /// The checksum of what is continued.
    of: String,
    tail: String,
}

impl Ground {
    /// The SHA-256 of what is known of a host.
    #[must_use]
    pub fn of_facts(facts: &HostFacts) -> String {
        // Plain values are always written; what were not would be like nothing else.
        serde_json::to_vec(facts).map(|bytes| checksum(&bytes)).unwrap_or_default()
    }
}

impl Record {
    /// The record with what has come since.
    pub(super) fn with_added(mut self, added: Vec<Added>) -> Self {
        for Added { tail, forwards, .. } in added {
            self.text += &tail;
            if let Some(network) = &mut self.network {
                network.forwards.extend(forwards);
            }
        }
        self
    }
}

impl Store {
    /// The ground for one forward more, and the SHA-256 of what the file said after the last that has come since; nothing
    /// where the record, or what a boot brings up, is another by now, or is to be written anew.
    ///
    /// Only the last lines are read: none is written behind one that is torn.
    pub fn ground(&self) -> Option<(Ground, String)> {
        let text = fs::read_to_string(self.additions_path()).ok()?;
        let ground = self.ground_of(&text)?;
        let count = text.bytes().filter(|byte| *byte == b'\n').count() - 1;
        let last = text.trim_end_matches('\n').rsplit('\n').next().filter(|_| count > 0);
        let said = match last {
            Some(line) => parse::<Added>(&format!("{line}\n"))?.text,
            None => ground.text.clone(),
        };
        let alike = ground.boot == first_line(&self.state.join(BOOT))? && self.booted_count(&ground.boot) == count;
        (text.ends_with('\n') && alike && count < MOST).then_some((ground, said))
    }

    /// Notes that one forward more may be held against `record`, which was written just now, on a host of which `facts`
    /// are known. Nothing is noted where a boot would not bring up the same.
    pub fn write_ground(&self, record: &Record, facts: &str) -> Result<()> {
        let path = self.run.join(ADDITIONS);
        let boot = self.boot()?;
        let (sum, boot_sum) = (first_line(&self.run.join(RECORD)), first_line(&self.state.join(BOOT)));
        let confirmed = boot.confirmed.as_ref().is_some_and(|kept| kept.text == record.text);
        let (Some(sum), Some(boot_sum)) = (sum, boot_sum) else { return Ok(()) };
        if !confirmed || boot.refused.is_some() || record.text.is_empty() {
            return Ok(());
        }
        let ground = Ground {
            record: sum,
            boot: boot_sum,
            identity: self.identity.clone(),
            config: record.config.clone(),
            text: fingerprint(&record.text),
            facts: facts.to_owned(),
            tables: record.tables.iter().map(|(family, table)| (*family, table.fingerprint.clone())).collect(),
        };
        if self.continued().is_some_and(|(known, _, whole)| whole && known == ground) {
            return Ok(());
        }
        let beside = self.run.join(format!("{ADDITIONS}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        // Not synced: a boot empties the folder, and a torn line is none.
        let put = || -> std::io::Result<()> {
            options.open(&beside)?.write_all(&line(&ground)?)?;
            fs::rename(&beside, &path)
        };
        put().map_err(io_error("write", &path))
    }

    /// Notes a forward that has come, for the record and for the next boot; `synced` where the latter must outlive a
    /// power cut from now on.
    pub fn add(&self, ground: &Ground, added: &Added, synced: bool) -> Result<()> {
        append(&self.run.join(ADDITIONS), added, false)?;
        append(&self.state.join(BOOT_ADDITIONS), &Booted { of: ground.boot.clone(), tail: added.tail.clone() }, synced)
    }

    /// The forwards that have come since the record was written.
    pub fn added(&self) -> Vec<Added> {
        self.continued().map(|(_, added, _)| added).unwrap_or_default()
    }

    /// What a boot brings up with what has come since.
    pub(super) fn with_booted(&self, mut boot: Boot) -> Boot {
        if let (Some(kept), Some(sum)) = (&mut boot.confirmed, first_line(&self.state.join(BOOT))) {
            self.booted(&sum).iter().for_each(|tail| kept.text += tail);
        }
        boot
    }

    /// Where the lines behind the record lie.
    pub(super) fn additions_path(&self) -> PathBuf {
        self.run.join(ADDITIONS)
    }

    /// The record was written anew, or is gone.
    pub(super) fn forget_added(&self) -> Result<()> {
        remove(&self.additions_path())
    }

    /// The same of what a boot brings up.
    pub(super) fn forget_booted(&self) -> Result<()> {
        remove(&self.state.join(BOOT_ADDITIONS))
    }

    /// The ground and what has come since, and whether no line is torn; nothing where they are not about this record.
    fn continued(&self) -> Option<(Ground, Vec<Added>, bool)> {
        let text = fs::read_to_string(self.additions_path()).ok()?;
        let ground = self.ground_of(&text)?;
        let mut added = Vec::new();
        for line in text.split_inclusive('\n').skip(1) {
            match parse(line) {
                Some(one) => added.push(one),
                None => return Some((ground, added, false)),
            }
        }
        Some((ground, added, true))
    }

    /// What stands in the first line of additions, where it is about this record.
    fn ground_of(&self, text: &str) -> Option<Ground> {
        let ground: Ground = parse(text.split_inclusive('\n').next()?)?;
        let ours = ground.identity == self.identity && ground.record == first_line(&self.run.join(RECORD))?;
        ours.then_some(ground)
    }

    /// How many forwards came behind what a boot brings up.
    fn booted_count(&self, sum: &str) -> usize {
        let text = fs::read_to_string(self.state.join(BOOT_ADDITIONS)).unwrap_or_default();
        let of_it = |line: &str| parse::<Booted>(line).is_some_and(|line| line.of == sum);
        let lines = || text.split_inclusive('\n');
        // Lines of one sort stand together, and none behind one that is torn.
        if lines().next().is_some_and(of_it) && lines().next_back().is_some_and(of_it) {
            return lines().count();
        }
        self.booted(sum).len()
    }

    fn booted(&self, sum: &str) -> Vec<String> {
        let text = fs::read_to_string(self.state.join(BOOT_ADDITIONS)).unwrap_or_default();
        let lines = text.split_inclusive('\n').map_while(parse::<Booted>);
        lines.filter(|line| line.of == sum).map(|line| line.tail).collect()
    }
}

/// A file's first line, which is the checksum of the rest.
pub(super) fn first_line(path: &Path) -> Option<String> {
    let mut text = String::new();
    let length = BufReader::with_capacity(128, fs::File::open(path).ok()?).read_line(&mut text).ok()?;
    // Of a file in one line there is no telling where it would end.
    (length < 128).then(|| text.trim_end().to_owned())
}

fn line(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value)?;
    Ok([checksum(&body).as_bytes(), b" ", &body, b"\n"].concat())
}

fn parse<T: DeserializeOwned>(line: &str) -> Option<T> {
    let (sum, body) = line.strip_suffix('\n')?.split_once(' ')?;
    (sum == checksum(body.as_bytes())).then(|| serde_json::from_str(body).ok()).flatten()
}

fn append(path: &Path, value: &impl Serialize, synced: bool) -> Result<()> {
    let put = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(path)?;
        file.write_all(&line(value)?)?;
        if synced { file.sync_data() } else { Ok(()) }
    };
    put().map_err(|source| StoreError::Io { operation: "write", path: path.to_owned(), source })
}
