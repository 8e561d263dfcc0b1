//! From `caCertificateRefs` or `wellKnownCACertificates` to the certificates to trust.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Objects;
use super::snapshot::{CaBundle, ObjectName};
use super::status::{Condition, Reason, listed, quoted};
use super::validate::{self, CaRef, Trust};

/// The key of a ConfigMap that the API prescribes.
const KEY: &str = "ca.crt";

/// Resolves CA references. Each ConfigMap is parsed once, and policies that name the same share the result.
pub(super) struct Authorities<'a> {
    config_maps: &'a BTreeMap<ObjectName, ConfigMap>,
    system: Option<&'a Arc<CaBundle>>,
    parsed: HashMap<ObjectName, Result<Arc<CaBundle>, String>>,
    unions: HashMap<Vec<ObjectName>, Arc<CaBundle>>,
}

/// What a policy's trust comes to.
pub(super) struct Resolved {
    /// The trust anchors; or condition `Accepted`, which is False.
    pub(super) roots: Result<Arc<CaBundle>, Condition>,
    /// Condition `ResolvedRefs`.
    pub(super) condition: Option<Condition>,
}

/// For each policy the usable ConfigMaps of its `caCertificateRefs`, whether or not the policy is in force.
pub(crate) fn ca_bundles(
    objects: &Objects,
) -> BTreeMap<ObjectName, Vec<(ObjectName, Arc<CaBundle>)>> {
    let mut authorities = Authorities::new(&objects.config_maps, None);
    let bundles = objects.policies.iter().map(|(name, policy)| {
        let refs = match validate::read(&policy.spec).trust {
            Some(Trust::Refs(refs)) => refs,
            Some(Trust::System) | None => Vec::new(),
        };
        let resolve = |ca_ref| authorities.resolve_ref(&name.namespace, ca_ref).ok();
        (name.clone(), refs.iter().filter_map(resolve).collect())
    });
    bundles.collect()
}

/// For each policy the ConfigMaps that its `caCertificateRefs` name, whether or not they exist.
pub(crate) fn ca_config_maps(objects: &Objects) -> BTreeMap<ObjectName, BTreeSet<ObjectName>> {
    let named = objects.policies.iter().map(|(name, policy)| {
        let refs = match validate::read(&policy.spec).trust {
            Some(Trust::Refs(refs)) => refs,
            Some(Trust::System) | None => Vec::new(),
        };
        let config_maps = refs.into_iter().filter(CaRef::is_config_map);
        let config_maps = config_maps.map(|ca_ref| ObjectName::new(&name.namespace, ca_ref.name));
        (name.clone(), config_maps.collect())
    });
    named.collect()
}

impl CaRef {
    fn is_config_map(&self) -> bool {
        self.group.is_empty() && self.kind == "ConfigMap"
    }
}

impl<'a> Authorities<'a> {
    pub(super) fn new(
        config_maps: &'a BTreeMap<ObjectName, ConfigMap>,
        system: Option<&'a Arc<CaBundle>>,
    ) -> Self {
        Self {
            config_maps,
            system,
            parsed: HashMap::new(),
            unions: HashMap::new(),
        }
    }

    pub(super) fn resolve(&mut self, namespace: &str, trust: &Trust) -> Resolved {
        match trust {
            Trust::System => self.resolve_system(),
            Trust::Refs(refs) => self.resolve_refs(namespace, refs),
        }
    }

    fn resolve_system(&self) -> Resolved {
        let Some(roots) = self.system else {
            let message = "spec.validation.wellKnownCACertificates: no system trust store on this \
                           node: install ca-certificates, or use caCertificateRefs";
            let roots = Err(Condition::new(Reason::Invalid, message));
            return Resolved {
                roots,
                condition: None,
            };
        };
        let condition = Condition::new(Reason::ResolvedRefs, "the system's trust store");
        Resolved {
            roots: Ok(roots.clone()),
            condition: Some(condition),
        }
    }

    /// The union of the usable references. The unusable ones are told of in any case.
    fn resolve_refs(&mut self, namespace: &str, refs: &[CaRef]) -> Resolved {
        let mut usable = Vec::new();
        let mut errors: Vec<Condition> = Vec::new();
        for ca_ref in refs {
            match self.resolve_ref(namespace, ca_ref) {
                Ok(bundle) => usable.push(bundle),
                Err(error) => errors.push(error),
            }
        }
        let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        let message = messages.join("; ");
        let condition = match errors.first() {
            Some(first) => Condition::new(first.reason, message.clone()),
            None => Condition::new(
                Reason::ResolvedRefs,
                "all CA certificate references are usable",
            ),
        };
        let roots = self.union(usable);
        let roots = roots.ok_or_else(|| Condition::new(Reason::NoValidCaCertificate, message));
        Resolved {
            roots,
            condition: Some(condition),
        }
    }

