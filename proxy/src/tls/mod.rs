//! TLS to the server: a client configuration per policy, the certificate verifier, session resumption, and why a
//! handshake or a stream failed.

pub mod certificate;
mod client;
mod client_certificate;
mod control;
pub(crate) mod describe;
mod error;
mod handshake;
mod identity;
mod observed;
mod outgoing;
pub(crate) mod presented;
mod records;
mod session;
mod session_store;
mod stream;
mod system;
#[cfg(test)]
mod tests;
mod unsent;
mod v1;
pub(crate) mod verifier;

pub use client::{Alpn, TlsClient, TlsClients};
pub use client_certificate::ClientCertificate;
pub use error::{Stage, failure_from_io, failure_of_stream};
pub use session::{Session, cipher_suite_name};
pub(crate) use session::{default_groups, is_fips};
pub use stream::TlsStream;
pub use system::{SystemRoots, system_roots};

/// A TLS stream to a server.
pub type ServerStream = TlsStream<crate::counted::Counted>;
