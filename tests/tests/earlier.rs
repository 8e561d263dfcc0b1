//! Connections from before: older than the enrolment of their pod, or than their target.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{BACKEND_IP, World, policy, service};

/// An endpoint of a headless Service: the agent's own connections go to the very address that clients dial.
const ENDPOINT: &str = "10.99.0.2:8443";

#[test]
fn connections_from_before_are_listed_and_cut_if_asked() {
    let (mut world, _ca) = World::without_agent();
    let headless = service("tls-backend", "None", 443, 8443).replace(
        "tls-backend}\naddressType",
        "tls-backend, service.kubernetes.io/headless: ''}\naddressType",
    );
    world.manifest("service.yaml", &headless);
    let mut before = world.dialling(&[ENDPOINT, "--talk", "--patience", "60"]);
    before.read_until("peer:");
    world.start_agent();
    let left = |world: &World| world.metric("nodetls_earlier_connections", &[]);
    let cut = |world: &World| world.metric("nodetls_earlier_connections_cut_total", &[]);
    world.wait("it is found", |world| left(world) == 1.0);
    let (code, said) = world.status(&[]);
    let row = said
        .lines()
        .find(|line| line.starts_with("default/tls-backend:443  10.99.0.1:"));
    assert!(
        row.unwrap().contains(&format!(" {BACKEND_IP}:8443 ")),
        "{said}"
    );
    assert_eq!(code, 0, "{said}");

    // What the agent before us still serves is none of them, nor what we serve.
    let through_the_first = world.exchange_at(ENDPOINT);
    world.agent_flags.push("--cut-earlier-connections");
    let mut first = world.start_next_agent();
    let through_the_second = world.exchange_at(ENDPOINT);
    before.read_until("error: ConnectionAborted");
    world.wait("it is counted", |world| cut(world) == 1.0);
    assert_eq!(left(&world), 0.0);

    // One that is there before its target.
    world.remove_manifest("policy.yaml");
    world.wait("it is no target", |world| {
        world.metric("nodetls_targets", &[]) == 0.0
    });
    let mut before = world.dialling(&[ENDPOINT, "--talk", "--patience", "60"]);
    before.read_until("peer:");
    world.manifest("policy.yaml", &policy(nodetls_tests::HOST));
    before.read_until("error: ConnectionAborted");
    world.wait("it is counted too", |world| cut(world) == 2.0);
    world.end_of_exchange(through_the_second);
    world.end_of_exchange(through_the_first);
    assert!(first.wait().success());
}
