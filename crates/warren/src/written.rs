//! warren.toml on the disk: who reads it meanwhile reads what it said before or what it says then, and so does who reads
//! it after a power cut.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::context::{Exit, Failure};

/// Within so many bytes, from a multiple of them on, a file grows at once: a page of memory, for who reads it meanwhile.
const AT_ONCE: u64 = 4096;

/// A file that was read, and may be added to.
pub struct Appendable {
    path: PathBuf,
    file: File,
    was: Metadata,
}

/// One that was added to.
pub struct Appended(Appendable);

/// What is read at once of a file to be compared.
const COMPARED: usize = 64 << 10;

impl Appendable {
    /// Reads it; what it says is told where it is not `known`.
    ///
    /// # Errors
    /// Where it cannot be read or written, or is no UTF-8.
    pub fn open(path: &Path, known: Option<&str>) -> io::Result<(Self, Option<String>)> {
        let path = fs::canonicalize(path)?;
        let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
        let was = file.metadata()?;
        if let Some(known) = known.filter(|known| known.len() as u64 == was.len())
            && says(&file, known.as_bytes())?
        {
            return Ok((Self { path, file, was }, None));
        }
        let mut text = String::with_capacity(usize::try_from(was.len()).unwrap_or_default() + 1);
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok((Self { path, file, was }, Some(text)))
    }

    /// Its name for good.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `tail` behind `text`, which is what it said, for good. None, and nothing done, where it is not what was read
    /// any more.
    ///
    /// Where the tail fits into a block of the file's last one, the file grows by it at once: a file's length is one
    /// number, and is put on the disk behind what it counts. Else it is written anew beside its place.
    pub fn append(self, text: &str, tail: &str) -> Result<Option<Appended>, Failure> {
        let same = self.is_as_it_was().map_err(|e| unwritten(&self.path, &e))?;
        let length = text.len() as u64;
        if !same || self.was.len() != length {
            return Ok(None);
        }
        let block = self.was.blksize().clamp(512, AT_ONCE);
        if length % block + tail.len() as u64 > block {
            write(&self.path, &format!("{text}{tail}"))?;
            return Ok(Some(Appended(self)));
        }
        let put = || {
            match (&self.file).write(tail.as_bytes())? {
                whole if whole == tail.len() => {}
                _ => return Err(io::Error::from(io::ErrorKind::StorageFull)),
            }
            self.file.sync_data()
        };
        put().map_err(|e| {
            // The failure is what must be told.
            let _ = self.file.set_len(length);
            unwritten(&self.path, &e)
        })?;
        Ok(Some(Appended(self)))
    }

    /// Whether nobody has written it since it was read, nor put another in its place.
    fn is_as_it_was(&self) -> io::Result<bool> {
        let (now, there) = (self.file.metadata()?, fs::metadata(&self.path)?);
        let which = |meta: &Metadata| (meta.dev(), meta.ino());
        let when = |meta: &Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        Ok(which(&now) == which(&there) && when(&now) == when(&self.was))
    }
}

impl Appended {
    /// The file says `text` again, which is what it said before.
    pub fn take_back(self, text: &str) -> Result<(), Failure> {
        write(&self.0.path, text)
    }
}

