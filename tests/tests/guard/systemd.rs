//! The guard's unit, as systemd starts it, and as an administrator handles it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nodetls_tests::{ADDRESS, World, binary, occurrences, text};

use super::{connects, keep};

const README: &str = include_str!("../../../manifests/README.md");

/// Units of what stands for a node with a kubelet, which starts a pod. systemd wants those targets to be there.
const TARGETS: [&str; 3] = ["sysinit", "basic", "shutdown"];
const NODE: &str = "[Unit]\nWants=kubelet.service end.service\n";
const KUBELET: &str = "[Service]\nType=oneshot\nExecStart=@POD@\nStandardOutput=file:@OUT@\nStandardError=file:@OUT@\n";
const END: &str = "[Unit]\nAfter=kubelet.service\n[Service]\nType=oneshot\n\
                   ExecStart=/bin/systemctl exit --force --force\n";
/// A node on which an administrator types.
const BY_HAND: &str = "[Unit]\nWants=systemd-journald.service typed.service\n";
const TYPED: &str = "[Unit]\nAfter=systemd-journald.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c '@TYPED@'\n\
                     StandardOutput=file:@OUT@\nStandardError=file:@OUT@\n\
                     ExecStopPost=/bin/systemctl exit --force --force\n";
const JOURNAL: [&str; 2] = ["systemd-journald.service", "systemd-journald.socket"];

/// Writes them, and the guard's as an agent installs it; the directory.
fn units(world: &World) -> PathBuf {
    let units = world.dir.path().join("units");
    let put = |name: &str, text: &str| fs::write(units.join(name), text).unwrap();
    fs::create_dir_all(units.join("kubelet.service.requires")).unwrap();
    for target in TARGETS {
        let target = format!("{target}.target");
        put(&target, "[Unit]\nDefaultDependencies=no\n");
    }
    put("node.target", NODE);
    put("end.service", END);
    let (here, dial) = (units.display().to_string(), binary("dial"));
    let pod = format!("/usr/bin/nsenter --net={here}/netns {dial} {ADDRESS} --send marked");
    let kubelet = KUBELET.replace("@POD@", &pod);
    put(
        "kubelet.service",
        &kubelet.replace("@OUT@", &format!("{here}/out")),
    );

    let guard = include_str!("../../../proxy/src/guard/nodetls-guard.service");
    let guard = guard.replace("@CACHE@", &world.dir.path().display().to_string());
    let guard = guard.replace("@PINS@", &world.pins.display().to_string());
    put("nodetls-guard.service", &guard);
    let link = units.join("kubelet.service.requires/nodetls-guard.service");
    symlink("../nodetls-guard.service", link).unwrap();
    fs::create_dir(world.dir.path().join("bin")).unwrap();
    symlink(binary("nodetls"), world.dir.path().join("bin/nodetls")).unwrap();
    units
}

/// Boots systemd as the first process of a PID namespace, with the world's cgroup as the root of cgroup v2. Returns what
/// the pod said; nothing if none was started.
fn boot(world: &World, units: &Path) -> String {
    let out = world.file("units/out", "");
    world.file("units/netns", "");
    let mounts = format!(
        "mount --bind /run/netns/{} \"$0/netns\" && mount -t tmpfs tmpfs /run && umount -R /sys/fs/cgroup && \
         mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        world.pod
    );
    let systemd = "exec env -i container=test SYSTEMD_UNIT_PATH=$0 /lib/systemd/systemd --system --unit=node.target";
    let namespaces =
        "60 unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc sh -c";
    let mut boot = world.in_cgroup("timeout");
    boot.args(namespaces.split(' '))
        .arg(format!("{mounts} && {systemd}"))
        .arg(units);
    let boot = boot.stdin(Stdio::null()).output().unwrap();
    assert_ne!(
        boot.status.code(),
        Some(124),
        "it takes too long: {}",
        text(&boot)
    );
    fs::read_to_string(&out).unwrap()
}

