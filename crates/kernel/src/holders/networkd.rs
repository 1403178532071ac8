//! systemd-networkd(8): what it follows on an interface, as it notes it in /run/systemd/netif (sd-network.h reads that), and
//! its being told to read its files again, over D-Bus (org.freedesktop.network1(5)).
//!
//! Reading them again, it takes off an interface all that the file which it follows now does not say itself, a lease that
//! has not been given anew included. So for as long as that takes, a file in /run tells it to keep what is there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use model::address::IfName;
use model::manager::networkd::{Follows, Names, alone, interim, interim_again, kept, leases, stood_for};
use model::manager::{Holder, Managed, Manager};
use model::state::{Hold, Side};

use crate::error::{Context as _, KernelError, Result, explained};
use crate::rtnl::{LinkChange, Rtnl};
use crate::{bus, files};

const SERVICE: &str = "org.freedesktop.network1";
const PATH: &str = "/org/freedesktop/network1";
const INTERFACE: &str = "org.freedesktop.network1.Manager";
/// How long it may take to follow another file.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is told again, which may have yet to hear that its link is a new one.
const AGAIN: Duration = Duration::from_millis(50);
/// How long it may take until it has found out what there is already.
const SETTLED: Duration = Duration::from_secs(3);
/// Where its files are, the first that has one of a name counts.
const FOLDERS: [&str; 4] =
    ["/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network", "/usr/lib/systemd/network"];

/// What it notes of a link.
pub(crate) struct Note {
    pub(crate) state: String,
    file: Option<String>,
}

fn note(index: u32) -> Option<Note> {
    let text = fs::read_to_string(format!("/run/systemd/netif/links/{index}")).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    Some(Note { state: value("ADMIN_STATE")?, file: value("NETWORK_FILE") })
}

pub(crate) fn note_of(name: &IfName) -> Result<Option<Note>> {
    match Rtnl::open()?.index_of(name) {
        Ok(index) => Ok(note(index)),
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The file that it follows on the interface of that number, where it configures that.
#[must_use]
pub fn followed(index: u32) -> Option<String> {
    let note = note(index)?;
    let leaves = matches!(note.state.as_str(), "unmanaged" | "pending" | "initialized" | "linger");
    note.file.filter(|_| !leaves)
}

/// All that is known of what it does on an interface on which it follows that file.
#[must_use]
pub fn managed(name: &IfName, index: u32, followed: &str) -> Managed {
    let path = match stood_for(followed) {
        // It was told so by us, for a moment, and goes on until it reads its files again.
        Some(base) => find(base).unwrap_or_else(|| followed.to_owned()),
        None => followed.to_owned(),
    };
    let paths = with_drop_ins(&path);
    // And what comes before it, which does not fit the interface, but may fit its bridge.
    let others = all().into_iter().take_while(|other| *other != path).collect::<Vec<_>>();
    let texts = texts(&paths).into_iter().chain(texts(&others)).collect();
    let (iaid, iaid6) = identities(index);
    let ours = crate::takeover::are_ours(FOLDERS[0]);
    let obstacle = match bus::is_served(SERVICE) {
        _ if !ours => Some(format!("{} is another network's", FOLDERS[0])),
        Ok(true) => None,
        Ok(false) => Some(format!("systemd-networkd does not run for {name}'s network")),
        Err(e) => Some(format!("systemd-networkd is not to be asked: {e}")),
    };
    let holders = vec![Holder::Networkd(Follows { files: paths, iaid, iaid6 })];
    Managed { holders, obstacle, ..Managed::new(Manager::Networkd, texts) }
}

/// The files' texts, of those that are there.
#[must_use]
pub fn texts(paths: &[String]) -> Vec<(String, String)> {
    // What is no text is refused as something that nobody knows.
    let read = |path: &String| Some((path.clone(), String::from_utf8_lossy(&fs::read(path).ok()?).into_owned()));
    paths.iter().filter_map(read).collect()
}

/// Whether it runs for this network.
pub(crate) fn runs() -> bool {
    bus::is_served(SERVICE).unwrap_or(false)
}

/// Every .network file that it reads.
pub(crate) fn all() -> Vec<String> {
    let entries = FOLDERS.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.iter().filter(|name| name.ends_with(".network")).filter_map(|name| find(name)).collect()
}

/// The file of that name that it reads.
fn find(base: &str) -> Option<String> {
    FOLDERS.iter().map(|folder| format!("{folder}/{base}")).find(|path| Path::new(path).exists())
}

/// A file and its drop-ins, in the order that they are read in (systemd.network(5)).
pub(crate) fn with_drop_ins(path: &str) -> Vec<String> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let mut drop_ins: Vec<(String, String)> = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(format!("{folder}/{base}.d")).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(".conf") && !drop_ins.iter().any(|(known, _)| *known == name) {
                drop_ins.push((name, entry.path().display().to_string()));
            }
        }
    }
    drop_ins.sort();
    [path.to_owned()].into_iter().chain(drop_ins.into_iter().map(|(_, path)| path)).collect()
}

