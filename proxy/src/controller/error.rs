//! What the API server's refusals mean to us, and its silence.

use std::time::Duration;

use tokio::time::timeout;

use crate::source::kube::{FORBIDDEN, UNAUTHORIZED, chain};

/// For an ordinary request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A request that ends: the client itself waits for an answer as long as the connection lives.
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let silence = || kube::Error::Service("the API server does not answer".into());
    timeout(limit, request)
        .await
        .unwrap_or_else(|_| Err(silence()))
}

/// An error with its causes, and for a missing permission the cure.
pub(crate) fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let text = format!("HTTP {}: {}", status.code, status.message);
        return match status.code {
            401 => format!("{text}; {UNAUTHORIZED}"),
            403 => format!("{text}; {FORBIDDEN}"),
            _ => text,
        };
    }
    chain(error)
}

/// The object is not what it was when we read it, or exists already.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

/// The namespace is being deleted, and takes no new object.
pub(super) fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// The object, its namespace or its kind does not exist.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
