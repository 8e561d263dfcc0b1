#![allow(clippy::unwrap_used)]
use super::*;

const UID: &str = "819592d6-72a1-434c-9bb0-5a40c4c6ea6a";
const HASH: &str = "8f2a6e5c0d1b4a3f9e7c6b5a4d3c2b1a";
const ID: &str = "53a142d6cf2a426d03b2c37ea1f3bec65a87fece5ae4fe5434f4437b75b938c2";

/// A recorded tree: `directory: pids`.
fn tree(lines: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in lines {
        let (dir, pids) = line.split_once(':').unwrap();
        let uid = UID.replace('-', "_");
        let names = [("UID", UID), ("U_D", &uid), ("HASH", HASH), ("ID", ID)].into_iter();
        let dir = names.fold(dir.to_owned(), |dir, (short, long)| {
            dir.replace(short, long)
        });
        let dir = root.path().join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), pids.trim().replace(' ', "\n")).unwrap();
    }
    root
}

/// `UID: pids` of each pod below the tree, and the kubelet's directory.
fn listed(root: &Path, own: u32) -> (String, Vec<(String, Vec<u32>)>) {
    let kubepods = find(&[root.to_owned()], own).unwrap();
    let mut all: Vec<_> = pods(&kubepods, |_| {})
        .unwrap()
        .into_iter()
        .map(|pod| {
            let mut pids: Vec<_> = processes(&pod.path, &mut |_| {})
                .unwrap()
                .into_iter()
                .collect();
            pids.sort_unstable();
            (pod.uid, pids)
        })
        .collect();
    all.sort();
    let kubepods = kubepods.strip_prefix(root).unwrap();
    (kubepods.display().to_string(), all)
}

fn pod(uid: &str, pids: &[u32]) -> (String, Vec<u32>) {
    (uid.to_owned(), pids.to_vec())
}

#[test]
fn cgroupfs_driver() {
    let root = tree(&[
        "init: 1",
        "kubepods/pod11111111-0000-0000-0000-000000000000/ID: 10",
        "kubepods/burstable/podUID/ID: 20 21",
        "kubepods/burstable/podUID/ID/nested/deep: 22",
        "kubepods/burstable/podHASH/ID: 30",
        "kubepods/besteffort/pod22222222-0000-0000-0000-000000000000:",
    ]);
    let expected = vec![
        pod("11111111-0000-0000-0000-000000000000", &[10]),
        pod("22222222-0000-0000-0000-000000000000", &[]),
        pod(UID, &[20, 21, 22]),
        pod(HASH, &[30]),
    ];
    assert_eq!(listed(root.path(), 1), ("kubepods".to_owned(), expected));
}

#[test]
fn systemd_driver() {
    let root = tree(&[
        "init.scope: 1",
        "system.slice/containerd.service: 2 3",
        "kubepods.slice/kubepods-podU_D.slice/cri-containerd-ID.scope: 10",
        "kubepods.slice/kubepods-podU_D.slice/crio-conmon-ID.scope: 11",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podHASH.slice/crio-ID.scope/container: 20",
        "kubepods.slice/kubepods-burstable.slice:",
    ]);
    let expected = vec![pod(UID, &[10, 11]), pod(HASH, &[20])];
    assert_eq!(
        listed(root.path(), 1),
        ("kubepods.slice".to_owned(), expected)
    );
}

#[test]
fn kubepods_lies_below_other_directories() {
    for (prefix, kubepods) in [
        ("node1/kubepods/besteffort/podUID/ID", "node1/kubepods"),
        (
            "docker/0a1b/kubelet/kubepods/podUID/ID",
            "docker/0a1b/kubelet/kubepods",
        ),
        (
            "system.slice/docker-0a1b.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_D.slice/\
             cri-containerd-ID.scope",
            "system.slice/docker-0a1b.scope/kubelet.slice/kubelet-kubepods.slice",
        ),
        (
            "system.slice/k3s.service/kubepods/burstable/podUID/ID",
            "system.slice/k3s.service/kubepods",
        ),
    ] {
        let root = tree(&["system.slice/cron.service: 2", &format!("{prefix}: 10")]);
        let expected = (kubepods.to_owned(), vec![pod(UID, &[10])]);
        assert_eq!(listed(root.path(), 1), expected);
    }
}

#[test]
fn a_nested_cluster_is_a_pods_own_affair() {
    let root = tree(&[
        "kubepods/podUID/ID/kubelet/kubepods/pod33333333-0000-0000-0000-000000000000/ID: 40",
        "kubepods/podUID/ID/init: 41",
    ]);
    let expected = vec![pod(UID, &[40, 41])];
    assert_eq!(listed(root.path(), 1), ("kubepods".to_owned(), expected));
}

