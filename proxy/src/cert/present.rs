//! The agent's half: connects to the servers of a port, each as a target of its own, so that nobody's sessions are resumed
//! and no failure is shown as a client's.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Error, Presented, Server};
use crate::addr::OriginalDst;
use crate::ask::{Parameters, Unanswerable};
use crate::connections::Tls;
use crate::explain::{Named, port_text};
use crate::failure::{Failure, Reason};
use crate::identity::DEFAULT_NAMESPACE;
use crate::pods::Pod;
use crate::policy::{ObjectName, Origination, Refusal, Target, Upstream};
use crate::proxy::{Dialer, Route, probe};
use crate::status::{Facts, Live, Parts, alt_name};
use crate::tls::TlsClient;
use crate::tls::certificate::Certificate;
use crate::tls::presented::with_chain;

/// Servers of one port that are tried.
const MAX_SERVERS: usize = 16;
/// At a time.
const PARALLEL: usize = 8;
/// For all of them; whoever asks waits some seconds longer.
const PATIENCE: Duration = Duration::from_secs(25);

/// One question at a time: each opens connections.
static ASKED: Mutex<()> = Mutex::const_new(());

/// The page `/cert`: a [`Presented`] as JSON.
///
/// # Errors
/// The port is no target, or its policy is refused; there is no such pod.
pub(crate) async fn page(live: &Live, parameters: &Parameters) -> Result<String> {
    let (parts, facts) = (live.parts()?, live.facts());
    let (from, pod) = pod(parts, &facts, parameters.get("from"))?;
    let namespace = pod
        .namespace
        .get()
        .map_or(DEFAULT_NAMESPACE, String::as_str);
    let named = {
        let compiler = parts.compiler.lock();
        let compiler = compiler.unwrap_or_else(PoisonError::into_inner);
        Named::read(
            parameters.required("service")?,
            namespace,
            &compiler,
            &facts.snapshot,
        )?
    };
    let (service, port) = match named {
        Named::Port(service, port) => (service, port),
        Named::Address(address) => return Err(untargeted(&address.to_string()).into()),
    };
    let routes = routes(parts, &service, port)?;
    let Some((plan, first)) = routes.first() else {
        return Err(untargeted(&port_text(&service, port)).into());
    };
    let mut places = places(&routes)?;
    let not_tried = places.len().saturating_sub(MAX_SERVERS);
    places.truncate(MAX_SERVERS);
    let tries = places.into_iter().map(|(address, route)| {
        let (dialer, pod) = (Arc::clone(&parts.proxy.dialer), Arc::clone(&pod));
        server(address, route, dialer, pod)
    });
    let tries = stream::iter(tries).buffered(PARALLEL).collect();
    let _one = ASKED.lock().await;
    let presented = Presented {
        service: port_text(&service, port),
        policy: first.target.policy.to_string(),
        from,
        sni: plan.hostname.clone(),
        names: names(plan),
        ca: plan
            .roots
            .certificates
            .iter()
            .map(Certificate::of)
            .collect(),
        servers: tries.await,
        not_tried,
    };
    Ok(serde_json::to_string_pretty(&presented)? + "\n")
}

fn untargeted(what: &str) -> Unanswerable {
    Unanswerable(format!(
        "{what} is no target, so there is no policy to verify it by: `nodetls explain` tells why"
    ))
}

fn names(plan: &Origination) -> Vec<String> {
    match plan.subject_alt_names.as_slice() {
        [] => vec![plan.hostname.clone()],
        names => names.iter().map(alt_name).collect(),
    }
}

/// Whose netns to connect from, and who that is; the agent's own where none is named.
fn pod(parts: &Parts, facts: &Facts, name: Option<&str>) -> Result<(String, Arc<Pod>)> {
    let Some(name) = name else {
        let netns = Arc::new(File::open("/proc/self/ns/net")?);
        let own = "(the agent's own)".to_owned();
        let pod = Arc::new(Pod::new(&own, None, netns));
        return Ok((own, pod));
    };
    // In a cluster a netns goes by its pod's name, or by the uid if the API server told of that later.
    let (name, uid) = match &parts.cluster {
        Some(cluster) => {
            let found = cluster.find(name)?;
            (found.name, Some(found.uid))
        }
        None => (name.to_owned(), None),
    };
    let mut pods = facts.pods.iter();
    let is_meant = |pod: &&Arc<Pod>| pod.name == name || Some(&pod.name) == uid.as_ref();
    let Some(pod) = pods.find(is_meant) else {
        let cause = format!(
            "{name} is not enrolled on this node: name a pod or network namespace that `nodetls status` shows as \
             enrolled; `nodetls explain` tells why one is not"
        );
        return Err(Unanswerable(cause).into());
    };
    Ok((name, Arc::clone(pod)))
}

