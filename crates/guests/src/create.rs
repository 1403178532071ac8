//! A guest is made: its root file system from a template, a folder or an archive, prepared before its first boot.
//! All of it, or nothing: a mark beside the container's folder tells of one that is half made, for the case that we
//! are killed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use model::network::{Container, Source};
use rustix::fs::FlockOperation;

use crate::error::{Context as _, GuestError, Result};
use crate::host::Host;
use crate::idmap;
use crate::lxc::{self, Block, Ids};
use crate::prepare::{self, Edit, Mechanism};
use crate::record::{self, Record};
use crate::root::Root;
use crate::settings::Settings;
use crate::tools::{self, Tool};

/// Where LXC keeps its templates.
const TEMPLATES: &str = "/usr/share/lxc/templates";

/// A line for who watches.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// What is being done now.
    Stage(&'a str),
    /// What a program says while it does it.
    Output(&'a str),
}

/// Is told what is being done.
pub type Said<'a> = &'a (dyn Fn(Line<'_>) + Sync);

/// Makes and prepares a guest, and does not start it.
pub fn create(host: &Host, settings: &Settings, container: &Container, said: Said) -> Result<()> {
    let guest = settings.name.as_str();
    let source = container.source.as_ref().ok_or_else(|| GuestError::NoSource { guest: guest.to_owned() })?;
    check_tools(guest, source)?;
    ready_folder(host, container.privileged)?;
    let mut mark = Mark::take(host, guest)?;
    if host.folder(guest).exists() {
        mark.remove()?;
        return Err(GuestError::Exists { guest: guest.to_owned(), lxc_path: host.lxc_path().to_owned() });
    }
    let made = mark.reserve(host, container.privileged).and_then(|first| {
        make(host, settings, source, &mark.file, said)?;
        finish(host, settings, container, first, said)
    });
    if let Err(error) = made {
        // What failed is what must be told; should something of it stay, the mark stays too.
        if remove_tree(&host.folder(guest)).is_ok() {
            let _ = mark.remove();
        }
        return Err(error);
    }
    mark.remove()
}

/// The root file system, and a configuration that knows of it. What copies has `lock` open as its standard input, and so
/// holds it should it outlive us; lxc-create has a lock of its own ([`Mark::take`]).
fn make(host: &Host, settings: &Settings, source: &Source, lock: &File, said: Said) -> Result<()> {
    let guest = settings.name.as_str();
    let base = lxc::defaults(&fs::read_to_string("/etc/lxc/default.conf").unwrap_or_default());
    match source {
        Source::Template { name, args } => {
            said(Line::Stage(&format!("creating it from the template {name}")));
            let mut file = tempfile::NamedTempFile::new().context("make", "a file for lxc-create")?;
            file.write_all(base.as_bytes()).context("write", file.path().display())?;
            let tool = host.tool("lxc-create", guest, format!("create {guest} from the template {name}"));
            tool.arg("-f")
                .arg(file.path())
                .args(["-t", name, "--"])
                .args(args)
                .watched(&|line| said(Line::Output(line)))
        }
        Source::Rootfs(path) => {
            said(Line::Stage(&format!("creating it from {path}")));
            let from = Path::new(path);
            let meta = fs::metadata(from).map_err(|e| not_a_root(guest, from, e.to_string()))?;
            let folder = host.folder(guest);
            fs::DirBuilder::new().mode(0o770).create(&folder).context("make the folder", folder.display())?;
            let to = folder.join("rootfs");
            fs::DirBuilder::new().mode(0o755).create(&to).context("make the folder", to.display())?;
            let operation = format!("create {guest} from {path}");
            if meta.is_dir() {
                check_init(guest, &Root::open(from, 0)?, from)?;
                let copy = Tool::new("cp", operation).args(["--archive", "--reflink=auto", "--one-file-system", "--"]);
                copy.arg(from.join(".")).arg(&to).holding(lock)?.watched(&|line| said(Line::Output(line)))?;
            } else {
                let unpack =
                    Tool::new("tar", operation).args(["--extract", "--preserve-permissions", "--numeric-owner"]);
                let unpack =
                    unpack.args(["--xattrs", "--xattrs-include=*", "--file"]).arg(from).arg("--directory").arg(&to);
                unpack.holding(lock)?.watched(&|line| said(Line::Output(line)))?;
            }
            let config = format!("{base}lxc.rootfs.path = dir:{}\n", to.display());
            record::replace(&host.config(guest), &config, 0o640)
        }
    }
}

/// Everything that makes it this network's guest.
fn finish(host: &Host, settings: &Settings, container: &Container, first: Option<u32>, said: Said) -> Result<()> {
    let guest = settings.name.as_str();
    said(Line::Stage("preparing it"));
    let path = host.rootfs(guest)?;
    let root = Root::open(&path, 0)?;
    check_init(guest, &root, &path)?;
    let found = prepare::look(&root)?;
    for edit in prepare::first_boot(&found, &container.ssh_keys, container.privileged, &machine_id()?)
        .into_iter()
        .chain(prepare::network(&found, settings))
    {
        edit.apply(&root)?;
    }
    host_keys(guest, &found, &root)?;
    let ids = first.map(|first| Ids { first, count: idmap::COUNT, idmapped: false });
    if let Some(ids) = ids {
        idmap::shift(&path, ids.first)?;
    }
    // Nobody on the host comes near a guest's disk, with its old setuid programs, but the guest itself: its root is in
    // this group.
    let folder = host.folder(guest);
    let group = first.unwrap_or(0);
    std::os::unix::fs::chown(&folder, Some(0), Some(group)).context("give to the guest", folder.display())?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o710)).context("close", folder.display())?;
    let mechanism = prepare::mechanism(&found);
    let record = Record { version: record::VERSION, made_by_us: true, ids, mechanism, settings: settings.clone() };
    write_config(host, &record, container)?;
    record.write(host, guest)
}

/// LXC's configuration of a guest as it is, and as `record` and the file say that it should be.
pub(crate) fn config(host: &Host, record: &Record, container: &Container) -> Result<(String, String)> {
    let settings = &record.settings;
    let guest = settings.name.as_str();
    let path = host.config(guest);
    let before = fs::read_to_string(&path).context("read", path.display())?;
    let folder = host.folder(guest);
    let after = lxc::compose(
        &before,
        &Block {
            settings,
            ids: record.ids,
            sets_addresses: record.mechanism == Mechanism::Lxc,
            without_apparmor: !has_apparmor(),
            plugged: &folder.join("plugged").to_string_lossy(),
            console: &folder.join("console.log").to_string_lossy(),
            further: &container.config,
            made_by_us: record.made_by_us,
        },
    );
    Ok((before, after))
}

/// Writes it; whether it changed.
pub(crate) fn write_config(host: &Host, record: &Record, container: &Container) -> Result<bool> {
    let guest = record.settings.name.as_str();
    let (before, after) = config(host, record, container)?;
    let script = lxc::plugged_script(&record.settings, host.on_plugged(guest).as_deref());
    record::replace(&host.folder(guest).join("plugged"), &script, 0o755)?;
    if after == before {
        return Ok(false);
    }
    record::replace(&host.config(guest), &after, 0o640)?;
    Ok(true)
}

fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// The tools and the template are there; told before anything is made.
fn check_tools(guest: &str, source: &Source) -> Result<()> {
    let program = "lxc-create";
    if !tools::is_on_path(program) {
        let operation = format!("create {guest}");
        return Err(GuestError::Missing { operation, program: program.to_owned(), package: "lxc" });
    }
    let Source::Template { name, .. } = source else { return Ok(()) };
    let script =
        if name.starts_with('/') { PathBuf::from(name) } else { Path::new(TEMPLATES).join(format!("lxc-{name}")) };
    if script.exists() {
        return Ok(());
    }
    let help = if Path::new(TEMPLATES).join("lxc-debian").exists() {
        "`ls /usr/share/lxc/templates` shows those that are there".to_owned()
    } else {
        "install the usual ones: `apt-get install lxc-templates`".to_owned()
    };
    let folder = script.parent().map(Path::to_owned).unwrap_or_default();
    Err(GuestError::NoTemplate { guest: guest.to_owned(), template: name.clone(), folder, help })
}

/// The folder of all containers: there, and open enough for the way to an unprivileged one's root file system.
fn ready_folder(host: &Host, privileged: bool) -> Result<()> {
    let path = host.lxc_path();
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).context("make the folder", path.display())?;
    if privileged {
        return Ok(());
    }
    for folder in path.ancestors() {
        let meta = fs::metadata(folder).context("look at", folder.display())?;
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o001 != 0 {
            continue;
        }
        if folder != path {
            return Err(GuestError::InTheWay {
                operation: format!("keep unprivileged guests in {}", path.display()),
                why: format!(
                    "{} is closed to their user ids (mode {mode:04o}): `chmod o+x {}`, or set privileged = true",
                    folder.display(),
                    folder.display()
                ),
            });
        }
        // Each container's own folder in it is closed.
        fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o001)).context("open", folder.display())?;
    }
    Ok(())
}

