//! The body of a client's request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// One clone is forwarded. As long as another is kept, a client that has its answer already is not told to stop sending.
#[derive(Clone)]
pub(super) struct RequestBody(Arc<Mutex<Incoming>>);

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// Reads the rest, at most so many bytes: a client that still sends takes no answer, and ending its connection before it
    /// was read would end it by RST (RFC 9112 section 9.6).
    pub(super) async fn discard(mut self, most: u64) {
        let mut discarded = 0;
        while let Some(Ok(frame)) = self.frame().await {
            discarded += frame.data_ref().map_or(0, |data| data.len() as u64);
            if discarded > most {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
