//! The agent's page in a real browser, by port-forward, as its users have it, and `nodetls status` in a terminal's stead.
//! With `NODETLS_BLESS=1` the pictures in the documents are taken anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use nodetls_e2e::{KUBECTL, Namespace, nodetls, on_node, text, until, wait};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
const PORT: &str = "15029";
const BROWSER: [&str; 8] = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    // The page asks for its figures when it is loaded.
    "--virtual-time-budget=3000",
];

/// `kubectl port-forward` to the agent of node1; it listens in the network namespace of that node.
struct Forward(Child);

impl Forward {
    fn start() -> Self {
        let agent = nodetls::agent("node1");
        let ports = format!("{PORT}:15020");
        let mut forward = Command::new(KUBECTL);
        forward.args([
            "--namespace",
            nodetls::NAMESPACE,
            "port-forward",
            &agent,
            &ports,
        ]);
        let child = forward.stdout(Stdio::null()).spawn().unwrap();
        let ready = format!("http://127.0.0.1:{PORT}/healthz/ready");
        wait("the port is forwarded", || {
            let mut curl = on_node("node1", &["curl", "-sf", &ready]);
            curl.output().unwrap().status.success()
        });
        Self(child)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the browser on a page, with a profile of its own.
fn browse(page: &str, more: &[&str]) -> String {
    let profile = tempfile("profile");
    let _ = fs::remove_dir_all(&profile);
    let profile = format!("--user-data-dir={}", profile.display());
    let command = [&BROWSER[..], &[&profile], more, &[page]].concat();
    let output = on_node("node1", &command).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A picture of a page, of so many pixels; with `NODETLS_BLESS` for the documents.
fn picture(page: &str, name: &str, size: &str) {
    let picture = tempfile(name);
    let file = format!("--screenshot={}", picture.display());
    let size = format!("--window-size={size}");
    browse(page, &[&file, &size, "--hide-scrollbars"]);
    let taken = fs::read(&picture).unwrap();
    assert!(taken.starts_with(b"\x89PNG") && taken.len() > 10_000);
    let document = Path::new(DOCS).join(name);
    if env::var_os("NODETLS_BLESS").is_some() {
        fs::write(&document, taken).unwrap();
    }
    assert!(document.exists());
}

/// What a command prints, as a page.
fn terminal(command: &str, said: &str) -> String {
    let said = said.replace('&', "&amp;").replace('<', "&lt;");
    let style =
        "margin: 0; padding: 1em; background: #1e1e1e; color: #ddd; font: 13px/1.4 monospace";
    let page = format!("<meta charset=utf-8><body style='{style}'><pre>$ {command}\n{said}</pre>");
    let file = tempfile("terminal.html");
    fs::write(&file, page).unwrap();
    format!("file://{}", file.display())
}

fn tempfile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-page-{name}"))
}

#[test]
fn a_browser_shows_the_node_at_a_glance() {
    let namespace = Namespace::with_backend("e2e-admin-page");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", "http://server/");
    // Another Service, whose policy is refused.
    namespace.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: broken}\nspec: {selector: {app: server}, ports: [{port: 80, \
         targetPort: 8443}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: \
         broken}\nspec:\n  targetRefs: [{group: '', kind: Service, name: broken}]\n  validation: {hostname: \
         a.example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: absent}]}\n",
    );
    wait("plaintext to it is refused", || {
        namespace.curl("client", &["http://broken/"]).status == 503
    });
    let _forward = Forward::start();
    let page = format!("http://localhost:{PORT}/");
    until("the page has all of it", || {
        let page = browse(&page, &["--dump-dom"]);
        let shows = [
            "e2e-admin-page/server:80",
            "server.example.com",
            "e2e-admin-page/broken:80",
            "NoValidCACertificate",
            "policy_refused",
            "Last errors",
            "ConfigMap e2e-admin-page/absent does not exist",
            "Certificates, by expiry",
            "pods redirected",
        ];
        match shows.iter().find(|text| !page.contains(**text)) {
            None => Ok(()),
            Some(missing) => Err(format!("no {missing} in {page}")),
        }
    });
    picture(&page, "admin.png", "1100,1100");
    let said = nodetls::status("node1");
    assert!(said.contains("e2e-admin-page/server"), "{said}");
    // The last line is kubectl's.
    let said = said.split("command terminated").next().unwrap();
    picture(&terminal("nodetls status", said), "status.png", "1300,850");
}
