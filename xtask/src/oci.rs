//! OCI image archives, as `ctr images import` takes them, without a registry or a daemon.
//!
//! Format: OCI image specification 1.1, image-layout.md, image-index.md, manifest.md and config.md.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::sh;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Of a processor, as images, Go and Debian name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// That of this machine.
    pub(crate) const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust and GCC name it.
    pub(crate) fn of_compilers(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// An image of one layer. The same files make the same bytes.
pub(crate) struct Image {
    name: String,
    arch: Arch,
    /// The member `config` of the image's configuration: Entrypoint, Cmd, Env, User.
    config: Value,
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Directory { mode: u32 },
    File { contents: Vec<u8>, mode: u32 },
}

impl Image {
    /// An empty one, for machines like this one; `name` is whole, with registry and tag.
    pub(crate) fn new(name: &str, config: Value) -> Self {
        Self::for_arch(Arch::HERE, name, config)
    }

    /// The same for others.
    pub(crate) fn for_arch(arch: Arch, name: &str, config: Value) -> Self {
        Self {
            name: name.to_owned(),
            arch,
            config,
            entries: BTreeMap::new(),
        }
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.entries.insert(path.into(), Entry::Directory { mode });
    }

    /// Adds a text file.
    pub(crate) fn text(&mut self, path: &str, text: &str) {
        let contents = text.as_bytes().to_vec();
        self.entries.insert(
            path.into(),
            Entry::File {
                contents,
                mode: 0o644,
            },
        );
    }

    /// Adds this machine's file `from` as the executable `path`.
    pub(crate) fn executable(&mut self, path: impl Into<PathBuf>, from: &Path) -> Result<()> {
        let contents = fs::read(from).with_context(|| from.display().to_string())?;
        self.entries.insert(
            path.into(),
            Entry::File {
                contents,
                mode: 0o755,
            },
        );
        Ok(())
    }

    /// Adds this machine's program `from`, and the libraries that it is linked with where they are here.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let ldd = sh::output(sh::command("ldd", "").arg(from))?;
        for library in ldd.split_whitespace().filter(|word| word.starts_with('/')) {
            self.executable(library, Path::new(library))?;
        }
        self.executable(path, from)
    }

    /// Writes the archive to `file`; returns the manifest's digest, by which containerd tells images apart.
    pub(crate) fn write(self, file: &Path) -> Result<String> {
        let layer = archive(&self.entries)?;
        let config = serde_json::to_vec(&json!({
            "architecture": self.arch.name(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }))?;
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let name = digest(&manifest);

        let mut files = BTreeMap::new();
        let mut put = |path: String, contents: Vec<u8>| {
            files.insert(
                path.into(),
                Entry::File {
                    contents,
                    mode: 0o644,
                },
            );
        };
        put(
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        put("index.json".into(), serde_json::to_vec(&index)?);
        for blob in [layer, config, manifest] {
            put(format!("blobs/{}", digest(&blob).replace(':', "/")), blob);
        }
        let mut output = File::create(file).with_context(|| file.display().to_string())?;
        output.write_all(&archive(&files)?)?;
        Ok(name)
    }
}

/// A tar archive in which all belongs to root and is of 1970.
fn archive(entries: &BTreeMap<PathBuf, Entry>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let (kind, mode, contents) = match entry {
            Entry::Directory { mode } => (tar::EntryType::Directory, mode, &[][..]),
            Entry::File { contents, mode } => (tar::EntryType::Regular, mode, &contents[..]),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(*mode);
        header.set_size(contents.len() as u64);
        let path = path.strip_prefix("/").unwrap_or(path);
        archive.append_data(&mut header, path, contents)?;
    }
    Ok(archive.into_inner()?)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(blob))
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| format!("{byte:02x}");
    Sha256::digest(bytes).iter().map(digits).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<_>>| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), contents)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn an_archive_leads_from_its_index_to_the_layers_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name| {
            let mut image = Image::new("nodetls.test/a:1", json!({"Cmd": ["/bin/sh"]}));
            image.text("/etc/passwd", "root");
            image.directory("/tmp", 0o1777);
            image.program("/bin/sh", Path::new("/bin/sh")).unwrap();
            let file = directory.path().join(name);
            let digest = image.write(&file).unwrap();
            (fs::read(file).unwrap(), digest)
        };
        let (archive, digest) = write("one.tar");
        assert!(archive == write("two.tar").0, "the same files, other bytes");

        let files_of = files(&archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let blob = &files_of[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(digest, format!("sha256:{}", hex(blob)));
            assert_eq!(descriptor["size"], blob.len());
            blob
        };
        let parse = |json: &[u8]| -> Value { serde_json::from_slice(json).unwrap() };
        let index = parse(&files_of["index.json"]);
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest = parse(blob(&index["manifests"][0]));
        let config = parse(blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["Cmd"][0], "/bin/sh");

        let layer = files(layer);
        assert_eq!(layer["etc/passwd"], b"root");
        assert!(layer["bin/sh"] == fs::read("/bin/sh").unwrap());
        let libc = |path: &String| path.contains("libc.so");
        assert!(layer.keys().any(libc), "{:?}", layer.keys());
    }
}
