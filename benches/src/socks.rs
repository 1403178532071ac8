//! The developers' door beside microsocks, dante and ssh -D: new connections, one stream, connects one after the other.
//! Who carries is measured by the processor time of its own processes too, which what else the machine does changes little.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Instant;

use kernel::netns::Netns;

use crate::measure::{Bound, Row, Series, compared, in_turns};
use crate::scene::{GUEST, Outcome, PUBLIC, Scene, inside, run, told};
use crate::serve::{Serve, until};

const ROUNDS: usize = 5;
/// New connections of one measurement, of which hundreds take as long as the kernel's clock of processor time has ticks;
/// of those who are slow at them; and how many at a time.
const CONNECTIONS: u32 = 12_000;
const FEW_CONNECTIONS: u32 = 2400;
const AT_ONCE: u32 = 8;
/// Bytes of one stream.
const STREAM: u64 = 1 << 30;
/// Connects one after the other.
const SEQUENTIAL: u32 = 20;
/// Ports of the guest's: what answers with a byte, and what sends a stream.
const BYTE: u16 = 80;
const MUCH: u16 = 81;

/// A proxy on loopback, and the processes that it is.
struct Proxy {
    port: u16,
    pids: Vec<u32>,
    child: Option<Ended>,
}

/// Ended with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `cargo xtask bench` unpacks the peers: installed, one of them would serve this machine.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/socks-peers")
}

/// Every process below and with this one.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    all.extend(children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(family));
    all
}

/// Seconds of processor time of processes and of what they have waited for (proc_pid_stat(5)).
fn processor_time(pids: &[u32]) -> f64 {
    // SAFETY: it takes no pointer.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let of = |pid: &u32| -> f64 {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        fields.get(11..15).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / ticks
    };
    pids.iter().map(of).sum()
}

impl Proxy {
    /// One that a program is, as soon as it listens.
    fn start(scene: &Scene, port: u16, words: &[&str], more: &[(&str, &str)]) -> Outcome<Self> {
        let mut command = inside(&scene.server, words);
        command.envs(more.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Ended(told(command.spawn(), words[0])?);
        let place = told(Netns::open(&scene.server), &scene.server)?;
        until(&format!("{} listens", words[0]), || {
            if let Ok(Some(status)) = child.0.try_wait() {
                return Err(format!("{} ended: {status}", words[0]));
            }
            Ok(told(place.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port))), "a thread")?.is_ok())
        })?;
        Ok(Self { port, pids: family(child.0.id()), child: Some(child) })
    }

    /// Its processes as they are now: some start others as they need them.
    fn processor_time(&self) -> f64 {
        match &self.child {
            Some(child) => processor_time(&family(child.0.id())),
            None => processor_time(&self.pids),
        }
    }

    /// A stream through it to a port of the guest's.
    fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.write_all(&[5, 1, 0])?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer)?;
        let [a, b, c, d] = GUEST.octets();
        let [high, low] = port.to_be_bytes();
        stream.write_all(&[5, 1, 0, 1, a, b, c, d, high, low])?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        match answer[1] {
            0 => Ok(stream),
            code => Err(std::io::Error::other(format!("refused with {code}"))),
        }
    }
}

/// Both sides of a work: what passed in it, and what it cost the proxy.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    processor: f64,
}

/// Many connections, each of which brings a byte: a second of them, and microseconds of the proxy's for each.
fn connections<const COUNT: u32>(scene: &Scene, proxy: &Proxy) -> Outcome<Cost> {
    let before = proxy.processor_time();
    let began = Instant::now();
    let place = &scene.server;
    thread::scope(|scope| {
        let each = || {
            let place = told(Netns::open(place), place)?;
            let result = place.run(|| {
                for _ in 0..COUNT / AT_ONCE {
                    let mut byte = Vec::new();
                    proxy.connect(BYTE)?.read_to_end(&mut byte)?;
                    if byte != b"x" {
                        return Err(std::io::Error::other("another answer"));
                    }
                }
                Ok(())
            });
            told(told(result, "a thread")?, "a connection")
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(each)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a client ended".to_owned())?)
    })?;
    let wall = began.elapsed().as_secs_f64();
    let processor = proxy.processor_time() - before;
    Ok(Cost { wall: f64::from(COUNT) / wall, processor: processor / f64::from(COUNT) * 1e6 })
}

/// One stream from the guest: gigabytes a second, and seconds of the proxy's for a gigabyte.
fn stream(scene: &Scene, proxy: &Proxy) -> Outcome<Cost> {
    let before = proxy.processor_time();
    let began = Instant::now();
    let place = told(Netns::open(&scene.server), &scene.server)?;
    let read = place.run(|| {
        let mut stream = proxy.connect(MUCH)?;
        let mut buffer = vec![0; 256 << 10];
        let mut whole = 0_u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok::<u64, std::io::Error>(whole),
                count => whole += count as u64,
            }
        }
    });
    let whole = told(told(read, "a thread")?, "a stream")?;
    if whole != STREAM {
        return Err(format!("{whole} of {STREAM} bytes came"));
    }
    let giga = STREAM as f64 / 1e9;
    Ok(Cost { wall: giga / began.elapsed().as_secs_f64(), processor: (proxy.processor_time() - before) / giga })
}

