//! A client's first bytes: what it speaks, and its first request without the offer of h2c.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nodetls::fuzzing::{classify, without_h2c};
use nodetls::proxy::Protocol;

/// A request as far as h2c matters: request line, headers (name in lower case, elements), what follows the head.
#[derive(Debug, PartialEq)]
struct Request<'a> {
    line: (&'a str, &'a str, u8),
    headers: Vec<(String, Vec<&'a [u8]>)>,
    /// Their bytes, but for those of which elements may have been taken.
    untouched: Vec<(&'a str, &'a [u8])>,
    rest: &'a [u8],
}

fn parse(bytes: &[u8]) -> Option<Request<'_>> {
    let mut headers = vec![httparse::EMPTY_HEADER; 1 + bytes.len() / 4];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(end)) = request.parse(bytes) else {
        return None;
    };
    let line = (request.method?, request.path?, request.version?);
    let headers = || request.headers.iter();
    let untouched = headers().filter(|header| !is_touched(header.name));
    Some(Request {
        line,
        headers: headers()
            .map(|h| (h.name.to_lowercase(), elements(h.value)))
            .collect(),
        untouched: untouched
            .map(|header| (header.name, header.value))
            .collect(),
        rest: &bytes[end..],
    })
}

fn is_touched(name: &str) -> bool {
    let named = |known: &&str| known.eq_ignore_ascii_case(name);
    ["Connection", "Upgrade", "HTTP2-Settings"]
        .iter()
        .any(named)
}

fn elements(value: &[u8]) -> Vec<&[u8]> {
    let elements = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty()).collect()
}

/// The specification of `without_h2c`, on what was parsed.
fn without_offer(mut request: Request) -> Request {
    let h2c = |element: &[u8]| element.eq_ignore_ascii_case(b"h2c");
    let upgrades = || request.headers.iter().filter(|(name, _)| name == "upgrade");
    if !upgrades().any(|(_, offered)| offered.iter().any(|one| h2c(one))) {
        return request;
    }
    let others = upgrades().any(|(_, offered)| offered.iter().any(|one| !h2c(one)));
    request.headers.retain_mut(|(name, elements)| {
        let before = elements.len();
        match name.as_str() {
            "upgrade" => elements.retain(|one| !h2c(one)),
            "connection" => elements.retain(|one| {
                let upgrade = one.eq_ignore_ascii_case(b"upgrade") && !others;
                !upgrade && !one.eq_ignore_ascii_case(b"http2-settings")
            }),
            "http2-settings" => return false,
            _ => return true,
        }
        elements.len() == before || !elements.is_empty()
    });
    request
}

fuzz_target!(|bytes: &[u8]| {
    let decided = classify(bytes);
    // In how many pieces they come must not matter.
    let early = classify(&bytes[..bytes.len() / 2]);
    assert!(
        early.is_none() || early == decided,
        "{early:?}, then {decided:?}"
    );
    assert!(
        decided.is_some() || bytes.len() <= 16 * 1024 + 5,
        "undecided for ever"
    );

    let parsed = parse(bytes);
    let Some(Protocol::Http1 { head }) = decided else {
        return;
    };
    let result = without_h2c(bytes.to_vec());
    let Some(request) = parsed else {
        assert_eq!(result, bytes, "no complete request, and yet changed");
        return;
    };
    assert_eq!(head, request.line.0 == "HEAD");
    let left = parse(&result);
    assert_eq!(left, Some(without_offer(request)));
    assert_eq!(without_h2c(result.clone()), result, "twice is another");
});
