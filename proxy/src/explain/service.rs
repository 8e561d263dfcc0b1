//! What a client connects to, as people write it.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::ask::Unanswerable;
use crate::policy::{Compiler, ObjectName, Snapshot};

/// A port of a Service, which need not exist; or an address that is no target's.
pub(crate) enum Named {
    Port(ObjectName, u16),
    Address(SocketAddr),
}

impl Named {
    /// Reads `[NAMESPACE/]NAME:PORT`, `NAME.NAMESPACE[.svc…]:PORT` or `ADDRESS:PORT`. `namespace` is the one that is meant
    /// where none is written.
    ///
    /// # Errors
    /// It can't be read, or names a port that is not known.
    pub(crate) fn read(
        text: &str,
        namespace: &str,
        compiler: &Compiler,
        snapshot: &Snapshot,
    ) -> Result<Self, Unanswerable> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let target = snapshot.targets.get(&address);
            return Ok(target.map_or(Self::Address(address), |target| {
                Self::Port(target.service.clone(), target.port)
            }));
        }
        let parts = text.rsplit_once(':').and_then(|(service, port)| {
            let (namespace, name) = match (service.split_once('/'), service.split_once('.')) {
                (Some(parts), _) => parts,
                (None, Some((name, rest))) => (rest.split('.').next()?, name),
                (None, None) => (namespace, service),
            };
            let named = !namespace.is_empty() && !name.is_empty() && !port.is_empty();
            named.then_some((ObjectName::new(namespace, name), port))
        });
        let Some((service, port)) = parts else {
            return Err(Unanswerable(format!(
                "{text} names no port of a Service: write [NAMESPACE/]NAME:PORT, such as shop/tls-backend:443"
            )));
        };
        if let Ok(number) = port.parse() {
            return Ok(Self::Port(service, number));
        }
        let Some(object) = compiler.service(&service) else {
            return Err(Unanswerable(format!(
                "Service {service} does not exist: create it, or correct its name"
            )));
        };
        let found = ports(object).find(|one| one.name.as_deref() == Some(port));
        let found = found.and_then(|one| u16::try_from(one.port).ok());
        found
            .map(|number| Self::Port(service.clone(), number))
            .ok_or_else(|| {
                let all = all_ports(object);
                Unanswerable(format!(
                    "Service {service} has no port {port}: it has {all}"
                ))
            })
    }
}

/// `namespace/name:port`.
pub(crate) fn port_text(service: &ObjectName, port: u16) -> String {
    format!("{service}:{port}")
}

/// Why a port can't be a target, whatever policies say, and the cure.
pub(super) fn fault(
    name: &ObjectName,
    service: Option<&Service>,
    number: u16,
) -> Option<(String, String)> {
    let Some(service) = service else {
        return Some((
            format!("Service {name} does not exist"),
            "create it, or correct its name".to_owned(),
        ));
    };
    let found = ports(service).filter(|port| port.port == i32::from(number));
    let protocols: Vec<_> = found.map(protocol).collect();
    if protocols.is_empty() {
        return Some((
            format!(
                "Service {name} has no port {number}: it has {}",
                all_ports(service)
            ),
            "name one of these, or add the port to the Service".to_owned(),
        ));
    }
    (!protocols.contains(&"TCP")).then(|| {
        (
            format!(
                "port {number} of Service {name} is {}, not TCP",
                protocols.join(", ")
            ),
            "there is no TLS over it: name a port of TCP".to_owned(),
        )
    })
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let spec = service.spec.iter();
    spec.flat_map(|spec| spec.ports.iter().flatten())
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn all_ports(service: &Service) -> String {
    let all: Vec<_> = ports(service)
        .map(|port| match port.name.as_deref() {
            Some(name) => format!("{} ({name})", port.port),
            None => port.port.to_string(),
        })
        .collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}
