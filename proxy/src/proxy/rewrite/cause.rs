//! What went wrong first with the connections of one client.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::failure::{Failure, Reason};
use crate::tls::{Stage, failure_from_io};

/// The first failure, if any.
#[derive(Clone, Default)]
pub(super) struct Cause(Arc<Mutex<Option<Failure>>>);

impl Cause {
    pub(super) fn note(&self, failure: impl FnOnce() -> Failure) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(failure);
    }

    pub(super) fn is_known(&self) -> bool {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.is_some()
    }

    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The failure behind an error of the connection to the server.
pub(super) fn explain(error: &hyper::Error) -> Failure {
    if error.is_user() {
        let detail = format!("the client's request broke off: {}", chain(error));
        return Failure::new(Reason::ClientGone, detail);
    }
    match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(io) => failure_from_io(io, Stage::Relay),
        None => {
            let detail = format!("the connection to the server broke: {}", chain(error));
            Failure::new(Reason::Reset, detail)
        }
    }
}

/// Whether one stream of HTTP/2 was reset, and the connection is well.
pub(super) fn is_of_stream(error: &hyper::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(h2::Error::is_reset)
}

/// Whether the server has not seen the request: its connection was at its end, or it has said so (GOAWAY).
pub(super) fn was_not_taken(error: &hyper::Error) -> bool {
    let refused = |error: &h2::Error| {
        let proper = error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && error.is_go_away() && proper
    };
    error.is_canceled()
        || error.is_closed()
        || causes(error)
            .filter_map(|cause| cause.downcast_ref())
            .any(refused)
}

/// An error with its causes, which hyper does not print.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let words: Vec<_> = causes(error).map(ToString::to_string).collect();
    words.join(": ")
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        error.source()
    })
}
