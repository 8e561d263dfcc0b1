#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::gather::judge_agents;
use super::*;
use crate::metrics::{Metrics, Role};
use crate::policy::{CaName, ObjectName, Objects, compile};
use crate::readiness::Readiness;

/// A node on which all is well.
fn healthy() -> Status {
    let cgroup = PathBuf::from("/sys/fs/cgroup");
    let program = |name: &str, link| Program {
        name: name.to_owned(),
        link: Some(link),
        program: Some(link + 100),
        cgroup_id: Some(1),
        cgroup: Some(cgroup.clone()),
    };
    Status {
        healthy: true,
        pins: "/sys/fs/bpf/nodetls".into(),
        answer: Some(Answer {
            version: "1.2.3".to_owned(),
            epoch: 4,
            ready: true,
        }),
        agents: judge_agents(&[3, 4], 4, 4),
        programs: vec![program("connect4", 11), program("getpeername4", 12)],
        netns: vec![
            netns("pod-a", NetnsState::Enrolled, Some(13)),
            netns("other", NetnsState::Bypassed, None),
        ],
        targets: vec![Target {
            service: Some("default/web".to_owned()),
            port: 443,
            addresses: ["10.96.0.10:443".parse().unwrap()].into(),
            policy: Some("default/tls".to_owned()),
            state: TargetState::Accepted,
            reason: None,
            message: None,
            hostname: Some("www.example.com".to_owned()),
            subject_alt_names: Vec::new(),
            ca: Some(Ca {
                count: 1,
                subjects: vec!["\"test CA\"".to_owned()],
            }),
            endpoints: Some(["10.99.0.2:8443".parse().unwrap()].into()),
            external_host: None,
            open: 2,
        }],
        connects: vec![
            connects("redirected", "pod", 3),
            connects("denied", "ipv6", 0),
        ],
        audit: None,
        earlier: vec![EarlierConnection {
            netns: "pod-a".to_owned(),
            local: "10.244.0.5:40000".parse().unwrap(),
            remote: "10.96.0.10:443".parse().unwrap(),
            service: "default/web:443".to_owned(),
        }],
        connections: Some(Connections {
            open: 2,
            opened: 3,
            passed_through: 0,
            handshakes_ok: 2,
            handshakes_failed: 1,
            failures: BTreeMap::from([("unknown_ca".to_owned(), 1)]),
        }),
        exec: vec![exec(ExecState::Running)],
        errors: Vec::new(),
        problems: Vec::new(),
    }
}

fn netns(name: &str, state: NetnsState, link: Option<u64>) -> Netns {
    let name = Some(name.to_owned());
    Netns {
        name,
        cookie: 8,
        state,
        link,
    }
}

fn connects(outcome: &str, reason: &str, count: u64) -> Connects {
    let (outcome, reason) = (outcome.to_owned(), reason.to_owned());
    Connects {
        outcome,
        reason,
        count,
    }
}

fn exec(state: ExecState) -> Exec {
    Exec {
        number: "0".to_owned(),
        state,
        pid: Some(99),
        command: Some("sh".to_owned()),
        cgroup: Some("/sys/fs/cgroup/nodetls-exec-98".into()),
    }
}

#[test]
fn a_small_node_fits_a_screen() {
    let expected = r#"nodetls 1.2.3, agent of epoch 4: ready; pins: /sys/fs/bpf/nodetls

AGENT    STATE
epoch 3  draining
epoch 4  in charge

PROGRAM       STATE     LINK  CGROUP
connect4      attached  11    /sys/fs/cgroup (id 1)
getpeername4  attached  12    /sys/fs/cgroup (id 1)

NETNS  STATE     LINK  COOKIE
pod-a  enrolled  13    8
other  bypassed  -     8

SERVICE          ADDRESSES       STATE     POLICY       HOSTNAME         CA         ENDPOINTS       OPEN
default/web:443  10.96.0.10:443  accepted  default/tls  www.example.com  "test CA"  10.99.0.2:8443  2

CONNECTS    REASON  COUNT
redirected  pod     3

CONNECTIONS         COUNT
open                2
accepted            3
passed through      0
handshakes, ok      2
handshakes, failed  1

FAILURES    COUNT  CURE
unknown_ca  1      put the issuing CA into the policy's CA bundle, or have the server send its intermediates

CONNECTED BEFORE  LOCAL             REMOTE          NETNS
default/web:443   10.244.0.5:40000  10.96.0.10:443  pod-a

EXEC  STATE    PID  COMMAND  CGROUP
0     running  99   sh       /sys/fs/cgroup/nodetls-exec-98

all is well
"#;
    assert_eq!(text::render(&healthy()), expected);
}

