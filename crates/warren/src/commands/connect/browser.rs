//! The browser: found, given a profile that is thrown away, ended.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::time::sleep;

use super::learn::Learned;
use super::pac;
use crate::cli::Connect;
use crate::context::{Exit, Failure};

/// Those that are looked for, in this order.
const KNOWN: [&str; 7] =
    ["firefox", "firefox-esr", "librewolf", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How often it is looked whether it runs.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to close.
const CLOSING: Duration = Duration::from_secs(5);

/// A browser that may be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser {
    program: PathBuf,
    sort: Sort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Firefox,
    Chromium,
}

/// One that runs, until this is dropped; its profile goes with it.
pub struct Running {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// The one of that name, or the first that is there; none where there is no display, and none is named.
    pub fn find(named: Option<&str>) -> Result<Option<Self>, Failure> {
        let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
        match named {
            Some("none") => Ok(None),
            Some(name) => {
                let missing = || Failure::new(Exit::Failed, format!("there is no program \"{name}\" here"));
                // Firefox's kin reads its profile; all the others of today are Chromium's.
                let sort = if is_firefox(name) { Sort::Firefox } else { Sort::Chromium };
                Ok(Some(Self { program: on_path(name).ok_or_else(missing)?, sort }))
            }
            None if !has_display => Ok(None),
            None => Ok(KNOWN.iter().find_map(|name| {
                let sort = if is_firefox(name) { Sort::Firefox } else { Sort::Chromium };
                on_path(name).map(|program| Self { program, sort })
            })),
        }
    }

    /// Starts it with a profile of its own.
    pub fn start(&self, learned: &Learned, port: u16, options: &Connect) -> Result<Running, Failure> {
        let failed =
            |e: std::io::Error| Failure::new(Exit::Failed, format!("cannot start {}: {e}", self.program.display()));
        let profile = tempfile::Builder::new().prefix("warren-").tempdir().map_err(failed)?;
        let only = options.lan_only.then(|| pac::as_url(&pac::pac(learned, port)));
        let mut command = Command::new(&self.program);
        match self.sort {
            Sort::Firefox => {
                fs::write(profile.path().join("user.js"), firefox(port, only.as_deref())).map_err(failed)?;
                command.args(["--no-remote", "--profile"]).arg(profile.path());
            }
            Sort::Chromium => {
                command.args(chromium(profile.path(), port, only.as_deref()));
            }
        }
        if options.arguments.is_empty() {
            let start = profile.path().join("start.html");
            fs::write(&start, page(learned)).map_err(failed)?;
            command.arg(format!("file://{}", start.display()));
        }
        // A terminal's ^C is for us, who end it.
        command.args(&options.arguments).stdin(Stdio::null()).process_group(0);
        let child = command.spawn().map_err(failed)?;
        Ok(Running { child, _profile: profile })
    }
}

