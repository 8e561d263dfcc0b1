//! `spec.options`: what a policy may ask for beyond the API's own fields.

use super::fields::{Node, Problems};
use super::rules;

/// The domain of our keys; keys of other domains are for other implementations.
const PREFIX: &str = "nodetls.io/";

/// The option that names a Secret.
pub(crate) const CLIENT_CERTIFICATE: &str = "nodetls.io/client-certificate";

/// What the options of a policy come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Name of a Secret in the client pod's namespace with the certificate that we present.
    pub client_certificate: Option<String>,
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
        match key.strip_prefix(PREFIX) {
            Some(_) if key == CLIENT_CERTIFICATE => {
                let name = option.required("name a Secret", rules::subdomain, problems);
                read.client_certificate = name.map(str::to_owned);
            }
            Some(_) => option.wrong(
                problems,
                "is no option of this version of nodetls: remove it",
            ),
            None => drop(option.required("give it a value", rules::option_value, problems)),
        }
    }
    read
}
