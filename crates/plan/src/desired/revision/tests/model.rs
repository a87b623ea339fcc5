//! Any sequence of what people and clusters do to a rollout: what is promised of it holds, and it comes to its end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::crd::{JamInstanceStatus, RolloutStatus};
use crate::reason::Refusal;
use crate::rollout::without_toggle;

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// The operator looks, and writes.
    Walk,
    /// It does, and dies before it has said so.
    Dies,
    /// So many seconds pass, in which the operator looks as often as it does where a rollout is under way.
    Wait(i64),
    /// So many seconds pass in which it does not look.
    Away(i64),
    /// The spec gets this version of the pods.
    Spec(&'static str),
    /// JAM is turned off or on.
    Toggle,
    /// A newer operator comes, which renders differently.
    Upgrade,
    /// Another password.
    Password,
    /// A child beside the pods cannot be written from now on, or can again.
    Beside(u8),
}

/// What crashes after it has served for a moment is left by hand, and before what was before it is ready something else is tried.
const RETURN: &[Deed] = &[
    Deed::Spec("good"),
    Deed::Wait(20),
    Deed::Spec("late"),
    Deed::Wait(90),
    Deed::Spec("good"),
    Deed::Walk,
    Deed::Spec("bad"),
];

/// The same crashes while the operator is away, until its trial is over.
const UNSEEN: &[Deed] = &[Deed::Spec("good"), Deed::Wait(20), Deed::Spec("late"), Deed::Wait(30), Deed::Away(310)];

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let spec = prop::sample::select(vec!["good", "better", "bad", "worse", "late"]).prop_map(Deed::Spec);
    let deed = prop_oneof![
        4 => Just(Deed::Walk),
        1 => Just(Deed::Dies),
        3 => prop::sample::select(vec![10, 20, 70, 310]).prop_map(Deed::Wait),
        3 => spec,
        2 => Just(Deed::Toggle),
        1 => prop::sample::select(vec![50, 310]).prop_map(Deed::Away),
        1 => Just(Deed::Upgrade),
        1 => Just(Deed::Password),
        1 => (0..3_u8).prop_map(Deed::Beside),
    ];
    let story = prop::sample::select(vec![RETURN, UNSEEN]).prop_map(<[Deed]>::to_vec);
    let some = prop_oneof![12 => deed.prop_map(|deed| vec![deed]), 1 => story];
    prop::collection::vec(some, 1..24).prop_map(|all| all.concat())
}

struct World {
    instance: JamInstance,
    cluster: Observed,
    defaults: Defaults,
    beside: u8,
    /// Every revision that was ever stored, by its name.
    stored: BTreeMap<String, Revision>,
    /// Since when the Deployment is of its revision.
    since: i64,
    /// Whether pods of a revision before it serve as long as its own do not.
    covered: bool,
    now: i64,
    /// Whether anybody has asked for other pods since they were last as wanted.
    asked: bool,
    /// What was given up: the hash of its spec without the toggle.
    given_up: Option<String>,
    /// The versions that the operator has seen crash after they had served, until they are made again.
    crashed: BTreeSet<String>,
}

/// The version of the pods of a revision.
fn version(revision: &Revision) -> &str {
    revision
        .api
        .pointer("/spec/containers/0/env")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|variable| variable["name"] == "VERSION")
        .and_then(|variable| variable["value"].as_str())
        .unwrap_or_default()
}

impl World {
    fn new() -> Self {
        let instance = but(&on_postgres(), json!({"podTemplate": {"env": [{"name": "VERSION", "value": "good"}]}}));
        let cluster = Observed { ..crate::fixtures::cluster_for(&instance) };
        Self {
            instance,
            cluster,
            defaults: defaults(),
            beside: 0,
            stored: BTreeMap::new(),
            since: 0,
            covered: false,
            now: 1000,
            asked: true,
            given_up: None,
            crashed: BTreeSet::new(),
        }
    }

    fn deployed(&self) -> Option<&Revision> {
        self.stored.get(self.cluster.api.as_ref()?.revision.as_deref()?)
    }

