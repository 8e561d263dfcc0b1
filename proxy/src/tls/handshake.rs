//! The handshake: rustls' own, on its API without buffers, whose keys can be had afterwards.

use std::io;
use std::sync::Arc;

use bytes::BufMut as _;
use rustls::ClientConfig;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::client_certificate::ClientCertificate;
use super::control::Control;
use super::observed::OBSERVED;
use super::outgoing::Outgoing;
use super::records::{Opening, Sealing, record_length};
use super::session::Session;
use super::stream::{Established, TlsStream, invalid};
use crate::buffer;

/// Most servers' first answer at one go. No read brings more: what is beyond the handshake must fit into a buffer.
const READ: usize = 4096;
/// The most that is kept of messages that are not whole yet: rustls refuses longer ones, but not that one comes in many
/// small records.
const MOST: usize = 128 * 1024;

/// A handshake under way.
struct Handshake<IO> {
    io: IO,
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    /// How much of `incoming` rustls may see: one record more each time, so that it sees none of what comes after.
    shown: usize,
    /// Whole records among that.
    whole: usize,
    outgoing: Vec<u8>,
}

/// Opens TLS on `io`: the stream, and the application protocol that the server has selected. To be called within the scope
/// of [`OBSERVED`].
///
/// # Errors
/// Of the connection; or, inside an error of kind `InvalidData`, rustls'.
pub(super) async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    certificate: Option<Arc<ClientCertificate>>,
    io: IO,
) -> io::Result<(TlsStream<IO>, Option<Vec<u8>>)> {
    let connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    let mut handshake = Handshake {
        io,
        connection,
        incoming: Vec::new(),
        shown: 0,
        whole: 0,
        outgoing: Vec::new(),
    };
    while handshake.connection.is_handshaking() || handshake.connection.wants_write() {
        handshake.step().await?;
    }
    handshake.finish(certificate).map_err(invalid)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Handshake<IO> {
    async fn step(&mut self) -> io::Result<()> {
        let status = self
            .connection
            .process_tls_records(&mut self.incoming[..self.shown]);
        let discard = status.discard;
        let blocked = match status.state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut self.outgoing).map(|()| false)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // Together with what follows, at the latest before something is waited for.
                data.done();
                Ok(false)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(true),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(false),
            Ok(state) => Err(rustls::Error::General(format!("{state:?} in a handshake"))),
            Err(error) => Err(error),
        };
        self.incoming.drain(..discard);
        self.shown -= discard;
        self.whole = self.whole.saturating_sub(discard);
        match blocked {
            Ok(true) => self.show_more().await,
            Ok(false) => Ok(()),
            Err(error) => {
                self.tell().await;
                Err(invalid(error))
            }
        }
    }

    /// One record more, or what there is of it: enough to see that it is none.
    async fn show_more(&mut self) -> io::Result<()> {
        loop {
            let more = record_length(&self.incoming[self.whole..]);
            if let Ok(Some(length)) = more {
                self.whole += length;
                self.shown = self.whole;
                return Ok(());
            }
            if self.shown < self.incoming.len() {
                self.shown = self.incoming.len();
                return Ok(());
            }
            self.send().await?;
            let before = self.incoming.len();
            if before > MOST {
                return Err(invalid(rustls::Error::PeerSentOversizedRecord));
            }
            self.incoming.reserve_exact(READ);
            let mut read = (&mut self.incoming).limit(READ);
            if self.io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            OBSERVED.with(|seen| seen.borrow_mut().add(&self.incoming[before..]));
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.io.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        self.io.flush().await
    }

    /// Best effort: an alert, if rustls has one for the server.
    async fn tell(&mut self) {
        while self.connection.wants_write() {
            let shown = &mut self.incoming[..self.shown];
            let Ok(ConnectionState::EncodeTlsData(data)) =
                self.connection.process_tls_records(shown).state
            else {
                break;
            };
            if encode(data, &mut self.outgoing).is_err() {
                break;
            }
        }
        let _ = self.send().await;
    }

    fn finish(
        mut self,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Result<(TlsStream<IO>, Option<Vec<u8>>), rustls::Error> {
        let session = Session::negotiated(&self.connection);
        let alpn = self.connection.alpn_protocol().map(<[u8]>::to_vec);
        let (secrets, kernel) = self.connection.dangerous_into_kernel_connection()?;
        let suite = kernel.negotiated_cipher_suite();
        self.incoming.drain(..self.whole);
        if self.incoming.len() > buffer::SIZE {
            return Err(rustls::Error::PeerSentOversizedRecord);
        }
        let stream = TlsStream::new(Established {
            io: self.io,
            session,
            certificate,
            control: Control::new(kernel),
            opening: Opening::new(suite, secrets.rx)?,
            unread: self.incoming,
            outgoing: Outgoing::new(Sealing::new(suite, secrets.tx)?, &self.outgoing),
        });
        Ok((stream, alpn))
    }
}

fn encode(
    mut data: EncodeTlsData<'_, ClientConnectionData>,
    outgoing: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let before = outgoing.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        outgoing.resize(before + size.required_size, 0);
    }
    match data.encode(&mut outgoing[before..]) {
        Ok(_) => Ok(()),
        Err(error) => Err(rustls::Error::General(error.to_string())),
    }
}
