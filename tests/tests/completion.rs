//! `nodetls completion bash`, as bash uses it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use nodetls_tests::binary;

/// What bash offers for the last of these words.
fn offered(words: &str) -> String {
    let script = format!(
        "set -eu; source <({} completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _nodetls nodetls \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[*]}}\"",
        binary("nodetls")
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{words}: {said}");
    said.trim().to_owned()
}

#[test]
fn bash_completes_verbs_flags_and_values() {
    assert_eq!(offered("nodetls st"), "status");
    assert_eq!(offered("nodetls check --ex"), "--expiry-days");
    assert_eq!(offered("nodetls status --output j"), "json");
}
