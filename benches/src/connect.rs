//! New connections, and one long stream: through a forward, out by SNAT, and by plain routing.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::Netns;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::measure::{Bound, Row, Series, compared, in_turns, processor_time};
use crate::scene::{GUEST, Outcome, PUBLIC, Scene, WORLD, forwards, run, run_with, told};

/// Connections of one measurement. Many short rounds say more than a few long ones: how fast a machine is changes by the
/// second.
const CONNECTIONS: u32 = 500;
const ROUNDS: usize = 41;
/// Bytes of one stream.
const STREAM: u64 = 1 << 30;
const STREAMS: usize = 15;

/// Everything on one processor: the time that passes is then the work that is done.
fn on_one_processor() -> Outcome<()> {
    let mut one = CpuSet::new();
    one.set(0);
    told(sched_setaffinity(None, &one), "one processor")
}

/// A server on every address of a namespace, which takes connections; its thread ends with the process.
fn accept(place: &str, port: u16) -> Outcome<()> {
    let listener = told(told(Netns::open(place), place)?.run(|| TcpListener::bind(("0.0.0.0", port))), place)?;
    let listener = told(listener, "a listener")?;
    thread::spawn(move || {
        // It is the client who ends a connection: one that is ended here may be gone before the client has it.
        let mut last = None;
        for stream in listener.incoming().flatten() {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            last.replace(stream);
        }
    });
    Ok(())
}

/// Seconds of processor time for each new connection from `place` to `to`.
fn connections(place: &str, to: (Ipv4Addr, u16)) -> Outcome<f64> {
    let to = SocketAddrV4::new(to.0, to.1);
    let place = told(Netns::open(place), place)?;
    let began = processor_time();
    let result = place.run(|| {
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(to)?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok::<(), std::io::Error>(())
    });
    told(told(result, "a thread")?, &format!("connecting to {to}"))?;
    Ok((processor_time() - began).as_secs_f64() / f64::from(CONNECTIONS) * 1e6)
}

/// Gigabytes a second from `place` to a listener in `server` that `to` leads to.
fn stream(place: &str, to: (Ipv4Addr, u16), server: &str, port: u16) -> Outcome<f64> {
    let listener = told(told(Netns::open(server), server)?.run(|| TcpListener::bind(("0.0.0.0", port))), server)?;
    let listener = told(listener, "a listener")?;
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 << 10];
        let mut whole = 0_u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok::<u64, std::io::Error>(whole),
                count => whole += count as u64,
            }
        }
    });
    let mut stream = told(told(Netns::open(place), place)?.run(|| TcpStream::connect(to)), place)
        .and_then(|s| told(s, "connecting"))?;
    let block = vec![0; 256 << 10];
    let began = Instant::now();
    for _ in 0..STREAM / block.len() as u64 {
        told(stream.write_all(&block), "sending")?;
    }
    drop(stream);
    let read = reader.join().map_err(|_| "the reader ended".to_owned())?;
    match told(read, "receiving")? {
        STREAM => Ok(STREAM as f64 / began.elapsed().as_secs_f64() / 1e9),
        other => Err(format!("{other} of {STREAM} bytes came")),
    }
}

/// A scene that warren made, with so many forwards.
fn by_warren(name: &str, count: usize) -> Outcome<Scene> {
    let scene = Scene::new(name)?;
    scene.write(&forwards(count))?;
    scene.warren_done(&["up"])?;
    scene.plug()?;
    Ok(scene)
}

/// A scene made by hand, with the rules of another program's.
fn by_hand(name: &str, words: &[&str], rules: &str) -> Outcome<Scene> {
    let scene = Scene::new(name)?;
    scene.guest_by_hand()?;
    run_with(&scene.server, words, rules)?;
    Ok(scene)
}

/// The same forwards as a chain of iptables.
fn iptables(count: usize) -> String {
    let mut text = "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT\n\
                    -A FORWARD -i br1 -j ACCEPT\nCOMMIT\n*nat\n"
        .to_owned();
    for n in 0..count {
        let (port, to) = (20_000 + n, if n + 1 == count { 80 } else { 10_000 + n });
        text.push_str(&format!("-A PREROUTING -d {PUBLIC} -p tcp --dport {port} -j DNAT --to {GUEST}:{to}\n"));
    }
    text + "-A POSTROUTING -s 10.1.1.0/24 -o eth0 -j MASQUERADE\nCOMMIT\n"
}

