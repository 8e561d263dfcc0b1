//! What a policy covers of a Service: its ports, and the addresses that a client may dial for them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::endpoints::{HEADLESS, SERVICE_NAME, Slices};
use super::external::{EXTERNAL_HOST, External};
use super::snapshot::{ObjectName, Upstream};
use super::status::{listed, quoted};
use crate::pods::address_v6;

/// What a targetRef means: a Service as a whole, or one of its ports (by its place in [`View::ports`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Service,
    Port(usize),
}

/// A Service, read.
pub(super) struct View {
    pub(super) name: ObjectName,
    pub(super) ports: Vec<Port>,
    /// Clients dial its endpoints themselves.
    pub(super) headless: bool,
    /// What its author chose, or its endpoints have: covered only where it is nobody else's ClusterIP.
    pub(super) chosen: HashSet<IpAddr>,
    /// What is not covered and why, for the policy's author.
    pub(super) notes: Vec<String>,
    /// The host outside of the cluster that it stands for; or why it can't, although it is to.
    pub(super) external: Option<Result<External, String>>,
}

/// A port of a Service.
pub(super) struct Port {
    /// Empty for the unnamed port of a Service that has only one.
    pub(super) name: String,
    pub(super) number: u16,
    /// The targetPort, where it is a number.
    pub(super) target: Option<u16>,
    /// What clients dial for it.
    pub(super) addresses: Vec<SocketAddr>,
    protocol: String,
    app_protocol: String,
}

