//! `nodetls exec`, and `nodetls uninstall`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nodetls_tests::{Ca, World, binary, config_map};

const URL: &str = "http://10.96.0.10:443/get";
const ADDRESS: &str = "10.96.0.10:443";

#[test]
fn a_command_is_secured_without_an_agent_and_nothing_stays() {
    let (world, _ca) = World::without_agent();
    let output = world
        .exec(&["curl", "-s", "-m", "5", URL])
        .output()
        .unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{answer}");
    assert!(
        answer.starts_with('{') && answer.contains(r#""serverName": "www.example.com""#),
        "{answer}"
    );
    let peer = world.exec(&[&binary("dial"), ADDRESS]).output().unwrap();
    assert!(String::from_utf8_lossy(&peer.stdout).starts_with("peer: 10.96.0.10:443"));
    nothing_stays(&world);
}

#[test]
fn exit_codes_signals_stdio_and_the_pid_are_the_command_s() {
    let (world, _ca) = World::without_agent();
    let code = |command: &[&str]| world.exec(command).output().unwrap().status;
    assert_eq!(code(&["sh", "-c", "exit 7"]).code(), Some(7));
    assert_eq!(code(&["sh", "-c", "kill -TERM $$"]).signal(), Some(15));
    assert_eq!(code(&["/no/such/command"]).code(), Some(127));
    assert_eq!(code(&["/"]).code(), Some(126));
    let nowhere = PathBuf::from("/no/such/directory");
    let output = world.exec_with(&nowhere, &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/directory"));

    // Nor does it run unsecured.
    let bad = world.dir.path().join("bad");
    fs::create_dir(&bad).unwrap();
    for (manifest, cause) in [(None, "no BackendTLSPolicy"), (Some("kind: ["), "bad.yaml")] {
        if let Some(text) = manifest {
            fs::write(bad.join("bad.yaml"), text).unwrap();
        }
        let output = world.exec_with(&bad, &["echo", "ran"]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(cause), "{said}");
    }

    let mut command = world.exec(&["sh", "-c", "echo $$; cat; echo error >&2"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{pid}\nhello")
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error\n");
    nothing_stays(&world);
}

#[test]
fn beside_an_agent_and_another_command_in_the_same_netns() {
    let (world, _ca) = World::with_echo();
    // The same targets with a CA of its own: whoever answers shows whose proxy it was.
    let other = world.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for name in ["service.yaml", "policy.yaml"] {
        fs::copy(
            world.dir.path().join("manifests").join(name),
            other.join(name),
        )
        .unwrap();
    }
    fs::write(
        other.join("ca.yaml"),
        config_map("example-ca", &Ca::new("other").pem),
    )
    .unwrap();
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}} ' {URL}; read line; curl -s -o /dev/null -w '%{{http_code}}' {URL}"
    );
    let start = |mut command: Command| {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut good = start(world.exec(&["sh", "-c", &script]));
    let mut bad = start(world.exec_with(&other, &["sh", "-c", &script]));
    let connects = world.metric("nodetls_ebpf_connects_total", &["redirected"]);
    for child in [&mut good, &mut bad] {
        let mut first = [0; 4];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
    }
    // All three at work.
    assert!(world.curl(&[URL]).ends_with("200"));
    for (mut child, code) in [(good, "200"), (bad, "502")] {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), code);
    }
    assert_eq!(
        world.metric("nodetls_ebpf_connects_total", &["redirected"]),
        connects + 1.0,
        "the commands' connects are none of the agent's"
    );
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn a_killed_proxy_means_refused_and_the_next_one_cleans_up() {
    let (world, _ca) = World::without_agent();
    let script = format!("echo ready; read line; {} {ADDRESS}", binary("dial"));
    let mut command = world.exec(&["sh", "-c", &script]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let proxy = format!("stage proxy.*{} ", world.pins.display());
    let find = |program: &str, signal: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(signal)
            .args(["-f", &proxy])
            .stdout(Stdio::null());
        command.status().unwrap().success()
    };
    assert!(find("pkill", &["-KILL"]));
    world.wait("it is gone", |_| !find("pgrep", &[]));
    let (removed, said) = world.uninstall();
    assert!(!removed && said.contains("end them first"), "{said}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("ConnectionRefused"), "{answer}");
    assert_eq!(instances(&world).len(), 1, "a killed proxy removes nothing");
    assert!(world.exec(&["true"]).status().unwrap().success());
    nothing_stays(&world);
}

#[test]
fn two_with_pins_of_their_own_do_not_meet_in_one_netns() {
    let (mut world, _ca) = World::without_agent();
    let script = format!("curl -s -o /dev/null -w '%{{http_code}} ' {URL}; read line");
    let mut first = world.exec(&["sh", "-c", &script]);
    let mut first = first
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut code = [0; 4];
    first
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut code)
        .unwrap();
    assert_eq!(&code, b"200 ");
    let pins = world.pins.clone();
    world.pins = PathBuf::from(format!("{}-other", pins.display()));
    world.manifest("ca.yaml", &config_map("example-ca", &Ca::new("other").pem));
    let second = world.exec(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", URL]);
    let second = { second }.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&second.stdout),
        "502",
        "whose CA was it?"
    );
    world.wait("no pins stay", |world| instances(world).is_empty());
    fs::remove_dir_all(&world.pins).unwrap();
    world.pins = pins;
    drop(first.stdin.take());
    first.wait().unwrap();
}

#[test]
fn another_netns_than_the_one_it_is_started_in_is_refused() {
    let (world, _ca) = World::without_agent();
    let dial = binary("dial");
    let output = world
        .exec(&["unshare", "-n", &dial, ADDRESS])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("ConnectionRefused"), "{answer}");
}

#[test]
fn uninstall_leaves_nothing() {
    let (mut world, _ca) = World::with_echo();
    let mut plain = world.in_backend(&binary("banner"));
    plain.args(["0.0.0.0:443", "HTTP/1.0 200 OK\r\n\r\nplain"]);
    world.serve(plain, "0.0.0.0:443");
    let (removed, said) = world.uninstall();
    assert!(!removed && said.contains("an agent is running"), "{said}");
    assert!(
        world.curl(&[URL]).ends_with("200"),
        "a refused uninstall changes nothing"
    );
    world.kill_agent();
    assert!(world.dial(&[ADDRESS]).contains("ConnectionRefused"));
    // Somebody else's, where --pins is a directory that others use too.
    let other = world.pins.join("others");
    fs::create_dir(&other).unwrap();
    let (removed, said) = world.uninstall();
    assert!(removed, "{said}");
    for pin in ["links/connect4", "maps/TARGETS", "/link"] {
        assert!(said.contains(pin), "{said}");
    }
    assert!(!world.pins.join("v1").exists());
    fs::remove_dir(&other).unwrap();
    fs::remove_dir(&world.pins).unwrap();
    assert!(
        world.curl(&[URL]).contains("plain"),
        "programs are still attached"
    );
    let (removed, said) = world.uninstall();
    assert!(removed && said.contains("nothing to remove"), "{said}");
    world.start_agent();
    assert!(world.curl(&[URL]).ends_with("200"));
}

fn instances(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.pins.join("exec")).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The proxy ends soon after the command.
fn nothing_stays(world: &World) {
    world.wait("no pins stay", |world| instances(world).is_empty());
    let cgroups = fs::read_dir(&world.cgroup).unwrap().flatten();
    let left: Vec<_> = cgroups.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(left.len(), 0, "{left:?}");
}
