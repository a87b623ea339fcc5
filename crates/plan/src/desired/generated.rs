//! Laws over generated instances: nothing panics, names fit, hashes tell apart exactly what differs.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::crd::JamInstance;
use crate::fixtures::{but, cluster_for, defaults, instance, settled_cluster_for};

prop_compose! {
    fn consumers()(names in proptest::collection::btree_set("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", 1..4)) -> Value {
        names.into_iter().map(|name| json!({"name": name})).collect()
    }
}

prop_compose! {
    /// Specs that the schema accepts, of both stores.
    fn specs()(
        postgres in any::<bool>(),
        enabled in any::<Option<bool>>(),
        replicas in 0..=20_i32,
        workers in 0..=5_i32,
        rate in proptest::option::of(0..10_000_u32),
        consumers in proptest::option::of(consumers()),
        port in 1..=65_535_i32,
        autoscaled in any::<bool>(),
        exposed in any::<bool>(),
        watched in any::<bool>(),
        deleting in any::<bool>(),
    ) -> JamInstance {
        let jam = json!({"store": if postgres { "postgres" } else { "memory" }});
        let mut one = instance(json!({
            "runtime": {"jam": jam},
            "replicas": if postgres { replicas } else { replicas.min(1) },
            "workers": {"replicas": if postgres { workers } else { 0 }},
            "service": {"port": port},
            "deletionPolicy": if deleting { "Delete" } else { "Retain" },
        }));
        let mut set = |wanted: bool, change: Value| if wanted { one = but(&one, change) };
        set(enabled.is_some(), json!({"runtime": {"jam": {"enabled": enabled}}}));
        set(rate.is_some(), json!({"runtime": {"jam": {"rateLimitPerMinute": rate}}}));
        set(consumers.is_some(), json!({"tokens": {"consumers": consumers}}));
        set(postgres, json!({"database": {"dsnSecretRef": {"name": "db"}}}));
        set(postgres && autoscaled, json!({"autoscaling": {"maxReplicas": 9}}));
        set(exposed, json!({"ingress": {"enabled": true, "host": "a.example"}, "networkPolicy": {}}));
        let monitoring = json!({"serviceMonitor": true, "prometheusRule": true, "dashboard": true});
        let route = json!({"enabled": true, "parentRefs": [{"name": "g"}]});
        set(watched, json!({"monitoring": monitoring, "httpRoute": route, "cleanup": {}}));
        one
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_accepted_instance_has_its_objects(one in specs()) {
        for cluster in [cluster_for(&one), settled_cluster_for(&one)] {
            let objects = desired(&crate::resolve(&one, &cluster, &defaults()).expect("the schema accepts it"));
            let mut seen = std::collections::BTreeSet::new();
            for item in &objects.items {
                prop_assert!(seen.insert(item.object.clone()), "{} is wanted twice", item.object);
                let longest = if item.object.kind == Kind::Secret { 253 } else { 63 };
                prop_assert!(item.object.name.len() <= longest);
            }
            prop_assert!(objects.items.iter().map(|item| item.object.kind).is_sorted(), "not in the written order");
        }
    }

    #[test]
    fn hashes_are_equal_exactly_when_objects_are(one in specs(), other in specs()) {
        let all = |instance: &JamInstance| desired(&crate::resolve(instance, &settled_cluster_for(instance), &defaults()).unwrap()).items;
        for (one, other) in all(&one).iter().flat_map(|a| all(&other).into_iter().map(move |b| (a.clone(), b))) {
            prop_assert_eq!(one.hash == other.hash, one.body == other.body);
        }
    }
}
