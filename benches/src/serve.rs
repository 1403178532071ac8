//! A running `serve`: what it keeps in memory, what is lost of guests' traffic while it changes, dies and repairs, how
//! long a repair takes, and a forward more.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::Netns;

use crate::measure::{Bound, Row, Series, absolute};
use crate::scene::{Outcome, PUBLIC, Scene, run, told};

/// What must come comes within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// One packet is sent each.
const BEAT: Duration = Duration::from_millis(1);

/// Waits until `is` says so.
pub fn until(what: &str, mut is: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is()? {
        if Instant::now() > deadline {
            return Err(format!("not so in time: {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A `serve` of a scene's, ended with this.
pub struct Serve<'a> {
    scene: &'a Scene,
    child: Child,
    /// Where it tells how it is, as it would tell systemd (sd_notify(3)).
    notices: UnixDatagram,
}

impl<'a> Serve<'a> {
    /// Started, and serving.
    pub fn start(scene: &'a Scene) -> Outcome<Self> {
        let path = scene.folder().join("notify");
        // An earlier one's, where there was one.
        let _ = fs::remove_file(&path);
        let notices = told(UnixDatagram::bind(&path), "the socket for notices")?;
        told(notices.set_read_timeout(Some(PATIENCE)), "the socket for notices")?;
        let mut command = scene.warren(&["serve"]);
        command.env("NOTIFY_SOCKET", &path);
        let mut child =
            told(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn(), "warren serve")?;
        let said = child.stderr.take().ok_or("serve has no stderr")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                // Nobody may want to hear it any more, but the pipe must not fill.
                let _ = sender.send(line);
            }
        });
        let serve = Self { scene, child, notices };
        let mut all = Vec::new();
        loop {
            match receiver.recv_timeout(2 * PATIENCE) {
                Ok(line) if line.ends_with("serving") => return Ok(serve),
                Ok(line) => all.push(line),
                Err(_) => return Err(format!("serve does not serve: {}", all.join("\n"))),
            }
        }
    }

    /// The supervisor's process: the one below nsenter's exec.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The worker's.
    pub fn worker(&self) -> Outcome<u32> {
        let status = self.status()?;
        let pid = status["services"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| "no worker serves".to_owned())
    }

    /// Has it read its file again, and waits until it says that it has.
    pub fn reload(&self) -> Outcome<()> {
        // What it has said before is no answer to this.
        told(self.notices.set_nonblocking(true), "the socket for notices")?;
        let mut bytes = [0; 512];
        while self.notices.recv(&mut bytes).is_ok() {}
        told(self.notices.set_nonblocking(false), "the socket for notices")?;
        run("", &["kill", "-HUP", &self.pid().to_string()])?;
        let mut reads = false;
        loop {
            let length = told(self.notices.recv(&mut bytes), "waiting for a reload's end")?;
            let notice = String::from_utf8_lossy(&bytes[..length]).into_owned();
            reads |= notice.contains("RELOADING=1");
            if reads && notice.contains("READY=1") {
                return Ok(());
            }
        }
    }

    /// What `status` says.
    pub fn status(&self) -> Outcome<serde_json::Value> {
        let output = told(self.scene.warren(&["--json", "status"]).stdin(Stdio::null()).output(), "warren status")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        told(serde_json::from_slice(&output.stdout), &format!("what status says ({said})"))
    }
}

impl Drop for Serve<'_> {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// MiB of memory that is a process's own, and its part of what it shares (PSS, proc_pid_smaps(5)).
pub fn memory(pid: u32) -> Outcome<f64> {
    let text = told(fs::read_to_string(format!("/proc/{pid}/smaps_rollup")), "smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    let kib: f64 = told(line.trim().trim_end_matches(" kB").parse(), "Pss")?;
    Ok(kib / 1024.0)
}

/// The memory of both processes.
pub fn of_both(serve: &Serve) -> Outcome<f64> {
    Ok(memory(serve.pid())? + memory(serve.worker()?)?)
}

/// The same once what they have begun with is over.
pub fn settled(serve: &Serve) -> Outcome<f64> {
    let both = || of_both(serve);
    let (mut last, mut alike) = (both()?, 0);
    until("serve is idle", || {
        thread::sleep(Duration::from_millis(200));
        let now = both()?;
        alike = if (now - last).abs() < 0.05 { alike + 1 } else { 0 };
        last = now;
        Ok(alike == 5)
    })?;
    Ok(last)
}

const EVERYTHING: &str = "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n\
    [lan.br1]\naddress = [\"10.1.1.1/24\", \"fd10:1:1::1/64\"]\ndns = [\"203.0.113.1\"]\ndhcp = \"10.1.1.100-10.1.1.199\"\n\
    [guest.mem-g]\nkind = \"netns\"\naddress = [\"10.1.1.6\", \"fd10:1:1::6\"]\n\
    [[forward]]\nlisten = \"20000/tcp,udp\"\nto = \"mem-g:80\"\n\
    [[site]]\nhost = \"www.example.org\"\nto = \"mem-g:80\"\ntls = \"self-signed\"\n[socks]\n[web]\n";

/// What a `serve` that has everything to do keeps in memory while nothing happens.
pub fn idle_memory() -> Outcome<Vec<Row>> {
    eprintln!("serve: memory");
    let scene = Scene::new("mem")?;
    let mut figures = Vec::new();
    for _ in 0..5 {
        scene.write(EVERYTHING)?;
        let serve = Serve::start(&scene)?;
        figures.push(settled(&serve)?);
    }
    scene.warren_done(&["-q", "down"])?;
    let series = Series::of(figures);
    Ok(vec![absolute(
        "idle memory of `serve`: both processes; names, leases, advertisements, watch, a site with TLS, SOCKS, the page",
        "MiB",
        &series,
        ("≤ 16", Bound::Most(16.0)),
    )])
}

/// Packets through a forward to a guest and back, one each beat, until `while_so` has ended. How many did not come
/// back, and the longest time in which none did, in milliseconds.
fn lost(scene: &Scene, guest: &str, while_so: impl FnOnce() -> Outcome<()>) -> Outcome<(f64, f64)> {
    let over = Arc::new(AtomicBool::new(false));
    let bind = |place: &str, address: (Ipv4Addr, u16)| -> Outcome<UdpSocket> {
        let socket = told(told(Netns::open(place), place)?.run(move || UdpSocket::bind(address)), place)?;
        let socket = told(socket, "a socket")?;
        told(socket.set_read_timeout(Some(Duration::from_millis(100))), "a socket")?;
        Ok(socket)
    };
    let echo = bind(guest, (Ipv4Addr::UNSPECIFIED, 80))?;
    let client = bind(&scene.world, (Ipv4Addr::UNSPECIFIED, 0))?;
    told(client.connect((PUBLIC, 20_000)), "the client")?;
    let echoing = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = echo.recv_from(&mut bytes) {
                    let _ = echo.send_to(&bytes[..length], from);
                }
            }
        })
    };
    let receiver = told(client.try_clone(), "the client")?;
    let came = Arc::new(AtomicU64::new(0));
    let receiving = {
        let (over, came) = (Arc::clone(&over), Arc::clone(&came));
        thread::spawn(move || {
            let (mut gap, mut last) = (Duration::ZERO, None::<Instant>);
            let mut bytes = [0; 64];
            loop {
                match receiver.recv(&mut bytes) {
                    Ok(_) => {
                        came.fetch_add(1, Ordering::Relaxed);
                        let now = Instant::now();
                        gap = gap.max(last.map_or(Duration::ZERO, |last| now - last));
                        last = Some(now);
                    }
                    // What a firewall refuses is told as an error; silence after the end is the end.
                    Err(_) if over.load(Ordering::Relaxed) => return gap,
                    Err(_) => {}
                }
            }
        })
    };
    let (stop, stops) = std::sync::mpsc::channel::<()>();
    let sending = thread::spawn(move || {
        let mut sent = 0u64;
        let begun = Instant::now();
        while stops.try_recv().is_err() {
            if client.send(&sent.to_be_bytes()).is_ok() {
                sent += 1;
            }
            let due = begun + BEAT * u32::try_from(sent).unwrap_or(u32::MAX);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        sent
    });
    let more = |than: u64| until("traffic flows", || Ok(came.load(Ordering::Relaxed) > than + 100));
    let done = more(0).and_then(|()| while_so());
    // It counts until traffic flows again.
    let flows = more(came.load(Ordering::Relaxed));
    let _ = stop.send(());
    let sent = sending.join().map_err(|_| "the sender ended")?;
    // What has not come by then is lost.
    let late = Instant::now() + Duration::from_secs(2);
    while came.load(Ordering::Relaxed) < sent && Instant::now() < late {
        thread::sleep(Duration::from_millis(5));
    }
    over.store(true, Ordering::Relaxed);
    let gap = receiving.join().map_err(|_| "the receiver ended")?;
    echoing.join().map_err(|_| "the echo ended")?;
    done.and(flows)?;
    Ok((sent as f64 - came.load(Ordering::Relaxed) as f64, gap.as_secs_f64() * 1e3))
}

