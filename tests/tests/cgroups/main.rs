//! Pods found by cgroups: real processes in real cgroups and network namespaces, no container runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

mod nested;

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nodetls::pods::cgroups::{CgroupOptions, CgroupPods};
use nodetls::pods::decide::{Bypass, Decision, PodInfo};
use nodetls::pods::lister::{Lister, Listing, Netns};
use nodetls::pods::netns::{NetnsThread, current_cookie};
use nodetls::pods::{Pod, Pods, Serve};
use nodetls::redirect::{Effect, Redirect};
use nodetls_tests::{Running, binary};

const RECONCILE: Duration = Duration::from_secs(3600);
const UID: &str = "819592d6-72a1-434c-9bb0-5a40c4c6ea6a";
const OTHER: &str = "22222222-0000-0000-0000-000000000000";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node's part of the cgroup tree; dropping it removes it.
struct Node {
    root: PathBuf,
}

impl Node {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = nodetls::redirect::default_cgroup()
            .unwrap()
            .join(format!("nodetls-test-pods-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("kubepods/burstable")).unwrap();
        Self { root }
    }

    fn pods(&self) -> CgroupPods {
        let options = CgroupOptions {
            root: Some(self.root.clone()),
            ..CgroupOptions::default()
        };
        CgroupPods::new(options, RECONCILE).unwrap()
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.root.file_name().unwrap())
    }

    /// What an agent has of it.
    fn enrolling(&self) -> Pods {
        let thread = NetnsThread::start().unwrap();
        let own = current_cookie().unwrap();
        let lister = Lister::Cgroups(Box::new(self.pods()));
        Pods::new(lister, thread, 7, own, Effect::Enforce)
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.root.join(format!("kubepods/burstable/pod{uid}"))
    }

    /// Starts a shell script in a container of a pod, in the netns we are in.
    fn start(&self, uid: &str, container: &str, script: &str) -> Running {
        let dir = self.pod(uid).join(container);
        fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("set -e; echo $$ > \"$0\"; {script}")]);
        command.arg(dir.join("cgroup.procs"));
        Running::new(command)
    }

    /// The same in a netns of its own.
    fn start_in_netns(&self, uid: &str, container: &str) -> Running {
        self.start(uid, container, "exec unshare -n sleep 1000")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::write(self.root.join("cgroup.kill"), "1");
        for _ in 0..100 {
            remove(&self.root);
            if !self.root.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn netns_of(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}

/// The netns listed for a pod.
fn of<'a>(listing: &'a Listing, uid: &str) -> Vec<&'a Netns> {
    let all = listing.netns.values();
    all.filter(|netns| netns.pod_uid.as_deref() == Some(uid))
        .collect()
}

/// Lists at each trigger until `condition` holds.
async fn wait(pods: &mut CgroupPods, what: &str, condition: impl Fn(&Listing) -> bool) -> Listing {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let listing = pods.list().unwrap();
        assert!(listing.failed.is_empty(), "{:?}", listing.failed);
        if condition(&listing) {
            return listing;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let changed = tokio::time::timeout(left, pods.changed()).await;
        assert!(changed.is_ok(), "{what}: not within 10 s");
    }
}

#[tokio::test]
async fn pods_come_and_go() {
    let node = Node::new();
    let mut pods = node.pods();
    assert!(of(&pods.list().unwrap(), UID).is_empty());

    let pause = node.start_in_netns(UID, "pause");
    let listing = wait(&mut pods, "the pod is listed", |list| {
        !of(list, UID).is_empty()
    })
    .await;
    let [netns] = of(&listing, UID)[..] else {
        panic!("{:?}", listing.netns);
    };
    assert_eq!(netns.inode, netns_of(pause.id()));
    assert_eq!(netns.file.metadata().unwrap().ino(), netns.inode);
    assert_eq!(netns.decision, Decision::Enrol);
    assert!(
        listing
            .netns
            .contains_key(&format!("{UID}/{}", netns.inode))
    );

    // A second container in the same netns, and one of Docker's in the pod.
    let join = format!("exec nsenter --net=/proc/{}/ns/net sleep 1000", pause.id());
    let app = node.start(UID, "app", &join);
    let unshare = format!(
        "exec nsenter --net=/proc/{}/ns/net unshare -n sleep 1000",
        pause.id()
    );
    let _nested = node.start(UID, "app/docker/c1", &unshare);
    let listing = wait(&mut pods, "the nested netns is listed", |list| {
        of(list, UID).len() == 2
    })
    .await;
    assert!(
        of(&listing, UID)
            .iter()
            .any(|other| other.inode == netns.inode)
    );

    // Not before the second container has joined it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while netns_of(app.id()) != netns.inode {
        assert!(Instant::now() < deadline, "it has not joined");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its netns stays as long as one of its processes does, and goes with the last: without a timer's help.
    drop(pause);
    assert_eq!(of(&pods.list().unwrap(), UID).len(), 2);
    fs::write(node.pod(UID).join("cgroup.kill"), "1").unwrap();
    wait(&mut pods, "the pod is released", |list| {
        of(list, UID).is_empty()
    })
    .await;
    // Its netns is open here still: it outlives the processes.
    assert_eq!(netns.file.metadata().unwrap().ino(), netns.inode);
}

