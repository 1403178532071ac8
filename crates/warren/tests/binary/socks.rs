//! `[socks]`: by curl, by PySocks, by sockets that say what no client would.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::serve::{NETWORK, Serve, resolver};
use crate::support::{PATIENCE, Running, Scene, listen, seen, serve, settle};

const DOOR: &str = "[socks]\nlisten = [\"127.0.0.1:1080\", \"[::1]:1080\"]\n";
const DOOR_OF_ONE: &str = "[socks]\nlisten = [\"127.0.0.1:1080\", \"[::1]:1080\"]\nlans = [\"br1\"]\n";

/// What curl gets through the proxy; where it gets nothing, the code that it was refused with.
fn curl(proxy: &str, url: &str) -> Result<String, String> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--globoff", "--max-time", "20", "--socks5-hostname", proxy, url])
        .output()
        .expect("curl is needed");
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    let error = String::from_utf8(output.stderr).unwrap();
    // "Can't complete SOCKS5 connection to NAME. (2)"
    let code = error.rsplit_once('(').and_then(|(_, rest)| rest.split(')').next()).map(str::to_owned);
    Err(code.unwrap_or(error))
}

/// A stream through the proxy that stands, by PySocks: each line that is said comes back.
struct Stream {
    process: Running,
    say: ChildStdin,
    heard: BufReader<std::process::ChildStdout>,
}

impl Stream {
    fn to(host: &str, port: u16) -> Self {
        let script = "import socks, sys\n\
            s = socks.socksocket(); s.set_proxy(socks.SOCKS5, '127.0.0.1', 1080, rdns=True)\n\
            s.connect((sys.argv[1], int(sys.argv[2])))\n\
            f = s.makefile('rwb', 0)\n\
            for line in sys.stdin:\n  \
                f.write(line.encode()); print(f.readline().decode().strip() or 'gone', flush=True)\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script, host, &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut process = Running::start(&mut command);
        let (say, heard) = (process.0.stdin.take().unwrap(), BufReader::new(process.0.stdout.take().unwrap()));
        Self { process, say, heard }
    }

