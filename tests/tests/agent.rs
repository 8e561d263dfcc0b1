//! The agent's life: what it needs to start and to be ready, which netns it enrols, how it ends.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nodetls::pods::netns::current_cookie;
use nodetls::redirect::{Effect, Redirect};
use nodetls_ebpf::{IdRange, Mode};
use nodetls_tests::{
    ADDRESS, ALLOW_MULTI, Foreign, HOST, Running, URL, World, binary, inside, ip, occurrences,
    policy, target,
};

#[test]
fn a_killed_agent_means_refused_and_a_restart_picks_up() {
    let (mut world, _ca) = World::with_echo();
    assert!(world.curl(&[URL]).ends_with("200"));
    world.kill_agent();
    let wire = world.capture(|world| {
        // Also with another process of the pod listening on the port.
        let mut other = world.in_pod(&binary("banner"));
        other.args(["0.0.0.0:443", "plain"]);
        let _other = Running::new(other);
        thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            assert!(
                world
                    .dial(&[ADDRESS, "--send", "marked"])
                    .contains("error: ConnectionRefused")
            );
        }
    });
    assert_eq!(occurrences(&wire, "marked"), 0);
    world.start_agent();
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn what_was_a_target_is_not_plaintext_after_a_restart_with_an_unreadable_manifest() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.manifest("policy.yaml", "kind: [");
    let manifests = world.dir.path().join("manifests");
    let _agent = world.start_beside(&manifests);
    world.wait("it publishes what it can", |world| {
        world.log().matches("published targets=").count() == 2
    });
    let answer = world.dial(&[ADDRESS, "--send", "GET / HTTP/1.1\\r\\n\\r\\n"]);
    // The reset may come before the client has asked for its peer's name.
    let reset = ["error: ConnectionReset", "error: NotConnected"];
    assert!(reset.iter().any(|kind| answer.contains(kind)), "{answer}");
    world.manifest("policy.yaml", &policy(HOST));
    world.wait("served again", |world| world.curl(&[URL]).ends_with("200"));
}

#[test]
fn a_cgroup_that_is_none_is_a_named_error() {
    let (world, _ca) = World::without_agent();
    let mut agent = Command::new(binary("nodetls"));
    agent.args([
        "agent",
        "--netns",
        &world.pod,
        "--admin",
        "127.0.0.1:0",
        "--manifests",
    ]);
    agent.arg(world.dir.path().join("manifests"));
    agent.arg("--cgroup").arg(world.dir.path());
    agent.arg("--pins").arg(&world.pins);
    let output = agent.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let named = format!(
        "connect4 can't be attached to {}",
        world.dir.path().display()
    );
    assert!(said.contains(&named), "{said}");
}

#[test]
fn a_netns_that_appears_later_is_enrolled_and_released_when_it_goes() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    let pattern = format!("{}*", world.pod);
    world.start_agent_for(&pattern);
    let late = format!("{}-late", world.pod);
    ip(&format!("netns add {late}"));
    world.wait("the new netns is enrolled", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 2.0
    });
    ip(&format!("netns del {late}"));
    world.wait("it is released", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 1.0
    });
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn our_own_netns_is_never_enrolled_nor_forgotten() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.start_agent_for(&format!("{}*", world.pod));
    let name = format!("{}-own", world.pod);
    let bypassed = |world: &World| {
        let mut dial = world.in_cgroup(&binary("dial"));
        dial.args([ADDRESS, "--nonblocking"]).output().unwrap();
        world.connects("bypassed", "netns")
    };
    ip(&format!("netns attach {name} {}", std::process::id()));
    // A later netns shows that the agent has seen the name.
    let late = format!("{}-late", world.pod);
    ip(&format!("netns add {late}"));
    world.wait("seen", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 2.0
    });
    let first = bypassed(&world);
    ip(&format!("netns del {name}"));
    ip(&format!("netns del {late}"));
    world.wait("gone", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 1.0
    });
    assert_eq!(first, 1.0);
    assert_eq!(bypassed(&world), 2.0);
}

