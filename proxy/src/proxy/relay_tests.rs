#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::proxy::plain::Plain;

/// Reads and writes that are short, or not ready, as a scripted sequence says; buffers what it takes until a flush.
struct Weird {
    inner: DuplexStream,
    script: Vec<u8>,
    at: usize,
    held: Vec<u8>,
}

impl Weird {
    fn new(inner: DuplexStream, script: &[u8]) -> Self {
        Self {
            inner,
            script: script.to_vec(),
            at: 0,
            held: Vec::new(),
        }
    }

    /// How many bytes the next call may move; 0: it is not ready.
    fn next(&mut self, cx: &Context<'_>) -> usize {
        self.at = (self.at + 1) % self.script.len();
        let limit = usize::from(self.script[self.at]);
        if limit == 0 {
            cx.waker().wake_by_ref();
        }
        limit
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            self.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Weird {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let limit = self.next(cx).min(buffer.remaining());
        if limit == 0 {
            return Poll::Pending;
        }
        let mut part = buffer.take(limit);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let filled = part.filled().len();
        buffer.advance(filled);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Weird {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let limit = self.next(cx).min(bytes.len());
        if limit == 0 {
            return Poll::Pending;
        }
        if self.held.len() > 64 {
            ready!(self.poll_held(cx))?;
        }
        self.held.extend_from_slice(&bytes[..limit]);
        Poll::Ready(Ok(limit))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_held(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn tally() -> Tally {
    Tally::new(IntCounter::new("bytes", "bytes").unwrap())
}

fn new<'a>(sent: &'a Tally, received: &'a Tally) -> Relay<'a> {
    Relay {
        sent,
        received,
        idle_timeout: None,
        framing: None,
        last: false,
    }
}

/// Sends `bytes` and closes its half; returns what the other side sent until it closed.
async fn exchange(stream: DuplexStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async move {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let receive = reader.read_to_end(&mut got);
    let ((), received) = tokio::join!(send, receive);
    received.unwrap();
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_is_lost_or_reordered(
        up in prop::collection::vec(any::<u8>(), 0..40_000),
        down in prop::collection::vec(any::<u8>(), 0..40_000),
        scripts in prop::array::uniform2(prop::collection::vec(any::<u8>(), 1..20)),
        early in 0_usize..100,
        early_down in 0_usize..100,
    ) {
        // A script of nothing but "not ready" never ends.
        let scripts = scripts.map(|mut script| { script.push(7); script });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (early, early_down) = (early.min(up.len()), early_down.min(down.len()));
            let (client, client_end) = duplex(1000);
            let (upstream, upstream_end) = duplex(300);
            let mut client_end = Weird::new(client_end, &scripts[0]);
            let mut upstream_end = Weird::new(upstream_end, &scripts[1]);
            let mut client_end = Plain::new(&mut client_end, up[..early].to_vec());
            let mut upstream_end = Plain::new(&mut upstream_end, down[..early_down].to_vec());
            let (sent, received) = (tally(), tally());
            let (end, got_down, got_up) = tokio::join!(
                new(&sent, &received).between(&mut client_end, &mut upstream_end),
                exchange(client, up[early..].to_vec()),
                exchange(upstream, down[early_down..].to_vec()),
            );
            assert!(matches!(end, End::Clean));
            assert_eq!(got_up, up);
            assert_eq!(got_down, down);
            assert_eq!((sent.bytes(), received.bytes()), (up.len() as u64, down.len() as u64));
        });
    }
}

#[tokio::test]
async fn a_client_that_has_sent_all_still_gets_its_answer() {
    let (mut client, mut client_end) = duplex(64);
    let (mut upstream, mut upstream_end) = duplex(64);
    let server = async move {
        let mut request = Vec::new();
        upstream.read_to_end(&mut request).await.unwrap();
        upstream.write_all(b"answer").await.unwrap();
        request
    };
    let asker = async move {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (sent, received) = (tally(), tally());
    let mut client_end = Plain::new(&mut client_end, Vec::new());
    let mut upstream_end = Plain::new(&mut upstream_end, Vec::new());
    let relayed = new(&sent, &received);
    let relayed = relayed.between(&mut client_end, &mut upstream_end);
    let (end, request, answer) = tokio::join!(relayed, server, asker);
    assert!(matches!(end, End::Clean));
    assert_eq!(
        (&request[..], &answer[..]),
        (&b"question"[..], &b"answer"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn idle_is_counted_from_the_last_byte_of_either_side() {
    let (mut client, mut client_end) = duplex(64);
    let (mut upstream_end, mut server) = duplex(64);
    let (sent, received) = (tally(), tally());
    let second = Duration::from_secs(1);
    let started = Instant::now();
    let mut client_end = Plain::new(&mut client_end, Vec::new());
    let mut upstream_end = Plain::new(&mut upstream_end, Vec::new());
    let mut relayed = new(&sent, &received);
    relayed.idle_timeout = Some(second);
    let relayed = relayed.between(&mut client_end, &mut upstream_end);
    let talk = async {
        tokio::time::sleep(second * 3 / 4).await;
        client.write_all(b"a").await.unwrap();
        tokio::time::sleep(second * 3 / 4).await;
        server.write_all(b"b").await.unwrap();
    };
    let (end, ()) = tokio::join!(relayed, talk);
    assert!(matches!(end, End::Idle));
    let lasted = started.elapsed();
    assert!(
        (second * 5 / 2..=second * 11 / 4).contains(&lasted),
        "{lasted:?}"
    );
}
