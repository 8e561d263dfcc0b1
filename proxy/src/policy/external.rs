//! A host outside of the cluster that a Service without selector stands for: its annotation [`EXTERNAL_HOST`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use super::service::Port;
use super::snapshot::Upstream;
use super::{rules, status::quoted};

/// The annotation of the Service: `NAME` or `NAME:PORT`.
pub(super) const EXTERNAL_HOST: &str = "nodetls.io/external-host";

/// A DNS name and a port, as the annotation has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct External {
    name: String,
    port: Option<u16>,
}

impl External {
    /// None without annotation. `has_cluster_ip`: the Service is of a kind that has one, which clients can dial.
    ///
    /// # Errors
    /// Half a sentence, after the Service's name: why the annotation can't be honoured.
    pub(super) fn of(service: &Service, has_cluster_ip: bool) -> Option<Result<Self, String>> {
        let annotations = service.metadata.annotations.as_ref()?;
        let text = annotations.get(EXTERNAL_HOST)?;
        let mut selector = service.spec.iter().flat_map(|spec| &spec.selector);
        if selector.any(|selector| !selector.is_empty()) {
            let what = format!(
                "has a selector and annotation {EXTERNAL_HOST}: remove the one that is not meant"
            );
            return Some(Err(what));
        }
        if !has_cluster_ip {
            let what = format!(
                "has annotation {EXTERNAL_HOST}, which needs a clusterIP that clients can connect to: make it \
                 type: ClusterIP, and not headless"
            );
            return Some(Err(what));
        }
        Some(read(text).map_err(|wrong| format!("has annotation {EXTERNAL_HOST}: {wrong}")))
    }

    /// Without a port of its own, it is the numeric targetPort or else the Service's port.
    pub(super) fn upstream(&self, port: &Port) -> Upstream {
        Upstream::Host {
            name: self.name.clone(),
            port: self.port.or(port.target).unwrap_or(port.number),
        }
    }
}

fn read(text: &str) -> Result<External, String> {
    let (name, port) = match text.rsplit_once(':') {
        // IPv6, which has colons too, and no brackets.
        _ if text.parse::<IpAddr>().is_ok() => (text, None),
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(format!(
            "{} is an IP address, not a DNS name: remove the annotation, and give the Service an EndpointSlice with it",
            quoted(name)
        ));
    }
    rules::hostname(name)?;
    let port = port.map(|port| {
        let number = port.parse().ok().filter(|number| *number != 0);
        number.ok_or_else(|| {
            format!(
                "{} is not a port: write {name}:443, or {name} for the Service's own",
                quoted(port)
            )
        })
    });
    Ok(External {
        name: name.to_owned(),
        port: port.transpose()?,
    })
}