/// IANA's `http`, what KEP-3726 defines as cleartext, and the latter without the prefix.
const PLAINTEXT: [&str; 5] = ["http", "h2c", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"];

/// Which Services have a ClusterIP; more than one only in files.
#[derive(Default)]
pub(super) struct ClusterIps(HashMap<IpAddr, Vec<ObjectName>>);

impl ClusterIps {
    /// A Service is another than before. The ClusterIPs that it has no more, or only now.
    pub(super) fn replace(
        &mut self,
        name: &ObjectName,
        before: Option<&Service>,
        now: Option<&Service>,
    ) -> Vec<IpAddr> {
        let ips = |service: Option<&Service>| {
            let texts = service.into_iter().flat_map(cluster_ip_texts);
            let mut ips: Vec<_> = texts.filter_map(parse_ip).collect();
            ips.sort();
            ips.dedup();
            ips
        };
        let (before, now) = (ips(before), ips(now));
        let gone = before.iter().filter(|ip| !now.contains(ip));
        let new = now.iter().filter(|ip| !before.contains(ip));
        for gone in gone.clone() {
            if let Some(owners) = self.0.get_mut(gone) {
                owners.retain(|owner| owner != name);
                if owners.is_empty() {
                    self.0.remove(gone);
                }
            }
        }
        for new in new.clone() {
            self.0.entry(*new).or_default().push(name.clone());
        }
        gone.chain(new).copied().collect()
    }

    fn owner(&self, ip: IpAddr) -> Option<&ObjectName> {
        self.0.get(&ip)?.iter().min()
    }
}

impl View {
    pub(super) fn new(
        name: &ObjectName,
        service: &Service,
        owners: &ClusterIps,
        slices: &Slices,
    ) -> Self {
        let ports = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten());
        let mut view = Self {
            name: name.clone(),
            ports: ports.filter_map(Port::new).collect(),
            headless: is_headless(service),
            chosen: HashSet::new(),
            notes: Vec::new(),
            external: None,
        };
        if view.ports.is_empty() {
            view.note("has no port: there is nothing to connect to");
        }
        let spec = service.spec.as_ref();
        let external_name = spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
        if external_name {
            let host = spec.and_then(|spec| spec.external_name.as_deref());
            view.note(&format!(
                "is an ExternalName: it has no address of its own, so it can't be covered; make it a Service of \
                 type: ClusterIP and without selector, with the annotation {EXTERNAL_HOST}: {}",
                host.unwrap_or("HOST")
            ));
        } else if view.headless {
            view.read_endpoints(owners, slices);
        } else {
            view.read_addresses(service, owners);
        }
        let external = External::of(service, !external_name && !view.headless);
        view.external = external.map(|e| e.map_err(|wrong| format!("Service {name} {wrong}")));
        view
    }

    /// Whoever has an endpoint's address dials it. One that can't be a pod's is none of this Service's.
    fn read_endpoints(&mut self, owners: &ClusterIps, slices: &Slices) {
        let mut others = BTreeSet::new();
        for port in &mut self.ports {
            port.addresses = slices.dialled(&port.name);
            port.addresses.retain(|dialled| {
                let ip = dialled.ip();
                let first = self.chosen.insert(ip);
                if first && (is_special(ip) || owners.owner(ip).is_some()) {
                    others.insert(ip);
                }
                !others.contains(&ip)
            });
        }
        if !others.is_empty() {
            self.note(&format!(
                "has endpoints that are not covered, as no pod has such an address, or it is a clusterIP: {}",
                listed(others.iter())
            ));
        }
        if self.ports.iter().all(|port| port.addresses.is_empty()) {
            self.note(&format!(
                "is headless (clusterIP: None) and has no endpoint at the moment: there is nothing to cover; label \
                 EndpointSlices of your own {HEADLESS}: \"\" and {SERVICE_NAME}: {}",
                self.name.name
            ));
        }
    }

    /// ClusterIPs are the Service's by right. Other addresses its author chose freely: one that can't belong to a
    /// Service, or is another's ClusterIP, must not turn other people's connections.
    fn read_addresses(&mut self, service: &Service, owners: &ClusterIps) {
        let mut ips = BTreeSet::new();
        for text in cluster_ip_texts(service) {
            match parse_ip(text) {
                Some(ip) => _ = ips.insert(ip),
                None => self.note(&format!(
                    "has clusterIP {}: not an IP address",
                    quoted(text)
                )),
            }
        }
        for text in chosen_texts(service) {
            let Some(ip) = parse_ip(text) else {
                self.note(&format!("has address {}: not an IP address", quoted(text)));
                continue;
            };
            self.chosen.insert(ip);
            match owners.owner(ip) {
                _ if is_special(ip) => {
                    self.note(&format!(
                        "has address {ip}: not covered, no Service may have it"
                    ));
                }
                Some(owner) if *owner != self.name => {
                    self.note(&format!(
                        "has address {ip}: not covered, it is {owner}'s clusterIP"
                    ));
                }
                _ => _ = ips.insert(ip),
            }
        }
        for port in &mut self.ports {
            let dialled = ips.iter().map(|ip| SocketAddr::new(*ip, port.number));
            port.addresses = dialled.collect();
        }
        if ips.is_empty() {
            self.note("has no address to cover: in a manifest for nodetls, set spec.clusterIP");
        }
    }

    /// Where connections to a port go, if that is outside of the cluster.
    pub(super) fn external_upstream(&self, port: &Port) -> Option<Upstream> {
        let external = self.external.as_ref()?.as_ref().ok()?;
        Some(external.upstream(port))
    }

    fn note(&mut self, what: &str) {
        self.notes.push(format!("Service {} {what}", self.name));
    }

    /// Finds what a targetRef means. A number is tolerated where no port has it as its name; the error names the
    /// ports that exist.
    pub(super) fn scope(&self, section: Option<&str>) -> Result<Scope, String> {
        let Some(section) = section else {
            return Ok(Scope::Service);
        };
        let numbered = |port: &Port| port.number.to_string() == section;
        let find = |rule: &dyn Fn(&Port) -> bool| self.ports.iter().position(rule);
        let found = find(&|port| port.name == section)
            .or_else(|| find(&|port| numbered(port) && port.is_tcp()))
            .or_else(|| find(&numbered));
        found.map(Scope::Port).ok_or_else(|| {
            let ports = listed(self.ports.iter());
            let (name, section) = (&self.name, quoted(section));
            format!(
                "Service {name} has no port named {section} (ports: {ports}): \
                 set sectionName to the name of one of them"
            )
        })
    }

    /// The scope in words.
    pub(super) fn describe(&self, scope: Scope) -> String {
        match scope {
            Scope::Service => format!("Service {}, all ports", self.name),
            Scope::Port(port) => format!("Service {}, {}", self.name, self.ports[port]),
        }
    }

    /// The ports in `scope`, with their places.
    pub(super) fn ports_in(&self, scope: Scope) -> impl Iterator<Item = (usize, &Port)> {
        let (skipped, count) = match scope {
            Scope::Service => (0, self.ports.len()),
            Scope::Port(place) => (place, 1),
        };
        self.ports.iter().enumerate().skip(skipped).take(count)
    }

    /// Why TLS can't be originated in `scope` at all: it has ports, and none is TCP.
    pub(super) fn without_tcp(&self, scope: Scope) -> Option<String> {
        if self.ports_in(scope).any(|(_, port)| port.is_tcp()) {
            return None;
        }
        let ports: Vec<&Port> = self.ports_in(scope).map(|(_, port)| port).collect();
        if ports.is_empty() {
            return None;
        }
        let (name, ports) = (&self.name, listed(ports.into_iter()));
        Some(format!(
            "Service {name}, {ports}: not TCP, and a BackendTLSPolicy works on TCP only: \
             target a TCP port"
        ))
    }

    /// For a scope that has TCP ports, the others that it has.
    pub(super) fn other_protocols(&self, scope: Scope) -> Option<String> {
        let others: Vec<_> = self
            .ports_in(scope)
            .filter(|(_, port)| !port.is_tcp())
            .collect();
        if others.is_empty() {
            return None;
        }
        let ports = listed(others.into_iter().map(|(_, port)| port));
        Some(format!("not covered, because not TCP: {ports}"))
    }
}