/// Milliseconds of a connect and its first byte, one after the other.
fn sequential(scene: &Scene, proxy: &Proxy) -> Outcome<f64> {
    let place = told(Netns::open(&scene.server), &scene.server)?;
    let began = Instant::now();
    let result = place.run(|| {
        for _ in 0..SEQUENTIAL {
            proxy.connect(BYTE)?.read_exact(&mut [0])?;
        }
        Ok::<(), std::io::Error>(())
    });
    told(told(result, "a thread")?, "a connect")?;
    Ok(began.elapsed().as_secs_f64() * 1e3 / f64::from(SEQUENTIAL))
}

/// The guest's: a byte for everybody, and a stream for who asks for it.
fn answer(guest: &str) -> Outcome<()> {
    let listen = |port: u16| -> Outcome<TcpListener> {
        told(told(told(Netns::open(guest), guest)?.run(|| TcpListener::bind(("0.0.0.0", port))), guest)?, "a listener")
    };
    let (bytes, much) = (listen(BYTE)?, listen(MUCH)?);
    // They end with the process.
    thread::spawn(move || {
        for mut stream in bytes.incoming().flatten() {
            let _ = stream.write_all(b"x");
        }
    });
    thread::spawn(move || {
        let block = vec![0; 256 << 10];
        for mut stream in much.incoming().flatten() {
            let _ = (0..STREAM / block.len() as u64).try_for_each(|_| stream.write_all(&block));
        }
    });
    Ok(())
}