    /// What the Deployment says by now.
    fn look(&mut self) {
        self.cluster.at = at(self.now);
        let Some(deployed) = self.deployed().cloned() else { return };
        let (age, version) = (self.now - self.since, version(&deployed));
        let serves = match version {
            "bad" | "worse" => false,
            "late" => (10..60).contains(&age),
            _ => age >= 10,
        };
        let fell = version == "late" && age >= 60;
        if serves || fell {
            self.covered = false;
        }
        let api = self.cluster.api.as_mut().unwrap();
        (api.rolled_out, api.deadline_exceeded) = (serves || fell, None);
        let old = if self.covered { 2 } else { 0 };
        (api.replicas, api.updated) = if old > 0 { (3, 1) } else { (2, 2) };
        (api.ready, api.available) = if serves { (2, 2) } else { (old, old) };
        if !serves && !fell && age >= 300 {
            api.deadline_exceeded = Some("it has timed out progressing".into());
        }
        self.cluster.lapsed = fell.then(|| at(self.since + 60));
        self.cluster.trouble = (!serves && age >= 5).then(|| "pod main-1: CrashLoopBackOff".into());
    }

    /// Another spec, where these changes make one.
    fn change(&mut self, changes: Value) {
        let before = self.instance.spec.clone();
        let next = but(&self.instance, changes);
        if next.spec != before {
            let generation = self.instance.metadata.generation.unwrap() + 1;
            self.instance = next;
            self.instance.metadata.generation = Some(generation);
            self.asked = true;
        }
    }

    /// As a reconcile does: what is lacking is read, twice, and some of it was never stored.
    fn resolve(&mut self) -> crate::Resolved {
        self.cluster.revisions.clear();
        for _ in 0..2 {
            let resolved = resolve(&self.instance, &self.cluster, &self.defaults).unwrap();
            if resolved.lacks.is_empty() {
                return resolved;
            }
            let found = resolved.lacks.iter().filter_map(|name| self.stored.get(name)).cloned();
            self.cluster.revisions.extend(found);
        }
        resolve(&self.instance, &self.cluster, &self.defaults).unwrap()
    }

    fn walk(&mut self, is_told: bool) {
        self.look();
        self.cluster.adoptable = None;
        let resolved = self.resolve();
        let asked = self.asked;
        if !resolved.given_up {
            self.apply(&resolved);
        }
        // What nobody has said yet a newer operator renders anew.
        self.asked |= asked && !is_told;
        if is_told {
            let refusal = Refusal::new(Reason::InvalidObject, "Ingress main: bad key");
            let verdict = match self.beside {
                0 => Verdict::Applied(&resolved),
                1 => Verdict::Objected(&resolved, &refusal),
                _ => Verdict::Denied(&resolved, "Service main: exceeded quota"),
            };
            let status = status(&self.instance, verdict, &self.cluster, self.cluster.at);
            self.given_up = status
                .rollout
                .as_ref()
                .filter(|told| told.phase == RolloutPhase::RolledBack)
                .map(|_| without_toggle(&self.instance));
            if self.cluster.lapsed.is_some() {
                self.crashed.extend(self.deployed().map(|deployed| version(deployed).to_owned()));
            }
            self.leads_to_no_crash(self.instance.status.as_ref().and_then(|told| told.rollout.as_ref()), &status);
            self.instance.status = Some(status);
        }
    }

    /// No new way back leads to what has crashed, where there was a better one, or what was wanted before is better.
    fn leads_to_no_crash(&self, before: Option<&RolloutStatus>, now: &JamInstanceStatus) {
        let of = |name: Option<&str>| name.and_then(|name| self.stored.get(name)).map(version);
        let way = |told: &RolloutStatus| told.from.as_ref().and_then(|from| from.revision.clone());
        let (Some(before), Some(now)) = (before, now.rollout.as_ref()) else { return };
        if way(before) == way(now) {
            return;
        }
        let has_crashed = |version: Option<&str>| version.is_none_or(|version| self.crashed.contains(version));
        let better = !has_crashed(of(Some(&before.revision))) || !has_crashed(of(way(before).as_deref()));
        let to = of(way(now).as_deref());
        assert!(!(better && to.is_some() && has_crashed(to)), "back to {to:?} from {before:?}");
    }

