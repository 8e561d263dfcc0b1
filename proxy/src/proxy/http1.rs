//! An HTTP/1 client: it may go on a connection that another client of its pod has left at rest, and may leave one so.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{Connection, idle_for};
use super::departure::Departure;
use super::framing::Framing;
use super::head::without_close;
use super::opening::Opening;
use super::pool::Pooled;
use super::upstream::Upstream;
use super::{Proxy, Route};
use crate::failure::Failure;
use crate::pods::Pod;
use crate::tls::{Alpn, ServerStream};

/// As much of an answer as is read at first.
const FIRST_READ: usize = 4096;

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
        let mut framing = follow(&mut opening.first);
        let departure = Departure::new(&client, pod, &proxy.dialer.netns);
        let mut taken = None;
        if framing.may_be_sent_again(&opening.first) {
            taken = proxy.pool.take(pod, &self.route);
        }
        if let Some(pooled) = &mut taken {
            let idle_timeout = self.route.options().idle_timeout;
            let asking = ask(&mut pooled.stream, &opening.first, idle_timeout);
            match departure.or(asking).await? {
                Some(answer) => {
                    framing.responses(&answer);
                    self.note_reuse(opening.first.len());
                    opening.first.clear();
                    opening.greeting = answer;
                }
                None => taken = None,
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
        if let Some(stream) = self
            .relay_secured(client, stream, opening, Some(framing))
            .await?
        {
            pooled.stream = stream;
            proxy.pool.put(pod, &self.route, pooled);
        }
        Ok(())
    }
}

/// Follows a client's first bytes. That it wants its connection closed after one answer is for us to do, and no reason for
/// the server to close its own.
fn follow(first: &mut Vec<u8>) -> Framing {
    if let Some(open) = without_close(first) {
        let mut framing = Framing::default();
        framing.requests(&open);
        if framing.is_one_request() {
            framing.last = true;
            *first = open;
            return framing;
        }
    }
    let mut framing = Framing::default();
    framing.requests(first);
    framing
}

/// The beginning of the answer on a connection that was at rest; none if the server has closed it meanwhile.
async fn ask(
    stream: &mut ServerStream,
    request: &[u8],
    idle_timeout: Option<Duration>,
) -> Result<Option<Vec<u8>>, Failure> {
    let mut answer = Vec::with_capacity(FIRST_READ);
    let asking = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        stream.read_buf(&mut answer).await
    };
    let read = match idle_timeout {
        Some(limit) => timeout(limit, asking)
            .await
            .map_err(|_| idle_for(idle_timeout))?,
        None => asking.await,
    };
    Ok(read.is_ok_and(|length| length > 0).then_some(answer))
}
