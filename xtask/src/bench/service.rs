//! What the server behind all peers serves, each on a port of its own; and configurations that name each.

use std::fmt;

use crate::demo::world::BACKEND_IP;

/// A port of the server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Service {
    /// nginx: HTTP/1
    Web,
    /// HTTP/1 that reads whatever is sent
    Upload,
    /// gRPC
    Grpc,
    /// Sends back what it is sent
    Echo,
    /// The same, with a certificate that nobody trusts
    Untrusted,
}

impl Service {
    pub(super) const ALL: [Self; 5] = [
        Self::Web,
        Self::Upload,
        Self::Grpc,
        Self::Echo,
        Self::Untrusted,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Upload => "upload",
            Self::Grpc => "grpc",
            Self::Echo => "echo",
            Self::Untrusted => "untrusted",
        }
    }

    /// Where the server has it with TLS.
    pub(super) fn tls_port(self) -> u16 {
        match self {
            Self::Web => 8443, // as in `examples/envoy-gateway/`
            Self::Upload | Self::Grpc => 8444,
            Self::Echo => 8445,
            Self::Untrusted => 8446,
        }
    }

    /// Where the server has it without TLS.
    pub(super) fn plain_port(self) -> Option<u16> {
        match self {
            Self::Web => Some(9080),
            Self::Upload | Self::Grpc => Some(9081),
            Self::Echo => Some(9082),
            Self::Untrusted => None,
        }
    }

    /// Of the Kubernetes Service, whose port for the web is 443.
    pub(super) fn cluster_port(self) -> u16 {
        443 + self as u16
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `template` with the lines between `# for each service` and `# end` repeated for each of `services`, on the port that
/// `port` tells. Of those, a line that ends in `# only A, B` is for these services alone.
pub(super) fn for_each(
    template: &str,
    services: &[Service],
    port: impl Fn(Service) -> u16,
) -> String {
    let mut text = String::new();
    let mut lines = template.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "# for each service" {
            text += &format!("{line}\n");
            continue;
        }
        let block = lines.by_ref().take_while(|line| line.trim() != "# end");
        let block: Vec<_> = block.collect();
        for &service in services {
            for line in block.iter().filter_map(|line| concerning(line, service)) {
                text += &line
                    .replace("@SERVICE@", service.name())
                    .replace("@PORT@", &port(service).to_string())
                    .replace("@BACKEND_PORT@", &service.tls_port().to_string());
                text += "\n";
            }
        }
    }
    text
}

/// The line without the mark of whom it is for, if it is for `service`.
fn concerning(line: &str, service: Service) -> Option<&str> {
    match line.split_once("  # only ") {
        Some((line, names)) => names
            .split(", ")
            .any(|name| name == service.name())
            .then_some(line),
        None => Some(line),
    }
}

/// Address and port of the server.
pub(super) fn at_server(port: u16) -> String {
    format!("{BACKEND_IP}:{port}")
}