    fn apply(&mut self, resolved: &crate::Resolved) {
        if let MigrationStep::Run { job: _ } = &resolved.migration.step {
            let done = job(&self.instance, &self.cluster, JobState::Complete);
            self.cluster.migration_jobs.push(done);
            self.cluster.pod_schema = Some(crate::observed::PodSchema { found: Some(3), wanted: 3 });
        }
        let objects = desired(resolved);
        let record = stored(&objects);
        self.stored.insert(record.name().to_owned(), record);
        let Some(deployment) = objects.items.iter().find(|item| item.object.kind == Kind::Deployment) else { return };
        let name = deployment.body["metadata"]["annotations"][names::REVISION].as_str().unwrap().to_owned();
        if self.cluster.api.as_ref().and_then(|api| api.revision.as_ref()) == Some(&name) {
            self.asked &= !resolved.migration.is_complete();
            return;
        }
        let next = self.stored[&name].clone();
        let back = resolved.course != crate::rollout::Course::Forward;
        assert!(
            self.asked || back,
            "nobody asked for {} in place of {:?}",
            version(&next),
            self.deployed().map(version)
        );
        if self.given_up.as_deref() == Some(without_toggle(&self.instance).as_str()) {
            assert!(back, "{} was given up", version(&next));
        }
        self.crashed.remove(version(&next));
        let serves = self.cluster.api.as_ref().is_some_and(|api| api.ready > 0);
        self.cluster.api = Some(DeploymentState {
            generation: 1,
            observed_generation: 1,
            wanted: 2,
            revision: Some(name),
            image: Some(next.image().to_owned()),
            dsn_hash: Some(next.dsn_hash().to_owned()),
            ..DeploymentState::default()
        });
        (self.since, self.covered) = (self.now, serves);
        self.asked &= !resolved.migration.is_complete();
        self.look();
    }

    fn suffer(&mut self, deed: Deed) {
        match deed {
            Deed::Walk => self.walk(true),
            Deed::Dies => self.walk(false),
            Deed::Wait(seconds) => {
                for _ in 0..seconds / 10 {
                    self.now += 10;
                    self.walk(true);
                }
            }
            Deed::Away(seconds) => self.now += seconds,
            Deed::Spec(version) => {
                self.change(json!({"podTemplate": {"env": [{"name": "VERSION", "value": version}]}}));
            }
            Deed::Toggle => {
                let enabled = self.instance.spec.runtime.jam.enabled != Some(false);
                self.change(json!({"runtime": {"jam": {"enabled": !enabled}}}));
            }
            Deed::Upgrade => {
                let render_revision = self.defaults.render_revision + 1;
                self.defaults = Defaults { render_revision, ..self.defaults.clone() };
            }
            Deed::Password => {
                let other =
                    if self.cluster.dsn == Some(SecretKey::Present { hash: "dsn-hash-2".into() }) { 1 } else { 2 };
                self.cluster.dsn = Some(SecretKey::Present { hash: format!("dsn-hash-{other}") });
                self.asked = true;
            }
            Deed::Beside(what) => self.beside = what,
        }
    }

    /// Where it ends when nobody does anything any more.
    fn settles(&mut self) {
        self.suffer(Deed::Wait(800));
        let before = self.instance.status.clone().unwrap();
        self.suffer(Deed::Wait(10));
        let now = self.instance.status.clone().unwrap();
        assert_eq!(now.rollout, before.rollout, "there it stays");
        let (rollout, deployed) = (now.rollout.unwrap(), self.deployed().unwrap().clone());
        let wanted = self.instance.spec.pod_template.as_ref().unwrap().env[0].value.clone().unwrap();
        let spec_enabled = self.instance.spec.runtime.jam.enabled != Some(false);
        assert_eq!(deployed.enabled(), Some(spec_enabled), "the toggle reaches what serves");
        assert_eq!(Some(deployed.dsn_hash()), self.cluster.dsn.as_ref().unwrap().hash(), "the password as well");
        match (wanted.as_str(), rollout.phase) {
            ("good" | "better", phase) => {
                assert_eq!((phase, version(&deployed)), (RolloutPhase::Serving, wanted.as_str()));
            }
            (_, RolloutPhase::RolledBack) => {
                let good = rollout.from.as_ref().and_then(|good| self.stored.get(good.revision.as_deref()?)).unwrap();
                assert_eq!(version(&deployed), version(good));
            }
            (_, RolloutPhase::Progressing | RolloutPhase::Serving) => {
                let good = rollout.from.as_ref().and_then(|good| self.stored.get(good.revision.as_deref()?));
                let same = good.is_none_or(|good| version(good) == wanted);
                assert!(same, "{wanted} is not given up for {:?}: {:?}", good.map(version), before.conditions[0]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_was_given_up_stays_so_nobody_restarts_pods_unasked_and_a_rollout_comes_to_its_end(deeds in deeds()) {
        let mut world = World::new();
        world.settles();
        for deed in deeds {
            world.suffer(deed);
        }
        world.settles();
    }
}
