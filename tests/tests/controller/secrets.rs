//! CA certificates from Secrets: only with `--ca-secrets`, and nothing of them but certificates.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_mirrored_where_allowed() {
    let world = World::new(ApiServer::shared(), "secrets").await;
    let mut content = ca();
    let pem = content["ca.crt"].as_str().unwrap().replace('\r', "");
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    content["ca.crt"] = format!("{key}{pem}").into();
    content["tls.key"] = key.clone().into();
    world.secret("ca", content.clone()).await;
    // Not the Secret, although it has its name.
    world.config_map("ca", json!({"ca.crt": "other"})).await;
    world.policy_of("Secret", "p", "ca").await;
    world.policy_of("Secret", "q", "absent").await;

    // Not allowed: not even asked for.
    let replica = world.replica().await;
    for policy in ["p", "q"] {
        let refused = pair("False", "InvalidKind");
        until("refused", async || {
            world.condition(policy, "ResolvedRefs").await == refused
        })
        .await;
    }
    let message = world.ancestors("p").await[0]["conditions"][0]["message"].clone();
    let cure = "nodetls controller --ca-secrets, component manifests/components/secrets";
    assert!(message.as_str().unwrap().contains(cure), "{message}");
    assert_eq!(replica.readiness.missing(), Vec::<String>::new());
    assert_eq!(
        world.server.secret_requests(&world.users),
        Vec::<Value>::new()
    );
    replica.stop().await;

    // Allowed, but without the component: said so.
    let replica = world.replica_with(true).await;
    let missing = || replica.readiness.missing().join("; ");
    let parts = [
        format!("Secret {}/ca can't be read: HTTP 403", world.users),
        "those for Secrets are in manifests/components/secrets".to_owned(),
    ];
    until("told", async || {
        parts.iter().all(|part| missing().contains(part))
    })
    .await;
    assert!(!world.server.secret_requests(&world.users).is_empty());

    // The component is applied: no restart.
    world.server.allow_secrets(&world.admin, &world.own).await;
    until("accepted", async || {
        world.condition("p", "Accepted").await == pair("True", "Accepted")
    })
    .await;
    let mirrored = async || {
        world
            .mirror_of("Secret", "ca")
            .await
            .and_then(|mirror| mirror.data)
    };
    until("mirrored", async || mirrored().await.is_some()).await;
    assert_eq!(json!(mirrored().await), json!({"ca.crt": pem}));
    until("mirrored without data", async || {
        world
            .mirror_of("Secret", "absent")
            .await
            .is_some_and(|mirror| mirror.data.is_none())
    })
    .await;
    let absent = pair("False", "InvalidCACertificateRef");
    until("absent", async || {
        world.condition("q", "ResolvedRefs").await == absent
    })
    .await;
    until("no problem", async || missing().is_empty()).await;

    // It follows its source.
    let secrets: Api<Secret> = world.users();
    let edit = async |pem: &str| {
        let patch = Patch::Merge(json!({"stringData": {"ca.crt": pem}}));
        secrets
            .patch("ca", &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    let other = ca()["ca.crt"].as_str().unwrap().replace('\r', "");
    edit(&other).await;
    until("edited", async || {
        json!(mirrored().await) == json!({"ca.crt": other})
    })
    .await;
    edit(&key).await;
    until("a key is no CA", async || mirrored().await.is_none()).await;
    assert!(world.mirror_of("Secret", "ca").await.is_some());
    replica.stop().await;

    // No longer allowed: nothing is left of it.
    let replica = world.replica().await;
    until("no mirrors of Secrets", async || {
        let mirrors = [
            world.mirror_of("Secret", "ca").await,
            world.mirror_of("Secret", "absent").await,
        ];
        mirrors.iter().all(Option::is_none)
    })
    .await;
    until("refused", async || {
        world.condition("p", "ResolvedRefs").await == pair("False", "InvalidKind")
    })
    .await;
    replica.stop().await;
}
