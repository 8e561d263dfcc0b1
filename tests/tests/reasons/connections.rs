//! Connections that can't be made, or break.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nodetls::failure::Reason;
use nodetls_tests::{BACKEND_IP, CLUSTER_IP, World, binary, ip, policy};

use crate::rig::{Rig, url};

#[test]
fn servers_out_of_reach() {
    let mut rig = Rig::new();
    rig.world.agent_flags = vec!["--connect-timeout", "1", "--handshake-timeout", "1"];
    let silent = rig.world.in_backend(&binary("silent"));
    rig.world.serve(silent, 8443);
    rig.ports.push((8443, BACKEND_IP.to_owned()));
    let closed = rig.port();
    let [unreachable, prohibited, absent] = ["10.98.0.1", "10.98.0.2", "10.99.0.77"];
    for (kind, address) in [("unreachable", unreachable), ("prohibit", prohibited)] {
        ip(&format!("-n {} route add {kind} {address}", rig.world.pod));
    }
    let [unreachable, prohibited, absent, none] =
        [unreachable, prohibited, absent, ""].map(|address| rig.port_at(address));
    rig.start("");

    rig.refused(
        8443,
        Reason::HandshakeTimeout,
        &["the server accepted the connection, but sent nothing for 1s after the ClientHello"],
    );
    rig.refused(
        closed,
        Reason::Refused,
        &[
            "refused the connection: nothing listens there",
            "10.99.0.2:",
        ],
    );
    rig.refused(
        unreachable,
        Reason::Unreachable,
        &["is unreachable (No route to host", "10.98.0.1:"],
    );
    rig.refused(
        prohibited,
        Reason::Unreachable,
        &[
            "10.98.0.",
            "a firewall or NetworkPolicy of this node forbids connections to 10.98.0.2:",
        ],
    );
    rig.refused(
        absent,
        Reason::ConnectTimeout,
        &["did not answer the TCP connection request", "10.99.0.77:"],
    );
    let answer = rig.world.curl(&[&url(none)]);
    assert!(answer.ends_with("503"), "{answer}");
    rig.logged(
        none,
        Reason::NoEndpoints,
        &["Service default/tls-backend has no ready endpoint"],
    );

    // One local port for all, and a connection that has it; the clients bring their own.
    let local_ports = |range: &str| rig.world.local_ports(&rig.world.pod, range);
    local_ports("40000 40000");
    let address = format!("{CLUSTER_IP}:8443");
    let client = |port: u16| {
        let mut client = rig.world.in_pod(&binary("dial"));
        client.args([
            &address,
            "--bind",
            &format!("0.0.0.0:{port}"),
            "--send",
            "x",
        ]);
        client.stdout(Stdio::null()).spawn().unwrap()
    };
    for mut client in [50_001, 50_002].map(client) {
        client.wait().unwrap();
    }
    local_ports("32768 60999");
    rig.logged(
        8443,
        Reason::Internal,
        &["no local port is free for a connection to 10.99.0.2:8443"],
    );

    rig.world.manifest(
        "policy.yaml",
        &policy("10.0.0.1").replace(", sectionName: '443'", ""),
    );
    rig.world
        .wait("503", |world| world.curl(&[&url(closed)]).ends_with("503"));
    rig.logged(
        closed,
        Reason::PolicyRefused,
        &["policy default/tls: Invalid: ", "hostname"],
    );
}

#[test]
fn a_truncated_answer_is_not_a_clean_end() {
    let mut rig = Rig::new();
    let port = rig.port();
    let mut server = rig.talking_server(port);
    rig.start("");
    let mut client = rig.client(port, "");
    server.say("half of it\n");
    client.read_until("half of it");
    server.kill();
    client.read_until("error: ConnectionReset");
    rig.logged(
        port,
        Reason::Truncated,
        &["the server ended the connection without TLS close_notify"],
    );
}

#[test]
fn connections_that_break() {
    let mut rig = Rig::new();
    let [broken, left, cut] = [(); 3].map(|()| rig.port());
    let servers = [broken, left, cut].map(|port| rig.talking_server(port));
    let unserved = rig.port();
    rig.start("");
    let [mut broken_server, mut left_server, mut cut_server] = servers;

    let long = format!("x: {}", "x".repeat(70_000));
    let answer = rig.world.curl(&["-H", &long, &url(unserved)]);
    assert!(answer.ends_with("431"), "{answer}");
    rig.logged(
        unserved,
        Reason::ClientLimit,
        &["a request's head is longer than 64 KiB"],
    );

    // A socket that is closed with bytes unread sends RST (RFC 2525 section 2.17).
    rig.world.file("body", &"x".repeat(40_000_000));
    let body = format!("@{}", rig.world.dir.path().join("body").display());
    let mut upload = rig.world.in_pod("curl");
    upload.args(["-s", "-H", "Expect:", "--data-binary", &body, &url(broken)]);
    upload.args(["--limit-rate", "10M", "-m", "10"]);
    let mut upload = upload.stdout(Stdio::null()).spawn().unwrap();
    let sent = |world: &World| world.metric("nodetls_sent_bytes_total", &[]);
    rig.world
        .wait("the upload has begun", |world| sent(world) > 0.0);
    broken_server.stop();
    // Until all buffers are full, so that it is the pending write that fails first.
    let mut before = 0.0;
    while before < sent(&rig.world) {
        before = sent(&rig.world);
        thread::sleep(Duration::from_millis(200));
    }
    broken_server.kill();
    upload.wait().unwrap();
    rig.logged(
        broken,
        Reason::Reset,
        &["the connection to the server broke: Connection reset by peer"],
    );

    // The same from the other side.
    let mut client = rig.client(left, "half a requ");
    let port = format!("port=\"{left}\"");
    rig.world.wait("the client is connected", |world| {
        world.metric("nodetls_sent_bytes_total", &[&port]) > 0.0
    });
    client.stop();
    left_server.say("unread\n");
    rig.world.wait("the client has bytes to read", |world| {
        world.metric("nodetls_received_bytes_total", &[&port]) > 0.0
    });
    client.kill();
    rig.logged(
        left,
        Reason::ClientGone,
        &["the client's connection failed: Connection reset by peer"],
    );

    let mut client = rig.client(cut, "");
    cut_server.say("half of it\n");
    client.read_until("half of it");
    // The first lets connections end, a second does not.
    rig.world.wait("the agent cuts it off", |world| {
        world.terminate_agent();
        world.log().contains("shut_down")
    });
    client.read_until("error: ConnectionReset");
    assert!(rig.world.wait_agent());
    rig.in_log(cut, Reason::ShutDown, &["the agent ends"]);
}
