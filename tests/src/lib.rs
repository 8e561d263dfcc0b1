//! A world for each test: a pod's netns and a backend's, joined by a veth pair; a cgroup and a pin directory of its own,
//! so that tests run side by side; certificates, servers, clients and the agent itself, all real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A broken rig is a failed test.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

mod agent;
mod certificates;
mod clients;
mod dns;
mod foreign;
mod manifests;
mod process;
mod servers;
mod world;

pub use certificates::{Ca, Identity};
pub use foreign::{ALLOW_MULTI, EXCLUSIVE, Foreign, PREORDER, target};
pub use manifests::{
    config_map, policy, policy_with, policy_with_client_certificate, service,
    service_without_slice, tls_secret, without_ready_endpoint,
};
pub use process::{Running, binary, inside, ip, text};
pub use world::World;

/// The Service's address.
pub const CLUSTER_IP: &str = "10.96.0.10";
/// The backend's address, and the Service's endpoint.
pub const BACKEND_IP: &str = "10.99.0.2";
/// The pod's address.
pub const POD_IP: &str = "10.99.0.1";
/// The Service's ClusterIP of IPv6, where a test gives it one.
pub const CLUSTER_IP6: &str = "fd00:96::10";
/// The backend's IPv6 address.
pub const BACKEND_IP6: &str = "fd00:99::2";
/// The pod's IPv6 address.
pub const POD_IP6: &str = "fd00:99::1";
/// The hostname of the policy.
pub const HOST: &str = "www.example.com";
/// What a client of the Service dials.
pub const ADDRESS: &str = "10.96.0.10:443";
/// What an HTTP client asks for.
pub const URL: &str = "http://10.96.0.10:443/get";

/// Fails unless a line of `said` has all of these words.
#[track_caller]
pub fn assert_line(said: &str, words: &[&str]) {
    let has = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(has), "no line with {words:?} in:\n{said}");
}

/// How often `needle` occurs.
pub fn occurrences(haystack: &[u8], needle: &str) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle.as_bytes())
        .count()
}

/// A port of 127.0.0.1 that nothing has, and that no other call gives: below the kernel's ephemeral ports, one of which
/// could be some connection's before a server that starts slowly listens.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 30_000, "no free port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
