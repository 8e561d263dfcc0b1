//! examples/first-contact, as its README has it, but for the images: this cluster has no registry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nodetls_e2e::{KUBECTL, kubectl, text, until};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/first-contact");
const IMAGES: [(&str, &str); 2] = [
    ("nginx:stable", "nodetls.test/nginx:1"),
    ("curlimages/curl:latest", "nodetls.test/client:1"),
];

struct Demo;

impl Drop for Demo {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", "nodetls-demo", "--ignore-not-found"]);
    }
}

/// The README's commands, in their order.
fn commands() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(EXAMPLE).join("README.md")).unwrap();
    let commands = readme
        .lines()
        .filter_map(|line| line.strip_prefix("kubectl "));
    commands.map(str::to_owned).collect()
}

fn run(command: &str) -> String {
    let output = Command::new(KUBECTL)
        .args(command.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn plaintext_before_and_tls_after() {
    let commands = commands();
    let [
        apply,
        rollout,
        wait,
        plain,
        annotate,
        ask,
        describe,
        _status,
    ] = &commands[..]
    else {
        panic!("{commands:?}");
    };
    let path = "examples/first-contact/demo.yaml";
    let mut demo = fs::read_to_string(Path::new(EXAMPLE).join("demo.yaml")).unwrap();
    for (image, here) in IMAGES {
        assert_eq!(demo.matches(image).count(), 1);
        demo = demo.replace(image, here);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("first-contact.yaml");
    fs::write(&file, demo).unwrap();
    let _demo = Demo;
    let start = Instant::now();
    run(&apply.replace(path, &file.display().to_string()));
    run(rollout);
    run(wait);
    until("nginx refuses plaintext", || {
        let answer = run(plain);
        let refused = answer.contains("The plain HTTP request was sent to HTTPS port");
        refused.then_some(()).ok_or(answer)
    });
    run(annotate);
    until("the same request goes by TLS", || {
        let answer = run(ask);
        let secured = answer.starts_with("hello by TLSv1.3, for web.demo.example, to ");
        secured.then_some(()).ok_or(answer)
    });
    let took = start.elapsed();
    println!("from the example to its proof: {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    until("the status says so", || {
        let described = run(describe);
        let accepted = described.contains("nodetls.io/controller");
        accepted.then_some(()).ok_or(described)
    });
}
