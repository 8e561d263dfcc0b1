//! The heads of forwarded messages: whom a request is for, and what concerns one connection only.

use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Method, Request, Uri, Version};

/// Those of RFC 9110 section 7.6.1; what Connection names goes too.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A request that can't be forwarded, and that a server must refuse with 400.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// Makes a client's request one for `host` over HTTP/2 or HTTP/1.1; whether it asks to change the protocol.
pub(super) fn readdress<B>(
    request: &mut Request<B>,
    host: &Authority,
    http2: bool,
) -> Result<bool, Bad> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let well_formed = match request.version() {
        // RFC 9112 section 3.2: exactly one.
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    };
    // CONNECT is for proxies.
    if !well_formed || request.method() == Method::CONNECT {
        return Err(Bad);
    }
    let trailers = has_token(request.headers(), &TE, "trailers");
    let upgrade = upgrade(request.headers()).filter(|_| !http2);
    without_hop_by_hop(request.headers_mut());
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let headers = request.headers_mut();
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if http2 {
        headers.remove(HOST);
        let uri = Uri::builder().scheme(Scheme::HTTPS);
        let uri = uri.authority(host.clone()).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|_| Bad)?;
        *request.version_mut() = Version::HTTP_2;
        return Ok(false);
    }
    let value = HeaderValue::from_str(host.as_str()).map_err(|_| Bad)?;
    headers.insert(HOST, value);
    if trailers {
        headers.append(CONNECTION, HeaderValue::from_static("TE"));
    }
    let upgrades = upgrade.is_some();
    if let Some(protocols) = upgrade {
        switch(headers, protocols);
    }
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    Ok(upgrades)
}

/// Has the message offer or announce a change of protocol.
pub(super) fn switch(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocols);
}

/// The protocols that a message offers or announces, but for cleartext HTTP/2: TLS is no place for it.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    if !has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let offered = tokens(headers, &UPGRADE).filter(|token| !token.eq_ignore_ascii_case("h2c"));
    let offered: Vec<_> = offered.collect();
    let value = HeaderValue::from_str(&offered.join(", ")).ok();
    value.filter(|value| !value.is_empty())
}

/// Takes out what concerns one connection only.
pub(super) fn without_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether the list (RFC 9110 section 5.6.1) has this element.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|value| value.to_str().ok());
    let tokens = lines.flat_map(|line| line.split(',')).map(str::trim);
    tokens.filter(|token| !token.is_empty())
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
