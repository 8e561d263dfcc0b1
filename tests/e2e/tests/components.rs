//! The components that change what agents do, one at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::nodetls::{self, Component};
use nodetls_e2e::{NODES, Namespace, alone, kubectl, on_node, text, until, wait};

const URL: &str = "http://server/";

#[test]
fn a_node_joins_with_a_taint_that_its_agent_removes() {
    let _alone = alone();
    let _component = Component::add("startup-taint");
    kubectl(&[
        "taint",
        "node",
        "node2",
        "nodetls.io/agent-not-ready=:NoSchedule",
    ]);
    let taints = || {
        kubectl(&[
            "get",
            "node",
            "node2",
            "--output=jsonpath={.spec.taints[*].key}",
        ])
    };
    assert_eq!(taints(), "nodetls.io/agent-not-ready");
    let agent = nodetls::agent("node2");
    nodetls::ours(&["delete", "pod", &agent, "--wait=false"]);
    wait("the taint is gone", || taints().is_empty());
    // The kubelet says a moment later that it runs; the old one drains meanwhile.
    wait("by the new agent", || nodetls::agent("node2") != agent);
}

#[test]
fn the_boot_guard_is_installed_with_its_component_and_inert_without_it() {
    let _alone = alone();
    let namespace = Namespace::with_backend("e2e-boot-guard");
    let link = "/etc/systemd/system/kubelet.service.requires/nodetls-guard.service";
    let program = "/var/lib/nodetls/bin/nodetls";
    let has = |node: &str, file: &str| {
        let mut test = on_node(node, &["test", "-e", file]);
        test.status().unwrap().success()
    };
    let component = Component::add("boot-guard");
    for node in NODES {
        wait("it is installed", || has(node, link) && has(node, program));
        // Beside its agent, as when the kubelet is started again.
        let guard = on_node(node, &[program, "guard"]).output().unwrap();
        assert!(text(&guard).contains("nothing to do"), "{}", text(&guard));
        assert!(guard.status.success());
    }
    drop(component);
    // The unit's condition.
    wait("its program is gone", || {
        NODES.iter().all(|node| !has(node, program))
    });
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
}

#[test]
fn audit_mode_redirects_nothing_and_tells_what_would_break() {
    let _alone = alone();
    let namespace = Namespace::with_backend("e2e-audit");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    let audit = Component::add("audit");
    until("plaintext goes through", || {
        match namespace.curl("client", &[URL]).status {
            // The server's word for plaintext.
            400 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    let row = |result: &str| {
        let said = nodetls::status("node1");
        let lines = said
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is = |words: &Vec<&str>| {
            words.len() == 3
                && words[0] == "e2e-audit/server:80"
                && words[1] != "0"
                && words[2] == result
        };
        if lines.into_iter().any(|words| is(&words)) {
            Ok(())
        } else {
            Err(said)
        }
    };
    until("the connect is counted, and a handshake works", || {
        row("ok")
    });
    namespace
        .steps("kubectl patch configmap ca --type=merge --patch '{\"data\": {\"ca.crt\": null}}'");
    until("what would break is told", || row("policy_refused"));
    drop(audit);
    until("it is enforced again", || {
        match namespace.curl("client", &[URL]).status {
            503 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}