/// By which identity associations it leases, for IPv4 and for IPv6, as far as it says so.
fn identities(index: u32) -> (Option<u32>, Option<u32>) {
    let value = |path: String, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned)
    };
    // RFC 4361: type 255, the IAID, the DUID.
    let client = value(format!("/run/systemd/netif/leases/{index}"), "CLIENTID=");
    let iaid = client.and_then(|id| u32::from_str_radix(id.strip_prefix("ff")?.get(..8)?, 16).ok());
    let six = value(format!("/run/systemd/netif/links/{index}"), "DHCP6_CLIENT_IAID=0x");
    (iaid, six.and_then(|id| u32::from_str_radix(&id, 16).ok()))
}

fn names(hold: &Hold, follows: &Follows) -> Result<Names> {
    let none = || io::Error::from_raw_os_error(libc::ENOENT);
    follows.names(&hold.bridge).ok_or_else(none).context("name files before", follows.files.join(" "))
}

/// Where it does what the interface's file says. Where it does not run, it will do what its files say.
pub fn side(hold: &Hold, follows: &Follows) -> Result<Side> {
    let names = names(hold, follows)?;
    if !runs() {
        return Ok(hold.on);
    }
    let (port, bridge) = (note_of(&hold.port)?, note_of(&hold.bridge)?);
    let bridge_is_ours = bridge.is_some_and(|note| note.file.as_ref() == Some(&names.network));
    // An interface that is not there yet will be what the files say, when it comes.
    let Some(port) = port.filter(|note| note.state != "pending") else { return Ok(hold.on) };
    Ok(match port.file {
        Some(file) if file == names.port && bridge_is_ours => Side::Bridge,
        Some(file) if file != names.port && !bridge_is_ours => Side::Port,
        _ => Side::Between,
    })
}

/// Has it do so where `hold` says. Its files have been written, or taken away, by then; where they are yet to be taken
/// away, what it is told for the moment comes before them.
pub fn set(hold: &Hold, follows: &Follows) -> Result<()> {
    let names = names(hold, follows)?;
    match hold.on {
        Side::Bridge => {
            write(&names.kept, kept())?;
            remove(&names.interim)?;
            reload()?;
            await_follow(&hold.bridge, Some(&names.network))?;
            await_follow(&hold.port, Some(&names.port))?;
            be_seen(&hold.bridge)?;
            settle(&hold.port)?;
            await_lease(&hold.bridge, &texts(&follows.files))
        }
        Side::Between => {
            write(&names.interim, &alone(&hold.port))?;
            reload()?;
            await_follow(&hold.port, None)
        }
        Side::Port => put_back(hold, follows, &names),
    }
}

/// What it followed before, by another name, and so that it takes nothing off what bears it all already. That name is
/// gone again at once: who has it read its files again has it follow the interface's own.
fn put_back(hold: &Hold, follows: &Follows, names: &Names) -> Result<()> {
    let texts = texts(&follows.files);
    if texts.is_empty() {
        // What it followed is gone: it follows what fits now.
        remove(&names.kept)?;
        remove(&names.interim)?;
        return reload();
    }
    write(&names.interim, &interim(&texts, &hold.port))?;
    reload()?;
    await_follow(&hold.port, Some(&names.interim))?;
    be_found(&hold.port)?;
    await_lease(&hold.port, &texts)?;
    // Only now, for the bridge may still bear all of it.
    remove(&names.kept)?;
    remove(&names.interim)
}

/// Has it read its files again. An interface that it follows by what stood for another file's text, for a moment, it
/// follows so once more: it would else take a lease off that, until it has it anew.
pub(crate) fn read_again() -> Result<()> {
    let mut written = Vec::new();
    for link in Rtnl::open()?.links()? {
        let Some(path) = note(link.index).and_then(|note| note.file) else { continue };
        let texts = stood_for(&path).and_then(find).map(|path| texts(&with_drop_ins(&path))).unwrap_or_default();
        if let (false, Ok(port)) = (texts.is_empty(), IfName::new(link.name)) {
            write(&path, &interim_again(&texts, &port))?;
            written.push((path, port));
        }
    }
    reload()?;
    for (path, port) in written {
        await_follow(&port, Some(&path))?;
        remove(&path)?;
    }
    Ok(())
}