/// A guest that has no first process to start is none.
fn check_init(guest: &str, root: &Root, path: &Path) -> Result<()> {
    // What liblxc starts where nothing else is said, and what the kernel does.
    let inits = ["sbin/init", "etc/init", "bin/init", "bin/sh"];
    if inits.iter().any(|init| root.exists(init)) {
        return Ok(());
    }
    Err(not_a_root(guest, path, "there is neither /sbin/init nor /bin/sh in it".to_owned()))
}

fn not_a_root(guest: &str, path: &Path, why: String) -> GuestError {
    let why = format!("{why}\nname a folder that holds a whole Linux, or a tar archive of one");
    GuestError::Rootfs { guest: guest.to_owned(), path: path.to_owned(), why }
}

/// machine-id(5): 32 hexadecimal digits that nobody else has; systemd makes its own as random UUIDs, too.
fn machine_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).context("read", path)?.trim().replace('-', ""))
}

/// sshd's keys, made here: nothing of the guest's own is run on the host.
fn host_keys(guest: &str, found: &prepare::Found, root: &Root) -> Result<()> {
    if !found.sshd && found.host_keys.is_empty() {
        return Ok(());
    }
    for name in &found.host_keys {
        root.remove(&format!("etc/ssh/{name}"))?;
    }
    let folder = tempfile::TempDir::new().context("make", "a folder for SSH host keys")?;
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let path = folder.path().join(kind);
        let tool = Tool::new("ssh-keygen", format!("make SSH host keys for {guest}"));
        tool.args(["-q", "-t", kind, "-N", "", "-C"]).arg(format!("root@{guest}")).arg("-f").arg(&path).text()?;
        let private = fs::read_to_string(&path).context("read", path.display())?;
        let public = path.with_extension("pub");
        let public = fs::read_to_string(&public).context("read", public.display())?;
        prepare::host_key(kind, &private, &public).iter().try_for_each(|edit: &Edit| edit.apply(root))?;
    }
    Ok(())
}