#[test]
fn long_lists_are_cut_and_control_characters_stay_inside() {
    let mut status = healthy();
    let target = &mut status.targets[0];
    target.addresses = (1..=5).map(|i| ([10, 0, 0, i], 443).into()).collect();
    target.hostname = Some("a\u{1b}[31m".to_owned());
    target.ca = Some(Ca {
        count: 140,
        subjects: vec!["one".to_owned()],
    });
    status.targets = vec![status.targets[0].clone(); 40];
    let text = text::render(&status);
    assert!(
        text.contains("10.0.0.1:443,10.0.0.2:443,10.0.0.3:443,+2 "),
        "{text}"
    );
    assert!(
        text.contains("140 CAs") && text.contains("and 10 more"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn json_says_the_same_as_the_agent() {
    let status = healthy();
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["agents"][1], json!({"epoch": 4, "state": "inCharge"}));
    assert_eq!(value["targets"][0]["addresses"], json!(["10.96.0.10:443"]));
}

#[test]
fn each_agent_has_its_part() {
    use AgentState::*;
    for (living, newest, ready, expected) in [
        (&[][..], 0, 0, &[][..]),
        (&[1], 1, 0, &[(1, Starting)]),
        (&[1], 1, 1, &[(1, InCharge)]),
        (&[1, 2], 2, 1, &[(1, Serving), (2, Starting)]),
        (&[1, 2], 2, 2, &[(1, Draining), (2, InCharge)]),
        (&[1, 2], 1, 1, &[(1, InCharge), (2, Starting)]),
        (&[1], 2, 1, &[(1, Serving), (2, Dead)]),
        (&[], 2, 2, &[(2, Dead)]),
    ] {
        let agents = judge_agents(living, newest, ready);
        let found: Vec<_> = agents
            .iter()
            .map(|agent| (agent.epoch, agent.state))
            .collect();
        assert_eq!(
            found, expected,
            "{living:?}, newest {newest}, ready {ready}"
        );
    }
}

/// The one problem, and its cure, contain these words.
#[track_caller]
fn assert_one(problems: &[Problem], what: &str, cure: &str) {
    let [problem] = problems else {
        panic!("{problems:?}")
    };
    assert!(
        problem.what.contains(what) && problem.cure.contains(cure),
        "{problem:?}"
    );
}

#[test]
fn what_is_detached_is_a_problem() {
    assert_eq!(problems::of_kernel(&healthy()), []);
    let mut status = healthy();
    status.programs[0] = Program {
        name: "connect4".to_owned(),
        ..Program::default()
    };
    assert_one(
        &problems::of_kernel(&status),
        "connect4 is not attached (its pin links/connect4 is gone)",
        "start",
    );
    status = healthy();
    status.programs[1].cgroup_id = None;
    assert_one(
        &problems::of_kernel(&status),
        "(its cgroup is gone)",
        "start",
    );
    status = healthy();
    status.netns[0].state = NetnsState::Detached;
    assert_one(
        &problems::of_kernel(&status),
        "network namespace pod-a",
        "start",
    );
    status = healthy();
    status.exec[0].state = ExecState::Orphaned;
    assert_one(
        &problems::of_kernel(&status),
        "(sh, process 99)",
        "end the command",
    );
}

#[test]
fn without_an_agent_it_is_said_what_that_means() {
    let admin = "127.0.0.1:15020";
    let without = |status: &Status| {
        let problem = problems::without_answer(status, admin, "refused");
        problem.into_iter().collect::<Vec<_>>()
    };
    let mut status = healthy();
    assert_one(
        &without(&status),
        "does not answer at 127.0.0.1:15020: refused",
        "--admin",
    );
    status.agents = judge_agents(&[], 4, 4);
    assert_one(
        &without(&status),
        "connects to targets are refused until one does",
        "nodetls agent",
    );
    status
        .programs
        .iter_mut()
        .for_each(|program| program.cgroup_id = None);
    assert_one(&without(&status), "are not secured", "nodetls agent");
    status.programs.clear();
    assert_eq!(
        without(&status),
        [],
        "only `nodetls exec`, which needs no agent"
    );
    status.exec.clear();
    assert_one(
        &without(&status),
        "no program is pinned at /sys/fs/bpf/nodetls",
        "--pins",
    );
}

/// Service `web` at 10.96.0.10:443 without an endpoint, its policy, whose ConfigMap has this PEM, and an orphan.
fn objects(pem: &str) -> Objects {
    fn named<T: serde::de::DeserializeOwned>(name: &str, object: Value) -> (ObjectName, Arc<T>) {
        let object = serde_json::from_value(object).unwrap();
        (ObjectName::new("default", name), Arc::new(object))
    }
    let policy = |service: &str| {
        json!({"spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": service}],
            "validation": {
                "hostname": "www.example.com",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
            },
        }})
    };
    let service = json!({"spec": {"clusterIP": "10.96.0.10", "externalIPs": ["1.2.3.4"], "ports": [{"port": 443}]}});
    let slice = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [], "ports": [{"port": 8443}],
    });
    let ca: ConfigMap = serde_json::from_value(json!({"data": {"ca.crt": pem}})).unwrap();
    let ca = ca.into();
    Objects {
        services: [named("web", service)].into(),
        endpoint_slices: [named("web-1", slice)].into(),
        ca_objects: [(CaName::config_map("default", "ca"), ca)].into(),
        ca_secrets: false,
        policies: [
            named("tls", policy("web")),
            named("orphan", policy("nowhere")),
        ]
        .into(),
    }
}

