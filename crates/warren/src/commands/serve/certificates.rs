//! Certificates of sites, and where they are kept: read, made and written here, for the worker opens no file. Files that
//! change are read again by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::network::{self, Tls};
use model::sites::Sites;
use services::http::tls_ca::{self, Made};
use services::http::tls_keys::{certified, whose};
use services::log;
use services::protocol::{Kept, Pair, Whose};

/// The local authority's certificate and key, in the state folder.
const AUTHORITY: [&str; 2] = ["ca.pem", "ca.key"];
/// The folder of certificates by ACME, in the state folder, where the file names none.
const STORAGE: &str = "acme";
/// The account.
const ACCOUNT: &str = "account.json";
/// What is kept for the worker is no longer than this, in bytes.
const LONGEST: usize = 64 << 10;
/// How often files are looked at. What is found changed is read when it has not changed since the last look: whoever
/// writes it writes two files.
const LOOK: Duration = Duration::from_secs(2);
/// How often there is a look where nothing comes from files.
const SELDOM: Duration = Duration::from_secs(3600);
/// What we have signed is signed anew when it holds no longer than this, in seconds.
const ANEW: u64 = 30 * 86_400;

/// How a file looked: device, number, length, time of change.
type Stamp = (u64, u64, u64, i64, i64);

struct Held {
    pair: Pair,
    /// Until when it holds, in seconds since 1970.
    until: u64,
    /// How the files looked when they were read.
    read: Option<[Stamp; 2]>,
    /// How they looked last.
    seen: Option<[Stamp; 2]>,
}

/// What is kept of a directory of ACME.
pub struct Acme {
    /// The directory.
    pub directory: String,
    /// The account, with its key.
    pub account: Option<String>,
    /// The authorities that this host believes, as DER.
    pub roots: Vec<Vec<u8>>,
    folder: PathBuf,
}

/// The certificates that the sites want.
pub struct Certificates {
    folder: PathBuf,
    acme: Option<Acme>,
    held: BTreeMap<Whose, Held>,
    looked: Instant,
}

impl Certificates {
    /// None yet; the local authority is in that folder.
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.to_owned(), acme: None, held: BTreeMap::new(), looked: Instant::now() }
    }

    /// Those of these sites from now on. What cannot be had is told, and the others are served.
    pub fn follow(&mut self, sites: &Sites) {
        let wanted = wanted(sites);
        self.acme = sites.acme.as_ref().map(|acme| Acme::read(acme, &self.folder, self.acme.take()));
        self.held.retain(|whose, _| wanted.contains(whose));
        for whose in wanted {
            let pair = Pair { whose: whose.clone(), chain: String::new(), key: String::new(), problem: None };
            self.held.entry(whose).or_insert(Held { pair, until: 0, read: None, seen: None });
        }
        self.look(true);
    }

    /// What is kept of the directory.
    pub fn acme(&self) -> Option<&Acme> {
        self.acme.as_ref()
    }

    /// Keeps what the worker has by ACME: an account of the directory, or a certificate that is wanted.
    pub fn keep(&mut self, kept: Kept) {
        let Some(acme) = &mut self.acme else { return };
        let (name, text) = match &kept {
            Kept::Account { directory, text } if *directory == acme.directory => (ACCOUNT.to_owned(), text.clone()),
            Kept::Certificate(pair) => match &pair.whose {
                Whose::Acme { host, .. } if self.held.contains_key(&pair.whose) => {
                    (format!("{host}.pem"), format!("{}{}", pair.key, pair.chain))
                }
                _ => return,
            },
            Kept::Account { .. } => return,
        };
        if text.len() > LONGEST {
            log::error(&format!("sites: {name} is too long to be kept"));
            return;
        }
        if let Err(e) = self::keep(&acme.folder, &name, &text) {
            // It is served for as long as we are.
            log::error(&format!("sites: cannot keep {name} in {}: {e}", acme.folder.display()));
        }
        match kept {
            Kept::Account { text, .. } => acme.account = Some(text),
            Kept::Certificate(pair) => {
                if let Some(held) = self.held.get_mut(&pair.whose) {
                    held.pair = pair;
                }
            }
        }
    }

    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        let files = self.held.keys().any(|whose| matches!(whose, Whose::Files { .. }));
        let own = self.held.keys().any(|whose| matches!(whose, Whose::SelfSigned(_)));
        (files || own).then(|| self.looked + if files { LOOK } else { SELDOM })
    }

    /// All of them.
    pub fn pairs(&self) -> Vec<Pair> {
        self.held.values().map(|held| held.pair.clone()).collect()
    }

    /// Looks for files that have changed, at once or when they are still, and signs anew what will end.
    pub fn look(&mut self, at_once: bool) {
        self.looked = Instant::now();
        let folder = self.folder.clone();
        for (whose, held) in &mut self.held {
            match whose {
                Whose::Files { cert, key } => held.files(cert, key, at_once),
                Whose::SelfSigned(name) => held.sign(&folder, name),
                Whose::Acme { host, .. } => held.kept(self.acme.as_ref(), host),
            }
        }
    }
}

/// Which certificates these sites want.
fn wanted(sites: &Sites) -> BTreeSet<Whose> {
    let secure = sites.sites.iter().filter(|site| site.tls != Tls::Off);
    secure.flat_map(|site| site.hosts.iter().filter_map(|host| whose(sites, site, host))).collect()
}

