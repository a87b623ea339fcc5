//! `jam-operator run`: wait for the resource, win the lease, watch, reconcile, stop in order.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use futures::future::{join_all, select_all};
use jam_plan::Defaults;
use jam_plan::names::FIELD_MANAGER;
use kube::runtime::applier;
use kube::runtime::controller::{Config as ControllerConfig, Error as ControllerError};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::args::{Namespaces, RunArgs};
use super::client::{Ledger, connect};
use super::context::Context;
use super::health::{Engine, Health, serve};
use super::instruments::Instruments;
use super::key::Key;
use super::lease::{Candidate, Leadership};
use super::queue::{Queue, requests};
use super::reconcile::{Guarded, reconcile, retry};
use super::watch::chain;
use super::watches::{self, Sight, Watch};
use super::{check, error::Error, resource};

/// What the API server's audit log knows this program by.
const USER_AGENT: &str = concat!("jam-operator/", env!("CARGO_PKG_VERSION"));
/// How long reconciles that run may take to end after the stop signal.
const GRACE: Duration = Duration::from_secs(20);

/// Why the program ends, or cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no way to an API server.
    #[error("no Kubernetes API server is configured")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The client cannot be built.
    #[error("the client of the Kubernetes API cannot be built")]
    Client(#[source] kube::Error),
    /// The client that asks pods cannot be built.
    #[error("the HTTP client cannot be built")]
    Http(#[source] reqwest::Error),
    /// The health port cannot be had.
    #[error("{0} cannot be listened on")]
    Listen(std::net::SocketAddr, #[source] std::io::Error),
    /// Another replica leads now; a new process starts from nothing.
    #[error("the lease is lost")]
    LeaseLost,
}

impl Failure {
    /// The failure with its causes, for a person.
    pub fn told(&self) -> String {
        chain(self)
    }
}

/// A program that is ready to run.
pub struct Program {
    client: Client,
    candidate: Option<Candidate>,
    leadership: Leadership,
    ledger: Arc<Ledger>,
    listener: TcpListener,
    namespaces: Namespaces,
    defaults: Defaults,
    identity: String,
    concurrency: u16,
}

impl Program {
    /// Reads the configuration, opens the health port; asks nothing of the API server yet.
    pub async fn prepare(args: &RunArgs) -> Result<Self, Failure> {
        let config = Config::infer().await.map_err(Failure::NoCluster)?;
        let address = args.health_listen;
        let listener = TcpListener::bind(address).await.map_err(|error| Failure::Listen(address, error))?;
        Self::with(args, config, listener)
    }

    /// The same with a given way to the API server and an open port.
    pub fn with(args: &RunArgs, mut config: Config, listener: TcpListener) -> Result<Self, Failure> {
        config.headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
        let own = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let identity = args.identity.clone().unwrap_or_else(host_name);
        let ledger = Arc::new(Ledger::default());
        let leadership = if args.leader_election { Leadership::none() } else { Leadership::sole() };
        let candidate = if args.leader_election {
            let client = connect(config.clone(), &ledger, None).map_err(Failure::Client)?;
            Some(Candidate::new(client, &own, &args.lease_name, &identity, leadership.clone()))
        } else {
            None
        };
        let client = connect(config, &ledger, Some(&leadership)).map_err(Failure::Client)?;
        Ok(Self {
            client,
            candidate,
            leadership,
            ledger,
            listener,
            namespaces: args.namespaces(&own),
            defaults: Defaults {
                operator_namespace: Some(own.clone()),
                ..args.image.defaults(&args.rollout, &args.rotation)
            },
            identity,
            concurrency: args.concurrency,
        })
    }

    /// Runs until `stop`, or until the lease is lost.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { client, mut candidate, leadership, ledger, listener, namespaces, defaults, identity, concurrency } =
            self;
        let http = check::client().map_err(Failure::Http)?;
        let health = Health::new(ledger, leadership);
        let end = CancellationToken::new();
        let health_port = tokio::spawn(serve(listener, Arc::clone(&health), end.clone()));
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(identity) };
        let (queue, out) = Queue::new();
        let instruments = Instruments::new(queue, Recorder::new(client.clone(), reporter), http);
        let sight = Sight::new(Arc::default(), Arc::default(), Arc::new(instruments));
        let work = Work { client, namespaces, defaults, concurrency, sight: Arc::new(sight) };
        let ended = lead(work, out, &mut candidate, &health, &stop).await;
        health.stopping();
        if let Some(candidate) = &mut candidate {
            candidate.release().await;
        }
        end.cancel();
        if let Ok(Err(error)) = health_port.await {
            tracing::warn!(%error, "the health port was closed");
        }
        tracing::info!("stopped");
        ended
    }
}

