//! Reads `spec` by the rules of the CRD (schema and CEL), since nobody checks files, and by a few more for what the CRD
//! lets through. Every mistake is noted, and what can be read in spite of it is given, so that it can be refused.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Node, Problems};
use super::snapshot::{CaBundle, ObjectName, Origination, SubjectAltName};
use super::{Options, ValidationMode, options, rules, status::quoted};

/// How an installation allows less than full verification.
pub(crate) const ALLOW_INSECURE: &str = "--allow-insecure-validation of agent and controller, component \
     manifests/components/insecure-validation";

/// A spec as far as it can be read. It is valid if `problems` is empty, and only then complete.
#[derive(Default)]
pub(super) struct Spec {
    /// The targetRefs of kind Service.
    pub(super) targets: Vec<TargetRef>,
    pub(super) hostname: String,
    pub(super) subject_alt_names: Vec<SubjectAltName>,
    /// None when it can't be read.
    pub(super) trust: Option<Trust>,
    pub(super) options: Options,
    pub(super) problems: Problems,
}

impl Spec {
    /// For an installation that does not allow it.
    pub(super) fn forbid_insecure_validation(&mut self) {
        let mode = self.options.validation_mode;
        if mode != ValidationMode::Standard {
            self.problems.push(format!(
                "spec.options[\"nodetls.io/validation-mode\"]: this installation does not allow {}: allow it \
                 ({ALLOW_INSECURE}), or have the server present a certificate that can be verified",
                mode.as_str()
            ));
        }
    }

    /// What a valid spec asks for, with these trust anchors.
    pub(super) fn origination(self, roots: Arc<CaBundle>) -> Origination {
        Origination {
            hostname: self.hostname,
            subject_alt_names: self.subject_alt_names,
            roots,
            options: self.options,
        }
    }
}

/// A Service of the policy's namespace, or one port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetRef {
    pub(super) service: ObjectName,
    pub(super) section: Option<String>,
}

/// Who signs the server's certificate.
pub(super) enum Trust {
    /// `wellKnownCACertificates: System`.
    System,
    /// `caCertificateRefs`, at least one.
    Refs(Vec<CaRef>),
}

/// An entry of `caCertificateRefs`.
pub(super) struct CaRef {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: Arc<str>,
}

/// Reads the `spec` of a BackendTLSPolicy in this namespace.
pub(super) fn read(namespace: &Arc<str>, spec: &Value) -> Spec {
    let mut problems = Problems::new();
    let spec = Node::root("spec", spec);
    if spec.is_object(&mut problems) {
        return read_object(namespace, &spec, problems);
    }
    Spec {
        problems,
        ..Spec::default()
    }
}

fn read_object(namespace: &Arc<str>, spec: &Node, mut problems: Problems) -> Spec {
    let targets = targets(namespace, &spec.get("targetRefs"), &mut problems);
    let validation = spec.get("validation");
    let known = validation.is_object(&mut problems);
    let mut noted = Problems::new();
    let hostname = validation
        .get("hostname")
        .required(
            "the DNS name for SNI and for the certificate",
            rules::hostname,
            &mut noted,
        )
        .unwrap_or_default()
        .to_owned();
    let trust = trust(&validation, &mut noted);
    let subject_alt_names = subject_alt_names(&validation.get("subjectAltNames"), &mut noted);
    if known {
        problems.append(&mut noted); // else it is enough to say that `validation` itself is wrong
    }
    let options = options::read(&spec.get("options"), &mut problems);
    Spec {
        targets,
        hostname,
        subject_alt_names,
        trust,
        options,
        problems,
    }
}

/// The Services among the targetRefs. Whatever else is wrong with an entry, if it has a name it is a target, so that
/// it is refused; an unreadable group or kind stands for a Service, an unreadable sectionName for all its ports.
fn targets(namespace: &Arc<str>, refs: &Node, problems: &mut Problems) -> Vec<TargetRef> {
    let entries = refs.list(16, problems);
    if entries.is_empty() && refs.absent() {
        refs.wrong(problems, "required, and missing: name the Service");
    } else if entries.is_empty() && refs.value.is_array() {
        refs.wrong(problems, "must not be empty: name the Service");
    }
    let mut seen: Vec<Target> = Vec::new();
    for entry in &entries {
        let Some(target) = target(entry, problems) else {
            continue;
        };
        let same = |other: &&Target| other.object() == target.object();
        if let Some(other) = seen.iter().find(same)
            && other.section.is_some() != target.section.is_some()
        {
            let what = "must be set in every reference to the same target, or in none";
            entry.get("sectionName").wrong(problems, what);
        }
        if seen
            .iter()
            .filter(same)
            .any(|other| other.section == target.section)
        {
            entry.get("sectionName").wrong(
                problems,
                "must be set and unique when several references have the same target",
            );
        }
        seen.push(target);
    }
    let ours = seen
        .into_iter()
        .filter(|t| t.group.is_empty() && t.kind == "Service");
    ours.map(|t| TargetRef {
        service: ObjectName {
            namespace: Arc::clone(namespace),
            name: t.name.into(),
        },
        section: t.section,
    })
    .collect()
}