    /// What comes back; "" where the stream has broken.
    fn echo(&mut self, word: &str) -> String {
        let _ = writeln!(self.say, "{word}");
        let mut line = String::new();
        self.heard.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

/// What the door counts.
fn count(scene: &Scene, what: &str) -> u64 {
    scene.warren("--json status").ends(0).json()["services"]["socks"][what].as_u64().unwrap()
}

#[test]
fn guests_and_the_world_by_address_and_by_name_and_never_the_host() {
    lab(|| {
        let scene = Scene::new();
        tool("ip -n world address add 198.51.100.80/32 dev lo");
        // Addresses of the host's that no file names: a second one of the uplink's, and one that is only routed to it.
        tool("ip address add 203.0.113.9/24 dev eth0");
        tool("ip route add local 192.0.2.0/28 dev lo");
        let _names = resolver();
        scene.write(&format!("{NETWORK}{DOOR_OF_ONE}"));
        let before = take();
        let running = Serve::start(&scene);
        settle(&["cnx6"]);
        let _servers = ["cnx6", "alone", "world", "server"].map(|place| serve(&scene, place, 80));
        let proxy = "127.0.0.1:1080";
        let [gateway, gateway6, public] =
            ["10.1.1.1", "fd10:1:1::1", "203.0.113.2"].map(|text| text.parse::<IpAddr>().unwrap());
        for host in ["cnx6.cnx.example", "www.CNX.example.", "cnx6", "10.1.1.6", "[::ffff:10.1.1.6]"] {
            let (name, peer) = seen(&curl(proxy, &format!("http://{host}/")).unwrap()).unwrap();
            assert!(name == "cnx6" && (peer == gateway || peer == gateway6), "{host}: {name} {peer}");
        }
        assert!(curl("[::1]:1080", "http://[fd10:1:1::6]/").unwrap().starts_with("cnx6 "));
        for host in ["world.example", "alias.example", "198.51.100.80"] {
            let said = curl(proxy, &format!("http://{host}/")).unwrap();
            assert_eq!(seen(&said), Some(("world".to_owned(), public)), "{host}");
        }
        // What listens on the host is there for the host, and for nobody through the door; so with the LAN left out.
        let own = ["127.0.0.1", "[::1]", "10.1.1.1", "203.0.113.2", "203.0.113.9", "192.0.2.5", "[2001:db8:113::2]"];
        for host in own.into_iter().chain(["10.1.2.6"]) {
            tool(&format!("curl --silent --show-error --globoff --max-time 20 http://{host}/"));
            assert_eq!(curl(proxy, &format!("http://{host}/")), Err("2".to_owned()), "{host}");
        }
        for host in [
            "localhost",
            "a.localhost",
            "cnx.example",
            "[::ffff:127.0.0.1]",
            "[::ffff:203.0.113.9]",
            "169.254.169.254",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "0.0.0.0",
            "255.255.255.255",
            "alone.br2.internal",
            "alone",
            // Names of the world's that point inside.
            "rebind.example",
            "rebind6.example",
        ] {
            assert_eq!(curl(proxy, &format!("http://{host}/")), Err("2".to_owned()), "{host}");
        }
        assert_eq!(curl(proxy, "http://nobody.cnx.example/"), Err("4".to_owned()));
        assert_eq!(curl(proxy, "http://nobody.example/"), Err("4".to_owned()));
        assert_eq!(curl(proxy, "http://cnx6.cnx.example:81/"), Err("5".to_owned()));
        running.hears("goes to 198.51.100.80:80");
        running.hears("may not go to");
        assert!(count(&scene, "connected") >= 9 && count(&scene, "refused") >= 23);
        // With the door gone, nobody listens; and nothing is left behind.
        scene.write(NETWORK);
        scene.warren("up").ends(0);
        // The worker hears of it right after `up` has ended.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(proxy).is_ok() {
            assert!(Instant::now() < deadline, "the door stands open");
            std::thread::sleep(Duration::from_millis(10));
        }
        scene.warren("down").ends(0);
        drop(running);
        assert_same(&before, &take(), "after down");
    });
}

#[test]
fn streams_that_stand_ends_that_are_carried_and_those_who_speak_something_else() {
    lab(|| {
        let scene = Scene::new();
        scene.write(&format!("{NETWORK}{DOOR}"));
        // Another who listens there is named.
        let taken = listen("server", "TCP4-LISTEN:1080,bind=127.0.0.1,reuseaddr", "SYSTEM:true");
        scene.warren("plan").says(5, &["socat", "127.0.0.1:1080", "SOCKS"]);
        drop(taken);
        let running = Serve::start(&scene);
        settle(&["cnx6"]);
        let _echoes = ["cnx6", "alone"].map(|at| listen(at, "TCP4-LISTEN:7,reuseaddr,fork", "EXEC:cat"));
        let _sums = listen("cnx6", "TCP4-LISTEN:8,reuseaddr,fork", "EXEC:sha256sum");
        let _first = listen("cnx6", "TCP4-LISTEN:9,reuseaddr,fork", "SYSTEM:printf first");
        let silent = TcpStream::connect("127.0.0.1:1080").unwrap();
        // The end of what is sent comes to the other, whose answer still comes back.
        let script = "import hashlib, socks\n\
            s = socks.socksocket(); s.set_proxy(socks.SOCKS5, '127.0.0.1', 1080, rdns=True)\n\
            s.connect(('cnx6.cnx.example', 8))\n\
            much = bytes(range(251)) * 80000\n\
            s.sendall(much); s.shutdown(1)\n\
            assert s.makefile('rb').read().split()[0].decode() == hashlib.sha256(much).hexdigest()\n\
            # Who speaks first and ends is heard whole, whether that came with the door's answer or behind it.\n\
            for _ in range(20):\n\
            \x20   s = socks.socksocket(); s.set_proxy(socks.SOCKS5, '127.0.0.1', 1080, rdns=True)\n\
            \x20   s.connect(('cnx6.cnx.example', 9))\n\
            \x20   assert s.makefile('rb').read() == b'first'\n";
        let ran = Command::new("/usr/bin/python3").args(["-c", script]).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(count(&scene, "sent") >= 251 * 80000);
        // A reload leaves streams alone, but for those to where one may not go any more.
        let (mut stays, mut ends) = (Stream::to("cnx6", 7), Stream::to("alone", 7));
        assert_eq!([stays.echo("one"), ends.echo("one")], ["one", "one"]);
        assert_eq!(count(&scene, "open"), 2);
        scene.write(&format!("{NETWORK}{DOOR}[[forward]]\nlisten = 8080\nto = \"cnx6:80\"\n"));
        scene.warren("up").ends(0);
        assert_eq!([stays.echo("two"), ends.echo("two")], ["two", "two"]);
        scene.write(&format!("{NETWORK}{DOOR_OF_ONE}"));
        scene.warren("up").ends(0);
        assert_eq!(stays.echo("three"), "three");
        assert_ne!(ends.echo("three"), "three");
        // Whoever speaks something else, or wants something else.
        for (said, answer) in [
            (b"\x05\x01\x00\x05\x02\x00\x01\x0a\x01\x01\x06\x00\x50".as_slice(), b"\x05\x00\x05\x07".as_slice()),
            (b"\x05\x01\x00\x05\x01\x00\x09abcd", b"\x05\x00\x05\x08"),
            (b"\x05\x01\x02", b""),
            (b"\x04\x01\x00\x50\x0a\x01\x01\x06\x00", b""),
            (b"GET / HTTP/1.0\r\n\r\n", b""),
            // A line of its own in the log.
            (b"\x05\x01\x00\x05\x01\x00\x03\x03a\nb\x00\x50", b"\x05\x00\x05\x04"),
        ] {
            let mut stream = TcpStream::connect("127.0.0.1:1080").unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(said).unwrap();
            let mut heard = Vec::new();
            // What was not read is answered with a reset.
            let _ = stream.read_to_end(&mut heard);
            assert!(heard.starts_with(answer) && heard.len() <= 12, "{said:?}: {heard:?}");
        }
        // One user's share; others are let in once it is given back.
        let crowd: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect("127.0.0.1:1080").unwrap()).collect();
        let deadline = Instant::now() + PATIENCE;
        while count(&scene, "limited") < 40 {
            assert!(Instant::now() < deadline, "{} are let in", crowd.len());
        }
        assert_eq!(stays.echo("four"), "four");
        // Another user's is not touched by it.
        let _web = serve(&scene, "cnx6", 80);
        let of_another =
            "setpriv --reuid=4242 --clear-groups curl --silent --max-time 20 --socks5-hostname 127.0.0.1:1080";
        tool(&format!("{of_another} http://cnx6/"));
        running.hears("uid 4242 goes to cnx6");
        drop(crowd);
        let mut again = Stream::to("cnx6", 7);
        assert_eq!(again.echo("five"), "five");
        // Who says nothing is not waited for.
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!((&silent).read(&mut [0]).unwrap_or(0), 0);
        drop((again.process, stays.process, ends.process, running));
    });
}
