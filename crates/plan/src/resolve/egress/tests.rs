//! Laws of what a NetworkPolicy lets out in the course of a change, walked through as the operator does.

use serde_json::{Value, json};

use super::*;
use crate::crd::RolloutPhase;
use crate::desired::{Desired, Kind, desired};
use crate::fixtures::{but, defaults, job, on_postgres, resolved, settled_cluster_for};
use crate::forecast::forecast;
use crate::names;
use crate::observed::{Child, JobState, SecretKey};
use crate::{Verdict, status};

/// An instance and the cluster in which it is reconciled.
struct World {
    instance: JamInstance,
    cluster: Observed,
    /// The accounts, policies and Deployments that were written.
    writes: Vec<String>,
    /// Whether a pod runs that the Deployments do not count.
    held: bool,
}

/// The instance on PostgreSQL with a NetworkPolicy and these changes, when everything of it runs.
fn world(change: Value) -> World {
    let instance = but(&but(&on_postgres(), json!({"networkPolicy": {}})), change);
    let cluster = settled_cluster_for(&instance);
    let mut world = World { instance, cluster, writes: Vec::new(), held: false };
    world.rest();
    world.writes.clear();
    world
}

/// The ports that a policy among these objects lets through beside those of DNS.
fn ports(objects: &[Desired]) -> Vec<u16> {
    let policy = objects.iter().find(|item| item.object.kind == Kind::NetworkPolicy).unwrap();
    let rules = policy.body["spec"]["egress"].as_array().unwrap();
    let numbers = rules[1]["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap());
    numbers.map(|port| u16::try_from(port).unwrap()).collect()
}

impl World {
    /// One reconcile: what is let through then.
    fn walk(&mut self) -> Vec<u16> {
        self.cluster.at = self.cluster.at.plus_seconds(1);
        let may_go_back = may_go_back(&self.instance, &self.cluster, defaults().progress_deadline);
        self.cluster.lingers = narrows(&self.instance, &self.cluster) && (may_go_back || self.held);
        let resolved = resolved(&self.instance, &self.cluster);
        let objects = desired(&resolved).items;
        for item in objects.iter().filter(|_| !resolved.given_up) {
            self.write(item);
        }
        self.cluster.revisions.extend(resolved.known.iter().cloned());
        let told = status(&self.instance, Verdict::Applied(&resolved), &self.cluster, self.cluster.at);
        self.instance.status = Some(told);
        ports(&objects)
    }

    fn write(&mut self, item: &Desired) {
        if !matches!(item.object.kind, Kind::ServiceAccount | Kind::NetworkPolicy | Kind::Deployment) {
            return;
        }
        let metadata = serde_json::from_value(item.body["metadata"].clone()).unwrap();
        let child = Child::of(item.object.kind, &metadata);
        if self.cluster.children.contains(&child) {
            return;
        }
        self.writes.push(child.object.to_string());
        self.cluster.children.retain(|other| other.object != child.object);
        self.cluster.children.push(child);
        let revision = item.body["metadata"]["annotations"][names::REVISION].as_str();
        let api = self.cluster.api.as_mut().unwrap();
        api.rendered = Some(item.hash.clone());
        if revision.is_some() && api.revision.as_deref() != revision {
            api.revision = revision.map(str::to_owned);
            (api.generation, api.updated, api.deadline_exceeded) = (api.generation + 1, 0, None);
        }
    }

    /// Reconciled until nothing is written: at once, and never again.
    fn rest(&mut self) -> Vec<u16> {
        let first = self.walk();
        let writes = self.writes.len();
        assert_eq!((self.walk(), self.writes.len()), (first.clone(), writes), "there is no end: {:?}", self.writes);
        first
    }

    fn change(&mut self, change: Value) {
        self.instance = but(&self.instance, change);
    }

    fn change_dsn(&mut self, port: u16) {
        self.cluster.dsn = Some(SecretKey::Present { hash: format!("hash-of-{port}") });
        self.cluster.database_port = Some(port);
    }

    fn migrate(&mut self, state: JobState) {
        let job = job(&self.instance, &self.cluster, state);
        self.cluster.migration_jobs.retain(|other| other.name != job.name);
        self.cluster.migration_jobs.push(job);
    }

    /// Every pod is of what was written last.
    fn settle(&mut self) {
        let api = self.cluster.api.as_mut().unwrap();
        (api.observed_generation, api.updated) = (api.generation, api.wanted);
    }

    /// What has settled serves for longer than it may be given up for.
    fn prove(&mut self) {
        self.settle();
        self.walk();
        self.cluster.at = self.cluster.at.plus_seconds(400);
    }

    /// A pod that was ready is not any more, and is again.
    fn lose(&mut self) {
        let api = self.cluster.api.as_mut().unwrap();
        (api.ready, api.available, self.cluster.lapsed) = (api.ready - 1, api.available - 1, Some(self.cluster.at));
        self.walk();
        let api = self.cluster.api.as_mut().unwrap();
        (api.ready, api.available, self.cluster.lapsed) = (api.ready + 1, api.available + 1, None);
        self.walk();
    }

    /// The rollout under way comes to nothing, and what was good is back.
    fn fail(&mut self) {
        let api = self.cluster.api.as_mut().unwrap();
        (api.observed_generation, api.deadline_exceeded) = (api.generation, Some("no progress".into()));
        self.cluster.at = self.cluster.at.plus_seconds(400);
        self.walk();
        self.walk();
        self.settle();
        assert_eq!(self.instance.status.as_ref().unwrap().rollout.as_ref().unwrap().phase, RolloutPhase::RolledBack);
    }

    fn forecast(&self) -> Vec<u16> {
        ports(&forecast(&self.instance, &self.cluster, &defaults()).unwrap().objects)
    }
}

const STORE: &str = "http://minio:9000";
const OTHER: &str = "https://minio:9443";

fn blobs(endpoint: &str) -> Value {
    json!({"blobStore": {"url": "s3://bucket", "endpoint": endpoint}})
}

#[test]
fn a_database_on_another_port_is_reached_beside_the_one_before_until_every_pod_has_moved() {
    for manual in [false, true] {
        let mut world = world(json!({}));
        if manual {
            world.change(json!({"migrations": {"mode": "Manual"}}));
        }
        world.change_dsn(6432);
        assert_eq!(world.rest(), [5432, 6432], "the pods are of before, the migration is not: manual: {manual}");
        if manual {
            let key = world.instance.status.as_ref().unwrap().migration.as_ref().unwrap().key.clone();
            world.instance.metadata.annotations = Some([(names::APPROVE_MIGRATION.to_owned(), key)].into());
        }
        world.migrate(JobState::Running);
        assert_eq!(world.rest(), [5432, 6432], "the migration runs");
        world.migrate(JobState::Complete);
        assert_eq!(world.rest(), [5432, 6432], "the pods are being replaced");
        world.settle();
        assert_eq!(world.rest(), [5432, 6432], "they may still be given up");
        world.prove();
        world.held = true;
        assert_eq!(world.rest(), [5432, 6432], "one of before finishes what it has begun");
        world.held = false;
        assert_eq!(world.rest(), [6432]);
        assert_eq!(world.writes[..2], ["ServiceAccount main", "NetworkPolicy main"], "before any pod is replaced");
        let of = |name: &str| world.writes.iter().filter(|write| *write == name).count();
        let counts = ["ServiceAccount main", "NetworkPolicy main", "Deployment main"].map(of);
        assert_eq!(counts, [2, 2, 1], "opened and closed: {:?}", world.writes);
    }
}

#[test]
fn an_endpoint_on_another_port_is_reached_beside_the_one_before_until_every_pod_has_moved() {
    let mut world = world(blobs(STORE));
    world.change(blobs(OTHER));
    assert_eq!(world.rest(), [5432, 9000, 9443]);
    // Whoever changes it once more has pods of all three.
    world.change(blobs("https://minio"));
    assert_eq!(world.rest(), [443, 5432, 9000, 9443]);
    world.prove();
    assert_eq!(world.rest(), [443, 5432]);
}

#[test]
fn the_good_pods_of_a_rollout_that_was_given_up_reach_what_they_need() {
    let mut world = world(blobs(STORE));
    world.change(blobs(OTHER));
    world.rest();
    world.fail();
    assert_eq!(world.rest(), [5432, 9000, 9443]);
    assert_eq!(world.forecast(), [5432, 9000, 9443], "a plan says that nothing changes");
    world.change(blobs("https://minio"));
    assert_eq!(world.rest(), [443, 5432, 9000, 9443]);
    world.prove();
    assert_eq!(world.rest(), [443, 5432]);
}

#[test]
fn pods_that_come_back_after_a_rollout_that_had_settled_reach_what_they_need() {
    let mut world = world(blobs(STORE));
    world.change(blobs(OTHER));
    world.rest();
    world.settle();
    world.rest();
    // Its database is not only just there.
    world.cluster.at = world.cluster.at.plus_seconds(100);
    for _ in 0..3 {
        world.lose();
    }
    let told = world.instance.status.clone().unwrap().rollout.unwrap();
    assert_eq!(told.phase, RolloutPhase::RolledBack, "{told:?}");
    world.settle();
    assert_eq!(world.rest(), [5432, 9000, 9443]);
}

#[test]
fn a_port_that_no_pod_needs_any_more_is_closed_as_soon_as_every_pod_is_there() {
    let mut world = world(json!({"networkPolicy": {"egressPorts": [7000]}}));
    world.cluster.api.as_mut().unwrap().available = 1;
    world.change(json!({"networkPolicy": {"egressPorts": null}}));
    assert_eq!(world.rest(), [5432, 7000], "a pod that is missing may be of anything");
    world.cluster.api.as_mut().unwrap().available = 2;
    world.cluster.worker = Some(DeploymentState::default());
    assert_eq!(world.rest(), [5432, 7000], "nor are workers gone that nobody wants any more");
    world.cluster.worker = None;
    assert_eq!(world.rest(), [5432]);
    let narrowed = narrows(&world.instance, &world.cluster);
    world.change(json!({"networkPolicy": {"egressPorts": [8000]}}));
    let widened = narrows(&world.instance, &world.cluster);
    world.rest();
    world.change(json!({"networkPolicy": {"egressPorts": null}}));
    assert_eq!(
        (narrowed, widened, narrows(&world.instance, &world.cluster)),
        (false, false, true),
        "pods are counted then"
    );
}

#[test]
fn a_policy_that_a_hand_deletes_or_that_comes_in_the_middle_of_a_change_lets_the_same_through() {
    let mut world = world(blobs(STORE));
    world.change(blobs(OTHER));
    world.rest();
    world.cluster.children.retain(|child| child.object.kind != Kind::NetworkPolicy);
    assert_eq!(world.rest(), [5432, 9000, 9443], "the account remembers");
    world.cluster.children.retain(|child| child.object.kind != Kind::ServiceAccount);
    assert_eq!(world.rest(), [5432, 9000, 9443], "and it remembers");
    for child in &mut world.cluster.children {
        child.controller = Some("another".into());
    }
    assert_eq!(world.walk(), [5432, 9443], "what is not ours says nothing of our pods");
}

#[test]
fn a_plan_shows_what_is_let_through_when_the_pods_have_come_to_rest() {
    let mut world = world(json!({}));
    world.change_dsn(6432);
    assert_eq!(world.forecast(), [6432], "the migration runs by itself, and the pods follow");
    world.change(json!({"migrations": {"mode": "Manual"}}));
    assert_eq!(world.forecast(), [5432, 6432], "they wait for somebody");
    world.change(json!({"migrations": {"mode": "Auto"}}));
    world.rest();
    world.migrate(JobState::Complete);
    world.rest();
    world.prove();
    world.held = true;
    assert_eq!((world.rest(), world.forecast()), (vec![5432, 6432], vec![6432]), "nothing lingers for ever");
}

#[test]
fn what_is_annotated_is_read_back_and_what_is_no_port_is_not() {
    let egress = Egress { needs: BTreeSet::new(), open: [9000, 443].into() };
    assert_eq!((egress.written(), ports_in(&egress.written())), ("443,9000".into(), egress.open));
    assert_eq!(ports_in("0,443,70000,-1,x,,"), [443].into());
}

#[test]
fn a_dsns_port_is_found_wherever_it_stands() {
    for (url, port) in [
        ("postgres://jam:p%40ss@db:6432/jam?sslmode=require", Some(6432)),
        ("postgresql://db/jam", Some(5432)),
        ("postgres://u:p@[fd00::1]/jam", Some(5432)),
        ("postgres://u:p@[fd00::1]:7000/jam", Some(7000)),
        ("postgres:///jam?host=db&port=7001", Some(7001)),
        ("postgres://u:p@db:many/jam", None),
        ("http://otel:4317", Some(4317)),
        ("https://otel", Some(443)),
        ("host=db", None),
    ] {
        assert_eq!(port_of_url(url), port, "{url}");
    }
}
