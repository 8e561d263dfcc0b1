//! A file of manifests: any bytes give objects or a named error, and what was read compiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nodetls::fuzzing::manifest;
use nodetls::policy::{Installation, compile};
use nodetls_fuzz::check;

fuzz_target!(|bytes: &[u8]| {
    let (objects, problems) = manifest(bytes);
    for (document, object, cause) in &problems {
        assert!(
            *document > 0 && !cause.is_empty(),
            "{document} {object:?} {cause}"
        );
    }
    let installation = Installation::default();
    check(&objects, &compile(&objects, &installation));
});
