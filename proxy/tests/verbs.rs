//! Every verb, as `--help` tells of it, and the scripts for shells.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_nodetls");

fn said(output: Output) -> String {
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn run(program: &str, arguments: &[&str]) -> String {
    said(Command::new(program).args(arguments).output().unwrap())
}

/// The names below `Commands:`.
fn verbs(help: &str) -> Vec<String> {
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let lines = commands.lines().filter(|line| !line.starts_with("    "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    let names = names.filter(|name| *name != "help").map(str::to_owned);
    names.collect()
}

/// The binary as kubectl calls it.
fn plugin(directory: &tempfile::TempDir) -> String {
    let plugin = directory.path().join("kubectl-nodetls");
    symlink(BINARY, &plugin).unwrap();
    plugin.display().to_string()
}

#[test]
fn every_verb_has_help_with_examples() {
    let verbs = verbs(&run(BINARY, &["--help"]));
    assert!(verbs.len() > 10, "{verbs:?}");
    for verb in verbs {
        let help = run(BINARY, &[&verb, "--help"]);
        let (_, examples) = help
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("{help}"));
        let example = examples.lines().next().unwrap();
        assert!(example.contains(&format!("nodetls {verb}")), "{example}");
    }
}

#[test]
fn documents_tell_of_every_verb() {
    let documents = [
        include_str!("../../README.md"),
        include_str!("../../docs/agent.md"),
        include_str!("../../docs/policies.md"),
        include_str!("../../manifests/README.md"),
    ];
    for verb in verbs(&run(BINARY, &["--help"])) {
        let told = format!("nodetls {verb}");
        assert!(documents.iter().any(|text| text.contains(&told)), "{told}");
    }
}

#[test]
fn the_plugin_has_the_verbs_that_make_sense_for_a_cluster_and_says_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = plugin(&directory);
    let help = run(&plugin, &["--help"]);
    assert!(
        help.contains("Usage: kubectl nodetls [OPTIONS] <COMMAND>"),
        "{help}"
    );
    let names = [
        "status",
        "explain",
        "connections",
        "cert",
        "check",
        "diagnose",
        "completion",
    ];
    assert_eq!(verbs(&help), names);
    for name in names {
        assert!(help.contains(&format!("kubectl nodetls {name}")) || name == "completion");
        run(&plugin, &[name, "--help"]);
    }
    let mut alone = Command::new(&plugin);
    alone.arg("status").env("PATH", directory.path());
    let output = alone.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let cure = "kubectl can't be run: install it, and have it in PATH";
    assert!(error.starts_with(&format!("error: {cure}")), "{error}");
}

/// A kubectl that answers as a cluster of two nodes does, and notes what it was asked.
const KUBECTL: &str = r#"#!/bin/sh
echo "$@" >> "$0.asked"
case "$*" in
*"get pods --selector"*)
  cat <<END
{"apiVersion": "v1", "kind": "List", "items": [
 {"metadata": {"name": "a1", "namespace": "ns"}, "spec": {"nodeName": "n1", "containers": [{"name": "agent"}]},
  "status": {"phase": "Running"}},
 {"metadata": {"name": "a2", "namespace": "ns"}, "spec": {"nodeName": "n2", "containers": [{"name": "agent"}]},
  "status": {"phase": "Running"}}]}
END
;;
*"get pod web"*) echo '{"metadata": {"name": "web", "namespace": "shop"}, "spec": {"nodeName": "n2", "containers": []}}';;
*"config view"*) echo -n shop;;
*"exec a1"*"--output json"*) echo '{"connections": []}';;
*"exec a1"*) echo "no connection is open";;
*"exec a2"*) echo "error: the agent is starting" >&2; echo "command terminated with exit code 1" >&2; exit 1;;
esac
"#;

#[test]
fn the_plugin_asks_every_node_or_the_pods_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let plugin = plugin(&directory);
    let kubectl = directory.path().join("kubectl");
    fs::write(&kubectl, KUBECTL).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&plugin);
        let output = command.args(arguments).env("PATH", &path).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    };
    let asked = || fs::read_to_string(directory.path().join("kubectl.asked")).unwrap();

    let (code, said) = run(&["connections", "--context", "c"]);
    let n1 = "node n1 (pod a1)\nno connection is open\n";
    let n2 = "node n2 (pod a2)\nerror: the agent is starting\n";
    assert_eq!((code, said), (1, format!("{n1}\n{n2}")));
    assert!(asked().contains("--context c --namespace nodetls-system exec a1 -- /nodetls connections --admin 127.0.0.1:15020"));
    let (code, said) = run(&["connections", "--node", "n1", "-o", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(said[0]["result"], serde_json::json!({"connections": []}));
    let (code, said) = run(&["explain", "web", "db:443"]);
    assert_eq!((code, said), (1, n2.to_owned()));
    assert!(
        asked().contains("exec a2 -- /nodetls explain shop/web db:443 "),
        "{}",
        asked()
    );
    run(&["cert", "db:443", "--node", "n1"]);
    assert!(
        asked().contains("exec a1 -- /nodetls cert shop/db:443 "),
        "{}",
        asked()
    );
    run(&[
        "connections",
        "--nodetls-namespace",
        "tls",
        "--kubeconfig",
        "k",
    ]);
    assert!(
        asked().contains("--kubeconfig k --namespace tls get pods "),
        "{}",
        asked()
    );
    let (code, said) = run(&["explain", "web", "db:443", "--node", "n1"]);
    assert!(
        code == 2 && said.contains("unexpected argument '--node'"),
        "{said}"
    );
    let (code, said) = run(&["status", "--node", "n3"]);
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "error: no agent runs on node n3: those with one are n1, n2\n"
    );
}

#[test]
fn completion_scripts_know_the_verbs() {
    let directory = tempfile::tempdir().unwrap();
    for program in [BINARY.to_owned(), plugin(&directory)] {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = run(&program, &["completion", shell]);
            assert!(script.contains("explain"), "{shell}");
        }
        // A shell takes it.
        let script = run(&program, &["completion", "bash"]);
        let file = directory.path().join("script");
        fs::write(&file, script).unwrap();
        run("bash", &["-n", &file.display().to_string()]);
    }
}
