//! Events: each cause once, and late rather than never.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::events::v1::Event;

use super::*;

/// Ours: the API server has something to say of a Service that it allocates an address for while it starts.
async fn events(world: &World) -> Vec<Event> {
    let events: Api<Event> = world.users();
    let mut events = events.list(&ListParams::default()).await.unwrap().items;
    events.retain(|event| event.reporting_controller.as_deref() == Some("nodetls.io/controller"));
    events
}

/// Waits until there are so many Events, and never more.
async fn until_told(world: &World, what: &str, count: usize) {
    until(what, async || {
        let notes: Vec<_> = events(world)
            .await
            .into_iter()
            .map(|event| event.note)
            .collect();
        assert!(notes.len() <= count, "{notes:#?}");
        notes.len() == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_events_follow_the_ca() {
    let world = World::new(ApiServer::shared(), "ca").await;
    world.policy("p", "late").await;
    let replica = world.replica().await;
    let refused = pair("False", "NoValidCACertificate");
    until("refused", async || {
        world.condition("p", "Accepted").await == refused
    })
    .await;
    let unresolved = pair("False", "InvalidCACertificateRef");
    assert_eq!(world.condition("p", "ResolvedRefs").await, unresolved);
    until_told(&world, "an Event", 1).await;

    world.config_map("late", ca()).await;
    until("accepted", async || {
        world.condition("p", "Accepted").await == pair("True", "Accepted")
    })
    .await;
    let empty = Patch::Merge(json!({"data": {"ca.crt": ""}}));
    let config_maps: Api<ConfigMap> = world.users();
    config_maps
        .patch("late", &PatchParams::default(), &empty)
        .await
        .unwrap();
    until("refused: empty", async || {
        world.condition("p", "Accepted").await == refused
    })
    .await;
    until_told(&world, "an Event of it", 2).await;
    // The first cause once more: its Event is still there.
    config_maps
        .delete("late", &DeleteParams::default())
        .await
        .unwrap();
    until("refused: gone", async || {
        let ancestors = world.ancestors("p").await;
        let message = ancestors[0]["conditions"][0]["message"].as_str().unwrap();
        message.contains("does not exist")
    })
    .await;
    replica.stop().await;

    // Another leader does not repeat them.
    let replica = world.replica().await;
    until("the next leader", async || world.holder().await.is_some()).await;
    sleep(Duration::from_secs(2)).await;
    until_told(&world, "no more Events", 2).await;
    for event in events(&world).await {
        assert_eq!(event.reason.as_deref(), Some("NoValidCACertificate"));
        assert_eq!(event.regarding.unwrap().name.as_deref(), Some("p"));
    }
    replica.stop().await;
}

/// As by a quota, or by RBAC rules that come later than a new version.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_refused_is_written_later() {
    let world = World::new(ApiServer::shared(), "refused-events").await;
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": world.users}});
    let rule = json!({
        "apiGroups": ["events.k8s.io"], "apiVersions": ["*"], "resources": ["events"], "operations": ["CREATE"],
    });
    let policy = json!({"metadata": {"name": world.users}, "spec": {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "no Events today"}],
    }});
    let binding = json!({"metadata": {"name": world.users}, "spec": {
        "policyName": world.users, "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": selector},
    }});
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(world.admin.clone());
    create(
        &Api::<ValidatingAdmissionPolicy>::all(world.admin.clone()),
        policy,
    )
    .await;
    create(&bindings, binding).await;
    let event = json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "action": "Test",
        "reason": "Test", "note": "-", "reportingController": "t", "reportingInstance": "t",
        "regarding": {"namespace": world.users},
    });
    let event: Event = serde_json::from_value(event).unwrap();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let api: Api<Event> = world.users();
    until("Events are refused", async || {
        let refused = api.create(&dry, &event).await.err();
        refused.is_some_and(|error| error.to_string().contains("no Events today"))
    })
    .await;

    world.policy("p", "absent").await;
    let replica = world.replica().await;
    until("it says so", async || {
        let notes = replica.readiness.notes().join("\n");
        notes.contains("an Event can't be written") && notes.contains("no Events today")
    })
    .await;
    assert_eq!(replica.readiness.missing(), Vec::<String>::new());
    let all = DeleteParams::default();
    bindings.delete(&world.users, &all).await.unwrap();
    until_told(&world, "an Event", 1).await;
    until("all is well", async || replica.readiness.notes().is_empty()).await;
    replica.stop().await;
}
