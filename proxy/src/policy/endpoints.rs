//! EndpointSlices: where to dial for a target, or of a headless Service, what clients dial.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::service::parse_ip;
use super::snapshot::{ObjectName, Upstream};

/// The label by which a slice belongs to a Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label of a headless Service's slices. In a cluster no others are asked for.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The EndpointSlices of a Service, by their own names.
#[derive(Default)]
pub(super) struct Slices(BTreeMap<ObjectName, Arc<EndpointSlice>>);

impl Slices {
    pub(super) fn insert(&mut self, name: ObjectName, slice: Arc<EndpointSlice>) {
        self.0.insert(name, slice);
    }

    pub(super) fn remove(&mut self, name: &ObjectName) {
        self.0.remove(name);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What clients of a headless Service dial for its port: every endpoint that they can have found, whatever its
    /// conditions, at the slice's port number.
    pub(super) fn dialled(&self, port_name: &str) -> Vec<SocketAddr> {
        let mut found = BTreeSet::new();
        for slice in self.0.values() {
            let ports = slice.ports.iter().flatten();
            for port in ports.filter_map(|port| number(port, port_name)) {
                let texts = slice.endpoints.iter().flat_map(|e| &e.addresses);
                let ips = texts.filter_map(|text| parse_ip(text));
                found.extend(ips.map(|ip| SocketAddr::new(ip, port)));
            }
        }
        found.into_iter().collect()
    }

    /// The ready endpoints of a Service's port, in the family of the address that the client dialled.
    pub(super) fn upstream(&self, port_name: &str, dialled: IpAddr) -> Upstream {
        // A cluster shows slices with this label only: here they are left over, and kube-proxy knows better.
        let mut slices = self
            .0
            .values()
            .filter(|slice| label(slice, HEADLESS).is_none())
            .peekable();
        if slices.peek().is_none() {
            return Upstream::ServiceAddress;
        }
        let family = if dialled.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut found = BTreeSet::new();
        for slice in slices.filter(|slice| slice.address_type == family) {
            let ports = slice.ports.iter().flatten();
            for port in ports.filter_map(|port| number(port, port_name)) {
                let ready = slice.endpoints.iter().filter(|endpoint| is_ready(endpoint));
                let ips = ready
                    .flat_map(|e| &e.addresses)
                    .filter_map(|ip| ip.parse::<IpAddr>().ok());
                let ips = ips.filter(|ip| ip.is_ipv4() == dialled.is_ipv4());
                found.extend(ips.map(|ip| SocketAddr::new(ip, port)));
            }
        }
        Upstream::Endpoints(found.into_iter().collect())
    }
}

/// The Service that a slice belongs to.
pub(super) fn owner(slice_name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
    let service = label(slice, SERVICE_NAME)?;
    Some(ObjectName {
        namespace: Arc::clone(&slice_name.namespace),
        name: service.into(),
    })
}

fn label<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

/// The port's number, if it is the TCP port of that name; a misspelt protocol counts as TCP, as in a Service.
fn number(port: &EndpointPort, name: &str) -> Option<u16> {
    let tcp = !matches!(port.protocol.as_deref(), Some("UDP" | "SCTP"));
    let named = port.name.as_deref().unwrap_or_default() == name;
    if !tcp || !named {
        return None;
    }
    u16::try_from(port.port?).ok().filter(|number| *number != 0)
}

/// The API's rule: an unknown condition means ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}
