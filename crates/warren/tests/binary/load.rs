//! Many at once: questions through reloads, of which none is lost, and clients that all want a lease. How fast is told
//! by docs/performance.md; here it is what comes of it that counts.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::clients::resolver;
use crate::common::{lab, tool};
use crate::serve::{Serve, short};
use crate::support::{PATIENCE, Ran, Scene, at, settle};

const NETWORK: &str = r#"
[host]
uplink = "eth0"
public = ["203.0.113.2"]
[lan.br1]
address = ["10.1.0.1/16"]
domain = "cnx.example"
dns = ["198.51.100.7"]
dhcp = "10.1.2.0-10.1.2.219"
[guest.cnx6]
kind = "netns"
lan = "br1"
address = ["10.1.1.6"]
"#;

/// Names of ours, and one of the world's.
const QUESTIONS: &str = "cnx6.cnx.example A\n6.1.1.10.in-addr.arpa PTR\nsigned.example A\ncnx6.cnx.example AAAA\n";

#[test]
fn no_question_is_lost_by_reloads() {
    lab(|| {
        let scene = Scene::new();
        resolver();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        settle(&["cnx6"]);
        let questions = scene.folder().join("questions");
        fs::write(&questions, QUESTIONS).unwrap();
        // What is slow is not lost: a question counts as that only after as long as anything may take here.
        let mut perf = at("cnx6", "dnsperf");
        perf.args(["-s", "10.1.0.1", "-l", "4", "-Q", "1000", "-c", "8", "-q", "100", "-e", "-d"]).arg(&questions);
        perf.args(["-t", &PATIENCE.as_secs().to_string()]);
        let mut running = perf.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("dnsperf is needed");
        let mut changes = 0;
        while running.try_wait().unwrap().is_none() {
            changes += 1;
            // A name more, a LAN more, and each of them gone again; by a signal, and by `up`.
            let mut text = NETWORK.to_owned();
            if changes % 2 == 1 {
                text = text.replace("[\"10.1.1.6\"]", "[\"10.1.1.6\"]\naliases = [\"www\"]");
            }
            if changes % 4 == 2 {
                text.push_str("[lan.br2]\naddress = [\"10.2.0.1/24\"]\n");
            }
            scene.write(&text);
            if changes % 3 == 0 {
                kill_process(serve.pid(), Signal::HUP).unwrap();
                serve.hears("reading the file again");
                std::thread::sleep(Duration::from_millis(200));
            } else {
                scene.warren("up").ends(0);
            }
        }
        let output = running.wait_with_output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        println!("{changes} changes\n{told}");
        assert!(changes >= 3, "{changes}");
        let words = |key: &str| told.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or(&told).trim();
        assert_eq!(words("Queries lost:"), "0 (0.00%)", "{told}");
        assert_eq!(words("Response codes:").split(' ').nth(2), Some("(100.00%)"), "{told}");
        let sent: u64 = words("Queries sent:").parse().unwrap();
        assert!(sent > 500, "{told}");
        drop(serve);
        scene.warren("down").ends(0);
    });
}

/// Two hundred clients behind one cable, each with its own hardware address: all ask at once, and ask again after three
/// seconds, as clients do. Prints what each was given.
const CLIENTS: &str = r#"
import socket, struct, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
s.bind(('eth0', 0))
def frame(mac, xid, options, broadcast):
    bootp = struct.pack('>BBBBIHH', 1, 1, 6, 0, xid, 0, 0x8000 if broadcast else 0) + bytes(16) + mac + bytes(10 + 192)
    bootp += bytes([99, 130, 83, 99]) + options + b'\xff'
    udp = struct.pack('>HHHH', 68, 67, 8 + len(bootp), 0) + bootp
    head = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + bytes(4) + b'\xff' * 4
    total = sum(struct.unpack('>10H', head))
    total = (total & 0xffff) + (total >> 16)
    head = head[:10] + struct.pack('>H', ~(total + (total >> 16)) & 0xffff) + head[12:]
    return b'\xff' * 6 + mac + b'\x08\x00' + head + udp
