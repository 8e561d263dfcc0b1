//! Documents of which a test's run makes the contents.

use std::fs;
use std::path::Path;

/// Compares `docs/FILE` with `text`, in what `of` takes from both; with `NODETLS_BLESS` set, writes it.
///
/// # Errors
/// What to do about a difference.
pub fn check<T: PartialEq>(
    file: &str,
    test: &str,
    text: &str,
    of: impl Fn(String) -> T,
) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(file);
    if std::env::var_os("NODETLS_BLESS").is_some() {
        return fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()));
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    if of(written) != of(text.to_owned()) {
        return Err(format!(
            "docs/{file} is not what this run has shown: NODETLS_BLESS=1 cargo test --package nodetls-e2e --test {test}"
        ));
    }
    Ok(())
}
