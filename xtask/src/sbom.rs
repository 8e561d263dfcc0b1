//! What a binary of nodetls is made of, for those who look for vulnerable versions: CycloneDX 1.5, in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::sh;

/// The crates that cargo resolves for `target` and links, with the checksums of Cargo.lock.
///
/// # Errors
/// What cargo says.
pub(crate) fn of_nodetls(target: &str) -> Result<Value> {
    let tree = "tree --locked --package nodetls --edges normal,no-proc-macro --prefix none --no-dedupe --target";
    let tree = sh::output(sh::cargo(tree).args([target, "--format", "{p}|{l}"]))?;
    let lock = fs::read_to_string(sh::top().join("Cargo.lock"))?;
    document(&tree, &checksums(&lock))
}

fn document(tree: &str, checksums: &BTreeMap<(&str, &str), &str>) -> Result<Value> {
    let lines: BTreeSet<&str> = tree.lines().collect();
    let mut components = Vec::new();
    let mut own = None;
    for line in lines {
        let (package, license) = line.split_once('|').with_context(|| line.to_owned())?;
        let mut words = package.split(' ');
        let name = words.next().unwrap_or_default();
        let version = words.next().unwrap_or_default().trim_start_matches('v');
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            // Old packages separate alternatives so.
            "licenses": [{"expression": license.replace('/', " OR ")}],
        });
        match checksums.get(&(name, version)) {
            Some(checksum) => {
                component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
                components.push(component);
            }
            None if name == "nodetls" => {
                component["type"] = "application".into();
                own = Some(component);
            }
            // Of this workspace.
            None => components.push(component),
        }
    }
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": own.context("cargo tree does not show nodetls")?},
        "components": components,
    }))
}

/// By name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let packages = lock.split("[[package]]").skip(1);
    let checksum = |package| {
        let value = |key: &str| -> Option<&str> {
            let mut lines = str::lines(package);
            lines.find_map(|line| {
                line.strip_prefix(key)?
                    .strip_prefix(" = \"")?
                    .strip_suffix('"')
            })
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    packages.filter_map(checksum).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_that_is_linked_is_there_with_license_and_checksum() {
        let document = of_nodetls("x86_64-unknown-linux-gnu").unwrap();
        assert_eq!(document["metadata"]["component"]["name"], "nodetls");
        let components = document["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|one| one["name"] == name);
        for name in ["rustls", "aws-lc-sys", "tokio", "aya", "kube-client"] {
            let component = find(name).unwrap();
            let purl = component["purl"].as_str().unwrap();
            assert!(purl.starts_with(&format!("pkg:cargo/{name}@")), "{purl}");
            assert_eq!(
                component["hashes"][0]["content"].as_str().unwrap().len(),
                64
            );
        }
        // Programs that only build it, and tests.
        assert!(find("syn").is_none() && find("proptest").is_none());
        for component in components {
            let license = component["licenses"][0]["expression"].as_str().unwrap();
            assert!(!license.is_empty() && !license.contains('/'), "{component}");
        }
    }
}
