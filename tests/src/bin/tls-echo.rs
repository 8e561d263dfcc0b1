//! A TLS server that tells each client what it saw of the request and of its TLS session, as JSON
//! in the manner of the Gateway API conformance echo server, whose variables for the certificate it
//! knows too. For the demo and the tests.
//!
//! Paths: `/bytes/N` answers N bytes, `/echo` the request's body, `/upgrade` changes to a protocol that echoes, any
//! other path answers the JSON. A gRPC call, whatever its method, is answered with one message, which is the JSON.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A TLS server that answers each request with what it saw of it.
#[derive(Parser)]
#[command(name = "tls-echo")]
struct Args {
    /// The server's certificate and its intermediates, PEM
    #[arg(long, value_name = "FILE", env = "TLS_SERVER_CERT")]
    cert: PathBuf,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", env = "TLS_SERVER_PRIVKEY")]
    key: PathBuf,
    /// Addresses to listen on, such as 0.0.0.0:8443; port 0 takes a free one
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,
    /// Require a client certificate that one of these CAs issued, PEM
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Speak no HTTP: answer each line with it and the TLS session, as JSON
    #[arg(long)]
    lines: bool,
    /// Write a line per request and per failed connection to stderr
    #[arg(long)]
    log: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Arc::new(Args::parse());
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&args)?));
    let mut listeners = Vec::new();
    for addr in &args.listen {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("listen on {addr}"))?;
        println!("listening on {}", listener.local_addr()?);
        listeners.push(tokio::spawn(accept(
            listener,
            acceptor.clone(),
            args.clone(),
        )));
    }
    for listener in listeners {
        listener.await?;
    }
    Ok(())
}

fn server_config(args: &Args) -> Result<ServerConfig> {
    let key = PrivateKeyDer::from_pem_file(&args.key)
        .with_context(|| format!("private key {}", args.key.display()))?;
    let builder = ServerConfig::builder();
    let builder = match &args.client_ca {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for ca in certificates(file)? {
                roots
                    .add(ca)
                    .with_context(|| format!("client CA {}", file.display()))?;
            }
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build()?)
        }
        None => builder.with_no_client_auth(),
    };
    // Not with_single_cert, which refuses X.509 v1: what a server may present is the client's to judge.
    let key = builder
        .crypto_provider()
        .key_provider
        .load_private_key(key)?;
    let certified = CertifiedKey::new(certificates(&args.cert)?, key);
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect())
        .with_context(|| format!("certificates in {}", file.display()))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, args: Arc<Args>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Of an IPv4 client, to a listener for both families.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let (acceptor, args) = (acceptor.clone(), args.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, peer, acceptor, &args).await
                        && args.log
                    {
                        eprintln!("{peer}: {error:#}");
                    }
                });
            }
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await; // EMFILE: let others close
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    args: &Args,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    const TLS_HANDSHAKE_RECORD: u8 = 22; // RFC 8446 section 5.1
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE_RECORD {
        return refuse_plaintext(stream).await;
    }
    let stream = acceptor.accept(stream).await.context("TLS handshake")?;
    let tls = describe(stream.get_ref().1);
    if args.lines {
        return answer_lines(stream, &tls).await;
    }
    let service = service_fn(|request| {
        if args.log {
            eprintln!("{peer}: {} {} {tls}", request.method(), request.uri());
        }
        let response = respond(request, peer, &tls);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A client that has sent all it has to say still wants its answer.
    builder.http1().half_close(true);
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!("HTTP: {error}"))
}

/// Answers as Go's server does, and only after the request's head: an early close would reset the
/// connection and lose the answer.
async fn refuse_plaintext(mut stream: TcpStream) -> Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n\
        Client sent an HTTP request to an HTTPS server.\n";
    let mut head = Vec::new();
    while head.len() < 16 << 10 && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    anyhow::bail!("plaintext")
}

async fn answer_lines(stream: TlsStream<TcpStream>, tls: &Value) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = format!("{}\n", json!({"request": line.trim_end(), "tls": tls}));
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(stream.shutdown().await?)
}