fn busy(guest: &str) -> GuestError {
    GuestError::InTheWay {
        operation: format!("create {guest}"),
        why: "another warren, or what one that was killed has left running, is doing so at this moment".to_owned(),
    }
}

/// That a guest is being made, and by whom: a locked file beside its folder.
struct Mark {
    path: PathBuf,
    file: File,
}

impl Mark {
    /// Fails where another process makes the guest; takes away what one that was killed has left.
    fn take(host: &Host, guest: &str) -> Result<Self> {
        let path = host.lxc_path().join(format!("{}{guest}", idmap::MARK));
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        loop {
            let mut file = open().context("make", path.display())?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(GuestError::InTheWay {
                        operation: format!("create {guest}"),
                        why: "another warren, or a template that one has left behind, is doing so at this moment"
                            .to_owned(),
                    });
                }
                Err(e) => return Err(GuestError::io("lock", path.display(), e)),
            }
            // It may have been taken away between opening and locking: then it is nobody's any more.
            let same = fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|f| f.ino() == there.ino()));
            if !same {
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).context("read", path.display())?;
            if !text.is_empty() && !Record::path(host, guest).exists() {
                // LXC's own mark, which lxc-create has locked as long as it is at work.
                if let Ok(partial) = OpenOptions::new().write(true).open(host.folder(guest).join("partial")) {
                    rustix::fs::fcntl_lock(&partial, FlockOperation::NonBlockingLockExclusive)
                        .map_err(|_| busy(guest))?;
                }
                remove_tree(&host.folder(guest))?;
            }
            return Ok(Self { path, file });
        }
    }

    /// From now on what is in the guest's folder is ours; keeps a range of ids for an unprivileged one.
    fn reserve(&mut self, host: &Host, privileged: bool) -> Result<Option<u32>> {
        let _lock = idmap::lock(host)?;
        let first = if privileged { None } else { Some(idmap::free_range(host)?) };
        let text = first.map_or_else(|| "privileged".to_owned(), |first| first.to_string());
        let write = || -> std::io::Result<()> {
            let mut file = &self.file;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().context("write", self.path.display())?;
        Ok(first)
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).context("remove", self.path.display())
    }
}

/// Removes a container's folder with all that is in it; what is mounted in it, by a template that was killed, is
/// unmounted first, so that nothing is deleted through it.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read", "/proc/self/mountinfo")?;
    let path = fs::canonicalize(path).context("look at", path.display())?;
    for mount in mounts_below(&mounts, &path).iter().rev() {
        rustix::mount::unmount(mount.as_path(), rustix::mount::UnmountFlags::DETACH)
            .context("unmount", mount.display())?;
    }
    fs::remove_dir_all(&path).context("remove", path.display())
}

/// proc(5): the fifth field is where it is mounted, with blanks as \040.
fn mounts_below(mountinfo: &str, path: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " "));
    points.map(PathBuf::from).filter(|point| point.starts_with(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_a_folder_are_told_from_those_beside_it() {
        let text = "25 1 8:1 / / rw - ext4 x rw\n30 25 0:5 / /lxc/a\\040b/rootfs/proc rw - proc p rw\n\
                    31 25 0:5 / /lxc/a\\040bc rw - tmpfs t rw\n";
        assert_eq!(mounts_below(text, Path::new("/lxc/a b")), [PathBuf::from("/lxc/a b/rootfs/proc")]);
    }
}
