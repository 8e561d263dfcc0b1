//! The stream itself, against rustls' servers: records cut anywhere, keys that change, and every kind of end.

use std::future::poll_fn;
use std::io::ErrorKind;

use bytes::Buf as _;
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio_rustls::server::TlsStream as ServerSide;

use super::*;
use crate::buffer::Lend as _;
use crate::policy::Options;

/// A handshake over a pipe of so many bytes.
async fn pair(
    client: &TlsClient,
    config: Arc<ServerConfig>,
    pipe: usize,
) -> (TlsStream<DuplexStream>, ServerSide<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let accept = async { TlsAcceptor::from(config).accept(theirs).await.unwrap() };
    let connect = async {
        let mut stream = client.handshake(ours, Alpn::None, LIMIT).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    tokio::join!(connect, accept)
}

async fn simple_pair() -> (TlsStream<DuplexStream>, ServerSide<DuplexStream>) {
    let ca = Ca::new("test CA");
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    pair(&client, Arc::new(ca.leaf(&[HOST]).server()), 64 * 1024).await
}

/// One server for each cipher suite, and a client that offers no other.
fn suites() -> Vec<(TlsClient, Arc<ServerConfig>)> {
    let ca = Ca::new("test CA");
    let server = Arc::new(ca.leaf(&[HOST]).server());
    let of_suite = |suite: &rustls::SupportedCipherSuite| {
        let options = Options {
            cipher_suites: vec![suite.suite()],
            ..Options::default()
        };
        let policy = Origination {
            options,
            ..origination(&[ca.der()])
        };
        TlsClient::new(&policy).unwrap()
    };
    let suites = ALL_CIPHER_SUITES.iter();
    // The key of these tests is ECDSA.
    let suites = suites.filter(|suite| !format!("{:?}", suite.suite()).contains("_RSA_"));
    suites
        .map(|suite| (of_suite(suite), Arc::clone(&server)))
        .collect()
}

async fn send<IO: AsyncWriteExt>(mut to: WriteHalf<IO>, bytes: &[u8], sizes: &[usize]) {
    let (mut rest, mut turn) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = (*turn.next().unwrap()).min(rest.len());
        to.write_all(&rest[..size]).await.unwrap();
        if size % 3 == 0 {
            to.flush().await.unwrap();
        }
        rest = &rest[size..];
    }
    to.shutdown().await.unwrap();
}

async fn receive<IO: AsyncReadExt>(mut from: ReadHalf<IO>, size: usize) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), vec![0; size]);
    loop {
        match from.read(&mut part).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&part[..count]),
        }
    }
}

/// Sends all of `bytes` while it receives all of the other side's.
async fn exchange_all<IO: AsyncReadExt + AsyncWriteExt>(
    stream: IO,
    bytes: &[u8],
    sizes: &[usize],
    read: usize,
) -> Vec<u8> {
    let (reads, writes) = split(stream);
    let ((), got) = tokio::join!(send(writes, bytes, sizes), receive(reads, read));
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_cut_wherever_arrives_in_order(
        seed in any::<u64>(),
        lengths in prop::array::uniform2(0_usize..300_000),
        sizes in prop::array::uniform2(prop::collection::vec(1_usize..40_000, 1..8)),
        reads in prop::array::uniform2(1_usize..70_000),
        // At least a change_cipher_spec, which is said while the server still speaks: rustls reads nothing meanwhile.
        pipe in 6_usize..100_000,
        suite in 0_usize..6,
    ) {
        let [up, down] = lengths.map(|length| {
            let bytes = (0..length as u64).map(|at| (at.wrapping_mul(seed | 1) >> 7) as u8);
            bytes.collect::<Vec<_>>()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let all_arrives = async {
            let suites = suites();
            let (client, config) = &suites[suite % suites.len()];
            let (ours, theirs) = tokio::io::duplex(pipe);
            // Each side goes on as soon as it can: a server's tickets may not fit into the pipe.
            let client = async {
                let stream = client.handshake(ours, Alpn::None, LIMIT).await.unwrap();
                exchange_all(stream, &up, &sizes[0], reads[1]).await
            };
            let server = async {
                let stream = TlsAcceptor::from(Arc::clone(config)).accept(theirs).await.unwrap();
                exchange_all(stream, &down, &sizes[1], reads[0]).await
            };
            let (got_down, got_up) = tokio::join!(client, server);
            assert!(got_up == up && got_down == down);
        };
        let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, all_arrives).await });
        assert!(ended.is_ok(), "it hangs");
    }
}