impl Running {
    /// Waits until its last window is closed.
    pub async fn ended(&mut self) {
        while matches!(self.child.try_wait(), Ok(None)) {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = Pid::from_raw(self.child.id().cast_signed()) else { return };
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(group, Signal::TERM);
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < CLOSING {
                std::thread::sleep(LOOK);
            }
        }
        // Whoever of them is left would write into the profile that goes.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn is_firefox(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    ["firefox", "librewolf"].iter().any(|kin| name.starts_with(kin))
}

fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// user.js: what goes through the proxy, and nothing that a browser looks up of its own.
fn firefox(port: u16, only: Option<&str>) -> String {
    let mut text = String::new();
    let mut set = |key: &str, value: &str| {
        let _ = writeln!(text, "user_pref(\"{key}\", {value});");
    };
    match only {
        Some(url) => {
            set("network.proxy.type", "2");
            set("network.proxy.autoconfig_url", &format!("\"{url}\""));
        }
        None => {
            set("network.proxy.type", "1");
            set("network.proxy.socks", "\"127.0.0.1\"");
            set("network.proxy.socks_port", &port.to_string());
            set("network.proxy.socks_version", "5");
            set("network.proxy.no_proxies_on", "\"\"");
        }
    }
    for key in ["network.proxy.socks_remote_dns", "network.proxy.socks5_remote_dns", "network.dns.disablePrefetch"] {
        set(key, "true");
    }
    // Without the proxy nothing goes out, not around it either.
    set("network.proxy.failover_direct", "false");
    set("network.proxy.allow_bypass", "false");
    set("media.peerconnection.ice.proxy_only", "true");
    // No resolver but the proxy's; 5 is "off by choice".
    set("network.trr.mode", "5");
    for key in [
        "network.prefetch-next",
        "network.predictor.enabled",
        "network.captive-portal-service.enabled",
        "network.connectivity-service.enabled",
        "dom.security.https_only_mode",
        "dom.security.https_first",
        "keyword.enabled",
        "toolkit.telemetry.enabled",
        "toolkit.telemetry.unified",
        "toolkit.telemetry.archive.enabled",
        "datareporting.healthreport.uploadEnabled",
        "datareporting.policy.dataSubmissionEnabled",
        "app.normandy.enabled",
        "app.shield.optoutstudies.enabled",
        "app.update.auto",
        "extensions.update.enabled",
        "browser.aboutwelcome.enabled",
        "browser.newtabpage.enabled",
        "browser.search.update",
        "browser.shell.checkDefaultBrowser",
        "browser.region.update.enabled",
        "browser.tabs.warnOnClose",
    ] {
        set(key, "false");
    }
    set("network.http.speculative-parallel-limit", "0");
    set("browser.startup.homepage_override.mstone", "\"ignore\"");
    set("browser.startup.homepage", "\"about:blank\"");
    set("startup.homepage_welcome_url", "\"\"");
    set("browser.region.network.url", "\"\"");
    set("media.gmp-manager.url", "\"\"");
    text
}

fn chromium(profile: &Path, port: u16, only: Option<&str>) -> Vec<String> {
    let mut words = vec![format!("--user-data-dir={}", profile.display())];
    match only {
        Some(url) => words.push(format!("--proxy-pac-url={url}")),
        None => {
            words.push(format!("--proxy-server=socks5://127.0.0.1:{port}"));
            // Whatever would be resolved here is not found (the proxy's own address needs no resolver).
            words.push("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1".to_owned());
        }
    }
    let plain = [
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-domain-reliability",
        "--disable-sync",
        "--disable-breakpad",
        "--disable-client-side-phishing-detection",
        "--dns-prefetch-disable",
        "--no-pings",
        "--metrics-recording-only",
        "--disable-features=OptimizationHints,MediaRouter,AutofillServerCommunication,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,DnsOverHttps,NetworkTimeServiceQuerying",
        // It asks there for updates and for whom it is signed in as, whatever it is told. To what pages ask this is
        // nothing.
        "--component-updater=url-source=http://127.0.0.1:9/",
        "--gaia-url=http://127.0.0.1:9/",
        "--webrtc-ip-handling-policy=disable_non_proxied_udp",
        "--password-store=basic",
    ];
    words.extend(plain.map(str::to_owned));
    words
}

/// The first page: what there is to open.
fn page(learned: &Learned) -> String {
    let mut list = String::new();
    // Names are letters, digits, dots and dashes alone.
    let names = learned.guests.iter().map(super::learn::Named::full).chain(learned.sites.iter().cloned());
    for name in names.filter(|name| !name.contains('*')) {
        let _ = writeln!(list, "<li><a href=\"http://{name}/\">{name}</a></li>");
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>warren</title>\n\
         <style>:root {{ color-scheme: light dark; font: 1.1em sans-serif; margin: 2em }}</style>\n\
         <h1>Inside</h1>\n<ul>\n{list}</ul>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sort_a_program_is() {
        for (name, firefox) in [("firefox-esr", true), ("/opt/firefox/firefox", true), ("chromium", false)] {
            assert_eq!(is_firefox(name), firefox, "{name}");
        }
    }

    #[test]
    fn all_of_it_or_just_the_lans_goes_through_and_names_with_it() {
        let all = firefox(4711, None);
        assert!(all.contains("user_pref(\"network.proxy.socks_port\", 4711);") && all.contains("remote_dns\", true"));
        assert!(firefox(4711, Some("data:x")).contains("\"network.proxy.autoconfig_url\", \"data:x\""));
        let words = chromium(Path::new("/p"), 4711, None).join(" ");
        assert!(words.contains("socks5://127.0.0.1:4711") && words.contains("MAP * ~NOTFOUND"));
        let only = chromium(Path::new("/p"), 4711, Some("data:x")).join(" ");
        assert!(only.contains("--proxy-pac-url=data:x") && !only.contains("NOTFOUND"), "others are resolved here");
    }
}
