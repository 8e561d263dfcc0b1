//! The image as other tools take it: skopeo, and a registry.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nodetls_e2e::{text, until};
use serde_json::Value;

const README: &str = include_str!("../../../manifests/README.md");
/// What `cargo xtask cluster install` has built.
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/image");

struct Registry {
    program: Child,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("registry");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let storage = directory.display();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {storage}/blobs}}}}\nhttp: {{addr: '{address}'}}\n"
        );
        let file = directory.join("config.yaml");
        fs::write(&file, config).unwrap();
        let mut program = Command::new("docker-registry");
        program.arg("serve").arg(file).stdout(Stdio::null());
        let log = fs::File::create(directory.join("log")).unwrap();
        let program = program.stderr(log).spawn().unwrap();
        Self { program, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn skopeo(arguments: &str) -> Result<String, String> {
    let mut skopeo = Command::new("skopeo");
    let output = skopeo
        .args(arguments.split(' '))
        .current_dir(IMAGES)
        .output();
    let output = output.unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(text(&output)),
    }
}

fn json(arguments: &str) -> Value {
    serde_json::from_str(&skopeo(arguments).unwrap()).unwrap()
}

#[test]
fn a_registry_takes_the_archive_as_the_readme_has_it() {
    let registry = Registry::start();
    let (_, command) = README.split_once("`skopeo copy ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let copy = command.replace("registry.example.com", &registry.address);
    let (from, to) = copy.split_once(' ').unwrap();
    until("it is in the registry", || {
        // This one has no certificate.
        skopeo(&format!("copy --dest-tls-verify=false {copy}"))
    });
    // Layers are compressed on the way; the configuration names what is in them.
    let there = json(&format!("inspect --raw --tls-verify=false {to}"));
    let here = json(&format!("inspect --raw {from}"));
    assert_eq!(there["config"]["digest"], here["config"]["digest"]);
    let config = json(&format!("inspect --tls-verify=false --config {to}"));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/nodetls");
}
