//! Where Kubernetes objects come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::identity::TlsSecret;
use crate::policy::{ObjectName, Objects};

mod files;
pub mod kube;
mod look;
pub(crate) mod manifest;

use self::kube::Kube;
pub use files::{Files, read_once};

/// One of them.
pub enum Source {
    /// A directory of manifests.
    Files(Box<Files>),
    /// A cluster.
    Kube(Kube),
}

impl Source {
    /// Waits until something is other than before. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Update {
        match self {
            Self::Files(files) => files.next().await,
            Self::Kube(kube) => kube.next().await,
        }
    }
}

/// The objects as they are now, and what could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Every object in force.
    pub objects: Objects,
    /// What the Secrets of manifests have for client certificates. A cluster's are watched elsewhere
    /// ([`Keeper`](crate::identity::Keeper)).
    pub secrets: BTreeMap<ObjectName, TlsSecret>,
    /// What was refused, in the order of the file names.
    pub errors: Vec<FileError>,
    /// False when some may be missing that were in force before: something can't be read, or they are the last run's.
    pub complete: bool,
    /// The file that each policy comes from.
    pub policy_files: BTreeMap<ObjectName, PathBuf>,
}

/// Something in a directory of manifests that was refused. Display is one line that names the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file; or the directory, when that can't be read.
    pub file: PathBuf,
    /// The document in it, from 1; empty documents don't count.
    pub document: Option<usize>,
    /// `Kind namespace/name`, when the document says so much.
    pub object: Option<String>,
    /// What is wrong, and what follows from it.
    pub cause: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ", {object}")?;
        }
        // Parsers speak in several lines.
        let words: Vec<&str> = self.cause.split_whitespace().collect();
        write!(f, ": {}", words.join(" "))
    }
}

impl std::error::Error for FileError {}