#[tokio::test]
async fn the_nodes_netns_is_never_a_pods() {
    let node = Node::new();
    let mut pods = node.pods();
    let own = netns_of(std::process::id());
    let _host = node.start(UID, "c1", "exec sleep 1000");
    // conmon runs in the pod's cgroup, but in the node's netns.
    let _conmon = node.start(OTHER, "conmon", "exec sleep 1000");
    let pause = node.start_in_netns(OTHER, "pause");
    let listing = wait(&mut pods, "the pod is listed", |list| {
        !of(list, OTHER).is_empty()
    })
    .await;
    assert!(of(&listing, UID).is_empty());
    assert_eq!(of(&listing, OTHER).len(), 1);
    assert_eq!(of(&listing, OTHER)[0].inode, netns_of(pause.id()));
    let nodes = &listing.netns[&format!("node/{own}")];
    assert_eq!(nodes.decision, Decision::Bypass(Bypass::HostNetwork));
    assert_eq!(nodes.inode, own);
}

#[tokio::test]
async fn a_node_without_the_machines_netns() {
    let node = Node::new();
    // The runtime: in a netns that is neither ours nor PID 1's. It starts a hostNetwork pod, and an ordinary one.
    let (host, ordinary) = (node.pod(UID).join("c1"), node.pod(OTHER).join("c1"));
    fs::create_dir_all(&host).unwrap();
    fs::create_dir_all(&ordinary).unwrap();
    let script = "(echo 0 > $0/cgroup.procs; exec sleep 1000) & \
                  (echo 0 > $1/cgroup.procs; exec unshare -n sleep 1000) & wait";
    let mut command = Command::new("unshare");
    command
        .args(["-n", "sh", "-c", script])
        .arg(&host)
        .arg(&ordinary);
    let shim = Running::new(command);

    // We did not learn of it: nothing is done with it, and nothing else is held up.
    let mut pods = node.pods();
    let both = |list: &Listing| of(list, UID).len() == 1 && of(list, OTHER).len() == 1;
    let settled = |list: &Listing| both(list) && of(list, OTHER)[0].inode != netns_of(shim.id());
    let listing = wait(&mut pods, "both are listed", settled).await;
    assert_eq!(of(&listing, UID)[0].decision, Decision::Deny);
    assert_eq!(of(&listing, OTHER)[0].decision, Decision::Enrol);

    // The API server says that the pod is hostNetwork.
    let host_network = PodInfo {
        host_network: true,
        ..PodInfo::default()
    };
    pods.set_pods(HashMap::from([(UID.to_owned(), host_network)]));
    let listing = pods.list().unwrap();
    assert_eq!(
        of(&listing, UID)[0].decision,
        Decision::Bypass(Bypass::HostNetwork)
    );

    // It is named.
    let options = CgroupOptions {
        root: Some(node.root.clone()),
        node_netns: vec![format!("/proc/{}/ns/net", shim.id()).into()],
        ..CgroupOptions::default()
    };
    let listing = CgroupPods::new(options, RECONCILE).unwrap().list().unwrap();
    assert!(of(&listing, UID).is_empty());
    assert_eq!(of(&listing, OTHER).len(), 1);

    // A process of an ordinary pod learns it from who started it, in another netns.
    let list = format!(
        "exec unshare -n {} {}",
        binary("list-pods"),
        node.root.display()
    );
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", shim.id()));
    let output = command
        .args(["sh", "-c", &format!("({list}); true")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let nodes = format!("node/{} Bypass(HostNetwork)", netns_of(shim.id()));
    assert!(text.contains(&nodes), "{text}");
    assert!(!text.contains(UID), "{text}");
}

#[tokio::test]
async fn what_the_api_server_says_decides() {
    let node = Node::new();
    let mut pods = node.pods();
    let _pause = node.start_in_netns(UID, "pause");
    wait(&mut pods, "the pod is listed", |list| {
        !of(list, UID).is_empty()
    })
    .await;
    pods.set_pods(HashMap::from([(UID.to_owned(), opted_out())]));
    let decision = of(&pods.list().unwrap(), UID)[0].decision;
    assert_eq!(decision, Decision::Bypass(Bypass::OptedOut));
}

fn opted_out() -> PodInfo {
    let mut info = PodInfo::default();
    let label = ("nodetls.io/redirect".to_owned(), "disabled".to_owned());
    info.labels.extend([label]);
    info
}

struct NoServer;

impl Serve for NoServer {
    fn serve(&self, _pod: &Arc<Pod>, _listeners: Vec<TcpListener>) {}
}

/// The way through the kernel: what is listed is enrolled, bypassed when its pod opts out, and released.
#[tokio::test]
async fn listed_pods_are_enrolled_bypassed_and_released() {
    let node = Node::new();
    let (redirect, mut maps) = Redirect::load(&node.pins(), Effect::Enforce).unwrap();
    let modes = &mut maps.pods;
    let mut pods = node.enrolling();
    let pause = node.start_in_netns(UID, "pause");
    loop {
        let failed = pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        if !pods.is_empty() {
            break;
        }
        pods.changed().await;
    }
    // The node's and the pod's; the node's is the only one that is bypassed.
    assert_eq!((pods.len(), modes.cookies().len()), (1, 2));
    assert_eq!(pods.bypassed(), [(Bypass::HostNetwork, 1)].into());

    pods.set_pods(HashMap::from([(UID.to_owned(), opted_out())]));
    pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
    assert_eq!((pods.len(), modes.cookies().len()), (0, 2));
    let both = [(Bypass::HostNetwork, 1), (Bypass::OptedOut, 1)];
    assert_eq!(pods.bypassed(), both.into());

    pods.set_pods(HashMap::new());
    pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
    assert_eq!((pods.len(), modes.cookies().len()), (1, 2));

    drop(pause);
    // Rather a failed test than one that hangs.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !pods.is_empty() {
        assert!(Instant::now() < deadline, "the pod is not released");
        let _ = tokio::time::timeout(Duration::from_secs(10), pods.changed()).await;
        pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
    }
    assert_eq!(modes.cookies().len(), 1);
    fs::remove_dir_all(node.pins()).unwrap();
}

#[tokio::test]
async fn a_visitor_does_not_take_a_pods_netns() {
    let node = Node::new();
    let mut pods = node.pods();
    let pause = node.start_in_netns(UID, "pause");
    wait(&mut pods, "the pod is listed", |list| {
        !of(list, UID).is_empty()
    })
    .await;
    let enter = format!("nsenter --net=/proc/{}/ns/net sleep 1000", pause.id());
    let _visitor = node.start(OTHER, "agent", &format!("{enter} & {enter} & wait"));
    let procs = node.pod(OTHER).join("agent/cgroup.procs");
    let inside = |pid: &str| netns_of(pid.parse().unwrap()) == netns_of(pause.id());
    let visited = || {
        fs::read_to_string(&procs)
            .unwrap()
            .lines()
            .filter(|pid| inside(pid))
            .count()
            == 2
    };
    for _ in 0..500 {
        if visited() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(visited());
    let listing = pods.list().unwrap();
    assert_eq!(of(&listing, UID).len(), 1);
    assert!(of(&listing, OTHER).is_empty());
}

#[test]
fn a_private_cgroup_namespace_hides_nothing() {
    let node = Node::new();
    let pause = node.start_in_netns(UID, "pause");
    let own = netns_of(std::process::id());
    while netns_of(pause.id()) == own {
        std::thread::sleep(Duration::from_millis(5));
    }
    // As a container on pure cgroup v2 is: /proc/PID/cgroup tells nothing, the mounted tree everything.
    let agent = node.root.join("kubepods/podagent/c1");
    fs::create_dir_all(&agent).unwrap();
    let script = format!(
        "echo $$ > \"$0\" && exec unshare -C sh -c 'cat /proc/self/cgroup && {} {}'",
        binary("list-pods"),
        node.root.display()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .arg(agent.join("cgroup.procs"));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(text.contains("0::/\n"), "{text}");
    let expected = format!("{UID}/{} Enrol", netns_of(pause.id()));
    assert!(text.contains(&expected), "{text}");
}

/// From the creation of a pod's cgroup to the listing of its netns, the start of two processes included.
#[tokio::test]
async fn a_new_pod_is_listed_soon() {
    let node = Node::new();
    let mut pods = node.pods();
    pods.list().unwrap();
    let (mut total, mut looks) = (Vec::new(), Vec::new());
    let mut running = Vec::new();
    for number in 0..30 {
        let uid = format!("{number:08}-0000-0000-0000-000000000000");
        let start = Instant::now();
        let pause = node.start_in_netns(&uid, "pause");
        wait(&mut pods, "the pod is listed", |list| {
            !of(list, &uid).is_empty()
        })
        .await;
        total.push(start.elapsed());
        let start = Instant::now();
        pods.list().unwrap();
        looks.push(start.elapsed());
        running.push(pause);
    }
    total.sort();
    println!(
        "from mkdir to listed: median {:?}, slowest {:?}; a look at 30 pods: {:?}",
        total[15], total[29], looks[29]
    );
    // No timer but the retries is at work: the reconcile tick is an hour.
    assert!(total[15] < Duration::from_secs(1), "{total:?}");
}

#[tokio::test]
async fn without_kubepods_it_says_so_and_waits() {
    let node = Node::new();
    remove(&node.root.join("kubepods"));
    let mut pods = node.pods();
    let start = Instant::now();
    let mut looks = 0;
    while start.elapsed() < Duration::from_millis(300) {
        let error = pods.list().unwrap_err().to_string();
        assert!(error.contains("no cgroup `kubepods`"), "{error}");
        looks += 1;
        let _ = tokio::time::timeout(Duration::from_millis(300), pods.changed()).await;
    }
    assert!(looks < 12, "{looks} looks in 300 ms");
    // It is found once it is there, and what is in it.
    let _pause = node.start_in_netns(UID, "pause");
    while pods.list().is_err() || of(&pods.list().unwrap(), UID).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
