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

#[tokio::test]
async fn a_nested_netns_that_cannot_be_enrolled_keeps_nobody_from_being_ready() {
    let node = Node::new();
    let (redirect, mut maps) = Redirect::load(&node.pins(), Effect::Enforce).unwrap();
    let modes = &mut maps.pods;
    let mut pods = node.enrolling();
    let container = node.pod(UID).join("app");
    fs::create_dir_all(&container).unwrap();
    let mut nested = Command::new("unshare");
    nested.args(["-n", "sh", "-c", WITHOUT_PORTS]);
    nested
        .arg(container.join("cgroup.procs"))
        .arg(binary("banner"));
    let _nested = Running::new(nested);
    // Of a pod that has no other it is a problem.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline);
        let failed = pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
        if let Some((_, error)) = failed.first_key_value() {
            let error = format!("{error:#}");
            assert!(error.contains("Address already in use"), "{error}");
            break;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), pods.changed()).await;
    }
    let _pause = node.start_in_netns(UID, "pause");
    loop {
        assert!(Instant::now() < deadline);
        let failed = pods.reconcile(&redirect, modes, &NoServer).await.unwrap();
        if pods.len() == 1 {
            assert!(failed.is_empty(), "{failed:?}");
            break;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), pods.changed()).await;
    }
    // Refused: the node's netns and the pod's own are the only ones with an entry.
    assert_eq!(modes.cookies().len(), 2);
    fs::remove_dir_all(node.pins()).unwrap();
}
