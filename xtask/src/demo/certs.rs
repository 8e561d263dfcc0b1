//! Certificates, made with the openssl commands of Envoy Gateway's document plus a DNS SAN.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sh;

/// A certificate authority: `NAME.crt` and `NAME.key` in one directory.
pub(super) struct Authority {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// Makes a self-signed one in `directory`.
    pub(super) fn new(directory: &Path, name: &str) -> Result<Self> {
        let certificate = directory.join(name).with_extension("crt");
        let key = certificate.with_extension("key");
        let mut openssl = sh::command("openssl", "req -x509 -sha256 -nodes -days 365");
        openssl.args([
            "-newkey",
            "rsa:2048",
            "-subj",
            "/O=example Inc./CN=example.com",
        ]);
        openssl
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        sh::output(&mut openssl)?;
        Ok(Self { certificate, key })
    }

    /// Its own certificate, PEM.
    pub(super) fn pem(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.certificate)?)
    }

    /// Issues a certificate for `hostname`; returns its file and its key's.
    pub(super) fn issue(&self, hostname: &str) -> Result<(PathBuf, PathBuf)> {
        let file = |suffix| {
            self.certificate
                .with_file_name(format!("{hostname}.{suffix}"))
        };
        let (request, extensions) = (file("csr"), file("ext"));
        let (certificate, key) = (file("crt"), file("key"));
        let mut openssl = sh::command("openssl", "req -newkey rsa:2048 -nodes -subj");
        openssl.arg(format!("/CN={hostname}/O=example organization"));
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&request);
        sh::output(&mut openssl)?;

        // Without it the certificate is X.509 v1, whose name no TLS client accepts any more.
        fs::write(&extensions, format!("subjectAltName=DNS:{hostname}\n"))?;
        let mut openssl = sh::command("openssl", "x509 -req -days 365 -set_serial 0");
        openssl
            .arg("-CA")
            .arg(&self.certificate)
            .arg("-CAkey")
            .arg(&self.key);
        openssl.arg("-extfile").arg(&extensions);
        openssl
            .arg("-in")
            .arg(&request)
            .arg("-out")
            .arg(&certificate);
        sh::output(&mut openssl)?;
        Ok((certificate, key))
    }
}