#[test]
fn of_several_kubelets_ours_is_the_one_we_run_below() {
    let root = tree(&[
        "node1/kubepods/podUID/ID: 10",
        "node2/kubepods/podHASH/ID: 20",
    ]);
    let of = |own| listed(root.path(), own);
    assert_eq!(of(10), ("node1/kubepods".to_owned(), vec![pod(UID, &[10])]));
    assert_eq!(
        of(20),
        ("node2/kubepods".to_owned(), vec![pod(HASH, &[20])])
    );
    let error = find(&[root.path().to_owned()], 1).unwrap_err().to_string();
    assert!(
        error.contains("node1/kubepods") && error.contains("node2/kubepods"),
        "{error}"
    );
    assert!(error.contains("name the directory"), "{error}");
}

#[test]
fn hybrid() {
    let v2 = tree(&["kubepods/podUID/ID: 10"]);
    let v1 = tree(&["kubepods/podUID/ID: 10"]);
    let unused = tree(&["kubepods/besteffort:", "user.slice: 5"]);
    let empty = tree(&["init: 1"]);
    let found = |roots: &[&tempfile::TempDir]| {
        let roots: Vec<_> = roots.iter().map(|root| root.path().to_owned()).collect();
        find(&roots, 1)
    };
    // The first that has pods; an old runtime has them in v1 only.
    assert_eq!(found(&[&v2, &v1]).unwrap(), v2.path().join("kubepods"));
    assert_eq!(found(&[&empty, &v1]).unwrap(), v1.path().join("kubepods"));
    assert_eq!(found(&[&unused, &v1]).unwrap(), v1.path().join("kubepods"));
    // A node without a pod yet.
    assert_eq!(found(&[&unused]).unwrap(), unused.path().join("kubepods"));
    let error = found(&[&empty]).unwrap_err().to_string();
    assert!(error.contains("no cgroup `kubepods`"), "{error}");
}

#[test]
fn mounts_are_found_v2_first() {
    let hybrid = "\
30 29 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/pids rw,relatime shared:5 - cgroup cgroup rw,pids
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    let paths = |text| {
        let mounts = cgroup_mounts(text).into_iter();
        mounts
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    let expected = [
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/systemd",
    ];
    assert_eq!(paths(hybrid), expected);
    // A container on pure v2: its private view first, the host's tree as a hostPath.
    let private = "\
900 899 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate
901 880 0:26 /../../../.. /host/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
";
    assert_eq!(paths(private), ["/sys/fs/cgroup", "/host/cgroup"]);
}

#[test]
fn uids_in_names() {
    for (name, uid) in [
        ("pod819592d6-72a1", Some("819592d6-72a1")),
        (
            "kubepods-burstable-pod819592d6_72a1.slice",
            Some("819592d6-72a1"),
        ),
        (
            "kubelet-kubepods-pod819592d6_72a1.slice",
            Some("819592d6-72a1"),
        ),
        (
            "kubepods-pod8f2a6e5c0d1b4a3f9e7c6b5a4d3c2b1a.slice",
            Some(HASH),
        ),
        ("pod", None),
        ("kubepods-pod.slice", None),
        ("burstable", None),
        ("kubepods-besteffort.slice", None),
        ("cri-containerd-53a1.scope", None),
    ] {
        let expected = uid.map(|uid| uid.replace("8f2a6e5c0d1b4a3f9e7c6b5a4d3c2b1a", HASH));
        assert_eq!(pod_uid(name), expected, "{name}");
    }
}

#[test]
fn processes_of_another_pid_namespace_are_an_error() {
    let root = tree(&["kubepods/podUID/ID: 10 0"]);
    let error = processes(&root.path().join("kubepods"), &mut |_| {}).unwrap_err();
    assert!(format!("{error:#}").contains("hostPID"), "{error:#}");
    assert_eq!(parse_procs("7\n8\n").unwrap(), [7, 8]);
    assert!(parse_procs("x\n").is_err());
}

#[test]
fn every_directory_is_visited_before_it_is_read() {
    let root = tree(&["kubepods/besteffort:", "kubepods/podUID/ID: 10"]);
    let kubepods = root.path().join("kubepods");
    // What appears once a directory was visited is found: a watch would have told of it, or the read does.
    let late = |dir: &Path| {
        if dir.ends_with("besteffort") {
            fs::create_dir(dir.join("podlate")).unwrap();
        }
    };
    let uids: Vec<_> = pods(&kubepods, late)
        .unwrap()
        .into_iter()
        .map(|pod| pod.uid)
        .collect();
    assert!(uids.contains(&"late".to_owned()), "{uids:?}");
    let mut visited = Vec::new();
    processes(&kubepods.join(format!("pod{UID}")), &mut |dir| {
        visited.push(dir.to_owned())
    })
    .unwrap();
    assert_eq!(visited.len(), 2);
}

#[test]
fn what_is_gone_is_empty_but_what_is_broken_is_an_error() {
    let root = tree(&["kubepods/podUID/ID: 10"]);
    assert!(
        processes(&root.path().join("gone"), &mut |_| {})
            .unwrap()
            .is_empty()
    );
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(processes(&file, &mut |_| {}).is_err());
}
