//! The last complete objects, on the node's disk: an agent that starts while the API server is away goes on with them.
//!
//! One file: a header line with version and SHA-256 of what follows, then JSON. It holds no keys: of mirrors there is
//! only `ca.crt`. Written to a temporary file and renamed, so a reader sees the old one or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::mirror::mirrored;
use super::{Namespaces, Pods};
use crate::digest::{hex, sha256};
use crate::durable::replace;
use crate::policy::{BackendTlsPolicy, CaName, CaObject, ObjectName, Objects};

/// Its number is that of the layout: each version of nodetls has its own file, and leaves alone what an earlier one, which
/// may run again, and its boot guard read.
const FILE: &str = "objects-3";
/// What the files of all versions begin with.
const ANY: &str = "objects";

/// Before the digest in the header.
const MAGIC: &str = "nodetls-objects 3 ";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Seconds since 1970 (UTC).
    written: u64,
    services: Vec<Service>,
    endpoint_slices: Vec<EndpointSlice>,
    ca_objects: Vec<(CaName, CaObject)>,
    policies: Vec<BackendTlsPolicy>,
    pub(super) namespaces: Namespaces,
    pub(super) pods: Pods,
}

/// Why a cache is not used. Display names the cure, where there is one.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    #[error("it can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is of another version of nodetls")]
    OtherVersion,
    #[error("it is damaged: its checksum is wrong; see to the node's disk")]
    Damaged,
    #[error("it is damaged: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Kept {
    /// What is in force now.
    pub(super) fn new(objects: Objects, namespaces: Namespaces, pods: Pods) -> Self {
        Self {
            written: 0,
            services: values(objects.services),
            endpoint_slices: values(objects.endpoint_slices),
            ca_objects: objects.ca_objects.into_iter().collect(),
            policies: values(objects.policies),
            namespaces,
            pods,
        }
    }

    /// The objects as they were.
    pub(super) fn objects(self) -> Objects {
        Objects {
            services: by_name(self.services, |service| &service.metadata),
            endpoint_slices: by_name(self.endpoint_slices, |slice| &slice.metadata),
            policies: by_name(self.policies, |policy| &policy.metadata),
            ..mirrored(self.ca_objects)
        }
    }

    /// When they were in force.
    pub(super) fn written(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.written)
    }

    /// The file's content.
    pub(super) fn encode(mut self, now: SystemTime) -> Result<Vec<u8>, serde_json::Error> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        self.written = since.unwrap_or_default().as_secs();
        let body = serde_json::to_vec(&self)?;
        let mut bytes = format!("{MAGIC}{}\n", hex(&sha256(&body))).into_bytes();
        bytes.extend(body);
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CacheError> {
        let rest = bytes
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(CacheError::OtherVersion)?;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (header, body) = end
            .and_then(|end| Some((rest.get(..end)?, rest.get(end + 1..)?)))
            .ok_or(CacheError::Damaged)?;
        if header != hex(&sha256(body)).as_bytes() {
            return Err(CacheError::Damaged);
        }
        Ok(serde_json::from_slice(body)?)
    }
}

/// Reads what the last run kept; `None` if there was none.
///
/// # Errors
/// When it can't be used.
pub(super) fn read(dir: &Path) -> Result<Option<Kept>, CacheError> {
    match fs::read(path(dir)) {
        Ok(bytes) => Kept::decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Puts `bytes` in the place of what was kept before; mode 0600. Creates the directory if need be.
pub(super) fn write(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    replace(&path(dir), FILE, bytes, 0o600)
}

/// Removes what any version has kept, and the directory if that was all and it is no mount of its own.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(ANY) {
            fs::remove_file(entry.path())?;
        }
    }
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// The objects that the last run kept, if there was one.
///
/// # Errors
/// When they can't be used.
pub(crate) fn kept(dir: &Path) -> Result<Option<Objects>, CacheError> {
    Ok(read(dir)?.map(Kept::objects))
}

/// Where the objects are kept.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Puts objects back into their place.
fn by_name<T>(
    objects: Vec<T>,
    metadata: impl Fn(&T) -> &ObjectMeta,
) -> BTreeMap<ObjectName, Arc<T>> {
    let named = objects.into_iter().map(|object| {
        let meta = metadata(&object);
        let name = ObjectName::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        (name, Arc::new(object))
    });
    named.collect()
}

fn values<T: Clone>(objects: BTreeMap<ObjectName, Arc<T>>) -> Vec<T> {
    let values = objects.into_values();
    values.map(Arc::unwrap_or_clone).collect()
}