fn ask(live: &Live, metrics: &Metrics, readiness: &Readiness) -> Status {
    serde_json::from_str(&page(live, metrics, readiness).unwrap()).unwrap()
}

#[test]
fn the_page_tells_what_the_agent_knows() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test CA");
    let pem = params.self_signed(&key).unwrap().pem();
    let live = Live::default();
    let publish = |pem: &str| {
        let compiled = compile(&objects(pem), &Default::default());
        live.update(|facts| {
            facts.snapshot = Arc::new(compiled.snapshot);
            facts.policies = compiled.statuses.into();
        });
    };
    let metrics = Metrics::new(Role::Agent, "1.2.3").unwrap();
    let readiness = Readiness::default();
    let web = metrics.target("default", "web", 443);
    let _open = web.open();
    web.failed("expired");
    publish(&pem);
    let status = ask(&live, &metrics, &readiness);
    let [target] = status.targets.as_slice() else {
        panic!("{status:?}")
    };
    assert_eq!(target.addresses.len(), 2, "both of one port");
    assert_eq!((target.state, target.open), (TargetState::Accepted, 1));
    assert_eq!(target.ca.as_ref().unwrap().subjects, ["\"test CA\""]);
    let connections = status.connections.unwrap();
    assert_eq!(
        connections.failures,
        BTreeMap::from([("expired".to_owned(), 1)])
    );
    let [orphan, endpoints] = status.problems.as_slice() else {
        panic!("{:?}", status.problems)
    };
    assert!(orphan.what.contains("default/orphan") && orphan.what.contains("TargetNotFound"));
    assert!(endpoints.what.contains("web:443 has no ready endpoint") && !status.healthy);

    publish("garbage");
    readiness.set_problem(crate::agent::NETNS, "not enrolled: pod-a (full)");
    live.update(|facts| facts.unreadable = ["a.yaml: not YAML".to_owned()].into());
    let status = ask(&live, &metrics, &readiness);
    let target = &status.targets[0];
    assert_eq!(target.state, TargetState::Refused);
    assert_eq!(target.reason.as_deref(), Some("NoValidCACertificate"));
    for (what, cure) in [
        ("pod-a (full)", "tries again"),
        ("a.yaml: not YAML", "correct it"),
        (
            "default/tls, Service web: refused (NoValidCACertificate)",
            "ConfigMap default/ca",
        ),
    ] {
        let says = |problem: &&Problem| problem.what.contains(what) && problem.cure.contains(cure);
        assert!(
            status.problems.iter().any(|problem| says(&problem)),
            "{what}: {:?}",
            status.problems
        );
    }
    assert!(!status.answer.unwrap().ready);
}
