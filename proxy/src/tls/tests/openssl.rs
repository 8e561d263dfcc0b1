//! Against `openssl s_server` and certificates made by the openssl command line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::*;

/// Certificates in a directory of their own.
pub(super) struct Lab(TempDir);

impl Lab {
    /// The recipe of Envoy Gateway's "Backend TLS" page, as printed: `ca.crt`, `www.example.com.crt` and `.key`.
    pub(super) fn of_the_document() -> Self {
        let lab = Self::with_ca();
        lab.openssl(
            "req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key",
            &["-subj", "/CN=www.example.com/O=example organization"],
        );
        lab.openssl(
            "x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in www.example.com.csr \
             -out www.example.com.crt",
            &[],
        );
        lab
    }

    /// The same with the cure that the failure names.
    fn with_alt_name() -> Self {
        let lab = Self::of_the_document();
        std::fs::write(lab.path().join("ext"), "subjectAltName=DNS:www.example.com").unwrap();
        lab.openssl(
            "x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in www.example.com.csr \
             -extfile ext -out www.example.com.crt",
            &[],
        );
        lab
    }

    fn with_ca() -> Self {
        let lab = Self(TempDir::new().unwrap());
        lab.openssl(
            "req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout ca.key -out ca.crt",
            &["-subj", "/O=example Inc./CN=example.com"],
        );
        lab
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn openssl(&self, words: &str, more: &[&str]) {
        let output = Command::new("openssl")
            .args(words.split_whitespace().chain(more.iter().copied()))
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub(super) fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path().join(file)).unwrap()
    }

    pub(super) fn policy(&self) -> Origination {
        origination(&[self.certificate("ca.crt")])
    }

    /// Starts a server on a port of the kernel's choice; it sends back each line reversed.
    pub(super) fn serve(&self, options: &str) -> Server {
        let default = "-cert www.example.com.crt -key www.example.com.key";
        let certificate = if options.contains("-cert ") {
            ""
        } else {
            default
        };
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev"])
            .args(certificate.split_whitespace())
            .args(options.split_whitespace())
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let port = stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.parse().ok())
            .expect("s_server must tell its port");
        Server { process, port }
    }
}

/// A running `openssl s_server`.
pub(super) struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub(super) async fn connect(
        &self,
        policy: &Origination,
        alpn: Alpn,
    ) -> Result<Session, Failure> {
        self.resume(&TlsClient::new(policy)?, alpn).await
    }

    /// A handshake, a line and its answer.
    async fn resume(&self, client: &TlsClient, alpn: Alpn) -> Result<Session, Failure> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut stream = client.handshake(socket, alpn, LIMIT).await?;
        let relay = |error: io::Error| failure_from_io(&error, Stage::Relay);
        stream.write_all(b"abc\n").await.map_err(relay)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.map_err(relay)?;
        assert_eq!(&answer, b"cba\n");
        Ok(stream.session())
    }
}

#[tokio::test]
async fn the_documents_recipe_as_printed_is_x509_v1() {
    let lab = Lab::of_the_document();
    assert_failure(
        lab.serve("").connect(&lab.policy(), Alpn::Http11).await,
        Reason::NoSubjectAltName,
        &["\"www.example.com\"", "X.509 v1", "subjectAltName=DNS:"],
    );
    // With the cure it works, and its sessions resume.
    let lab = Lab::with_alt_name();
    let server = lab.serve("");
    let client = TlsClient::new(&lab.policy()).unwrap();
    let first = server.resume(&client, Alpn::Http11).await.unwrap();
    assert_eq!((first.version, first.resumed), ("TLSv1.3", false));
    assert!(server.resume(&client, Alpn::Http11).await.unwrap().resumed);
}

#[tokio::test]
async fn a_ca_that_is_x509_v1_can_be_trusted() {
    let lab = Lab::with_ca();
    lab.openssl("req -new -key ca.key -out ca.csr", &["-subj", "/CN=old CA"]);
    lab.openssl(
        "x509 -req -days 9 -in ca.csr -signkey ca.key -out ca.crt",
        &[],
    );
    lab.openssl(
        "req -newkey rsa:2048 -nodes -keyout www.example.com.key -out csr",
        &["-subj", "/CN=x"],
    );
    std::fs::write(lab.path().join("ext"), "subjectAltName=DNS:www.example.com").unwrap();
    lab.openssl(
        "x509 -req -days 9 -CA ca.crt -CAkey ca.key -CAcreateserial -in csr -extfile ext -out www.example.com.crt",
        &[],
    );
    lab.serve("")
        .connect(&lab.policy(), Alpn::None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_self_signed_certificate_of_req_x509() {
    let lab = Lab::with_ca();
    lab.openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 9 -keyout self.key -out self.crt \
         -addext subjectAltName=DNS:www.example.com",
        &["-subj", "/CN=www.example.com"],
    );
    let server = lab.serve("-cert self.crt -key self.key");
    let pinned = origination(&[lab.certificate("self.crt")]);
    server.connect(&pinned, Alpn::None).await.unwrap();
    assert_failure(
        server.connect(&lab.policy(), Alpn::None).await,
        Reason::CaUsedAsLeaf,
        &["\"www.example.com\"", "pin this one"],
    );
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate() {
    let lab = Lab::with_alt_name();
    for (version, cipher) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        // Required: TLS 1.2 fails in the handshake, TLS 1.3 on the first read.
        let server = lab.serve(&format!("-Verify 1 -CAfile ca.crt {version}"));
        assert_failure(
            server.connect(&lab.policy(), Alpn::None).await,
            Reason::ClientCertificateRequired,
            &["client certificate", "make it optional"],
        );
        // Optional: goes on without.
        let server = lab.serve(&format!("-verify 1 -CAfile ca.crt {version}"));
        assert_eq!(
            server
                .connect(&lab.policy(), Alpn::None)
                .await
                .unwrap()
                .version,
            cipher
        );
    }
}

#[tokio::test]
async fn nothing_in_common() {
    let lab = Lab::with_alt_name();
    let (version, cipher) = (Reason::NoCommonVersion, Reason::NoCommonCipher);
    for (options, reason, found) in [
        (
            "-tls1_1 -cipher ALL:@SECLEVEL=0",
            version,
            "neither TLS 1.2 nor TLS 1.3 (alert protocol_version (70))",
        ),
        (
            "-tls1_2 -cipher AES128-SHA",
            cipher,
            "no cipher suite, group or signature algorithm in common (alert handshake_failure (40))",
        ),
        ("-tls1_3 -curves X448", cipher, "no cipher suite, group"),
    ] {
        let outcome = lab.serve(options).connect(&lab.policy(), Alpn::None).await;
        assert_failure(outcome, reason, &[found]);
    }
}

#[tokio::test]
async fn alpn_and_tls12_labels() {
    let lab = Lab::with_alt_name();
    let server = lab.serve("-alpn h2 -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256 -curves P-256");
    let client = TlsClient::new(&lab.policy()).unwrap();
    let first = server.resume(&client, Alpn::H2).await.unwrap();
    let expected = Session {
        version: "TLSv1.2",
        cipher_suite: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        group: "secp256r1",
        alpn: "h2",
        resumed: false,
        not_after: first.not_after,
    };
    assert_eq!(first, expected);
    let resumed = server.resume(&client, Alpn::H2).await.unwrap();
    assert_eq!((resumed.resumed, resumed.group), (true, "none"));

    let outcome = lab.serve("").connect(&lab.policy(), Alpn::H2).await;
    let essentials = ["(ALPN) offered: h2; the server selects none"];
    assert_failure(outcome, Reason::NoCommonAlpn, &essentials);
}
