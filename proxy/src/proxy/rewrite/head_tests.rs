#![allow(clippy::unwrap_used)]

use super::*;

/// What becomes of a request: URI, version and headers as text, and whether it asks to change the protocol.
fn sent(request: &str, http2: bool) -> Result<(String, bool), Bad> {
    let mut lines = request.lines();
    let words: Vec<_> = lines.next().unwrap().split(' ').collect();
    let mut built = Request::builder().method(words[0]).uri(words[1]);
    built = built.version(match words[2] {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    });
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        built = built.header(name, value);
    }
    let mut request = built.body(()).unwrap();
    let host = Authority::from_static("httpbin.org");
    let upgrades = readdress(&mut request, &host, http2)?;
    let headers = request.headers().iter();
    let mut headers: Vec<_> = headers
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    let head = format!("{} {:?}", request.uri(), request.version());
    Ok((format!("{head}; {}", headers.join("; ")), upgrades))
}

fn plain(request: &str, http2: bool) -> String {
    sent(request, http2).unwrap().0
}

#[test]
fn the_host_is_the_policy_s() {
    for request in [
        "GET /a?b HTTP/1.1\nhost: x",
        "GET http://y:80/a?b HTTP/1.1\nhost: x",
        "GET http://y/a?b HTTP/2\nhost: x",
        "GET /a?b HTTP/1.0",
    ] {
        assert_eq!(plain(request, false), "/a?b HTTP/1.1; host: httpbin.org");
    }
    assert_eq!(
        plain("OPTIONS * HTTP/1.1\nhost: x", false),
        "* HTTP/1.1; host: httpbin.org"
    );
    assert_eq!(
        plain("GET http://y HTTP/1.1\nhost: x", false),
        "/ HTTP/1.1; host: httpbin.org"
    );
    for request in ["GET http://y/a HTTP/2\nhost: x", "GET /a HTTP/1.1\nhost: x"] {
        assert_eq!(plain(request, true), "https://httpbin.org/a HTTP/2.0; ");
    }
}

#[test]
fn two_hosts_or_none_or_connect_are_refused() {
    for request in [
        "GET / HTTP/1.1\nhost: x\nhost: x",
        "GET / HTTP/1.1",
        "GET / HTTP/1.0\nhost: x\nhost: y",
        "CONNECT x:443 HTTP/1.1\nhost: x",
    ] {
        assert_eq!(sent(request, false), Err(Bad), "{request}");
    }
}

#[test]
fn what_concerns_the_client_s_connection_stays_behind() {
    let request = "POST / HTTP/1.1\nhost: x\nconnection: keep-alive, X-Mine\nconnection: close\nx-mine: 1\n\
                   keep-alive: 5\ntransfer-encoding: chunked\nte: gzip\nproxy-connection: close\nx-other: 2";
    assert_eq!(
        plain(request, false),
        "/ HTTP/1.1; host: httpbin.org; x-other: 2"
    );
    let trailers = "POST / HTTP/1.1\nhost: x\nte: trailers, gzip";
    assert_eq!(
        plain(trailers, false),
        "/ HTTP/1.1; connection: TE; host: httpbin.org; te: trailers"
    );
    assert_eq!(
        plain(trailers, true),
        "https://httpbin.org/ HTTP/2.0; te: trailers"
    );
}

#[test]
fn an_upgrade_is_forwarded_unless_it_is_h2c() {
    let request = |protocols: &str| {
        format!(
            "GET / HTTP/1.1\nhost: x\nconnection: Upgrade, HTTP2-Settings\nupgrade: {protocols}\nhttp2-settings: A"
        )
    };
    let websocket = "/ HTTP/1.1; connection: Upgrade; host: httpbin.org; upgrade: websocket";
    for protocols in ["websocket", "h2c, websocket"] {
        let expected = (websocket.to_owned(), true);
        assert_eq!(sent(&request(protocols), false), Ok(expected));
    }
    let without = ("/ HTTP/1.1; host: httpbin.org".to_owned(), false);
    assert_eq!(sent(&request("h2c"), false), Ok(without));
    let over_http2 = ("https://httpbin.org/ HTTP/2.0; ".to_owned(), false);
    assert_eq!(sent(&request("websocket"), true), Ok(over_http2));
}
