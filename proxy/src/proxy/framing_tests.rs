#![allow(clippy::unwrap_used)]
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the server's connection is fit for after an exchange.
fn at_rest(requests: &str, responses: &str) -> bool {
    let mut framing = Framing::default();
    framing.requests(requests.as_bytes());
    framing.responses(responses.as_bytes());
    framing.at_rest()
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}")
}

#[test]
fn at_rest_when_every_request_is_answered() {
    assert!(at_rest("", ""));
    assert!(!at_rest(GET, ""));
    assert!(at_rest(GET, OK));
    assert!(!at_rest(&GET.repeat(2), OK));
    assert!(at_rest(&GET.repeat(2), &OK.repeat(2)));
    assert!(!at_rest(GET, &OK[..OK.len() - 1]));
    assert!(!at_rest(&format!("{GET}G"), OK));
}

#[test]
fn bodies_are_framed_as_rfc_9112_has_it() {
    let chunked = "Transfer-Encoding: Chunked";
    let body = "3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n";
    let trailers = "1\r\na\r\n0\r\nChecksum: 1\r\nOther: 2\r\n\r\n";
    for request in [
        post("Content-Length: 3", "abc"),
        post("Content-Length: 0", ""),
        post(chunked, body),
        post(chunked, trailers),
        post("Expect: 100-continue\r\nContent-Length: 3", "abc"),
    ] {
        assert!(at_rest(&request, OK), "{request}");
        assert!(!at_rest(&request[..request.len() - 1], OK), "{request}");
    }
    for response in [
        answer("200 OK", chunked, body),
        answer("200 OK", chunked, trailers),
        answer("204 No Content", "A: b", ""),
        answer("304 Not Modified", "Content-Length: 5", ""),
        answer("100 Continue", "A: b", OK),
        answer("103 Early Hints", "Link: </a>", OK),
        answer("200 OK", "Upgrade: h2\r\nContent-Length: 0", ""),
        answer(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0",
            "",
        ),
    ] {
        assert!(at_rest(GET, &response), "{response}");
        assert!(!at_rest(GET, &response[..response.len() - 1]), "{response}");
    }
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(at_rest(head, &answer("200 OK", "Content-Length: 5", "")));
    assert!(at_rest(head, &answer("200 OK", chunked, "")));
}

