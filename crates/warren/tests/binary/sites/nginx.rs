//! `export nginx`: the same requests through real nginx and through warren, and what the guests saw.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::web::{Web, curl, header, status};
use super::{NETWORK, until};
use crate::common::lab;
use crate::serve::Serve;
use crate::support::{Running, Scene};

/// Arguments of curl's, and the URL's path.
const REQUESTS: &[(&str, &str)] = &[
    ("--header Host:www.example.org", "/"),
    ("--header Host:www.example.org", "/a%2Fb//c/./%7e;x=1?q=/../%2e%00&&"),
    ("--header Host:WWW.example.org:80", "/api"),
    ("--header Host:www.example.org", "/api/x/../y"),
    ("--header Host:www.example.org", "/apix"),
    ("--header Host:www.example.org", "/%61pi/z"),
    ("--header Host:x.wild.example --user-agent Mozilla --header Accept-Encoding:gzip", "/w"),
    ("--header Host:x.y.wild.example", "/"),
    ("--header Host:nobody.example.org", "/"),
    ("--header Host:old.example.org", "/x"),
    ("--header Host:old.example.org --data a=1", "/x"),
    ("--header Host:closed.example.org", "/"),
    ("--header Host:www.example.org --data a=1", "/count"),
    ("--header Host:www.example.org --request DELETE", "/thing"),
    ("--header Host:www.example.org --head", "/head"),
    (
        "--header Host:www.example.org --header Cookie:a=1 --header X-Forwarded-For:1.2.3.4 --header Forwarded:for=x",
        "/f",
    ),
    ("--header Host:www.example.org --header X-Real-IP:1.2.3.4 --header X-Forwarded-Proto:https --http1.0", "/old"),
    ("--header Host:www.example.org", "/../up"),
];

/// A request as a guest saw it: its first line, and its headers in whatever order and case.
type Seen = (String, BTreeSet<String>);

/// What each request was answered (status, and where to), and what of it the guests saw.
fn asked(guests: &[&Web]) -> Vec<(u16, Option<String>, Vec<Seen>)> {
    let ask = |(words, path): &(&str, &str)| {
        let before: Vec<usize> = guests.iter().map(|guest| guest.heads().len()).collect();
        let answer = curl("world", &format!("http://203.0.113.2{path}"), words);
        let new = guests.iter().zip(before).flat_map(|(guest, before)| guest.heads().split_off(before));
        let seen = new.map(|head| {
            let mut lines = head.trim_end().split("\r\n");
            let first = lines.next().unwrap().to_owned();
            let lower = |line: &str| {
                let (name, value) = line.split_once(':').unwrap();
                format!("{}:{}", name.to_ascii_lowercase(), value.trim())
            };
            // What is about the connection to the guest, either way of saying it.
            let kept = lines.map(lower).filter(|line| !line.starts_with("connection:"));
            (first, kept.collect())
        });
        (status(&answer), header(&answer, "location").map(str::to_owned), seen.collect())
    };
    REQUESTS.iter().map(ask).collect()
}

/// Where it keeps what it keeps for a while: nowhere but in the scene's folder.
pub fn temporary(folder: &Path) -> String {
    let all = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    all.iter().map(|what| format!("{what}_temp_path {}/{what};\n", folder.display())).collect()
}

#[test]
fn what_guests_see_is_what_they_see_behind_nginx() {
    lab(|| {
        let scene = Scene::new();
        let text = NETWORK.replace("to = [\"a:80\", \"b:80\"]", "to = [\"a:80\"]");
        scene.up(&text, &["a"]);
        let (a, alone) = (Web::start("a", 80), Web::start("alone", 8080));
        let exported = scene.warren("export nginx").ends(0).out;
        let folder = scene.folder();
        fs::write(folder.join("sites.conf"), &exported).unwrap();
        let at = folder.display();
        let temporary = temporary(folder);
        let conf = format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/error.log;\nevents {{ }}\n\
             http {{\n{temporary}include {at}/sites.conf;\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), conf).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg(folder.join("error.log")).arg("-c").arg(folder.join("nginx.conf"));
        let running = Running::start(nginx.stdin(Stdio::null()).stdout(Stdio::null()));
        until("world", "http://203.0.113.2/", "--header Host:www.example.org", 200);
        let by_nginx = asked(&[&a, &alone]);
        drop(running);

        let _serving = Serve::start(&scene);
        until("world", "http://203.0.113.2/", "--header Host:www.example.org", 200);
        let by_warren = asked(&[&a, &alone]);
        for ((request, nginx), warren) in REQUESTS.iter().zip(by_nginx).zip(by_warren) {
            assert_eq!(warren, nginx, "{request:?}\n{exported}");
        }
    });
}
