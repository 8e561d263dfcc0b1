//! What the fuzz targets (`fuzz/`) call and is private otherwise. Exists with the feature `fuzzing` only.

use hyper::Method;
use nodetls_ebpf::{Address, IdEntry, IdRange};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;

use crate::failure::Failure;
use crate::policy::{self, CaBundle, Objects, Origination};
use crate::proxy::framing::properties;
use crate::proxy::{Protocol, decide, head};
use crate::redirect::TargetIds;
use crate::source::manifest;
use crate::tls::verifier::Verifier;

/// What a client's first bytes are the beginning of; `None` while it is open.
pub fn classify(bytes: &[u8]) -> Option<Protocol> {
    decide::classify(bytes)
}

/// A client's first bytes, which begin with a request line, without the offer of h2c.
pub fn without_h2c(first: Vec<u8>) -> Vec<u8> {
    head::without_h2c(first)
}

/// Panics if `bytes` as a client's requests, or as the answer to one, are taken for others than hyper takes them for.
pub fn framing(bytes: &[u8]) {
    properties::of_requests(bytes);
    properties::of_answer(&Method::GET, bytes);
    properties::of_answer(&Method::HEAD, bytes);
}

/// Reads a PEM bundle of CA certificates.
///
/// # Errors
/// What is wrong with it, as it stands in a policy's status.
pub fn ca_certificates(pem: &[u8]) -> Result<CaBundle, String> {
    policy::certificates(pem)
}

/// The verifier of servers' certificates.
///
/// # Errors
/// A hostname that is none, or no usable trust anchor.
pub fn verifier(origination: &Origination) -> Result<impl ServerCertVerifier + use<>, Failure> {
    let algorithms = default_provider().signature_verification_algorithms;
    Verifier::new(origination, algorithms)
}

/// Reads a file of manifests: the objects that are good, and for each other document its number, its object as far as
/// known, and the cause.
pub fn manifest(bytes: &[u8]) -> (Objects, Vec<(usize, Option<String>, String)>) {
    let read = manifest::parse(bytes);
    let problems = read.problems.into_iter();
    let problems = problems.map(|problem| (problem.document, problem.object, problem.cause));
    (read.objects, problems.collect())
}

/// The allocator of target ids, without the map IDS.
pub struct Ids(TargetIds);

impl Ids {
    /// One whose map has these entries.
    pub fn new(range: IdRange, entries: impl Iterator<Item = (u32, IdEntry)>) -> Self {
        let mut ids = Self(TargetIds::new(range));
        entries.for_each(|(id, entry)| ids.write(id, entry));
        ids
    }

    /// The id for `address` at `now` (seconds); `None` when there is none left.
    pub fn choose(&self, address: Address, now: u32, in_use: impl Fn(u32) -> bool) -> Option<u32> {
        self.0.choose(address, now, in_use).ok()
    }

    /// What is written to the map for an id.
    pub fn write(&mut self, id: u32, entry: IdEntry) {
        self.0.enter(id, entry);
    }
}
