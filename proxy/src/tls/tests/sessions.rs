//! Resumption, ALPN, the cache of clients, and the size of a handshake.

use super::*;

fn client(origination: &Origination) -> TlsClient {
    TlsClient::new(origination).unwrap()
}

#[tokio::test]
async fn the_second_handshake_resumes_the_first() {
    let ca = Ca::new("test CA");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(ca.leaf(&[HOST]).server_of(&[version]));
        let client = client(&origination(&[ca.der()]));
        let first = exchange(&client, &config, Alpn::Http11).await.unwrap();
        let second = exchange(&client, &config, Alpn::Http11).await.unwrap();
        assert!(!first.resumed && second.resumed, "{first:?} {second:?}");
        // rcgen's default: the year 4096.
        assert_eq!(first.not_after, Some(67_090_118_400));
        assert_eq!(second.not_after, None, "no certificate was sent");
        // A session belongs to its ALPN.
        assert!(
            !exchange(&client, &config, Alpn::None)
                .await
                .unwrap()
                .resumed
        );
    }
}

#[tokio::test]
async fn sessions_live_as_long_as_equal_inputs() {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let config = Arc::new(old.leaf(&[HOST]).server());
    let clients = TlsClients::default();
    let both = Arc::new(origination(&[old.der(), new.der()]));
    let first = clients.get_or_create(&both).unwrap();
    exchange(&first, &config, Alpn::None).await.unwrap();

    // Read again from an equal ConfigMap, and kept by a snapshot that holds it.
    let equal = Arc::new(origination(&[old.der(), new.der()]));
    clients.retain([&equal]);
    let again = clients.get_or_create(&equal).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(exchange(&again, &config, Alpn::None).await.unwrap().resumed);

    // The old CA is removed: its sessions are of no use, its certificates are refused.
    let only_new = Arc::new(origination(&[new.der()]));
    let outcome = exchange(
        &clients.get_or_create(&only_new).unwrap(),
        &config,
        Alpn::None,
    )
    .await;
    assert_failure(outcome, Reason::UnknownCa, &["\"old CA\"", "\"new CA\""]);

    // And after it comes back, nothing of before is resumed.
    clients.retain([&only_new]);
    let back = clients.get_or_create(&both).unwrap();
    assert!(!Arc::ptr_eq(&first, &back));
    assert!(!exchange(&back, &config, Alpn::None).await.unwrap().resumed);
}

#[tokio::test]
async fn inputs_that_differ_have_their_own_clients() {
    let ca = Ca::new("test CA");
    let clients = TlsClients::default();
    let inputs = [
        origination(&[ca.der()]),
        origination(&[ca.der(), Ca::new("more").der()]),
        with_alt_names(&[ca.der()], &["a.example"]),
        with_alt_names(&[ca.der()], &["b.example"]),
        Origination {
            hostname: "b.example".into(),
            ..origination(&[ca.der()])
        },
    ];
    let made: Vec<_> = inputs
        .into_iter()
        .map(|o| clients.get_or_create(&Arc::new(o)).unwrap())
        .collect();
    for (i, one) in made.iter().enumerate() {
        assert!(made[i + 1..].iter().all(|other| !Arc::ptr_eq(one, other)));
    }
}

#[tokio::test]
async fn a_changed_name_does_not_inherit_a_session() {
    let ca = Ca::new("test CA");
    let config = Arc::new(ca.leaf(&[HOST]).server());
    let clients = TlsClients::default();
    let by_host = clients
        .get_or_create(&Arc::new(origination(&[ca.der()])))
        .unwrap();
    exchange(&by_host, &config, Alpn::None).await.unwrap();
    let other = Arc::new(with_alt_names(&[ca.der()], &["spiffe://td/other"]));
    let by_uri = clients.get_or_create(&other).unwrap();
    let outcome = exchange(&by_uri, &config, Alpn::None).await;
    assert_failure(outcome, Reason::NameMismatch, &["spiffe://td/other"]);
}

#[tokio::test]
async fn alpn_is_offered_and_demanded() {
    let ca = Ca::new("test CA");
    let client = client(&origination(&[ca.der()]));
    let server = |protocols: &[&[u8]]| {
        let mut config = ca.leaf(&[HOST]).server();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Arc::new(config)
    };
    let (both, none) = (server(&[b"h2", b"http/1.1"]), server(&[]));
    let h1_only = server(&[b"http/1.1"]);
    let alpn = async |config, alpn| exchange(&client, config, alpn).await.map(|s| s.alpn);
    assert_eq!(alpn(&both, Alpn::H2).await.unwrap(), "h2");
    assert_eq!(alpn(&both, Alpn::Http11).await.unwrap(), "http/1.1");
    assert_eq!(alpn(&both, Alpn::None).await.unwrap(), "none");
    assert_eq!(alpn(&none, Alpn::Http11).await.unwrap(), "none");
    // A server without ALPN ignores the offer, one with another protocol sends an alert.
    for (config, found) in [
        (&none, "selects none"),
        (&h1_only, "no_application_protocol (120)"),
    ] {
        let outcome = alpn(config, Alpn::H2).await;
        assert_failure(outcome, Reason::NoCommonAlpn, &["offered: h2", found]);
    }
    let outcome = alpn(&server(&[b"h2"]), Alpn::Http11).await;
    assert_failure(outcome, Reason::NoCommonAlpn, &["offered: http/1.1"]);
}

#[tokio::test]
async fn the_sni_is_the_hostname_also_with_alt_names() {
    let ca = Ca::new("test CA");
    let client = client(&with_alt_names(&[ca.der()], &["spiffe://td/a"]));
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let hello = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), theirs);
    let (_, hello) = tokio::join!(
        // Ends when the server, having seen the ClientHello, hangs up.
        client.handshake(ours, Alpn::None, LIMIT),
        async {
            hello
                .await
                .map(|start| start.client_hello().server_name().map(str::to_owned))
        }
    );
    assert_eq!(hello.unwrap().as_deref(), Some(HOST));
}

/// A handshake is awaited inside of each connection's task: its size is paid ten thousand times.
#[tokio::test]
async fn a_handshake_fits_into_a_few_kilobytes() {
    let client = client(&origination(&[Ca::new("test CA").der()]));
    let (io, _peer) = tokio::io::duplex(1);
    let size = size_of_val(&client.handshake(io, Alpn::None, LIMIT));
    println!("handshake future over a pipe: {size} bytes");
    println!("TlsStream: {} bytes", size_of::<TlsStream<DuplexStream>>());
    assert!(size < 8192, "{size}");
}
