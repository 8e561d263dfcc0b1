//! `spec.options`: what a policy may ask for beyond the API's own fields.

use super::fields::{Node, Problems};
use super::rules;
use super::status::quoted;

/// The domain of our keys; keys of other domains are for other implementations.
const PREFIX: &str = "nodetls.io/";

/// What the options of a policy come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// HTTP requests get the policy's hostname as `Host` or `:authority`.
    pub rewrite_host: bool,
}

/// Reads the map of options. Of another domain's nothing is asked; one of ours that is unknown, or has a value that
/// can't be, is a mistake: to ignore it could drop a restriction that its author relies on.
pub(super) fn read(options: &Node, problems: &mut Problems) -> Options {
    let mut read = Options::default();
    if options.absent() || !options.is_object(problems) {
        return read;
    }
    let entries = options.entries();
    if entries.len() > 16 {
        let what = format!("has {} entries: at most 16 are allowed", entries.len());
        options.wrong(problems, &what);
    }
    for (key, option) in entries {
        let value = option.required("give it a value", rules::option_value, problems);
        let (Some(key), Some(value)) = (key.strip_prefix(PREFIX), value) else {
            continue;
        };
        match (key, value) {
            ("rewrite-host", "true") => read.rewrite_host = true,
            ("rewrite-host", "false") => read.rewrite_host = false,
            ("rewrite-host", _) => {
                let what = format!(
                    "{} is not a choice: write \"true\" or \"false\"",
                    quoted(value)
                );
                option.wrong(problems, &what);
            }
            _ => option.wrong(
                problems,
                "is no option of this version of nodetls: remove it",
            ),
        }
    }
    read
}