#[tokio::test]
async fn every_suite_carries_many_records_both_ways() {
    for (client, config) in suites() {
        let (mut client, mut server) = pair(&client, config, 64 * 1024).await;
        for round in 0..40_u8 {
            let bytes = vec![round; 1 + usize::from(round) * 997];
            let mut got = vec![0; bytes.len()];
            client.write_all(&bytes).await.unwrap();
            client.flush().await.unwrap();
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, bytes);
            got.fill(0);
            server.write_all(&bytes).await.unwrap();
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(got, bytes);
        }
    }
}

#[tokio::test]
async fn many_records_are_lent_at_once_and_an_idle_stream_holds_no_buffer() {
    let (mut client, mut server) = simple_pair().await;
    let nothing = tokio::time::timeout(
        Duration::from_millis(20),
        poll_fn(|cx| client.poll_fill(cx)),
    );
    assert!(nothing.await.is_err() && !client.holds_buffer());
    for _ in 0..3 {
        server.write_all(&[1; 5000]).await.unwrap();
    }
    server.write_all(b"short").await.unwrap();
    assert!(poll_fn(|cx| client.poll_fill(cx)).await.unwrap());
    assert_eq!(client.remaining(), 15_005);
    let mut slices = [io::IoSlice::new(&[]); 8];
    let lengths = [5000, 5000, 5005];
    assert_eq!(client.chunks_vectored(&mut slices), lengths.len());
    assert_eq!(slices.map(|slice| slice.len())[..3], lengths);
    client.advance(7000);
    assert_eq!((client.remaining(), client.chunk().len()), (8005, 3000));
    let mut rest = vec![0; 8005];
    client.read_exact(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"\x01short"));
    let nothing = tokio::time::timeout(
        Duration::from_millis(20),
        poll_fn(|cx| client.poll_fill(cx)),
    );
    assert!(nothing.await.is_err() && !client.holds_buffer());
}

#[tokio::test]
async fn keys_change_whenever_the_server_wants_it() {
    let (mut client, mut server) = simple_pair().await;
    let mut word = [0; 4];
    for _ in 0..5 {
        // rustls asks for new keys of ours too.
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.write_all(b"ping").await.unwrap();
        client.read_exact(&mut word).await.unwrap();
        client.write_all(b"pong").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pong");
    }
    // But not without end, and for nothing.
    for _ in 0..40 {
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.flush().await.unwrap();
    }
    let error = client.read(&mut word).await.unwrap_err();
    let failure = failure_of_stream(&error, &client);
    let words = ["TooManyKeyUpdateRequests"];
    assert_failure(Err::<(), _>(failure), Reason::ProtocolError, &words);
}

#[tokio::test]
async fn each_half_ends_on_its_own() {
    let (mut client, mut server) = simple_pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(
        client.write(b"more").await.unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!((&*question, &*answer), ("question", "answer"));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

/// What was read before a failure, and the failure.
async fn read_to_failure(client: &mut TlsStream<DuplexStream>) -> (Vec<u8>, Failure) {
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).await.unwrap_err();
    // It goes on to say so.
    assert!(client.read(&mut [0]).await.is_err());
    (got, failure_of_stream(&error, client))
}

#[tokio::test]
async fn a_record_that_was_changed_on_its_way_is_refused_after_those_before_it() {
    let (client, mut server) = simple_pair().await;
    let (mut between, theirs) = tokio::io::duplex(64 * 1024);
    let (mut client, below) = client.replace(theirs);
    server.write_all(b"good").await.unwrap();
    server.write_all(b"bad?").await.unwrap();
    let (mut from_server, mut to_server) = split(below);
    let mut records = vec![0; 64 * 1024];
    // Tickets too; a pipe's content comes at one go.
    let mut count = from_server.read(&mut records).await.unwrap();
    records[count - 1] ^= 1;
    between.write_all(&records[..count]).await.unwrap();
    let (got, failure) = read_to_failure(&mut client).await;
    assert_eq!(got, b"good");
    assert_failure(
        Err::<(), _>(failure),
        Reason::ProtocolError,
        &["broke the TLS protocol"],
    );
    // And the server is told.
    count = between.read(&mut records).await.unwrap();
    to_server.write_all(&records[..count]).await.unwrap();
    let error = server.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[tokio::test]
async fn what_is_no_record_is_refused() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\x17\x03\x03\xff\xff",
        b"\x17\x04\x03\x00\x01x",
        b"\x17\x03\x03\x00\x00",
    ] {
        let (client, _server) = simple_pair().await;
        let (mut between, theirs) = tokio::io::duplex(64 * 1024);
        let (mut client, _below) = client.replace(theirs);
        between.write_all(bytes).await.unwrap();
        let (got, failure) = read_to_failure(&mut client).await;
        assert!(got.is_empty());
        assert_failure(
            Err::<(), _>(failure),
            Reason::ProtocolError,
            &["broke the TLS protocol"],
        );
    }
}