    /// The ConfigMap's name and content; or condition `ResolvedRefs`, which is False.
    fn resolve_ref(
        &mut self,
        namespace: &str,
        ca_ref: &CaRef,
    ) -> Result<(ObjectName, Arc<CaBundle>), Condition> {
        let CaRef { group, kind, name } = ca_ref;
        if !ca_ref.is_config_map() {
            let slash = if group.is_empty() { "" } else { "/" };
            let message = format!(
                "{group}{slash}{kind} {namespace}/{name}: this kind is not supported as a CA \
                 reference: use a ConfigMap (group \"\", kind ConfigMap)"
            );
            return Err(Condition::new(Reason::InvalidKind, message));
        }
        let name = ObjectName::new(namespace, name);
        let parsed = match self.parsed.get(&name) {
            Some(parsed) => parsed.clone(),
            None => {
                let parsed = read(&name, self.config_maps.get(&name)).map(Arc::new);
                self.parsed.insert(name.clone(), parsed.clone());
                parsed
            }
        };
        match parsed {
            Ok(bundle) => Ok((name, bundle)),
            Err(message) => Err(Condition::new(Reason::InvalidCaCertificateRef, message)),
        }
    }

    fn union(&mut self, mut usable: Vec<(ObjectName, Arc<CaBundle>)>) -> Option<Arc<CaBundle>> {
        if usable.len() < 2 {
            return usable.pop().map(|(_, bundle)| bundle);
        }
        let (names, bundles): (Vec<_>, Vec<_>) = usable.into_iter().unzip();
        let union = self.unions.entry(names).or_insert_with(|| {
            let all = bundles
                .iter()
                .flat_map(|bundle| bundle.certificates.iter().cloned());
            Arc::new(without_duplicates(all))
        });
        Some(union.clone())
    }
}

fn without_duplicates(all: impl Iterator<Item = CertificateDer<'static>>) -> CaBundle {
    let mut seen = HashSet::new();
    let certificates = all
        .filter(|certificate| seen.insert(certificate.clone()))
        .collect();
    CaBundle { certificates }
}

/// The certificates under `ca.crt`; kubectl puts a file that isn't UTF-8 (a comment in Latin-1) under `binaryData`.
fn read(name: &ObjectName, config_map: Option<&ConfigMap>) -> Result<CaBundle, String> {
    let cure = "put the PEM bundle of the CA under";
    let Some(config_map) = config_map else {
        return Err(format!(
            "ConfigMap {name} does not exist: create it, and {cure} {KEY}"
        ));
    };
    let text = config_map
        .data
        .as_ref()
        .and_then(|data| data.get(KEY))
        .map(String::as_bytes);
    let binary = || {
        config_map
            .binary_data
            .as_ref()?
            .get(KEY)
            .map(|bytes| bytes.0.as_slice())
    };
    let Some(pem) = text.or_else(binary) else {
        let keys: Vec<&String> = config_map.data.iter().flat_map(BTreeMap::keys).collect();
        let keys = listed(keys.into_iter());
        return Err(format!(
            "ConfigMap {name} has no key \"{KEY}\" (keys: {keys}): {cure} {KEY}"
        ));
    };
    certificates(pem)
        .map_err(|cause| format!("ConfigMap {name}, key \"{KEY}\" {cause}: {cure} {KEY}"))
}

/// The CERTIFICATE blocks; other blocks, such as a private key, and text between blocks are skipped. One bad block
/// spoils the bundle: whoever wrote it trusted in all of it.
fn certificates(pem: &[u8]) -> Result<CaBundle, String> {
    if pem.trim_ascii().is_empty() {
        return Err("is empty".to_owned());
    }
    let mut found = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem) {
        let number = found.len() + 1;
        let certificate = block.map_err(|error| {
            format!(
                "is malformed at certificate {number} ({})",
                quoted(&error.to_string())
            )
        })?;
        // The verifier's own parser: what passes here serves there as a trust anchor.
        webpki::anchor_from_trusted_cert(&certificate).map_err(|error| {
            format!("has a block that is not an X.509 certificate: number {number} ({error:?})")
        })?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err("has no \"-----BEGIN CERTIFICATE-----\" block".to_owned());
    }
    Ok(without_duplicates(found.into_iter()))
}
