//! IPv6: native ClusterIPs, every kind of client, and netns without.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use nodetls_tests::{
    BACKEND_IP6, CLUSTER_IP, CLUSTER_IP6, POD_IP6, World, binary, ip, occurrences, service,
};

const GET: &str =
    "GET /get HTTP/1.1\\r\\nHost: a\\r\\nX: marked-plaintext\\r\\nConnection: close\\r\\n\\r\\n";
/// What a connect to the first target is turned to.
const ID_1: &str = "fd6e:6f64:6574:6c73::7f80:1";

/// The usual set-up, for a dual-stack Service.
fn world() -> World {
    let (mut world, _ca) = World::without_agent();
    dual_stack(&world);
    world.start_agent();
    world
}

fn dual_stack(world: &World) {
    let both = format!("spec:\n  clusterIPs: [{CLUSTER_IP}, '{CLUSTER_IP6}']\n  clusterIP");
    let v4 = service("tls-backend", CLUSTER_IP, 443, 8443).replace("spec:\n  clusterIP", &both);
    let (_, slice) = v4.split_once("---\n").unwrap();
    let v6 = slice
        .replace("tls-backend-1", "tls-backend-2")
        .replace("addressType: IPv4", "addressType: IPv6")
        .replace(nodetls_tests::BACKEND_IP, &format!("'{BACKEND_IP6}'"));
    world.manifest("service.yaml", &format!("{v4}---\n{v6}"));
}

fn address() -> String {
    format!("[{CLUSTER_IP6}]:443")
}

#[test]
fn every_kind_of_ipv6_client_is_secured_and_sees_the_address_it_dialled() {
    let mut world = world();
    let (address, bound) = (address(), format!("[{POD_IP6}]:0"));
    let kinds: [&[&str]; 5] = [
        &[],
        &["--v6only"],
        &["--bind", &bound],
        &["--v6only", "--bind", &bound, "--nonblocking"],
        &["--mptcp"],
    ];
    for kind in kinds {
        let mut answer = String::new();
        let wire = world.capture(|world| {
            answer = world.dial(&[&[&address, "--send", GET], kind].concat());
        });
        assert!(
            answer.starts_with(&format!("peer: {address}\n")),
            "{kind:?}: {answer}"
        );
        assert!(answer.contains("200 OK"), "{kind:?}: {answer}");
        assert!(
            answer.contains("\"serverName\": \"www.example.com\""),
            "{kind:?}: {answer}"
        );
        assert!(wire.len() > 100, "{kind:?}: {} bytes captured", wire.len());
        assert_eq!(occurrences(&wire, "marked-plaintext"), 0, "{kind:?}");
    }
    let answer = world.curl(&[&format!("http://{address}/get")]);
    assert!(answer.ends_with("200"), "{answer}");
    assert_eq!(
        world.connects("redirected", "pod"),
        kinds.len() as f64 + 1.0
    );
}

#[test]
fn an_ipv6_client_bound_to_a_device_is_refused() {
    let world = world();
    for device in ["eth0", "lo"] {
        let answer = world.dial(&[&address(), "--device", device]);
        assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    }
    assert_eq!(world.connects("denied", "bound_device"), 2.0);
}

#[test]
fn a_pod_without_ipv6_on_its_loopback_is_refused_over_ipv6_only() {
    let (mut world, _ca) = World::without_agent();
    dual_stack(&world);
    let mut sysctl = world.in_pod("sysctl");
    sysctl.args(["-q", "-w", "net.ipv6.conf.lo.disable_ipv6=1"]);
    assert!(sysctl.status().unwrap().success());
    world.start_agent();
    let answer = world.dial(&[&address(), "--send", GET]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    assert_eq!(world.connects("denied", "ipv6"), 1.0);
    let v4 = format!("{CLUSTER_IP}:443");
    let answer = world.dial(&[&v4, "--send", GET]);
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(answer.starts_with(&format!("peer: {v4}\n")), "{answer}");
}

/// It goes with the loopback device, and whoever flushes routes.
#[test]
fn a_lost_route_comes_back() {
    let world = world();
    let route = |arguments: &[&str]| {
        let mut ip = world.in_pod("ip");
        ip.args(["-6", "route"]).args(arguments);
        String::from_utf8(ip.output().unwrap().stdout).unwrap()
    };
    let ours = ["show", "table", "local", "root", "fd6e:6f64:6574:6c73::/96"];
    assert!(
        route(&ours).contains("fd6e:6f64:6574:6c73::7f80:0/111"),
        "{}",
        route(&ours)
    );
    route(&["flush", "table", "local", "root", ours[4]]);
    assert_eq!(route(&ours), "");
    let deadline = Instant::now() + Duration::from_secs(15);
    while route(&ours).is_empty() {
        assert!(Instant::now() < deadline, "the route did not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    let answer = world.dial(&[&address(), "--send", GET]);
    assert!(answer.contains("200 OK"), "{answer}");
}

#[test]
fn who_dials_an_id_itself_gets_its_target_or_nothing() {
    let mut world = world();
    let dial = |world: &World, ip: &str| world.dial(&[&format!("[{ip}]:443"), "--send", GET]);
    let answer = dial(&world, ID_1);
    assert!(answer.contains("200 OK"), "{answer}");
    let other_range = ID_1.replace("7f80", "7fc0");
    let answer = dial(&world, &other_range);
    assert!(!answer.contains("peer"), "{answer}");
    world.kill_agent();
    for ip in [ID_1, CLUSTER_IP6] {
        let answer = dial(&world, ip);
        assert!(
            answer.contains("error: ConnectionRefused"),
            "{ip}: {answer}"
        );
    }
}

/// A local route takes what comes over any device; the proxy must not serve a neighbour as if it were the pod.
#[test]
fn a_neighbour_is_not_served() {
    let world = world();
    let backend = &world.backend;
    ip(&format!(
        "-n {backend} -6 route add {ID_1}/128 via {POD_IP6}"
    ));
    let mut dial = world.in_backend(&binary("dial"));
    dial.args([&format!("[{ID_1}]:443"), "--send", GET]);
    let answer = String::from_utf8(dial.output().unwrap().stdout).unwrap();
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    assert_eq!(world.metric("nodetls_connections_opened_total", &[]), 0.0);
}