impl Port {
    /// None when the number is not a port number; then nobody can dial it either.
    fn new(port: &ServicePort) -> Option<Self> {
        Some(Self {
            name: port.name.clone().unwrap_or_default(),
            number: port_number(port.port)?,
            target: match port.target_port {
                Some(IntOrString::Int(number)) => port_number(number),
                _ => None,
            },
            addresses: Vec::new(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_owned(),
            app_protocol: port.app_protocol.clone().unwrap_or_default(),
        })
    }

    /// A misspelt protocol (`tcp`, in a file) counts as TCP, so that the port is not left in plaintext.
    pub(super) fn is_tcp(&self) -> bool {
        !matches!(self.protocol.as_str(), "UDP" | "SCTP")
    }

    /// The `appProtocol`, if it says that the server speaks plaintext. Many say nothing of it: `grpc`, `redis`.
    pub(super) fn plaintext_protocol(&self) -> Option<&str> {
        let named = |known: &str| known.eq_ignore_ascii_case(&self.app_protocol);
        PLAINTEXT
            .into_iter()
            .any(named)
            .then_some(self.app_protocol.as_str())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{} ", self.name)?;
        }
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// Whether clients dial its endpoints themselves.
fn is_headless(service: &Service) -> bool {
    cluster_ip_texts(service).any(|ip| ip == "None")
}

/// Its IP addresses, ClusterIPs and others, with each of its ports.
pub(crate) fn addresses(service: &Service) -> impl Iterator<Item = SocketAddr> {
    let texts = cluster_ip_texts(service).chain(chosen_texts(service));
    texts.filter_map(parse_ip).flat_map(|ip| {
        let spec = service.spec.iter();
        let ports = spec.flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter_map(|port| port_number(port.port));
        ports.map(move |port| SocketAddr::new(ip, port))
    })
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn cluster_ip_texts(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.iter();
    let texts = spec.flat_map(|s| s.cluster_ip.iter().chain(s.cluster_ips.iter().flatten()));
    texts.map(String::as_str).filter(|text| !text.is_empty())
}

/// External and load-balancer IPs.
fn chosen_texts(service: &Service) -> impl Iterator<Item = &str> {
    let external = service
        .spec
        .iter()
        .flat_map(|s| s.external_ips.iter().flatten());
    let balancer = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .flat_map(|b| b.ingress.iter().flatten())
        .filter_map(|i| i.ip.as_ref());
    external.chain(ingress).map(String::as_str)
}

/// The hooks see a v4-mapped IPv6 address as the IPv4 address it is.
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Addresses that the API server allows no Service either: unspecified, loopback, link-local, multicast; and those that
/// connects are turned to.
pub(crate) fn is_special(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == address_v6(v6.to_bits() as u32),
    };
    link_local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()
}