const LOSSLESS: &str = "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
    [guest.gap-g]\nkind = \"netns\"\naddress = [\"10.1.1.6\"]\n[[forward]]\nlisten = \"20000/udp\"\nto = \"gap-g:80\"\n";

/// Packets lost while what should lose none is done.
pub fn packets_lost() -> Outcome<Vec<Row>> {
    let scene = Scene::new("gap")?;
    scene.write(LOSSLESS)?;
    let mut serve = Some(Serve::start(&scene)?);
    let grown = format!("{LOSSLESS}[lan.br2]\naddress = [\"10.2.1.1/24\"]\n")
        .replace("kind = \"netns\"\n", "kind = \"netns\"\nlan = \"br1\"\n");
    let mut rows = Vec::new();
    let zero = ("0", Bound::Most(0.0));
    let mut losses = |work: &str, doing: &mut dyn FnMut() -> Outcome<()>| -> Outcome<()> {
        eprintln!("serve: {work}");
        let mut figures = Vec::new();
        for _ in 0..3 {
            figures.push(lost(&scene, "gap-g", &mut *doing)?.0);
        }
        rows.push(absolute(&format!("packets lost of 1,000 a second: {work}"), "", &Series::of(figures), zero));
        Ok(())
    };
    let mut big = false;
    losses("`up` with a change", &mut || {
        big = !big;
        scene.write(if big { &grown } else { LOSSLESS })?;
        scene.warren_done(&["-q", "up"])
    })?;
    losses("a reload by SIGHUP, with a change", &mut || {
        big = !big;
        scene.write(if big { &grown } else { LOSSLESS })?;
        serve.as_ref().ok_or("no serve")?.reload()
    })?;
    losses("`kill -9` of both processes, and a restart", &mut || {
        let old = serve.take().ok_or("no serve")?;
        let worker = old.worker()?;
        run("", &["kill", "-9", &old.pid().to_string(), &worker.to_string()])?;
        drop(old);
        serve = Some(Serve::start(&scene)?);
        Ok(())
    })?;
    let kept = serve.as_ref().ok_or("no serve")?.status()?["serve"]["tables_kept"] == true;
    losses(if kept { "`nft flush ruleset` (the tables are kept)" } else { "`nft flush ruleset`" }, &mut || {
        run(&scene.server, &["nft", "flush", "ruleset"])
    })?;
    drop(serve);
    scene.warren_done(&["-q", "down"])?;
    Ok(rows)
}