/// A targetRef of any kind.
struct Target<'a> {
    group: &'a str,
    kind: &'a str,
    name: &'a str,
    section: Option<String>,
}

impl Target<'_> {
    fn object(&self) -> (&str, &str, &str) {
        (self.group, self.kind, self.name)
    }
}

fn target<'a>(entry: &Node<'_, 'a>, problems: &mut Problems) -> Option<Target<'a>> {
    if !entry.is_object(problems) {
        return None;
    }
    let (group, kind) = (entry.get("group"), entry.get("kind"));
    let (name, section) = (entry.get("name"), entry.get("sectionName"));
    group.required("write group: \"\" for a Service", rules::group, problems);
    if group.value == "core" {
        group.wrong(
            problems,
            "\"core\" is no group: write group: \"\" for a Service",
        );
    }
    kind.required("write kind: Service", rules::kind, problems);
    name.required("the name of the Service", rules::object_name, problems);
    section.optional(rules::subdomain, problems);
    Some(Target {
        group: group
            .value
            .as_str()
            .filter(|group| *group != "core")
            .unwrap_or_default(),
        kind: kind.value.as_str().unwrap_or("Service"),
        name: name.value.as_str()?,
        section: match section.value {
            Value::String(name) if !name.is_empty() => Some(name.clone()),
            Value::Number(port) => Some(port.to_string()), // refused, but on its port only
            _ => None,
        },
    })
}

fn trust(validation: &Node, problems: &mut Problems) -> Option<Trust> {
    let (refs, well_known) = (
        validation.get("caCertificateRefs"),
        validation.get("wellKnownCACertificates"),
    );
    let entries = refs.list(8, problems);
    let count = entries.len();
    let ca_refs: Vec<CaRef> = entries.iter().filter_map(|e| ca_ref(e, problems)).collect();
    let system = well_known.optional(well_known_value, problems);
    match (count > 0, well_known.absent()) {
        (true, false) => {
            let what = "must not contain both caCertificateRefs and wellKnownCACertificates";
            validation.wrong(problems, what);
            None
        }
        // An unreadable list was noted already; an empty one counts as absent.
        (false, true) if refs.absent() || refs.value.is_array() => {
            let what = "must specify either caCertificateRefs or wellKnownCACertificates";
            validation.wrong(problems, what);
            None
        }
        (false, _) => system.map(|_| Trust::System),
        (true, true) => (ca_refs.len() == count).then_some(Trust::Refs(ca_refs)),
    }
}

fn ca_ref(entry: &Node, problems: &mut Problems) -> Option<CaRef> {
    if !entry.is_object(problems) {
        return None;
    }
    let group = entry.get("group");
    let group = group.required("write group: \"\" for a ConfigMap", rules::group, problems);
    let kind = entry
        .get("kind")
        .required("write kind: ConfigMap", rules::kind, problems);
    let name = entry.get("name");
    let name = name.required("the name of the ConfigMap", rules::object_name, problems);
    Some(CaRef {
        group: group?.to_owned(),
        kind: kind?.to_owned(),
        name: name?.into(),
    })
}

fn well_known_value(text: &str) -> Result<(), String> {
    if text == "System" {
        return Ok(());
    }
    Err(format!(
        "{} is not supported: use \"System\", or caCertificateRefs",
        quoted(text)
    ))
}

fn subject_alt_names(list: &Node, problems: &mut Problems) -> Vec<SubjectAltName> {
    let entries = list.list(5, problems);
    entries
        .iter()
        .filter_map(|entry| subject_alt_name(entry, problems))
        .collect()
}

fn subject_alt_name(entry: &Node, problems: &mut Problems) -> Option<SubjectAltName> {
    if !entry.is_object(problems) {
        return None;
    }
    let san_type = |text: &str| match text {
        "Hostname" | "URI" => Ok(()),
        other => Err(format!(
            "{} is not a type: use Hostname or URI",
            quoted(other)
        )),
    };
    let (hostname, uri) = (entry.get("hostname"), entry.get("uri"));
    match entry
        .get("type")
        .required("Hostname or URI", san_type, problems)?
    {
        "Hostname" => {
            if !uri.absent() {
                uri.wrong(problems, "must be left out when type is Hostname");
            }
            let name = hostname.required("type is Hostname", rules::san_hostname, problems)?;
            Some(SubjectAltName::Hostname(name.to_owned()))
        }
        _ => {
            if !hostname.absent() {
                hostname.wrong(problems, "must be left out when type is URI");
            }
            let name = uri.required("type is URI", rules::san_uri, problems)?;
            Some(SubjectAltName::Uri(name.to_owned()))
        }
    }
}
