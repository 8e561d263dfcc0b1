//! External hosts whose names lead nowhere.

use nodetls::failure::Reason;
use nodetls_tests::CLUSTER_IP;

use crate::rig::{Rig, url};

#[test]
fn names_without_a_usable_address() {
    let mut rig = Rig::new();
    rig.world.dns(&["metadata.example.com,169.254.169.254,60"]);
    rig.start("");
    let refused = |port: u16, host: &str, reason: Reason, words: &[&str]| {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: tls-backend\n  \
             annotations: {{nodetls.io/external-host: {host}}}\nspec:\n  clusterIP: {CLUSTER_IP}\n  \
             ports:\n  - port: {port}\n"
        );
        rig.world.manifest("service.yaml", &service);
        rig.world
            .wait("502", |world| world.curl(&[&url(port)]).ends_with("502"));
        rig.refused(port, reason, words);
    };
    refused(
        9001,
        "gone.example.com",
        Reason::Dns,
        &["there is no DNS name gone.example.com (NXDOMAIN)"],
    );
    // Not gone.example.com, nor anything that a search domain makes of it.
    refused(
        9002,
        "gone",
        Reason::Dns,
        &[
            "annotation nodetls.io/external-host",
            "gone was not resolved",
        ],
    );
    refused(
        9003,
        "metadata.example.com",
        Reason::ForbiddenAddress,
        &["metadata.example.com resolves to 169.254.169.254, where no external host can be"],
    );
    refused(
        9004,
        "localhost",
        Reason::ForbiddenAddress,
        &[
            "where no external host can be",
            "localhost resolves to 127.0.0.1",
        ],
    );
}
