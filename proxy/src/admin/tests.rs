#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::Role;
use crate::tls::Session;

struct Admin {
    address: SocketAddr,
    state: Arc<AdminState>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Admin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new(Role::Agent, "1.2.3").unwrap());
        let state = Arc::new(AdminState {
            metrics,
            readiness: Readiness::default(),
            live: Some(Live::default()),
        });
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, Arc::clone(&state), shutdown.clone()));
        Self {
            address,
            state,
            shutdown,
            task,
        }
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.ask_as("localhost:15020", method, path).await
    }

    async fn ask_as(&self, host: &str, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }
}

#[tokio::test]
async fn a_page_for_browsers_that_came_here_of_their_own_accord() {
    let admin = Admin::start().await;
    for host in ["localhost:15020", "127.0.0.1:15020", "[::1]:15020"] {
        let page = admin.ask_as(host, "GET", "/").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{host}: {page}");
        assert!(
            page.contains("content-security-policy: default-src 'none';"),
            "{page}"
        );
    }
    for path in ["/", "/status", "/cert?target=a/b:443"] {
        let refused = admin.ask_as("attacker.example:15020", "GET", path).await;
        assert!(
            refused.starts_with("HTTP/1.1 403 "),
            "{path}: DNS rebinding: {refused}"
        );
    }
    let refused = admin
        .ask_as("attacker.example", "POST", "/logging?level=off")
        .await;
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
}

#[tokio::test]
async fn answers_each_path() {
    let admin = Admin::start().await;
    let live = admin.ask("GET", "/healthz/live").await;
    assert!(
        live.starts_with("HTTP/1.1 200 OK\r\n") && live.ends_with("\r\n\r\nok\n"),
        "{live}"
    );
    let status = admin.ask("GET", "/status").await;
    assert!(
        status.starts_with("HTTP/1.1 200 OK\r\n") && status.contains("application/json\r\n"),
        "{status}"
    );
    let connections = admin.ask("GET", "/connections").await;
    assert!(
        connections.starts_with("HTTP/1.1 422 ")
            && connections.ends_with("the agent is starting: ask again when it is ready\n"),
        "{connections}"
    );
    let missing = admin.ask("GET", "/nothing").await;
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    assert!(
        missing.contains("/metrics") && missing.contains("/healthz/ready"),
        "{missing}"
    );
    let post = admin.ask("POST", "/metrics").await;
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET\r\n"),
        "{post}"
    );
    let unnamed = admin.ask("POST", "/logging").await;
    assert!(
        unnamed.starts_with("HTTP/1.1 400 ") && unnamed.contains("/logging?level="),
        "{unnamed}"
    );
}

#[tokio::test]
async fn what_names_pods_is_told_to_this_machine_only() {
    let admin = Admin::start().await;
    for path in LOCAL {
        for peer in ["10.0.0.1:5000", "[::ffff:10.0.0.1]:5000", "[fd00::1]:5000"] {
            let request = Request::get(format!("{path}?a=b")).body(()).unwrap();
            let response = respond(&request, peer.parse().unwrap(), Arc::clone(&admin.state)).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {peer}");
        }
        let from_here = admin.ask("GET", path).await;
        assert!(!from_here.contains(" 403 "), "{from_here}");
    }
}

#[tokio::test]
async fn ready_names_what_is_missing() {
    let admin = Admin::start().await;
    let task = admin.state.readiness.task("programs attached");
    admin.state.readiness.set_problem("targets", "map full");
    let response = admin.ask("GET", "/healthz/ready").await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(
        response.ends_with("\r\n\r\npending: programs attached\nfailed: targets: map full\n"),
        "{response}"
    );
    task.done();
    admin.state.readiness.clear("targets");
    assert!(
        admin
            .ask("GET", "/healthz/ready")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_a_busy_instance_are_well_formed() {
    let admin = Admin::start().await;
    let session = Session {
        version: "TLSv1.3",
        cipher_suite: "AES",
        group: "X25519",
        alpn: "none",
        resumed: false,
        not_after: None,
    };
    let busy: Vec<_> = (0..4u16)
        .map(|port| {
            let metrics = Arc::clone(&admin.state.metrics);
            tokio::spawn(async move {
                for round in 0..500 {
                    let target = metrics.target("default", "web", port);
                    let _open = target.open();
                    target.handshake_ok(session, Duration::from_micros(700));
                    target.failed("timeout");
                    if round % 100 == 99 && port == 3 {
                        metrics.forget("default", "web", port);
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let response = admin.ask("GET", "/metrics").await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
            "{head}"
        );
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(
                series.starts_with("nodetls_") || series.starts_with("process_"),
                "{line}"
            );
        }
    }
    for task in busy {
        task.await.unwrap();
    }
    let body = admin.ask("GET", "/metrics").await;
    let labels = r#"port="0",service="web",service_namespace="default""#;
    assert!(
        body.contains(&format!(
            "nodetls_connections_closed_total{{{labels}}} 500\n"
        )),
        "{body}"
    );
    assert!(
        body.contains(&format!("nodetls_open_connections{{{labels}}} 0\n")),
        "{body}"
    );
    assert!(!body.contains(r#"port="3""#), "{body}");
}

#[tokio::test]
async fn silent_connections_are_bounded_and_shutdown_ends_them() {
    let admin = Admin::start().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(admin.address).await.unwrap());
    }
    // All slots are taken: one more request waits until a connection ends.
    let waiting = tokio::time::timeout(
        Duration::from_millis(300),
        admin.ask("GET", "/healthz/live"),
    );
    assert!(waiting.await.is_err());
    silent.pop();
    assert!(
        admin
            .ask("GET", "/healthz/live")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    admin.shutdown.cancel();
    admin.task.await.unwrap();
    let mut rest = Vec::new();
    for mut stream in silent {
        stream.read_to_end(&mut rest).await.ok();
    }
    assert!(rest.is_empty());
}