/// A port that leaves its bridge it takes for a new link (of the kernel's two words about that, one is that it is gone),
/// whose link-local address, which DHCPv6 and a router's word wait for, it has been told of before: it is told again, until
/// all of it stands.
fn be_found(port: &IfName) -> Result<()> {
    let begun = Instant::now();
    loop {
        Rtnl::open()?.tell_of_link_local(port)?;
        if begun.elapsed() > SETTLED || note_of(port)?.is_none_or(|note| note.state != "configuring") {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
    }
}

/// That a bridge is there already which it was just told of, it finds out once something is said of that.
fn be_seen(bridge: &IfName) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let alias = rtnl.link(bridge)?.alias.unwrap_or_default();
    rtnl.set_link(bridge, &LinkChange { alias: Some(alias), ..LinkChange::default() })
}

/// At a boot it makes the bridge in a moment, where it runs and has not come to the interface yet, or has it follow one of
/// `files`.
pub fn await_made(port: &IfName, bridge: &IfName, files: &[&String]) -> Result<()> {
    let begun = Instant::now();
    let is_made =
        |note: Option<Note>| note.is_some_and(|note| !["pending", "initialized"].contains(&note.state.as_str()));
    let makes_it = |note: Option<Note>| match note {
        Some(note) if note.state == "unmanaged" => false,
        Some(Note { file: Some(file), .. }) => files.contains(&&file),
        _ => true,
    };
    while begun.elapsed() < SETTLED && !is_made(note_of(bridge)?) && makes_it(note_of(port)?) && runs() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Has it do on the interface what its files say now, as if that had only come: a link-local address that stood before it
/// looked it would else wait for, and whatever waits for it to be online with it. One that does not run will do so.
pub fn begin_anew(port: &IfName) -> Result<()> {
    if !runs() {
        return Ok(());
    }
    reload()?;
    let mut rtnl = Rtnl::open()?;
    for up in [false, true] {
        rtnl.set_link(port, &LinkChange { up: Some(up), ..LinkChange::default() })?;
    }
    Ok(())
}

fn reload() -> Result<()> {
    bus::call(SERVICE, PATH, INTERFACE, "Reload")
        .map_err(io::Error::other)
        .context("have read its files again", "systemd-networkd")
}

/// Waits until it follows that file on the interface, or leaves it alone.
fn await_follow(name: &IfName, path: Option<&str>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let note = note_of(name)?;
        let file = note.as_ref().and_then(|note| note.file.clone());
        let state = note.map_or_else(|| "unknown".to_owned(), |note| note.state);
        let states: &[&str] = if path.is_some() { &["configuring", "configured"] } else { &["unmanaged"] };
        if file.as_deref() == path && states.contains(&state.as_str()) {
            return Ok(());
        }
        if (state == "failed" && file.as_deref() == path) || begun.elapsed() > PATIENCE {
            let follows = file.unwrap_or_else(|| "nothing".to_owned());
            let why = format!("it follows {follows} there, and {name} is {state}; its journal says why");
            let cause = explained(io::Error::from_raw_os_error(libc::ETIMEDOUT), why);
            let what = path.unwrap_or("nothing");
            return Err(KernelError::new("have systemd-networkd follow", format!("{what} on {name}"), cause));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits a while until it has its lease anew, and has given the link its address: what moves the address meanwhile would
/// find it on both sides.
fn await_lease(name: &IfName, texts: &[(String, String)]) -> Result<()> {
    let begun = Instant::now();
    let mut rtnl = Rtnl::open()?;
    let index = rtnl.index_of(name)?;
    let path = format!("/run/systemd/netif/leases/{index}");
    let leased = || {
        let text = fs::read_to_string(&path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("ADDRESS="))?.parse::<IpAddr>().ok()
    };
    while leases(texts) && begun.elapsed() < SETTLED {
        if let Some(address) = leased()
            && rtnl.addresses()?.iter().any(|one| one.index == index && one.net.addr() == address)
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether it follows, on that interface, what stood for its file for a moment: it has read none since.
pub(crate) fn is_interim(name: &IfName) -> bool {
    let note = note_of(name).ok().flatten();
    note.and_then(|note| note.file).is_some_and(|file| stood_for(&file).is_some())
}

/// Waits a while until all of it stands: what becomes of that is not ours to wait for longer.
fn settle(name: &IfName) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLED && note_of(name)?.is_some_and(|note| note.state == "configuring") {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A file in /run, for networkd's user to read.
pub(crate) fn write(path: &str, text: &str) -> Result<()> {
    let at = Path::new(path);
    let run = Path::new("/run");
    let folders: Vec<&Path> = at.ancestors().skip(1).take_while(|folder| *folder != run).collect();
    for folder in folders.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("make", path)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).context("make", path),
        }
    }
    files::set(path, files::read(path)?.as_deref(), Some(text))
}

pub(crate) fn remove(path: &str) -> Result<()> {
    files::set(path, files::read(path)?.as_deref(), None)?;
    // A folder for drop-ins goes with the last one.
    if let Some(folder) = Path::new(path).parent().filter(|folder| folder.extension().is_some_and(|end| end == "d")) {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}
