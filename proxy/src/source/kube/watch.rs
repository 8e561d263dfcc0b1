//! One resource, listed and watched for as long as somebody wants it.
//!
//! `kube::runtime::watcher` tells objects and errors, but not that the broken watch of a quiet resource goes on again.
//! Readiness must know, so the loop is here. Protocol: "Efficient detection of changes" of Kubernetes' API concepts.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Api;
use kube::Resource as KubeObject;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::watcher::DefaultBackoff;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Resource, WatchFailure};
use crate::policy::ObjectName;

/// How long to wait for the first byte of an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The API server ends a watch after so many seconds; we then start the next.
const WATCH_SECONDS: u32 = 290;

/// A watch that is still silent then is dead.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);

/// A watch that ends earlier is a failure: to start the next at once could go on for ever.
const SHORT: Duration = Duration::from_secs(1);

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// How many signals wait for the reader before the watch does.
const QUEUE: usize = 64;

/// What is to be watched.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) resource: Resource,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
}

impl Query {
    /// Every object.
    pub(super) fn all(resource: Resource) -> Self {
        Self {
            resource,
            labels: None,
            fields: None,
        }
    }
}

/// What happened. Objects of cluster scope have an empty namespace in their name.
#[derive(Debug)]
pub(super) enum Signal<T> {
    /// These are all the objects there are.
    Listed(BTreeMap<ObjectName, T>),
    Applied(ObjectName, T),
    Deleted(ObjectName),
    /// From now on changes come at once.
    Watching,
    /// Changes don't come; it is tried again.
    Failed(WatchFailure),
}

/// The signals of one resource. Dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Feed<T> {
    signals: mpsc::Receiver<Signal<T>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Feed<T> {
    /// Starts to list and watch. `reduce` keeps of an object what is needed; `None` is as if there were no such object.
    pub(super) fn start<K>(api: Api<K>, query: Query, reduce: fn(K) -> Option<T>) -> Self
    where
        K: KubeObject + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (to, signals) = mpsc::channel(QUEUE);
        let watch = Watch {
            api,
            query,
            reduce,
            to,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(watch.run()));
        Self {
            signals,
            _task: task,
        }
    }

    /// The next signal. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Signal<T> {
        match self.signals.recv().await {
            Some(signal) => signal,
            // The task ends only with us.
            None => std::future::pending().await,
        }
    }
}

struct Watch<K, T> {
    api: Api<K>,
    query: Query,
    reduce: fn(K) -> Option<T>,
    to: mpsc::Sender<Signal<T>>,
}

/// Why a watch ended before its time.
enum Stop {
    /// It is too old to go on from: list again (HTTP 410).
    Expired,
    Failed(WatchFailure),
    /// Nobody listens any more.
    Unwanted,
}

impl<K, T> Watch<K, T>
where
    K: KubeObject + Clone + DeserializeOwned + Debug + Send + 'static,
{
    async fn run(self) {
        let mut delays = DefaultBackoff::default();
        let mut version = None;
        loop {
            match self.list_and_watch(&mut version).await {
                Ok(()) => continue,
                Err(Stop::Unwanted) => return,
                Err(Stop::Expired) => version = None,
                Err(Stop::Failed(failure)) => {
                    if self.tell(Signal::Failed(failure)).await.is_err() {
                        return;
                    }
                }
            }
            sleep(delays.next().unwrap_or(SILENCE)).await;
        }
    }

    /// Goes on from `version`, the resourceVersion up to which all was told; with none, lists first.
    async fn list_and_watch(&self, version: &mut Option<String>) -> Result<(), Stop> {
        let from = match version.take() {
            Some(from) => from,
            None => self.list().await?,
        };
        self.watch(version.insert(from)).await
    }

    async fn list(&self) -> Result<String, Stop> {
        let mut params = ListParams {
            label_selector: self.query.labels.clone(),
            field_selector: self.query.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut found = BTreeMap::new();
        loop {
            let page = self.answer(self.api.list(&params)).await?;
            let reduced = page.items.into_iter().filter_map(|object| {
                let name = name(&object);
                (self.reduce)(object).map(|object| (name, object))
            });
            found.extend(reduced);
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.tell(Signal::Listed(found)).await?;
                return self.version_of(page.metadata.resource_version);
            }
        }
    }

    async fn watch(&self, version: &mut String) -> Result<(), Stop> {
        let params = WatchParams {
            label_selector: self.query.labels.clone(),
            field_selector: self.query.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let start = Instant::now();
        let mut events = pin!(self.answer(self.api.watch(&params, version)).await?);
        self.tell(Signal::Watching).await?;
        while let Ok(Some(event)) = timeout(SILENCE, events.next()).await {
            match event.map_err(|error| self.stop(&error))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let next = object.meta().resource_version.clone();
                    let name = name(&object);
                    self.tell(match (self.reduce)(object) {
                        Some(object) => Signal::Applied(name, object),
                        None => Signal::Deleted(name),
                    })
                    .await?;
                    *version = self.version_of(next)?;
                }
                WatchEvent::Deleted(object) => {
                    self.tell(Signal::Deleted(name(&object))).await?;
                    *version = self.version_of(object.meta().resource_version.clone())?;
                }
                WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(self.stop(&kube::Error::Api(status))),
            }
        }
        if start.elapsed() < SHORT {
            return Err(self.unanswered("the watch ended at once"));
        }
        Ok(())
    }

    async fn answer<A>(&self, request: impl Future<Output = kube::Result<A>>) -> Result<A, Stop> {
        match timeout(ANSWER, request).await {
            Ok(answer) => answer.map_err(|error| self.stop(&error)),
            Err(_) => {
                let seconds = ANSWER.as_secs();
                Err(self.unanswered(format!("no answer within {seconds} s")))
            }
        }
    }

    fn version_of(&self, version: Option<String>) -> Result<String, Stop> {
        version
            .filter(|version| !version.is_empty())
            .ok_or_else(|| self.unanswered("an answer without resourceVersion"))
    }

    fn stop(&self, error: &kube::Error) -> Stop {
        match error {
            kube::Error::Api(status) if status.code == 410 => Stop::Expired,
            error => Stop::Failed(WatchFailure::new(self.query.resource, error)),
        }
    }

    fn unanswered(&self, cause: impl Into<String>) -> Stop {
        Stop::Failed(WatchFailure::unanswered(self.query.resource, cause))
    }

    async fn tell(&self, signal: Signal<T>) -> Result<(), Stop> {
        self.to.send(signal).await.map_err(|_| Stop::Unwanted)
    }
}

pub(super) fn name(object: &impl KubeObject) -> ObjectName {
    let meta = object.meta();
    ObjectName::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}
