//! `nodetls exec`, and `nodetls uninstall`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nodetls::redirect::has_living_agent;
use nodetls_tests::{ADDRESS, Ca, Running, URL, World, binary, config_map};

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
    let get = format!("curl -s -o /dev/null -w '%{{http_code}}\\n' {URL}");
    let peer = format!("{} {ADDRESS} --leave", binary("dial"));
    let script = format!("{get}; read line; {get}; {peer}");
    let good = Running::talking(world.exec(&["sh", "-c", &script]));
    let bad = Running::talking(world.exec_with(&other, &["sh", "-c", &script]));
    let mut commands = [(good, "200\n"), (bad, "502\n")];
    for (command, code) in &mut commands {
        assert_eq!(command.read_until("\n"), *code);
    }
    // All three at work: each gets its own peer's name back, from programs of its own.
    let peer = format!("peer: {ADDRESS}\n");
    assert!(world.curl(&[URL]).ends_with("200"));
    assert_eq!(world.dial(&[ADDRESS, "--leave"]), peer);
    for (command, code) in &mut commands {
        command.say("\n");
        assert_eq!(command.finish(), format!("{code}{peer}"));
    }
    let none_of_the_commands = "the commands' connects are none of the agent's";
    assert_eq!(
        world.connects("redirected", "pod"),
        2.0,
        "{none_of_the_commands}"
    );
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn a_killed_proxy_means_refused_and_the_next_one_cleans_up() {
    let (world, _ca) = World::without_agent();
    let script = format!("echo ready; read line; {} {ADDRESS}", binary("dial"));
    let mut command = Running::talking(world.exec(&["sh", "-c", &script]));
    command.read_until("ready");
    kill_proxy(&world);
    let (removed, said) = world.uninstall();
    assert!(!removed && said.contains("end them first"), "{said}");
    command.say("\n");
    let answer = command.finish();
    assert!(answer.contains("ConnectionRefused"), "{answer}");
    assert_eq!(instances(&world).len(), 1, "a killed proxy removes nothing");
    command.wait();
    assert!(world.exec(&["true"]).status().unwrap().success());
    nothing_stays(&world);
}

#[test]
fn an_agent_and_uninstall_clean_up_too() {
    let (mut world, _ca) = World::without_agent();
    leave_stale(&world);
    world.start_agent();
    nothing_stays(&world);
    world.kill_agent();
    leave_stale(&world);
    let (removed, said) = world.uninstall();
    assert!(removed && !world.pins.exists(), "{said}");
    nothing_stays(&world);
}

/// A command of which both the proxy and the command itself were killed.
fn leave_stale(world: &World) {
    let mut command = Running::talking(world.exec(&["cat"]));
    command.say("ready\n");
    command.read_until("ready");
    kill_proxy(world);
    command.kill();
    assert_eq!(
        instances(world).len(),
        1,
        "nobody has been there to remove it"
    );
}

fn kill_proxy(world: &World) {
    let proxy = format!("stage proxy.*{} ", world.pins.display());
    let mut kill = Command::new("pkill");
    assert!(
        kill.args(["-KILL", "-f", &proxy])
            .status()
            .unwrap()
            .success()
    );
    // Its name goes before its files do.
    world.wait("it is gone", |world| {
        !instances(world).iter().any(|pins| has_living_agent(pins))
    });
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
    nothing_stays(&world);
}

#[test]
fn a_proxy_ends_too_when_somebody_removes_the_cgroup_first() {
    let (world, _ca) = World::without_agent();
    let mut child = Running::talking(world.exec(&["sh", "-c", "echo ready; read line"]));
    child.read_until("ready");
    let cgroups = fs::read_dir(&world.cgroup).unwrap().flatten();
    let cgroup = cgroups.map(|entry| entry.path()).find(|path| path.is_dir());
    let cgroup = cgroup.unwrap();
    child.signal("KILL");
    // Before the proxy looks: it lets events come for 20 ms.
    while fs::remove_dir(&cgroup).is_err() {}
    nothing_stays(&world);
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
    world.serve(plain, 443);
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
    let entries = fs::read_dir(world.pins.join("exec")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The proxy ends soon after the command.
fn nothing_stays(world: &World) {
    world.wait("no pins stay", |world| instances(world).is_empty());
    let proxy = format!("stage proxy.*{} ", world.pins.display());
    world.wait("no proxy stays", |_| {
        let mut find = Command::new("pgrep");
        find.args(["-f", &proxy]).stdout(Stdio::null());
        !find.status().unwrap().success()
    });
    let cgroups = fs::read_dir(&world.cgroup).unwrap().flatten();
    let left: Vec<_> = cgroups.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(left.len(), 0, "{left:?}");
}
