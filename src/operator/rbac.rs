//! The rights of the operator: one table, from which the chart's and the manifests' rules are written.

use std::fmt::Write as _;

use jam_plan::Kind;

/// Where a right is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// In every namespace with instances.
    Watched,
    /// In the operator's own namespace.
    Own,
    /// In the cluster.
    Cluster,
}

/// One right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// Where.
    pub scope: Scope,
    /// API group.
    pub group: &'static str,
    /// Plural, with a subresource where one is meant.
    pub resource: &'static str,
    /// Only these objects; empty means every one.
    pub names: &'static [&'static str],
    /// What is done.
    pub verbs: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// Everything the operator does, and nothing else.
pub fn table() -> Vec<Right> {
    let right = |scope, group, resource, verbs, why| Right { scope, group, resource, names: &[], verbs, why };
    let group = jam_plan::crd::GROUP;
    let mut rights = vec![
        right(Scope::Watched, group, "jaminstances", &["get", "list", "watch"][..], "what is wanted"),
        right(Scope::Watched, group, "jaminstances/status", &["patch"], "what is said about it"),
        right(
            Scope::Watched,
            group,
            "jaminstances/finalizers",
            &["update"],
            "asked for by OwnerReferencesPermissionEnforcement when a child names its owner",
        ),
    ];
    for kind in Kind::ALL {
        let (group, _, _, plural) = kind.coordinates();
        rights.push(right(Scope::Watched, group, plural, verbs_of(kind), "children"));
    }
    rights.extend([
        right(
            Scope::Watched,
            "",
            "pods",
            &["list", "patch"],
            "why they are not ready, how a failed migration ended; an annotation tells them to read new token hashes",
        ),
        right(Scope::Watched, "", "pods/log", &["get"], "the last words of pods whose rollout is given up"),
        right(Scope::Watched, "events.k8s.io", "events", &["create", "patch"], "transitions"),
        right(Scope::Own, "coordination.k8s.io", "leases", &["get", "create", "update"], "leader election"),
        Right {
            scope: Scope::Cluster,
            group: "apiextensions.k8s.io",
            resource: "customresourcedefinitions",
            names: &["jaminstances.jam.network"],
            verbs: &["get"],
            why: "whether it is there, and not older than the operator",
        },
    ]);
    rights
}

/// Watched by metadata, read by name, applied and removed. Server-side apply of a new object takes create and patch.
fn verbs_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        // Always wanted while there is the instance: the garbage collector takes it with its owner.
        Kind::ServiceAccount => &["get", "list", "watch", "create", "patch"],
        // Made once and never changed.
        Kind::Job => &["get", "list", "watch", "create", "delete"],
        Kind::ConfigMap
        | Kind::Secret
        | Kind::NetworkPolicy
        | Kind::Service
        | Kind::Deployment
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => &["get", "list", "watch", "create", "patch", "delete"],
    }
}

/// The rules of one scope as the YAML list under `rules:`, each with its reason.
pub fn rules(scope: Scope) -> String {
    let mut text = String::new();
    for Right { scope: _, group, resource, names, verbs, why } in
        table().into_iter().filter(|right| right.scope == scope)
    {
        let names = if names.is_empty() { String::new() } else { format!("  resourceNames: [{}]\n", names.join(", ")) };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# {why}\n- apiGroups: [{}]\n  resources: [{resource}]\n{names}  verbs: [{}]\n",
            if group.is_empty() { "\"\"" } else { group },
            verbs.join(", ")
        );
    }
    text
}

/// The roles for a whole cluster, as documents that can be applied.
pub fn manifest() -> String {
    let role = |kind: &str, name: &str, rules: &str| {
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\nrules:\n{rules}")
    };
    [
        role("ClusterRole", "jam-operator", &(rules(Scope::Watched) + &rules(Scope::Cluster))),
        role("Role", "jam-operator-leader", &rules(Scope::Own)),
    ]
    .join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_right_is_given_twice_and_none_is_a_wildcard() {
        let rights = table();
        for (at, right) in rights.iter().enumerate() {
            assert!(!right.resource.contains('*') && !right.verbs.contains(&"*"));
            let twin = |other: &Right| (other.group, other.resource) == (right.group, right.resource);
            assert!(!rights[..at].iter().any(twin), "{}/{}", right.group, right.resource);
        }
    }

    #[test]
    fn the_rules_are_yaml() {
        let rules: Vec<serde_json::Value> = serde_saphyr::from_str(&rules(Scope::Watched)).unwrap();
        assert_eq!(rules.len(), table().iter().filter(|right| right.scope == Scope::Watched).count());
        assert_eq!(rules[0]["resources"][0], "jaminstances");
    }
}
