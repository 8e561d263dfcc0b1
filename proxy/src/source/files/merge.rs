//! The objects of many files as one set.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::{FileError, Tracked, Update};
use crate::policy::{CaKind, CaName, ObjectName, Objects};

/// Kind and name of an object.
type Key = (&'static str, ObjectName);

/// The file that each object comes from.
pub(super) type Owners = BTreeMap<Key, OsString>;

const POLICY: &str = "BackendTLSPolicy";

/// The objects of all files, and every error in the order of the file names.
pub(super) fn update(
    dir: &Path,
    files: &BTreeMap<OsString, Tracked>,
    owners: &mut Owners,
    patience: Duration,
) -> Update {
    let mut errors = Vec::new();
    for (name, file) in files {
        errors.extend(file.errors(&dir.join(name), patience));
    }
    let (objects, conflicts) = merge(dir, files, owners);
    errors.extend(conflicts);
    // A stable sort: the documents of a file stay in their order.
    errors.sort_by(|a, b| a.file.cmp(&b.file));
    let policies = owners.iter().filter(|((kind, _), _)| *kind == POLICY);
    let policy_files = policies
        .map(|((_, name), file)| (name.clone(), dir.join(file)))
        .collect();
    // Each from the file whose Secret is in force.
    let secrets = owners
        .iter()
        .filter(|((kind, _), _)| *kind == CaKind::Secret.as_str());
    let secrets = secrets.filter_map(|((_, name), file)| {
        let secret = files.get(file)?.secrets.get(name)?;
        Some((name.clone(), secret.clone()))
    });
    Update {
        secrets: secrets.collect(),
        objects,
        complete: errors.is_empty(),
        errors,
        policy_files,
    }
}

/// Joins the objects of all files. One that stands in two comes from the file that had it before (`owners`), else from
/// the one that sorts first; the other file gets an error.
fn merge(
    dir: &Path,
    files: &BTreeMap<OsString, Tracked>,
    owners: &mut Owners,
) -> (Objects, Vec<FileError>) {
    let mut merge = Merge {
        dir,
        files,
        before: owners,
        owners: Owners::new(),
        errors: vec![],
    };
    let objects = Objects {
        services: merge.kind("Service", |objects| &objects.services),
        endpoint_slices: merge.kind("EndpointSlice", |objects| &objects.endpoint_slices),
        ca_objects: merge.objects(ca_key, |objects| &objects.ca_objects),
        // Who can write the directory may read it.
        ca_secrets: true,
        policies: merge.kind(POLICY, |objects| &objects.policies),
    };
    let Merge {
        owners: now,
        errors,
        ..
    } = merge;
    *owners = now;
    (objects, errors)
}

fn ca_key(ca: &CaName) -> Key {
    (ca.kind.as_str(), ca.object.clone())
}

struct Merge<'a> {
    dir: &'a Path,
    files: &'a BTreeMap<OsString, Tracked>,
    before: &'a Owners,
    owners: Owners,
    errors: Vec<FileError>,
}

impl Merge<'_> {
    fn kind<T: Clone>(
        &mut self,
        kind: &'static str,
        of: fn(&Objects) -> &BTreeMap<ObjectName, T>,
    ) -> BTreeMap<ObjectName, T> {
        self.objects(|name| (kind, name.clone()), of)
    }

    fn objects<N: Clone + Ord, T: Clone>(
        &mut self,
        key: impl Fn(&N) -> Key,
        of: fn(&Objects) -> &BTreeMap<N, T>,
    ) -> BTreeMap<N, T> {
        let mut claims: BTreeMap<&N, Vec<(&OsString, &T)>> = BTreeMap::new();
        for (file, tracked) in self.files {
            for (name, object) in of(&tracked.objects) {
                claims.entry(name).or_default().push((file, object));
            }
        }
        let mut objects = BTreeMap::new();
        for (name, mut claims) in claims {
            let key = key(name);
            let before = self.before.get(&key);
            let owner = claims
                .iter()
                .position(|(file, _)| Some(*file) == before)
                .unwrap_or(0);
            let (owner, object) = claims.remove(owner);
            for (file, _) in claims {
                self.errors.push(FileError {
                    file: self.dir.join(file),
                    document: None,
                    object: Some(format!("{} {}", key.0, key.1)),
                    cause: format!(
                        "stands also in {}, which stays in force; remove one of the two",
                        self.dir.join(owner).display()
                    ),
                });
            }
            objects.insert(name.clone(), object.clone());
            self.owners.insert(key, owner.clone());
        }
        objects
    }
}
