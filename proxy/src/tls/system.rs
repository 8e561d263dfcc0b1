//! `wellKnownCACertificates: System`: the trust store of the machine.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::policy::CaBundle;

/// The machine's trust store, and what was wrong with it.
#[derive(Debug)]
pub struct SystemRoots {
    /// The usable CA certificates, sorted; `None` when there is not one.
    pub bundle: Option<Arc<CaBundle>>,
    /// Files that could not be read and certificates that were skipped, a sentence each. For the log.
    pub problems: Vec<String>,
}

/// Reads the machine's trust store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Blocks on files.
pub fn system_roots() -> SystemRoots {
    let found = rustls_native_certs::load_native_certs();
    let problems = found.errors.iter().map(ToString::to_string).collect();
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
        assert_eq!(system_roots().bundle, system_roots().bundle);
    }
}
