//! The chain that a server presents, kept for who asks for it: also of a handshake that fails, of which rustls keeps none.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use tokio::task_local;

task_local! {
    static PRESENTED: RefCell<Vec<CertificateDer<'static>>>;
}

/// Notes what a verifier was given, if somebody wants it.
pub(super) fn note(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
    let _ = PRESENTED.try_with(|presented| {
        let chain = std::iter::once(end_entity).chain(intermediates);
        *presented.borrow_mut() = chain.map(|one| one.clone().into_owned()).collect();
    });
}

/// Runs `handshake`, and gives the chain with its result; the server's own certificate is the first. Empty if it came to
/// none, or resumed a session.
pub(crate) async fn with_chain<T>(
    handshake: impl Future<Output = T>,
) -> (T, Vec<CertificateDer<'static>>) {
    let kept = async {
        let result = handshake.await;
        (result, PRESENTED.with(RefCell::take))
    };
    PRESENTED.scope(RefCell::default(), kept).await
}
