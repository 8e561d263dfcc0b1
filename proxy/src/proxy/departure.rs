//! Has a client gone for good? A half-closed client, which still wants its answer, looks the same from our end: both
//! have sent FIN. But the client's socket is on this machine, so the kernel knows whether anybody holds it.

use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::failure::{Failure, Reason};
use crate::pods::Pod;
use crate::pods::netns::NetnsThread;
use crate::sock_diag::is_orphan;

/// How soon to ask after a FIN; doubled each time, since a half-closed client may go later.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Watches a client while nothing can be relayed yet.
pub(super) struct Departure<'a> {
    client: &'a TcpStream,
    pod: &'a Pod,
    netns: &'a NetnsThread,
    /// The client may have closed because it has said all and wants no answer: only a reset is a departure then.
    pub(super) may_have_said_all: bool,
}

impl<'a> Departure<'a> {
    /// For a client that waits for an answer.
    pub(super) fn new(client: &'a TcpStream, pod: &'a Pod, netns: &'a NetnsThread) -> Self {
        Self {
            client,
            pod,
            netns,
            may_have_said_all: false,
        }
    }

    /// What `work` comes to, unless the client departs before: then `work` is dropped, and with it its connections.
    pub(super) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.departed() => Err(Failure::new(
                Reason::ClientGone,
                "the client closed its connection before the server had answered",
            )),
        }
    }

    /// Returns when the client has reset its connection, or closed its socket, and so can't be answered any more.
    async fn departed(&self) {
        // The interest that waits for the end of the input, but not for input.
        let ended = self.client.ready(Interest::PRIORITY).await;
        if !ended.is_ok_and(|ready| ready.is_read_closed()) {
            // Urgent data: nothing more is to be learned by waiting.
            return std::future::pending().await;
        }
        let mut pause = FIRST_LOOK;
        // A connection that was reset has no peer.
        while let (Ok(peer), Ok(local)) = (self.client.peer_addr(), self.client.local_addr()) {
            sleep(pause).await;
            pause *= 2;
            if self.may_have_said_all {
                continue;
            }
            let look = self
                .netns
                .run(&self.pod.netns, move || is_orphan(peer, local));
            // Not known means still there; other limits end the connection.
            if look.await.unwrap_or(false) {
                return;
            }
        }
    }
}
