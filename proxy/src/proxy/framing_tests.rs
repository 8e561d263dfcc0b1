#![allow(clippy::unwrap_used)]
use hyper::Method;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

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
    for request in [
        post("Content-Length: 3", "abc"),
        post("Content-Length: 0", ""),
        post(chunked, body),
    ] {
        assert!(at_rest(&request, OK), "{request}");
        assert!(!at_rest(&request[..request.len() - 1], OK), "{request}");
    }
    for response in [
        answer("200 OK", chunked, body),
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
    let to_head = answer("200 OK", "Content-Length: 5", "");
    assert!(at_rest(head, &to_head));
    assert!(at_rest(head, &answer("200 OK", chunked, "")));
    assert!(at_rest(&format!("{head}{GET}"), &format!("{to_head}{OK}")));
    assert!(at_rest(&format!("{GET}{head}"), &format!("{OK}{to_head}")));
}

#[test]
fn what_could_be_read_in_two_ways_is_not_left_to_others() {
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
        post("Transfer-Encoding: chunked", "0\r\nA: b\r\n\r\n"),
        post("Transfer-Encoding:\tchunked", "0\r\n\r\n"),
        post("Expect: 100-continue\r\nContent-Length: 3", "abc"),
        get("Content-Length: 3") + "abc",
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
        OK.replace("200", "020"),
        OK.replace("\r\n", "\n"),
        format!("\r\n{OK}"),
        OK.repeat(2),
    ] {
        assert!(!at_rest(GET, &response), "{response:?}");
    }
    assert!(!at_rest("", OK));
    // An answer that comes before the whole request.
    let mut framing = Framing::default();
    let whole = post("Content-Length: 3", "abc");
    let (before, after) = whole.split_at(whole.len() - 1);
    framing.requests(before.as_bytes());
    framing.responses(OK.as_bytes());
    framing.requests(after.as_bytes());
    assert!(framing.is_answered() && !framing.at_rest());
}

/// Who does not want to wait for the server to close needs to know where an answer ends, though nobody else may follow.
#[test]
fn answers_are_followed_all_the_same() {
    let chunked = "Transfer-Encoding: chunked";
    let many: String = (0..90).map(|field| format!("A{field}: b\r\n")).collect();
    for response in [
        answer("200 OK", "Content-Length: 2\r\nContent-Length: 2", "ok"),
        answer("200 OK", "Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        answer(
            "200 OK",
            "Content-Length: 9\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        answer("200 OK", chunked, "2;a=b\r\nok\r\n0\r\n\r\n"),
        answer("200 OK", chunked, "2  \r\nok\r\n0\r\nA: b\r\n\r\n"),
        answer("200 OK", chunked, "2\nok\n0\n\n"),
        answer("200 OK", "Connection: close\r\nContent-Length: 2", "ok"),
        answer(
            "401 Unauthorized",
            "WWW-Authenticate: NTLM\r\nContent-Length: 0",
            "",
        ),
        answer("200 OK", &format!("{many}Content-Length:\t2"), "ok"),
        OK.replace("\r\n", "\n"),
        OK.replace("1.1", "1.0"),
    ] {
        for end in [response.len() - 1, response.len()] {
            let mut framing = Framing::default();
            framing.requests(GET.as_bytes());
            framing.responses(&response.as_bytes()[..end]);
            assert_eq!(framing.is_answered(), end == response.len(), "{response:?}");
        }
    }
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
    assert!(framing.requests.given_up);
    let mut framing = Framing::default();
    for _ in 0..=MAX_HEAD {
        framing.requests(b"a");
    }
    assert!(framing.requests.given_up);
    let mut framing = Framing::default();
    framing.requests(post("Transfer-Encoding: chunked", "0\r\n").as_bytes());
    for _ in 0..=MAX_LINE {
        framing.requests(b"a");
    }
    assert!(framing.requests.given_up);
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

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\n",
    "PUT / HTTP/1.1\r\nHost: a\r\n",
];
const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 401 Unauthorized\r\n",
    "HTTP/1.1 103 Early Hints\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
];
/// A body after the field that frames it.
const FRAMED: &[(&str, &str)] = &[
    ("", ""),
    ("Content-Length: 0\r\n", ""),
    ("Content-Length: 3\r\n", "abc"),
    ("content-length: 13\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "003\r\nabc\r\n0\r\n\r\n"),
    (
        "transfer-encoding: Chunked\r\n",
        "B\r\n3\r\nabc\r\n0\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
];
const DOUBTFUL_LINES: &[&str] = &[
    "GET / HTTP/1.0\r\n",
    "PUT / HTTP/1.1\n",
    "\r\nPOST / HTTP/1.1\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 200\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "\r\nHTTP/1.1 200 OK\r\n",
];
const FIELDS: &[&str] = &[
    "Host: a\r\n",
    "Host: a\n",
    "Content-Length: 3\r\n",
    "content-length: 0\r\n",
    "Content-Length : 3\r\n",
    "Content-Length: 3, 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked, gzip\r\n",
    "Transfer-Encoding:\tchunked\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2\r\n",
    " folded\r\n",
];
const BODIES: &[&str] = &[
    "abc",
    "3\r\nabc\r\n",
    "3;a=b\r\nabc\r\n",
    "3\nabc\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "\r",
    "\n",
];

/// Messages which follow one another, most of them as they should be.
fn messages(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let right = (select(lines), select(FRAMED))
        .prop_map(|(line, (field, body))| [line, field, "\r\n", body].concat());
    let line = prop_oneof![select(lines), select(DOUBTFUL_LINES)];
    let end = select(&["\r\n", "\n", ""][..]);
    let any = (
        line,
        vec(select(FIELDS), 0..4),
        end,
        vec(select(BODIES), 0..4),
    );
    let any = any.prop_map(|(line, fields, end, body)| {
        [line, &fields.concat(), end, &body.concat()].concat()
    });
    let message = prop_oneof![4 => right, 1 => any];
    vec(message, 1..5).prop_map(|messages| messages.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn hyper_sees_the_same_requests(bytes in messages(REQUEST_LINES)) {
        properties::of_requests(&bytes);
    }

    #[test]
    fn hyper_sees_the_same_answers(bytes in messages(STATUS_LINES), to_head: bool) {
        properties::of_answer(if to_head { &Method::HEAD } else { &Method::GET }, &bytes);
    }

    #[test]
    fn it_does_not_matter_where_bytes_are_cut(
        bytes in messages(REQUEST_LINES),
        cuts in vec(1_usize..20, 1..50),
    ) {
        let (mut whole, mut cut) = (Framing::default(), Framing::default());
        whole.requests(&bytes);
        let mut rest = &bytes[..];
        for length in cuts.into_iter().cycle() {
            let (part, after) = rest.split_at(length.min(rest.len()));
            cut.requests(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        // What can't be right may be seen later, but nothing else.
        let fit = |framing: &Framing| framing.requests.between_messages() && !framing.requests.own;
        prop_assert_eq!(fit(&whole), fit(&cut));
        prop_assert!(!fit(&whole) || whole.unanswered == cut.unanswered);
    }
}
