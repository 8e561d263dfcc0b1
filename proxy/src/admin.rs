//! The admin address: metrics, health and status over HTTP/1. Small and bounded; nothing here changes state but the log's
//! filter.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access_log::{LogError, log_filter, set_log_filter};
use crate::ask::{Parameters, Unanswerable};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::status::{self, Live};
use crate::{cert, connections, explain};

/// Connections at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;

/// For the whole head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Rest after an accept that failed, which mostly means no free file descriptor.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const PATHS: &str = "/\n/healthz/live\n/healthz/ready\n/metrics\n/status\n/policies\n/connections\n/explain\n/cert\n/logging\n";
/// What names the cluster's Services and pods, opens connections, or changes something.
const LOCAL: [&str; 7] = [
    "/",
    "/status",
    "/policies",
    "/connections",
    "/explain",
    "/cert",
    "/logging",
];
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// The node at a glance, in a browser.
const PAGE: &str = include_str!("admin/page.html");
/// What that page may do: ask this address.
const PAGE_POLICY: &str = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin address shows.
#[derive(Debug)]
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/healthz/ready`.
    pub readiness: Readiness,
    /// For `/status` and what else is for this machine only, which a controller does not have.
    pub live: Option<Live>,
}

/// Listens at `address`, and serves for as long as the process lives. `[::]` is every address, of IPv4 too. To be called
/// within a tokio runtime.
///
/// # Errors
/// The address can't be listened at.
pub async fn start(address: SocketAddr, state: AdminState) -> Result<()> {
    let mut bound = TcpListener::bind(address).await;
    if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&bound) {
        bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    let listener = bound.with_context(|| format!("--admin {address}: can't listen"))?;
    tracing::info!(address = %listener.local_addr()?, "admin");
    tokio::spawn(serve(listener, Arc::new(state), CancellationToken::new()));
    Ok(())
}

/// As with the kernel's `ipv6.disable=1`.
fn has_no_ipv6(bound: &io::Result<TcpListener>) -> bool {
    let error = bound.as_ref().err();
    error.is_some_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

/// Serves until `shutdown` is cancelled; requests on the way are cut off.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let serve = async {
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, Arc::clone(&state));
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move {
                        shutdown.run_until_cancelled(connection).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(serve).await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, state: Arc<AdminState>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&request, peer, state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin: connection failed"),
        Err(_) => tracing::debug!("admin: connection took too long"),
    }
}

async fn respond<B>(
    request: &Request<B>,
    peer: SocketAddr,
    state: Arc<AdminState>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let here = peer.ip().to_canonical().is_loopback() && is_addressed_here(request);
    if request.method() == Method::POST && path == "/logging" && here {
        return set_logging(request.uri().query());
    }
    if request.method() != Method::GET {
        let (status, text) = (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        let mut refused = answer(status, PLAIN, text);
        let get = HeaderValue::from_static("GET");
        refused.headers_mut().insert(ALLOW, get);
        return refused;
    }
    match path {
        "/metrics" => {
            let ready = state.readiness.missing().is_empty();
            state.metrics.ready.set(ready.into());
            answer(StatusCode::OK, PROMETHEUS, state.metrics.encode())
        }
        "/healthz/live" => answer(StatusCode::OK, PLAIN, "ok\n".to_owned()),
        "/healthz/ready" => ready(&state.readiness),
        path if LOCAL.contains(&path) && !here => {
            let text = "only for this machine or pod itself; see `nodetls --help`\n";
            answer(StatusCode::FORBIDDEN, PLAIN, text.to_owned())
        }
        "/" => browser_page(),
        "/logging" => logging(log_filter(), StatusCode::INTERNAL_SERVER_ERROR),
        path => match &state.live {
            Some(live) if LOCAL.contains(&path) => {
                let parameters = Parameters::of(request.uri().query());
                local(path.to_owned(), parameters, live.clone(), state).await
            }
            _ => {
                let text = format!("not found; there is:\n{PATHS}");
                answer(StatusCode::NOT_FOUND, PLAIN, text)
            }
        },
    }
}

/// Whether the request names an address or localhost: a browser that was led here by somebody's DNS names that.
fn is_addressed_here<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let host = host.and_then(|host| Authority::try_from(host).ok());
    host.is_none_or(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<IpAddr>().is_ok()
    })
}

fn browser_page() -> Response<Full<Bytes>> {
    let mut page = answer(StatusCode::OK, HTML, PAGE.to_owned());
    let policy = HeaderValue::from_static(PAGE_POLICY);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

/// What is logged.
fn logging(filter: Result<String, LogError>, unless: StatusCode) -> Response<Full<Bytes>> {
    match filter {
        Ok(filter) => answer(StatusCode::OK, PLAIN, format!("{filter}\n")),
        Err(error) => answer(unless, PLAIN, format!("{error}\n")),
    }
}

/// Has something else logged from here on, as `level` of the query says.
fn set_logging(query: Option<&str>) -> Response<Full<Bytes>> {
    let level = query.and_then(|query| query.strip_prefix("level="));
    let Some(level) = level.filter(|level| !level.is_empty()) else {
        let text = "write for example /logging?level=info,nodetls=debug\n".to_owned();
        return answer(StatusCode::BAD_REQUEST, PLAIN, text);
    };
    let set = set_log_filter(level);
    if set.is_ok() {
        tracing::info!(level, "log filter changed");
    }
    logging(set.and_then(|()| log_filter()), StatusCode::BAD_REQUEST)
}

/// What only this machine may ask. Most of it reads pins and cgroups, so it must not hold up connections.
async fn local(
    path: String,
    parameters: Parameters,
    live: Live,
    state: Arc<AdminState>,
) -> Response<Full<Bytes>> {
    if path == "/cert" {
        return page(cert::page(&live, &parameters).await);
    }
    let read = move || match path.as_str() {
        "/policies" => live.policies(),
        "/connections" => connections::page(&live),
        "/explain" => explain::page(&live, &state.readiness, &parameters),
        _ => status::page(&live, &state.metrics, &state.readiness),
    };
    let result = tokio::task::spawn_blocking(read).await;
    page(result.unwrap_or_else(|error| Err(error.into())))
}

fn page(result: Result<String>) -> Response<Full<Bytes>> {
    match result {
        Ok(page) => answer(StatusCode::OK, JSON, page),
        Err(error) => {
            let status = match error.is::<Unanswerable>() {
                true => StatusCode::UNPROCESSABLE_ENTITY,
                false => StatusCode::INTERNAL_SERVER_ERROR,
            };
            answer(status, PLAIN, format!("{error:#}\n"))
        }
    }
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let mut lines = readiness.missing();
    let status = if lines.is_empty() {
        lines.push("ready".to_owned());
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    lines.extend(readiness.notes());
    answer(status, PLAIN, lines.join("\n") + "\n")
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
