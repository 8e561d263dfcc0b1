//! What a policy's options refuse or end.

use std::process::Command;

use nodetls::failure::Reason;
use nodetls_tests::{HOST, World, text};

use crate::rig::Rig;

#[test]
fn what_the_options_end_or_refuse() {
    let mut rig = Rig::new();
    let (quiet, renewed) = (rig.port(), rig.port());
    let pinned = rig.ca.sign(HOST);
    let server = rig.world.s_server(&pinned, quiet, "-quiet");
    let mut server = rig.world.serve_talking(server, quiet);
    let other = rig.ca.sign(HOST);
    rig.world.echo(&other, renewed);
    let pin = format!("cert:{}", fingerprint(&rig.world, quiet));
    rig.options = vec![("idle-timeout", "1s".to_owned()), ("pinned-sha256", pin)];
    rig.start("");

    // Each word starts the second anew.
    let mut client = rig.client(quiet, "");
    server.say("one\n");
    client.read_until("one");
    client.say("two\n");
    server.say("three\n");
    client.read_until("three");
    let rest = client.finish();
    assert!(!rest.contains("error"), "a clean end: {rest}");
    rig.logged(
        quiet,
        Reason::IdleTimeout,
        &["no byte from either side for 1s"],
    );

    rig.refused(
        renewed,
        Reason::PinMismatch,
        &[
            "and neither is in the policy's list",
            "has the fingerprints cert:",
            " and spki:",
        ],
    );
}

/// Of the certificate of the server on `port`, as openssl prints it.
fn fingerprint(world: &World, port: u16) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    openssl.arg(world.dir.path().join(format!("{port}.crt")));
    let line = text(&openssl.output().unwrap());
    line.trim().split_once('=').unwrap().1.to_owned()
}
