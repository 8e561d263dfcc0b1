//! The tests' own client: connects, tells its peer's name, sends, and prints what comes back.

use std::io::ErrorKind;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::Parser;
use socket2::{Domain, Protocol, Socket, Type};

#[derive(Parser)]
struct Options {
    address: SocketAddr,
    /// Local address to bind first
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Device to bind to first
    #[arg(long)]
    device: Option<String>,
    /// IPv6 only
    #[arg(long)]
    v6only: bool,
    /// Multipath TCP
    #[arg(long)]
    mptcp: bool,
    /// What to send; `\r\n` are escapes
    #[arg(long, default_value = "")]
    send: String,
    /// Milliseconds before the first byte
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Milliseconds before each further byte
    #[arg(long, default_value_t = 0)]
    each: u64,
    /// Connects without blocking
    #[arg(long)]
    nonblocking: bool,
    /// Sends what comes on standard input as well
    #[arg(long)]
    talk: bool,
    /// Closes its half after sending
    #[arg(long)]
    half_close: bool,
    /// Closes after sending, without waiting for an answer
    #[arg(long)]
    leave: bool,
    /// Stops after the first bytes of the answer
    #[arg(long)]
    first: bool,
    /// Seconds to wait for more of the answer
    #[arg(long, default_value_t = 5)]
    patience: u64,
    /// Instead: this many connections, kept open without a word until the client is killed
    #[arg(long)]
    hold: Option<u32>,
    /// Instead: connects to 500 ports of this many addresses, both counted from this one; prints how many took it
    #[arg(long)]
    scan: Option<u32>,
    /// Instead: this many GET requests, each on a new connection; prints how they ended
    #[arg(long)]
    load: Option<u32>,
}

fn main() {
    let options = Options::parse();
    if let Some(requests) = options.load {
        return load(options.address, requests);
    }
    if let (Some(addresses), SocketAddr::V4(first)) = (options.scan, options.address) {
        let address = |n| Ipv4Addr::from_bits(first.ip().to_bits() + n);
        let ports = (0..500).map(|n| first.port() + n);
        let all = (0..addresses).flat_map(|n| ports.clone().map(move |port| (address(n), port)));
        // It may be reset as soon as it is taken.
        let taken = all.filter(|address| match TcpStream::connect(address) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        });
        return println!("scanned: {}", taken.count());
    }
    if let Some(connections) = options.hold {
        let connect = |_| TcpStream::connect(options.address);
        let held: Vec<_> = (0..connections).map(connect).collect();
        println!(
            "held: {}",
            held.iter().filter(|stream| stream.is_ok()).count()
        );
        loop {
            std::thread::park();
        }
    }
    match talk(&options) {
        Ok(()) => {}
        Err(error) => println!("error: {:?}", error.kind()),
    }
}

fn talk(options: &Options) -> std::io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(options.address),
        Type::STREAM,
        options.mptcp.then_some(Protocol::MPTCP),
    )?;
    if options.v6only {
        socket.set_only_v6(true)?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(address) = options.bind {
        socket.bind(&address.into())?;
    }
    if options.nonblocking {
        socket.connect_timeout(&options.address.into(), Duration::from_secs(3))?;
    } else {
        socket.connect(&options.address.into())?;
    }
    let mut stream = TcpStream::from(socket);
    println!("peer: {}", stream.peer_addr()?);
    let started = Instant::now();
    sleep(Duration::from_millis(options.delay));
    let bytes = options.send.replace("\\r", "\r").replace("\\n", "\n");
    if options.each == 0 {
        stream.write_all(bytes.as_bytes())?;
    } else {
        for byte in bytes.bytes() {
            stream.write_all(&[byte])?;
            sleep(Duration::from_millis(options.each));
        }
    }
    if options.half_close {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    if options.leave {
        return Ok(());
    }
    if options.talk {
        let mut writer = stream.try_clone()?;
        thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut writer));
    }
    stream.set_read_timeout(Some(Duration::from_secs(options.patience)))?;
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        print!("{}", String::from_utf8_lossy(&buffer[..read]));
        if read == 0 || options.first {
            println!("\nafter: {} ms", started.elapsed().as_millis());
            return Ok(());
        }
    }
}

/// How many of the load's connections are tried at a time.
const CLIENTS: u32 = 4;

/// Counts 200s, 502s, refused connects, and everything else.
fn load(address: SocketAddr, requests: u32) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| requests / CLIENTS + u32::from(client < requests % CLIENTS))
        .map(|share| thread::spawn(move || count(address, share)))
        .collect();
    let mut sum = [0; 4];
    for client in clients {
        let Ok(counts) = client.join() else {
            std::process::exit(1);
        };
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    let [ok, bad_gateway, refused, other] = sum;
    println!("ok={ok} 502={bad_gateway} refused={refused} other={other}");
}

fn count(address: SocketAddr, requests: u32) -> [u32; 4] {
    let mut counts = [0; 4];
    for _ in 0..requests {
        let kind = match request(address) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => 0,
            Ok(answer) if answer.starts_with("HTTP/1.1 502") => 1,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                // Else a moment of refusal would use up the load.
                sleep(Duration::from_millis(10));
                2
            }
            other => {
                eprintln!("{other:?}");
                3
            }
        };
        counts[kind] += 1;
    }
    counts
}

fn request(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        b"GET /marked-plaintext HTTP/1.1\r\nHost: marked\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