#[test]
fn systemd_starts_the_kubelet_behind_the_guard_and_not_without_it() {
    let (mut world, _ca) = World::without_agent();
    let file = keep(&world);
    let units = units(&world);
    let wire = world.capture(|world| {
        let pod = boot(world, &units);
        assert!(pod.contains("error: ConnectionRefused"), "{pod}");
        assert_eq!(connects(world, "denied", "unknown_netns"), 1);
    });
    assert_eq!(occurrences(&wire, "marked"), 0);
    // The next boot, with a damaged file: no kubelet, and so no pod.
    fs::remove_dir_all(&world.pins).unwrap();
    fs::write(&file, "nodetls-objects 3 x").unwrap();
    assert_eq!(boot(&world, &units), "");
    // Without the program nodetls is not installed any more, and nothing is in the kubelet's way.
    fs::remove_file(world.dir.path().join("bin/nodetls")).unwrap();
    assert_ne!(boot(&world, &units), "");
}

/// A command as the README has it.
fn documented(command: &str) -> &str {
    assert!(README.contains(&format!("`{command}`")), "{command}");
    command
}

#[test]
fn an_administrator_tries_it_and_reads_why_it_fails() {
    let (world, _ca) = World::without_agent();
    let file = keep(&world);
    let units = units(&world);
    let put = |name: &str, text: &str| fs::write(units.join(name), text).unwrap();
    for unit in JOURNAL {
        let installed = Path::new("/usr/lib/systemd/system").join(unit);
        fs::copy(installed, units.join(unit)).unwrap();
    }
    put("node.target", BY_HAND);
    let (start, read) = (
        documented("systemctl start nodetls-guard"),
        documented("journalctl --unit nodetls-guard"),
    );
    let typed = TYPED.replace(
        "@TYPED@",
        &format!("{start}; echo code $?; journalctl --sync; {read}"),
    );
    let out = units.join("out").display().to_string();
    put("typed.service", &typed.replace("@OUT@", &out));

    let said = boot(&world, &units);
    assert!(said.contains("code 0\n"), "{said}");
    assert!(
        said.contains("connects to 1 targeted addresses are refused"),
        "{said}"
    );
    fs::remove_dir_all(&world.pins).unwrap();
    fs::write(&file, "nodetls-objects 3 x").unwrap();
    let said = boot(&world, &units);
    assert!(said.contains("code 1\n"), "{said}");
    assert!(
        said.contains("objects-3: the targets are not known"),
        "{said}"
    );
}

#[test]
fn an_administrator_takes_it_out_and_binds_it_to_another_kubelet() {
    let (world, _ca) = World::without_agent();
    let units = units(&world);
    let (agent, guard) = ("k3s-agent.service", "nodetls-guard.service");
    fs::write(units.join(agent), "[Service]\nExecStart=/bin/true\n").unwrap();
    let run = |command: &str| {
        let here = format!("mount --bind \"$0\" /etc/systemd/system && {command}");
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", &here]).arg(&units);
        let output = unshare.env("SYSTEMD_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{command}: {}", text(&output));
    };
    let kubelets = units.join(format!("kubelet.service.requires/{guard}"));
    assert!(kubelets.is_symlink());
    run(documented("systemctl disable nodetls-guard"));
    assert!(!kubelets.is_symlink());
    run(documented(
        "systemctl add-requires k3s-agent.service nodetls-guard.service",
    ));
    assert!(units.join(format!("{agent}.requires/{guard}")).is_symlink());
    let uninstall = documented("nodetls uninstall --boot-guard /etc/systemd/system");
    let (pins, cache) = (world.pins.display(), world.dir.path().display());
    let uninstall = uninstall.replacen("nodetls", &binary("nodetls"), 1);
    run(&format!("{uninstall} --pins {pins} --cache {cache}"));
    assert!(!units.join(guard).exists());
    // Else a kubelet would require what is not there.
    assert!(!units.join(format!("{agent}.requires")).exists());
}
