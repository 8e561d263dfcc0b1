//! A server that speaks no TLS: to whatever a client says first it answers one text, and closes. For the tests.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use clap::Parser;

#[derive(Parser)]
struct Options {
    listen: SocketAddr,
    /// What to answer; each character is a byte
    text: String,
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let bytes: Vec<u8> = options.text.chars().map(|c| c as u8).collect();
    for stream in TcpListener::bind(options.listen)?.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, &bytes)) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    // A ClientHello fits.
    let _ = stream.read(&mut [0; 16 * 1024])?;
    stream.write_all(bytes)
}