macs = {bytes([2, 0, 0, 1, n >> 8, n & 255]): n for n in range(200)}
state = {mac: (b'\x35\x01\x01', None) for mac in macs}
given = {}
begun = sent = time.monotonic()
for mac in macs:
    s.send(frame(mac, macs[mac], state[mac][0], macs[mac] % 2 == 0))
again = 0
s.settimeout(0.2)
while len(given) < 200 and time.monotonic() - begun < 60:
    if time.monotonic() - sent > 3:
        sent = time.monotonic()
        for mac in macs:
            if mac not in given:
                again += 1
                s.send(frame(mac, macs[mac], state[mac][0], macs[mac] % 2 == 0))
    try:
        packet = s.recv(2000)
    except TimeoutError:
        continue
    if packet[12:14] != b'\x08\x00' or packet[23] != 17 or packet[34:38] != b'\x00C\x00D':
        continue
    bootp = packet[42:]
    mac, yours, kind = bootp[28:34], bootp[16:20], bootp[242]
    if mac not in macs or struct.unpack('>I', bootp[4:8])[0] != macs[mac] or mac in given:
        continue
    if kind == 2 and state[mac][1] is None:
        state[mac] = (b'\x35\x01\x03\x32\x04' + yours + b'\x36\x04' + packet[26:30], yours)
        s.send(frame(mac, macs[mac], state[mac][0], macs[mac] % 2 == 0))
    elif kind == 5:
        given[mac] = yours
for mac, yours in given.items():
    print(mac.hex(':'), socket.inet_ntoa(yours))
print('took', round(time.monotonic() - begun, 2), 's, asked again', again)
"#;

#[test]
fn two_hundred_clients_at_once_are_each_leased_an_address() {
    lab(|| {
        let scene = Scene::new();
        scene.write(NETWORK);
        let serve = Serve::start(&scene);
        for line in [
            "ip netns add crowd",
            "ip link add crowd type veth peer name eth0 netns crowd",
            "ip link set crowd master br1 up",
            "ip -n crowd link set eth0 up",
        ] {
            tool(line);
        }
        let told = Ran::of(at("crowd", "python3").args(["-c", CLIENTS])).ends(0).out;
        println!("{}", told.lines().last().unwrap());
        let leases = || -> Vec<(String, String)> {
            let status = scene.warren("--json status").ends(0).json();
            let leases = status["services"]["leases"].as_array().unwrap().clone();
            let text = |lease: &serde_json::Value, key: &str| lease[key].as_str().unwrap().to_owned();
            leases.iter().map(|lease| (text(lease, "mac"), text(lease, "address"))).collect()
        };
        let mut given: Vec<(String, String)> = told
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(mac, _)| mac.contains(':'))
            .map(|(mac, address)| (mac.to_owned(), address.to_owned()))
            .collect();
        assert_eq!(given.len(), 200, "{told}");
        let mut known = leases();
        given.sort();
        known.sort();
        assert_eq!(given, known, "what clients were told, and what serve knows");
        let mut addresses: Vec<&String> = given.iter().map(|(_, address)| address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 200, "an address is leased twice");
        assert!(addresses.iter().all(|address| address.starts_with("10.1.2.")), "{addresses:?}");
        // All of them outlive both processes.
        let worker = serve.worker();
        kill_process(serve.pid(), Signal::KILL).unwrap();
        kill_process(worker, Signal::KILL).unwrap();
        drop(serve);
        let serve = Serve::start(&scene);
        let mut known = leases();
        known.sort();
        assert_eq!(given, known, "after a restart");
        // The names that a LAN's guests have are there beside the crowd's.
        assert_eq!(short("cnx6", "cnx6.cnx.example @10.1.0.1"), "10.1.1.6");
        drop(serve);
        scene.warren("down").ends(0);
    });
}
