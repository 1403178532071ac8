//! Nothing is written or read out of a guest's root, whatever links the guest has laid.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use guests::prepare::{self, Edit};
use guests::root::Root;

/// A host folder with a file that nobody may touch, and a guest's root below it.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("host/etc")).unwrap();
        fs::write(folder.path().join("host/etc/hostname"), "host\n").unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        Self { folder }
    }

    fn host(&self) -> std::path::PathBuf {
        self.folder.path().join("host")
    }

    fn inside(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn root(&self) -> Root {
        Root::open(&self.inside(""), rustix_me()).unwrap()
    }

    /// What of the host's is there, and what stands in it.
    #[track_caller]
    fn host_is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.host().join("etc")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["hostname"]);
        assert_eq!(fs::read_to_string(self.host().join("etc/hostname")).unwrap(), "host\n");
    }
}

/// Who runs the test: a plain user can give files to nobody else.
fn rustix_me() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn edits() -> Vec<Edit> {
    let write = |path: &str| Edit::Write { path: path.into(), text: "guest\n".into(), mode: 0o644, folder_mode: 0o755 };
    vec![
        write("etc/hostname"),
        write("etc/network/interfaces"),
        Edit::Link { path: "etc/systemd/system/a.mount".into(), to: "/dev/null".into() },
        Edit::Remove { path: "etc/hostname".into() },
    ]
}

#[test]
fn an_etc_that_links_to_the_hosts_is_looked_up_in_the_guest() {
    let scene = Scene::new();
    // In the guest's eyes /…/host/etc does not exist: the link leads nowhere.
    symlink(scene.host().join("etc"), scene.inside("etc")).unwrap();
    let root = scene.root();
    for edit in edits().into_iter().filter(|edit| !matches!(edit, Edit::Remove { .. })) {
        let error = edit.apply(&root).unwrap_err().to_string();
        assert!(error.contains("/etc") && error.contains("No such file"), "{error}");
    }
    assert_eq!(root.read("etc/hostname").unwrap(), None);
    scene.host_is_untouched();
    // Where the guest has such a folder, that is the one that is meant.
    let same = scene.inside(scene.host().join("etc").strip_prefix("/").unwrap().to_str().unwrap());
    fs::create_dir_all(&same).unwrap();
    edits()[..2].iter().for_each(|edit| edit.apply(&root).unwrap());
    assert_eq!(fs::read_to_string(same.join("hostname")).unwrap(), "guest\n");
    assert_eq!(root.read("etc/hostname").unwrap().as_deref(), Some("guest\n"));
    scene.host_is_untouched();
}

#[test]
fn dots_do_not_climb_out() {
    let scene = Scene::new();
    symlink("../host/etc", scene.inside("etc")).unwrap();
    let root = scene.root();
    assert!(edits()[0].apply(&root).is_err());
    assert_eq!(root.read("../host/etc/hostname").unwrap(), None);
    assert!(!root.exists("../host/etc"));
    assert!(root.list("../host/etc").is_empty());
    for bad in ["etc/..", "..", "", "/", "a/."] {
        assert!(root.write(bad, "x", 0o644, 0o755).is_err(), "{bad:?}");
    }
    scene.host_is_untouched();
}

#[test]
fn a_link_in_the_last_place_is_replaced_not_followed() {
    let scene = Scene::new();
    fs::create_dir(scene.inside("etc")).unwrap();
    let host_file = scene.host().join("etc/hostname");
    symlink(&host_file, scene.inside("etc/hostname")).unwrap();
    symlink(&host_file, scene.inside("etc/.hostname.warren")).unwrap();
    // A file that is the host's by a second name, too, keeps its contents there.
    fs::hard_link(&host_file, scene.inside("etc/hosts")).unwrap();
    let root = scene.root();
    root.write("etc/hostname", "guest\n", 0o600, 0o755).unwrap();
    root.write("etc/hosts", "guest\n", 0o640, 0o755).unwrap();
    scene.host_is_untouched();
    let meta = fs::symlink_metadata(scene.inside("etc/hostname")).unwrap();
    assert!(meta.is_file());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(scene.inside("etc/hosts")).unwrap(), "guest\n");
    let names: Vec<_> = root.list("etc");
    assert_eq!(names, ["hostname", "hosts"]);
}

#[test]
fn circles_pipes_and_devices_end_and_do_not_hang() {
    let scene = Scene::new();
    symlink("/etc", scene.inside("etc")).unwrap();
    let root = scene.root();
    let error = edits()[0].apply(&root).unwrap_err().to_string();
    assert!(error.contains("circle"), "{error}");
    assert_eq!(root.read("etc/hostname").unwrap(), None);
    fs::create_dir(scene.inside("run")).unwrap();
    let pipe = scene.inside("run/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(root.read("run/pipe").unwrap(), None);
    root.write("run/pipe", "now a file\n", 0o644, 0o755).unwrap();
    assert_eq!(root.read("run/pipe").unwrap().as_deref(), Some("now a file\n"));
    // A folder where a file should be is left, and told.
    fs::create_dir_all(scene.inside("run/folder/full")).unwrap();
    assert!(root.write("run/folder", "x", 0o644, 0o755).is_err());
    assert!(root.remove("run/folder").is_err());
    assert!(root.list("run").iter().all(|name| !name.ends_with(".warren")));
}

#[test]
fn folders_are_made_as_they_are_wanted_and_others_left() {
    let scene = Scene::new();
    let root = scene.root();
    root.write("root/.ssh/authorized_keys", "key\n", 0o600, 0o700).unwrap();
    let mode = |path: &str| fs::metadata(scene.inside(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("root/.ssh"), mode("root/.ssh/authorized_keys")), (0o700, 0o600));
    root.symlink("root/.ssh/authorized_keys", "/nowhere").unwrap();
    assert_eq!(root.link("root/.ssh/authorized_keys").as_deref(), Some("/nowhere"));
    assert!(root.is_named("root/.ssh/authorized_keys") && !root.exists("root/.ssh/authorized_keys"));
    root.remove("root/.ssh/authorized_keys").unwrap();
    root.remove("root/.ssh/authorized_keys").unwrap();
    root.remove("nothing/at/all").unwrap();
    assert!(!Path::new(&scene.inside("nothing")).exists());
}

#[test]
fn looking_at_a_hostile_root_tells_nothing_of_the_hosts() {
    let scene = Scene::new();
    for name in ["etc", "sbin", "usr", "root", "bin"] {
        symlink(format!("/{name}"), scene.inside(name)).unwrap();
    }
    let found = prepare::look(&scene.root()).unwrap();
    assert_eq!(found, prepare::Found::default());
}
