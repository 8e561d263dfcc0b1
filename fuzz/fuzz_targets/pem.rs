//! A CA's ConfigMap, and a client certificate's Secret: any bytes are a bundle or a named fault.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use nodetls::fuzzing::{ca_certificates, verifier};
use nodetls::tls::ClientCertificate;
use nodetls_fuzz::origination;

fuzz_target!(|bytes: &[u8]| {
    match ca_certificates(bytes) {
        Ok(bundle) => {
            assert!(!bundle.certificates.is_empty());
            // What a policy's status calls good must not fail when the first client comes.
            assert!(verifier(&origination(Arc::new(bundle))).is_ok());
        }
        Err(fault) => assert!(!fault.is_empty()),
    }
    // A chain and its key, in one file or in two.
    let middle = bytes.len() / 2;
    for (chain, key) in [(bytes, bytes), bytes.split_at(middle)] {
        match ClientCertificate::read("Secret a/b", chain, key) {
            Ok(certificate) => _ = (certificate.to_string(), certificate.out_of_date()),
            Err(fault) => assert!(!fault.is_empty()),
        }
    }
});
