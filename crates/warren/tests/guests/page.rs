//! The page of `[web]`, in Chromium by Playwright (page.js): the picture, and what of it moves when guests do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Place, lab};
use crate::support::{PATIENCE, Ran, Running, which};

const MORE: &str = "[[forward]]\nlisten = \"22210/tcp\"\nto = \"cnx6:22\"\n\n\
                    [[site]]\nhost = \"cnx.example.org\"\nto = [\"cnx6:80\"]\n\n[socks]\n\n[web]\n";

/// Where `cargo xtask test` has put Playwright.
const PLAYWRIGHT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/playwright/node_modules/playwright-core");

#[test]
fn the_page_in_a_browser() {
    lab(|| {
        assert!(Path::new(PLAYWRIGHT).exists(), "`cargo xtask test` fetches Playwright");
        let place = Place::new();
        let busybox = |address: &str| format!("address = [\"{address}\"]\ntemplate = \"busybox\"");
        place.write(&[("cnx6", &busybox("10.1.1.6")), ("cnx7", &busybox("10.1.1.7"))], MORE);
        place.warren("up").ends(0);
        place.inside("cnx6", "mkdir -p /www && echo cnx6 > /www/index.html && httpd -p 80 -h /www").ends(0);
        let folder = place.scene.folder();
        let log = fs::File::create(folder.join("serve.log")).unwrap();
        let mut command = place.command();
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let _serve = Running::start(&mut command);
        let said = || fs::read_to_string(folder.join("serve.log")).unwrap();
        let begun = Instant::now();
        while !said().contains("serving") {
            assert!(begun.elapsed() < PATIENCE, "it does not serve:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let environment = place.command();
        let mut driver = Command::new(which("node"));
        driver.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/page.js"));
        let told = environment.get_envs().filter(|(key, _)| *key != "PATH");
        driver.env_clear().envs(told.filter_map(|(key, value)| Some((key, value?))));
        driver.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        driver.env("PLAYWRIGHT", PLAYWRIGHT).env("PAGE", "http://127.0.0.1:7117").env("FOLDER", folder);
        driver.env("WARREN", environment.get_program()).env("HOME", folder).env("TMPDIR", folder);
        driver.env("TOKEN", fs::read_to_string(folder.join("state/web-token")).unwrap().trim());
        let ran = Ran::of(&mut driver);
        assert_eq!(ran.code, Some(0), "{}\n{}\n{}", ran.out, ran.err, said());
        for picture in ["stopped.png", "phone.png"] {
            assert!(fs::read(folder.join(picture)).unwrap().starts_with(b"\x89PNG"));
        }
        place.warren("down --guests").ends(0);
    });
}
