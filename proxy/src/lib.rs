//! nodetls: makes BackendTLSPolicy true for every pod of a node. ARCHITECTURE.md shows how the parts fit together.

pub mod access_log;
pub mod addr;
pub mod admin;
pub mod agent;
mod buffer;
pub mod check;
pub mod controller;
mod digest;
mod durable;
pub mod exec;
pub mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod guard;
pub mod identity;
pub mod metrics;
pub mod pods;
pub mod policy;
pub mod proxy;
pub mod publisher;
pub mod readiness;
pub mod redirect;
mod signals;
mod sock_diag;
pub mod source;
pub mod status;
pub mod sys;
mod table;
pub mod tls;
pub mod uninstall;
pub mod watch_dir;