/// Plain routing that tracks connections, and does nothing else.
const TRACKED: &str = "table ip t { chain f { type filter hook forward priority 0; ct state invalid drop; }; }\n";

/// The same with one forward, which is an element of a map, and nothing else: what rewriting itself takes.
const BARE: &str = "table ip b {\n\
    map m { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { tcp . 20000 : 10.1.1.6 . 80 }; };\n\
    chain p { type nat hook prerouting priority -100; dnat ip to meta l4proto . th dport map @m; };\n\
    chain f { type filter hook forward priority 0; ct state invalid drop; };\n}\n";

/// New connections: through the last of ten thousand forwards, through the only one, by plain routing, and through
/// iptables' last of ten thousand.
pub fn connections_per_second() -> Outcome<Vec<Row>> {
    on_one_processor()?;
    let one = by_warren("one", 1)?;
    let many = by_warren("many", 10_000)?;
    let plain = by_hand("plain", &["nft", "-f", "-"], TRACKED)?;
    let bare = by_hand("bare", &["nft", "-f", "-"], BARE)?;
    let legacy = by_hand("legacy", &["iptables-legacy-restore"], &iptables(10_000))?;
    let nft = by_hand("ipnft", &["iptables-nft-restore"], &iptables(10_000))?;
    for scene in [&one, &many, &plain, &bare, &legacy, &nft] {
        accept(&format!("{}-g", scene.server), 80)?;
    }
    let flushed = |scene: &Scene, port: u16, to: Ipv4Addr| {
        // Ended connections stay for ten seconds, and none of them may be the next round's burden.
        run(&scene.server, &["conntrack", "-F"])?;
        connections(&scene.world, (to, port))
    };
    let measured = in_turns(
        ROUNDS,
        &mut [
            &mut || flushed(&one, 20_000, PUBLIC),
            &mut || flushed(&many, 29_999, PUBLIC),
            &mut || flushed(&plain, 80, GUEST),
            &mut || flushed(&legacy, 29_999, PUBLIC),
            &mut || flushed(&nft, 29_999, PUBLIC),
            &mut || flushed(&bare, 20_000, PUBLIC),
        ],
    )?;
    let [one_s, many_s, plain_s, legacy_s, nft_s, bare_s] = &measured[..] else { return Err("six figures".to_owned()) };
    let rate = |each: &Series| each.map(|micros| 1e6 / micros);
    let work = "new connections a second of processor time, through the last of 10,000 forwards";
    let unit = "/s";
    let most = rate(many_s);
    let (least, eight) = (("≥ 0.95", Bound::Least(0.95)), ("≥ 8", Bound::Least(8.0)));
    Ok(vec![
        compared(work, unit, &most, "through the only one", &rate(one_s), least),
        compared("the same", unit, &most, "iptables-legacy, the last of 10,000", &rate(legacy_s), eight),
        compared("the same", unit, &most, "iptables-nft, the last of 10,000", &rate(nft_s), eight),
        compared(
            "processor time of a new connection through a forward",
            "µs",
            one_s,
            "plain routing with conntrack",
            plain_s,
            ("≤ 1.10", Bound::Most(1.10)),
        ),
        compared("the same", "µs", one_s, "a bare map of one element, by nft", bare_s, ("", Bound::Most(f64::MAX))),
    ])
}

/// One long stream: in through a forward and out by SNAT, and both by plain routing.
pub fn streams() -> Outcome<Vec<Row>> {
    on_one_processor()?;
    let wide = by_warren("wide", 1)?;
    let plain = by_hand("plain", &["nft", "-f", "-"], TRACKED)?;
    let (guest, plain_guest) = (format!("{}-g", wide.server), format!("{}-g", plain.server));
    let measured = in_turns(
        STREAMS,
        &mut [
            &mut || stream(&wide.world, (PUBLIC, 20_000), &guest, 80),
            &mut || stream(&plain.world, (GUEST, 1080), &plain_guest, 1080),
            &mut || stream(&guest, (WORLD, 1082), &wide.world, 1082),
            &mut || stream(&plain_guest, (WORLD, 1082), &plain.world, 1082),
        ],
    )?;
    let [inward, plain_in, outward, plain_out] = &measured[..] else { return Err("four figures".to_owned()) };
    let least = ("≥ 0.95", Bound::Least(0.95));
    Ok(vec![
        compared("one stream in through a forward", "GB/s", inward, "plain routing", plain_in, least),
        compared("one stream out by SNAT", "GB/s", outward, "plain routing", plain_out, least),
    ])
}
