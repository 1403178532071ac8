//! What an answer to a question for a local name takes, of the resolver's own processor time, beside dnsmasq.

use std::fs;
use std::process::{Child, Stdio};

use crate::measure::{Bound, Row, compared, in_turns};
use crate::scene::{Outcome, Scene, inside, run, told};
use crate::serve::{Serve, until};

const ROUNDS: usize = 5;
/// Questions of a round.
const QUESTIONS: usize = 50_000;
/// The zone of both.
const ZONE: &str = "bench.internal";

fn address(n: usize) -> String {
    format!("10.1.{}.{}", 1 + n / 200, 1 + n % 200)
}

/// A LAN with a guest that asks, and `count` more that are asked for.
fn file(asker: &str, count: usize) -> String {
    let mut text = format!(
        "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.0.1/16\"]\n\
         domain = \"{ZONE}\"\n[guest.{asker}]\nkind = \"netns\"\naddress = [\"10.1.0.6\"]\n"
    );
    for n in 0..count {
        text.push_str(&format!("[guest.n{n}]\nkind = \"reserved\"\naddress = [\"{}\"]\n", address(n)));
    }
    text
}

/// Another's process, ended with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// dnsmasq with the same names, in a place of its own.
fn dnsmasq(scene: &Scene, count: usize) -> Outcome<Ends> {
    let hosts = scene.folder().join("hosts");
    let lines: String = (0..count).map(|n| format!("{} n{n}.{ZONE}\n", address(n))).collect();
    told(fs::write(&hosts, lines), "dnsmasq's hosts")?;
    let mut command =
        inside(&scene.server, &["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]);
    command.args(["--user=root", "--no-resolv", "--no-hosts", "--listen-address=10.1.1.1", "--bind-interfaces"]);
    command.arg(format!("--local=/{ZONE}/")).arg(format!("--addn-hosts={}", hosts.display()));
    let child =
        Ends(told(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn(), "dnsmasq")?);
    let place = format!("{}-g", scene.server);
    until("dnsmasq answers", || Ok(ask(&place, "10.1.1.1", &scene.folder().join("one"), 1, 1).is_ok_and(|n| n == 1)))?;
    Ok(child)
}

/// Has dnsperf ask all names of a file so many times over; how many were answered.
fn ask(place: &str, server: &str, file: &std::path::Path, names: usize, times: usize) -> Outcome<usize> {
    let lines: String = (0..names).map(|n| format!("n{n}.{ZONE} A\n")).collect();
    told(fs::write(file, lines), "dnsperf's questions")?;
    let mut command = inside(place, &["dnsperf", "-s", server, "-n", &times.to_string(), "-q", "64", "-t", "20", "-d"]);
    let output = told(command.arg(file).stdin(Stdio::null()).output(), "dnsperf")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |key: &str| -> Outcome<usize> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).ok_or("dnsperf tells nothing")?;
        told(line.split_whitespace().next().unwrap_or_default().parse(), "dnsperf's figures")
    };
    let completed = number("Queries completed:")?;
    match number("Queries lost:")? {
        0 if text.contains("NOERROR") => Ok(completed),
        _ => Err(format!("dnsperf: {text}")),
    }
}

/// Microseconds of processor time that a process took for each of the questions.
fn each(pid: u32, place: &str, server: &str, scene: &Scene, count: usize) -> Outcome<f64> {
    let spent = || -> Outcome<f64> {
        // Nanoseconds on a processor (Documentation/scheduler/sched-stats.rst); the main thread does all of it.
        let text = told(fs::read_to_string(format!("/proc/{pid}/schedstat")), "schedstat")?;
        told(text.split(' ').next().unwrap_or_default().parse(), "schedstat")
    };
    let before = spent()?;
    let answered = ask(place, server, &scene.folder().join("questions"), count, QUESTIONS / count)?;
    Ok((spent()? - before) / answered as f64 / 1e3)
}

/// The rows of this work.
pub fn rows() -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (count, name, other) in [(10, "few", "few-d"), (10_000, "lot", "lot-d")] {
        let ours = Scene::new(name)?;
        let asker = format!("{name}-a");
        ours.write(&file(&asker, count))?;
        let serve = Serve::start(&ours)?;
        let theirs = Scene::new(other)?;
        let guest = theirs.guest_by_hand()?;
        // Both LANs are as wide.
        run(&guest, &["ip", "link", "set", "eth0", "up"])?;
        let dnsmasq = dnsmasq(&theirs, count)?;
        let worker = serve.worker()?;
        let measured = in_turns::<String>(
            ROUNDS,
            &mut [&mut || each(worker, &asker, "10.1.0.1", &ours, count), &mut || {
                each(dnsmasq.0.id(), &guest, "10.1.1.1", &theirs, count)
            }],
        )?;
        let work = format!("processor time of an answer to a local name, one of {count}");
        rows.push(compared(&work, "µs", &measured[0], "dnsmasq", &measured[1], ("≤ 2.0", Bound::Most(2.0))));
        drop(serve);
        ours.warren_done(&["-q", "down"])?;
    }
    Ok(rows)
}