#[test]
fn somebody_s_program_that_comes_first_is_named() {
    let (mut world, _ca) = World::without_agent();
    let pins = world.pins.join("others");
    let (redirect, mut maps) = Redirect::load_at(pins, IdRange::exec(0), Effect::Enforce).unwrap();
    target(&redirect, &mut maps, ADDRESS);
    let cookie = inside(&world.pod, current_cookie).unwrap();
    maps.pods.set(cookie, Mode::Redirect).unwrap();
    // Of one cgroup the programs run in the order in which they were attached.
    let others = Foreign::attach(&world.cgroup, ALLOW_MULTI);
    let mut server = world.in_pod(&binary("banner"));
    server.args(["127.192.0.1:443", "plain"]);
    let _server = Running::new(server);
    world.wait("they turn a target to it", |world| {
        world.dial(&[ADDRESS, "--send", "x"]).contains("plain")
    });
    world.launch_agent_for(&world.pod.clone());
    world.wait("the agent says whose it is", |world| {
        let said = world.get("/healthz/ready");
        said.contains("before nodetls by program connect4 (id ") && said.contains(" at connect6: ")
    });
    assert_eq!(world.metric("nodetls_others_first", &[]), 1.0);
    let refused = |world: &World| {
        let answer = world.dial(&[ADDRESS]);
        assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    };
    refused(&world);
    assert_eq!(world.connects("denied", "changed_address"), 1.0);
    world.kill_agent();
    refused(&world);
    world.launch_agent_for(&world.pod.clone());
    world.wait("it refused that too", |world| {
        world.connects("denied", "changed_address") == 2.0
    });
    drop(others);
    world.wait("nobody comes first", World::is_ready);
    assert_eq!(world.metric("nodetls_others_first", &[]), 0.0);
    assert!(world.curl(&[URL]).ends_with("200"));
}

/// One that has no local port left for our listeners.
#[test]
fn a_netns_that_cannot_be_enrolled_is_denied_and_keeps_the_agent_unready() {
    let (mut world, _ca) = World::without_agent();
    let _taken = world.without_ports(&world.pod);
    world.launch_agent_for(&world.pod.clone());
    let missing = format!("not enrolled: {}", world.pod);
    world.wait("the agent says what is missing", |world| {
        world.get("/healthz/ready").contains(&missing)
    });
    assert!(!world.is_ready());
    world.wait("the targets are published", |world| {
        world.metric("nodetls_targets", &[]) == 1.0
    });
    assert!(
        world
            .log()
            .contains("its listeners can't be opened: Address already in use")
    );
    let answer = world.dial(&[ADDRESS]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    assert_eq!(world.connects("denied", "unknown_netns"), 1.0);

    world.local_ports(&world.pod, "32768 60999");
    // Any change of the directory of netns makes the agent look again.
    let change = format!("/run/netns/.{}", world.pod);
    fs::write(&change, "").unwrap();
    fs::remove_file(&change).unwrap();
    world.wait("the agent is ready", World::is_ready);
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn sigterm_lets_open_connections_end() {
    let (mut world, _ca) = World::with_echo();
    let exchange = world.exchange();
    world.terminate_agent();
    world.wait("new connections are refused", |world| {
        world.dial(&[ADDRESS]).contains("ConnectionRefused")
    });
    world.end_of_exchange(exchange);
    assert!(world.wait_agent());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let (mut world, _ca) = World::with_echo();
    let mut open = world.dialling(&[ADDRESS, "--send", "GET / HTTP/1.1"]);
    world.wait("a connection is open", |world| {
        world.metric("nodetls_open_connections", &[]) == 1.0
    });
    world.terminate_agent();
    world.wait("it drains", |world| world.log().contains("draining"));
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    world.terminate_agent();
    assert!(world.wait_agent());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let answer = open.finish();
    assert!(
        answer.contains("ConnectionReset"),
        "cut off is not a clean end: {answer}"
    );
    assert!(world.log().contains("shut_down"));
}
