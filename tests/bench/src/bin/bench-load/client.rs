//! One side of a conversation: connects, sends a message, takes the answer.

use std::io::{Error, Result as IoResult};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A message, and what its answer is.
pub(crate) enum Talk {
    /// The same bytes.
    Echo(Vec<u8>),
    /// An HTTP/1.1 answer with a Content-Length.
    Get(Vec<u8>),
}

impl Talk {
    /// Bytes that no request line and no ClientHello begins with: a proxy knows at once that they are neither.
    pub(crate) fn echo(bytes: usize) -> Self {
        Self::Echo(vec![0; bytes])
    }

    /// `last` on its connection, or not.
    pub(crate) fn get(path: &str, host: SocketAddr, last: bool) -> Self {
        let close = if last { "Connection: close\r\n" } else { "" };
        Self::Get(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n").into_bytes())
    }

    fn message(&self) -> &[u8] {
        let (Self::Echo(message) | Self::Get(message)) = self;
        message
    }
}

/// Where to connect, with what, for which talk.
pub(crate) struct Client {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    talk: Talk,
}

impl Client {
    /// `tls` is a name and a CA's file. Sessions are resumed.
    pub(crate) fn new(
        address: SocketAddr,
        tls: Option<(String, PathBuf)>,
        talk: Talk,
    ) -> Result<Self> {
        let connector = |(name, ca): (String, PathBuf)| -> Result<_> {
            let mut roots = RootCertStore::empty();
            let named = || ca.display().to_string();
            roots.add(CertificateDer::from_pem_file(&ca).with_context(named)?)?;
            let mut provider = aws_lc_rs::default_provider();
            provider.kx_groups = vec![kx_group::X25519]; // as all peers
            let config = ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots);
            let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
            Ok((connector, ServerName::try_from(name)?))
        };
        Ok(Self {
            address,
            tls: tls.map(connector).transpose()?,
            talk,
        })
    }

    pub(crate) async fn connect(&self) -> IoResult<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            None => Box::new(stream),
        };
        Ok(Connection {
            stream,
            answer: Vec::with_capacity(2048),
        })
    }

    /// Sends the message, and reads the whole answer.
    pub(crate) async fn exchange(&self, connection: &mut Connection) -> IoResult<()> {
        connection.stream.write_all(self.talk.message()).await?;
        connection.stream.flush().await?;
        match &self.talk {
            Talk::Echo(message) => connection.read(message.len()).await,
            Talk::Get(_) => connection.read_http().await,
        }
    }

    /// Connects, talks once, and closes.
    pub(crate) async fn once(&self) -> IoResult<()> {
        let mut connection = self.connect().await?;
        self.exchange(&mut connection).await
    }

    /// What the echo says when it is asked about its TLS.
    pub(crate) async fn tls(&self) -> IoResult<String> {
        let mut stream = self.connect().await?.stream;
        stream.write_all(b"tls?\n").await?;
        stream.flush().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    answer: Vec<u8>,
}

impl Connection {
    async fn read(&mut self, bytes: usize) -> IoResult<()> {
        self.answer.clear();
        while self.answer.len() < bytes {
            self.read_more().await?;
        }
        if self.answer.len() > bytes {
            return Err(Error::other("more was answered than was sent"));
        }
        Ok(())
    }

    async fn read_http(&mut self) -> IoResult<()> {
        self.answer.clear();
        loop {
            self.read_more().await?;
            if let Some(end) = end_of_answer(&self.answer)? {
                return match self.answer.len() {
                    length if length < end => self.read_rest(end).await,
                    length if length == end => Ok(()),
                    _ => Err(Error::other("an answer longer than its Content-Length")),
                };
            }
        }
    }

    async fn read_rest(&mut self, end: usize) -> IoResult<()> {
        while self.answer.len() < end {
            self.read_more().await?;
        }
        Ok(())
    }

    async fn read_more(&mut self) -> IoResult<()> {
        if self.stream.read_buf(&mut self.answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Where the answer that `bytes` begin ends; `None` while its head is not complete. Other statuses than 200 are errors.
fn end_of_answer(bytes: &[u8]) -> IoResult<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..head]);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(Error::other(format!("answered {status}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| Error::other("an answer without Content-Length"))?;
    Ok(Some(head + 4 + length))
}

/// Whether `error` is what [`Client::once`] ends with when the proxy refuses: a status of 500 to 599, or an end.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
    let ended = [BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof];
    ended.contains(&error.kind()) || error.to_string().starts_with("answered HTTP/1.1 5")
}
