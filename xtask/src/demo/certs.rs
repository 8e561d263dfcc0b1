//! Certificates, made with the openssl commands of Envoy Gateway's document plus a DNS SAN.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sh;

/// The kind of key, as options of `openssl req`.
pub(crate) type Keys = &'static [&'static str];
/// That of Envoy Gateway's document.
pub(crate) const RSA: Keys = &["-newkey", "rsa:2048"];
/// Of a server that signs fast.
pub(crate) const P256: Keys = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A certificate authority: `NAME.crt` and `NAME.key` in one directory.
pub(crate) struct Authority {
    keys: Keys,
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// Makes a self-signed one in `directory`; it and what it issues have `keys`.
    pub(crate) fn new(directory: &Path, name: &str, keys: Keys) -> Result<Self> {
        let certificate = directory.join(name).with_extension("crt");
        let key = certificate.with_extension("key");
        let mut openssl = sh::command("openssl", "req -x509 -sha256 -nodes -days 365");
        openssl
            .args(keys)
            .args(["-subj", "/O=example Inc./CN=example.com"]);
        openssl
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        sh::output(&mut openssl)?;
        Ok(Self {
            keys,
            certificate,
            key,
        })
    }

    /// The file of its own certificate.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Its own certificate, PEM.
    pub(super) fn pem(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.certificate)?)
    }

    /// Issues a certificate for `hostname`; returns its file and its key's.
    pub(crate) fn issue(&self, hostname: &str) -> Result<(PathBuf, PathBuf)> {
        let file = |suffix| {
            self.certificate
                .with_file_name(format!("{hostname}.{suffix}"))
        };
        let (request, extensions) = (file("csr"), file("ext"));
        let (certificate, key) = (file("crt"), file("key"));
        let mut openssl = sh::command("openssl", "req -nodes -subj");
        openssl.arg(format!("/CN={hostname}/O=example organization"));
        openssl.args(self.keys);
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