/// How long no packet comes through while what others have changed is changed back.
pub fn repairs() -> Outcome<Vec<Row>> {
    let scene = Scene::new("gap")?;
    scene.write(LOSSLESS)?;
    let serve = Serve::start(&scene)?;
    let mut rows = Vec::new();
    for (work, words) in [
        ("a guest's cable deleted", "ip link delete gap-g"),
        ("the bridge's address deleted", "ip address delete 10.1.1.1/24 dev br1"),
        ("the bridge deleted", "ip link delete br1"),
        ("forwarding switched off", "sysctl -qw net.ipv4.conf.br1.forwarding=0"),
    ] {
        eprintln!("serve: {work}");
        let mut figures = Vec::new();
        for _ in 0..5 {
            // Repairs further apart than that are no fight.
            thread::sleep(Duration::from_secs(3));
            let words: Vec<&str> = words.split(' ').collect();
            let count =
                || -> Outcome<u64> { serve.status()?["serve"]["count"].as_u64().ok_or_else(|| "no count".to_owned()) };
            let before = count()?;
            let work = || {
                run(&scene.server, &words)?;
                until(work, || Ok(count()? > before))
            };
            figures.push(lost(&scene, "gap-g", work)?.1);
        }
        let work = format!("no packet through a forward, after {work}");
        rows.push(absolute(&work, "ms", &Series::of(figures), ("≤ 200 ms", Bound::Most(200.0))));
    }
    drop(serve);
    scene.warren_done(&["-q", "down"])?;
    Ok(rows)
}
