//! The reasons, each with its label, its meaning and its cure.

use std::fmt;

/// Declares [`Reason`] from one list, so that no reason lacks a text and `ALL` lacks no reason.
macro_rules! reasons {
    ($($variant:ident $label:literal $meaning:literal $cure:literal)*) => {
        /// The cause of a failed connection, as coarse as an alert rule wants it. The particulars are in
        /// [`Failure::detail`](super::Failure::detail).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            /// Every reason, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The snake_case name: metric label and log field.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }

            /// What it means: one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),* }
            }

            /// What to do about it; the half of a sentence that follows the detail.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure),* }
            }
        }
    };
}

reasons! {
    UnknownCa "unknown_ca"
        "No CA of the policy's bundle signed the server's certificate chain."
        "put the issuing CA into the policy's CA bundle, or have the server send its intermediates"
    NameMismatch "name_mismatch"
        "The certificate has names, but none that the policy asks for."
        "issue a certificate with the right name, or correct hostname or subjectAltNames in the policy"
    NoSubjectAltName "no_subject_alt_name"
        "The certificate can't name a host: it has no subjectAltName, or is X.509 v1, which has none."
        "reissue it with a subjectAltName (openssl: -extfile with subjectAltName=DNS:…); the CN never counts"
    Expired "expired"
        "The server's certificate, or an intermediate one, has expired."
        "renew it and have the server load the new one; if the clock is wrong, set it"
    NotYetValid "not_yet_valid"
        "The server's certificate, or an intermediate one, is not valid yet."
        "compare the clocks of this node and of the issuer"
    PinMismatch "pin_mismatch"
        "The server's certificate has none of the fingerprints that the policy's option pinned-sha256 lists."
        "if the certificate was renewed as intended, add its fingerprint to the option; if not, find out who answers"
    CaUsedAsLeaf "ca_used_as_leaf"
        "The server presents a CA certificate as its own, and the policy does not pin it."
        "issue a certificate for the server, or pin this one: put exactly it into the policy's CA bundle"
    BadCertificate "bad_certificate"
        "The certificate is unreadable, meant for another use, or the server does not hold its key."
        "reissue the server's certificate, with its own key and extendedKeyUsage serverAuth"
    PlaintextServer "plaintext_server"
        "The server answered the ClientHello with something that is not TLS."
        "enable TLS on that port, from the first byte (STARTTLS does not do), or let the policy target another"
    ClientCertificateRequired "client_certificate_required"
        "The server wants a client certificate; TLS 1.3 servers say so only after the handshake."
        "let the policy name one (option nodetls.io/client-certificate), or make it optional on the server"
    ClientCertificateUnusable "client_certificate_unusable"
        "The policy asks for a client certificate, and the client pod's namespace has none that can be used."
        "put tls.crt and its tls.key into that Secret of the client's own namespace, where agents may read it (component \
         client-certificates)"
    ClientCertificateRejected "client_certificate_rejected"
        "The server refuses the client certificate that it was shown."
        "renew it if it has expired, or have the server trust its issuer; the server's log may tell more"
    NoCommonVersion "no_common_version"
        "The server speaks no TLS version that nodetls speaks."
        "have the server offer TLS 1.2 or 1.3"
    NoCommonCipher "no_common_cipher"
        "Server and nodetls have no cipher suite, key exchange group or signature algorithm in common."
        "have the server offer ECDHE with an AEAD cipher, and X25519, P-256 or P-384"
    NoCommonAlpn "no_common_alpn"
        "The server does not select the application protocol (ALPN) that the client speaks."
        "enable that protocol on the server's TLS port, or have the client speak one that the server offers"
    Alert "alert"
        "The server refused by a TLS alert that no other reason stands for."
        "the server's log may tell more"
    ProtocolError "protocol_error"
        "The server broke the TLS protocol."
        "look for a middlebox, or another protocol, on that port; the server's log may tell more"
    ClosedDuringHandshake "closed_during_handshake"
        "The server closed or reset the connection before the TLS handshake was complete."
        "check that the port speaks TLS; the server's log may tell more"
    HandshakeTimeout "handshake_timeout"
        "The TCP connection was established, but the TLS handshake was not complete in time."
        "check that the port speaks TLS and that the server is not overloaded"
    ConnectTimeout "connect_timeout"
        "The TCP connection was not established in time: nobody answered."
        "check that the server runs and that NetworkPolicies and firewalls allow the connection"
    Refused "refused"
        "The TCP connection was refused: nothing listens there."
        "check that the server runs and listens on that port"
    Unreachable "unreachable"
        "There is no route to the server, or a firewall of this node forbids the connection."
        "check the routes of the client's netns, and NetworkPolicies"
    Dns "dns"
        "The external host that the Service stands for has no address in DNS, or DNS did not answer."
        "check the Service's annotation nodetls.io/external-host, and the servers of the agent's /etc/resolv.conf"
    ForbiddenAddress "forbidden_address"
        "The external host has only addresses that none can have: loopback, link-local, multicast or unspecified."
        "correct its DNS record; a server in the cluster belongs behind a Service with a selector"
    Reset "reset"
        "The connection to the server broke after it was established."
        "look for a crash or restart of the server"
    Truncated "truncated"
        "The server ended the connection without TLS close_notify: what was received may be cut short."
        "look for a crash of the server; one that always ends so should send close_notify"
    NoEndpoints "no_endpoints"
        "The Service has no ready endpoint."
        "check the Service's selector and the readiness of its pods"
    PolicyRefused "policy_refused"
        "The policy is invalid, so nothing may be sent (fail closed)."
        "correct the policy, or what it refers to"
    ClientLimit "client_limit"
        "The client's ClientHello, HTTP/2 preface or request head was not complete in time, or is too long."
        "look for a client that stalls; a request's head may have 64 KiB and take 10 s"
    ClientGone "client_gone"
        "The client, or its whole netns, went away before its connection came to an end."
        "if it happens often, look at the client's timeouts"
    IdleTimeout "idle_timeout"
        "Neither side sent a byte for as long as the policy's option idle-timeout allows."
        "if it was meant to stay open, have the client or the server send keep-alives, or raise the option"
    ShutDown "shut_down"
        "The agent ended before the connection did."
        "have the client connect again; a longer --drain-timeout lets more connections end"
    Internal "internal"
        "A fault on this node, such as no free port or file descriptor."
        "check the limits of this node and of the agent"
}

impl Reason {
    /// Whether the TLS handshake failed: a server that can't be reached, or ends too early, is none of it.
    pub fn is_of_handshake(self) -> bool {
        // In order of declaration.
        self <= Self::HandshakeTimeout
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
