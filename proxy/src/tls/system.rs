//! `wellKnownCACertificates: System`: the trust store of the machine.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

use crate::policy::CaBundle;

/// The machine's trust store, and what was wrong with it.
#[derive(Debug)]
pub struct SystemRoots {
    /// The usable CA certificates, sorted; `None` when there is not one.
    pub bundle: Option<Arc<CaBundle>>,
    /// Files that could not be read and certificates that were skipped, a sentence each. For the log.
    pub problems: Vec<String>,
}

/// Reads the machine's trust store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name; `file` comes first, and the others
/// only if it has no usable certificate. Blocks on files.
pub fn system_roots(file: Option<&Path>) -> SystemRoots {
    let mut problems = Vec::new();
    if let Some(file) = file {
        let found = load_certs_from_paths(Some(file), None);
        let roots = read(found, Vec::new());
        if roots.bundle.is_some() {
            return roots;
        }
        problems = roots.problems;
        problems.push(format!(
            "{} has no usable CA certificate: this machine's own are taken",
            file.display()
        ));
    }
    read(load_native_certs(), problems)
}

fn read(found: CertificateResult, mut problems: Vec<String>) -> SystemRoots {
    problems.extend(found.errors.iter().map(ToString::to_string));
    usable(found.certs, problems)
}

/// Sorted, so that reading an unchanged store again gives an equal bundle and TLS sessions live on.
fn usable(
    mut certificates: Vec<CertificateDer<'static>>,
    mut problems: Vec<String>,
) -> SystemRoots {
    certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    certificates.retain(|certificate| {
        let anchor = webpki::anchor_from_trusted_cert(certificate);
        if let Err(error) = &anchor {
            problems.push(format!(
                "skipped a certificate of the system's trust store: {error}"
            ));
        }
        anchor.is_ok()
    });
    let bundle = (!certificates.is_empty()).then(|| Arc::new(CaBundle { certificates }));
    SystemRoots { bundle, problems }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::tests::Ca;
    use super::*;

    #[test]
    fn unparsable_certificates_are_skipped_and_told() {
        let (one, two) = (Ca::new("one").der(), Ca::new("two").der());
        let garbage = CertificateDer::from(vec![0x30, 0x01, 0x00]);
        let all = vec![two.clone(), garbage.clone(), one.clone(), two.clone()];
        let roots = usable(all, Vec::new());
        let mut expected = vec![one, two];
        expected.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        assert_eq!(roots.bundle.unwrap().certificates, expected);
        assert_eq!(roots.problems.len(), 1);
        assert!(usable(vec![garbage], Vec::new()).bundle.is_none());
        assert!(usable(Vec::new(), Vec::new()).bundle.is_none());
    }

    #[test]
    fn the_store_of_this_machine_is_stable() {
        assert_eq!(system_roots(None).bundle, system_roots(None).bundle);
    }

    #[test]
    fn a_file_takes_the_store_s_place_if_it_has_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca-certificates.crt");
        let machine = system_roots(None).bundle;
        for content in [None, Some("no certificate")] {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let roots = system_roots(Some(&file));
            assert_eq!(roots.bundle, machine);
            let problems = roots.problems.join("; ");
            assert!(
                problems.contains("this machine's own are taken"),
                "{problems}"
            );
        }
        let ca = Ca::new("node");
        std::fs::write(&file, ca.pem()).unwrap();
        let roots = system_roots(Some(&file));
        assert_eq!(roots.bundle.unwrap().certificates, [ca.der()]);
    }
}
