//! Two agents on one machine: the newer takes over without a refused connection, or fails and leaves no trace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodetls_tests::{ADDRESS, CLUSTER_IP, HOST, URL, World, occurrences, policy, service};

#[test]
fn upgrades_under_load_refuse_nothing() {
    let (mut world, _ca) = World::with_echo();
    let mut result = String::new();
    let wire = world.capture(|world| {
        result = world.load(20_000, |world, turn| {
            if turn % 2 == 1 {
                world.upgrade_agent();
            }
        });
    });
    println!("{result}");
    assert!(
        result.contains("ok=20000 502=0 refused=0 other=0"),
        "{result}"
    );
    assert!(world.log().matches("another agent has taken over").count() >= 2);
    assert_eq!(occurrences(&wire, "marked"), 0, "plaintext on the wire");
}

#[test]
fn a_connection_goes_on_across_the_take_over_and_the_old_agent_ends_after_it() {
    let (mut world, _ca) = World::with_echo();
    let exchange = world.exchange();
    let mut first = world.start_next_agent();
    world.wait("the first drains: it has closed its listener", |world| {
        let mut ss = world.in_pod("ss");
        ss.args(["-Hltn", "src", "127.77.0.0/16"]);
        let listeners = String::from_utf8(ss.output().unwrap().stdout).unwrap();
        world.log().contains("draining") && listeners.lines().count() == 1
    });
    let handshakes = |world: &World| world.metric("nodetls_tls_handshakes_total", &[]);
    assert!(world.curl(&[URL]).ends_with("200"));
    assert_eq!(handshakes(&world), 1.0, "new connections are the second's");
    assert!(!first.has_ended(), "its connection is open");
    // As the DaemonSet's controller does when the second is ready.
    first.signal("TERM");
    sleep(Duration::from_millis(500));
    world.end_of_exchange(exchange);
    assert!(first.wait().success());
    assert_eq!(handshakes(&world), 1.0, "the exchange was the first's");
}

/// Manifests that no agent becomes ready with: one of them could never be read.
fn never_ready(world: &World) -> PathBuf {
    let manifests = world.dir.path().join("unreadable");
    fs::create_dir(&manifests).unwrap();
    let service = service("tls-backend", CLUSTER_IP, 443, 8443);
    fs::write(manifests.join("service.yaml"), service).unwrap();
    fs::write(manifests.join("policy.yaml"), policy(HOST)).unwrap();
    fs::write(manifests.join("broken.yaml"), "{").unwrap();
    manifests
}

/// Both agents have, into the same maps.
fn have_published(world: &World) -> bool {
    world.log().matches("published targets=1").count() == 2
}

#[test]
fn an_agent_that_dies_before_it_is_ready_changes_nothing() {
    let (mut world, _ca) = World::with_echo();
    let manifests = never_ready(&world);
    let mut second = None;
    let result = world.load(20_000, |world, _| match &second {
        None => second = Some(Some(world.start_beside(&manifests))),
        Some(Some(_)) if have_published(world) => second = Some(None),
        _ => {}
    });
    assert!(
        result.contains("ok=20000 502=0 refused=0 other=0"),
        "{result}"
    );
    assert!(
        second.is_some_and(|second| second.is_none()),
        "it was ended"
    );
    world.wait("the first takes over again", |world| {
        world.log().contains("taking over again")
    });
    // It is in charge again: it publishes, and can be replaced.
    world.remove_manifest("policy.yaml");
    world.wait("no target", |world| {
        world.metric("nodetls_targets", &[]) == 0.0
    });
    world.upgrade_agent();
}

#[test]
fn an_agent_that_does_not_become_ready_gives_up_after_a_minute_and_the_one_before_it_goes_on() {
    let (mut world, _ca) = World::with_echo();
    let since = Instant::now();
    let mut second = world.start_beside(&never_ready(&world));
    while !second.has_ended() {
        assert!(since.elapsed() < Duration::from_secs(90), "it goes on");
        assert!(world.curl(&[URL]).ends_with("200"));
        assert!(world.is_ready());
        sleep(Duration::from_millis(200));
    }
    assert!(!second.wait().success());
    assert!(since.elapsed() >= Duration::from_secs(60));
    let said = "not ready after 60 s, while another agent serves, which now goes on: failed: ";
    assert!(world.log().contains(said), "{}", world.log());
    world.wait("the first takes over again", |world| {
        world.log().contains("taking over again")
    });
    world.upgrade_agent();
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn pins_of_another_layout_are_replaced_and_never_misread() {
    let (mut world, _ca) = World::with_echo();
    let mut result = String::new();
    let wire = world.capture(|world| {
        // Beside a living agent: its programs turn connects until ours are complete, then there is a moment of refusal.
        result = world.load(10_000, |world, turn| {
            if turn == 1 {
                change_layout(world);
                world.upgrade_agent();
            }
        });
        // Left by a dead one.
        world.kill_agent();
        change_layout(world);
        assert!(world.dial(&[ADDRESS]).contains("ConnectionRefused"));
        world.start_agent();
    });
    println!("{result}");
    assert!(
        result.contains(" 502=0 ") && result.contains(" other=0"),
        "{result}"
    );
    assert!(world.curl(&[URL]).ends_with("200"));
    assert_eq!(occurrences(&wire, "marked"), 0, "plaintext on the wire");
    assert_eq!(world.log().matches("another layout removed").count(), 2);
    let left: Vec<_> = fs::read_dir(&world.pins).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// What was pinned as PODS is no EPOCH.
fn change_layout(world: &World) {
    let maps = world.pins.join("v1/maps");
    fs::remove_file(maps.join("EPOCH")).unwrap();
    fs::rename(maps.join("PODS"), maps.join("EPOCH")).unwrap();
}