/// sshd on loopback and a client of its, which is the proxy.
fn ssh(scene: &Scene) -> Outcome<(Ended, Proxy)> {
    let folder = scene.folder().join("ssh");
    told(fs::create_dir(&folder), "a folder")?;
    for key in ["host", "client"] {
        let path = folder.join(key).display().to_string();
        run("", &["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path])?;
    }
    told(fs::create_dir_all("/run/sshd"), "/run/sshd")?;
    let at = folder.display();
    let config = format!(
        "Port 1083\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\nAuthorizedKeysFile {at}/client.pub\n\
         StrictModes no\nPermitRootLogin yes\nUsePAM no\nPasswordAuthentication no\n"
    );
    told(fs::write(folder.join("config"), config), "sshd's file")?;
    told(fs::set_permissions(folder.join("client"), fs::Permissions::from_mode(0o600)), "a key")?;
    let words = ["/usr/sbin/sshd", "-D", "-f", &format!("{at}/config")];
    let sshd = Proxy::start(scene, 1083, &words, &[])?;
    let identity = format!("{at}/client");
    let words = [
        "ssh",
        "-F",
        "none",
        "-N",
        "-D",
        "127.0.0.1:1084",
        "-p",
        "1083",
        "-i",
        &identity,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "root@127.0.0.1",
    ];
    let proxy = Proxy::start(scene, 1084, &words, &[])?;
    let sshd = sshd.child.ok_or("no sshd")?;
    Ok((sshd, proxy))
}

/// dante's server, which keeps processes for each part of a connection.
fn dante(scene: &Scene) -> Outcome<Proxy> {
    let path = scene.folder().join("danted.conf");
    let config = "errorlog: /dev/null\ninternal: 127.0.0.1 port = 1082\nexternal: br1\nclientmethod: none\nsocksmethod: none\n\
                  user.privileged: root\nuser.unprivileged: nobody\nclient pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n\
                  socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n";
    told(fs::write(&path, config), "dante's file")?;
    let program = peers().join("usr/sbin/danted").display().to_string();
    Proxy::start(scene, 1082, &[&program, "-f", &path.display().to_string()], &[])
}

/// Of the same rounds, what passed and what it cost.
fn both(scene: &Scene, proxies: &[&Proxy], work: fn(&Scene, &Proxy) -> Outcome<Cost>) -> Outcome<Vec<[Series; 2]>> {
    let costs = std::cell::RefCell::new(vec![Vec::new(); proxies.len()]);
    let mut works: Vec<Box<dyn FnMut() -> Outcome<f64> + '_>> = Vec::new();
    for (nth, proxy) in proxies.iter().enumerate() {
        let costs = &costs;
        works.push(Box::new(move || {
            let cost = work(scene, proxy)?;
            costs.borrow_mut()[nth].push(cost.processor);
            Ok(cost.wall)
        }));
    }
    let mut turns: Vec<&mut dyn FnMut() -> Outcome<f64>> = works.iter_mut().map(|work| &mut **work as _).collect();
    let walls = in_turns(ROUNDS, &mut turns)?;
    drop(works);
    // The round that does not count is the first.
    let costs = costs.into_inner().into_iter().map(|costs| Series::of(costs[1..].to_vec()));
    Ok(walls.into_iter().zip(costs).map(|(wall, cost)| [wall, cost]).collect())
}

/// The rows of this work.
pub fn rows() -> Outcome<Vec<Row>> {
    let scene = Scene::new("socks")?;
    scene.write(&format!(
        "[host]\nuplink = \"eth0\"\npublic = [\"{PUBLIC}\"]\nhosts-resolver = false\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
         [guest.g]\nkind = \"reserved\"\naddress = [\"{GUEST}\"]\n[socks]\nlisten = [\"127.0.0.1:1080\"]\n"
    ))?;
    let serve = Serve::start(&scene)?;
    answer(&scene.plug()?)?;
    let warren = Proxy { port: 1080, pids: vec![serve.pid(), serve.worker()?], child: None };
    let program = peers().join("usr/bin/microsocks").display().to_string();
    let microsocks = Proxy::start(&scene, 1081, &[&program, "-i", "127.0.0.1", "-p", "1081"], &[])?;
    let dante = dante(&scene)?;
    let (_sshd, ssh) = ssh(&scene)?;
    // The guest answers as soon as its cable carries.
    until("the guest answers", || Ok(sequential(&scene, &warren).is_ok()))?;

    let new = both(&scene, &[&warren, &microsocks], connections::<CONNECTIONS>)?;
    let [fast, micro] = &new[..] else { return Err("two figures".to_owned()) };
    let new = both(&scene, &[&warren, &dante, &ssh], connections::<FEW_CONNECTIONS>)?;
    let [ours, danted, sshd] = &new[..] else { return Err("three figures".to_owned()) };
    let (each, least, most) = ("µs", ("≥ 1.0", Bound::Least(1.0)), ("≤ 1.0", Bound::Most(1.0)));
    let mut rows = vec![
        compared("new connections through SOCKS5, eight at a time", "/s", &fast[0], "microsocks", &micro[0], least),
        compared("the same", "/s", &ours[0], "dante", &danted[0], least),
        compared("the same", "/s", &ours[0], "ssh -D", &sshd[0], least),
        compared("processor time of such a connection", each, &fast[1], "microsocks", &micro[1], most),
        compared("the same", each, &ours[1], "dante", &danted[1], most),
    ];
    let one = both(&scene, &[&warren, &dante, &microsocks], stream)?;
    let [ours, danted, micro] = &one[..] else { return Err("three figures".to_owned()) };
    let (least, most) = (("≥ 1.1", Bound::Least(1.1)), ("≤ 0.9", Bound::Most(0.9)));
    rows.extend([
        compared("one stream through SOCKS5", "GB/s", &ours[0], "dante", &danted[0], least),
        compared("the same", "GB/s", &ours[0], "microsocks", &micro[0], least),
        compared("processor time of a gigabyte of it", "s", &ours[1], "dante", &danted[1], most),
        compared("the same", "s", &ours[1], "microsocks", &micro[1], most),
    ]);
    let measured = in_turns(ROUNDS, &mut [&mut || sequential(&scene, &warren), &mut || sequential(&scene, &ssh)])?;
    let [ours, sshd] = &measured[..] else { return Err("two figures".to_owned()) };
    let goal = ("≤ 0.1", Bound::Most(0.1));
    rows.push(compared("a connect through SOCKS5 and its first byte, one by one", "ms", ours, "ssh -D", sshd, goal));
    Ok(rows)
}
