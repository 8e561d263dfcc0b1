//! DNS servers at addresses beside ours: Docker's in the pod, systemd-resolved's, NodeLocal DNSCache's on the node.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use nodetls_tests::{CLUSTER_IP, HOST, World, ip, text};

const NODE_LOCAL: &str = "169.254.20.10";

/// The answer of the server to a client in the pod that asks `resolver` for its name, with `RES_OPTIONS` of resolv.conf(5).
fn answer_by(world: &World, resolver: &str, options: &str) -> String {
    let file = world.file("resolv.conf", &format!("nameserver {resolver}\n"));
    let mut client = world.in_pod("sh");
    let ask = "mount --bind \"$0\" /etc/resolv.conf && exec curl -sS -m 10 http://server.example.com:443/";
    client
        .env("RES_OPTIONS", options)
        .args(["-c", ask])
        .arg(file);
    text(&client.output().unwrap())
}

#[test]
fn dns_goes_where_it_always_went() {
    let (mut world, _ca) = World::with_echo();
    ip(&format!(
        "-n {} addr add {NODE_LOCAL}/32 dev lo",
        world.backend
    ));
    let in_pod: fn(&World, &str) -> Command = World::in_pod;
    let servers = [
        ("127.0.0.11", in_pod),
        ("127.0.0.53", in_pod),
        (NODE_LOCAL, World::in_backend),
    ];
    for (address, within) in servers {
        let record = format!("server.example.com,{CLUSTER_IP}");
        world.serve_dns(within, address.parse().unwrap(), &[&record]);
        for options in ["", "use-vc"] {
            let answer = answer_by(&world, address, options);
            let secured = format!("\"serverName\": \"{HOST}\"");
            assert!(answer.contains(&secured), "{address} {options}: {answer}");
        }
    }
}
