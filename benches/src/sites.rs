//! Sites beside a tuned nginx, and beside haproxy: the same requests from the world to the same guest through each in
//! turn, each on one processor, none with an access log. Client and guest have another processor.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::measure::{Bound, Row, Series, absolute, compared, in_turns};
use crate::scene::{GUEST, Outcome, PUBLIC, Scene, inside, run, told};
use crate::serve::{Serve, settled, until};

const ROUNDS: usize = 7;
/// Single requests that were late make up a percentile: it takes more rounds to be steady.
const LATENCY_ROUNDS: usize = 15;
/// Where warren listens, and nginx beside it.
const PORTS: [u16; 2] = [80, 8080];
/// Where haproxy does.
const HAPROXY: u16 = 8081;
/// Requests a round: small ones, and those for 1 MiB.
const SMALL: u32 = 30_000;
const BIG: u32 = 1_000;
/// Small requests a second by each client, how many clients there are, and requests a round, where their time is what
/// counts: a few hundredths of what a proxy could do.
const RATE: u32 = 50;
const CLIENTS: &str = "32";
const PACED: u32 = 4_800;
/// The processor of both proxies, and that of who asks and who answers.
const PROXY: &str = "0";
const OTHERS: &str = "1";

/// The guest.
const WEB: &str = "web-g";

/// Ten sites on one guest.
fn ten() -> String {
    let mut text = format!(
        "[host]\nuplink = \"eth0\"\npublic = [\"{PUBLIC}\"]\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
         [guest.{WEB}]\nkind = \"netns\"\naddress = [\"{GUEST}\"]\n"
    );
    for nth in 0..10 {
        text.push_str(&format!("[[site]]\nhost = \"www{nth}.example.org\"\nto = [\"{WEB}:80\"]\n"));
    }
    text
}

const HEAD: &str = "daemon off; worker_processes 1; user root; pid FOLDER/NAME.pid; error_log FOLDER/NAME.log;\n\
    events { worker_connections 4096; }\nhttp { access_log off; sendfile on; tcp_nodelay on;\n\
    keepalive_requests 1000000000; keepalive_timeout 600;\n";
/// What the guest answers with.
const GUESTS: &str = "server { listen 80 backlog=1024; root FOLDER; open_file_cache max=10;\n\
    location = /small { default_type text/plain; return 200 \"hello\\n\"; } } }\n";
/// What warren tells guests, told by nginx; connections kept, and buffers for whole bodies.
const PEERS: &str = "upstream guest { server 10.1.1.6:80; keepalive 256; keepalive_requests 1000000000; }\n\
    server { listen 203.0.113.2:8080 backlog=1024; server_name www0.example.org; location / {\n\
    proxy_pass http://guest; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
    proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Host $http_host;\n\
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
    proxy_set_header Forwarded \"for=$remote_addr;host=\\\"$http_host\\\";proto=$scheme\";\n\
    proxy_buffer_size 16k; proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0; } } }\n";

/// What haproxy is told: as much of the client, connections kept, bodies spliced.
const BALANCER: &str = "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n\
    timeout client 60s\n timeout server 60s\n http-reuse always\n option splice-auto\n option forwardfor\n\
    frontend peer\n bind 203.0.113.2:8081\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
    http-request set-header X-Forwarded-Proto http\n\
    http-request set-header Forwarded for=%[src];host=\\\"%[req.hdr(host)]\\\";proto=http\n default_backend guest\n\
    backend guest\n server guest 10.1.1.6:80\n";

/// A server, ended with this.
struct Server(Child);