/// Waits for the resource and for the lease, then works until `stop` or until the lease is lost.
async fn lead(
    work: Work,
    out: UnboundedReceiver<Key>,
    candidate: &mut Option<Candidate>,
    health: &Health,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    if !resource::wait(&work.client, health, stop).await {
        return Ok(());
    }
    let Some(candidate) = candidate else {
        work.go(out, health, stop).await;
        return Ok(());
    };
    health.standing_by();
    if !candidate.win(stop).await {
        return Ok(());
    }
    tokio::select! {
        () = work.go(out, health, stop) => Ok(()),
        () = candidate.keep() => Err(Failure::LeaseLost),
    }
}

/// What the leader does.
struct Work {
    client: Client,
    namespaces: Namespaces,
    defaults: Defaults,
    concurrency: u16,
    sight: Arc<Sight>,
}

impl Work {
    /// Watches and reconciles until `stop`, then lets what runs come to its end.
    async fn go(self, out: UnboundedReceiver<Key>, health: &Health, stop: &CancellationToken) {
        let sight = self.sight;
        let (pulses, following) = watches::all(&self.client, &self.namespaces, &sight);
        let engine = Engine {
            pulses: pulses.concat(),
            instruments: Arc::clone(&sight.instruments),
            instances: sight.store.clone(),
            children: Arc::clone(&sight.children),
        };
        health.running(Arc::new(engine));
        let context = Arc::new(Context {
            client: self.client,
            defaults: self.defaults,
            instances: sight.store.clone(),
            children: Arc::clone(&sight.children),
            memory: Arc::clone(&sight.memory),
            instruments: Arc::clone(&sight.instruments),
        });
        let following = tokio::spawn(follow_all(following));
        // Of a namespace that comes later, or never, no instance is known before all else there is.
        let any = pulses.iter().map(|row| Box::pin(join_all(row.iter().map(|pulse| pulse.listed()))));
        tokio::select! {
            _ = select_all(any) => {
                tracing::info!(instances = sight.store.len(), children = sight.children.count(), "reconciling");
                reconcile_all(context, &sight, out, self.concurrency, stop).await;
            }
            () = stop.cancelled() => {}
        }
        following.abort();
    }
}

/// Polls every watch in a task of its own: a slow one holds up none of the others.
async fn follow_all(following: Vec<Watch>) {
    let mut tasks = tokio::task::JoinSet::new();
    for watch in following {
        tasks.spawn(watch);
    }
    while tasks.join_next().await.is_some() {}
}

async fn reconcile_all(
    context: Arc<Context>,
    sight: &Sight,
    out: UnboundedReceiver<Key>,
    concurrency: u16,
    stop: &CancellationToken,
) {
    // The queue cannot fail: the watches keep their errors to themselves, so no pause is shared between them.
    let queue = requests(out, |key| key.reference::<Guarded>()).take_until(stop.clone().cancelled_owned());
    let runner = applier(
        |instance, context| Box::pin(reconcile(instance, context)),
        |instance, error, context| retry(&instance, error, &context),
        Arc::clone(&context),
        sight.store.clone(),
        queue,
        ControllerConfig::default().concurrency(concurrency),
    );
    let forced = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let mut runner = std::pin::pin!(runner.take_until(forced));
    while let Some(ended) = runner.next().await {
        done(sight, ended);
    }
}

/// What is left to do when a reconcile ended: errors were logged and counted where they happened.
fn done<T>(sight: &Sight, ended: Result<T, ControllerError<Error, std::convert::Infallible>>) {
    match ended {
        Ok(_) | Err(ControllerError::ReconcilerFailed(..) | ControllerError::QueueError(_)) => {}
        // Deleted between the call and the reconcile.
        Err(ControllerError::ObjectNotFound(reference)) => {
            sight.instruments.queue.begun(&Key::of_reference(&*reference));
        }
        Err(ControllerError::RunnerError(error)) => tracing::error!(error = chain(&error), "the queue is broken"),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { format!("jam-operator-{}", uuid::Uuid::new_v4().simple()) } else { name.to_owned() }
}