/// The session as the server negotiated it, with Go's names.
fn describe(session: &ServerConnection) -> Value {
    let version = session
        .protocol_version()
        .and_then(|version| version.as_str());
    let suite = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    let group = session.negotiated_key_exchange_group();
    let group = group.and_then(|group| group.name().as_str());
    json!({
        "version": version.map(|name| name.replace('_', ".")),
        "serverName": session.server_name(),
        "negotiatedProtocol": session.alpn_protocol().map(String::from_utf8_lossy),
        "cipherSuite": suite.map(|name| name.replace("TLS13_", "TLS_")),
        "peerCertificates": session.peer_certificates().map(pem),
        "group": group,
    })
}

fn pem(certificates: &[CertificateDer<'static>]) -> Vec<String> {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let pem = |der: &CertificateDer| {
        pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), lines)
    };
    certificates.iter().map(pem).collect()
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

fn respond(request: Request<Incoming>, peer: SocketAddr, tls: &Value) -> Answer {
    let path = request.uri().path();
    if path == "/upgrade" {
        return upgrade(request);
    }
    if path == "/echo" {
        return Response::new(request.into_body().boxed());
    }
    if let Some(count) = path.strip_prefix("/bytes/") {
        return match count.parse() {
            Ok(left) => Response::new(Zeros { left }.map_err(|never| match never {}).boxed()),
            Err(_) => {
                let mut answer = text("text/plain", "/bytes/N: N is not a number\n".to_owned());
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                answer
            }
        };
    }
    // HTTP/2 has it in the URI, as :authority.
    let host = request
        .uri()
        .authority()
        .map(ToString::to_string)
        .or_else(|| {
            let host = request.headers().get(header::HOST)?;
            Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
        });
    let answer = json!({
        "path": request.uri().path_and_query().map(|path| path.as_str()),
        "host": host,
        "method": request.method().as_str(),
        "proto": format!("{:?}", request.version()),
        "headers": headers(&request),
        "peer": peer.to_string(),
        "pod": std::env::var("POD_NAME").ok(),
        "tls": tls,
    });
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return grpc(&answer);
    }
    text("application/json", format!("{answer:#}\n"))
}

/// Says which host was asked for, and sends back whatever comes.
fn upgrade(mut request: Request<Incoming>) -> Answer {
    let protocol = request.headers().get(header::UPGRADE).cloned();
    let host = request.headers().get(header::HOST).cloned();
    let (Some(protocol), Some(host)) = (protocol, host) else {
        let mut answer = text("text/plain", "no upgrade asked for\n".to_owned());
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await?));
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await?;
        anyhow::Ok(())
    });
    let mut answer = text("text/plain", String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("Upgrade"),
    );
    headers.insert(header::UPGRADE, protocol);
    headers.insert("x-host", host);
    answer
}

fn headers(request: &Request<Incoming>) -> Map<String, Value> {
    let values = |name| {
        let values = request.headers().get_all(name).iter();
        values
            .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())))
            .collect()
    };
    request
        .headers()
        .keys()
        .map(|name| (name.to_string(), values(name)))
        .collect()
}

fn text(content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text).map_err(|never| match never {}).boxed());
    let value = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(header::CONTENT_TYPE, value);
    answer
}

/// One message and the status OK, in the trailers (gRPC over HTTP2, PROTOCOL-HTTP2.md).
fn grpc(message: &Value) -> Answer {
    let message = message.to_string();
    let mut frame = vec![0]; // not compressed
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message.into_bytes());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![Frame::data(frame.into()), Frame::trailers(trailers)];
    let body = Frames(frames.into_iter()).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed());
    let value = HeaderValue::from_static("application/grpc+json");
    answer.headers_mut().insert(header::CONTENT_TYPE, value);
    answer
}

/// A body whose length nobody is told beforehand, as with gRPC: curl reads no trailers after a known one.
struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

/// A body of `left` zero bytes, made as they are sent.
struct Zeros {
    left: u64,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 64 << 10] = [0; 64 << 10];
        let length = usize::try_from(self.left).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
