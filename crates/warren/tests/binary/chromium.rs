//! `warren connect` with a real Chromium: all of it, or the LAN's names alone, go through; the laptop's resolvers are
//! asked for nothing of the LAN's. What goes by the proxy alone is asked of its own script by node.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::lab;
use crate::laptop::{capture, connect, ends, hears, left, page, prepare, sshd};
use crate::serve::{NETWORK, Serve};
use crate::support::{Ran, Running, Scene, at, settle, which};

/// What of a picture has that colour, in parts of a hundred: PNG of 8 bits a sample, RGB or RGBA (RFC 2083).
const COLOURED: &str = r"
import struct, sys, zlib
data, at, packed = open(sys.argv[1], 'rb').read(), 8, b''
while at < len(data):
    length, kind = struct.unpack('>I4s', data[at:at + 8])
    body, at = data[at + 8:at + 8 + length], at + 12 + length
    if kind == b'IHDR': width, height, depth, colour = struct.unpack('>IIBB', body[:10])
    if kind == b'IDAT': packed += body
assert depth == 8 and colour in (2, 6)
size = 3 if colour == 2 else 4
raw, before, found = zlib.decompress(packed), bytearray(width * size), 0
for row in range(height):
    start = row * (width * size + 1)
    sort, line = raw[start], bytearray(raw[start + 1:start + 1 + width * size])
    for i in range(len(line)):
        left, up, corner = (line[i - size] if i >= size else 0), before[i], (before[i - size] if i >= size else 0)
        if sort == 1: line[i] = (line[i] + left) & 255
        elif sort == 2: line[i] = (line[i] + up) & 255
        elif sort == 3: line[i] = (line[i] + (left + up) // 2) & 255
        elif sort == 4:
            guess = left + up - corner
            a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
            line[i] = (line[i] + (left if a <= b and a <= c else up if b <= c else corner)) & 255
    found += sum(line[i:i + 3] == bytes.fromhex(sys.argv[2]) for i in range(0, len(line), size))
    before = line
print(100 * found // (width * height))
";

fn coloured(picture: &Path, colour: &str) -> u32 {
    let output = Command::new("/usr/bin/python3").args(["-c", COLOURED]).arg(picture).arg(colour).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

/// Chromium by `connect`, which takes a picture of `url` and ends.
fn chromium(scene: &Scene, options: &[&str], picture: &Path, url: &str) -> Running {
    let mut command = connect(scene, &["203.0.113.2", "-p", "2222", "--browser", "/usr/bin/chromium"]);
    command.args(options).args(["--", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--window-size=400,300", "--virtual-time-budget=2000"]);
    command.arg(format!("--screenshot={}", picture.display())).arg(url);
    Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Where the script sends a browser, asked as browsers do.
fn ways(script: &str, hosts: &[&str]) -> Vec<String> {
    let asked = hosts.iter().map(|host| format!("console.log(FindProxyForURL(\"http://{host}/\", \"{host}\"));\n"));
    let whole = script.to_owned() + &asked.collect::<String>();
    Ran::of(Command::new(which("node")).args(["-e", &whole])).ends(0).out.lines().map(str::to_owned).collect()
}

#[test]
fn chromium_sees_the_lan_and_asks_no_resolver_for_it() {
    lab(|| {
        let scene = Scene::new();
        let environment = prepare(&scene);
        scene.write(&format!("{NETWORK}[socks]\n[web]\n").replace("[host]", "[host]\nhosts-resolver = false"));
        let _serving = Serve::start(&scene);
        settle(&["cnx6"]);
        // Not where ssh's configuration, or its habit, would look.
        let _door = sshd(&scene, "server", 2222, &environment);
        let (_page, log) = page(&scene);
        let (_tcpdump, questions) = capture();

        let (all, only) = (scene.folder().join("all.png"), scene.folder().join("only.png"));
        let mut running = [
            chromium(&scene, &[], &all, "http://cnx6.cnx.example:8080/"),
            chromium(&scene, &["--lan-only"], &only, "http://www.cnx.example:8080/"),
        ];
        running.iter_mut().for_each(|chromium| ends(chromium, "Chromium"));
        let shown = fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(shown.lines().filter(|line| *line == "/shown-cnx6-guest").count(), 2, "{shown}");
        for picture in [&all, &only] {
            let green = coloured(picture, "2a6b3c");
            assert!(green > 80, "{green} parts of {} are the guest's", picture.display());
        }
        // Of its own it asks nobody, and nobody for the LAN's names.
        assert_eq!(questions.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(left(&scene.folder().join("tmp")), Vec::<String>::new());

        // Who is elsewhere is asked for here, with --lan-only alone; the picture is not the guest's.
        let away = scene.folder().join("away.png");
        let mut elsewhere = chromium(&scene, &["--lan-only"], &away, "http://elsewhere.example/");
        hears(&questions, "elsewhere.example");
        ends(&mut elsewhere, "Chromium");
        assert!(!away.exists() || coloured(&away, "2a6b3c") == 0);
        let leaked: Vec<String> =
            questions.try_iter().filter(|line| line.contains("cnx") || line.contains("br2")).collect();
        assert_eq!(leaked, Vec::<String>::new());

        what_the_script_sends_where(&scene);
        the_door_is_counted(&scene);
    });
}

/// `--print pac`, and /proxy.pac: the one function, with what each of them knows.
fn what_the_script_sends_where(scene: &Scene) {
    let mut printed = connect(scene, &["203.0.113.2", "-p", "2222", "--listen", "1099", "--print", "pac"]);
    let script = Ran::of(&mut printed).ends(0).out;
    let through = "SOCKS5 127.0.0.1:1099";
    let inside = [
        "cnx6",
        "www",
        "CNX6.cnx.example",
        "cnx6.cnx.example.",
        "cnx.example",
        "any.cnx.example",
        "10.1.1.6",
        "10.1.1.200",
        "10.1.2.6",
        "alone.br2.internal",
        "fd10:1:1::6",
        "[fd10:1:1::6]",
        "fd10:1:1:0:0:0:0:99",
    ];
    let outside = [
        "example.org",
        "notcnx.example",
        "cnx.example.org",
        "cnx7",
        "10.1.3.6",
        "10.1.1",
        "110.1.1.6",
        "fd10:1:2::6",
        "::1",
        "127.0.0.1",
        "203.0.113.2",
    ];
    for (host, way) in inside.iter().zip(ways(&script, &inside)) {
        assert_eq!(way, through, "{host}");
    }
    for (host, way) in outside.iter().zip(ways(&script, &outside)) {
        assert_eq!(way, "DIRECT", "{host}");
    }
    let served = at("server", "curl").args(["--silent", "http://127.0.0.1:7117/proxy.pac"]).output().unwrap().stdout;
    let served = ways(&String::from_utf8(served).unwrap(), &["www.cnx.example", "fd10:1:1::6", "example.org"]);
    assert_eq!(served, ["SOCKS5 127.0.0.1:1080", "SOCKS5 127.0.0.1:1080", "DIRECT"]);
}

/// What the door did, for Prometheus.
fn the_door_is_counted(scene: &Scene) {
    let refused = at("server", "curl")
        .args(["--silent", "--max-time", "20", "--socks5-hostname", "127.0.0.1:1080", "http://127.0.0.1/"])
        .status()
        .unwrap();
    assert!(!refused.success());
    let token = fs::read_to_string(scene.folder().join("state/web-token")).unwrap();
    let mut curl = at("server", "curl");
    curl.args(["--silent", "-H", &format!("Authorization: Bearer {}", token.trim()), "http://127.0.0.1:7117/metrics"]);
    let text = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    let value = |name: &str| -> u64 {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.trim().parse().unwrap()
    };
    assert!(value("warren_socks_clients_total ") >= 3);
    assert!(value("warren_socks_connections_total{outcome=\"connected\"} ") >= 2);
    assert_eq!(value("warren_socks_connections_total{outcome=\"refused\"} "), 1);
    assert!(value("warren_socks_bytes_total{direction=\"sent\"} ") > 0);
    assert!(
        value("warren_socks_bytes_total{direction=\"received\"} ")
            > value("warren_socks_bytes_total{direction=\"sent\"} ") / 10
    );
    assert_eq!(value("warren_socks_open "), 0);
}