impl Held {
    fn files(&mut self, cert: &str, key: &str, at_once: bool) {
        let now = stamps(cert, key).ok();
        let still = self.seen == now;
        self.seen = now;
        if now.is_some() && self.read == now || !(still || at_once && self.pair.chain.is_empty()) {
            return;
        }
        let problem = match read(cert, key) {
            Ok((chain, key, until)) => {
                let again = !self.pair.chain.is_empty() && self.pair.chain != chain;
                (self.pair.chain, self.pair.key, self.until) = (chain, key, until);
                if again {
                    log::info(&format!("sites: {cert} has changed, and is served as it is now"));
                }
                None
            }
            Err(why) => Some(why),
        };
        self.read = now;
        self.told(problem);
    }

    /// One that was had by ACME before.
    fn kept(&mut self, acme: Option<&Acme>, host: &str) {
        let Some(acme) = acme.filter(|_| self.pair.chain.is_empty()) else { return };
        let path = acme.folder.join(format!("{host}.pem"));
        match fs::read_to_string(&path) {
            // Key and chain in one file: never one without the other.
            Ok(text) => (self.pair.chain, self.pair.key) = (text.clone(), text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.told(Some(format!("cannot read {}: {e}", path.display()))),
        }
    }

    fn sign(&mut self, folder: &Path, name: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.until >= now + ANEW {
            return;
        }
        let problem = match signed(folder, name) {
            Ok((made, until)) => {
                (self.pair.chain, self.pair.key, self.until) = (made.chain, made.key, until);
                None
            }
            Err(e) => Some(format!("cannot sign a certificate for {name}: {e}")),
        };
        self.told(problem);
    }

    /// What is wrong is said once.
    fn told(&mut self, problem: Option<String>) {
        if let Some(why) = problem.as_ref().filter(|_| self.pair.problem != problem) {
            let rest = if self.pair.chain.is_empty() { "there is no other" } else { "the one before is served on" };
            log::error(&format!("sites: {why}; {rest}"));
        }
        self.pair.problem = problem;
    }
}

impl Acme {
    /// Of a folder; what is known of the same one stays.
    fn read(settings: &network::Acme, state_dir: &Path, before: Option<Self>) -> Self {
        let storage = settings.storage.as_ref().map_or_else(|| state_dir.join(STORAGE), PathBuf::from);
        // A folder a directory: certificates for trial are none.
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        let name: String = settings.directory.trim_start_matches("https://").chars().map(plain).collect();
        let folder = storage.join(name);
        let roots = match before {
            Some(before) if before.folder == folder && before.directory == settings.directory => return before,
            Some(before) => before.roots,
            None => believed(),
        };
        let account = match fs::read_to_string(folder.join(ACCOUNT)) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                log::error(&format!("sites: cannot read {ACCOUNT} in {}: {e}", folder.display()));
                None
            }
        };
        Self { directory: settings.directory.clone(), account, roots, folder }
    }
}

/// The authorities that this host believes (`SSL_CERT_FILE`, `SSL_CERT_DIR`, else its distribution's).
fn believed() -> Vec<Vec<u8>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |e| format!(": {e}"));
        log::error(&format!("sites: this host believes no authority, and so no directory of ACME{why}"));
        log::error("install ca-certificates, or name a file of them by SSL_CERT_FILE");
    }
    found.certs.into_iter().map(|certificate| certificate.as_ref().to_vec()).collect()
}

fn stamps(cert: &str, key: &str) -> io::Result<[Stamp; 2]> {
    let stamp = |path: &str| {
        let found = fs::metadata(path)?;
        io::Result::Ok((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    Ok([stamp(cert)?, stamp(key)?])
}

/// Chain, key, and until when they hold; or why not.
fn read(cert: &str, key: &str) -> Result<(String, String, u64), String> {
    let text = |path: &str| fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"));
    let (chain, secret) = (text(cert)?, text(key)?);
    let certified = certified(&chain, &secret).map_err(|e| format!("{cert} with {key}: {e}"))?;
    Ok((chain, secret, certified.said.until))
}

fn signed(folder: &Path, name: &str) -> io::Result<(Made, u64)> {
    let made = tls_ca::sign(&authority(folder)?, name).map_err(io::Error::other)?;
    let until = certified(&made.chain, &made.key).map_err(io::Error::other)?.said.until;
    Ok((made, until))
}

/// The local authority of a state folder, made where there is none.
pub fn authority(folder: &Path) -> io::Result<Made> {
    let [chain, key] = AUTHORITY.map(|name| fs::read_to_string(folder.join(name)));
    match (chain, key) {
        (Ok(chain), Ok(key)) => return Ok(Made { chain, key }),
        (Err(e), _) | (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let host = rustix::system::uname();
    let made = tls_ca::authority(&host.nodename().to_string_lossy()).map_err(io::Error::other)?;
    // The certificate comes last: where it is, the key is.
    keep(folder, AUTHORITY[1], &made.key)?;
    keep(folder, AUTHORITY[0], &made.chain)?;
    Ok(made)
}

/// Writes a file that root alone may read, whole or not at all.
pub fn keep(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    match fs::remove_file(&beside) {
        // One that an earlier attempt has left.
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    File::open(folder)?.sync_all()
}
