//! An HTTP/1 client: it may go on a connection that another client of its pod has left at rest, and may leave one so.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{Connection, idle_for};
use super::departure::Departure;
use super::framing::Framing;
use super::head::without_close;
use super::opening::Opening;
use super::pool::Pooled;
use super::relay::{each, until_idle};
use super::respond::{abort_by_default, close, linger};
use super::upstream::Upstream;
use super::{Proxy, Route};
use crate::buffer::Lend as _;
use crate::failure::Failure;
use crate::pods::Pod;
use crate::sys::unsent_bytes;
use crate::tls::{Alpn, ServerStream};

/// Whether a route's clients share connections. One with a client certificate stands for who uses it.
pub(super) fn is_pooled(route: &Route) -> bool {
    let options = route.options();
    !options.unpooled && !options.rewrite_host && options.client_certificate.is_none()
}

impl Connection {
    /// Connects, or takes a connection that is there; relays; and leaves it to others if it can be.
    pub(super) async fn share(
        &mut self,
        proxy: &Proxy,
        pod: &Arc<Pod>,
        client: TcpStream,
        upstream: Upstream,
        mut opening: Opening,
    ) -> Result<(), Failure> {
        let (mut framing, last) = follow(&mut opening.first);
        let mut taken = proxy.pool.take(pod, &self.route);
        if !framing.may_be_sent_again(&opening.first)
            && let Some(unused) = taken.take()
        {
            // There will be another one, and servers do not like to have many at rest.
            unused.close();
        }
        let mut taken = taken.and_then(|pooled| pooled.move_here().ok());
        let departure = Departure::new(&client, pod, &proxy.dialer.netns);
        if let Some(pooled) = &mut taken {
            self.note_session(&pooled.stream);
            let patience = self.route.options().connect_timeout;
            let patience = patience.unwrap_or(proxy.dialer.connect_timeout);
            let asking = ask(&mut pooled.stream, &opening.first, patience);
            let idle_timeout = self.route.options().idle_timeout;
            let answer = tokio::select! {
                answer = departure.or(async { Ok(asking.await) }) => answer?,
                () = until_idle(&self.sent, &self.received, idle_timeout) => {
                    close(client);
                    return Err(idle_for(idle_timeout));
                }
            };
            match answer {
                true => {
                    self.note_reuse();
                    self.sent.add(opening.first.len());
                    each(&*pooled.stream, |answer| framing.responses(answer));
                    opening.first.clear();
                }
                false => taken = None,
            }
        }
        let mut pooled = match taken {
            Some(pooled) => pooled,
            None => match departure.or(upstream.secured(Alpn::Http11)).await {
                Ok(stream) => Pooled::new(stream),
                Err(failure) => return self.refuse(client, &opening, failure).await,
            },
        };
        let stream = pooled.stream;
        let followed = Some((&mut framing, last));
        let relayed = self.relay_secured(client, stream, opening, followed);
        if let Some((client, stream)) = relayed.await? {
            pooled.stream = stream;
            if framing.at_rest() {
                proxy.pool.put(pod, &self.route, pooled);
                // It has said that it asks for nothing more, or ended its half (RFC 9112 section 9.6).
                close(client);
            } else {
                pooled.close();
                linger(client).await;
            }
        }
        Ok(())
    }
}

/// Follows a client's first bytes. That it wants its connection closed after one answer (`true`) is for us to do, and no
/// reason for the server to close its own.
fn follow(first: &mut Vec<u8>) -> (Framing, bool) {
    let followed = |bytes: &[u8]| {
        let mut framing = Framing::default();
        framing.requests(bytes);
        framing
    };
    let framing = followed(first);
    if framing.is_own()
        && let Some(open) = without_close(first)
    {
        let framing = followed(&open);
        if framing.is_one_request() {
            *first = open;
            return (framing, true);
        }
    }
    (framing, false)
}

/// Whether there is an answer on a connection that was at rest: the server may have closed it meanwhile, or be not there any
/// more, and not acknowledge within `patience`.
async fn ask(stream: &mut ServerStream, request: &[u8], patience: Duration) -> bool {
    let Some(answered) = answer(stream, request, patience).await else {
        // Else the kernel would go on to send a request that another connection answers.
        abort_by_default(stream.get_ref());
        return false;
    };
    // What some servers say to nobody before they close a connection at rest.
    answered.unwrap_or(false) && !stream.chunk().starts_with(b"HTTP/1.1 408 ")
}

/// As `Lend::poll_fill` has it; none if the request was not taken.
async fn answer(
    stream: &mut ServerStream,
    request: &[u8],
    patience: Duration,
) -> Option<io::Result<bool>> {
    let asking = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    timeout(patience, asking).await.ok()?.ok()?;
    match timeout(patience, fill(stream)).await {
        Ok(answered) => Some(answered),
        Err(_) if unsent_bytes(stream.get_ref()).is_ok_and(|bytes| bytes > 0) => None,
        Err(_) => Some(fill(stream).await),
    }
}

async fn fill(stream: &mut ServerStream) -> io::Result<bool> {
    poll_fn(|cx| stream.poll_fill(cx)).await
}
