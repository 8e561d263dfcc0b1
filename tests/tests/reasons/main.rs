//! Each reason, produced by a real server: what the client is told, what the log says, and that `docs/errors.md` says
//! the same.
#![allow(clippy::unwrap_used, clippy::panic)]

mod certificates;
mod client_certificates;
mod connections;
mod names;
mod options;
mod rig;
mod servers;
