//! What is measured, and the figures that tell of it.

use clap::ValueEnum;

use super::service::Service;

/// Size of the large file in bytes: 100 MiB.
pub(super) const LARGE: u64 = 100 << 20;
/// Size of the small file, and of an echo's message, in bytes.
pub(super) const SMALL: usize = 1024;

/// A kind of load.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(super) enum Scenario {
    /// HTTP/1 requests on open connections
    KeepAlive,
    /// The same at half of the load
    HalfLoad,
    /// An HTTP/1 connection for each request
    New,
    /// gRPC calls on one connection
    GrpcOne,
    /// gRPC calls on many connections
    GrpcMany,
    /// Messages on open TCP connections
    Echo,
    /// Small messages on 1000 TCP connections
    EchoMany,
    /// A TCP connection for each message
    EchoNew,
    /// Many TCP connections at once
    Storm,
    /// Large answers
    Download,
    /// Large requests
    Upload,
    /// Memory of idle HTTP/1 connections
    Idle,
    /// Memory of idle TCP connections
    IdleEcho,
    /// A server that must not be trusted
    Refused,
    /// What the eBPF programs add to a connect that is no target's
    Connect,
    /// Many pods, targets and connections
    Scale,
    /// What nodetls' CPU time is for
    Profile,
}

impl Scenario {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1 keep-alive: 1 KiB, 64 connections",
            Self::HalfLoad => "HTTP/1 keep-alive at half load: 1 KiB, 64 connections",
            Self::New => "A new HTTP/1 connection per request: 1 KiB, 32 at a time",
            Self::GrpcOne => "gRPC: unary calls on one connection, 32 at a time",
            Self::GrpcMany => "gRPC: unary calls on 64 connections, one at a time on each",
            Self::Echo => "TCP request and response: 1 KiB each, 64 connections",
            Self::EchoMany => "1000 TCP connections: 64 bytes and their echo, on all at a time",
            Self::EchoNew => "A new TCP connection per message: 1 KiB, 32 at a time",
            Self::Storm => "A storm: 2000 TCP connects at once, a message on each",
            Self::Download => "Bulk: 10 downloads of 100 MiB on one HTTP/1 connection",
            Self::Upload => "Bulk: 10 uploads of 100 MiB on one HTTP/1 connection",
            Self::Idle => "Idle HTTP/1 connections, one request behind each",
            Self::IdleEcho => "Idle TCP connections, one message behind each",
            Self::Refused => "Handshake failures: the server's CA is unknown, 16 at a time",
            Self::Connect => "connect(2) to an address that is no target",
            Self::Scale => "Scale: 250 pods, 10,000 targets, idle connections from all pods",
            Self::Profile => "Where nodetls' time goes",
        }
    }

    /// Whether all peers are measured, each by itself.
    pub(super) fn of_peers(self) -> bool {
        self.service().is_some()
    }

    /// The one that the load is for.
    pub(super) fn service(self) -> Option<Service> {
        match self {
            Self::KeepAlive | Self::HalfLoad | Self::New | Self::Download | Self::Idle => {
                Some(Service::Web)
            }
            Self::Upload => Some(Service::Upload),
            Self::GrpcOne | Self::GrpcMany => Some(Service::Grpc),
            Self::Echo | Self::EchoMany | Self::EchoNew | Self::Storm | Self::IdleEcho => {
                Some(Service::Echo)
            }
            Self::Refused => Some(Service::Untrusted),
            Self::Connect | Self::Scale | Self::Profile => None,
        }
    }

    /// Whether a peer's memory is to be its own from the start, not what other scenarios left.
    pub(super) fn needs_a_fresh_peer(self) -> bool {
        matches!(self, Self::Idle | Self::IdleEcho)
    }

    /// The columns of its table.
    pub(super) fn figures(self) -> Vec<Figure> {
        let rate = |title| Figure::ratio(title, 0, Better::More, |it| it.rate);
        let micros = |title| Figure::ratio(title, 1, Better::Less, |it| Some(it.cpu()? * 1e6));
        let p50 = Figure::plain("p50 ms", 2, |it| Some(it.latency?.0));
        let p99 = Figure::plain("p99 ms", 2, |it| Some(it.latency?.1));
        let rss = Figure::plain("RSS MiB", 0, |it| it.memory);
        match self {
            Self::KeepAlive | Self::GrpcOne | Self::GrpcMany => {
                vec![rate("req/s"), micros("CPU µs/req"), p50, p99, rss]
            }
            Self::HalfLoad => {
                let p99 = Figure::ratio("p99 ms", 2, Better::Less, |it| Some(it.latency?.1));
                let rate = Figure::plain("req/s", 0, |it| it.rate);
                vec![p99, p50, micros("CPU µs/req"), rate]
            }
            Self::Echo | Self::EchoMany => {
                vec![rate("msg/s"), micros("CPU µs/msg"), p50, p99, rss]
            }
            Self::New | Self::EchoNew | Self::Storm | Self::Refused => {
                vec![rate("conn/s"), micros("CPU µs/conn"), p50, p99, rss]
            }
            Self::Download | Self::Upload => vec![
                Figure::ratio("Gbit/s", 2, Better::More, |it| it.rate),
                Figure::ratio("CPU s/GiB", 3, Better::Less, Measured::cpu),
                rss,
            ],
            Self::Idle | Self::IdleEcho => vec![
                Figure::ratio("RSS MiB", 0, Better::Less, |it| it.memory),
                Figure::ratio("KiB/conn", 1, Better::Less, |it| it.per_connection),
                Figure::plain("connections", 0, |it| Some(it.work)),
            ],
            Self::Connect | Self::Scale | Self::Profile => Vec::new(),
        }
    }

    /// The one that the plot shows: less of it is better.
    pub(super) fn plotted(self) -> Option<Figure> {
        let mut figures = self.figures().into_iter();
        figures.find(|figure| figure.better == Some(Better::Less))
    }
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Units per second; of bulk Gbit/s.
    pub(super) rate: Option<f64>,
    /// In milliseconds, the median and the 99th percentile.
    pub(super) latency: Option<(f64, f64)>,
    /// Requests, messages, connections; of bulk GiB.
    pub(super) work: f64,
    /// CPU seconds of the proxy.
    pub(super) cpu_time: Option<f64>,
    /// Resident memory of the proxy in MiB: the most of it under load, or that with all connections idle.
    pub(super) memory: Option<f64>,
    /// What each idle connection added to that, in KiB.
    pub(super) per_connection: Option<f64>,
}

impl Measured {
    /// CPU seconds of the proxy per unit of work.
    fn cpu(&self) -> Option<f64> {
        Some(self.cpu_time? / self.work)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Better {
    More,
    Less,
}

/// A column.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) digits: usize,
    /// Set where it is compared.
    pub(super) better: Option<Better>,
    pub(super) of: fn(&Measured) -> Option<f64>,
}

impl Figure {
    fn plain(title: &'static str, digits: usize, of: fn(&Measured) -> Option<f64>) -> Self {
        Self {
            title,
            digits,
            better: None,
            of,
        }
    }

    fn ratio(
        title: &'static str,
        digits: usize,
        better: Better,
        of: fn(&Measured) -> Option<f64>,
    ) -> Self {
        Self {
            better: Some(better),
            ..Self::plain(title, digits, of)
        }
    }

    /// As it is shown.
    pub(super) fn text(&self, value: f64) -> String {
        format!("{value:.*}", self.digits)
    }
}
