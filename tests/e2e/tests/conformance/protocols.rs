//! Upstream's tests BackendTLSPolicyGRPCRoute and BackendTLSPolicyTLSRouteTerminate.

use nodetls_e2e::until;
use serde_json::Value;

use crate::objects::{HOSTNAME, MISMATCH_CA, Policy, service, service_with};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, Row};

pub(crate) const GRPC_ROUTE: Group = Group {
    title: "BackendTLSPolicyGRPCRoute",
    features: "GRPCRoute, BackendTLSPolicy",
    driven_by: "A unary gRPC call (curl, HTTP/2 with prior knowledge)",
    rows: &[
        Row {
            name: "grpc_route::normative",
            asserted: "Both conditions True. A unary call over plaintext HTTP/2: status OK, and the server saw SNI \
                       abc.example.com and ALPN h2.",
            test: grpc_normative,
        },
        Row {
            name: "grpc_route::host_mismatch",
            asserted: "Both conditions True. The call is answered with status UNAVAILABLE (14).",
            test: |suite| {
                let policy = Policy::new("grpc-host-mismatch", "grpc-host-mismatch-test");
                let policy = policy.hostname("mismatch.example.com");
                grpc_fails(
                    suite,
                    "grpc-host-mismatch",
                    "grpc-host-mismatch-test",
                    &policy,
                );
            },
        },
        Row {
            name: "grpc_route::cert_mismatch",
            asserted: "The same.",
            test: |suite| {
                let policy = Policy::new("grpc-cert-mismatch", "grpc-cert-mismatch-test");
                let policy = policy.ca(MISMATCH_CA);
                grpc_fails(
                    suite,
                    "grpc-cert-mismatch",
                    "grpc-cert-mismatch-test",
                    &policy,
                );
            },
        },
    ],
};

pub(crate) const TLS_ROUTE_TERMINATE: Group = Group {
    title: "BackendTLSPolicyTLSRouteTerminate",
    features: "TLSRoute, TLSRouteModeTerminate, BackendTLSPolicy",
    driven_by: "A TCP client that sends a line",
    rows: &[Row {
        name: "tls_route_terminate::lines_over_tcp",
        asserted: "Both conditions True. A line over plain TCP comes back from the server, which saw TLS and SNI \
                   abc.example.com.",
        test: lines_over_tcp,
    }],
};

fn grpc_normative(suite: &Suite) {
    let target = "grpc-normative-test";
    suite.apply(&[service(target), Policy::new(target, target).yaml()]);
    suite.expect(target, target, &ACCEPTED);
    until("the call succeeds", || {
        let answer = call(suite, target);
        let right = answer.contains("grpc-status: 0")
            && answer.contains(r#""serverName":"abc.example.com""#)
            && answer.contains(r#""negotiatedProtocol":"h2""#);
        right.then_some(()).ok_or(answer)
    });
}

fn grpc_fails(suite: &Suite, name: &str, target: &str, policy: &Policy) {
    suite.apply(&[service(target), policy.yaml()]);
    suite.expect(name, target, &ACCEPTED);
    until("the call fails", || {
        let answer = call(suite, target);
        assert!(!answer.contains("grpc-status: 0"), "{answer}");
        answer
            .contains("grpc-status: 14")
            .then_some(())
            .ok_or(answer)
    });
}

/// Calls upstream's method with an empty message; headers, answer and trailers. curl speaks what gRPC is made of: HTTP/2
/// with prior knowledge, and a message is five bytes (flag, length) and its content.
fn call(suite: &Suite, service: &str) -> String {
    let method = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/Echo";
    let curl = "curl -s -i -m 5 --http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers'";
    let message = r"printf '\0\0\0\0\0'";
    let call = format!("{message} | {curl} --data-binary @- http://{service}:443/{method}");
    suite.0.exec("client1", &["sh", "-c", &call])
}

fn lines_over_tcp(suite: &Suite) {
    let (name, target) = ("btls-tlsroute-terminate-test", "btls-terminate-tls-backend");
    let port = "{name: btls, port: 8443, targetPort: 8443}";
    suite.apply(&[
        service_with(target, "tcp-backend", port),
        Policy::new(name, target).yaml(),
    ]);
    suite.expect(name, target, &ACCEPTED);
    let address = format!("{}:8443", suite.cluster_ip(target));
    let told = until("the server answers a line", || {
        let said = suite.run(&["dial", &address, "--send=hello\\n", "--half-close"]);
        let line = said
            .lines()
            .find(|line| line.starts_with('{'))
            .ok_or(said.clone())?;
        serde_json::from_str::<Value>(line).map_err(|error| format!("{error}: {said}"))
    });
    assert_eq!(told["request"], "hello", "{told}");
    assert_eq!(told["tls"]["serverName"], HOSTNAME, "{told}");
    assert_eq!(told["tls"]["version"], "TLSv1.3", "{told}");
    assert_eq!(told["tls"]["negotiatedProtocol"], Value::Null, "{told}");
}
