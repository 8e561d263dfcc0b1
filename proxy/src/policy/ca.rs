//! From `caCertificateRefs` or `wellKnownCACertificates` to the certificates to trust.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use super::snapshot::{CaBundle, ObjectName};
use super::status::{Condition, Reason, listed};
use super::validate::{self, CaRef, Trust};
use super::{BackendTlsPolicy, CaKind, CaName, CaObject, Objects};

/// How an installation allows Secrets.
pub(crate) const ALLOW_SECRETS: &str =
    "nodetls controller --ca-secrets, component manifests/components/secrets";

/// Resolves CA references. Each object is parsed once, and policies that name the same share the result.
#[derive(Default)]
pub(super) struct Authorities {
    parsed: HashMap<CaName, Result<Arc<CaBundle>, String>>,
    unions: HashMap<Vec<CaName>, Arc<CaBundle>>,
}

/// What a policy's trust comes to.
pub(super) struct Resolved {
    /// The trust anchors; or condition `Accepted`, which is False.
    pub(super) roots: Result<Arc<CaBundle>, Condition>,
    /// Condition `ResolvedRefs`.
    pub(super) condition: Option<Condition>,
}

/// For each policy the usable objects of its `caCertificateRefs`, whether or not the policy is in force.
pub(crate) fn ca_bundles(objects: &Objects) -> BTreeMap<ObjectName, Vec<(CaName, Arc<CaBundle>)>> {
    let mut authorities = Authorities::default();
    let bundles = objects.policies.iter().map(|(name, policy)| {
        let refs = ca_refs(name, policy);
        let resolve = |ca_ref| {
            authorities
                .resolve_ref(&name.namespace, ca_ref, objects)
                .ok()
        };
        (name.clone(), refs.iter().filter_map(resolve).collect())
    });
    bundles.collect()
}

/// For each policy the objects that its `caCertificateRefs` may name, and do, whether or not they exist.
pub(crate) fn ca_names(objects: &Objects) -> BTreeMap<ObjectName, BTreeSet<CaName>> {
    let named = objects.policies.iter().map(|(name, policy)| {
        let refs = ca_refs(name, policy).into_iter();
        let named = refs.filter_map(|ca_ref| ca_ref.named_in(&name.namespace));
        let allowed = named.filter(|named| objects.ca_secrets || named.kind != CaKind::Secret);
        (name.clone(), allowed.collect())
    });
    named.collect()
}

fn ca_refs(name: &ObjectName, policy: &BackendTlsPolicy) -> Vec<CaRef> {
    match validate::read(&name.namespace, &policy.spec).trust {
        Some(Trust::Refs(refs)) => refs,
        Some(Trust::System) | None => Vec::new(),
    }
}

impl CaRef {
    /// What it names; `None` for a kind that is not supported.
    pub(super) fn named_in(&self, namespace: &Arc<str>) -> Option<CaName> {
        let kind = CaKind::referenced(&self.group, &self.kind)?;
        let namespace = match kind.is_cluster_scoped() {
            true => "".into(),
            false => Arc::clone(namespace),
        };
        let name = Arc::clone(&self.name);
        let object = ObjectName { namespace, name };
        Some(CaName { kind, object })
    }
}

impl Authorities {
    /// These objects are others now.
    pub(super) fn forget(&mut self, changed: &BTreeSet<CaName>) {
        self.parsed.retain(|name, _| !changed.contains(name));
        let others = |names: &Vec<CaName>| !names.iter().any(|name| changed.contains(name));
        self.unions.retain(|names, _| others(names));
    }

    /// Keeps what policies share, and nothing else.
    pub(super) fn forget_unused(&mut self) {
        let shared = |bundle: &Arc<CaBundle>| Arc::strong_count(bundle) > 1;
        self.unions.retain(|_, bundle| shared(bundle));
        self.parsed
            .retain(|_, parsed| parsed.as_ref().is_ok_and(shared));
    }