#[test]
fn what_could_be_read_in_two_ways_is_given_up() {
    for request in [
        post("Content-Length: 3\r\nContent-Length: 3", "abc"),
        post("Content-Length: 3, 3", "abc"),
        post("Content-Length: +3", "abc"),
        post("Content-Length: 0x3", "abc"),
        post("Content-Length: 99999999999999999999", "abc"),
        post(
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        post(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        post("Transfer-Encoding: identity", ""),
        post("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "0;a=b\r\n\r\n"),
        post("Transfer-Encoding: chunked", "+0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "0 \r\n\r\n"),
        post("Transfer-Encoding: chunked", "0\n\r\n"),
        post("Transfer-Encoding: chunked", "1\r\nab\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "1\r\na\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", "0\r\n folded\r\n\r\n"),
        post("Transfer-Encoding: chunked", "FFFFFFFFFFFFFFFFF\r\n"),
        get("A: b\r\n folded"),
        get("A: b\0"),
        get("A: b\nContent-Length: 0"),
        GET.replace("\r\n", "\n"),
        format!("\r\n{GET}"),
        GET.replace("1.1", "1.0"),
        GET.replace("GET", "CONNECT"),
    ] {
        assert!(!at_rest(&request, OK), "{request:?}");
    }
    for response in [
        answer("200 OK", "Content-Length: 2\r\nContent-Length: 2", "ok"),
        answer(
            "200 OK",
            "Content-Length: 2\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        answer("200 OK", "A: b", ""),
        answer("204 No Content", "Content-Length: 2", "ok"),
        answer("204 No Content", "Transfer-Encoding: chunked", "0\r\n\r\n"),
        answer("103 Early Hints", "Content-Length: 2", &format!("ok{OK}")),
        OK.replace("1.1", "1.0"),
        OK.replace("\r\n", "\n"),
        format!("\r\n{OK}"),
        OK.repeat(2),
    ] {
        assert!(!at_rest(GET, &response), "{response:?}");
    }
    assert!(!at_rest("", OK));
}

#[test]
fn a_connection_that_ends_or_stands_for_its_user_is_given_up() {
    for fields in [
        "Connection: close",
        "Connection: a, Close",
        "Connection: Upgrade\r\nUpgrade: websocket",
        "Authorization: NTLM TlRMTVNTUAAB",
        "Authorization: negotiate YII",
        "Proxy-Authorization: Negotiate YII",
    ] {
        assert!(!at_rest(&get(fields), OK), "{fields}");
    }
    for fields in [
        "Connection: close",
        "WWW-Authenticate: Basic realm=\"a\", NTLM",
        "WWW-Authenticate: Negotiate",
        "Proxy-Authenticate: NTLM",
    ] {
        let response = answer(
            "401 Unauthorized",
            &format!("{fields}\r\nContent-Length: 0"),
            "",
        );
        assert!(!at_rest(GET, &response), "{fields}");
    }
    let switched = answer("101 Switching Protocols", "Upgrade: a", "");
    assert!(!at_rest(GET, &switched));
    // What comes after does not bring it back.
    let mut framing = Framing::default();
    framing.requests(get("Authorization: NTLM a").as_bytes());
    framing.responses(OK.as_bytes());
    framing.requests(GET.as_bytes());
    framing.responses(OK.as_bytes());
    assert!(!framing.at_rest());
}

#[test]
fn there_is_a_limit_to_what_is_kept() {
    let mut framing = Framing::default();
    framing.requests(GET.repeat(MAX_UNANSWERED + 1).as_bytes());
    assert!(framing.given_up);
    let mut framing = Framing::default();
    for _ in 0..=MAX_HEAD {
        framing.requests(b"a");
    }
    assert!(framing.given_up);
    let mut framing = Framing::default();
    framing.requests(post("Transfer-Encoding: chunked", "0\r\n").as_bytes());
    for _ in 0..=MAX_LINE {
        framing.requests(b"a");
    }
    assert!(framing.given_up);
}

#[test]
fn one_whole_request_of_a_safe_method_may_be_sent_again() {
    let may = |first: &str| {
        let mut framing = Framing::default();
        framing.requests(first.as_bytes());
        framing.may_be_sent_again(first.as_bytes())
    };
    assert!(may(GET));
    assert!(may("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!may(&GET.repeat(2)));
    assert!(!may(&GET[..GET.len() - 1]));
    assert!(!may(&post("Content-Length: 0", "")));
    assert!(!may(&get("Connection: close")));
    assert!(!may("GETS / HTTP/1.1\r\nHost: a\r\n\r\n"));
}

/// How many requests hyper takes `bytes` for, if they end between two.
fn according_to_hyper(bytes: Vec<u8>) -> Option<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(bytes.len().max(1));
        client.write_all(&bytes).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let whole = Arc::new(AtomicUsize::new(0));
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let whole = Arc::clone(&whole);
            async move {
                if request.into_body().collect().await.is_ok() {
                    whole.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
            }
        });
        let serve = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let drain = async {
            writer.shutdown().await.unwrap();
            tokio::io::copy(&mut reader, &mut tokio::io::sink())
                .await
                .unwrap();
        };
        let (served, ()) = tokio::join!(serve, drain);
        served.ok().map(|()| whole.load(Ordering::Relaxed))
    })
}

/// Pieces of requests, right and wrong.
const PIECES: [&str; 30] = [
    GET,
    "GET / HTTP/1.1\r\n",
    "POST / HTTP/1.1\r\n",
    "HEAD /a HTTP/1.1\r\n",
    "PUT / HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: a\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "content-length: 5\r\n",
    "Content-Length : 3\r\n",
    "Content-Length: 3, 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding:\tchunked\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "\r",
    "abc",
    "0\r\n\r\n",
    "3\r\nabc\r\n",
    "3;a=b\r\nabc\r\n",
    "003\r\nabc\r\n0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn hyper_sees_the_same_requests(pieces in prop::collection::vec(0..PIECES.len(), 1..12)) {
        let bytes: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        let mut framing = Framing::default();
        framing.requests(bytes.as_bytes());
        if framing.between_messages() {
            let whole = framing.unanswered.len();
            prop_assert_eq!(according_to_hyper(bytes.into_bytes()), Some(whole));
        }
    }

    #[test]
    fn it_does_not_matter_where_bytes_are_cut(
        pieces in prop::collection::vec(0..PIECES.len(), 1..12),
        cuts in prop::collection::vec(1_usize..20, 1..50),
    ) {
        let bytes: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        let (mut whole, mut cut) = (Framing::default(), Framing::default());
        whole.requests(bytes.as_bytes());
        let mut rest = bytes.as_bytes();
        for length in cuts.into_iter().cycle() {
            let (part, after) = rest.split_at(length.min(rest.len()));
            cut.requests(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(whole.given_up, cut.given_up);
        prop_assert!(whole.given_up || whole.unanswered == cut.unanswered);
        prop_assert!(whole.given_up || whole.requests.state == cut.requests.state);
    }
}
