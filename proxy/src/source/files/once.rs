//! Manifests read a single time, at rest: for commands that judge or use them and end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{News, Tracked, merge};
use crate::source::Update;
use crate::source::look::{Found, Look, Version, look, read_bounded};

/// Reads what `path` names: a directory, as [`super::Files`] does; one file, whatever its name (a pipe too); or, as `-`,
/// standard input. Blocks.
///
/// # Errors
/// When `path` itself can't be read. What can't be read of its content is in the update.
pub fn read_once(path: &Path) -> io::Result<Update> {
    let (dir, found) = if path == Path::new("-") {
        let bytes = read_bounded(io::stdin().lock())?;
        (Path::new(""), one("standard input".as_ref(), bytes))
    } else if fs::metadata(path)?.is_dir() {
        (path, look(path)?)
    } else {
        let bytes = read_bounded(File::open(path)?)?;
        (Path::new(""), one(path, bytes))
    };
    let read = found.into_iter().map(|(name, found)| {
        let mut file = Tracked::default();
        file.put(News::of(found, None));
        (name, file)
    });
    let files: BTreeMap<_, _> = read.collect();
    Ok(merge::update(
        dir,
        &files,
        &mut merge::Owners::new(),
        Duration::ZERO,
    ))
}

/// A look that found one file.
fn one(path: &Path, bytes: Vec<u8>) -> Look {
    let version = Version::default();
    let found = Found::Whole { bytes, version };
    Look::from([(path.as_os_str().to_owned(), found)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::policy::{ObjectName, Objects};

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

    fn dir(files: &[(&str, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn has_web(update: &Update) -> bool {
        let name = ObjectName::new("default", "web");
        update.objects.services.contains_key(&name)
    }

    #[test]
    fn a_directory() {
        let two = format!("{SERVICE}---\nkind: 5\n");
        let dir = dir(&[("a.yaml", &two), ("b.yaml", SERVICE), ("c.txt", "{")]);
        symlink("nowhere", dir.path().join("d.yaml")).unwrap();
        let update = read_once(dir.path()).unwrap();
        assert!(has_web(&update));
        let errors: Vec<_> = update.errors.iter().map(ToString::to_string).collect();
        let path = dir.path().display();
        assert_eq!(errors.len(), 3, "{errors:#?}");
        assert!(errors[0].starts_with(&format!("{path}/a.yaml, document 2: apiVersion and kind")));
        assert!(errors[1].starts_with(&format!("{path}/b.yaml, Service default/web: stands also")));
        assert!(errors[2].starts_with(&format!("{path}/d.yaml: cannot be read")));
        assert!(
            errors
                .iter()
                .all(|error| !error.contains("in force") || error.contains("b.yaml"))
        );
    }

    #[test]
    fn one_file_whatever_its_name() {
        let dir = dir(&[("manifest", SERVICE), ("bad", "{")]);
        let update = read_once(&dir.path().join("manifest")).unwrap();
        assert!(has_web(&update));
        assert_eq!(update.errors, []);
        let update = read_once(&dir.path().join("bad")).unwrap();
        assert_eq!(update.errors[0].file, dir.path().join("bad"));
        assert_eq!(update.errors[0].document, Some(1));
    }

    #[test]
    fn a_file_that_is_being_written_is_not_judged() {
        let dir = dir(&[("a.yaml", SERVICE)]);
        let _writer = File::options().append(true).open(dir.path().join("a.yaml"));
        let update = read_once(dir.path()).unwrap();
        assert!(!has_web(&update));
        assert!(update.errors[0].cause.contains("open for writing"));
    }

    #[test]
    fn nothing_there() {
        let dir = dir(&[]);
        let update = read_once(dir.path()).unwrap();
        let objects = Objects {
            ca_secrets: true,
            ..Objects::default()
        };
        assert_eq!((update.objects, update.errors), (objects, vec![]));
        let error = read_once(&dir.path().join("absent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