#[tokio::test]
async fn the_handshakes_last_message_goes_with_the_first_data() {
    let ca = Ca::new("test CA");
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut between, ours_too) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let config = Arc::new(ca.leaf(&[HOST]).server());
        let mut stream = TlsAcceptor::from(config).accept(theirs).await?;
        tokio::io::copy(&mut tokio::io::repeat(7).take(9), &mut stream).await
    });
    let (mut from_server, mut to_server) = split(ours);
    let pump = async {
        let (mut bytes, mut answer) = ([0; 4096], [0; 4096]);
        let mut writes = 0;
        loop {
            tokio::select! {
                count = between.read(&mut bytes) => {
                    let count = count.unwrap();
                    if count == 0 {
                        return writes;
                    }
                    writes += 1;
                    to_server.write_all(&bytes[..count]).await.unwrap();
                }
                count = from_server.read(&mut answer) => {
                    let count = count.unwrap();
                    between.write_all(&answer[..count]).await.unwrap();
                }
            }
        }
    };
    let talk = async {
        let mut stream = client.handshake(ours_too, Alpn::None, LIMIT).await.unwrap();
        stream.write_all(b"request").await.unwrap();
        // What a server that speaks first waits for is sent by reading.
        stream.read_exact(&mut [0; 9]).await.unwrap();
    };
    let (writes, ()) = tokio::join!(pump, talk);
    assert_eq!(writes, 2);
}

#[tokio::test]
async fn a_burst_of_connections_resumes_as_many_sessions() {
    let ca = Ca::new("test CA");
    let client = Arc::new(TlsClient::new(&origination(&[ca.der()])).unwrap());
    let config = Arc::new(ca.leaf(&[HOST]).server());
    let burst = async || {
        let connect = |_| {
            let (client, config) = (Arc::clone(&client), Arc::clone(&config));
            tokio::spawn(async move { exchange(&client, &config, Alpn::None).await.unwrap() })
        };
        let mut resumed = 0;
        for connecting in (0..32).map(connect).collect::<Vec<_>>() {
            resumed += u32::from(connecting.await.unwrap().resumed);
        }
        resumed
    };
    burst().await;
    assert_eq!(burst().await, 32);
}

/// What is behind the handshake's last record is handed on, however small the records were, and much as it is.
#[tokio::test]
async fn a_handshake_in_crumbs_with_much_data_right_behind_it() {
    let ca = Ca::new("test CA");
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    let mut leaf = ca.leaf(&[HOST]);
    // Of no use, but long.
    let other = Ca::new("another CA").der();
    leaf.chain.extend(vec![other.clone(); 60_000 / other.len()]);
    let mut config = leaf.server();
    (config.max_fragment_size, config.send_half_rtt_data) = (Some(32), true);
    let mut server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    server.set_buffer_limit(None);
    let data = vec![7; 300_000];

    let (ours, mut theirs) = tokio::io::duplex(1 << 21);
    let serve = async {
        let mut hello = vec![0; 4096];
        while server.is_handshaking() && !server.wants_write() {
            let count = theirs.read(&mut hello).await.unwrap();
            server.read_tls(&mut &hello[..count]).unwrap();
            server.process_new_packets().unwrap();
        }
        io::Write::write_all(&mut server.writer(), &data).unwrap();
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        theirs.write_all(&flight).await.unwrap();
        theirs
    };
    let connect = async {
        let mut stream = client.handshake(ours, Alpn::None, LIMIT).await.unwrap();
        let mut got = vec![0; data.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert!(got == data);
    };
    tokio::join!(connect, serve);
}

/// Each costs more to take than to send.
#[tokio::test]
async fn more_tickets_than_anybody_needs() {
    let ca = Ca::new("test CA");
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    let mut config = ca.leaf(&[HOST]).server();
    config.send_tls13_tickets = 33;
    let (mut client, mut server) = pair(&client, Arc::new(config), 1 << 20).await;
    server.write_all(b"data").await.unwrap();
    server.flush().await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
}
