//! What `cargo xtask bench` has no package for: a server of gRPC, uploads and an echo, and a relay without TLS as a floor.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io::Result as IoResult;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

/// As many connects as may wait, like nginx' in the benchmark.
const BACKLOG: u32 = 4096;
/// Of a gRPC answer's message.
const MESSAGE: [u8; 1024] = [b'x'; 1024];
/// An echo that is sent this tells of its TLS instead, and ends.
const WHICH_TLS: &[u8] = b"tls?\n";

/// Servers and relays of the benchmark
#[derive(Parser)]
enum Task {
    /// TLS 1.3 with one cipher suite and one group, as the benchmark's nginx has
    Serve(Serve),
    /// Bytes both ways, without TLS
    Relay {
        /// LISTEN=TARGET
        #[arg(required = true, value_parser = pair)]
        pairs: Vec<(SocketAddr, SocketAddr)>,
    },
}

#[derive(clap::Args)]
struct Serve {
    #[arg(long)]
    listen: IpAddr,
    /// Ports of HTTP/1 and HTTP/2: with TLS, without
    #[arg(long, num_args = 2)]
    http: Vec<u16>,
    /// Ports of the echo: with TLS, without
    #[arg(long, num_args = 2)]
    echo: Vec<u16>,
    /// Port of an echo with a certificate that nobody trusts
    #[arg(long)]
    untrusted: u16,
    /// Certificate and key, PEM
    #[arg(long, num_args = 2)]
    identity: Vec<PathBuf>,
    /// The other certificate and key, PEM
    #[arg(long, num_args = 2)]
    untrusted_identity: Vec<PathBuf>,
}

fn pair(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (listen, target) = text.split_once('=').ok_or("not LISTEN=TARGET")?;
    let address = |text: &str| text.parse().map_err(|_| format!("{text}: not an address"));
    Ok((address(listen)?, address(target)?))
}

#[tokio::main]
async fn main() -> Result<()> {
    match Task::parse() {
        Task::Serve(options) => start(&options)?,
        Task::Relay { pairs } => {
            for (listen, target) in pairs {
                accept(listen, move |client| relay(client, target))?;
            }
        }
    }
    std::future::pending().await
}

fn start(options: &Serve) -> Result<()> {
    let at = |port: u16| SocketAddr::new(options.listen, port);
    let tls = acceptor(&options.identity)?;
    let other = acceptor(&options.untrusted_identity)?;
    let of_http = tls.clone();
    accept(at(options.http[0]), move |stream| {
        let tls = of_http.clone();
        async move { http(tls.accept(stream).await?).await }
    })?;
    accept(at(options.http[1]), http)?;
    for (port, tls) in [(options.echo[0], tls), (options.untrusted, other)] {
        accept(at(port), move |stream| {
            let tls = tls.clone();
            async move {
                let stream = tls.accept(stream).await?;
                let about = about(stream.get_ref().1);
                echo(stream, &about).await
            }
        })?;
    }
    accept(at(options.echo[1]), |stream| echo(stream, "none"))
}

fn acceptor(identity: &[PathBuf]) -> Result<TlsAcceptor> {
    let [certificate, key] = identity else {
        anyhow::bail!("a certificate and a key are needed");
    };
    let named = |file: &Path| file.display().to_string();
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| named(key))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    provider.kx_groups = vec![kx_group::X25519];
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain.with_context(|| named(certificate))?, key)?;
    config.ticketer = Ticketer::new()?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

/// Serves each connection by itself; those that fail are for the clients to count.
fn accept<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = IoResult<()>> + Send + 'static,
{
    let listener = listen(address).with_context(|| format!("listen on {address}"))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
        eprintln!("{address}: no more connections can be accepted");
        std::process::exit(1);
    });
    Ok(())
}

fn listen(address: SocketAddr) -> IoResult<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn relay(mut client: TcpStream, target: SocketAddr) -> IoResult<()> {
    let mut server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, about: &str) -> IoResult<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 || buffer.starts_with(WHICH_TLS) {
            if read > 0 {
                stream.write_all(about.as_bytes()).await?;
            }
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..read]).await?;
        stream.flush().await?;
    }
}

/// As the benchmark's nginx tells it: version, cipher suite, group, and `r` for a resumed session or a dot.
fn about(session: &ServerConnection) -> String {
    let version = session.protocol_version().and_then(|it| it.as_str());
    let suite = session.negotiated_cipher_suite();
    let suite = suite.and_then(|it| it.suite().as_str());
    let group = session.negotiated_key_exchange_group();
    let group = group.and_then(|it| it.name().as_str());
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    format!(
        "{} {} {} {}",
        version.unwrap_or("?").replace('_', "."),
        suite.unwrap_or("?").replace("TLS13_", "TLS_"),
        group.unwrap_or("?"),
        if resumed { "r" } else { "." }
    )
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> IoResult<()> {
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    served.map_err(std::io::Error::other)
}

/// Reads the whole request; a gRPC call is answered with one message, anything else with the number of bytes.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let kind = request.headers().get(CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    if !grpc {
        return Ok(Response::new(Full::from(bytes.to_string()).boxed()));
    }
    // One frame that is not compressed, then the status OK in the trailers (gRPC over HTTP2, PROTOCOL-HTTP2.md).
    let mut message = vec![0];
    message.extend((MESSAGE.len() as u32).to_be_bytes());
    message.extend(MESSAGE);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(message).with_trailers(ready(Some(Ok(trailers))));
    let mut answer = Response::new(body.boxed());
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(answer)
}