    /// The union of the usable references. The unusable ones are told of in any case.
    pub(super) fn resolve(
        &mut self,
        namespace: &Arc<str>,
        refs: &[CaRef],
        objects: &Objects,
    ) -> Resolved {
        let mut usable = Vec::new();
        let mut errors: Vec<Condition> = Vec::new();
        for ca_ref in refs {
            match self.resolve_ref(namespace, ca_ref, objects) {
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

    /// The object's name and content; or condition `ResolvedRefs`, which is False.
    fn resolve_ref(
        &mut self,
        namespace: &Arc<str>,
        ca_ref: &CaRef,
        objects: &Objects,
    ) -> Result<(CaName, Arc<CaBundle>), Condition> {
        let invalid_kind = |message| Condition::new(Reason::InvalidKind, message);
        let CaRef { group, kind, name } = ca_ref;
        let Some(named) = ca_ref.named_in(namespace) else {
            let slash = if group.is_empty() { "" } else { "/" };
            return Err(invalid_kind(format!(
                "{group}{slash}{kind} {namespace}/{name}: this kind is not supported as a CA \
                 reference: use a ConfigMap (group \"\", kind ConfigMap)"
            )));
        };
        if named.kind == CaKind::Secret && !objects.ca_secrets {
            return Err(invalid_kind(format!(
                "{named}: this installation takes no CA certificates from Secrets: allow it \
                 ({ALLOW_SECRETS}), or use a ConfigMap"
            )));
        }
        let parsed = match self.parsed.get(&named) {
            Some(parsed) => parsed.clone(),
            None => {
                let parsed = read(&named, objects.ca_objects.get(&named)).map(Arc::new);
                self.parsed.insert(named.clone(), parsed.clone());
                parsed
            }
        };
        match parsed {
            Ok(bundle) => Ok((named, bundle)),
            Err(message) => Err(Condition::new(Reason::InvalidCaCertificateRef, message)),
        }
    }

    fn union(&mut self, mut usable: Vec<(CaName, Arc<CaBundle>)>) -> Option<Arc<CaBundle>> {
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

pub(super) fn resolve_system(system: Option<&Arc<CaBundle>>) -> Resolved {
    let Some(roots) = system else {
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

fn without_duplicates(all: impl Iterator<Item = CertificateDer<'static>>) -> CaBundle {
    let mut seen = HashSet::new();
    let certificates = all
        .filter(|certificate| seen.insert(certificate.clone()))
        .collect();
    CaBundle { certificates }
}

fn read(name: &CaName, object: Option<&CaObject>) -> Result<CaBundle, String> {
    let place = name.kind.place();
    let cure = format!("put the PEM bundle of the CA under {place}");
    let Some(object) = object.filter(|object| !object.absent) else {
        let unserved = match name.kind {
            CaKind::ClusterTrustBundle => ", or is not served (certificates.k8s.io/v1beta1)",
            CaKind::ConfigMap | CaKind::Secret => "",
        };
        return Err(format!(
            "{name} does not exist{unserved}: create it, and {cure}"
        ));
    };
    let Some(pem) = &object.pem else {
        let keys = match name.kind {
            CaKind::ConfigMap => format!(" (keys: {})", listed(object.keys.iter())),
            CaKind::Secret | CaKind::ClusterTrustBundle => String::new(),
        };
        return Err(format!("{name} has no key \"{place}\"{keys}: {cure}"));
    };
    certificates(&pem.0).map_err(|cause| format!("{name}, key \"{place}\" {cause}: {cure}"))
}

/// What is wrong with a PEM block. Nothing is quoted: of a Secret, it could be a key.
fn fault(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its \"-----END\" line is missing",
        pem::Error::IllegalSectionStart { .. } => {
            "its \"-----BEGIN\" line does not end with \"-----\""
        }
        pem::Error::Base64Decode(_) => "it is not base64",
        _ => "it is not PEM",
    }
}

/// The CERTIFICATE blocks; other blocks, such as a private key, and text between blocks are skipped. One bad block
/// spoils the bundle: whoever wrote it trusted in all of it.
pub(crate) fn certificates(pem: &[u8]) -> Result<CaBundle, String> {
    if pem.trim_ascii().is_empty() {
        return Err("is empty".to_owned());
    }
    let mut found = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem) {
        let number = found.len() + 1;
        let certificate = block
            .map_err(|error| format!("is malformed at certificate {number} ({})", fault(&error)))?;
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
