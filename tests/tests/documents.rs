//! Documents name tests: these exist.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

/// All sources of tests, as one text.
fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn tests_named_in_documents_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for directory in ["tests/tests", "tests/e2e/tests", "proxy/src"] {
        sources(&top.join(directory), &mut text);
    }
    let mut named = 0;
    for document in ["docs/redirection.md", "docs/troubleshooting.md"] {
        let document = fs::read_to_string(top.join(document)).unwrap();
        for line in document.lines().filter(|line| line.starts_with("| ")) {
            let shown_by = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            for name in shown_by.split('`').skip(1).step_by(2) {
                let function = text.contains(&format!("fn {name}("));
                let row = text.contains(&format!("name: \"{name}\""));
                assert!(function || row, "{name}: {line}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named}");
}
