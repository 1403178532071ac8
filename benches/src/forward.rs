//! One forward more: by a process of its own, and through a running `serve`, where there are few and where there are
//! ten thousand.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use kernel::netns::Netns;

use crate::apply::{looked_for_others, whole};
use crate::measure::{Bound, Row, Series, absolute, compared, in_turns};
use crate::scene::{Outcome, PUBLIC, Scene, forwards, inside, run, run_with, told};
use crate::serve::{Serve, of_both, settled, until};

const ROUNDS: usize = 7;
/// The same by a `serve`: these are short.
const SHORT_ROUNDS: usize = 21;
const MANY: usize = 10_000;
/// MiB that at least is given back of what the last commands needed.
const GIVEN_BACK: f64 = 1.0;

/// The rows of this work.
pub fn rows() -> Outcome<Vec<Row>> {
    let mut rows = by_itself()?;
    rows.extend(through_serve()?);
    Ok(rows)
}

/// A table of another's with as many elements as there are forwards.
fn theirs(scene: &Scene) -> Outcome<()> {
    let map = "add table ip theirs { map m { type ipv4_addr . inet_service : ipv4_addr . inet_service; }; }";
    run(&scene.server, &["nft", map])?;
    let mut elements = String::from("add element ip theirs m { ");
    for n in 0..MANY {
        elements.push_str(&format!("203.0.113.2 . {} : 10.1.1.6 . {}, ", 20_000 + n, 10_000 + n));
    }
    run_with(&scene.server, &["nft", "-f", "-"], &(elements + "}\n"))
}

fn by_itself() -> Outcome<Vec<Row>> {
    let (few, many) = (Scene::new("few")?, Scene::new("tho")?);
    few.write(&forwards(10))?;
    many.write(&forwards(MANY))?;
    few.warren_done(&["-q", "up"])?;
    many.warren_done(&["-q", "up"])?;
    theirs(&many)?;
    looked_for_others()?;
    let [mut n, mut m, mut k] = [40_000; 3];
    let add = |scene: &Scene, n: &mut u16| {
        *n += 1;
        whole(&mut scene.warren(&["-q", "forward", "add", &n.to_string(), "g:22"]))
    };
    let measured = in_turns(
        ROUNDS,
        &mut [
            &mut || add(&many, &mut n),
            &mut || {
                k += 1;
                let element = format!("{{ 203.0.113.2 . {k} : 10.1.1.6 . 22 }}");
                whole(&mut inside(&many.server, &["nft", "add", "element", "ip", "theirs", "m", &element]))
            },
            &mut || add(&few, &mut m),
        ],
    )?;
    let work = "`forward add` at 10,000, whole process";
    let [at_many, nft, at_few] = &measured[..] else { return Err("three figures".to_owned()) };
    Ok(vec![
        compared(work, "ms", at_many, "nft add element", nft, ("≤ 2", Bound::Most(2.0))),
        compared("the same", "ms", at_many, "at 10", at_few, ("", Bound::Most(f64::MAX))),
    ])
}

/// What the command line says to a running `serve`, said without a process of its own. Milliseconds to its last word.
fn asked(scene: &Scene, words: &[&str]) -> Outcome<f64> {
    let at = |name: &str| scene.folder().join(name);
    let request = serde_json::json!({ "Run": {
        "words": words, "config": at("warren.toml"), "state_dir": at("state"), "run_dir": at("run"), "session": null,
    } });
    let began = Instant::now();
    let mut stream = told(UnixStream::connect(at("run").join("control.sock")), "the control socket")?;
    told(stream.write_all(format!("{request}\n").as_bytes()), "the control socket")?;
    let mut last = String::new();
    for line in BufReader::new(stream).lines() {
        last = told(line, "the control socket")?;
    }
    let passed = began.elapsed().as_secs_f64() * 1e3;
    if last == r#"{"End":0}"# { Ok(passed) } else { Err(format!("serve said: {last}")) }
}

/// Has the server track a connection from the world, for half a minute at least (nf_conntrack_udp_timeout).
fn tracked(scene: &Scene) -> Outcome<()> {
    let sent = told(Netns::open(&scene.world), &scene.world)?.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.send_to(b"x", (PUBLIC, 9))
    });
    told(told(sent, "a thread")?, "a datagram").map(drop)
}

fn through_serve() -> Outcome<Vec<Row>> {
    let (few, many) = (Scene::new("ten")?, Scene::new("lot")?);
    few.write(&forwards(10))?;
    many.write(&forwards(MANY))?;
    let (_here, there) = (Serve::start(&few)?, Serve::start(&many)?);
    looked_for_others()?;
    // Each round adds to both, so both grow alike.
    let [mut n, mut m] = [40_000; 2];
    let add = |scene: &Scene, n: &mut u16| {
        *n += 1;
        asked(scene, &["-q", "forward", "add", &n.to_string(), "g:22"])
    };
    let measured = in_turns::<String>(SHORT_ROUNDS, &mut [&mut || add(&few, &mut n), &mut || add(&many, &mut m)])?;
    let [at_few, at_many] = &measured[..] else { return Err("two figures".to_owned()) };
    let tracked = in_turns::<String>(
        SHORT_ROUNDS,
        &mut [&mut || {
            tracked(&many)?;
            add(&many, &mut m)
        }],
    )?;
    let [while_tracked] = &tracked[..] else { return Err("a figure".to_owned()) };
    let grown = of_both(&there)?;
    until("serve has given back what it needed", || Ok(of_both(&there)? < grown - GIVEN_BACK))?;
    let idle = settled(&there)?;
    let work = "one forward more at 10,000, through a running `serve`, by its socket";
    Ok(vec![
        absolute(work, "ms", at_many, ("≤ 0.5 ms", Bound::Most(0.5))),
        compared("the same", "ms", at_many, "at 10", at_few, ("", Bound::Most(f64::MAX))),
        absolute(
            "the same while a connection is tracked: the kernel's table is walked for stale ones",
            "ms",
            while_tracked,
            ("", Bound::Most(f64::MAX)),
        ),
        absolute(
            "memory of `serve` with 10,000 forwards, right after those",
            "MiB",
            &Series::of(vec![grown]),
            ("", Bound::Most(f64::MAX)),
        ),
        absolute(
            "the same, once nobody has added any for some seconds",
            "MiB",
            &Series::of(vec![idle]),
            ("", Bound::Most(f64::MAX)),
        ),
    ])
}
