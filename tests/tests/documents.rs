//! Documents name tests, files and each other's sections: these exist.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

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
    let top = Path::new(TOP);
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

fn markdown(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// What a document's headings are called in links.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|char| char.is_alphanumeric() || " -_".contains(*char));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> = ["README.md", "SECURITY.md", "ARCHITECTURE.md"]
        .map(|name| Path::new(TOP).join(name))
        .into();
    for directory in ["docs", "examples", "manifests", "tests/cluster"] {
        markdown(&Path::new(TOP).join(directory), &mut documents);
    }
    let mut links = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let (link, _) = link.split_once(')').unwrap();
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.starts_with("https://") {
                continue;
            }
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{}: {link}", document.display());
            }
            links += 1;
        }
    }
    assert!(links > 60, "{links}");
}
