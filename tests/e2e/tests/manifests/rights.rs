//! What each service account's token may do: all of it, and that it is no more.

use std::collections::BTreeSet;
use std::fs;

use nodetls_e2e::{kubectl, text};
use serde_json::{Value, json};

use super::{NAMESPACE, directory, kubectl_as};

const POLICY: &str = "backendtlspolicies.gateway.networking.k8s.io";

/// Group, resource, name where only one object is meant, verb; `-` for an empty one.
type Right = String;

/// A new token of this service account.
pub(super) fn token(namespace: &str, account: &str) -> String {
    kubectl(&["--namespace", namespace, "create", "token", account])
        .trim()
        .to_owned()
}

/// All that `token` may do in `namespace` beyond what every service account may. Rights in the whole cluster are among
/// them.
pub(super) fn rights(token: &str, namespace: &str) -> BTreeSet<Right> {
    let everyone = all(&self::token("default", "default"), namespace);
    let all = all(token, namespace);
    assert!(all.is_superset(&everyone), "{everyone:?}");
    all.difference(&everyone).cloned().collect()
}

fn all(token: &str, namespace: &str) -> BTreeSet<Right> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    let thread = std::thread::current();
    let name = format!("rights-{}", thread.name().unwrap().replace(':', "-"));
    let file = directory(&name).join("review.json");
    fs::write(&file, review.to_string()).unwrap();
    let file = file.display().to_string();
    // To validate it, kubectl would have to read more than this token may.
    let create = [
        "create",
        "--validate=false",
        "--output=json",
        "--filename",
        &file,
    ];
    let output = kubectl_as(token, &create);
    assert!(output.status.success(), "{}", text(&output));
    let review: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = &review["status"];
    assert_eq!(status["incomplete"], false, "{status}");
    let resources = status["resourceRules"].as_array().unwrap().iter();
    let resources = resources.flat_map(|rule| {
        let (groups, resources) = (strings(&rule["apiGroups"]), strings(&rule["resources"]));
        let mut names = strings(&rule["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        product(&[groups, resources, names, strings(&rule["verbs"])])
    });
    let urls = status["nonResourceRules"].as_array().unwrap().iter();
    let urls = urls
        .flat_map(|rule| product(&[strings(&rule["nonResourceURLs"]), strings(&rule["verbs"])]));
    resources.chain(urls).collect()
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// Every combination, as a line each.
fn product(lists: &[Vec<String>]) -> Vec<Right> {
    lists.iter().fold(vec![String::new()], |lines, list| {
        let longer = |line: &String| {
            let words = list.iter();
            let words = words.map(|word| if word.is_empty() { "-" } else { word });
            let longer = words.map(|word| format!("{line} {word}").trim_start().to_owned());
            longer.collect::<Vec<_>>()
        };
        lines.iter().flat_map(longer).collect()
    })
}

/// Rights from a table: group, resource, name, verbs.
pub(super) fn table(rows: &[(&str, &str, &str, &[&str])]) -> BTreeSet<Right> {
    let rights = rows.iter().flat_map(|(group, resource, name, verbs)| {
        let words = [*group, *resource, *name].map(|word| vec![word.to_owned()]);
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        product(&[&words[..], &[verbs]].concat())
    });
    rights.collect()
}

pub(super) const READ: &[&str] = &["get", "list", "watch"];

/// Of the whole cluster.
pub(super) fn agent() -> BTreeSet<Right> {
    table(&[
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            POLICY,
            READ,
        ),
        ("gateway.networking.k8s.io", "backendtlspolicies", "", READ),
        ("", "services", "", READ),
        ("discovery.k8s.io", "endpointslices", "", READ),
        ("", "namespaces", "", READ),
        ("", "pods", "", READ),
        ("events.k8s.io", "events", "", &["create"]),
    ])
}

/// Of the whole cluster.
pub(super) fn controller() -> BTreeSet<Right> {
    table(&[
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            POLICY,
            READ,
        ),
        ("gateway.networking.k8s.io", "backendtlspolicies", "", READ),
        (
            "gateway.networking.k8s.io",
            "backendtlspolicies/status",
            "",
            &["patch"],
        ),
        ("", "services", "", READ),
        ("discovery.k8s.io", "endpointslices", "", READ),
        ("", "namespaces", "", READ),
        ("", "configmaps", "", READ),
        ("events.k8s.io", "events", "", &["create"]),
    ])
}

#[test]
fn the_agents_token_may_do_this_and_no_more() {
    let token = token(NAMESPACE, "nodetls-agent");
    assert_eq!(rights(&token, "default"), agent());
    let mirrors = table(&[("", "configmaps", "", READ)]);
    assert_eq!(rights(&token, NAMESPACE), &agent() | &mirrors);
}

#[test]
fn the_controllers_token_may_do_this_and_no_more() {
    let token = token(NAMESPACE, "nodetls-controller");
    assert_eq!(rights(&token, "default"), controller());
    let own = table(&[
        ("", "configmaps", "", &["create", "patch", "delete"]),
        ("coordination.k8s.io", "leases", "", &["create"]),
        (
            "coordination.k8s.io",
            "leases",
            "nodetls-controller",
            &["get", "update"],
        ),
    ]);
    assert_eq!(rights(&token, NAMESPACE), &controller() | &own);
}

#[test]
fn the_agents_token_reads_no_secret_and_no_others_config_map() {
    let token = token(NAMESPACE, "nodetls-agent");
    for what in [
        "secrets --all-namespaces",
        "secrets",
        "configmaps --namespace default",
        "configmaps --all-namespaces",
        "nodes",
    ] {
        let get: Vec<_> = ["get"].into_iter().chain(what.split(' ')).collect();
        let output = kubectl_as(&token, &[&["--namespace", NAMESPACE], &get[..]].concat());
        assert!(!output.status.success(), "get {what} works");
        assert!(
            text(&output).contains("(Forbidden)"),
            "{what}: {}",
            text(&output)
        );
    }
    let own = kubectl_as(&token, &["--namespace", NAMESPACE, "get", "configmaps"]);
    assert!(own.status.success(), "{}", text(&own));
}
