//! Makes `docs/options.md` from the table. The test below checks it; `NODETLS_BLESS=1` writes it anew.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rustls::crypto::aws_lc_rs::DEFAULT_KX_GROUPS;

use super::PREFIX;
use super::values::TABLE;

const INTRODUCTION: &str = "\
# Options of a policy

`spec.options` of a BackendTLSPolicy, for what the API has no field. All values are strings; lists have commas. A key of
`nodetls.io/` that is not here, or a value that can't be, makes the policy `Accepted: False` (`Invalid`), and its targets
are refused. Keys of other domains are for other implementations.

Made from `proxy/src/policy/options/`; `NODETLS_BLESS=1 cargo test --package nodetls options_md` writes it anew.

| Key | Value | Default | Meaning |
|---|---|---|---|
";

#[test]
fn options_md_is_up_to_date() {
    let mut text = INTRODUCTION.to_owned();
    for entry in TABLE {
        let (values, default, meaning) = ((entry.values)(), entry.default, entry.meaning);
        writeln!(
            text,
            "| `{PREFIX}{}` | {values} | {default} | {meaning} |",
            entry.key
        )
        .unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = root.join("docs/options.md");
    if std::env::var_os("NODETLS_BLESS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == text,
        "docs/options.md is out of date: run this test with NODETLS_BLESS=1"
    );
}

#[test]
fn the_default_groups_are_those_of_the_library() {
    let names = DEFAULT_KX_GROUPS.iter().map(|group| group.name().as_str());
    let names: Option<Vec<_>> = names.collect();
    let entry = TABLE
        .iter()
        .find(|entry| entry.key == "key-exchange-groups");
    assert_eq!(entry.unwrap().default, names.unwrap().join(", "));
}
