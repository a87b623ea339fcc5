//! The rights and the resource: one table, and the chart and install.yaml say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jam::operator::rbac::{self, Scope};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every right as group, resource, name and verb.
fn spread(rules: &[PolicyRule]) -> BTreeSet<[String; 4]> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for (group, resource) in rule.api_groups.iter().flatten().zip(rule.resources.iter().flatten().cycle()) {
            let names = rule.resource_names.clone().unwrap_or_else(|| vec![String::new()]);
            for (name, verb) in names.iter().flat_map(|name| rule.verbs.iter().map(move |verb| (name, verb))) {
                rights.insert([group.clone(), resource.clone(), name.clone(), verb.clone()]);
            }
        }
    }
    rights
}

fn of_table(scopes: &[Scope]) -> BTreeSet<[String; 4]> {
    let rights = rbac::table().into_iter().filter(|right| scopes.contains(&right.scope));
    let rules = rights.map(|right| PolicyRule {
        api_groups: Some(vec![right.group.into()]),
        resources: Some(vec![right.resource.into()]),
        resource_names: (!right.names.is_empty()).then(|| right.names.iter().map(|name| (*name).into()).collect()),
        verbs: right.verbs.iter().map(|verb| (*verb).into()).collect(),
        non_resource_urls: None,
    });
    spread(&rules.collect::<Vec<_>>())
}

#[test]
fn the_charts_rules_are_the_tables() {
    for (file, scope) in [("watched", Scope::Watched), ("own", Scope::Own), ("cluster", Scope::Cluster)] {
        let path = format!("charts/jam-operator/files/rules-{file}.yaml");
        assert_eq!(read(&path), rbac::rules(scope), "{path} is old: run `make generate`");
    }
}

#[test]
fn install_yaml_gives_the_tables_rights_and_no_others() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&read("manifests/install.yaml")).unwrap();
    let of = |kind: &str| {
        let found = documents.iter().filter(|document| document["kind"] == kind);
        let rules = found.flat_map(|role| serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).unwrap());
        spread(&rules.collect::<Vec<_>>())
    };
    assert_eq!(of("ClusterRole"), of_table(&[Scope::Watched, Scope::Cluster]));
    assert_eq!(of("Role"), of_table(&[Scope::Own]));
}

#[test]
fn the_chart_carries_the_generated_resource_and_keeps_it() {
    let chart = read("charts/jam-operator/files/crd.yaml");
    let kept = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n";
    assert_eq!(chart.replacen(kept, "metadata:\n", 1), read("crds/jaminstances.jam.network.yaml"));
    assert!(chart.contains(kept));
}