type Planned = (Arc<Origination>, Arc<Route>);

/// What is in force on a port, in the order of its addresses.
fn routes(parts: &Parts, service: &ObjectName, port: u16) -> Result<Vec<Planned>, Unanswerable> {
    let all = Arc::clone(&parts.proxy.routes.borrow());
    let mut routes: Vec<_> = all
        .by_id
        .values()
        .filter(|route| route.target.service == *service && route.target.port == port)
        .collect();
    routes.sort_by_key(|route| route.original_dst.0);
    let planned = |route: &&Arc<Route>| {
        let plan = route.target.plan.as_ref().ok()?;
        Some((Arc::clone(plan), Arc::clone(route)))
    };
    let planned: Vec<_> = routes.iter().filter_map(planned).collect();
    match (
        planned.is_empty(),
        routes.first().map(|route| &route.target.plan),
    ) {
        (true, Some(Err(Refusal { reason, message }))) => {
            let what = port_text(service, port);
            Err(Unanswerable(format!(
                "{what} is refused ({reason}): {message}"
            )))
        }
        _ => Ok(planned),
    }
}

/// Each server once, with a route that leads to it alone.
fn places(routes: &[Planned]) -> Result<Vec<(String, Arc<Route>)>, Unanswerable> {
    let mut places = BTreeMap::new();
    for (plan, route) in routes {
        let dialled = route.original_dst.0;
        let addresses = match &route.target.upstream {
            Upstream::Endpoints(endpoints) => endpoints.clone(),
            Upstream::ServiceAddress => vec![dialled],
            Upstream::Host { name, port } => {
                let host = format!("{name}:{port}");
                places.entry((None, host)).or_insert((plan, route));
                continue;
            }
        };
        for address in addresses {
            let place = (Some(address), address.to_string());
            places.entry(place).or_insert((plan, route));
        }
    }
    let alone =
        |((address, shown), (plan, route)): ((_, String), (&Arc<Origination>, &Arc<Route>))| {
            let upstream = match address {
                Some(address) => Upstream::Endpoints(vec![address]),
                None => route.target.upstream.clone(),
            };
            let target = Target {
                upstream,
                ..Target::clone(&route.target)
            };
            let tls = TlsClient::new(plan).map(Arc::new);
            let metrics = Arc::clone(&route.metrics);
            let to = OriginalDst(route.original_dst.0);
            (
                shown,
                Arc::new(Route::new(route.id, to, Arc::new(target), tls, metrics)),
            )
        };
    let places: Vec<_> = places.into_iter().map(alone).collect();
    match (places.is_empty(), routes.first()) {
        (true, Some((_, route))) => {
            let (service, cure) = (&route.target.service, Reason::NoEndpoints.cure());
            Err(Unanswerable(format!(
                "Service {service} has no ready endpoint: {cure}"
            )))
        }
        _ => Ok(places),
    }
}

async fn server(address: String, route: Arc<Route>, dialer: Arc<Dialer>, pod: Arc<Pod>) -> Server {
    let late = || {
        Failure::new(
            Reason::ConnectTimeout,
            format!("no answer within {PATIENCE:?}"),
        )
    };
    let attempt = timeout(PATIENCE, probe(dialer, pod, Arc::clone(&route)));
    let (result, chain) = with_chain(attempt).await;
    let result = result.unwrap_or_else(|_| Err(late()));
    let session = route.lately().handshake.filter(|_| result.is_ok());
    let sni = route.target.plan.as_ref().map(|plan| plan.hostname.clone());
    Server {
        address,
        accepted: result.is_ok(),
        tls: session.map(|(_, session)| Tls {
            sni: sni.unwrap_or_default(),
            version: session.version.to_owned(),
            cipher: session.cipher_suite.to_owned(),
            group: session.group.to_owned(),
            resumed: session.resumed,
        }),
        error: result.err().map(|failure| Error {
            reason: failure.reason.as_str().to_owned(),
            cure: failure.reason.cure().to_owned(),
            detail: failure.detail,
        }),
        chain: chain.iter().map(Certificate::of).collect(),
    }
}