/// Whether it says that from here on, and nothing else. It is not read whole: of a long one every page of memory would be
/// made, filled and given back for each forward more.
fn says(mut file: &File, mut known: &[u8]) -> io::Result<bool> {
    let mut piece = vec![0; COMPARED.min(known.len() + 1)];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(known.is_empty()),
            Ok(count) => match known.strip_prefix(&piece[..count]) {
                Some(rest) => known = rest,
                None => return Ok(false),
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What the file says, but for an addition that a power cut left torn: some file systems put a file's new length on the
/// disk before what it counts, and zeros stand there. Nobody was told that it is there, so it is left out where it is not
/// whole.
#[must_use]
pub fn whole(text: String) -> String {
    const HEADER: &str = "[[forward]]";
    let said = text.trim_end_matches('\0');
    if said.len() == text.len() {
        return text;
    }
    let Some(at) = said.rfind("\n\n") else { return said.to_owned() };
    let last = &said[at + 2..];
    let begun = !last.is_empty() && (last.starts_with(HEADER) || HEADER.starts_with(last));
    let ended = last.ends_with('\n') && last.lines().any(|line| line.trim_start().starts_with("to"));
    if begun && !ended { said[..=at].to_owned() } else { said.to_owned() }
}

/// Puts the text in the file's place at once, with its owner and mode: who reads it meanwhile reads the one or the other.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension("toml.new");
    let put = || -> io::Result<()> {
        let old = fs::metadata(path)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(old.mode() & 0o7777).open(&beside)?;
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    put().map_err(|e| {
        // The failure is what must be told; what is left beside is overwritten the next time.
        let _ = fs::remove_file(&beside);
        unwritten(path, &e)
    })
}

fn unwritten(path: &Path, e: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {e}\nit is as it was", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warren.toml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_tail_comes_behind_whatever_the_length_and_goes_again() {
        for length in [0, 1, 4000, 4070, 4095, 4096, 4097, 9000] {
            let text = "x".repeat(length);
            let (folder, path) = file(&text);
            let (open, said) = Appendable::open(&path, None).unwrap();
            assert_eq!(said.as_deref(), Some(&*text));
            let appended = open.append(&text, "behind it, all at once\n").unwrap().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}behind it, all at once\n"), "{length}");
            appended.take_back(&text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "{length}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn an_addition_that_was_torn_is_left_out_and_what_stood_before_stays() {
        for file in ["[host]\n\n[[forward]]\nlisten = \"80\"\nto=\"a\"\n", "[lan.br1]\naddress = [\"10.1.1.1/24\"]\n"] {
            assert_eq!(whole(file.to_owned()), file);
            let added = format!("{file}\n[[forward]]\nlisten = \"81\"\nto = \"b\"\n");
            for cut in file.len()..=added.len() {
                let read = whole(format!("{}{}", &added[..cut], "\0".repeat(added.len() + 1 - cut)));
                let wanted = if cut == added.len() { added.as_str() } else { file };
                assert_eq!(read.trim_end(), wanted.trim_end(), "{cut}");
            }
        }
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let (_folder, path) = file("one\n");
        let open = |text: &str| {
            let (open, said) = Appendable::open(&path, None).unwrap();
            assert_eq!(said.as_deref(), Some(text));
            open
        };
        let first = open("one\n");
        fs::write(&path, "two, longer\n").unwrap();
        assert!(first.append("one\n", "three\n").unwrap().is_none());
        let second = open("two, longer\n");
        write(&path, "two, lo anew\n").unwrap();
        assert!(second.append("two, longer\n", "three\n").unwrap().is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two, lo anew\n");
        assert!(open("two, lo anew\n").append("two, lo anew\n", "three\n").unwrap().is_some());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two, lo anew\nthree\n");
    }

    #[test]
    fn what_is_known_is_told_apart_from_all_else() {
        for length in [0, 1, COMPARED - 1, COMPARED, COMPARED + 1, 3 * COMPARED + 7] {
            let text = "x".repeat(length);
            let (_folder, path) = file(&text);
            let said = |known: &str| Appendable::open(&path, Some(known)).unwrap().1;
            assert_eq!(said(&text), None, "{length}");
            let mut others = vec![format!("{text}y")];
            others.extend((length > 0).then(|| format!("{}y", &text[1..])));
            others.extend((length > 0).then(|| format!("y{}", &text[1..])));
            others.extend((length > 0).then(|| text[1..].to_owned()));
            for other in others {
                assert_eq!(said(&other).as_deref(), Some(&*text), "{length}");
            }
        }
    }
}
