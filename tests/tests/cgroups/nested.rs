//! Pods that make network namespaces of their own, as whoever may make a user namespace can.

use nodetls::pods::cgroups::NETNS_PER_POD;

use super::*;

/// Where none of our listeners finds a port; of the pod only when that is so.
const WITHOUT_PORTS: &str = "ip link set lo up; echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range; \
     $1 0.0.0.0:1 '' & $1 0.0.0.0:40000 '' & \
     until [ $(ss -Hltn | wc -l) = 2 ]; do sleep 0.05; done; echo $$ > $0; exec sleep 1000";

fn inodes(listing: &Listing, uid: &str) -> Vec<u64> {
    of(listing, uid).iter().map(|netns| netns.inode).collect()
}

#[tokio::test]
async fn a_pod_of_many_netns_has_its_number_of_them() {
    let node = Node::new();
    let mut pods = node.pods();
    let pause = node.start_in_netns(UID, "pause");
    let listed = |list: &Listing| of(list, UID).len();
    wait(&mut pods, "the pod is listed", |list| listed(list) == 1).await;
    let many = "for i in $(seq 80); do unshare -n sleep 1000 & done; wait";
    let _many = node.start(UID, "app", many);
    let listing = wait(&mut pods, "as many as it may have", |list| {
        listed(list) == NETNS_PER_POD
    })
    .await;
    // Which do not change from one look to the next, and its own is among them.
    assert!(inodes(&listing, UID).contains(&netns_of(pause.id())));
    for _ in 0..5 {
        assert_eq!(inodes(&pods.list().unwrap(), UID), inodes(&listing, UID));
    }
    let _other = node.start_in_netns(OTHER, "pause");
    wait(&mut pods, "another pod", |list| of(list, OTHER).len() == 1).await;
    // One that looks for the first time.
    let again = node.pods().list().unwrap();
    assert_eq!(listed(&again), NETNS_PER_POD);
    assert!(inodes(&again, UID).contains(&netns_of(pause.id())));
}

/// A container of a pod in such a netns.
fn start_without_ports(node: &Node, uid: &str) -> Running {
    let container = node.pod(uid).join("app");
    fs::create_dir_all(&container).unwrap();
    let mut nested = Command::new("unshare");
    nested.args(["-n", "sh", "-c", WITHOUT_PORTS]);
    nested
        .arg(container.join("cgroup.procs"))
        .arg(binary("banner"));
    Running::new(nested)
}

#[tokio::test]
async fn a_nested_netns_that_cannot_be_enrolled_keeps_nobody_from_being_ready() {
    let node = Node::new();
    let (redirect, mut maps) = Redirect::load(&node.pins(), Effect::Enforce).unwrap();
    let modes = &mut maps.pods;
    let mut pods = node.enrolling();
    let _pause = node.start_in_netns(UID, "pause");
    let mut looks = node.pods();
    wait(&mut looks, "its own", |list| of(list, UID).len() == 1).await;
    let _nested = start_without_ports(&node, UID);
    let listing = wait(&mut looks, "a nested one", |list| of(list, UID).len() == 2).await;
    let nested = of(&listing, UID).into_iter().filter(|netns| netns.nested);
    assert_eq!(nested.count(), 1);
    let failed = pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    // Refused: the node's netns and the pod's own are the only ones with an entry.
    assert_eq!((pods.len(), modes.cookies().len()), (1, 2));

    // What is a pod's own is a problem.
    let _other = start_without_ports(&node, OTHER);
    wait(&mut looks, "another pod", |list| of(list, OTHER).len() == 1).await;
    let failed = pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
    let errors: Vec<_> = failed.iter().collect();
    let [(name, error)] = errors[..] else {
        panic!("{failed:?}");
    };
    assert!(name.starts_with(OTHER), "{name}");
    let error = format!("{error:#}");
    assert!(error.contains("Address already in use"), "{error}");
    fs::remove_dir_all(node.pins()).unwrap();
}
