//! The table.

use super::*;

#[test]
fn columns_are_aligned_and_problems_stand_below_their_policy() {
    let world = World::new()
        .policy("p", |spec| {
            spec["targetRefs"][0]["sectionName"] = "https".into()
        })
        .policy("quite-long", |spec| {
            spec["validation"]["hostname"] = "*.example.com".into()
        })
        .policy("without", |spec| spec["targetRefs"] = json!(null));
    let mut lines = text::render(&world.judge());
    lines.insert(0, '\n');
    let expected = r#"
POLICY              SERVICE    ACCEPTED         RESOLVEDREFS
default/p           web:https  True             True
default/quite-long  web        False (Invalid)  True
  error: spec.validation.hostname: "*.example.com" has a wildcard: use the full DNS name
  warning: every TCP port of Service default/web has a policy of its own: this one is in force on none
default/without     -          -                -
  error: spec.targetRefs: required, and missing: name the Service
policies: 3, refused: 2, unreadable: 0, warnings: 1
"#;
    assert_eq!(lines, expected);
}

#[test]
fn unreadable_files_and_warnings_of_the_whole() {
    let mut world = World::default();
    world.0.errors.push(FileError {
        file: "dir/a.yaml".into(),
        document: Some(2),
        object: Some("Service default/x".into()),
        cause: "several\n  lines".into(),
    });
    let lines = text::render(&world.judge());
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        "error: dir/a.yaml, document 2, Service default/x: several lines"
    );
    assert!(lines[1].starts_with("warning: no BackendTLSPolicy"));
    assert_eq!(
        lines[2],
        "policies: 0, refused: 0, unreadable: 1, warnings: 1"
    );
}

/// A name in a manifest must not steer the terminal or the CI system that shows it.
#[test]
fn control_characters_are_not_shown() {
    let world = World::new().policy("p\x1b[2J\n::error::x", nothing);
    let lines = text::render(&world.judge());
    assert!(
        lines.contains("default/p\u{fffd}[2J\u{fffd}::error::x"),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 3);
}