impl Server {
    fn nginx(place: &str, processor: &str, folder: &Path, name: &str, servers: &str) -> Outcome<Self> {
        let text = format!("{HEAD}{servers}").replace("FOLDER", &folder.display().to_string()).replace("NAME", name);
        let [conf, log] = ["conf", "log"].map(|end| folder.join(format!("{name}.{end}")).display().to_string());
        told(fs::write(&conf, text), &conf)?;
        let mut command = inside(place, &["taskset", "-c", processor, "nginx", "-e", &log, "-c", &conf]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        told(command.spawn(), "nginx (apt-get install nginx-light)").map(Self)
    }

    fn haproxy(place: &str, folder: &Path) -> Outcome<Self> {
        let conf = folder.join("haproxy.cfg").display().to_string();
        told(fs::write(&conf, BALANCER), &conf)?;
        let mut command = inside(place, &["taskset", "-c", PROXY, "haproxy", "-db", "-q", "-f", &conf]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        told(command.spawn(), "haproxy (apt-get install haproxy)").map(Self)
    }

    /// nginx' one worker.
    fn worker(&self) -> Outcome<u32> {
        let (mut found, path) = (None, format!("/proc/{0}/task/{0}/children", self.0.id()));
        until("nginx has a worker", || {
            let text = told(fs::read_to_string(&path), &path)?;
            found = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| "nginx has no worker".to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; its worker ends with it.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Microseconds of processor time that a process of one thread has taken (schedstat, in nanoseconds).
fn taken(pid: u32) -> Outcome<f64> {
    let text = told(fs::read_to_string(format!("/proc/{pid}/schedstat")), "schedstat")?;
    let nanoseconds: f64 = told(text.split(' ').next().unwrap_or_default().parse(), "schedstat")?;
    Ok(nanoseconds / 1e3)
}

/// Asks so many times through a port, and says what was heard.
fn ask(scene: &Scene, port: u16, path: &str, count: u32, clients: &str) -> Outcome<String> {
    let (url, to) = (format!("http://www0.example.org{path}"), format!("--connect-to={PUBLIC}:{port}"));
    let count = count.to_string();
    let words = ["taskset", "-c", OTHERS, "h2load", "--h1", "-n", &count, "-c", clients, &to, &url];
    let output = told(inside(&scene.world, &words).stdin(Stdio::null()).output(), "h2load")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match said.contains(&format!(" {count} succeeded, 0 failed")) {
        true => Ok(said),
        false => Err(format!("not every request through port {port} was answered: {said}")),
    }
}

/// Processor time of a request, in microseconds.
fn cost(scene: &Scene, pid: u32, port: u16, path: &str, count: u32, clients: &str) -> Outcome<f64> {
    let before = taken(pid)?;
    ask(scene, port, path, count, clients)?;
    Ok((taken(pid)? - before) / f64::from(count))
}

/// The 99th percentile of small requests in microseconds: each asked when its time has come (`rate` a second by each
/// client), which leaves everybody idle for most of the time, or as soon as the one before is answered.
fn slowest(scene: &Scene, port: u16, count: u32, rate: Option<u32>) -> Outcome<f64> {
    let to = format!("--connect-to={PUBLIC}:{port}");
    let log = scene.folder().join("latencies");
    // h2load adds to what is there.
    let _ = fs::remove_file(&log);
    let (log_file, total) = (format!("--log-file={}", log.display()), count.to_string());
    let mut words = vec!["taskset", "-c", OTHERS, "h2load", "--h1", "-n", &total, "-c", CLIENTS, &log_file, &to];
    let rate = rate.map(|rate| format!("--rps={rate}"));
    words.extend(rate.as_deref());
    words.push("http://www0.example.org/small");
    told(inside(&scene.world, &words).stdin(Stdio::null()).output(), "h2load")?;
    let text = told(fs::read_to_string(&log), "what h2load has written down")?;
    let mut all = Vec::new();
    for line in text.lines() {
        let mut columns = line.split('\t').skip(1);
        if columns.next() != Some("200") {
            return Err(format!("not every request through port {port} was answered: {line}"));
        }
        all.push(told(columns.next().unwrap_or_default().parse::<f64>(), line)?);
    }
    if all.len() != count as usize {
        return Err(format!("{} of {count} requests through port {port} were answered", all.len()));
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() * 99 / 100])
}

/// Rows of the table.
pub fn rows() -> Outcome<Vec<Row>> {
    let scene = Scene::new("web")?;
    scene.write(&ten())?;
    let serve = Serve::start(&scene)?;
    let worker = serve.worker()?;
    run("", &["taskset", "--pid", "--cpu-list", PROXY, &worker.to_string()])?;
    let folder = scene.folder().to_owned();
    told(fs::write(folder.join("big"), vec![b'x'; 1 << 20]), "a file")?;
    let _guests = Server::nginx(WEB, OTHERS, &folder, "guest", GUESTS)?;
    let nginx = Server::nginx(&scene.server, PROXY, &folder, "peer", PEERS)?;
    let haproxy = Server::haproxy(&scene.server, &folder)?;
    let pids = [worker, nginx.worker()?];
    for port in [PORTS[0], PORTS[1], HAPROXY] {
        until("the guest answers", || Ok(ask(&scene, port, "/small", 1, "1").is_ok()))?;
    }
    let mut rows = Vec::new();
    for (work, path, count, clients, goal) in [
        ("processor time of a small request through a site, 32 connections", "/small", SMALL, "32", ("≤ 1.2", 1.2)),
        ("processor time of a body of 1 MiB through a site, 8 connections", "/big", BIG, "8", ("≤ 0.7", 0.7)),
    ] {
        eprintln!("sites: {path}");
        let mut ours = || cost(&scene, pids[0], PORTS[0], path, count, clients);
        let mut theirs = || cost(&scene, pids[1], PORTS[1], path, count, clients);
        let mut others = || cost(&scene, haproxy.0.id(), HAPROXY, path, count, clients);
        let series = in_turns(ROUNDS, &mut [&mut ours, &mut theirs, &mut others])?;
        rows.push(compared(work, "µs", &series[0], "nginx", &series[1], (goal.0, Bound::Most(goal.1))));
        rows.push(compared("the same", "µs", &series[0], "haproxy", &series[2], ("", Bound::Most(f64::MAX))));
    }
    for (work, count, rate) in [
        ("small requests through a site, 32 connections, 1,600 a second: 99 of 100 within", PACED, Some(RATE)),
        ("small requests through a site, 32 connections, as fast as they are answered: 99 of 100 within", SMALL, None),
    ] {
        eprintln!("sites: latency");
        let [mut ours, mut theirs] = PORTS.map(|port| {
            let scene = &scene;
            move || slowest(scene, port, count, rate)
        });
        let series = in_turns(LATENCY_ROUNDS, &mut [&mut ours, &mut theirs])?;
        rows.push(compared(work, "µs", &series[0], "nginx", &series[1], ("≤ 1.25", Bound::Most(1.25))));
    }
    drop((nginx, haproxy, serve));
    rows.push(at_rest(&scene)?);
    scene.warren_done(&["-q", "down"])?;
    Ok(rows)
}

/// What `serve` with ten sites keeps in memory before anybody asks.
fn at_rest(scene: &Scene) -> Outcome<Row> {
    eprintln!("sites: memory");
    let mut figures = Vec::new();
    for _ in 0..3 {
        let serve = Serve::start(scene)?;
        figures.push(settled(&serve)?);
    }
    let work = "idle memory of `serve` with ten sites, both processes";
    Ok(absolute(work, "MiB", &Series::of(figures), ("< 16", Bound::Most(16.0))))
}
