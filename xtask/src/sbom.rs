//! What an image of nodetls is made of, for those who look for vulnerable versions: CycloneDX 1.5, in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::oci::{Arch, hex};
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

/// Adds what is no crate: the C library, which is linked too, and the CA certificates; with the versions of Debian's or
/// Ubuntu's packages, where they come from such.
///
/// # Errors
/// What dpkg-query says.
pub(crate) fn add_debian(
    document: &mut Value,
    arch: Arch,
    path: &str,
    certificates: &[u8],
) -> Result<()> {
    let library = match arch {
        Arch::HERE => "libc6-dev".to_owned(),
        other => format!("libc6-dev-{}-cross", other.name()),
    };
    let mut glibc = json!({"type": "library", "bom-ref": "glibc", "name": "glibc",
        "licenses": [{"license": {"id": "LGPL-2.1-or-later"}}]});
    let mut bundle = json!({"type": "file", "bom-ref": path, "name": path,
        "hashes": [{"alg": "SHA-256", "content": hex(certificates)}],
        "licenses": [{"license": {"id": "MPL-2.0"}}]});
    if sh::find("dpkg-query").is_some() {
        for (component, package) in [
            (&mut glibc, library.as_str()),
            (&mut bundle, "ca-certificates"),
        ] {
            let (version, purl) = package_of(package)?;
            component["version"] = version.into();
            component["purl"] = purl.into();
        }
    }
    let components = document["components"].as_array_mut();
    components.context("components")?.extend([glibc, bundle]);
    Ok(())
}

/// A package's version and its purl.
fn package_of(package: &str) -> Result<(String, String)> {
    let mut query = sh::command("dpkg-query", "--show --showformat ${Version}");
    let version = sh::output(query.arg(package))?;
    let os = fs::read_to_string("/etc/os-release")?;
    let id = os.lines().find_map(|line| line.strip_prefix("ID="));
    let purl = format!("pkg:deb/{}/{package}@{version}", id.unwrap_or("debian"));
    Ok((version, purl))
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
    #![allow(clippy::unwrap_used, clippy::panic)]
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

    #[test]
    fn what_is_no_crate_is_there_too() {
        let mut document = json!({"components": []});
        add_debian(&mut document, Arch::HERE, "/bundle", b"").unwrap();
        let [glibc, bundle] = document["components"].as_array().unwrap().as_slice() else {
            panic!("{document}");
        };
        assert_eq!(glibc["name"], "glibc");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(bundle["hashes"][0]["content"], empty);
        let purl = glibc["purl"].as_str().unwrap_or("pkg:deb/");
        assert!(purl.starts_with("pkg:deb/"), "{purl}");
    }
}
