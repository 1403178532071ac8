//! The token that lets in to the web page: a file that its owner alone reads, made where it is not there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use model::web::Web;

/// Its name in the state folder.
const FILE: &str = "web-token";
/// Bytes of chance in one that is made.
const BYTES: usize = 32;
/// A token is no shorter, and no longer, in characters.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=512;

/// Where the token is.
pub fn path(web: &Web, state_dir: &Path) -> PathBuf {
    web.token_file.as_ref().map_or_else(|| state_dir.join(FILE), PathBuf::from)
}

/// Reads the token, and makes one where there is none.
pub fn read(path: &Path) -> io::Result<String> {
    match File::open(path) {
        Ok(file) => check(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(path),
        Err(e) => Err(e),
    }
}

fn check(file: File) -> io::Result<String> {
    let mode = file.metadata()?.mode();
    if mode & 0o027 != 0 {
        let why = format!("others may read it, or its group write to it (mode {:04o}): `chmod 600`", mode & 0o7777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text)?;
    let token = text.trim();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if LENGTH.contains(&token.len()) && token.bytes().all(plain) {
        return Ok(token.to_owned());
    }
    let why = "a token is 16 to 512 letters, digits and -._~+/=; remove the file, and one is made";
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// There at once, or not at all.
fn make(path: &Path) -> io::Result<String> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.warren"));
    // One that an earlier attempt has left.
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    Ok(token)
}
