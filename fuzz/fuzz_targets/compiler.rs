//! The policy compiler, as objects come, change and go: what it remembers never matters, and nothing is left open.
#![no_main]

mod objects;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use nodetls::policy::{BackendTlsPolicy, Compiler, Installation, Objects, compile};
use nodetls_fuzz::check;
use std::sync::Arc;

/// One change; most often an object is put into its place or removed.
fn step(input: &mut Unstructured, to: &mut Objects, installation: &mut Installation) -> Result<()> {
    match input.int_in_range(0..=15)? {
        0..=3 => objects::put(input, &mut to.services, objects::service)?,
        4..=6 => objects::put(input, &mut to.endpoint_slices, objects::slice)?,
        7..=8 => objects::put_ca(input, &mut to.ca_objects)?,
        9..=13 => objects::put(input, &mut to.policies, objects::policy)?,
        // All are read again: equal, and not the same.
        14 => to
            .policies
            .values_mut()
            .for_each(|policy| *policy = Arc::new(BackendTlsPolicy::clone(policy))),
        _ => {
            to.ca_secrets = input.arbitrary()?;
            installation.insecure_validation = input.arbitrary()?;
            let system = input.ratio(1, 2)?.then(objects::system_roots);
            installation.system_roots = system;
        }
    }
    Ok(())
}

fn run(input: &mut Unstructured) -> Result<()> {
    let (mut objects, mut installation) = (Objects::default(), Installation::default());
    let mut compiler = Compiler::default();
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        for _ in 0..input.int_in_range(1..=3)? {
            step(input, &mut objects, &mut installation)?;
        }
        let full = compile(&objects, &installation);
        assert_eq!(
            compiler.compile(&objects, &installation),
            full,
            "{objects:#?}"
        );
        assert_eq!(
            compiler.compile(&objects, &installation),
            full,
            "nothing changed"
        );
        check(&objects, &full);
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    // Input that ends early has been tried as far as it went.
    let _ = run(&mut Unstructured::new(bytes));
});
