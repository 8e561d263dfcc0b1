//! A cluster read a single time, with the rights of whoever asks: for commands that judge it and end.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

use super::by_name::may_exist;
use super::crd::{Crd, VERSIONS, policies};
use super::watch::name;
use super::{chain, reduce};
use crate::policy::{self, CaKind, CaName, CaObject, HEADLESS, ObjectName, Objects};
use crate::source::{FileError, Update};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// What stands for a file in an error.
const PLACE: &str = "the cluster";

/// Whom to ask, and for what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access<'a> {
    /// Else that of the environment, as kubectl does it.
    pub(crate) kubeconfig: Option<&'a Path>,
    /// Else the kubeconfig's current one.
    pub(crate) context: Option<&'a str>,
    /// Whose objects; else those of all.
    pub(crate) namespace: Option<&'a str>,
}

/// Every policy, Service and headless EndpointSlice; and what policies name as CA, as far as it may be read.
///
/// # Errors
/// The API server can't be reached, or something can't be listed; with the cure.
pub(crate) async fn read(access: &Access<'_>) -> Result<Update> {
    let client = client(access).await?;
    let lists = Lists {
        client: client.clone(),
        namespace: access.namespace,
    };
    let services = lists.of::<Service>("").await?.into_iter();
    let slices = lists.of::<EndpointSlice>(HEADLESS).await?.into_iter();
    let mut objects = Objects {
        policies: lists.policies().await?,
        services: services
            .filter_map(|one| Some((name(&one), reduce::service(one)?)))
            .collect(),
        endpoint_slices: slices
            .filter_map(|one| Some((name(&one), reduce::endpoint_slice(one)?)))
            .collect(),
        ca_secrets: true,
        ca_objects: BTreeMap::new(),
    };
    let mut errors = Vec::new();
    for ca in policy::ca_names(&objects).into_values().flatten() {
        match ca_object(&client, &ca).await {
            Ok(Some(object)) => drop(objects.ca_objects.insert(ca, object)),
            Ok(None) => {}
            Err(error) => errors.push(FileError {
                file: PathBuf::from(PLACE),
                document: None,
                object: Some(ca.to_string()),
                cause: format!("{error:#}"),
            }),
        }
    }
    errors.dedup();
    Ok(Update {
        objects,
        errors,
        complete: true,
        ..Update::default()
    })
}

async fn client(access: &Access<'_>) -> Result<Client> {
    let options = KubeConfigOptions {
        context: access.context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = match access.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
        None if access.context.is_some() => Config::from_kubeconfig(&options).await,
        None => return Client::try_default().await.context(NO_CLUSTER),
    };
    Ok(Client::try_from(config.context(NO_CLUSTER)?)?)
}

const NO_CLUSTER: &str = "no cluster is known: set KUBECONFIG, or name a file with --kubeconfig and one of its contexts with --context";

struct Lists<'a> {
    client: Client,
    namespace: Option<&'a str>,
}

impl Lists<'_> {
    /// With a label of this name, if one is given.
    async fn of<K>(&self, label: &str) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        list(&api, label)
            .await
            .map_err(|error| unlisted(&K::plural(&()), &error))
    }

    async fn policies(
        &self,
    ) -> Result<BTreeMap<ObjectName, std::sync::Arc<policy::BackendTlsPolicy>>> {
        for version in VERSIONS {
            let resource: ApiResource = policies(version);
            let api: Api<DynamicObject> = match self.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            match list(&api, "").await {
                Ok(found) => {
                    let policies = found.into_iter();
                    return Ok(policies
                        .filter_map(|one| Some((name(&one), reduce::policy(one)?)))
                        .collect());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(unlisted(&resource.plural, &error)),
            }
        }
        Err(anyhow!("{}", Crd::Absent))
    }
}

async fn list<K: Clone + DeserializeOwned + Debug>(
    api: &Api<K>,
    label: &str,
) -> Result<Vec<K>, kube::Error> {
    let mut params = ListParams::default().labels(label).limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(all);
        }
    }
}

/// What is kept of an object; `None` if there is none.
async fn ca_object(client: &Client, ca: &CaName) -> Result<Option<CaObject>> {
    let ObjectName { namespace, name } = &ca.object;
    if !may_exist(name) {
        return Ok(None);
    }
    let client = client.clone();
    let found = match ca.kind {
        CaKind::ConfigMap => get::<ConfigMap>(&Api::namespaced(client, namespace), name).await,
        CaKind::Secret => get::<Secret>(&Api::namespaced(client, namespace), name).await,
        CaKind::ClusterTrustBundle => get::<ClusterTrustBundle>(&Api::all(client), name).await,
    };
    found.map_err(|error| anyhow!("can't be read, so it can't be judged: {}", told(&error)))
}

async fn get<K: Clone + DeserializeOwned + Debug + Into<CaObject>>(
    api: &Api<K>,
    name: &str,
) -> Result<Option<CaObject>, kube::Error> {
    Ok(api.get_opt(name).await?.map(Into::into))
}

fn unlisted(plural: &str, error: &kube::Error) -> anyhow::Error {
    anyhow!("{plural} can't be listed: {}", told(error))
}

fn told(error: &kube::Error) -> String {
    let cure = match error {
        kube::Error::Api(status) if status.code == 401 => "log in to the cluster again",
        kube::Error::Api(status) if status.code == 403 => {
            "use a context whose user may get and list it, or name one namespace with --namespace"
        }
        _ => "see that the API server is up, and that the kubeconfig names it rightly",
    };
    format!("{}; {cure}", chain(error))
}
