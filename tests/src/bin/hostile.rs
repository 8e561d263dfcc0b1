//! A server that means harm, on port 8443.

use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

#[derive(Parser)]
struct Options {
    harm: Harm,
    /// The server's certificate, PEM
    #[arg(long)]
    cert: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    key: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Harm {
    /// Bytes that are not TLS, without end
    Garbage,
    /// TLS warning alerts instead of a ServerHello, without end
    Alerts,
    /// A handshake message of 16 MiB, without end
    Handshake,
    /// ChangeCipherSpec records, without end
    ChangeCipherSpec,
    /// A byte of a ServerHello each 100 ms
    Trickle,
    /// A handshake, a request; then records that nobody encrypted
    Corrupt,
    /// A handshake, a request, the head of an answer; then records that nobody encrypted
    CorruptLater,
    /// A handshake after half a second; what the client says goes to standard output
    Late,
    /// A handshake, then KeyUpdate messages without end
    KeyUpdates,
    /// A handshake, then ten thousand session tickets
    Tickets,
    /// An answer to a connection's first request; at the second it closes without a word
    Once,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let config = Arc::new(config(&options).map_err(std::io::Error::other)?);
    for stream in TcpListener::bind(("0.0.0.0", 8443))?.incoming() {
        let (stream, config) = (stream?, Arc::clone(&config));
        // It ends when the peer has had enough.
        spawn(move || drop(serve(stream, options.harm, config)));
    }
    Ok(())
}

fn config(
    options: &Options,
) -> std::result::Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let certificate = CertificateDer::from_pem_file(&options.cert)?;
    let key = PrivateKeyDer::from_pem_file(&options.key)?;
    let builder = ServerConfig::builder().with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate], key)?;
    if matches!(options.harm, Harm::Tickets) {
        config.send_tls13_tickets = 10_000;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn serve(mut stream: TcpStream, harm: Harm, config: Arc<ServerConfig>) -> Result<()> {
    // RFC 8446 section 5.1: type, version, length.
    let record = |kind: u8, payload: &[u8]| {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        [&[kind, 3, 3, high, low], payload].concat()
    };
    match harm {
        Harm::Garbage => repeat(&mut stream, &[0xa5; 16 * 1024]),
        Harm::Alerts => repeat(&mut stream, &record(21, &[1, 90])),
        Harm::ChangeCipherSpec => repeat(&mut stream, &record(20, &[1])),
        Harm::Handshake => {
            stream.write_all(&record(22, &[2, 0xff, 0xff, 0xff]))?;
            repeat(&mut stream, &record(22, &[0; 16 * 1024]))
        }
        Harm::Trickle => {
            for byte in record(22, &[2; 10_000]) {
                stream.write_all(&[byte])?;
                sleep(Duration::from_millis(100));
            }
            Ok(())
        }
        Harm::Corrupt | Harm::CorruptLater => {
            let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
            let mut secured = Stream::new(&mut tls, &mut stream);
            let _ = secured.read(&mut [0; 4096])?;
            if matches!(harm, Harm::CorruptLater) {
                secured.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegun")?;
                // What is read together fails together.
                sleep(Duration::from_millis(300));
            }
            repeat(&mut stream, &record(23, &[0x5a; 1000]))
        }
        Harm::Late => {
            sleep(Duration::from_millis(500));
            let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
            let mut said = String::new();
            Stream::new(&mut tls, &mut stream).read_to_string(&mut said)?;
            println!("said: {said}");
            Ok(())
        }
        Harm::Tickets => {
            let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
            let _ = Stream::new(&mut tls, &mut stream).read(&mut [0; 4096])?;
            Ok(())
        }
        Harm::Once => {
            let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
            let mut secured = Stream::new(&mut tls, &mut stream);
            let _ = secured.read(&mut [0; 4096])?;
            secured.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nonce\n")?;
            let _ = secured.read(&mut [0; 4096])?;
            Ok(())
        }
        Harm::KeyUpdates => {
            let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            loop {
                tls.refresh_traffic_keys().map_err(std::io::Error::other)?;
                while tls.wants_write() {
                    tls.write_tls(&mut stream)?;
                }
            }
        }
    }
}

fn repeat(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    loop {
        match stream.write_all(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}
