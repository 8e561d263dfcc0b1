//! Where to dial for a target: the address itself, or endpoints that we pick from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::snapshot::{ObjectName, Upstream};

/// The label by which a slice belongs to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// EndpointSlices by Service (namespace, name).
pub(super) struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

impl<'a> Slices<'a> {
    pub(super) fn new(slices: &'a BTreeMap<ObjectName, EndpointSlice>) -> Self {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for (name, slice) in slices {
            if let Some(service) = slice
                .metadata
                .labels
                .iter()
                .find_map(|l| l.get(SERVICE_NAME))
            {
                let key = (name.namespace.as_str(), service.as_str());
                by_service.entry(key).or_default().push(slice);
            }
        }
        Self(by_service)
    }

    /// The ready endpoints of a Service's port, in the family of the address that the client dialled.
    pub(super) fn upstream(
        &self,
        service: &ObjectName,
        port_name: &str,
        dialled: IpAddr,
    ) -> Upstream {
        let Some(slices) = self
            .0
            .get(&(service.namespace.as_str(), service.name.as_str()))
        else {
            return Upstream::ServiceAddress;
        };
        let family = if dialled.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut found = BTreeSet::new();
        for slice in slices.iter().filter(|slice| slice.address_type == family) {
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

/// The port's number, if it is the TCP port of that name.
fn number(port: &EndpointPort, name: &str) -> Option<u16> {
    let tcp = port
        .protocol
        .as_deref()
        .is_none_or(|protocol| protocol == "TCP");
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
